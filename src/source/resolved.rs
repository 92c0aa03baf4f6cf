//! An image's manifest and config, checked. Knows OCI documents; ignores where they came from.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use containers_image_proxy::oci_spec::{self, image as oci};
use serde::Serialize;

use super::{
    Platform, Result, SourceError,
    json::{Form, check_form, embedded},
};
use crate::types::{
    Descriptor, Digest, IMAGE_CONFIG, Limit, Limits, MAX_DOCUMENT, is_container_image, lists_layers,
};

/// The largest blob that is believed, in bytes: no ext4 file is larger, and sums of sizes stay inside a u64.
const MAX_BLOB: u64 = 16 << 40;

/// Docker's names for a manifest, a list of manifests and a config (image manifest v2, schema 2).
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What an image consists of. Every digest here was computed from the bytes beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest, as it will be stored.
    pub manifest: Arc<[u8]>,
    /// The sha256 of `manifest`.
    pub manifest_digest: Digest,
    /// What the source calls the manifest, where that is not `manifest_digest`: the original was docker's
    /// schema 2 and was converted. Verified by whoever converted it.
    pub original_digest: Option<Digest>,
    /// The config, byte for byte.
    pub config: Arc<[u8]>,
    /// The sha256 of `config`.
    pub config_digest: Digest,
    /// The blobs to fetch, base layer first. Mostly the manifest's layers; from `containers-storage:` the
    /// uncompressed layers, whose digests are their `diff_ids`.
    pub layers: Vec<Descriptor>,
    /// sha256 of each uncompressed layer, as many as there are `layers`; `None` for an artifact.
    pub diff_ids: Option<Vec<Digest>>,
    /// Whether it is a container image, see [`is_container_image`]. Otherwise it is an artifact.
    pub is_container: bool,
    /// Whether the config lists the layers under the names that they get here: always a container's, and that
    /// of a signature, see [`lists_layers`].
    pub config_lists_layers: bool,
}

/// A manifest that parses, with sane descriptors.
#[derive(Debug)]
pub(super) struct Manifest {
    bytes: Vec<u8>,
    digest: Digest,
    original_digest: Option<Digest>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    /// The config in base64, if its descriptor carries it.
    config_data: Option<String>,
    /// The same of layers, by their digests.
    layers_data: HashMap<Digest, String>,
}

