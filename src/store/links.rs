//! Names in a repository: `streams/`, `images/`, tags, and the links that make them. Knows how upstream
//! spells them; ignores when a link may be made, which takes a [`Durable`].

use std::fmt;

use composefs::fsverity::FsVerityHashValue;
use rustix::{fs, io::Errno};

use super::{Store, StoreError, barrier::Durable, beneath, calls, law::Op};
use crate::types::{Digest, looks_like_digest};

/// What a splitstream holds, as its header says (private constants in upstream's `skopeo.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// A tar of files.
    Layer,
    /// An image's or artifact's config.
    Config,
    /// A manifest.
    Manifest,
    /// Anything else, as one object.
    Blob,
}

impl Content {
    /// The eight ASCII letters in the header, as a little-endian number.
    pub const fn code(self) -> u64 {
        u64::from_le_bytes(*match self {
            Self::Layer => b"ocilayer",
            Self::Config => b"ociconfg",
            Self::Manifest => b"ocimanif",
            Self::Blob => b"oci_blob",
        })
    }
}

/// A link in `streams/`; shown as the file name, like `oci-layer-sha256:41af…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamName {
    /// A layer under its `diff_id`, or an artifact's under its blob digest.
    Layer(Digest),
    /// An artifact's raw layer whose layer name is taken by a split one.
    Blob(Digest),
    /// A config.
    Config(Digest),
    /// A manifest.
    Manifest(Digest),
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(digest) => write!(f, "oci-layer-{digest}"),
            Self::Blob(digest) => write!(f, "oci-blob-{digest}"),
            Self::Config(digest) => write!(f, "oci-config-{digest}"),
            Self::Manifest(digest) => write!(f, "oci-manifest-{digest}"),
        }
    }
}

/// A tag's name that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// A name for an image: any text that is a file name after `%` and `/` are encoded, and that no command
    /// could take for a digest.
    ///
    /// # Errors
    /// As for [`existing`](Self::existing), and what [looks like a digest](looks_like_digest).
    pub fn new(name: &str) -> Result<Self, StoreError> {
        if looks_like_digest(name) {
            return Err(StoreError::Refused(format!(
                "the name {name:?} looks like a digest: choose another"
            )));
        }
        Self::existing(name)
    }

    /// A name that may be in a repository: other programs, and earlier versions of this one, also gave names
    /// that look like digests. They can be listed and taken away.
    ///
    /// # Errors
    /// Empty names, `.` and `..`, a leading `@` (which marks digests), NUL, and names that become longer than
    /// 255 bytes, the limit of Linux filesystems.
    pub fn existing(name: &str) -> Result<Self, StoreError> {
        let why = match name {
            "" => "is empty",
            "." | ".." => "means a directory",
            name if name.starts_with('@') => "starts with @, which marks digests",
            name if name.contains('\0') => "contains a NUL byte",
            name if encode_tag(name).len() > 255 => "is longer than 255 bytes when stored",
            name => return Ok(Self(name.to_owned())),
        };
        Err(StoreError::Refused(format!("the name {name:?} {why}: choose another")))
    }

    /// The name as the user knows it.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn file(&self) -> String {
        encode_tag(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn encode_tag(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

pub(super) const STREAMS: &str = "streams";
pub(super) const REFS: &str = "streams/refs";
pub(super) const TAGS: &str = "streams/refs/oci";
pub(super) const IMAGES: &str = "images";

/// A symbolic link as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The directory, from the repository's root.
    pub dir: &'static str,
    file: String,
    target: String,
}

impl Link {
    pub fn stream<H: FsVerityHashValue>(name: &StreamName, id: &H) -> Self {
        Self::to_object(STREAMS, name.to_string(), id)
    }

    pub fn image<H: FsVerityHashValue>(id: &H) -> Self {
        Self::to_object(IMAGES, id.to_hex(), id)
    }

    pub fn tag(tag: &Tag, manifest: &Digest) -> Self {
        let target = format!("../../{}", StreamName::Manifest(*manifest));
        Self { dir: TAGS, file: tag.file(), target }
    }

    pub fn to_object<H: FsVerityHashValue>(dir: &'static str, file: String, id: &H) -> Self {
        Self { dir, file, target: format!("../objects/{}", id.to_object_pathname()) }
    }

    pub fn path(&self) -> String {
        format!("{}/{}", self.dir, self.file)
    }
}

/// What making a link came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// It was made.
    New,
    /// Something has that name.
    Exists,
}

impl<H: FsVerityHashValue> Store<H> {
    /// The object that `streams/<name>` points to, whether or not that exists.
    ///
    /// # Errors
    /// A link that does not point into `objects/`, and the system's.
    pub fn linked(&self, name: &StreamName) -> Result<Option<H>, StoreError> {
        self.linked_object(&format!("{STREAMS}/{name}"))
    }

    /// Whether the filesystem image `id` may be mounted: `images/<id>` points to it.
    ///
    /// # Errors
    /// The system's.
    pub fn image_linked(&self, id: &H) -> Result<bool, StoreError> {
        self.in_place(&Link::image(id))
    }

