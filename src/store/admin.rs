//! What the verbs on a repository do: list, inspect, tag, collect. Knows upstream's functions;
//! ignores how results are shown.

use composefs::{fsverity::FsVerityHashValue, repository::GcResult};
use composefs_oci::{OciDigest, OciImage};
use rustix::{fs::FileType, io::Errno};
use serde::Serialize;

use super::{
    Document, FormatVersion, Holder, Store, StoreError, StoredDocument, StreamName, Tag, beneath, calls,
    claims,
    holders::holders,
    images::Artifact,
    links::{Link, TAGS},
    objects::object_path,
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
        self.require_inside()?;
        Ok(self.tags()?.into_iter().map(row).collect())
    }

    /// What is known of one image.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn details(&self, manifest: &Digest) -> Result<ImageDetails, StoreError> {
        self.require_inside()?;
        self.image_details(manifest).map_err(|error| StoreError::upstream(manifest.to_string(), &error))
    }

    fn image_details(&self, manifest: &Digest) -> anyhow::Result<ImageDetails> {
        self.require_image_inside(manifest)?;
        let digest = oci_digest(manifest)?;
        let referrer_count = composefs_oci::list_referrers(&self.repo, &digest)?.len();
        if let Some(artifact) = self.artifact(manifest)? {
            return Ok(ImageDetails { referrer_count, ..self.artifact_details(&artifact)? });
        }
        let image = OciImage::open(&self.repo, &digest, None)?;
        let layers = image.layer_descriptors();
        let mut stored_bytes = 0;
        for name in image.layer_diff_ids() {
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
            is_container: true,
            architecture: image.architecture(),
            os: image.os(),
            created: image.created().map(str::to_owned),
            layer_count: layers.len(),
            referrer_count,
            compressed_bytes: layers.iter().map(|layer| layer.size()).sum(),
            stored_bytes,
            fs_images: self.formats().into_iter().filter_map(fs_image).collect(),
        })
    }

    /// From its own documents: upstream reads the config of one that calls it a container's as such.
    fn artifact_details(&self, artifact: &Artifact<H>) -> Result<ImageDetails, StoreError> {
        let mut stored_bytes = 0;
        for (name, _) in &artifact.layers {
            if let Some(id) = artifact.manifest.layer(name)
                && let Opened::Stream(stream) = self.open_stream(id)?
            {
                stored_bytes += stream.total_size;
            }
        }
        Ok(ImageDetails {
            config_digest: artifact.config_digest.to_string(),
            is_container: false,
            architecture: String::new(),
            os: String::new(),
            created: None,
            layer_count: artifact.layers.len(),
            referrer_count: 0,
            compressed_bytes: artifact
                .layers
                .iter()
                .map(|(_, size)| size)
                .fold(0, |a, b| a.saturating_add(*b)),
            stored_bytes,
            fs_images: Vec::new(),
        })
    }

    /// The manifest that `name` means: a tag, or a digest written as `@sha256:…` or `sha256:…`.
    ///
    /// A digest never means a tag of the same text, which an earlier version may have made: it
    /// could be another image's.
    ///
    /// # Errors
    /// Nothing of this name.
    pub fn resolve(&self, name: &str) -> Result<Digest, StoreError> {
        let tagged = || Tag::existing(name).map_or(Ok(None), |tag| self.tagged(&tag));
        let Ok(digest) = name.strip_prefix('@').unwrap_or(name).parse::<Digest>() else {
            return tagged()?.ok_or_else(|| self.unknown(name));
        };
        if self.linked(&StreamName::Manifest(digest))?.is_some() {
            return Ok(digest);
        }
        match tagged()? {
            Some(other) => Err(StoreError::Refused(format!(
                "{}: no image has the digest {digest}, which is the name of the image {other}: untag this \
                 name",
                self.path().display()
            ))),
            None => Err(self.unknown(name)),
        }
    }

    /// Manifest, config and referrers of an image as one JSON value, like `cfsctl oci inspect`.
    ///
    /// # Errors
    /// Nothing of this name, or an image that cannot be read.
    pub fn inspect(&self, name: &str) -> Result<serde_json::Value, StoreError> {
        self.require_inside()?;
        let digest = self.resolve(name)?;
        if let Some(artifact) = self.artifact(&digest)? {
            let referrers = oci_digest(&digest)
                .and_then(|digest| composefs_oci::list_referrers(&self.repo, &digest))
                .map_err(|error| StoreError::upstream(name, &error))?;
            let referrer = |(digest, _): &(OciDigest, H)| serde_json::json!({"digest": digest});
            return Ok(serde_json::json!({
                "manifest": serde_json::from_slice::<serde_json::Value>(&artifact.manifest_json).ok(),
                // It may be anything.
                "config": serde_json::from_slice::<serde_json::Value>(&artifact.config_json).ok(),
                "referrers": referrers.iter().map(referrer).collect::<Vec<_>>(),
            }));
        }
        let image = self.open_image(name)?;
        image.inspect_json(&self.repo).map_err(|error| StoreError::upstream(name, &error))
    }

    /// Gives the image `name` (as in [`resolve`](Self::resolve)) a tag, in the place of what has it now.
    ///
    /// # Errors
    /// Nothing of this name, an image of which something is gone, a tag that cannot be stored, or a
    /// repository that cannot be written.
    pub fn tag(&self, name: &str, tag: &str) -> Result<Digest, StoreError> {
        let tag = Tag::new(tag)?;
        let manifest = self.resolve(name)?;
        self.require_writable()?;
        self.require_suitable()?;
        let link = Link::tag(&tag, &manifest);
        if self.in_place(&link)? {
            // Whoever made it may not have got that far.
            self.sync_links()?;
            return Ok(manifest);
        }
        // An image that was pulled and never tagged may not have reached the disk yet.
        let durable = self.barrier(()).map_err(|((), error)| error)?;
        // What a tag reaches is believed from then on. Asked last: a pull may replace what
        // the image names meanwhile.
        if let Some(why) = self.lack(&manifest)? {
            let shown = self.path().display();
            return Err(StoreError::Refused(format!(
                "{shown}: {name} is not whole, so it gets no tag: {why}: pull it again"
            )));
        }
        self.make_link_dir(TAGS)?;
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
        let Ok(tag) = Tag::existing(name) else { return Ok(false) };
        let path = Link::tag(&tag, &Digest::of(b"")).path();
        match beneath::unlink(self.root(), &path) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.fault(path, errno)),
        }
    }

    /// Removes what no tag reaches, links to what is gone, and what only our own folder remembers.
    /// Waits for all other users of the repository; `waiting` is called if there are any, with who they
    /// are as far as can be told.
    ///
    /// # Errors
    /// A repository that cannot be written or read.
    pub fn gc(&self, mode: GcMode, waiting: impl FnOnce(&[Holder])) -> Result<GcResult, StoreError> {
        let failed = |error: anyhow::Error| StoreError::upstream("collecting garbage", &error);
        self.require_all_inside()?;
        if mode == GcMode::DryRun {
            return self.repo.gc_dry_run(&[]).map_err(failed);
        }
        self.require_writable()?;
        let fault = |errno| self.fault("locking the repository", errno);
        // Our own lock is gone when others are asked for: changing its kind is a release first.
        calls::lock(self.root(), || waiting(&holders(self.root()))).map_err(fault)?;
        claims::sweep(self.root());
        scratch::sweep(self.root()).map_err(|errno| self.fault("cleaning cfs-dag/tmp", errno))?;
        self.release_all()?;
        // What goes must not go before the links on whose word it does are durable. Who made them last may
        // have been killed before that, or be a program that never sees to it.
        self.sync()?;
        let result = self.repo.gc(&[]).map_err(failed)?;
        self.forget_what_is_there();
        self.forget_stale_records()?;
        self.forget_ambiguities()?;
        Ok(result)
    }

    pub(super) fn open_image(&self, name: &str) -> Result<OciImage<H>, StoreError> {
        self.require_inside()?;
        let digest = self.resolve(name)?;
        self.require_image_inside(&digest)?;
        let open = || OciImage::open(&self.repo, &oci_digest(&digest)?, None);
        open().map_err(|error| StoreError::upstream(name, &error))
    }

    /// Refuses a repository in which upstream's functions, which walk paths by themselves, would
    /// come to something outside.
    pub(super) fn require_inside(&self) -> Result<(), StoreError> {
        self.refuse_link(beneath::way_out(self.root()))
    }

    /// The same for functions that come to all objects.
    pub(super) fn require_all_inside(&self) -> Result<(), StoreError> {
        self.require_inside()?;
        self.refuse_link(beneath::odd_object(self.root()))
    }

    fn refuse_link(&self, found: Result<Option<String>, (String, Errno)>) -> Result<(), StoreError> {
        match found.map_err(|(path, errno)| self.fault(path, errno))? {
            None => Ok(()),
            Some(path) => Err(StoreError::Refused(format!(
                "{}: {path} is a link that leads out of the repository, or something else that has no place \
                 in one: find \
                 out who made it, then remove it",
                self.path().display()
            ))),
        }
    }

    /// Refuses an image whose documents or filesystems upstream would find behind links.
    fn require_image_inside(&self, manifest: &Digest) -> Result<(), StoreError> {
        let Some(manifest) = self.whole(self.manifest(manifest)?)? else { return Ok(()) };
        let config = manifest.refs.keys().find_map(|name| name.strip_prefix("config:")?.parse().ok());
        let Some(config) = config else { return Ok(()) };
        let Some(config) = self.whole(self.config(&config)?)? else { return Ok(()) };
        for id in config.images().iter() {
            let found = self.object_stat(id)?;
            if found.is_some_and(|found| !FileType::from_raw_mode(found.st_mode).is_file()) {
                return Err(StoreError::Damaged { what: object_path(id), detail: "it is no file".into() });
            }
        }
        Ok(())
    }

    fn whole(&self, stored: StoredDocument<H>) -> Result<Option<Document<H>>, StoreError> {
        match stored {
            StoredDocument::Missing => Ok(None),
            StoredDocument::Whole(document) => Ok(Some(document)),
            StoredDocument::Broken { id, why } => {
                Err(StoreError::Damaged { what: object_path(&id), detail: why })
            }
        }
    }

    fn unknown(&self, name: &str) -> StoreError {
        let why = match is_shortened(name) {
            true => "a digest must be whole: `cfs-dag images --json` has them",
            false => "see `cfs-dag images` for what there is",
        };
        StoreError::Refused(format!("{}: no image {name:?} here: {why}", self.path().display()))
    }
}

/// Whether a name looks like the beginning of a digest, which is what lists show of one.
fn is_shortened(name: &str) -> bool {
    let name = name.strip_prefix('@').unwrap_or(name);
    let digits = name.strip_prefix("sha256:").unwrap_or("").trim_end_matches('…');
    (1..64).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn oci_digest(digest: &Digest) -> anyhow::Result<OciDigest> {
    Ok(digest.to_string().parse()?)
}
