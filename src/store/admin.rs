//! What the verbs on a repository do: list, inspect, tag, collect, mount. Knows upstream's functions;
//! ignores how results are shown.

use std::path::Path;

use composefs::{fsverity::FsVerityHashValue, mount::MountOptions, repository::GcResult};
use composefs_oci::{OciDigest, OciImage};
use rustix::{
    fs::{AtFlags, FlockOperation, unlinkat},
    io::Errno,
};
use serde::Serialize;

use super::{
    FormatVersion, Holder, Store, StoreError, StreamName, Tag, calls, claims,
    error::errno_in,
    holders::holders,
    links::{Link, TAGS},
    scratch,
    stream::Opened,
};
use crate::types::Digest;

/// One tag in a list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRow {
    /// The tag.
    pub name: String,
    /// The manifest's digest.
    pub manifest_digest: Digest,
    /// The rest.
    #[serde(flatten)]
    pub details: RowDetails,
}

/// What is known of a listed image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RowDetails {
    /// What its documents say.
    Read(ImageDetails),
    /// Nothing: it cannot be read.
    Unreadable {
        /// Why, on one line.
        error: String,
    },
}

/// What an image's documents say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    /// The config's digest.
    pub config_digest: String,
    /// An image, as opposed to an artifact.
    pub is_container: bool,
    /// Empty for artifacts.
    pub architecture: String,
    /// Empty for artifacts.
    pub os: String,
    /// When it was made, as it says itself.
    pub created: Option<String>,
    /// Number of layers.
    pub layer_count: usize,
    /// Number of artifacts that refer to it.
    pub referrer_count: usize,
    /// Sum of its layers as transferred, in bytes.
    pub compressed_bytes: u64,
    /// Sum of its layers as stored (tars, artifact blobs), in bytes; a layer used twice counts twice.
    pub stored_bytes: u64,
    /// Its filesystem images in hexadecimal, by format.
    pub fs_images: Vec<FsImageRow>,
}

/// A filesystem image of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FsImageRow {
    /// 0, 1 or 2.
    pub format: u8,
    /// Its id.
    pub id: String,
}

/// How [`Store::gc`] goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcMode {
    /// Only says what would go.
    DryRun,
    /// Removes what no tag reaches.
    Remove,
}

impl<H: FsVerityHashValue> Store<H> {
    /// All tags with what is known of their images, sorted by name.
    ///
    /// # Errors
    /// The system's; an unreadable image is a row, not an error.
    pub fn list_images(&self) -> Result<Vec<ImageRow>, StoreError> {
        let row = |(name, manifest_digest): (String, Digest)| {
            let details = match self.image_details(&manifest_digest) {
                Ok(details) => RowDetails::Read(details),
                Err(error) => RowDetails::Unreadable { error: format!("{error:#}").replace('\n', " ") },
            };
            ImageRow { name, manifest_digest, details }
        };
        Ok(self.tags()?.into_iter().map(row).collect())
    }

