//! Images written to disk as OCI layouts and `dir:` folders: honest ones of every kind, and lying ones.
//!
//! ```ignore
//! let layout = layout();
//! let app = layout.image("app").layer(base).zstd().layer(top).multi_member().write();
//! pull(&app.reference);
//! ```

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sha2::Digest as _;
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// `sha256:<hex>` of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// The platform of this machine as OCI writes it, `linux/amd64`.
pub fn this_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}

/// A fresh, empty OCI layout; gone with the value.
pub fn layout() -> Layout {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(dir.path().join("oci/blobs/sha256")).unwrap();
    fs::write(dir.path().join("oci/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let layout = Layout { dir };
    layout.write_index(&[]);
    layout
}

/// A folder of images, `index.json` and all.
pub struct Layout {
    dir: TempDir,
}

/// What was written of one layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest in the manifest.
    pub blob: String,
    /// The size in the manifest, in bytes.
    pub size: u64,
    /// The digest in the config.
    pub diff_id: String,
    /// The media type in the manifest.
    pub media_type: String,
}

/// An image that was written.
#[derive(Debug, Clone)]
pub struct Image {
    /// What to pull: `oci:/path:tag` or `dir:/path`.
    pub reference: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the config.
    pub config: String,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    platform: String,
    descriptor: Value,
}

impl Layout {
    /// Where the layout is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("oci")
    }

    /// `oci:PATH:TAG`.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path().display())
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.path().join("blobs").join(digest.replace(':', "/"))
    }

    /// Takes a blob away, so that a pull that reads it would fail.
    pub fn remove_blob(&self, digest: &str) {
        fs::remove_file(self.blob(digest)).unwrap_or_else(|error| panic!("{digest}: {error}"));
    }

    /// Starts an image for this platform; `tag` may be empty for one that only an index names.
    pub fn image(&self, tag: &str) -> ImageBuilder<'_> {
        let platform = this_platform();
        ImageBuilder {
            layout: self,
            tag: tag.into(),
            platform,
            artifact: None,
            env: None,
            layers: vec![],
            lost_diff_ids: 0,
        }
    }

    /// Starts an artifact: its config is `{}`, and its layers may be anything.
    pub fn artifact(&self, tag: &str) -> ImageBuilder<'_> {
        ImageBuilder { artifact: Some(json!({})), ..self.image(tag) }
    }

    /// Starts an artifact whose config has the bytes of this image's.
    pub fn artifact_over(&self, tag: &str, image: &Image) -> ImageBuilder<'_> {
        let config = fs::read(self.blob(&image.config)).unwrap();
        ImageBuilder { artifact: Some(serde_json::from_slice(&config).unwrap()), ..self.image(tag) }
    }

    /// Writes an image index over `images`, each under its own platform, and returns the index's digest.
    pub fn index(&self, tag: &str, images: &[&Image]) -> String {
        let manifests: Vec<Value> =
            images.iter().map(|image| with_platform(&image.descriptor, &image.platform)).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let descriptor = self.put_json(INDEX, &index);
        self.name(tag, &descriptor);
        descriptor["digest"].as_str().unwrap().to_owned()
    }

    /// Gives `image` one more tag.
    pub fn tag(&self, image: &Image, tag: &str) {
        self.name(tag, &with_platform(&image.descriptor, &image.platform));
    }

    fn name(&self, tag: &str, descriptor: &Value) {
        let index: Value =
            serde_json::from_slice(&fs::read(self.path().join("index.json")).unwrap()).unwrap();
        let mut named: Vec<Value> = index["manifests"].as_array().unwrap().clone();
        named.retain(|other| other["annotations"][REF_NAME] != tag);
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({ REF_NAME: tag });
        named.push(descriptor);
        self.write_index(&named);
    }

    fn write_index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    fn put_json(&self, media_type: &str, value: &Value) -> Value {
        let bytes = value.to_string().into_bytes();
        let digest = sha256(&bytes);
        self.put(&digest, &bytes);
        descriptor(media_type, &digest, bytes.len() as u64)
    }

    fn put(&self, digest: &str, bytes: &[u8]) {
        let path = self.blob(digest);
        let same = fs::read(&path).map_or(true, |there| there == bytes);
        assert!(same, "another image of this layout lies about {digest}: give the liar a layout of its own");
        fs::write(path, bytes).unwrap();
    }
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

