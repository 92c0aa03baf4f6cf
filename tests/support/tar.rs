//! Tar archives written by hand, header by header. Knows every dialect that a layer may come in;
//! ignores what a layer is.
//!
//! [`tar`] makes an archive out of entries; an [`Entry`] is made by [`file`], [`dir`], [`symlink`]… and
//! changed by its methods. The same calls give the same bytes. Whatever a real tar writer would refuse (lies,
//! garbage, unknown types) can be written here too.

use super::random::Random;

const BLOCK: usize = 512;

/// An archive of `entries` with the two zero blocks at its end, and nothing after them.
pub fn tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes = unfinished(entries);
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// An archive that just stops after its last entry.
pub fn unfinished(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        entry.write(&mut bytes);
    }
    bytes
}

/// `archive` filled up with zeros to a multiple of 10 KiB, as GNU tar leaves it.
pub fn record_padded(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len().next_multiple_of(20 * BLOCK), 0);
    archive
}

/// `archive` cut off after `len` bytes.
pub fn cut(mut archive: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(len <= archive.len());
    archive.truncate(len);
    archive
}

/// `archive` with `tail` behind its end.
pub fn with_tail(mut archive: Vec<u8>, tail: &[u8]) -> Vec<u8> {
    archive.extend_from_slice(tail);
    archive
}

/// `len` bytes that no compressor shrinks: the same for the same `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.number().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// How an entry says what a plain header cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// POSIX: prefix field first, PAX records for the rest.
    Ustar,
    /// GNU: `././@LongLink` entries and base-256 numbers.
    Gnu,
    /// The header of 1979, without magic, prefix or device numbers: what does not fit is a panic.
    V7,
}

/// One member of an archive, with the extension headers that it needs.
#[derive(Debug, Clone)]
pub struct Entry {
    name: Vec<u8>,
    typeflag: u8,
    link: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    device: (u32, u32),
    dialect: Dialect,
    pax: Vec<(String, Vec<u8>)>,
    /// GNU sparse map, written into the header: (offset, length) and the real size.
    sparse: Option<([u64; 2], u64)>,
    claimed_size: Option<u64>,
    broken_checksum: bool,
    /// Bytes laid over the header at an offset, before its checksum is computed.
    overlaid: Vec<(usize, Vec<u8>)>,
}

fn entry(typeflag: u8, name: impl Into<Vec<u8>>, mode: u32) -> Entry {
    Entry {
        name: name.into(),
        typeflag,
        link: Vec::new(),
        content: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        device: (0, 0),
        dialect: Dialect::Ustar,
        pax: Vec::new(),
        sparse: None,
        claimed_size: None,
        broken_checksum: false,
        overlaid: Vec::new(),
    }
}

/// A regular file, mode 0644.
pub fn file(name: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Entry {
    Entry { content: content.into(), ..entry(b'0', name, 0o644) }
}

/// A directory, mode 0755. The name may end in `/` or not, or be `./`.
pub fn dir(name: impl Into<Vec<u8>>) -> Entry {
    entry(b'5', name, 0o755)
}

/// A symbolic link.
pub fn symlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Entry {
    Entry { link: target.into(), ..entry(b'2', name, 0o777) }
}

/// A hard link to a file of this layer, or of a layer below.
pub fn hardlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Entry {
    Entry { link: target.into(), ..entry(b'1', name, 0o644) }
}

/// A character device.
pub fn char_device(name: impl Into<Vec<u8>>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..entry(b'3', name, 0o666) }
}

/// A block device.
pub fn block_device(name: impl Into<Vec<u8>>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..entry(b'4', name, 0o660) }
}

/// A named pipe.
pub fn fifo(name: impl Into<Vec<u8>>) -> Entry {
    entry(b'6', name, 0o600)
}

/// The mark that deletes `name` of the layers below: `a/b` becomes `a/.wh.b`.
pub fn whiteout(name: &str) -> Entry {
    let (folder, base) = name.rsplit_once('/').map_or(("", name), |(f, b)| (f, b));
    let slash = if folder.is_empty() { "" } else { "/" };
    file(format!("{folder}{slash}.wh.{base}"), "").mode(0o600)
}

