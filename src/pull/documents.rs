//! The config and manifest steps. Knows which references a stored document must have; how a document is
//! written is the store's business.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use composefs::fsverity::FsVerityHashValue;

use super::{context::Context, image::FsBuild, layer::Layer};
use crate::{
    exec::Failure,
    store::{DocumentLink, FsImages, Store, StoredDocument, StreamName},
    types::Digest,
};

/// A config, for all images that have it.
pub(super) struct Config<H: FsVerityHashValue> {
    pub(super) digest: Digest,
    pub(super) json: Arc<[u8]>,
    /// In the order of its `diff_ids`; none for an artifact, since artifacts share configs, unless the config
    /// lists them.
    pub(super) layers: Vec<Arc<Layer<H>>>,
    /// `None` for an artifact.
    pub(super) tree: Option<Arc<FsBuild<H>>>,
    state: Mutex<Linked<H>>,
}

/// A manifest, for all images that have it.
pub(super) struct Manifest<H: FsVerityHashValue> {
    pub(super) digest: Digest,
    pub(super) json: Arc<[u8]>,
    /// In the order of the manifest.
    pub(super) layers: Vec<Arc<Layer<H>>>,
    pub(super) config: Arc<Config<H>>,
    state: Mutex<Linked<H>>,
}

/// What a document's name is linked to, and what it shall be linked to.
struct Linked<H> {
    stored: StoredDocument<H>,
    id: Option<H>,
    /// The layer streams, and for a manifest the config's, that `id` names.
    names: Vec<H>,
}

/// Something that the step before should have left is not there.
#[derive(Debug, thiserror::Error)]
#[error("a step was taken before its time (a defect in this program, please report it)")]
pub(super) struct TooEarly;

impl<H: FsVerityHashValue> Config<H> {
    /// A config of which `stored` is in the repository; `done` if that is as it should be.
    pub(super) fn new(
        document: (Digest, Arc<[u8]>),
        layers: Vec<Arc<Layer<H>>>,
        tree: Option<Arc<FsBuild<H>>>,
        stored: StoredDocument<H>,
        done: bool,
    ) -> Self {
        let id = stored.id().filter(|_| done).cloned();
        let names = layers.iter().filter_map(|layer| layer.id()).collect();
        let state = Mutex::new(Linked { stored, id, names });
        Self { digest: document.0, json: document.1, layers, tree, state }
    }

    /// Completes its stream; nothing is linked yet.
    pub(super) fn write(&self, context: &Context<H>) -> Result<(), Failure> {
        let layers = layer_ids(&self.layers)?;
        let mut state = lock(&self.state);
        let images = match (&self.tree, &state.stored) {
            (Some(tree), _) => tree.images().ok_or(TooEarly)?,
            // An artifact needs the bytes alone, and an image what the stream names.
            (None, StoredDocument::Whole(document))
                if self.layers.iter().all(|layer| document.layer(&layer.name).is_some())
                    && context.store.serves_artifacts(&self.digest, document)? =>
            {
                state.id = Some(document.id.clone());
                return Ok(());
            }
            (None, _) => FsImages::default(),
        };
        let boot = match &state.stored {
            StoredDocument::Whole(document) => document.boot_images(),
            StoredDocument::Missing | StoredDocument::Broken { .. } => Default::default(),
        };
        state.id = Some(context.store.put_config(&self.json, &layers, &images, &boot)?);
        state.names = layers.into_iter().map(|(_, id)| id).collect();
        Ok(())
    }

