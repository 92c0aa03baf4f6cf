//! Whether an image is stored, whole, as this repository wants it. Knows manifests, configs and what they
//! must name; ignores how images get here.
//!
//! A manifest's stream id says nothing, because upstream's varies. What counts is that everything it names is
//! linked under the same id: gc follows ids, and only as far as links point to them.

use std::{collections::HashSet, fmt};

use composefs::fsverity::{FsVerityHashValue, measure_verity_with_fallback};
use rustix::fs::{FileType, Stat};
use serde::Deserialize;

use super::{
    Document, FormatVersion, FsImages, Store, StoreError, StoredDocument, StoredLayer, StreamName, Tag,
};
use crate::types::{Digest, LayerKind, is_container_image, lists_layers};

/// What is stored of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredImage<H> {
    /// No manifest.
    Missing,
    /// A manifest that needs work.
    Outdated(OutdatedImage<H>),
    /// Everything, as it should be.
    Whole(Image<H>),
}

/// An image of which nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<H> {
    /// The manifest.
    pub manifest: Document<H>,
    /// The config, which the manifest names.
    pub config: Document<H>,
    /// The config's digest.
    pub config_digest: Digest,
    /// Its layers in order: `diff_id`s, or blob digests of an artifact.
    pub layers: Vec<(Digest, H)>,
    /// Its filesystem images; none for an artifact.
    pub images: FsImages<H>,
}

/// What is left of an image, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutdatedImage<H> {
    /// The first thing found to be wrong.
    pub why: Outdated,
    /// The manifest.
    pub manifest: StoredDocument<H>,
    /// The config that is linked now; `Missing` also if the manifest cannot be read.
    pub config: StoredDocument<H>,
}

/// The documents of an image that has a name here and of which nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedImage {
    /// The manifest's digest.
    pub manifest_digest: Digest,
    /// Its very bytes.
    pub manifest: Vec<u8>,
    /// The config's digest.
    pub config_digest: Digest,
    /// Its very bytes.
    pub config: Vec<u8>,
}

/// Why a stored image is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outdated {
    /// The manifest's stream is broken or no manifest.
    ManifestBroken(String),
    /// The config has no link.
    ConfigMissing,
    /// The config's stream is broken or no config.
    ConfigBroken(String),
    /// The manifest names another config stream than the one that is linked.
    ConfigReplaced,
    /// The manifest or the config does not name this layer, or names another stream than the one linked.
    LayerReplaced(Digest),
    /// A layer's link is missing, its stream or its objects are.
    LayerMissing(Digest),
    /// The config names no filesystem image of this format, or it is gone.
    FsImageMissing(FormatVersion),
}

impl fmt::Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManifestBroken(why) => write!(f, "its stored manifest is broken: {why}"),
            Self::ConfigMissing => f.write_str("its config is missing"),
            Self::ConfigBroken(why) => write!(f, "its stored config is broken: {why}"),
            Self::ConfigReplaced => f.write_str("its config was stored anew"),
            Self::LayerReplaced(layer) => write!(f, "its layer {layer} was stored anew"),
            Self::LayerMissing(layer) => write!(f, "its layer {layer} is missing"),
            Self::FsImageMissing(version) => {
                write!(f, "it has no filesystem image of format {}", *version as u8)
            }
        }
    }
}

/// The bytes of an image's documents; none of an image that is not whole.
#[derive(Default)]
struct Bytes {
    manifest: Vec<u8>,
    config: Vec<u8>,
}

/// What we read in a manifest.
#[derive(Deserialize)]
struct ManifestJson {
    config: DescriptorJson,
    #[serde(default)]
    layers: Vec<DescriptorJson>,
}

#[derive(Deserialize)]
struct DescriptorJson {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
}

/// What is stored of an artifact.
pub(super) struct Artifact<H> {
    pub(super) manifest: Document<H>,
    pub(super) manifest_json: Vec<u8>,
    pub(super) config_json: Vec<u8>,
    pub(super) config_digest: Digest,
    /// The blobs' digests and sizes.
    pub(super) layers: Vec<(Digest, u64)>,
}

impl ManifestJson {
    /// Whether the image has a filesystem; `config` are the bytes of its config.
    fn is_container_image(&self, config: &[u8]) -> bool {
        let types = self.layers.iter().map(|layer| layer.media_type.as_str());
        is_container_image(&self.config.media_type, types, config)
    }
}

/// What we read in an image's config.
#[derive(Deserialize)]
struct ConfigJson {
    rootfs: RootFsJson,
}

#[derive(Deserialize)]
struct RootFsJson {
    diff_ids: Vec<Digest>,
}

impl<H: FsVerityHashValue> Store<H> {
    /// What is stored of the image with this manifest. Writes nothing.
    ///
    /// # Errors
    /// Failures that say nothing about the image.
    pub fn image(&self, manifest: &Digest) -> Result<StoredImage<H>, StoreError> {
        Ok(self.image_with_bytes(manifest)?.0)
    }

