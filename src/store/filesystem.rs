//! An image's filesystem out of its layers' entries, by upstream's OCI rules, and its EROFS bytes. Knows
//! whiteouts through upstream; ignores where entries come from.

use std::path::PathBuf;

use composefs::{
    erofs::{
        format::FormatVersion,
        writer::{ValidatedFileSystem, mkfs_erofs_versioned},
    },
    fsverity::FsVerityHashValue,
    generic_tree::OciTransformOptions,
    tree::{FileSystem, Stat},
};
use composefs_oci::{image::process_entry, tar::TarEntry};

/// Why layers make no filesystem.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// Root metadata is taken from `/usr`; an image without one is not supported, upstream neither.
    #[error("the image has no /usr directory: only images with one can be stored as a composefs filesystem")]
    NoUsr,
    /// An entry that contradicts those before it.
    #[error("{path:?} cannot be applied: {detail}")]
    Entry {
        /// The entry's path.
        path: PathBuf,
        /// Upstream's reason.
        detail: String,
    },
    /// A tree that EROFS cannot hold.
    #[error("the filesystem is not valid: {0}")]
    Invalid(String),
}

/// A filesystem in the making: entries of all layers, bottom layer first, each in tar order.
pub struct FilesystemBuilder<H: FsVerityHashValue>(FileSystem<H>);

/// A filesystem that can be written as EROFS.
pub struct Filesystem<H: FsVerityHashValue>(ValidatedFileSystem<H>);

impl<H: FsVerityHashValue> Default for FilesystemBuilder<H> {
    fn default() -> Self {
        Self(FileSystem::new(Stat::uninitialized()))
    }
}

impl<H: FsVerityHashValue> FilesystemBuilder<H> {
    /// Applies an entry: adds, replaces or removes.
    ///
    /// # Errors
    /// An entry that contradicts those before it, like a file below a file.
    pub fn add(&mut self, entry: TarEntry<H>) -> Result<(), FilesystemError> {
        let path = entry.path.clone();
        process_entry(&mut self.0, entry).map_err(|error| {
            let detail = error.root_cause().to_string();
            FilesystemError::Entry { path, detail }
        })
    }

    /// Ends the tree as upstream does: `transform_for_oci`, then its checks.
    ///
    /// # Errors
    /// No `/usr`, or a tree that EROFS cannot hold.
    pub fn finish(mut self) -> Result<Filesystem<H>, FilesystemError> {
        if !matches!(self.0.root.get_directory_opt("/usr".as_ref()), Ok(Some(_))) {
            return Err(FilesystemError::NoUsr);
        }
        let invalid = |detail: String| FilesystemError::Invalid(detail);
        self.0.transform_for_oci(&OciTransformOptions::default()).map_err(|e| invalid(e.to_string()))?;
        let valid = ValidatedFileSystem::new(self.0).map_err(|e| invalid(format!("{e:#}")))?;
        Ok(Filesystem(valid))
    }
}

impl<H: FsVerityHashValue> Filesystem<H> {
    /// The EROFS image in `format`; its fs-verity digest is the image's id.
    pub fn erofs(&self, format: FormatVersion) -> Box<[u8]> {
        mkfs_erofs_versioned(&self.0, format)
    }
}
