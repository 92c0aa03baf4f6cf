//! Configs, manifests and raw layers as streams. Knows their references and order;
//! ignores what is linked when.
//!
//! The same input gives the same bytes: references come in `diff_id` order, then filesystem images (2 before
//! 1, as upstream has it), then boot images by name. Config streams equal those of composefs-oci's
//! `write_config_raw`; its manifest streams vary from run to run.

use std::{
    collections::BTreeMap,
    io::{IoSlice, Read},
};

use composefs::{
    erofs::format::{FormatEpoch, FormatVersion},
    fsverity::{FsVerityHashValue, compute_verity},
};
use composefs_oci::{BOOT_IMAGE_REF_KEY, IMAGE_REF_KEY, IMAGE_REF_KEY_V1};

use super::{
    Content, Store, StoreError, StreamName,
    stream::{self, Opened},
};
use crate::types::{Digest, MAX_DOCUMENT};

/// The filesystem images of one container image, at most one for each family of formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsImages<H> {
    compact: Option<H>,
    extended: Option<H>,
}

impl<H> Default for FsImages<H> {
    fn default() -> Self {
        Self { compact: None, extended: None }
    }
}

impl<H> FsImages<H> {
    /// The image that serves `version`: formats 0 and 1 share a place.
    pub fn get(&self, version: FormatVersion) -> Option<&H> {
        match version.epoch() {
            FormatEpoch::Epoch1 => self.compact.as_ref(),
            FormatEpoch::Epoch2 => self.extended.as_ref(),
        }
    }

    /// Sets it.
    pub fn set(&mut self, version: FormatVersion, id: H) {
        match version.epoch() {
            FormatEpoch::Epoch1 => self.compact = Some(id),
            FormatEpoch::Epoch2 => self.extended = Some(id),
        }
    }

    /// Those of `formats`, by the name of their format, in hexadecimal.
    pub fn by_format(&self, formats: &[FormatVersion]) -> impl Iterator<Item = (String, String)>
    where
        H: FsVerityHashValue,
    {
        let named =
            |format: &FormatVersion| Some((format!("v{}", *format as u8), self.get(*format)?.to_hex()));
        formats.iter().filter_map(named)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &H> {
        self.extended.iter().chain(&self.compact)
    }
}

/// A stored config or manifest whose JSON has its digest. Without its bytes: a list's images together may
/// have half a gigabyte of them, and they are in memory already. [`Store::config_bytes`] and
/// [`Store::manifest_bytes`] read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<H> {
    /// Its link.
    pub name: StreamName,
    /// Its stream, which the link points to.
    pub id: H,
    /// What the stream names: layers, filesystem images, for a manifest its config.
    pub refs: BTreeMap<String, H>,
}

impl<H: FsVerityHashValue> Document<H> {
    /// The filesystem images that a config names.
    pub fn images(&self) -> FsImages<H> {
        FsImages {
            compact: self.refs.get(IMAGE_REF_KEY_V1).cloned(),
            extended: self.refs.get(IMAGE_REF_KEY).cloned(),
        }
    }

    /// The boot images that a config names, by reference name; made by others and to be kept.
    pub fn boot_images(&self) -> BTreeMap<String, H> {
        let is_boot = |(name, _): &(&String, &H)| name.starts_with(BOOT_IMAGE_REF_KEY);
        self.refs.iter().filter(is_boot).map(|(name, id)| (name.clone(), id.clone())).collect()
    }

    /// The config stream that a manifest names for `config`.
    pub fn config(&self, config: &Digest) -> Option<&H> {
        self.refs.get(&config_key(config))
    }

    /// The layer streams that it names, by digest.
    pub fn layers(&self) -> Vec<(Digest, H)> {
        self.refs.iter().filter_map(|(name, id)| Some((name.parse().ok()?, id.clone()))).collect()
    }

    /// The layer stream that it names for `layer`.
    pub fn layer(&self, layer: &Digest) -> Option<&H> {
        self.refs.get(&layer.to_string())
    }
}

/// What is stored under a document's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredDocument<H> {
    /// Nothing.
    Missing,
    /// A link to something that is not the document.
    Broken {
        /// What it points to.
        id: H,
        /// What is wrong with it.
        why: String,
    },
    /// The document.
    Whole(Document<H>),
}

impl<H> StoredDocument<H> {
    /// What the name is linked to: the `seen` of a [`DocumentLink`](super::DocumentLink).
    pub fn id(&self) -> Option<&H> {
        match self {
            Self::Missing => None,
            Self::Broken { id, .. } => Some(id),
            Self::Whole(document) => Some(&document.id),
        }
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// The stored config `digest`.
    ///
    /// # Errors
    /// Failures that say nothing about it.
    pub fn config(&self, digest: &Digest) -> Result<StoredDocument<H>, StoreError> {
        Ok(self.config_with_bytes(digest)?.0)
    }

    /// The stored manifest `digest`.
    ///
    /// # Errors
    /// Failures that say nothing about it.
    pub fn manifest(&self, digest: &Digest) -> Result<StoredDocument<H>, StoreError> {
        Ok(self.manifest_with_bytes(digest)?.0)
    }

    /// The stored config `digest` with its bytes; none unless it is whole.
    pub(super) fn config_with_bytes(
        &self,
        digest: &Digest,
    ) -> Result<(StoredDocument<H>, Vec<u8>), StoreError> {
        self.document(StreamName::Config(*digest), Content::Config, digest)
    }

    /// The stored manifest `digest` with its bytes; none unless it is whole.
    pub(super) fn manifest_with_bytes(
        &self,
        digest: &Digest,
    ) -> Result<(StoredDocument<H>, Vec<u8>), StoreError> {
        self.document(StreamName::Manifest(*digest), Content::Manifest, digest)
    }

    /// The very bytes of the stored config `digest`: they have it. `None` if there is none that is right.
    ///
    /// # Errors
    /// Failures that say nothing about it.
    pub fn config_bytes(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        bytes_of(self.config_with_bytes(digest), digest)
    }

    /// The very bytes of the stored manifest `digest`: they have it. `None` if there is none that is right.
    ///
    /// # Errors
    /// Failures that say nothing about it.
    pub fn manifest_bytes(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        bytes_of(self.manifest_with_bytes(digest), digest)
    }

    /// Completes a config's object and stream; gives the stream's id. `layers` in the order of the config's
    /// `diff_ids` (a repeated one is legal); none for an artifact, since artifacts share configs.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_config(
        &self,
        json: &[u8],
        layers: &[(Digest, H)],
        images: &FsImages<H>,
        boot_images: &BTreeMap<String, H>,
    ) -> Result<H, StoreError> {
        let mut refs = layer_refs(layers);
        let image = |key: &str, id: &Option<H>| id.clone().map(|id| (key.to_owned(), id));
        refs.extend(image(IMAGE_REF_KEY, &images.extended));
        refs.extend(image(IMAGE_REF_KEY_V1, &images.compact));
        refs.extend(boot_images.clone());
        self.put_document(Content::Config, &refs, json)
    }