/// The mark that hides everything the layers below have in `folder`.
pub fn opaque(folder: &str) -> Entry {
    file(format!("{folder}/.wh..wh..opq"), "").mode(0o600)
}

/// A PAX header for all entries that follow.
pub fn global_header(records: &[(&str, &str)]) -> Entry {
    let content =
        records.iter().flat_map(|(key, value)| pax_record(key, value.as_bytes())).collect::<Vec<u8>>();
    Entry { content, ..entry(b'g', "pax_global_header", 0o644) }
}

/// A sparse file as GNU tar writes it by itself: to be refused.
pub fn gnu_sparse(name: &str) -> Entry {
    let sparse = Some(([1 << 20, 512], (1 << 20) + 512));
    Entry { content: vec![b'x'; 512], sparse, ..entry(b'S', name, 0o644) }.gnu()
}

/// A sparse file in the PAX 1.0 form (`tar --format=posix --sparse`): to be refused.
pub fn pax_sparse(name: &str) -> Entry {
    let mut content = format!("1\n{}\n512\n", 1 << 20).into_bytes();
    content.resize(BLOCK, 0);
    content.extend_from_slice(&[b'x'; 512]);
    file(format!("GNUSparseFile.0/{name}"), content)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", name)
        .pax("GNU.sparse.realsize", ((1 << 20) + 512).to_string())
}

impl Entry {
    /// Permission bits, with set-user-id and friends.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Numeric owner; a number too large for the header goes where the dialect puts it.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Modification time in whole seconds.
    pub fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Modification time with a fraction, as PAX writes it: `1700000000.5`.
    pub fn precise_mtime(self, seconds_dot_fraction: &str) -> Self {
        self.pax("mtime", seconds_dot_fraction)
    }

    /// An extended attribute.
    pub fn xattr(self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Any PAX record; it overrides the header.
    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax.push((key.to_owned(), value.into()));
        self
    }

    /// Writes the size as a PAX record, and 0 in the header, as for files above 8 GiB.
    pub fn size_in_pax(self) -> Self {
        let size = self.content.len().to_string();
        self.pax("size", size).claims_size(0)
    }

    /// Says everything in GNU tar's own dialect.
    pub fn gnu(mut self) -> Self {
        self.dialect = Dialect::Gnu;
        self
    }

    /// Uses the pre-POSIX header; a regular file then has type NUL.
    pub fn v7(mut self) -> Self {
        self.dialect = Dialect::V7;
        if self.typeflag == b'0' {
            self.typeflag = 0;
        }
        self
    }

    /// Another type: `b'7'` (contiguous), or one that nobody knows.
    pub fn typeflag(mut self, typeflag: u8) -> Self {
        self.typeflag = typeflag;
        self
    }

    /// A header that lies about the size of what follows.
    pub fn claims_size(mut self, size: u64) -> Self {
        self.claimed_size = Some(size);
        self
    }

    /// A header with these bytes at this offset, and a checksum that counts them.
    pub fn overlay(mut self, at: usize, bytes: impl Into<Vec<u8>>) -> Self {
        self.overlaid.push((at, bytes.into()));
        self
    }

    /// A header whose checksum is wrong.
    pub fn broken_checksum(mut self) -> Self {
        self.broken_checksum = true;
        self
    }

    fn write(mut self, out: &mut Vec<u8>) {
        match self.dialect {
            Dialect::Ustar => self.extend_by_pax(out),
            Dialect::Gnu => self.extend_by_gnu(out),
            Dialect::V7 => assert!(self.name.len() <= 100 && self.link.len() <= 100 && self.pax.is_empty()),
        }
        out.extend_from_slice(&self.header());
        write_content(&self.content, out);
    }

