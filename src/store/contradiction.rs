//! Entries that contradict what is there, in words that say what the layer needs.

use std::{
    ffi::OsStr,
    fmt,
    path::{Component, Path, PathBuf},
};

use composefs::{
    fsverity::FsVerityHashValue,
    tree::{Directory, FileSystem, Inode, LeafContent},
};

use crate::types::escape_controls;

/// Why an entry cannot be applied. Paths are printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// A directory of its path is a symlink. Docker and containerd follow it; composefs does not.
    BelowSymlink {
        /// The symlink's path.
        link: String,
        /// What it points to, as it says so.
        target: String,
        /// The path that the entry has behind the symlink.
        instead: String,
    },
    /// A directory of its path is something else.
    BelowFile {
        /// The path of what is there.
        file: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A directory that would have to be made has the name of a whiteout.
    BelowWhiteout {
        /// Its path.
        whiteout: String,
    },
    /// A hard link to nothing.
    LinkToNothing {
        /// Where it points to.
        target: String,
    },
    /// A hard link to a directory.
    LinkToDirectory {
        /// Where it points to.
        target: String,
    },
    /// A hard link whose target lies below something that is not a directory.
    LinkBelow {
        /// Where it points to.
        target: String,
        /// Why it cannot be there.
        why: Box<Contradiction>,
    },
    /// A path with a component `..`.
    ParentComponent,
    /// The root as something else than a directory.
    Root,
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowSymlink { link, target, instead } => {
                write!(f, "{link} is a symlink to {target}: the layer has to carry {instead}")
            }
            Self::BelowFile { file, kind } => {
                write!(f, "{file} is {kind} where a directory is needed: ")?;
                write!(f, "the layer has to carry a directory {file} before")
            }
            Self::BelowWhiteout { whiteout } => {
                write!(f, "{whiteout} is the name of a whiteout: a layer cannot have entries below it")
            }
            Self::LinkToNothing { target } => {
                write!(f, "a hard link to {target}, which does not exist: ")?;
                write!(f, "the layer has to carry {target} before the link")
            }
            Self::LinkToDirectory { target } => {
                write!(f, "a hard link to {target}, which is a directory: only files can have several names")
            }
            Self::LinkBelow { target, why } => match &**why {
                Self::BelowSymlink { link, target: to, instead } => {
                    write!(f, "a hard link to {target}, but {link} is a symlink to {to}: ")?;
                    write!(f, "the hard link has to name {instead}")
                }
                why => write!(f, "a hard link to {target}, but {why}"),
            },
            Self::ParentComponent => {
                write!(
                    f,
                    "a path with `..`, which would depend on what is there: the layer has to name it without"
                )
            }
            Self::Root => write!(f, "the root of the filesystem cannot be anything but a directory"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Whether there is a directory at `path`; if something else is in its way, what it is. `below` is what would
/// lie below `path`, for the words.
pub(super) fn find_directory<H: FsVerityHashValue>(
    tree: &FileSystem<H>,
    path: &Path,
    below: &Path,
) -> Result<bool, Contradiction> {
    let has_parent_component = || path.components().any(|component| component == Component::ParentDir);
    match tree.root.get_directory_opt(path.as_os_str()) {
        Ok(Some(_)) => Ok(true),
        Ok(None) if has_parent_component() => Err(Contradiction::ParentComponent),
        Ok(None) => Ok(false),
        Err(error) => {
            let in_the_way = in_the_way(tree, path, below);
            Err(in_the_way.unwrap_or_else(|| Contradiction::Other(escape_controls(&error.to_string()))))
        }
    }
}

/// What is said of a hard link to `target` that cannot be resolved, or nothing if it can.
pub(super) fn unresolved<H: FsVerityHashValue>(
    tree: &FileSystem<H>,
    target: &OsStr,
) -> Option<Contradiction> {
    let path = Path::new(target);
    let target = shown(path);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Some(Contradiction::LinkToDirectory { target });
    };
    if let Some(why) = in_the_way(tree, directory, Path::new(name)) {
        return Some(Contradiction::LinkBelow { target, why: Box::new(why) });
    }
    match tree.root.get_directory(directory.as_os_str()).ok().and_then(|directory| directory.lookup(name)) {
        Some(Inode::Directory(_)) => Some(Contradiction::LinkToDirectory { target }),
        Some(Inode::Leaf(..)) => None,
        None => Some(Contradiction::LinkToNothing { target }),
    }
}

/// The first component of `path` that is there and not a directory.
fn in_the_way<H: FsVerityHashValue>(
    tree: &FileSystem<H>,
    path: &Path,
    below: &Path,
) -> Option<Contradiction> {
    let (mut directory, mut at) = (&tree.root, PathBuf::new());
    let mut components = path.components();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => return Some(Contradiction::ParentComponent),
            _ => continue,
        };
        at.push(name);
        match directory.lookup(name) {
            Some(Inode::Directory(found)) => directory = found,
            Some(Inode::Leaf(id, _)) => {
                let content = &tree.leaves.get(id.0)?.content;
                return Some(match content {
                    LeafContent::Symlink(target) => Contradiction::BelowSymlink {
                        link: shown(&at),
                        target: escape_controls(&target.to_string_lossy()),
                        instead: shown(&resolved(&at, target).join(components.as_path()).join(below)),
                    },
                    content => Contradiction::BelowFile { file: shown(&at), kind: kind(content) },
                });
            }
            None => return None,
        }
    }
    None
}