    /// What is known of one image.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn details(&self, manifest: &Digest) -> Result<ImageDetails, StoreError> {
        self.image_details(manifest).map_err(|error| StoreError::upstream(manifest.to_string(), &error))
    }

    fn image_details(&self, manifest: &Digest) -> anyhow::Result<ImageDetails> {
        let digest = oci_digest(manifest)?;
        let image = OciImage::open(&self.repo, &digest, None)?;
        let layers = image.layer_descriptors();
        let mut stored_bytes = 0;
        let names: Vec<String> = if image.is_container_image() {
            image.layer_diff_ids().into_iter().map(str::to_owned).collect()
        } else {
            layers.iter().map(|layer| layer.digest().to_string()).collect()
        };
        for name in &names {
            if let Some(id) = image.layer_verity(name)
                && let Opened::Stream(stream) = self.open_stream(id)?
            {
                stored_bytes += stream.total_size;
            }
        }
        let fs_image = |version: FormatVersion| {
            let id = image.image_ref(version)?.to_hex();
            Some(FsImageRow { format: version as u8, id })
        };
        Ok(ImageDetails {
            config_digest: image.config_digest().to_string(),
            is_container: image.is_container_image(),
            architecture: image.architecture(),
            os: image.os(),
            created: image.created().map(str::to_owned),
            layer_count: layers.len(),
            referrer_count: composefs_oci::list_referrers(&self.repo, &digest)?.len(),
            compressed_bytes: layers.iter().map(|layer| layer.size()).sum(),
            stored_bytes,
            fs_images: self.formats().into_iter().filter_map(fs_image).collect(),
        })
    }

    /// The manifest that `name` means: a tag, or a digest written as `@sha256:…` or `sha256:…`.
    ///
    /// # Errors
    /// Nothing of this name.
    pub fn resolve(&self, name: &str) -> Result<Digest, StoreError> {
        if let Ok(tag) = Tag::new(name)
            && let Some(digest) = self.tagged(&tag)?
        {
            return Ok(digest);
        }
        if let Ok(digest) = name.strip_prefix('@').unwrap_or(name).parse::<Digest>()
            && self.linked(&StreamName::Manifest(digest))?.is_some()
        {
            return Ok(digest);
        }
        Err(self.unknown(name))
    }

    /// Manifest, config and referrers of an image as one JSON value, like `cfsctl oci inspect`.
    ///
    /// # Errors
    /// Nothing of this name, or an image that cannot be read.
    pub fn inspect(&self, name: &str) -> Result<serde_json::Value, StoreError> {
        let image = self.open_image(name)?;
        image.inspect_json(&self.repo).map_err(|error| StoreError::upstream(name, &error))
    }

    /// Gives the image `name` (as in [`resolve`](Self::resolve)) a tag, in the place of what has it now.
    ///
    /// # Errors
    /// Nothing of this name, a tag that cannot be stored, or a repository that cannot be written.
    pub fn tag(&self, name: &str, tag: &str) -> Result<Digest, StoreError> {
        let tag = Tag::new(tag)?;
        let manifest = self.resolve(name)?;
        self.require_writable()?;
        let link = Link::tag(&tag, &manifest);
        if self.in_place(&link)? {
            return Ok(manifest);
        }
        self.make_link_dir(TAGS)?;
        // An image that was pulled and never tagged may not have reached the disk yet.
        let durable =
            self.barrier(()).map_err(|((), errno)| self.fault("syncing the repository to disk", errno))?;
        self.replace_link(&durable, &link)?;
        self.sync_dir(TAGS)?;
        Ok(manifest)
    }

    /// Takes a tag away; what only it kept goes at the next gc.
    ///
    /// # Errors
    /// No such tag, or a repository that cannot be written.
    pub fn untag(&self, name: &str) -> Result<(), StoreError> {
        self.require_writable()?;
        if !self.remove_tag(name)? {
            return Err(self.unknown(name));
        }
        self.sync_dir(TAGS)
    }

    /// Takes several tags away, and gives those that were there. Durable when it returns.
    ///
    /// # Errors
    /// A repository that cannot be written; some may be gone then.
    pub fn untag_all<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, StoreError> {
        self.require_writable()?;
        let mut removed = Vec::new();
        let remove_all = || {
            for name in names {
                if self.remove_tag(name)? {
                    removed.push(name.to_owned());
                }
            }
            Ok(())
        };
        let result = remove_all();
        if !removed.is_empty() {
            self.sync_dir(TAGS)?;
        }
        result.map(|()| removed)
    }

    /// Whether there was such a tag, which is gone now.
    fn remove_tag(&self, name: &str) -> Result<bool, StoreError> {
        // A name that could not be stored cannot be there either.
        let Ok(tag) = Tag::new(name) else { return Ok(false) };
        let path = Link::tag(&tag, &Digest::of(b"")).path();
        match unlinkat(self.root(), &*path, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.fault(path, errno)),
        }
    }

    /// Removes what no tag reaches, links to what is gone, and what only our own folder remembers. Waits for all
    /// other users of the repository; `waiting` is called if there are any, with who they are as far as can be told.
    ///
    /// # Errors
    /// A repository that cannot be written or read.
    pub fn gc(&self, mode: GcMode, waiting: impl FnOnce(&[Holder])) -> Result<GcResult, StoreError> {
        let failed = |error: anyhow::Error| StoreError::upstream("collecting garbage", &error);
        if mode == GcMode::DryRun {
            return self.repo.gc_dry_run(&[]).map_err(failed);
        }
        self.require_writable()?;
        let fault = |errno| self.fault("locking the repository", errno);
        match calls::flock(self.root(), FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                // Our own lock is gone by now: changing its kind is a release first.
                waiting(&holders(self.root()));
                calls::flock(self.root(), FlockOperation::LockExclusive).map_err(fault)?;
            }
            locked => locked.map_err(fault)?,
        }
        claims::sweep(self.root());
        scratch::sweep(self.root()).map_err(|errno| self.fault("cleaning cfs-dag/tmp", errno))?;
        self.release_all()?;
        let result = self.repo.gc(&[]).map_err(failed)?;
        self.forget_what_is_there();
        self.forget_stale_records()?;
        Ok(result)
    }

    /// Mounts an image's filesystem at `target`, read-only.
    ///
    /// # Errors
    /// Nothing of this name, an image without a filesystem image, or what the kernel refuses.
    pub fn mount_at(&self, name: &str, target: &Path) -> Result<(), StoreError> {
        let image = self.open_image(name)?;
        // Upstream's words for these two name neither the place nor what to do.
        if !target.is_dir() {
            let shown = target.display();
            return Err(StoreError::Refused(format!("{shown}: no such directory: make it first")));
        }
        if !image.is_container_image() {
            return Err(StoreError::Refused(format!("{name}: an artifact has no filesystem to mount")));
        }
        image.mount_at(&self.repo, false, target, &MountOptions::default()).map_err(|error| {
            let what = format!("mounting {name} at {}", target.display());
            match errno_in(&error) {
                Some(Errno::PERM | Errno::ACCESS) if !rustix::process::geteuid().is_root() => {
                    StoreError::Refused(format!("{what}: not permitted: mounting needs root"))
                }
                _ => StoreError::upstream(what, &error),
            }
        })
    }

    fn open_image(&self, name: &str) -> Result<OciImage<H>, StoreError> {
        let digest = self.resolve(name)?;
        let open = || OciImage::open(&self.repo, &oci_digest(&digest)?, None);
        open().map_err(|error| StoreError::upstream(name, &error))
    }

    fn unknown(&self, name: &str) -> StoreError {
        StoreError::Refused(format!(
            "{}: no image {name:?} here: see `cfs-dag images` for what there is",
            self.path().display()
        ))
    }
}

fn oci_digest(digest: &Digest) -> anyhow::Result<OciDigest> {
    Ok(digest.to_string().parse()?)
}