    /// The same with the documents' bytes, if it is whole.
    fn image_with_bytes(&self, manifest: &Digest) -> Result<(StoredImage<H>, Bytes), StoreError> {
        let outdated = |why, manifest, config| {
            Ok((StoredImage::Outdated(OutdatedImage { why, manifest, config }), Bytes::default()))
        };
        let (manifest, manifest_json) = match self.manifest_with_bytes(manifest)? {
            (StoredDocument::Missing, _) => return Ok((StoredImage::Missing, Bytes::default())),
            (StoredDocument::Broken { id, why }, _) => {
                let reason = Outdated::ManifestBroken(why.clone());
                return outdated(reason, StoredDocument::Broken { id, why }, StoredDocument::Missing);
            }
            (StoredDocument::Whole(document), json) => (document, json),
        };
        let parsed: ManifestJson = match serde_json::from_slice(&manifest_json) {
            Ok(parsed) => parsed,
            Err(error) => {
                let why = Outdated::ManifestBroken(error.to_string());
                return outdated(why, StoredDocument::Whole(manifest), StoredDocument::Missing);
            }
        };
        let (config, config_json) = match self.config_with_bytes(&parsed.config.digest)? {
            (StoredDocument::Whole(document), json) => (document, json),
            (other, _) => {
                let why = match &other {
                    StoredDocument::Broken { why, .. } => Outdated::ConfigBroken(why.clone()),
                    _ => Outdated::ConfigMissing,
                };
                return outdated(why, StoredDocument::Whole(manifest), other);
            }
        };
        match self.check_image(&parsed, &manifest, (&config, &config_json))? {
            Ok((layers, images)) => {
                let config_digest = parsed.config.digest;
                let image = Image { manifest, config, config_digest, layers, images };
                Ok((StoredImage::Whole(image), Bytes { manifest: manifest_json, config: config_json }))
            }
            Err(why) => outdated(why, StoredDocument::Whole(manifest), StoredDocument::Whole(config)),
        }
    }

    /// The documents of the image that has this name, if it is whole; `None` also if the name
    /// is broken. Writes nothing.
    ///
    /// # Errors
    /// Failures that say nothing about the image.
    pub fn tagged_image(&self, tag: &Tag) -> Result<Option<TaggedImage>, StoreError> {
        let stored = || {
            let Some(manifest_digest) = self.tagged(tag)? else { return Ok(None) };
            Ok(Some((manifest_digest, self.image_with_bytes(&manifest_digest)?)))
        };
        let why = match stored() {
            Ok(None) => return Ok(None),
            Ok(Some((manifest_digest, (StoredImage::Whole(image), Bytes { manifest, config })))) => {
                let config_digest = image.config_digest;
                return Ok(Some(TaggedImage { manifest_digest, manifest, config_digest, config }));
            }
            Ok(Some((_, (StoredImage::Missing, _)))) => "its manifest is missing".to_owned(),
            Ok(Some((_, (StoredImage::Outdated(image), _)))) => image.why.to_string(),
            Err(error @ StoreError::Damaged { .. }) => error.to_string(),
            Err(error) => return Err(error),
        };
        tracing::debug!("{tag:?} is here, but not as it should be: {why}");
        Ok(None)
    }

