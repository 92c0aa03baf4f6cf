//! Trees of files as lists of lines (composefs dumpfile): what some tars should give, and what is mounted.
//!
//! The expected tree is upstream's reading of the tars under upstream's OCI rules. The mounted one is walked
//! with `lstat`, `readlink`, `llistxattr` and by reading every file. A line names a large file's content by
//! its fs-verity digest, and a hard link by the path of the first of its names.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, OsStr},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use composefs::{
    INLINE_CONTENT_MAX_V0,
    dumpfile::write_dumpfile,
    fsverity::{Sha256HashValue, Sha512HashValue, compute_verity},
    generic_tree::{LeafId, OciTransformOptions},
    mount::MountOptions,
    repository::Repository,
    tree::{Directory, FileSystem, Inode, LeafContent, RegularFile, Stat},
};
use composefs_oci::OciImage;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::{
    image::sha256,
    oracle::{
        Algorithm, DEFAULT_KIND, Formats, RepoKind, algorithm_of, block_on, create, default_format, open,
    },
    repo::assert_same_lines,
};

type Tree = FileSystem<Sha256HashValue>;

/// The lines of the tree that these layers make, lowest first, as `format` keeps it.
pub fn expected_tree<T: AsRef<[u8]>>(tars: impl IntoIterator<Item = T>, format: Formats) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("repo");
    create(&path, RepoKind(Algorithm::Sha256, Formats::V1));
    let repo = open::<Sha256HashValue>(&path);
    let mut tree = Tree::new(Stat::uninitialized());
    for tar in tars {
        let tar = tar.as_ref();
        let diff_id = sha256(tar).parse().unwrap();
        let (stream, _) = block_on(composefs_oci::import_layer(&repo, &diff_id, None, tar))
            .unwrap_or_else(|error| panic!("{error:#}"));
        let mut entries =
            repo.open_stream("", Some(&stream), Some(composefs_oci::LAYER_CONTENT_TYPE)).unwrap();
        while let Some(entry) = composefs_oci::tar::get_entry(&mut entries).unwrap() {
            composefs_oci::image::process_entry(&mut tree, entry).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
    tree.transform_for_oci(&OciTransformOptions::default()).unwrap();
    if format == Formats::V2 {
        // Upstream's V2 writer drops fractions of a second.
        tree.for_each_stat_mut(|stat| stat.st_mtim_nsec = 0);
    }
    lines(&tree)
}

/// The lines of the tree that is at `root` now.
pub fn tree_at(root: &Path) -> Vec<String> {
    let mut walk = Walk { tree: Tree::new(Stat::uninitialized()), inodes: HashMap::new() };
    walk.tree.root = walk.folder(root);
    lines(&walk.tree)
}

fn lines(tree: &Tree) -> Vec<String> {
    let mut text = Vec::new();
    write_dumpfile(&mut text, tree).unwrap();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

struct Walk {
    tree: Tree,
    /// Leaves by inode number, to find hard links.
    inodes: HashMap<u64, LeafId>,
}

impl Walk {
    fn folder(&mut self, path: &Path) -> Directory<Sha256HashValue> {
        let mut folder = Directory::new(stat_of(path));
        for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let entry = entry.unwrap();
            let path = entry.path();
            let metadata = path.symlink_metadata().unwrap();
            let inode = match metadata.is_dir() {
                true => Inode::Directory(Box::new(self.folder(&path))),
                false => Inode::leaf(self.leaf(&path, metadata.ino())),
            };
            folder.insert(&entry.file_name(), inode);
        }
        folder
    }

    fn leaf(&mut self, path: &Path, ino: u64) -> LeafId {
        *self.inodes.entry(ino).or_insert_with(|| self.tree.push_leaf(stat_of(path), leaf_of(path)))
    }
}

fn leaf_of(path: &Path) -> LeafContent<Sha256HashValue> {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    if kind.is_symlink() {
        LeafContent::Symlink(fs::read_link(path).unwrap().into_os_string().into_boxed_os_str())
    } else if kind.is_char_device() {
        LeafContent::CharacterDevice(metadata.rdev())
    } else if kind.is_block_device() {
        LeafContent::BlockDevice(metadata.rdev())
    } else if kind.is_fifo() {
        LeafContent::Fifo
    } else if kind.is_file() {
        LeafContent::Regular(content_of(path, metadata.len()))
    } else {
        panic!("{}: {kind:?}", path.display());
    }
}

fn content_of(path: &Path, size: u64) -> RegularFile<Sha256HashValue> {
    let content = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(content.len() as u64, size, "{}: stat and read disagree", path.display());
    match content.len() {
        ..=INLINE_CONTENT_MAX_V0 => RegularFile::Inline(content.into_boxed_slice()),
        _ => RegularFile::External(compute_verity(&content), size),
    }
}

fn stat_of(path: &Path) -> Stat {
    let metadata = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Stat {
        st_mode: metadata.mode() & 0o7777,
        st_uid: metadata.uid(),
        st_gid: metadata.gid(),
        st_mtim_sec: metadata.mtime(),
        st_mtim_nsec: metadata.mtime_nsec() as u32,
        xattrs: xattrs_of(path),
    }
}

fn xattrs_of(path: &Path) -> BTreeMap<Box<OsStr>, Box<[u8]>> {
    let mut names = vec![0; 64 * 1024];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(len);
    let value_of = |name: &CStr| {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        (OsStr::from_bytes(name.to_bytes()).into(), value.into_boxed_slice())
    };
    names
        .split_inclusive(|byte| *byte == 0)
        .map(|name| value_of(CStr::from_bytes_with_nul(name).unwrap()))
        .collect()
}

/// An image that is mounted; unmounted when dropped.
pub struct Mounted(TempDir);

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Before the folder is removed: its content is not ours.
        unmount(self.0.path(), UnmountFlags::DETACH).expect("unmount");
    }
}