impl Manifest {
    /// Parses `bytes` as leniently as upstream does.
    ///
    /// # Errors
    /// Too large, no manifest, an ambiguous one, a digest that is no sha256, or a size that no blob has.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self> {
        capped("the manifest", bytes.len() as u64)?;
        check_form("the manifest", Form::Manifest, &bytes)?;
        let manifest = one_at_a_time(|| oci::ImageManifest::from_reader(bytes.as_slice()))
            .map_err(|error| SourceError::corrupt(format!("the manifest is malformed: {}", plain(&error))))?;
        let config = descriptor(manifest.config()).map_err(|error| error.within("the manifest's config"))?;
        capped("the config", config.size)?;
        let layers = numbered(manifest.layers().iter().map(descriptor))?;
        let data = manifest.layers().iter().zip(&layers);
        let data = data.filter_map(|(from, layer)| Some((layer.digest, from.data().clone()?)));
        let layers_data = data.collect();
        Ok(Self {
            digest: Digest::of(&bytes),
            bytes,
            original_digest: None,
            config,
            layers,
            config_data: manifest.config().data().clone(),
            layers_data,
        })
    }

    /// The config that its descriptor carries, checked; `None` if it carries none.
    ///
    /// # Errors
    /// It is not base64, or not the config.
    pub(super) fn embedded_config(&self) -> Result<Option<Vec<u8>>> {
        let Some(data) = &self.config_data else { return Ok(None) };
        let bytes = embedded(data)?;
        verify("the descriptor's data", &self.config, &bytes)?;
        Ok(Some(bytes))
    }

    /// The layers that descriptors carry, in base64 and not checked.
    pub(super) fn embedded_layers(&mut self) -> HashMap<Digest, String> {
        std::mem::take(&mut self.layers_data)
    }

    /// Notes that the source calls this manifest `original`.
    pub(super) fn known_as(mut self, original: Digest) -> Self {
        self.original_digest = (original != self.digest).then_some(original);
        self
    }

    /// Whether these bytes are not the source's own.
    pub(super) fn is_converted(&self) -> bool {
        self.original_digest.is_some()
    }

    /// The same image in OCI's terms, if it is written in docker's. The config stays as it is: its format is
    /// the same, only its name differs.
    pub(super) fn into_oci(self) -> Result<Self> {
        if self.config.media_type != DOCKER_CONFIG {
            return Ok(self);
        }
        let config =
            Plain { media_type: oci::MediaType::ImageConfig.to_string(), ..Plain::from(&self.config) };
        let layers =
            self.layers.iter().map(|l| Plain { media_type: oci_layer_type(&l.media_type), ..Plain::from(l) });
        // Written by a struct of our own: the order of fields is part of the manifest's digest.
        let document = PlainManifest {
            schema_version: 2,
            media_type: oci::MediaType::ImageManifest.to_string(),
            config,
            layers: layers.collect(),
        };
        let bytes = serde_json::to_vec(&document)
            .map_err(|error| SourceError::corrupt(format!("the manifest cannot be converted: {error}")))?;
        let (config_data, layers_data) = (self.config_data, self.layers_data);
        Ok(Self { config_data, layers_data, ..Self::parse(bytes)?.known_as(self.digest) })
    }

    /// Puts manifest and config together. `blobs` replaces the manifest's layers where a source serves
    /// others for them.
    ///
    /// # Errors
    /// The config is not the one that the manifest names, or contradicts it.
    pub(super) fn with_config(self, config: Arc<[u8]>, blobs: Option<Vec<Descriptor>>) -> Result<Resolved> {
        verify("the config", &self.config, &config)?;
        let types = self.layers.iter().map(|layer| layer.media_type.as_str());
        let is_container = is_container_image(&self.config.media_type, types, &config);
        if is_container {
            self.refuse_encrypted()?;
        }
        let diff_ids = if is_container { Some(diff_ids(&config, self.layers.len())?) } else { None };
        let config_lists_layers = is_container || self.is_listed_in(&config);
        let layers = blobs.unwrap_or(self.layers);
        if let Some(ids) = &diff_ids
            && ids.len() != layers.len()
        {
            let (blobs, ids) = (layers.len(), ids.len());
            return Err(SourceError::corrupt(format!("the source has {blobs} layers for {ids} diff_ids")));
        }
        Ok(Resolved {
            manifest: self.bytes.into(),
            manifest_digest: self.digest,
            original_digest: self.original_digest,
            config_digest: self.config.digest,
            config,
            layers,
            diff_ids,
            is_container,
            config_lists_layers,
        })
    }

    /// Whether an artifact's config lists its layers.
    fn is_listed_in(&self, config: &[u8]) -> bool {
        let layers: Vec<Digest> = self.layers.iter().map(|layer| layer.digest).collect();
        // A cheap question first: few artifacts call their config a container's.
        self.config.media_type == IMAGE_CONFIG
            && one_at_a_time(|| lists_layers(&self.config.media_type, &layers, config))
    }

    /// Refuses layers that nothing here can decrypt, before they are fetched.
    fn refuse_encrypted(&self) -> Result<()> {
        let Some(at) = self.layers.iter().position(|layer| layer.media_type.ends_with("+encrypted")) else {
            return Ok(());
        };
        let (count, media_type) = (self.layers.len(), &self.layers[at].media_type);
        Err(SourceError::corrupt(format!(
            "layer {} of {count} is encrypted ({media_type}): decrypt it with skopeo copy --decryption-key",
            at + 1
        )))
    }
}

impl Resolved {
    /// An image from its documents alone, as a repository keeps them.
    ///
    /// # Errors
    /// They contradict each other, or the image is for another platform than `wanted`.
    pub fn from_documents(manifest: Vec<u8>, config: Vec<u8>, wanted: Option<&Platform>) -> Result<Self> {
        Manifest::parse(manifest)?.with_config(config.into(), None)?.expect_platform(wanted)
    }

    /// About how many bytes of memory the layers take in a run, with the graph's own
    /// copy of their descriptors.
    pub(super) fn layers_footprint(&self) -> u64 {
        const PER_LAYER: usize = 512;
        self.layers.iter().map(|layer| (PER_LAYER + 2 * layer.media_type.len()) as u64).sum()
    }

    /// Refuses an image of more layers than `limits` allow.
    pub(super) fn within(self, limits: &Limits) -> Result<Self> {
        limits.check(Limit::Layers, self.layers.len() as u64)?;
        Ok(self)
    }

    /// Checks that a container image is for `wanted`, which the user asked for. A reference to a single
    /// image is followed by skopeo whatever the platform.
    pub(super) fn expect_platform(self, wanted: Option<&Platform>) -> Result<Self> {
        let Some(wanted) = wanted.filter(|_| self.is_container) else { return Ok(self) };
        let found = platform_of_config(&self.config)?;
        if wanted.rank(&found).is_none() {
            return Err(SourceError::not_found(format!("the image is for {found}, not for {wanted}")));
        }
        Ok(self)
    }
}