/// Where a symlink at `link` points to, without a look at what is there, and never above the root.
fn resolved(link: &Path, target: &OsStr) -> PathBuf {
    let target = Path::new(target);
    let mut path = match link.parent() {
        Some(parent) if target.is_relative() => parent.to_owned(),
        _ => PathBuf::new(),
    };
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}

/// What a leaf is, with its article.
pub(super) fn kind<T>(content: &LeafContent<T>) -> &'static str
where
    T: FsVerityHashValue,
{
    match content {
        LeafContent::Regular(_) => "a regular file",
        LeafContent::BlockDevice(_) => "a block device",
        LeafContent::CharacterDevice(_) => "a character device",
        LeafContent::Fifo => "a named pipe",
        LeafContent::Socket => "a socket",
        LeafContent::Symlink(_) => "a symlink",
    }
}

/// What `/name` is, if it is there and not a directory: `a regular file`, `a symlink to var/run`.
pub(super) fn not_a_directory<H: FsVerityHashValue>(tree: &FileSystem<H>, name: &str) -> Option<String> {
    let Some(Inode::Leaf(id, _)) = tree.root.lookup(OsStr::new(name)) else { return None };
    match &tree.leaves.get(id.0)?.content {
        LeafContent::Symlink(target) => {
            Some(format!("a symlink to {}", escape_controls(&target.to_string_lossy())))
        }
        content => Some(kind(content).to_owned()),
    }
}

/// How many names of a device are told.
const NAMES_SHOWN: usize = 4;

/// Some names of a character device 0:0 that has several, in order; an EROFS image of composefs cannot hold
/// it, since overlayfs takes such a device for a whiteout.
pub(super) fn linked_whiteout<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Option<Vec<String>> {
    let mut devices = tree
        .leaves
        .iter()
        .enumerate()
        .filter(|(_, leaf)| matches!(leaf.content, LeafContent::CharacterDevice(0)));
    devices.next()?;
    let nlinks = tree.nlinks();
    let is_wanted = |id: usize| {
        nlinks.get(id).is_some_and(|links| *links > 1)
            && matches!(tree.leaves[id].content, LeafContent::CharacterDevice(0))
    };
    let wanted = (0..tree.leaves.len()).find(|id| is_wanted(*id))?;
    let mut names = Vec::new();
    names_of(&tree.root, wanted, &mut PathBuf::new(), &mut names);
    Some(names)
}

fn names_of<H: FsVerityHashValue>(
    directory: &Directory<H>,
    wanted: usize,
    at: &mut PathBuf,
    names: &mut Vec<String>,
) {
    for (name, inode) in directory.sorted_entries() {
        if names.len() == NAMES_SHOWN {
            return;
        }
        at.push(name);
        match inode {
            Inode::Directory(directory) => names_of(directory, wanted, at, names),
            Inode::Leaf(id, _) if id.0 == wanted => names.push(shown(at)),
            Inode::Leaf(..) => {}
        }
        at.pop();
    }
}

/// `path` as people read it: without the slash that is not the tar's, and on one line whatever its name is.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.trim_start_matches('/') {
        "" => "/".to_owned(),
        text => escape_controls(text),
    }
}
