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
    generic_tree::{OciTransformOptions, is_allowed_container_xattr},
    tree::{Directory, FileSystem, ImageError, Inode, LeafContent, Stat},
};
use composefs_oci::{
    image::process_entry,
    tar::{TarEntry, TarItem},
};

use super::{
    contradiction::{Contradiction, find_directory, linked_whiteout, not_a_directory, shown, unresolved},
    opaque::{Markers, Role, is_whiteout},
};
use crate::types::Ambiguity;

/// Why layers make no filesystem.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// An entry that contradicts those before it, or that no image can hold.
    #[error("{}: {why}", shown(path))]
    Entry {
        /// The entry's path.
        path: PathBuf,
        /// What is wrong with it.
        why: Box<Contradiction>,
    },
    /// `/run`, which is emptied, is not a directory.
    #[error(
        "/run is {0} where a directory is needed, since it is emptied (cfsctl does so, too): make it a \
         directory in the \
         image"
    )]
    Run(String),
    /// A device that marks a whiteout and has several names: some of them.
    #[error(
        "{}: a device 0:0 with several names ({}) cannot be stored: give each name a device of its own",
        .0.first().map_or("", String::as_str), .0.join(", ")
    )]
    LinkedWhiteout(Vec<String>),
    /// A tree that EROFS cannot hold.
    #[error("the filesystem is not valid: {0}")]
    Invalid(String),
}

/// A filesystem in the making: entries of all layers, bottom layer first, each in tar order.
pub struct FilesystemBuilder<H: FsVerityHashValue> {
    tree: FileSystem<H>,
    markers: Markers,
    made: MadeParents,
    /// The directory of the entry before, if that added something: most entries are in the same.
    parent: Option<PathBuf>,
}

/// Directories that no layer has an entry for, made because an entry lies below them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MadeParents {
    /// How many.
    pub entries: u64,
    /// Bytes of their paths.
    pub path_bytes: u64,
}

/// A filesystem that can be written as EROFS.
pub struct Filesystem<H: FsVerityHashValue>(ValidatedFileSystem<H>);

impl<H: FsVerityHashValue> Default for FilesystemBuilder<H> {
    fn default() -> Self {
        let tree = FileSystem::new(Stat::uninitialized());
        Self { tree, markers: Markers::default(), made: MadeParents::default(), parent: None }
    }
}

impl<H: FsVerityHashValue> FilesystemBuilder<H> {
    /// Says that the entries that follow are of another layer.
    pub fn begin_layer(&mut self) {
        self.markers.begin_layer();
        self.parent = None;
    }

    /// What other programs apply differently than upstream, of the entries of this layer so
    /// far: at most 16 findings.
    pub fn ambiguities(&self) -> &[Ambiguity] {
        self.markers.found()
    }

    /// The parent directories that were made so far. An entry can add half as many as its path has bytes.
    pub fn made_parents(&self) -> MadeParents {
        self.made
    }

    /// Applies an entry: adds, replaces or removes. Parent directories that are missing are made, with mode
    /// 0755, owner 0:0, time 0 and no extended attributes; docker, podman and containerd make them, too,
    /// but with the current time.
    ///
    /// # Errors
    /// An entry that contradicts those before it, like a file below a file, or that no EROFS image can hold.
    pub fn add(&mut self, entry: TarEntry<H>) -> Result<(), FilesystemError> {
        let path = entry.path.clone();
        let added = match check(&entry) {
            Err(words) => Err(Contradiction::Other(words.to_owned())),
            Ok(()) => self.apply(entry, &path),
        };
        added.map_err(|why| FilesystemError::Entry { path, why: Box::new(why) })
    }