/// Checks `bytes` against the descriptor that names them.
pub(super) fn verify(what: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 != descriptor.size {
        let (found, claimed) = (bytes.len(), descriptor.size);
        return Err(SourceError::corrupt(format!("{what} has {found} bytes, its descriptor says {claimed}")));
    }
    let found = Digest::of(bytes);
    if found != descriptor.digest {
        let claimed = descriptor.digest;
        return Err(SourceError::corrupt(format!(
            "{what} does not match its digest {claimed}: its bytes have {found}"
        )));
    }
    Ok(())
}

/// Takes a document apart while no other is: 4 MiB of `{}` in a config's history become 140 MiB of
/// structures, and many images are resolved side by side.
pub(super) fn one_at_a_time<T>(parse: impl FnOnce() -> T) -> T {
    static PARSING: Mutex<()> = Mutex::new(());
    let _turn = PARSING.lock().unwrap_or_else(PoisonError::into_inner);
    parse()
}

/// Refuses a document larger than [`MAX_DOCUMENT`].
pub(super) fn capped(what: impl fmt::Display, size: u64) -> Result<()> {
    if size > MAX_DOCUMENT {
        return Err(SourceError::corrupt(format!(
            "{what} has {size} bytes: more than {MAX_DOCUMENT} are refused"
        )));
    }
    Ok(())
}

/// Our descriptor from oci-spec's.
pub(super) fn descriptor(from: &oci::Descriptor) -> Result<Descriptor> {
    blob_descriptor(from.media_type().as_ref(), from.digest().as_ref(), from.size())
}

/// A descriptor whose digest is a sha256 and whose size is credible.
pub(super) fn blob_descriptor(media_type: &str, digest: &str, size: u64) -> Result<Descriptor> {
    let digest = digest.parse().map_err(|error| SourceError::corrupt(format!("{error}")))?;
    if size > MAX_BLOB {
        return Err(SourceError::corrupt(format!("a blob of {size} bytes is not credible")));
    }
    Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
}

/// Layers from a list, an error naming the layer by its place.
pub(super) fn numbered(layers: impl ExactSizeIterator<Item = Result<Descriptor>>) -> Result<Vec<Descriptor>> {
    let count = layers.len();
    let place = |(ix, layer): (usize, Result<Descriptor>)| {
        layer.map_err(|error| error.within(format_args!("layer {} of {count}", ix + 1)))
    };
    layers.enumerate().map(place).collect()
}

/// What a container's config says that it runs on.
pub(super) fn platform_of_config(config: &[u8]) -> Result<Platform> {
    read_config(config, |config| Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone().filter(|v| !v.is_empty()),
    })
}

/// What `read` takes from a config, whose structures are gone again before another config is taken apart.
fn read_config<T>(bytes: &[u8], read: impl FnOnce(&oci::ImageConfiguration) -> T) -> Result<T> {
    one_at_a_time(|| {
        let config = oci::ImageConfiguration::from_reader(bytes)
            .map_err(|error| SourceError::corrupt(format!("the config is malformed: {}", plain(&error))))?;
        Ok(read(&config))
    })
}

fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>> {
    let ids = read_config(config, |config| config.rootfs().diff_ids().clone())?;
    if ids.len() != layers {
        let ids = ids.len();
        return Err(SourceError::corrupt(format!(
            "the config lists {ids} diff_ids, the manifest {layers} layers: the image is broken"
        )));
    }
    let parse = |id: &String| {
        id.parse().map_err(|error| SourceError::corrupt(format!("the config's diff_ids: {error}")))
    };
    ids.iter().map(parse).collect()
}

/// What lies behind an error of oci-spec, which itself says only "serde failed".
pub(super) fn plain(error: &oci_spec::OciSpecError) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |cause| cause.to_string())
}

