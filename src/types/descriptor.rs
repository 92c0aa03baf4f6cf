//! OCI descriptors and what a layer's bytes are. Knows media types; ignores where blobs come from.

use super::Digest;

/// What names a blob: its digest, its size and what it claims to be.
///
/// Source: OCI image-spec, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Descriptor {
    /// The claimed media type; never trusted for choosing a decompressor.
    pub media_type: String,
    /// sha256 of the blob as transferred.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
}

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// A tar of an image, plain or compressed: split into objects under its `diff_id`.
    Tar,
    /// A tar-typed layer of an artifact: split under its blob digest, stored whole if it is no tar.
    ArtifactTar,
    /// Anything else: stored whole, as one object.
    Raw,
}

impl LayerKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tar, Self::ArtifactTar, Self::Raw];

    /// The word for it, as keys and plans use it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::ArtifactTar => "artifact tar",
            Self::Raw => "raw",
        }
    }

    /// Whether upstream splits layers of `media_type` (`composefs_oci::layer::is_tar_media_type`, and
    /// docker's names for the same).
    pub fn is_tar_media_type(media_type: &str) -> bool {
        matches!(
            media_type,
            "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.oci.image.layer.v1.tar+gzip"
                | "application/vnd.oci.image.layer.v1.tar+zstd"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        )
    }
}
