//! What the repository has of an image, before anything is planned. Knows what to ask
//! the store; writes nothing.

use std::collections::{HashMap, HashSet};

use composefs::fsverity::FsVerityHashValue;

use crate::{
    graph::{Damage, Facts, ImageInput, Inputs, Key, LayerInput, layer_key, tree_key},
    store::{
        Content, Fault, FsImages, Record, Store, StoreError, StoredDocument, StoredImage, StoredLayer,
        StreamName, Tag,
    },
    types::{Digest, LayerKind},
};

/// What was found, with the ids that a plan has no use for.
pub struct Known<H: FsVerityHashValue> {
    pub(super) layers: HashMap<(Digest, LayerKind), KnownLayer<H>>,
    pub(super) configs: HashMap<Digest, StoredDocument<H>>,
    pub(super) manifests: HashMap<Digest, StoredDocument<H>>,
    pub(super) trees: HashMap<Key, FsImages<H>>,
}

/// A layer's link, and its stream if that may be adopted.
pub(super) struct KnownLayer<H> {
    pub(super) link: StreamName,
    pub(super) stream: Option<(H, Content)>,
    /// The link belongs to content of another kind, and stays.
    pub(super) foreign: bool,
}

impl<H> KnownLayer<H> {
    /// A layer of which nothing is stored.
    pub(super) fn missing(name: Digest) -> Self {
        Self { link: StreamName::Layer(name), stream: None, foreign: false }
    }
}

impl<H: FsVerityHashValue> Default for Known<H> {
    fn default() -> Self {
        let (layers, trees) = (HashMap::new(), HashMap::new());
        Self { layers, configs: HashMap::new(), manifests: HashMap::new(), trees }
    }
}

/// Looks up everything that a plan for `inputs` depends on.
///
/// # Errors
/// A repository that cannot be read, or a name that it cannot store.
pub fn look<H: FsVerityHashValue>(
    store: &Store<H>,
    inputs: &Inputs,
) -> Result<(Facts, Known<H>), StoreError> {
    let layers = inputs.images.iter().flat_map(|image| &image.layers);
    let split = layers.filter(|layer| layer.kind != LayerKind::Raw).map(|layer| layer.name).collect();
    let mut looker = Looker { store, inputs, facts: Facts::default(), known: Known::default(), split };
    for image in &inputs.images {
        looker.image(image)?;
    }
    Ok((looker.facts, looker.known))
}

struct Looker<'a, H: FsVerityHashValue> {
    store: &'a Store<H>,
    inputs: &'a Inputs,
    facts: Facts,
    known: Known<H>,
    /// Names of layers that this run stores as tars.
    split: HashSet<Digest>,
}