    fn apply(&mut self, entry: TarEntry<H>, path: &Path) -> Result<(), Contradiction> {
        let role = Role::of(path);
        if let Some((directory, name)) = path.parent().zip(path.file_name()) {
            let is_same =
                self.parent.as_ref().is_some_and(|parent| parent.as_os_str() == directory.as_os_str());
            if role != Role::Adds {
                self.parent = None;
                if !find_directory(&self.tree, directory, Path::new(name))? {
                    // There is nothing to be removed, and a directory for it would be one that no layer has.
                    return Ok(());
                }
                if role == Role::OpaqueMarker {
                    self.markers.judge(directory);
                }
            } else if !is_same {
                self.parent = None;
                if !find_directory(&self.tree, directory, Path::new(name))? {
                    self.make(directory)?;
                }
                self.markers.note(directory);
                self.parent = Some(directory.to_owned());
            }
        } else if !matches!(entry.item, TarItem::Directory) {
            return Err(Contradiction::Root);
        }
        let target = match &entry.item {
            TarItem::Hardlink(target) => Some(target.clone()),
            _ => None,
        };
        process_entry(&mut self.tree, entry).map_err(|error| {
            let unresolved = target.and_then(|target| unresolved(&self.tree, &target));
            unresolved.unwrap_or_else(|| Contradiction::Other(error.root_cause().to_string()))
        })
    }

    /// Makes the directory at `path` and those above, as far as they are missing.
    fn make(&mut self, path: &Path) -> Result<(), Contradiction> {
        let other = |error: ImageError| Contradiction::Other(error.to_string());
        let (mut directory, mut path_bytes) = (&mut self.tree.root, 0);
        for (depth, component) in path.components().enumerate() {
            let Component::Normal(name) = component else { continue };
            // With the slash before it; the first has none in a tar.
            path_bytes += name.len() as u64 + 1;
            if directory.lookup(name).is_none() {
                if is_whiteout(name.as_bytes()) {
                    let whiteout: PathBuf = path.components().take(depth + 1).collect();
                    return Err(Contradiction::BelowWhiteout { whiteout: shown(&whiteout) });
                }
                directory.insert(name, Inode::Directory(Box::new(Directory::new(plain_directory()))));
                self.made.entries += 1;
                self.made.path_bytes += path_bytes - 1;
            }
            directory = directory.get_directory_mut(name).map_err(other)?;
        }
        Ok(())
    }

    /// Ends the tree as upstream does, by `transform_for_oci`, then checks it. An image without a directory
    /// `/usr`, from which upstream takes the metadata of the root, gets a root with mode 0755, owner 0:0,
    /// time 0 and no extended attributes.
    ///
    /// # Errors
    /// A `/run` that cannot be emptied, or a tree that EROFS cannot hold.
    pub fn finish(mut self) -> Result<Filesystem<H>, FilesystemError> {
        if let Some(what) = not_a_directory(&self.tree, "run") {
            return Err(FilesystemError::Run(what));
        }
        let invalid = |detail: String| FilesystemError::Invalid(detail);
        match self.tree.root.get_directory_opt("/usr".as_ref()) {
            Ok(Some(_)) => {
                let transformed = self.tree.transform_for_oci(&OciTransformOptions::default());
                transformed.map_err(|e| invalid(e.to_string()))?;
            }
            _ => transform_without_usr(&mut self.tree),
        }
        if let Some(names) = linked_whiteout(&self.tree) {
            return Err(FilesystemError::LinkedWhiteout(names));
        }
        let valid = ValidatedFileSystem::new(self.tree).map_err(|e| invalid(format!("{e:#}")))?;
        Ok(Filesystem(valid))
    }
}

/// What upstream's `transform_for_oci` does where there is no `/usr` to take metadata from, with fixed
/// metadata in its place. That of a root entry would not do: runtimes ignore it, and build tools write it or
/// not (see upstream's `copy_root_metadata_from_usr`), so that the image's id would depend on the tool.
fn transform_without_usr<H: FsVerityHashValue>(tree: &mut FileSystem<H>) {
    tree.set_root_stat(plain_directory());
    if let Ok(run) = tree.root.get_directory_mut("run".as_ref()) {
        (run.stat.st_mtim_sec, run.stat.st_mtim_nsec) = (0, 0);
        run.clear();
    }
    tree.filter_xattrs(is_allowed_container_xattr);
    tree.compact();
}

/// Of directories that no entry describes.
fn plain_directory() -> Stat {
    Stat { st_mode: 0o755, ..Stat::uninitialized() }
}

/// The kernel's limits, on which EROFS relies (linux/limits.h, erofs_fs.h). Upstream's writer has none: it
/// panics at a device number or a name that is too large, and cuts off lengths, so that the image is corrupt.
const NAME_MAX: usize = 255;
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = u16::MAX as usize;
/// Attributes of one file: how many an inode can count, and bytes of them, less room for
/// the few that upstream adds.
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
mod tests;