fn with_platform(descriptor: &Value, platform: &str) -> Value {
    let mut parts = platform.split('/');
    let mut value = json!({ "os": parts.next().unwrap(), "architecture": parts.next().unwrap() });
    if let Some(variant) = parts.next() {
        value["variant"] = variant.into();
    }
    let mut descriptor = descriptor.clone();
    descriptor["platform"] = value;
    descriptor
}

/// How a layer's bytes become a blob.
#[derive(Debug, Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
    MultiMember,
    MultiFrame,
    GrowingWindow,
}

impl Packing {
    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        // At least three pieces, and one that ends inside a header block.
        let pieces = || bytes.chunks((bytes.len() / 3 + 1).clamp(1, 100_003));
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => gzip(bytes),
            Self::Zstd => zstd(bytes),
            Self::MultiMember => pieces().flat_map(gzip).collect(),
            Self::MultiFrame => {
                pieces().flat_map(|piece| [skippable(b"skip me"), zstd(piece)].concat()).collect()
            }
            Self::GrowingWindow => {
                let (first, rest) = bytes.split_at(bytes.len().min(2 << 20));
                [zstd_of_window(first, 22), zstd_of_window(rest, 27)].concat()
            }
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip | Self::MultiMember => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd | Self::MultiFrame | Self::GrowingWindow => {
                "application/vnd.oci.image.layer.v1.tar+zstd"
            }
        }
    }
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

/// One zstd frame whose decoder needs a window of two to the power of `window_log` bytes.
fn zstd_of_window(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zstd frame that decoders pass over. Source: RFC 8878, 3.1.2.
fn skippable(content: &[u8]) -> Vec<u8> {
    [&0x184D_2A50u32.to_le_bytes()[..], &(content.len() as u32).to_le_bytes(), content].concat()
}

/// What a layer may be wrong about.
#[derive(Debug, Clone)]
enum Lie {
    /// The blob unpacks to a tar with one bit changed; its size is right, its digest is
    /// that of the honest one.
    BlobDigest,
    /// The descriptor's size is this much off.
    Size(i64),
    /// The config names another tar.
    DiffId(String),
    /// The second half of the blob is gone.
    Truncated,
    /// The blob is not there at all.
    Missing,
}

struct LayerPlan {
    bytes: Vec<u8>,
    packing: Packing,
    media_type: Option<String>,
    lies: Vec<Lie>,
}

/// An image in the making. What follows [`ImageBuilder::layer`] is about that layer.
pub struct ImageBuilder<'a> {
    layout: &'a Layout,
    tag: String,
    platform: String,
    /// The config of an artifact.
    artifact: Option<Value>,
    env: Option<String>,
    layers: Vec<LayerPlan>,
    lost_diff_ids: usize,
}