    /// Completes a manifest's object and stream; gives the stream's id. `layers` under their `diff_id`s, or
    /// blob digests for an artifact, in the manifest's order.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_manifest(
        &self,
        json: &[u8],
        config: (&Digest, &H),
        layers: &[(Digest, H)],
    ) -> Result<H, StoreError> {
        let mut refs = vec![(config_key(config.0), config.1.clone())];
        refs.extend(layer_refs(layers));
        self.put_document(Content::Manifest, &refs, json)
    }

    /// Completes the stream of a raw layer whose bytes are the object `blob`; gives the stream's id.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_blob_stream(&self, blob: &H, size_bytes: u64) -> Result<H, StoreError> {
        self.put_stream(Content::Blob, &[], blob, size_bytes)
    }

    /// Completes an object whose id is not known yet; gives the id. For small things: hashes on this thread.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<H, StoreError> {
        let id = compute_verity::<H>(bytes);
        self.put(&id, &[IoSlice::new(bytes)])?;
        Ok(id)
    }

    fn put_document(&self, content: Content, refs: &[(String, H)], json: &[u8]) -> Result<H, StoreError> {
        let object = self.put_bytes(json)?;
        self.put_stream(content, refs, &object, json.len() as u64)
    }

    fn put_stream(
        &self,
        content: Content,
        refs: &[(String, H)],
        object: &H,
        size: u64,
    ) -> Result<H, StoreError> {
        let stream = stream::encode(content, refs, object, size)
            .map_err(|cause| self.explain("encoding a stream", cause))?;
        self.put_bytes(&stream)
    }

    fn document(
        &self,
        name: StreamName,
        content: Content,
        digest: &Digest,
    ) -> Result<(StoredDocument<H>, Vec<u8>), StoreError> {
        let Some(id) = self.linked(&name)? else { return Ok((StoredDocument::Missing, Vec::new())) };
        Ok(match self.read_document(&id, content, digest)? {
            Ok((json, refs)) => (StoredDocument::Whole(Document { name, id, refs }), json),
            Err(why) => (StoredDocument::Broken { id, why }, Vec::new()),
        })
    }

    #[expect(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn read_document(
        &self,
        id: &H,
        content: Content,
        digest: &Digest,
    ) -> Result<Result<(Vec<u8>, BTreeMap<String, H>), String>, StoreError> {
        let mut stream = match self.open_stream(id)? {
            Opened::Stream(stream) => stream,
            Opened::Broken(why) => return Ok(Err(why)),
        };
        if stream.content_type != content.code() {
            return Ok(Err("it holds something else".into()));
        }
        let mut objects = Vec::new();
        let _ = stream.get_object_refs(|object| objects.push(object.clone()));
        let [object] = &objects[..] else {
            return Ok(Err(format!("it has {} objects instead of one", objects.len())));
        };
        let file = match self.open_verified(object)? {
            Ok(file) => file,
            Err(why) => return Ok(Err(why)),
        };
        let mut json = Vec::new();
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut json)
            .map_err(|cause| self.explain(super::objects::object_path(object), cause))?;
        if json.len() as u64 > MAX_DOCUMENT {
            return Ok(Err(format!("it has more than {MAX_DOCUMENT} bytes")));
        }
        if Digest::of(&json) != *digest {
            return Ok(Err("its bytes do not have its digest".into()));
        }
        let refs = stream.into_named_refs().into_iter().map(|(name, id)| (name.into(), id)).collect();
        Ok(Ok((json, refs)))
    }
}

/// What a reader who can fetch the document as well needs to know.
fn bytes_of<H>(
    stored: Result<(StoredDocument<H>, Vec<u8>), StoreError>,
    digest: &Digest,
) -> Result<Option<Vec<u8>>, StoreError> {
    let why = match stored {
        Ok((StoredDocument::Whole(_), json)) => return Ok(Some(json)),
        Ok((StoredDocument::Missing, _)) => return Ok(None),
        Ok((StoredDocument::Broken { why, .. }, _)) => why,
        Err(error @ StoreError::Damaged { .. }) => error.to_string(),
        Err(error) => return Err(error),
    };
    tracing::debug!("{digest} is stored, but not as it should be: {why}");
    Ok(None)
}

fn layer_refs<H: Clone>(layers: &[(Digest, H)]) -> Vec<(String, H)> {
    layers.iter().map(|(digest, id)| (digest.to_string(), id.clone())).collect()
}

fn config_key(config: &Digest) -> String {
    format!("config:{config}")
}