    /// What is gone of an image; `None` if all is there that its documents name. A filesystem image that was
    /// never made is not gone; boot images are others' to make, and are not looked at.
    pub(super) fn lack(&self, manifest: &Digest) -> Result<Option<Outdated>, StoreError> {
        let OutdatedImage { why, config, .. } = match self.image(manifest)? {
            StoredImage::Whole(_) => return Ok(None),
            StoredImage::Missing => return Ok(Some(Outdated::ManifestBroken("it is gone".into()))),
            StoredImage::Outdated(image) => image,
        };
        let (Outdated::FsImageMissing(_), StoredDocument::Whole(config)) = (&why, config) else {
            return Ok(Some(why));
        };
        for id in config.images().iter() {
            if !self.fs_image_stored(id)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// The documents of an artifact: an image without a filesystem, whatever upstream takes it for. `None`
    /// for others, and for what cannot be read.
    pub(super) fn artifact(&self, manifest: &Digest) -> Result<Option<Artifact<H>>, StoreError> {
        let (StoredDocument::Whole(manifest), manifest_json) = self.manifest_with_bytes(manifest)? else {
            return Ok(None);
        };
        let Ok(parsed) = serde_json::from_slice::<ManifestJson>(&manifest_json) else { return Ok(None) };
        let config_digest = parsed.config.digest;
        let (StoredDocument::Whole(_), config_json) = self.config_with_bytes(&config_digest)? else {
            return Ok(None);
        };
        if parsed.is_container_image(&config_json) {
            return Ok(None);
        }
        let layers = parsed.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        Ok(Some(Artifact { manifest, manifest_json, config_json, config_digest, layers }))
    }

    /// The manifests that are tagged and name this config: if the config's stream is
    /// replaced, theirs must be, too.
    ///
    /// # Errors
    /// The system's.
    pub fn manifests_naming(&self, config: &Digest) -> Result<Vec<Document<H>>, StoreError> {
        let digests: HashSet<Digest> = self.tags()?.into_iter().map(|(_, digest)| digest).collect();
        let mut found = Vec::new();
        for digest in digests {
            if let (StoredDocument::Whole(manifest), json) = self.manifest_with_bytes(&digest)?
                && serde_json::from_slice(&json)
                    .is_ok_and(|parsed: ManifestJson| parsed.config.digest == *config)
            {
                found.push(manifest);
            }
        }
        found.sort_by_key(|manifest| manifest.name);
        Ok(found)
    }

    /// Whether an artifact may have this stored config as it is: it names nothing, or something tagged
    /// answers for what it names.
    ///
    /// # Errors
    /// The system's.
    pub fn serves_artifacts(&self, digest: &Digest, config: &Document<H>) -> Result<bool, StoreError> {
        // What was tagged before is known; what is tagged meanwhile has to be read.
        Ok(config.refs.is_empty()
            || self.is_reached(&config.id)?
            || !self.manifests_naming(digest)?.is_empty())
    }

    #[expect(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn check_image(
        &self,
        parsed: &ManifestJson,
        manifest: &Document<H>,
        (config, config_json): (&Document<H>, &[u8]),
    ) -> Result<Result<(Vec<(Digest, H)>, FsImages<H>), Outdated>, StoreError> {
        if manifest.config(&parsed.config.digest) != Some(&config.id) {
            return Ok(Err(Outdated::ConfigReplaced));
        }
        if !parsed.is_container_image(config_json) {
            // Upstream's configs name the layers of the artifact that was the first.
            let own = config.refs.iter().all(|(name, id)| manifest.refs.get(name) == Some(id));
            if !own && !self.serves_artifacts(&parsed.config.digest, config)? {
                return Ok(Err(Outdated::ConfigReplaced));
            }
            let layers: Vec<Digest> = parsed.layers.iter().map(|layer| layer.digest).collect();
            // Upstream, which goes by the type of the config alone, looks for them there.
            if lists_layers(&parsed.config.media_type, &layers, config_json)
                && layers.iter().any(|layer| config.layer(layer).is_none())
            {
                return Ok(Err(Outdated::ConfigReplaced));
            }
            let layers = self.check_layers(layers, &[manifest], LayerKind::ArtifactTar)?;
            return Ok(layers.map(|layers| (layers, FsImages::default())));
        }
        let layers = match serde_json::from_slice::<ConfigJson>(config_json) {
            Ok(parsed) => parsed.rootfs.diff_ids,
            Err(error) => return Ok(Err(Outdated::ConfigBroken(error.to_string()))),
        };
        let layers = match self.check_layers(layers, &[manifest, config], LayerKind::Tar)? {
            Ok(layers) => layers,
            Err(why) => return Ok(Err(why)),
        };
        let images = config.images();
        for version in self.formats() {
            let whole = match images.get(version) {
                Some(id) => self.fs_image_stored(id)?,
                None => false,
            };
            if !whole {
                return Ok(Err(Outdated::FsImageMissing(version)));
            }
        }
        Ok(Ok((layers, images)))
    }

    /// All `documents` must name each layer as it is linked, and the layer must be whole.
    fn check_layers(
        &self,
        layers: Vec<Digest>,
        documents: &[&Document<H>],
        kind: LayerKind,
    ) -> Result<Result<Vec<(Digest, H)>, Outdated>, StoreError> {
        let mut found = Vec::with_capacity(layers.len());
        for layer in layers {
            let mut stored = self.layer(&layer, kind)?;
            let named = documents.first().and_then(|document| document.layer(&layer));
            // A raw layer may have either name; the manifest says which.
            if kind == LayerKind::ArtifactTar
                && let Some(named) = named
                && self.linked(&StreamName::Blob(layer))?.as_ref() == Some(named)
            {
                stored = self.layer(&layer, LayerKind::Raw)?;
            }
            let StoredLayer::Whole { id, .. } = stored else {
                return Ok(Err(Outdated::LayerMissing(layer)));
            };
            if documents.iter().any(|document| document.layer(&layer) != Some(&id)) {
                return Ok(Err(Outdated::LayerReplaced(layer)));
            }
            found.push((layer, id));
        }
        Ok(Ok(found))
    }

    /// Whether the filesystem image `id` is linked and whole: a gc that died half-way
    /// leaves links to nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn fs_image_stored(&self, id: &H) -> Result<bool, StoreError> {
        Ok(self.image_linked(id)? && self.fs_image_whole(id)?)
    }

    /// Whether a filesystem image's object is there and, unless a tagged image reaches it, has its digest.
    fn fs_image_whole(&self, id: &H) -> Result<bool, StoreError> {
        if self.is_reached(id)? {
            let whole = |found: Stat| FileType::from_raw_mode(found.st_mode).is_file() && found.st_size > 0;
            return Ok(self.object_stat(id)?.is_some_and(whole));
        }
        let Ok(file) = self.open_verified(id)? else { return Ok(false) };
        Ok(measure_verity_with_fallback::<H>(file).is_ok_and(|found| found == *id))
    }
}