impl ImageBuilder<'_> {
    /// Adds a layer on top, as gzip unless something else follows.
    pub fn layer(mut self, tar: impl Into<Vec<u8>>) -> Self {
        self.layers.push(LayerPlan {
            bytes: tar.into(),
            packing: Packing::Gzip,
            media_type: None,
            lies: vec![],
        });
        self
    }

    /// Adds a layer that is no tar, stored as it is.
    pub fn raw(self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.layer(bytes).plain().media_type(media_type)
    }

    /// As one gzip member.
    pub fn gzip(self) -> Self {
        self.packed(Packing::Gzip)
    }

    /// As one zstd frame.
    pub fn zstd(self) -> Self {
        self.packed(Packing::Zstd)
    }

    /// Not compressed.
    pub fn plain(self) -> Self {
        self.packed(Packing::Plain)
    }

    /// As several gzip members, as eStargz does.
    pub fn multi_member(self) -> Self {
        self.packed(Packing::MultiMember)
    }

    /// As several zstd frames with skippable ones between, as zstd:chunked does.
    pub fn multi_frame_with_skippable(self) -> Self {
        self.packed(Packing::MultiFrame)
    }

    /// As two zstd frames: the first 2 MiB with a window of 4 MiB, the rest with one of 128 MiB.
    pub fn growing_window(self) -> Self {
        self.packed(Packing::GrowingWindow)
    }

    /// Labelled as something else than it is.
    pub fn media_type(mut self, media_type: &str) -> Self {
        self.top().media_type = Some(media_type.into());
        self
    }

    /// For another platform, `os/arch` or `os/arch/variant`.
    pub fn platform(mut self, platform: &str) -> Self {
        self.platform = platform.into();
        self
    }

    /// Another config over the same layers.
    pub fn env(mut self, assignment: &str) -> Self {
        self.env = Some(assignment.into());
        self
    }

    /// The blob does not match its digest: it unpacks well, to a tar whose last file has one bit changed.
    pub fn wrong_blob_digest(self) -> Self {
        self.lying(Lie::BlobDigest)
    }

    /// The descriptor's size is `off_by` bytes more (or less) than the blob has.
    pub fn wrong_size(self, off_by: i64) -> Self {
        self.lying(Lie::Size(off_by))
    }

    /// The config says that this layer is `tar`, which it is not.
    pub fn claims_diff_id_of(self, tar: &[u8]) -> Self {
        self.lying(Lie::DiffId(sha256(tar)))
    }

    /// The config names a tar that nobody has.
    pub fn wrong_diff_id(self) -> Self {
        self.claims_diff_id_of(b"nobody has this")
    }

    /// Half of the blob is there.
    pub fn truncated_blob(self) -> Self {
        self.lying(Lie::Truncated)
    }

    /// The blob is not there.
    pub fn missing_blob(self) -> Self {
        self.lying(Lie::Missing)
    }

    /// The config names `count` layers less than the manifest.
    pub fn lost_diff_ids(mut self, count: usize) -> Self {
        self.lost_diff_ids = count;
        self
    }

    /// Writes the image into the layout; with an empty tag only its blobs.
    pub fn write(self) -> Image {
        let built = self.build(CONFIG, MANIFEST, None);
        for (digest, bytes) in &built.blobs {
            self.layout.put(digest, bytes);
        }
        let image = Image { reference: self.layout.reference(&self.tag), ..built.image };
        if !self.tag.is_empty() {
            self.layout.tag(&image, &self.tag);
        }
        image
    }

    /// Writes the image as a `dir:` folder beside the layout, with an OCI manifest.
    pub fn write_dir(self) -> Image {
        self.write_folder(CONFIG, MANIFEST, None)
    }

    /// Writes the image as a `dir:` folder with a Docker schema 2 manifest (gzip and plain layers only).
    pub fn write_docker_dir(self) -> Image {
        self.write_folder(
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            Some("application/vnd.docker.image.rootfs.diff.tar"),
        )
    }

    fn write_folder(self, config: &str, manifest: &str, layer_type: Option<&str>) -> Image {
        let built = self.build(config, manifest, layer_type);
        let folder = self.layout.dir.path().join(format!("dir-{}", self.tag));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
        for (digest, bytes) in &built.blobs {
            let is_manifest = *digest == built.image.manifest;
            let name = if is_manifest { "manifest.json" } else { digest.strip_prefix("sha256:").unwrap() };
            fs::write(folder.join(name), bytes).unwrap();
        }
        Image { reference: format!("dir:{}", folder.display()), ..built.image }
    }

    fn build(&self, config_type: &str, manifest_type: &str, layer_type: Option<&str>) -> Built {
        let mut blobs = Vec::new();
        let layers: Vec<Layer> = self.layers.iter().map(|plan| plan.build(layer_type, &mut blobs)).collect();
        let (config, config_type) = match &self.artifact {
            Some(config) => (config.clone(), EMPTY),
            None => (self.config(&layers), config_type),
        };
        let put_json = |blobs: &mut Vec<(String, Vec<u8>)>, media_type: &str, value: &Value| {
            let bytes = value.to_string().into_bytes();
            let (digest, size) = (sha256(&bytes), bytes.len() as u64);
            blobs.push((digest.clone(), bytes));
            (descriptor(media_type, &digest, size), digest)
        };
        let (config_descriptor, config) = put_json(&mut blobs, config_type, &config);
        let layer_descriptors: Vec<Value> =
            layers.iter().map(|layer| descriptor(&layer.media_type, &layer.blob, layer.size)).collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config_descriptor,
            "layers": layer_descriptors,
        });
        if self.artifact.is_some() {
            manifest["artifactType"] = "application/vnd.example.artifact".into();
        }
        let (descriptor, manifest) = put_json(&mut blobs, manifest_type, &manifest);
        let platform = self.platform.clone();
        Built {
            image: Image { reference: String::new(), manifest, config, layers, platform, descriptor },
            blobs,
        }
    }

    fn config(&self, layers: &[Layer]) -> Value {
        let named = layers.len() - self.lost_diff_ids;
        let diff_ids: Vec<&str> = layers[..named].iter().map(|layer| layer.diff_id.as_str()).collect();
        let mut parts = self.platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let env: Vec<&str> = self.env.iter().map(String::as_str).collect();
        let mut config = json!({
            "created": "2026-01-01T00:00:00Z", "os": os, "architecture": architecture,
            "config": { "Env": env, "Cmd": ["/usr/bin/app"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "a test" })).collect::<Vec<_>>(),
        });
        if let Some(variant) = parts.next() {
            config["variant"] = variant.into();
        }
        config
    }

    fn packed(mut self, packing: Packing) -> Self {
        self.top().packing = packing;
        self
    }

    fn lying(mut self, lie: Lie) -> Self {
        self.top().lies.push(lie);
        self
    }

    fn top(&mut self) -> &mut LayerPlan {
        self.layers.last_mut().expect("a layer comes first")
    }
}