    fn extend_by_pax(&mut self, out: &mut Vec<u8>) {
        if self.name.len() > 100 && split_prefix(&self.name).is_none() {
            self.pax.push(("path".into(), self.name.clone()));
            self.name.truncate(100);
        }
        if self.link.len() > 100 {
            self.pax.push(("linkpath".into(), self.link.clone()));
            self.link.truncate(100);
        }
        for (key, id) in [("uid", &mut self.uid), ("gid", &mut self.gid)] {
            if *id > 0o777_7777 {
                self.pax.push((key.into(), id.to_string().into_bytes()));
                *id = 0;
            }
        }
        self.write_pax(out);
    }

    fn extend_by_gnu(&mut self, out: &mut Vec<u8>) {
        self.write_pax(out);
        for (typeflag, text) in [(b'K', &mut self.link), (b'L', &mut self.name)] {
            if text.len() > 100 {
                let content = [text.as_slice(), b"\0"].concat();
                let long = Entry { content, mtime: 0, ..entry(typeflag, "././@LongLink", 0o644).gnu() };
                long.write(out);
                text.truncate(100);
            }
        }
    }

    fn write_pax(&mut self, out: &mut Vec<u8>) {
        if self.pax.is_empty() {
            return;
        }
        let content = self.pax.drain(..).flat_map(|(key, value)| pax_record(&key, &value)).collect();
        Entry { content, ..entry(b'x', "PaxHeaders/0", 0o644) }.write(out);
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let (prefix, name) = match self.dialect {
            Dialect::Ustar if self.name.len() > 100 => {
                split_prefix(&self.name).expect("checked when extended")
            }
            _ => (&[][..], self.name.as_slice()),
        };
        put(0, name);
        put(100, &octal::<8>(u64::from(self.mode)));
        put(108, &self.number::<8>(self.uid));
        put(116, &self.number::<8>(self.gid));
        put(124, &self.number::<12>(self.claimed_size.unwrap_or(self.content.len() as u64)));
        put(136, &self.number::<12>(self.mtime));
        put(148, b"        ");
        put(156, &[self.typeflag]);
        put(157, &self.link);
        match self.dialect {
            Dialect::Ustar => put(257, b"ustar\x0000"),
            Dialect::Gnu => put(257, b"ustar  \0"),
            Dialect::V7 => {}
        }
        if self.dialect != Dialect::V7 {
            put(329, &octal::<8>(u64::from(self.device.0)));
            put(337, &octal::<8>(u64::from(self.device.1)));
            put(345, prefix);
        }
        if let Some(([offset, length], real_size)) = self.sparse {
            put(386, &octal::<12>(offset));
            put(398, &octal::<12>(length));
            put(483, &octal::<12>(real_size));
        }
        for (at, bytes) in &self.overlaid {
            block[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let sum = if self.broken_checksum { sum + 1 } else { sum };
        block[148..155].copy_from_slice(&octal::<7>(sum));
        block
    }

    fn number<const WIDTH: usize>(&self, value: u64) -> [u8; WIDTH] {
        if self.dialect != Dialect::Gnu || value < 1 << (3 * (WIDTH - 1)) {
            return octal(value);
        }
        let mut field = [0; WIDTH];
        field[WIDTH - 8..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
        field
    }
}

/// Octal digits with a NUL behind them.
fn octal<const WIDTH: usize>(value: u64) -> [u8; WIDTH] {
    let digits = format!("{value:0width$o}\0", width = WIDTH - 1);
    digits
        .as_bytes()
        .try_into()
        .unwrap_or_else(|_| panic!("{value} does not fit into {WIDTH} bytes of header"))
}

/// The (prefix, name) of a path longer than 100 bytes, if it has a slash at a fitting place.
fn split_prefix(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = (1..path.len() - 1).find(|&at| path[at] == b'/' && path.len() - at - 1 <= 100)?;
    (at <= 155).then(|| (&path[..at], &path[at + 1..]))
}

/// `<length> <key>=<value>\n`, where the length counts itself.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

fn write_content(content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(content);
    out.resize(out.len() + content.len().next_multiple_of(BLOCK) - content.len(), 0);
}

/// The value of `security.capability` that `setcap cap_net_raw+ep` writes (version 2).
pub fn net_raw_capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}
