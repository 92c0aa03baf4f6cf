//! A tar as the splitter reads it.

use std::{os::unix::ffi::OsStrExt as _, sync::Arc};

use cfs_dag::{
    layer::{
        entry::{Entry, Item},
        split::{Piece, Splitter},
    },
    store::Sha256HashValue,
    types::{Budget, LayerKind},
};
use composefs::tree::{LeafContent, RegularFile};

/// An entry as all readers can tell it.
pub struct Seen {
    /// `file`, `dir` and so on.
    pub kind: &'static str,
    /// Without a slash at the beginning or end.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub time: (i64, u32),
    /// Major and minor number.
    pub device: Option<(u32, u32)>,
    /// Of a file.
    pub content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The entries of `tar`, or why it is refused.
pub fn read(tar: &[u8]) -> Result<Vec<Seen>, String> {
    let budget = Budget::new(2 * tar.len() + (1 << 20));
    let account = budget.open(0, Arc::new(|| ())).unwrap();
    let mut splitter = Splitter::<Sha256HashValue>::new(LayerKind::Tar, tar.len() as u64);
    let mut buffer = account.buffer(tar.len()).unwrap();
    buffer.bytes_mut()[..tar.len()].copy_from_slice(tar);
    let mut pieces = Vec::new();
    splitter.feed(&buffer.freeze(tar.len()), &mut pieces).map_err(|error| error.to_string())?;
    splitter.finish(&mut pieces).map_err(|error| error.to_string())?;
    let (mut last, mut entries) = (Vec::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Inline(_) => {}
            Piece::File { parts, .. } | Piece::Segment { index: 0, parts, .. } => {
                last = parts.iter().flat_map(|part| part.to_vec()).collect();
            }
            Piece::Segment { parts, .. } => last.extend(parts.iter().flat_map(|part| part.to_vec())),
            Piece::Entry(entry) => entries.push(Seen::of(entry, &last)),
        }
    }
    Ok(entries)
}

impl Seen {
    fn of(entry: Entry<Sha256HashValue>, last: &[u8]) -> Self {
        let Entry { path, stat, item } = entry;
        let numbers = |device: u64| Some((rustix::fs::major(device), rustix::fs::minor(device)));
        let stripped = |path: &[u8]| path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let mut seen = Self {
            kind: "dir",
            path: stripped(path.as_os_str().as_bytes()),
            link: Vec::new(),
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            time: (stat.st_mtim_sec, stat.st_mtim_nsec),
            device: None,
            content: Vec::new(),
            xattrs: stat.xattrs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect(),
        };
        match item {
            Item::Directory => {}
            Item::Hardlink(target) => (seen.kind, seen.link) = ("hard", stripped(target.as_bytes())),
            Item::Leaf(LeafContent::Symlink(target)) => {
                (seen.kind, seen.link) = ("sym", target.as_bytes().to_vec());
            }
            Item::Leaf(LeafContent::Regular(RegularFile::Inline(data))) => {
                (seen.kind, seen.content) = ("file", data.to_vec());
            }
            Item::Leaf(LeafContent::Regular(_)) => (seen.kind, seen.content) = ("file", last.to_vec()),
            Item::Leaf(LeafContent::BlockDevice(device)) => {
                (seen.kind, seen.device) = ("block", numbers(device));
            }
            Item::Leaf(LeafContent::CharacterDevice(device)) => {
                (seen.kind, seen.device) = ("char", numbers(device));
            }
            Item::Leaf(LeafContent::Fifo) => seen.kind = "fifo",
            Item::Leaf(LeafContent::Socket) => seen.kind = "socket",
        }
        seen
    }

    /// As the script for Python prints it.
    pub fn line(&self) -> String {
        let device = self.device.map_or(String::new(), |(major, minor)| format!("{major},{minor}"));
        let xattrs: Vec<String> =
            self.xattrs.iter().map(|(name, value)| format!("{}={}", shown(name), shown(value))).collect();
        let line = format!(
            "{} {} -> {} {:o} {}:{} {}.{:09} [{device}] {} {} {}",
            self.kind,
            shown(&self.path),
            shown(&self.link),
            self.mode,
            self.owner.0,
            self.owner.1,
            self.time.0,
            self.time.1,
            self.content.len(),
            &support::image::sha256(&self.content)["sha256:".len()..][..16],
            xattrs.join(" ")
        );
        line.trim_end().to_owned()
    }
}

/// A name as printable ASCII without spaces.
pub fn shown(name: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'!'..=b'~' if *byte != b'\\' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    name.iter().map(shown).collect()
}