fn oci_layer_type(docker: &str) -> String {
    use oci::MediaType::*;
    match docker {
        "application/vnd.docker.image.rootfs.diff.tar" => ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => ImageLayerZstd,
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => ImageLayerNonDistributable,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => ImageLayerNonDistributableGzip,
        other => Other(other.to_owned()),
    }
    .to_string()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlainManifest {
    schema_version: u32,
    media_type: String,
    config: Plain,
    layers: Vec<Plain>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plain {
    media_type: String,
    digest: Digest,
    size: u64,
}

impl From<&Descriptor> for Plain {
    fn from(from: &Descriptor) -> Self {
        Self { media_type: from.media_type.clone(), digest: from.digest, size: from.size }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::source::ErrorKind;

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

    fn config(diff_ids: &[&str]) -> Vec<u8> {
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).to_string().into()
    }

    fn manifest(config_type: &str, config: &[u8], layers: Value) -> Vec<u8> {
        let config = json!({"mediaType": config_type, "digest": Digest::of(config), "size": config.len()});
        json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into()
    }

    fn layer(size: i64) -> Value {
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(b"layer"),
            "size": size})
    }

    fn resolve(manifest: Vec<u8>, config: Vec<u8>) -> Result<Resolved> {
        Manifest::parse(manifest)?.with_config(config.into(), None)
    }

    #[test]
    fn a_container_has_a_diff_id_for_each_layer() {
        let id = Digest::of(b"tar").to_string();
        let config = config(&[&id]);
        let resolved = resolve(manifest(CONFIG, &config, json!([layer(5)])), config).unwrap();
        assert!(resolved.is_container);
        assert_eq!(resolved.diff_ids, Some(vec![Digest::of(b"tar")]));
        assert_eq!(resolved.layers[0].size, 5);
        assert_eq!(resolved.manifest_digest, Digest::of(&resolved.manifest));
        assert_eq!(resolved.original_digest, None);
    }

    #[test]
    fn an_artifact_has_no_diff_ids() {
        let manifest = manifest("application/vnd.oci.empty.v1+json", b"{}", json!([layer(5)]));
        let resolved = resolve(manifest, b"{}".to_vec()).unwrap();
        assert_eq!((resolved.is_container, resolved.diff_ids), (false, None));
    }

    #[test]
    fn a_contradiction_is_an_error_that_says_what_is_wrong() {
        let id = Digest::of(b"tar").to_string();
        let (one, none, foreign) = (config(&[&id]), config(&[]), config(&["sha512:00"]));
        let of = |config: &[u8], layers| manifest(CONFIG, config, layers);
        let sha512 = json!({"mediaType": "x", "digest": format!("sha512:{}", "0".repeat(128)), "size": 1});
        for (manifest, config, part) in [
            (of(&one, json!([])), &one, "1 diff_ids, the manifest 0 layers"),
            (of(&none, json!([layer(1), layer(1)])), &none, "0 diff_ids, the manifest 2 layers"),
            (of(&one, json!([layer(1)])), &none, "its descriptor says"),
            (of(&foreign, json!([layer(1)])), &foreign, "sha512"),
            (of(&one, json!([layer(-1)])), &one, "malformed"),
            (of(&one, json!([layer(i64::MAX)])), &one, "layer 1 of 1: a blob of 9223372036854775807 bytes"),
            (of(&one, json!([layer(1), sha512])), &one, "layer 2 of 2: digest algorithm \"sha512\""),
            (b"{}".to_vec(), &one, "the manifest is malformed: missing field"),
            (vec![b' '; MAX_DOCUMENT as usize + 1], &one, "more than 4194304 are refused"),
        ] {
            let error = resolve(manifest, config.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_config_of_other_bytes_is_refused() {
        let mut config = config(&[]);
        let manifest = manifest(CONFIG, &config, json!([]));
        *config.last_mut().unwrap() = b' ';
        let error = resolve(manifest, config).unwrap_err();
        assert!(error.to_string().starts_with("the config does not match its digest sha256:"), "{error}");
    }

    #[test]
    fn docker_schema_2_becomes_oci_and_keeps_its_old_name() {
        let config = config(&[&Digest::of(b"tar").to_string()]);
        let layer = json!({"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "digest": Digest::of(b"layer"), "size": 5});
        let docker = manifest(DOCKER_CONFIG, &config, json!([layer]));
        let name = Digest::of(&docker);
        let manifest = Manifest::parse(docker).unwrap().into_oci().unwrap();
        assert!(manifest.is_converted());
        let resolved = manifest.with_config(config.into(), None).unwrap();
        assert!(resolved.is_container);
        assert_eq!(resolved.original_digest, Some(name));
        assert_eq!(resolved.manifest_digest, Digest::of(&resolved.manifest));
        assert_eq!(resolved.layers[0].media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
        let text = std::str::from_utf8(&resolved.manifest).unwrap();
        assert!(
            text.starts_with(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#
            )
        );
    }

    #[test]
    fn the_platform_that_was_asked_for_is_checked() {
        let config = config(&[]);
        let resolved = resolve(manifest(CONFIG, &config, json!([])), config).unwrap();
        let arm: Platform = "linux/arm64".parse().unwrap();
        let error = resolved.clone().expect_platform(Some(&arm)).unwrap_err();
        assert_eq!(error.to_string(), "the image is for linux/amd64, not for linux/arm64");
        assert!(resolved.expect_platform(None).is_ok());
    }
}