struct Built {
    image: Image,
    /// Every blob by the name under which it is to be found; a lying one does not match its name.
    blobs: Vec<(String, Vec<u8>)>,
}

impl LayerPlan {
    fn build(&self, layer_type: Option<&str>, blobs: &mut Vec<(String, Vec<u8>)>) -> Layer {
        let mut bytes = self.packing.pack(&self.bytes);
        let default_type = match (layer_type, self.packing) {
            (None, packing) => packing.media_type().to_owned(),
            (Some(docker), Packing::Plain) => docker.to_owned(),
            (Some(docker), _) => format!("{docker}.gzip"),
        };
        let mut layer = Layer {
            blob: sha256(&bytes),
            size: bytes.len() as u64,
            diff_id: sha256(&self.bytes),
            media_type: self.media_type.clone().unwrap_or(default_type),
        };
        let mut missing = false;
        for lie in &self.lies {
            match lie {
                Lie::BlobDigest => {
                    bytes = self.packing.pack(&with_a_bit_changed(&self.bytes));
                    layer.size = bytes.len() as u64;
                }
                Lie::Size(off_by) => layer.size = layer.size.checked_add_signed(*off_by).unwrap(),
                Lie::DiffId(other) => layer.diff_id = other.clone(),
                Lie::Truncated => bytes.truncate(bytes.len() / 2),
                Lie::Missing => missing = true,
            }
        }
        if !missing {
            blobs.push((layer.blob.clone(), bytes));
        }
        layer
    }
}

fn with_a_bit_changed(tar: &[u8]) -> Vec<u8> {
    let mut changed = tar.to_vec();
    *changed.iter_mut().rev().find(|byte| **byte != 0).expect("a tar with a file") ^= 1;
    changed
}

impl Image {
    /// `reference` with this image's digest in place of its tag: `docker://host/name:tag` →
    /// `docker://host/name@sha256:…`.
    pub fn pinned(&self, reference: &str) -> String {
        pinned(reference, &self.manifest)
    }

    /// Copies the image with skopeo: `to` is a reference such as `oci-archive:/path` or
    /// `docker-archive:/path:name`.
    pub fn copy_to(&self, to: &str) {
        skopeo(&["copy", "--insecure-policy", "-q", &self.reference, to]);
    }

    /// Copies the image into a file of this `transport` beside `layout`, and returns the file's reference.
    pub fn as_archive(&self, layout: &Layout, transport: &str) -> String {
        let file = layout.dir.path().join(format!("{transport}-{}.tar", &self.manifest[7..19]));
        // A docker-archive wants a whole name; upstream reads only a plain tag in an oci-archive.
        let name = if transport == "docker-archive" { "example.org/app:v1" } else { "v1" };
        let reference = format!("{transport}:{}:{name}", file.display());
        self.copy_to(&reference);
        reference
    }
}

/// `reference` with `digest` in place of its tag.
pub fn pinned(reference: &str, digest: &str) -> String {
    let name_at = reference.rfind('/').map_or(0, |slash| slash + 1);
    let end = reference[name_at..].find(':').map_or(reference.len(), |colon| name_at + colon);
    format!("{}@{digest}", &reference[..end])
}

/// Runs skopeo to its end and returns what it printed.
///
/// # Panics
/// With skopeo's own words, if it fails.
pub fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("skopeo does not start: {error}"));
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