/// Mounts the image tagged `name` with upstream's code.
pub fn mount(repo: &Path, name: &str) -> Result<Mounted, String> {
    let target = tempfile::tempdir().unwrap();
    match algorithm_of(repo) {
        Algorithm::Sha256 => mount_at(&open::<Sha256HashValue>(repo), name, target.path()),
        Algorithm::Sha512 => mount_at(&open::<Sha512HashValue>(repo), name, target.path()),
    }
    .map_err(|error| format!("{error:#}"))?;
    Ok(Mounted(target))
}

fn mount_at<Id>(repo: &Repository<Id>, name: &str, target: &Path) -> anyhow::Result<()>
where
    Id: composefs::fsverity::FsVerityHashValue,
{
    OciImage::open_ref(repo, name)?.mount_at(repo, false, target, &MountOptions::default())
}

/// Asserts that the image tagged `name` mounts, and has the tree that these layers make.
#[track_caller]
pub fn assert_mounts<T: AsRef<[u8]>>(repo: &Path, name: &str, tars: impl IntoIterator<Item = T>) {
    let mounted = mount(repo, name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = expected_tree(tars, default_format(repo));
    assert_same_lines(name, &expected, &tree_at(mounted.path()));
}

/// Whether this process may mount EROFS and overlayfs at all: tests that need it say so and skip.
pub fn can_mount() -> bool {
    let layout = super::image::layout();
    let image = layout.image("probe").layer(super::tar::tar([super::tar::dir("usr")])).write();
    let scratch = tempfile::tempdir().unwrap();
    let repo: PathBuf = scratch.path().join("repo");
    create(&repo, DEFAULT_KIND);
    super::oracle::upstream_pull(&repo, &image.reference, "probe").unwrap();
    match mount(&repo, "probe") {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: mounting does not work here: {error}");
            false
        }
    }
}
