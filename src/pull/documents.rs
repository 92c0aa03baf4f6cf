//! The config and manifest steps. Knows which references a stored document must have; how a document is
//! written is the store's business.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use composefs::fsverity::FsVerityHashValue;

use super::{context::Context, image::Tree, layer::Layer};
use crate::{
    exec::Failure,
    store::{DocumentLink, FsImages, Store, StoredDocument, StreamName},
    types::Digest,
};

/// A config, for all images that have it.
pub(super) struct Config<H: FsVerityHashValue> {
    pub(super) digest: Digest,
    pub(super) json: Vec<u8>,
    /// In the order of its `diff_ids`; none for an artifact, since artifacts share configs.
    pub(super) layers: Vec<Arc<Layer<H>>>,
    /// `None` for an artifact.
    pub(super) tree: Option<Arc<Tree<H>>>,
    state: Mutex<Linked<H>>,
}

/// A manifest, for all images that have it.
pub(super) struct Manifest<H: FsVerityHashValue> {
    pub(super) digest: Digest,
    pub(super) json: Vec<u8>,
    /// In the order of the manifest.
    pub(super) layers: Vec<Arc<Layer<H>>>,
    pub(super) config: Arc<Config<H>>,
    state: Mutex<Linked<H>>,
}

/// What a document's name is linked to, and what it shall be linked to.
struct Linked<H> {
    stored: StoredDocument<H>,
    id: Option<H>,
}

/// Something that the step before should have left is not there.
#[derive(Debug, thiserror::Error)]
#[error("a step was taken before its time (a defect in this program, please report it)")]
pub(super) struct TooEarly;

impl<H: FsVerityHashValue> Config<H> {
    /// A config of which `stored` is in the repository; `done` if that is as it should be.
    pub(super) fn new(
        document: (Digest, Vec<u8>),
        layers: Vec<Arc<Layer<H>>>,
        tree: Option<Arc<Tree<H>>>,
        stored: StoredDocument<H>,
        done: bool,
    ) -> Self {
        let id = stored.id().filter(|_| done).cloned();
        let state = Mutex::new(Linked { stored, id });
        Self { digest: document.0, json: document.1, layers, tree, state }
    }

    /// Completes its stream; nothing is linked yet.
    pub(super) fn write(&self, context: &Context<H>) -> Result<(), Failure> {
        let images = match &self.tree {
            Some(tree) => tree.images().ok_or(TooEarly)?,
            None => FsImages::default(),
        };
        let layers = layer_ids(&self.layers)?;
        let mut state = lock(&self.state);
        let boot = match &state.stored {
            StoredDocument::Whole(document) => document.boot_images(),
            StoredDocument::Missing | StoredDocument::Broken { .. } => Default::default(),
        };
        state.id = Some(context.store.put_config(&self.json, &layers, &images, &boot)?);
        Ok(())
    }

    /// Its stream, once it is complete.
    pub(super) fn id(&self) -> Option<H> {
        lock(&self.state).id.clone()
    }

    /// The link to ask for.
    fn link(&self) -> Option<DocumentLink<H>> {
        let state = lock(&self.state);
        let (id, seen) = (state.id.clone()?, state.stored.id().cloned());
        Some(DocumentLink { name: StreamName::Config(self.digest), id, seen })
    }

    /// The links of the other tagged manifests that name this config, if its stream is replaced: they must name
    /// the new one.
    fn dependents(&self, store: &Store<H>, except: &Digest) -> Result<Vec<DocumentLink<H>>, Failure> {
        let Some(link) = self.link() else { return Err(TooEarly.into()) };
        if link.seen.is_none_or(|seen| seen == link.id) {
            return Ok(Vec::new());
        }
        let layers = layer_ids(&self.layers)?;
        let mut links = Vec::new();
        for manifest in store.manifests_naming(&self.digest, except)? {
            let id = store.put_manifest(&manifest.json, (&self.digest, &link.id), &layers)?;
            links.push(DocumentLink { name: manifest.name, id, seen: Some(manifest.id) });
        }
        Ok(links)
    }
}

impl<H: FsVerityHashValue> Manifest<H> {
    /// A manifest of which `stored` is in the repository; `done` if that is as it should be.
    pub(super) fn new(
        document: (Digest, Vec<u8>),
        layers: Vec<Arc<Layer<H>>>,
        config: Arc<Config<H>>,
        stored: StoredDocument<H>,
        done: bool,
    ) -> Self {
        let id = stored.id().filter(|_| done).cloned();
        let state = Mutex::new(Linked { stored, id });
        Self { digest: document.0, json: document.1, layers, config, state }
    }

    /// Completes its stream; nothing is linked yet.
    pub(super) fn write(&self, context: &Context<H>) -> Result<(), Failure> {
        let config = self.config.id().ok_or(TooEarly)?;
        let layers = layer_ids(&self.layers)?;
        let id = context.store.put_manifest(&self.json, (&self.config.digest, &config), &layers)?;
        lock(&self.state).id = Some(id);
        Ok(())
    }

    /// All documents that become visible with this manifest, each after what it names.
    pub(super) fn links(&self, store: &Store<H>) -> Result<Vec<DocumentLink<H>>, Failure> {
        let mut links = vec![self.config.link().ok_or(TooEarly)?];
        links.extend(self.config.dependents(store, &self.digest)?);
        let state = lock(&self.state);
        let (id, seen) = (state.id.clone().ok_or(TooEarly)?, state.stored.id().cloned());
        links.push(DocumentLink { name: StreamName::Manifest(self.digest), id, seen });
        Ok(links)
    }

    /// Looks again at what is linked, because someone else linked something meanwhile, and makes both documents
    /// anew beside it.
    pub(super) fn rewrite(&self, context: &Context<H>) -> Result<(), Failure> {
        lock(&self.config.state).stored = context.store.config(&self.config.digest)?;
        lock(&self.state).stored = context.store.manifest(&self.digest)?;
        self.config.write(context)?;
        self.write(context)
    }
}

fn layer_ids<H: FsVerityHashValue>(layers: &[Arc<Layer<H>>]) -> Result<Vec<(Digest, H)>, TooEarly> {
    layers.iter().map(|layer| layer.id().map(|id| (layer.name, id)).ok_or(TooEarly)).collect()
}

fn lock<H>(state: &Mutex<Linked<H>>) -> MutexGuard<'_, Linked<H>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
