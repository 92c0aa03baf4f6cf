//! A tar entry as a filesystem sees it. Knows how headers become metadata, exactly as upstream reads them;
//! ignores whiteouts and merging.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use composefs::{
    INLINE_CONTENT_MAX_V0,
    fsverity::FsVerityHashValue,
    tree::{LeafContent, RegularFile, Stat},
};
use tar_core::{EntryType, PaxExtensions, parse::ParsedEntry};

/// One entry of a layer, in tar order.
#[derive(Debug, Clone)]
pub struct Entry<H: FsVerityHashValue> {
    /// Absolute, without a slash at the end; empty for the root.
    pub path: PathBuf,
    /// Mode, owner, time and extended attributes.
    pub stat: Stat,
    /// What it is.
    pub item: Item<H>,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub enum Item<H: FsVerityHashValue> {
    /// A directory.
    Directory,
    /// A file, link or device of its own.
    Leaf(LeafContent<H>),
    /// Another name of the file at this path.
    Hardlink(OsString),
}

/// Why an entry cannot be in a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A type that no filesystem has.
    #[error("{path:?} is {kind}: such tar entries are not supported, rebuild the layer without it")]
    UnknownType {
        /// The entry's path.
        path: PathBuf,
        /// What its type stands for.
        kind: String,
    },
    /// A device entry without device numbers.
    #[error("{0:?} is a device without device numbers")]
    DeviceWithoutNumbers(PathBuf),
}

/// What an extended attribute takes besides its name and value, in bytes: its place in a B-tree node, which
/// is half full when names came in order (60), and what two small allocations are rounded up to.
const PER_XATTR: usize = 72;

/// About how many bytes of memory an extended attribute takes, by the lengths of its name and value.
pub(super) fn xattr_footprint(name_bytes: usize, value_bytes: usize) -> usize {
    name_bytes + value_bytes + PER_XATTR
}

/// About how many bytes of memory the extended attributes of an entry take.
pub fn xattrs_footprint(stat: &Stat) -> usize {
    stat.xattrs.iter().map(|(name, value)| xattr_footprint(name.len(), value.len())).sum()
}

/// Whether a file of `size` bytes becomes an object; smaller ones stay inside the stream.
pub(super) fn is_external(size: u64) -> bool {
    size > INLINE_CONTENT_MAX_V0 as u64
}

/// What a header promises before the content is read.
pub(super) enum Content {
    /// Nothing that the filesystem keeps.
    None,
    /// A file that stays inside the stream: its bytes belong to the entry.
    Inline,
    /// A file that becomes an object.
    External,
}

/// The entry of a header; a file's content is filled in later.
///
/// # Errors
/// A type that no filesystem has, or a device without numbers.
pub(super) fn entry<H: FsVerityHashValue>(
    parsed: &ParsedEntry<'_>,
) -> Result<(Entry<H>, Content), EntryError> {
    let path = absolute(&parsed.path);
    let target = || parsed.link_target.as_deref().unwrap_or_default();
    let device = || match (parsed.dev_major, parsed.dev_minor) {
        (Some(major), Some(minor)) => Ok(rustix::fs::makedev(major, minor)),
        _ => Err(EntryError::DeviceWithoutNumbers(path.clone())),
    };
    let mut content = Content::None;
    let item = match parsed.entry_type {
        EntryType::Directory => Item::Directory,
        EntryType::Regular | EntryType::Continuous if is_external(parsed.size) => {
            content = Content::External;
            Item::Leaf(LeafContent::Regular(RegularFile::External(H::EMPTY, parsed.size)))
        }
        EntryType::Regular | EntryType::Continuous => {
            content = Content::Inline;
            Item::Leaf(LeafContent::Regular(RegularFile::Inline(Box::default())))
        }
        EntryType::Link => Item::Hardlink(absolute(target()).into_os_string()),
        EntryType::Symlink => Item::Leaf(LeafContent::Symlink(OsStr::from_bytes(target()).into())),
        EntryType::Block => Item::Leaf(LeafContent::BlockDevice(device()?)),
        EntryType::Char => Item::Leaf(LeafContent::CharacterDevice(device()?)),
        EntryType::Fifo => Item::Leaf(LeafContent::Fifo),
        other => return Err(EntryError::UnknownType { path, kind: describe(other.to_byte()) }),
    };
    Ok((Entry { path, stat: stat(parsed), item }, content))
}

