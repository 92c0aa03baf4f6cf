//! An image's filesystem out of its layers' entries, by upstream's OCI rules, and its EROFS bytes. Knows
//! whiteouts through upstream; ignores where entries come from.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use composefs::{
    erofs::{
        format::FormatVersion,
        writer::{ValidatedFileSystem, mkfs_erofs_versioned},
    },
    fsverity::FsVerityHashValue,
    generic_tree::OciTransformOptions,
    tree::{FileSystem, LeafContent, Stat},
};
use composefs_oci::{
    image::process_entry,
    tar::{TarEntry, TarItem},
};

use super::opaque::{Markers, Role};
use crate::types::Ambiguity;

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
pub struct FilesystemBuilder<H: FsVerityHashValue> {
    tree: FileSystem<H>,
    markers: Markers,
    /// The directory of the entry before, if that added something: most entries are in the same.
    parent: Option<PathBuf>,
}

/// A filesystem that can be written as EROFS.
pub struct Filesystem<H: FsVerityHashValue>(ValidatedFileSystem<H>);

impl<H: FsVerityHashValue> Default for FilesystemBuilder<H> {
    fn default() -> Self {
        let tree = FileSystem::new(Stat::uninitialized());
        Self { tree, markers: Markers::default(), parent: None }
    }
}

impl<H: FsVerityHashValue> FilesystemBuilder<H> {
    /// Says that the entries that follow are of another layer.
    pub fn begin_layer(&mut self) {
        self.markers.begin_layer();
        self.parent = None;
    }

    /// What other programs apply differently than upstream, of all entries so far: at most 16 findings.
    pub fn ambiguities(&self) -> &[Ambiguity] {
        self.markers.found()
    }

    /// Applies an entry: adds, replaces or removes.
    ///
    /// # Errors
    /// An entry that contradicts those before it, like a file below a file, or that no EROFS image can hold.
    pub fn add(&mut self, entry: TarEntry<H>) -> Result<(), FilesystemError> {
        let path = entry.path.clone();
        check(&entry)
            .map_err(|detail| FilesystemError::Entry { path: path.clone(), detail: detail.into() })?;
        self.note(&path);
        process_entry(&mut self.tree, entry).map_err(|error| {
            let detail = error.root_cause().to_string();
            FilesystemError::Entry { path, detail }
        })
    }

    /// Keeps account of opaque markers and of what comes before them.
    fn note(&mut self, path: &Path) {
        let Some(directory) = path.parent() else { return };
        match Role::of(path) {
            Role::Adds if self.parent.as_deref() == Some(directory) => return,
            Role::Adds => {
                self.markers.note(directory);
                self.parent = Some(directory.to_owned());
                return;
            }
            Role::OpaqueMarker => self.markers.judge(directory),
            Role::Whiteout => {}
        }
        self.parent = None;
    }

    /// Ends the tree as upstream does: `transform_for_oci`, then its checks.
    ///
    /// # Errors
    /// No `/usr`, or a tree that EROFS cannot hold.
    pub fn finish(mut self) -> Result<Filesystem<H>, FilesystemError> {
        if !matches!(self.tree.root.get_directory_opt("/usr".as_ref()), Ok(Some(_))) {
            return Err(FilesystemError::NoUsr);
        }
        let invalid = |detail: String| FilesystemError::Invalid(detail);
        self.tree.transform_for_oci(&OciTransformOptions::default()).map_err(|e| invalid(e.to_string()))?;
        let valid = ValidatedFileSystem::new(self.tree).map_err(|e| invalid(format!("{e:#}")))?;
        Ok(Filesystem(valid))
    }
}

/// The kernel's limits, on which EROFS relies (linux/limits.h, erofs_fs.h). Upstream's writer has none: it panics at a
/// device number or a name that is too large, and cuts off lengths, so that the image is corrupt.
const NAME_MAX: usize = 255;
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = u16::MAX as usize;
/// Attributes of one file: how many an inode can count, and bytes of them, less room for the few that upstream adds.
const XATTRS_MAX: usize = 250;
const XATTRS_SIZE_MAX: usize = 4 * u16::MAX as usize - 4096;

/// What of an entry no image can hold, if anything.
fn check<H: FsVerityHashValue>(entry: &TarEntry<H>) -> Result<(), &'static str> {
    let names = entry.path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    });
    // A whiteout is as long as what it hides, and its prefix.
    let mut lengths = names.map(|name| name.strip_prefix(b".wh.").unwrap_or(name).len());
    if lengths.any(|length| length > NAME_MAX) {
        return Err("a name has more than 255 bytes");
    }
    if let TarItem::Leaf(LeafContent::CharacterDevice(number) | LeafContent::BlockDevice(number)) = entry.item
        && u32::try_from(number).is_err()
    {
        return Err("its device number has more than 32 bits");
    }
    let xattrs = &entry.stat.xattrs;
    let fits = |name: usize, value: usize| name <= XATTR_NAME_MAX && value <= XATTR_SIZE_MAX;
    // Each has a header of four bytes and is rounded up to four.
    let size: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + 7).sum();
    let all_fit = xattrs.iter().all(|(name, value)| fits(name.len(), value.len()));
    match all_fit && xattrs.len() <= XATTRS_MAX && size <= XATTRS_SIZE_MAX {
        true => Ok(()),
        false => Err("its extended attributes are larger than a filesystem image can hold"),
    }
}

