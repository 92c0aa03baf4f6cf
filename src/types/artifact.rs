//! What is a container image and what an artifact: a signature, an attestation, an SBOM, a chart. Knows media
//! types and what a config has to say; ignores where either comes from.

use serde::Deserialize;

use super::Digest;

/// What a config of this type calls itself: a container's.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What a layer is by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// A tar, packed or encrypted in whatever way.
    Tar,
    /// Nothing: the type of any bytes, or of a compression alone.
    Any,
    /// Something that is not a tar: JSON, WebAssembly, a filesystem image.
    Other,
}

/// Types that say nothing of what is inside; registries and old tools write them for tars, too.
const ANY: [&str; 6] = [
    "",
    "application/octet-stream",
    "application/gzip",
    "application/x-gzip",
    "application/zstd",
    "binary/octet-stream",
];

impl Claim {
    /// A type says that it is a tar if one of its words does. That covers OCI's and docker's types,
    /// nondistributable ("foreign") and `+encrypted` ones, and those of vendors (`application/x-tar`,
    /// `…layer.tar+gzip`).
    fn of(media_type: &str) -> Self {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let mut words = media_type.split(|c: char| !c.is_ascii_alphanumeric());
        if words.any(|word| ["tar", "tgz"].iter().any(|tar| word.eq_ignore_ascii_case(tar))) {
            return Self::Tar;
        }
        if ANY.iter().any(|any| media_type.eq_ignore_ascii_case(any)) { Self::Any } else { Self::Other }
    }
}

/// Whether a manifest with these layers is of a container image, which has a filesystem; otherwise it is an
/// artifact, whose layers are stored as they are.
///
/// - Only what calls its config a container's can be one.
/// - If no layer is a tar by its media type it is an artifact, whatever the config says: cosign and buildx
///   write whole configs, `diff_ids` included, for signatures and attestations.
/// - Some tars and some not: a container image. The tars say that a filesystem is meant, and it is all of the
///   layers: left out, one would be missing without a word, and stored as an artifact the image could not be
///   mounted. A layer that is not a tar then fails as one, by its place. nydus and squashfs layers beside
///   tars are told that way.
/// - Types that say nothing (none at all, `application/octet-stream`) are taken for tars as long as all
///   layers have such types or tars': images with them are in the field. One other type among them, and they
///   are taken for what it is.
/// - No layers: a container image if the config names a platform, as that of an image `FROM scratch` does; an
///   artifact if it is `{}`.
pub fn is_container_image<'a>(
    config_type: &str,
    layer_types: impl IntoIterator<Item = &'a str>,
    config: &[u8],
) -> bool {
    if config_type != IMAGE_CONFIG {
        return false;
    }
    let claims: Vec<Claim> = layer_types.into_iter().map(Claim::of).collect();
    if claims.is_empty() {
        return names_platform(config);
    }
    claims.contains(&Claim::Tar) || !claims.contains(&Claim::Other)
}

/// Whether an artifact's config lists its layers by their digests, as those do that call themselves a
/// container's. A program that takes it for a container's, as upstream does by the type of the config alone,
/// looks for them there.
pub fn lists_layers(config_type: &str, layers: &[Digest], config: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    let listed = || serde_json::from_slice::<Config>(config).is_ok_and(|c| c.rootfs.diff_ids == layers);
    config_type == IMAGE_CONFIG && !layers.is_empty() && listed()
}

/// Whether a config says on what an image runs. One that is not JSON counts: reading it as a container's then
/// fails with the reason.
fn names_platform(config: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        os: Option<String>,
        #[serde(default)]
        architecture: Option<String>,
    }
    let named = |part: Option<String>| part.is_some_and(|part| !part.is_empty() && part != "unknown");
    match serde_json::from_slice::<Config>(config) {
        Ok(config) => named(config.os) && named(config.architecture),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: &[u8] = br#"{"os":"linux","architecture":"amd64"}"#;

    #[test]
    fn layers_decide_what_an_image_is_whatever_its_config_says() {
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let statement = "application/vnd.in-toto+json";
        for (layers, is_container) in [
            (&[tar][..], true),
            (&["application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"], true),
            (&["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"], true),
            (&["application/vnd.docker.image.rootfs.diff.tar.gzip"], true),
            (&["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"], true),
            (&["application/x-tar"], true),
            (&["application/tar+gzip; charset=binary"], true),
            (&["application/octet-stream", tar], true),
            (&["application/octet-stream"], true),
            (&["", "application/gzip"], true),
            (&[statement, tar], true),
            (&[statement], false),
            (&[statement, statement], false),
            (&["application/octet-stream", statement], false),
            (&["application/vnd.dev.cosign.simplesigning.v1+json"], false),
            (&["application/wasm"], false),
            (&["application/vnd.acme.startar"], false),
        ] {
            let found = is_container_image(IMAGE_CONFIG, layers.iter().copied(), LINUX);
            assert_eq!(found, is_container, "{layers:?}");
            let other = "application/vnd.oci.empty.v1+json";
            assert!(!is_container_image(other, layers.iter().copied(), LINUX), "{layers:?}");
        }
    }

    #[test]
    fn without_layers_the_platform_decides() {
        for (config, is_container) in [
            (LINUX, true),
            (b"not JSON", true),
            (b"{}", false),
            (br#"{"os":"unknown","architecture":"unknown"}"#, false),
            (br#"{"os":"linux","architecture":""}"#, false),
        ] {
            let shown = String::from_utf8_lossy(config);
            assert_eq!(is_container_image(IMAGE_CONFIG, [], config), is_container, "{shown}");
        }
    }

    #[test]
    fn a_config_lists_layers_if_it_names_each_by_its_digest() {
        let [one, other] = [Digest::of(b"1"), Digest::of(b"2")];
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{one}","{one}"]}}}}"#);
        assert!(lists_layers(IMAGE_CONFIG, &[one, one], config.as_bytes()));
        assert!(!lists_layers(IMAGE_CONFIG, &[one, other], config.as_bytes()));
        assert!(!lists_layers("application/vnd.oci.empty.v1+json", &[one, one], config.as_bytes()));
        assert!(!lists_layers(IMAGE_CONFIG, &[one], b"{}"));
    }
}