/// What a type flag stands for that no filesystem entry has. Those of extended headers come here from headers
/// without a ustar or GNU magic, where they are not extended headers for upstream's parser.
fn describe(flag: u8) -> String {
    let kind = match flag {
        b'A' => "a Solaris access control list",
        b'D' => "a GNU directory listing (of an incremental backup)",
        b'E' => "a Solaris file with extended attributes",
        b'I' => "a star entry of an inode alone",
        b'K' => "a GNU long link target in a v7 header",
        b'L' => "a GNU long name in a v7 header",
        b'M' => "the continuation of a file from another volume (GNU)",
        b'N' => "a GNU list of long names of old form",
        b'S' => "a GNU sparse file in a v7 header",
        b'V' => "a GNU volume label",
        b'X' => "a Solaris extended header",
        b'x' => "a PAX extended header in a v7 header",
        flag => return format!("an entry of unknown type ({:?})", char::from(flag)),
    };
    kind.to_owned()
}

impl<H: FsVerityHashValue> Entry<H> {
    /// About how many bytes of memory it takes.
    pub fn footprint(&self) -> usize {
        let item = match &self.item {
            Item::Hardlink(target) => target.len(),
            Item::Leaf(LeafContent::Symlink(target)) => target.len(),
            Item::Leaf(LeafContent::Regular(RegularFile::Inline(data))) => data.len(),
            _ => 0,
        };
        size_of::<Self>() + self.path.as_os_str().len() + xattrs_footprint(&self.stat) + item + 32
    }
}

fn stat(parsed: &ParsedEntry<'_>) -> Stat {
    let xattrs: BTreeMap<Box<OsStr>, Box<[u8]>> =
        parsed.xattrs.iter().map(|(k, v)| (OsStr::from_bytes(k).into(), v.as_ref().into())).collect();
    // Upstream truncates ids to 32 bits and takes times as they are; the same here, or
    // image ids would differ.
    Stat {
        st_mode: parsed.mode,
        st_uid: parsed.uid as u32,
        st_gid: parsed.gid as u32,
        st_mtim_sec: parsed.mtime as i64,
        st_mtim_nsec: parsed.pax.map_or(0, nanoseconds),
        xattrs,
    }
}

/// The path as upstream's `make_absolute_path` has it: one slash before, none after, nothing for the root.
fn absolute(path: &[u8]) -> PathBuf {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    if end == 0 {
        return PathBuf::new();
    }
    let mut absolute = Vec::with_capacity(1 + end);
    absolute.push(b'/');
    absolute.extend_from_slice(&path[..end]);
    PathBuf::from(OsString::from_vec(absolute))
}

/// The nanoseconds of a PAX `mtime`, as upstream's `pax_mtime_nsec` reads them: up to nine digits after the
/// point of the first such record, else 0.
fn nanoseconds(pax: &[u8]) -> u32 {
    // Not `flatten`: at a malformed record the parser gives the same error for ever.
    let mut records = PaxExtensions::new(pax).map_while(Result::ok);
    let Some(record) = records.find(|record| record.key_bytes() == b"mtime") else { return 0 };
    let Ok(Some((_, fraction))) = record.value().map(|value| value.split_once('.')) else { return 0 };
    match fraction.get(..9.min(fraction.len())).map(str::parse::<u32>) {
        Some(Ok(digits)) => digits.saturating_mul(10u32.pow(9 - fraction.len().min(9) as u32)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        for (path, want) in
            [("a/b", "/a/b"), ("/a/", "/a"), ("./", "/."), ("/", ""), ("", ""), ("a//", "/a"), ("//a", "//a")]
        {
            assert_eq!(absolute(path.as_bytes()), PathBuf::from(want), "{path}");
        }
    }

    #[test]
    fn nanoseconds_come_from_the_first_mtime() {
        let record = |text: &str| {
            let body = format!(" mtime={text}\n");
            let len = body.len() + 2;
            format!("{len}{body}").into_bytes()
        };
        for (text, want) in [
            ("12.5", 500_000_000),
            ("12.123456789", 123_456_789),
            ("12.1234567891", 123_456_789),
            ("12", 0),
            ("12.x", 0),
            ("12.", 0),
        ] {
            assert_eq!(nanoseconds(&record(text)), want, "{text}");
        }
    }
}
