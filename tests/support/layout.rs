//! Tiny OCI layouts on disk. Knows the layout's files; ignores whether the layers are tars.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cfs_dag::types::Digest;
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// The descriptor of `bytes`.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// A config for `architecture` over uncompressed `layers`.
pub fn config(architecture: &str, layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into()
}

/// A manifest over `config` and `layers`, in OCI's words.
pub fn manifest(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(OCI_LAYER, layer)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": layers,
    })
    .to_string()
    .into()
}

/// The same in docker's words (schema 2).
pub fn docker_manifest(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(DOCKER_LAYER, layer)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(DOCKER_CONFIG, config),
        "layers": layers,
    })
    .to_string()
    .into()
}

/// A layout directory that is being written.
pub struct Layout {
    pub path: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    /// An empty layout at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { path, entries: Vec::new() };
        layout.write_index();
        layout
    }

    /// Where the blob of `bytes` is or would be.
    pub fn blob_path(&self, bytes: &[u8]) -> PathBuf {
        self.path.join("blobs/sha256").join(Digest::of(bytes).hex())
    }

    /// Stores a blob.
    pub fn blob(&self, bytes: &[u8]) {
        fs::write(self.blob_path(bytes), bytes).unwrap();
    }

    /// Stores an image for `architecture`; gives its manifest's descriptor, not yet in the index.
    pub fn image(&self, architecture: &str, layers: &[&[u8]]) -> Value {
        let config = config(architecture, layers);
        let manifest = manifest(&config, layers);
        layers.iter().for_each(|layer| self.blob(layer));
        self.blob(&config);
        self.blob(&manifest);
        descriptor(OCI_MANIFEST, &manifest)
    }

    /// Adds a line to the index, with a tag if one is given.
    pub fn add(&mut self, mut entry: Value, tag: Option<&str>) {
        if let Some(tag) = tag {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        self.entries.push(entry);
        self.write_index();
    }

    /// Stores an index of `entries` as a blob and gives its descriptor.
    pub fn index(&self, media_type: &str, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
        self.blob(index.as_bytes());
        descriptor(media_type, index.as_bytes())
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }
}

/// `entry` with a platform.
pub fn on_platform(mut entry: Value, architecture: &str, variant: Option<&str>) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    if let Some(variant) = variant {
        entry["platform"]["variant"] = variant.into();
    }
    entry
}