    /// Makes it anew if one of its layers was adopted since: an id that it named has no link, and what it
    /// keeps alive is lost at the next gc. For an artifact it is asked once more which stream it may have: an
    /// image may have got a name since.
    fn refresh(&self, context: &Context<H>) -> Result<(), Failure> {
        let layers = layer_ids(&self.layers)?;
        let names_them = || lock(&self.state).names.iter().eq(layers.iter().map(|(_, id)| id));
        let fresh = self.tree.is_some() && names_them();
        if fresh { Ok(()) } else { self.write(context) }
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

    /// The links of the other tagged manifests that name this config, if its stream is replaced:
    /// they must name the new one.
    fn dependents(&self, store: &Store<H>, except: &Digest) -> Result<Vec<DocumentLink<H>>, Failure> {
        let Some(link) = self.link() else { return Err(TooEarly.into()) };
        // An artifact replaces no config that an image with a name needs: the commit then says so.
        if self.tree.is_none() && matches!(lock(&self.state).stored, StoredDocument::Whole(_)) {
            return Ok(Vec::new());
        }
        if link.seen.is_none_or(|seen| seen == link.id) {
            return Ok(Vec::new());
        }
        let own: HashMap<_, _> = layer_ids(&self.layers)?.into_iter().collect();
        let mut links = Vec::new();
        for manifest in store.manifests_naming(&self.digest)? {
            if manifest.name == StreamName::Manifest(*except) {
                continue;
            }
            // Images of one config have the same layers. Artifacts share it with anybody.
            let current = |(name, id)| (name, own.get(&name).unwrap_or(&id).clone());
            let layers: Vec<_> = manifest.layers().into_iter().map(current).collect();
            let StreamName::Manifest(digest) = manifest.name else { continue };
            // It was whole a moment ago; what is not has no use of a new link.
            let Some(json) = store.manifest_bytes(&digest)? else { continue };
            let id = store.put_manifest(&json, (&self.digest, &link.id), &layers)?;
            links.push(DocumentLink { name: manifest.name, id, seen: Some(manifest.id) });
        }
        Ok(links)
    }
}

impl<H: FsVerityHashValue> Manifest<H> {
    /// A manifest of which `stored` is in the repository; `done` if that is as it should be.
    pub(super) fn new(
        document: (Digest, Arc<[u8]>),
        layers: Vec<Arc<Layer<H>>>,
        config: Arc<Config<H>>,
        stored: StoredDocument<H>,
        done: bool,
    ) -> Self {
        let id = stored.id().filter(|_| done).cloned();
        let names = config.id().into_iter().chain(layers.iter().filter_map(|layer| layer.id())).collect();
        let state = Mutex::new(Linked { stored, id, names });
        Self { digest: document.0, json: document.1, layers, config, state }
    }

    /// Completes its stream; nothing is linked yet.
    pub(super) fn write(&self, context: &Context<H>) -> Result<(), Failure> {
        let config = self.config.id().ok_or(TooEarly)?;
        let layers = layer_ids(&self.layers)?;
        let id = context.store.put_manifest(&self.json, (&self.config.digest, &config), &layers)?;
        let mut state = lock(&self.state);
        state.id = Some(id);
        state.names = std::iter::once(config).chain(layers.into_iter().map(|(_, id)| id)).collect();
        Ok(())
    }

    /// Makes both documents anew if another image that shares a layer or the config adopted one since.
    fn refresh(&self, context: &Context<H>) -> Result<(), Failure> {
        self.config.refresh(context)?;
        let config = self.config.id().ok_or(TooEarly)?;
        let layers = layer_ids(&self.layers)?;
        let now = std::iter::once(&config).chain(layers.iter().map(|(_, id)| id));
        let fresh = lock(&self.state).names.iter().eq(now);
        if fresh { Ok(()) } else { self.write(context) }
    }

    /// All documents that become visible with this manifest, each after what it names.
    pub(super) fn links(&self, context: &Context<H>) -> Result<Vec<DocumentLink<H>>, Failure> {
        self.refresh(context)?;
        let mut links = vec![self.config.link().ok_or(TooEarly)?];
        links.extend(self.config.dependents(&context.store, &self.digest)?);
        let state = lock(&self.state);
        let (id, seen) = (state.id.clone().ok_or(TooEarly)?, state.stored.id().cloned());
        links.push(DocumentLink { name: StreamName::Manifest(self.digest), id, seen });
        Ok(links)
    }

    /// Looks again at what is linked, because someone else linked something meanwhile, and makes both
    /// documents anew beside it.
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

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::source::Retries;
    use crate::{
        pull::{look::KnownLayer, overcommit::Lane},
        store::{
            AnyStore, Commit, Content, InitOptions, LayerLink, LinkSet, Outcome, Sha512HashValue as H, Tag,
        },
        types::{Budget, LayerKind},
    };