    /// The manifest that a tag names.
    ///
    /// # Errors
    /// A tag that names no manifest, and the system's.
    pub fn tagged(&self, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        let path = format!("{TAGS}/{}", tag.file());
        let Some(target) = self.read_link(&path)? else { return Ok(None) };
        match manifest_of(&target) {
            Some(digest) => Ok(Some(digest)),
            None => Err(StoreError::Damaged { what: path, detail: format!("it points to {target:?}") }),
        }
    }

    /// All tags with their manifests, sorted by name; what is no tag of ours is left out.
    ///
    /// # Errors
    /// The system's.
    pub fn tags(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let mut tags: Vec<(String, Digest)> = calls::until_it_ends(|| composefs_oci::list_refs(&self.repo))
            .map_err(|error| StoreError::upstream("listing tags", &error))?
            .into_iter()
            .filter_map(|(name, digest)| Some((name, digest.to_string().parse().ok()?)))
            .collect();
        tags.sort();
        Ok(tags)
    }

    pub(super) fn linked_object(&self, path: &str) -> Result<Option<H>, StoreError> {
        let Some(target) = self.read_link(path)? else { return Ok(None) };
        let id = target.strip_prefix("../objects/").and_then(|rest| H::from_object_pathname(rest).ok());
        match id {
            Some(id) if target == format!("../objects/{}", id.to_object_pathname()) => Ok(Some(id)),
            _ => Err(StoreError::Damaged { what: path.into(), detail: format!("it points to {target:?}") }),
        }
    }

    /// Whether the link is there as it should be.
    pub(super) fn in_place(&self, link: &Link) -> Result<bool, StoreError> {
        Ok(self.read_link(&link.path())?.is_some_and(|target| target == link.target))
    }

    /// Makes a directory of links, with those above it. Done before a barrier, which
    /// then makes them durable too.
    pub(super) fn make_link_dir(&self, dir: &str) -> Result<(), StoreError> {
        let steps: &[&str] = match dir {
            TAGS => &[STREAMS, REFS, TAGS],
            IMAGES => &[IMAGES],
            _ => &[STREAMS],
        };
        for step in steps {
            beneath::make_dir(self.root(), step).map_err(|errno| self.fault(*step, errno))?;
        }
        Ok(())
    }

    /// Makes a link where there is none.
    pub(super) fn make_link<T>(&self, _: &Durable<T>, link: &Link) -> Result<Made, StoreError> {
        match beneath::make_link(self.root(), &link.path(), &link.target) {
            Ok(()) => {
                self.record(|| Op::Linked { path: link.path(), target: link.target.clone() });
                Ok(Made::New)
            }
            Err(Errno::EXIST) => Ok(Made::Exists),
            Err(errno) => Err(self.fault(link.path(), errno)),
        }
    }

    /// Makes a link, at once in the place of what has its name.
    pub(super) fn replace_link<T>(&self, durable: &Durable<T>, link: &Link) -> Result<(), StoreError> {
        if self.make_link(durable, link)? == Made::New {
            return Ok(());
        }
        let fault = |errno| self.fault(link.path(), errno);
        let scratch = self.scratch()?;
        let name = scratch.unused_name();
        fs::symlinkat(&*link.target, scratch.dir(), &*name).map_err(fault)?;
        beneath::replace(scratch.dir(), &name, self.root(), &link.path()).map_err(fault)?;
        self.record(|| Op::Linked { path: link.path(), target: link.target.clone() });
        Ok(())
    }

    /// Where a symbolic link points; `None` if there is nothing.
    fn read_link(&self, path: &str) -> Result<Option<String>, StoreError> {
        match beneath::read_link(self.root(), path) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => {
                Err(StoreError::Damaged { what: path.into(), detail: "it is no link".into() })
            }
            Err(errno) => Err(self.fault(path, errno)),
        }
    }
}

fn manifest_of(target: &str) -> Option<Digest> {
    target.strip_prefix("../../oci-manifest-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_codes_are_upstreams() {
        assert_eq!(Content::Layer.code(), composefs_oci::LAYER_CONTENT_TYPE);
        assert_eq!(Content::Blob.code(), composefs_oci::BLOB_CONTENT_TYPE);
    }

    #[test]
    fn names_that_cannot_be_stored_are_refused() {
        let long = "a".repeat(256);
        let grows = "/".repeat(100);
        for bad in ["", ".", "..", "@sha256:00", "a\0b", &long, &grows] {
            assert!(Tag::new(bad).is_err(), "{bad:?}");
        }
        let digest = Digest::of(b"").to_string();
        for bad in ["sha256:00", "sha512:", "SHA256:AB", &digest] {
            assert!(Tag::new(bad).is_err() && Tag::existing(bad).is_ok(), "{bad:?}");
        }
        for good in ["sha256:v1", "app:00", "sha256", &format!("app@{digest}"), &digest[7..]] {
            assert!(Tag::new(good).is_ok(), "{good:?}");
        }
        let tag = Tag::new("docker://quay.io/a%b:1").unwrap();
        assert_eq!(tag.file(), "docker:%2F%2Fquay.io%2Fa%25b:1");
    }
}