impl<H: FsVerityHashValue> Looker<'_, H> {
    fn image(&mut self, image: &ImageInput) -> Result<(), StoreError> {
        for layer in &image.layers {
            self.layer(layer)?;
        }
        if let Some(manifest) = self.store.tagged(&Tag::new(&image.name)?)? {
            self.facts.tags.insert(image.name.clone(), manifest);
        }
        if self.known.manifests.contains_key(&image.manifest.0) {
            return Ok(());
        }
        match self.store.image(&image.manifest.0)? {
            StoredImage::Whole(whole) => {
                self.facts.manifests.insert(image.manifest.0, true);
                self.facts.configs.insert((image.config.0, image.config_lists_layers), true);
                self.tree(image, || Some(whole.images.clone()));
                self.known.configs.insert(image.config.0, StoredDocument::Whole(whole.config));
                self.known.manifests.insert(image.manifest.0, StoredDocument::Whole(whole.manifest));
            }
            StoredImage::Outdated(outdated) => {
                self.facts.manifests.insert(image.manifest.0, false);
                self.config(image)?;
                self.known.manifests.insert(image.manifest.0, outdated.manifest);
            }
            StoredImage::Missing => {
                self.config(image)?;
                self.known.manifests.insert(image.manifest.0, StoredDocument::Missing);
            }
        }
        Ok(())
    }

    fn layer(&mut self, layer: &LayerInput) -> Result<(), StoreError> {
        let name = (layer.name, layer.kind);
        if self.known.layers.contains_key(&name) {
            return Ok(());
        }
        let mut known = KnownLayer::missing(layer.name);
        match self.store.layer(&layer.name, layer.kind)? {
            StoredLayer::Missing { name: link } => {
                known.link = link;
                if self.was_made(layer) {
                    self.facts.broken_layers.insert(name, Damage::Missing);
                }
            }
            // What is there is made again, under the same link.
            StoredLayer::Whole { name: link, .. } if self.inputs.force => known.link = link,
            StoredLayer::Whole { name: link, id, content } => {
                self.facts.layers.insert(name);
                (known.link, known.stream) = (link, Some((id, content)));
            }
            StoredLayer::Broken { name: link, fault, .. } => {
                tracing::info!("layer {}: stored, but not whole: {fault}", layer.name);
                let damage = if matches!(fault, Fault::Size(_)) { Damage::Size } else { Damage::Missing };
                self.facts.broken_layers.insert(name, damage);
                known.link = link;
            }
            StoredLayer::Foreign { name: link } => (known.link, known.foreign) = (link, true),
        }
        if self.is_split_too(layer) {
            // An image of this run splits what an artifact stores whole: the image has the name.
            known.link = StreamName::Blob(layer.name);
        }
        self.known.layers.insert(name, known);
        Ok(())
    }

    /// Whether an earlier run made the layer: then something took it away since.
    fn was_made(&self, layer: &LayerInput) -> bool {
        self.store.is_recorded(&layer_key(&self.inputs.repository, layer).hex())
    }

    fn is_split_too(&self, layer: &LayerInput) -> bool {
        layer.kind == LayerKind::Raw && self.split.contains(&layer.name)
    }

    fn config(&mut self, image: &ImageInput) -> Result<(), StoreError> {
        let digest = image.config.0;
        let stored = match self.known.configs.remove(&digest) {
            Some(stored) => stored,
            None => self.store.config(&digest)?,
        };
        let images = match &stored {
            StoredDocument::Whole(document) if image.container => Some(document.images()),
            _ => None,
        };
        let names_layers = match &stored {
            StoredDocument::Whole(document) => image.layers.iter().all(|layer| {
                let known = self.known.layers.get(&(layer.name, layer.kind));
                let linked = known.and_then(|known| known.stream.as_ref()).map(|(id, _)| id);
                linked.is_some() && document.layer(&layer.name) == linked
            }),
            _ => false,
        };
        let names_enough = names_layers || !image.config_lists_layers;
        let complete = match (&images, &stored) {
            (Some(images), _) => names_layers && self.has_images(images)?,
            (None, StoredDocument::Whole(document)) if !image.container => {
                names_enough && self.store.serves_artifacts(&digest, document)?
            }
            _ => false,
        };
        if stored.id().is_some() {
            self.facts.configs.insert((digest, image.config_lists_layers), complete);
        }
        self.known.configs.insert(digest, stored);
        self.tree(image, || images.filter(|_| complete));
        Ok(())
    }

    fn has_images(&self, images: &FsImages<H>) -> Result<bool, StoreError> {
        for format in self.store.formats() {
            match images.get(format) {
                Some(id) if self.store.fs_image_stored(id)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Notes an image's filesystem: as its config names it, or as an earlier run remembers it.
    fn tree(&mut self, image: &ImageInput, named: impl FnOnce() -> Option<FsImages<H>>) {
        if !image.container {
            return;
        }
        let key = tree_key(&self.inputs.repository, image.layers.iter().map(|layer| &layer.name));
        if self.known.trees.contains_key(&key) {
            return;
        }
        let remembered = || remembered_images(self.store, &self.store.remembered(&key.hex())?);
        if let Some(images) = named().or_else(remembered) {
            self.facts.trees.insert(key);
            self.known.trees.insert(key, images);
        }
    }
}

/// The filesystem images of a record: one output for each format of the repository, in their order.
fn remembered_images<H: FsVerityHashValue>(store: &Store<H>, record: &Record) -> Option<FsImages<H>> {
    let formats = store.formats();
    if record.outputs.len() != formats.len() {
        return None;
    }
    let mut images = FsImages::default();
    for (format, output) in formats.into_iter().zip(&record.outputs) {
        images.set(format, H::from_hex(&output.id).ok()?);
    }
    Some(images)
}