    fn context(dir: &tempfile::TempDir) -> Context<H> {
        let options = InitOptions { insecure: true, ..InitOptions::default() };
        let AnyStore::Sha512(store) = crate::store::init(&dir.path().join("repo"), &options).unwrap().0
        else {
            panic!("cfsctl's default is SHA-512")
        };
        Context {
            limits: Default::default(),
            force: false,
            retries: Retries::default(),
            patience: Default::default(),
            rate_limit: None,
            commit: Commit::start(&store).unwrap(),
            store,
            budget: Budget::new(1 << 20),
            builds: Lane::new(Budget::new(0)),
            windows: Lane::new(Budget::new(0)),
            downloads: Semaphore::new(1),
            hash_first_max: 0,
        }
    }

    fn layer(name: &Digest, id: &H) -> Arc<Layer<H>> {
        let stream = Some((id.clone(), Content::Layer));
        let link = StreamName::Layer(*name);
        let known = KnownLayer { link, stream, foreign: false };
        Arc::new(Layer::new(*name, LayerKind::Tar, &known, 0))
    }

    #[test]
    fn a_layer_that_another_image_adopted_is_named_by_its_new_id() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(&dir);
        let name = Digest::of(b"layer");
        let (ours, theirs) =
            (context.store.put_bytes(b"ours").unwrap(), context.store.put_bytes(b"theirs").unwrap());
        let layer = layer(&name, &ours);
        let config = (Digest::of(b"config"), b"config"[..].into());
        let config = Config::new(config, vec![layer.clone()], None, StoredDocument::Missing, false);
        let json = (Digest::of(b"manifest"), b"manifest"[..].into());
        let manifest =
            Manifest::new(json, vec![layer.clone()], Arc::new(config), StoredDocument::Missing, false);
        manifest.config.write(&context).unwrap();
        manifest.write(&context).unwrap();
        // Another image of the run, which shares the layer, found that it was linked meanwhile.
        layer.set_id(theirs.clone(), Content::Layer);
        let links = manifest.links(&context).unwrap();
        let layers = [(name, theirs)];
        let config =
            context.store.put_config(b"config", &layers, &FsImages::default(), &Default::default()).unwrap();
        assert_eq!(links[0].id, config);
        let manifest =
            context.store.put_manifest(b"manifest", (&Digest::of(b"config"), &config), &layers).unwrap();
        assert_eq!(links[1].id, manifest);
    }

    #[test]
    fn artifacts_keep_their_layers_when_their_common_config_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(&dir);
        let store = &context.store;
        let (blob, config) = (Digest::of(b"blob"), Digest::of(b"{}"));
        let object = store.put_bytes(b"blob").unwrap();
        let stream = store.put_blob_stream(&object, 4).unwrap();
        let layers = [(blob, stream.clone())];
        // As upstream has it: the config of the first artifact names that one's layers.
        let old = store.put_config(b"{}", &layers, &FsImages::default(), &Default::default()).unwrap();
        let json = format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{blob}"}}]}}"#);
        let manifest = Digest::of(json.as_bytes());
        let other = store.put_manifest(json.as_bytes(), (&config, &old), &layers).unwrap();
        let link = |name, id: &H| DocumentLink { name, id: id.clone(), seen: None };
        let set = LinkSet {
            layers: vec![LayerLink {
                name: StreamName::Layer(blob),
                content: Content::Blob,
                id: stream,
                diff_id: None,
            }],
            images: Vec::new(),
            documents: vec![
                link(StreamName::Config(config), &old),
                link(StreamName::Manifest(manifest), &other),
            ],
            tags: vec![(Tag::new("other").unwrap(), manifest)],
        };
        context.commit.submit(set, |result| assert_eq!(result.unwrap(), Outcome::Linked));
        context.commit.finish().unwrap();
        let stored = StoredDocument::Broken { id: old, why: "gone".into() };
        let config_of_ours = Config::<H>::new((config, b"{}"[..].into()), Vec::new(), None, stored, false);
        config_of_ours.write(&context).unwrap();
        let dependents = config_of_ours.dependents(store, &Digest::of(b"ours")).unwrap();
        let new = config_of_ours.id().unwrap();
        let expected = store.put_manifest(json.as_bytes(), (&config, &new), &layers).unwrap();
        assert_eq!(dependents.into_iter().map(|link| link.id).collect::<Vec<_>>(), [expected]);
    }
}