impl<H: FsVerityHashValue> Filesystem<H> {
    /// The EROFS image in `format`; its fs-verity digest is the image's id.
    pub fn erofs(&self, format: FormatVersion) -> Box<[u8]> {
        mkfs_erofs_versioned(&self.0, format)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsStr};

    use composefs::fsverity::Sha256HashValue;

    use super::*;

    fn entry(
        path: &str,
        item: TarItem<Sha256HashValue>,
        xattrs: &[(String, usize)],
    ) -> TarEntry<Sha256HashValue> {
        let xattr = |(name, len): &(String, usize)| {
            (Box::from(OsStr::new(name)), vec![b'x'; *len].into_boxed_slice())
        };
        let xattrs: BTreeMap<_, _> = xattrs.iter().map(xattr).collect();
        let stat = Stat { st_mode: 0o755, xattrs, ..Stat::uninitialized() };
        TarEntry { path: path.into(), stat, item }
    }

    fn image(entry: TarEntry<Sha256HashValue>) -> Result<(), FilesystemError> {
        let mut builder = FilesystemBuilder::default();
        builder.add(self::entry("/usr", TarItem::Directory, &[]))?;
        builder.add(entry)?;
        let filesystem = builder.finish()?;
        for format in [FormatVersion::V1, FormatVersion::V2] {
            assert!(!filesystem.erofs(format).is_empty());
        }
        Ok(())
    }

    #[test]
    fn late_opaque_markers_are_collected_and_applied_as_upstream_does() {
        let mut builder = FilesystemBuilder::default();
        let mut layer = |paths: &[&str]| {
            builder.begin_layer();
            for path in paths {
                builder.add(entry(path, TarItem::Directory, &[])).unwrap();
            }
            builder.ambiguities().len()
        };
        assert_eq!(layer(&["/usr", "/usr/d", "/usr/d/old", "/usr/e"]), 0);
        assert_eq!(layer(&["/usr/d", "/usr/d/.wh..wh..opq", "/usr/d/new"]), 0);
        assert_eq!(layer(&["/usr/d/newer", "/usr/f", "/usr/d/.wh.old", "/usr/d/.wh..wh..opq"]), 1);
        assert_eq!(layer(&["/usr/e/f", "/usr/e/g", "/usr/e/.wh..wh..opq", "/usr/e/h"]), 2);
        let paths: Vec<_> = builder.ambiguities().iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["usr/d", "usr/e"]);
        let names = |path: &str| -> Vec<_> {
            let directory = builder.tree.root.get_directory(path.as_ref()).unwrap();
            directory.sorted_entries().map(|(name, _)| name.to_owned()).collect()
        };
        assert!(names("usr/d").is_empty());
        assert_eq!(names("usr/e"), ["h"]);
    }

    #[test]
    fn what_no_image_can_hold_is_refused_and_what_is_just_small_enough_is_not() {
        let device = |number| entry("/usr/null", TarItem::Leaf(LeafContent::CharacterDevice(number)), &[]);
        let named = |len| entry(&format!("/usr/{}", "n".repeat(len)), TarItem::Directory, &[]);
        let hidden = |len| entry(&format!("/usr/.wh.{}", "n".repeat(len)), TarItem::Directory, &[]);
        let with = |xattrs: &[(String, usize)]| entry("/usr/d", TarItem::Directory, xattrs);
        let name = |len: usize| format!("user.{}", "n".repeat(len - 5));
        let many = |count: usize, len| -> Vec<_> {
            (0..count).map(|number| (format!("user.{number:05}"), len)).collect()
        };
        for (fits, entry) in [
            (true, device(u64::from(u32::MAX))),
            (false, device(1 << 32)),
            (true, named(255)),
            (false, named(256)),
            (false, named(5000)),
            (true, hidden(255)),
            (false, hidden(256)),
            (true, with(&[(name(255), 65_535)])),
            (false, with(&[(name(256), 1)])),
            (false, with(&[(name(6), 65_536)])),
            (true, with(&many(250, 8))),
            (false, with(&many(251, 8))),
            (false, with(&many(5, 60_000))),
        ] {
            let path = entry.path.clone();
            let made = image(entry);
            assert_eq!(made.is_ok(), fits, "{}: {made:?}", path.display());
        }
    }
}
