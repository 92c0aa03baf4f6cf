//! What a scripted registry serves. Knows repositories, tags and layouts on disk;
//! ignores requests and faults.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cfs_dag::types::Digest;
use serde_json::Value;

/// Bytes that several images may share.
#[derive(Clone)]
pub enum Body {
    Memory(Arc<[u8]>),
    /// Read each time.
    File(Arc<Path>),
}

impl Body {
    pub fn read(&self) -> io::Result<Arc<[u8]>> {
        match self {
            Self::Memory(bytes) => Ok(bytes.clone()),
            Self::File(path) => Ok(fs::read(path)?.into()),
        }
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Self::Memory(bytes.into())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

/// What stands at a path.
#[derive(Clone)]
pub struct Item {
    pub media_type: Arc<str>,
    pub digest: Digest,
    pub body: Body,
}

#[derive(Default)]
pub struct Content {
    /// By the path below `/v2/`.
    items: HashMap<String, Item>,
    /// By repository.
    tags: HashMap<String, BTreeSet<String>>,
    /// The blobs that some manifest calls its config.
    configs: HashSet<Digest>,
}

impl Content {
    pub fn get(&self, path: &str) -> Option<Item> {
        self.items.get(path).cloned()
    }

    pub fn is_config(&self, digest: Digest) -> bool {
        self.configs.contains(&digest)
    }

    /// Tags of `repository` after `last`, in order; `None` if there is no such repository.
    pub fn tags(&self, repository: &str, last: Option<&str>) -> Option<Vec<&str>> {
        let tags = self.tags.get(repository)?.iter().map(String::as_str);
        Some(tags.filter(|tag| last.is_none_or(|last| *tag > last)).collect())
    }

    pub fn blob(&mut self, repository: &str, digest: Digest, body: Body) -> Digest {
        let item = Item { media_type: "application/octet-stream".into(), digest, body };
        self.items.insert(format!("{repository}/blobs/{digest}"), item);
        digest
    }

    pub fn manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::of(bytes);
        // What is not JSON has no config; it is served all the same.
        if let Some(config) = serde_json::from_slice(bytes).ok().as_ref().and_then(config_of) {
            self.configs.insert(config);
        }
        let item = Item { media_type: media_type.into(), digest, body: bytes.into() };
        for name in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            self.items.insert(format!("{repository}/manifests/{name}"), item.clone());
        }
        self.tags.entry(repository.to_owned()).or_default().extend(tag.map(str::to_owned));
        digest
    }

    pub fn layout(&mut self, repository: &str, path: &Path) -> Vec<String> {
        let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        let mut tags = Vec::new();
        for entry in index["manifests"].as_array().unwrap() {
            let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            self.document(repository, tag, path, entry);
            tags.extend(tag.map(str::to_owned));
        }
        tags
    }

    /// A manifest or an index of a layout, with all below it.
    fn document(&mut self, repository: &str, tag: Option<&str>, layout: &Path, descriptor: &Value) {
        let bytes = fs::read(blob_path(layout, digest_of(descriptor).unwrap())).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        self.manifest(repository, tag, descriptor["mediaType"].as_str().unwrap(), &bytes);
        let below = |field: &str| document[field].as_array().into_iter().flatten();
        below("manifests").for_each(|entry| self.document(repository, None, layout, entry));
        for digest in below("layers").filter_map(digest_of).chain(config_of(&document)) {
            self.blob(repository, digest, Body::File(blob_path(layout, digest).into()));
        }
    }
}

fn config_of(manifest: &Value) -> Option<Digest> {
    digest_of(&manifest["config"])
}

fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}

fn blob_path(layout: &Path, digest: Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}
