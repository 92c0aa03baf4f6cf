//! Tar entries in odd dialects, block by block: what real and hostile writers leave in headers. Each piece is
//! whole, with its extended headers and its content, so that any of them in a row are a tar.

mod fields;
mod records;
mod writer;

pub use self::writer::random_entry;
use super::tar::pax_record;

/// Magic and version of POSIX, of GNU and of headers before both.
pub const USTAR: &[u8; 8] = b"ustar\x0000";
/// See [`USTAR`].
pub const GNU: &[u8; 8] = b"ustar  \0";
/// See [`USTAR`].
pub const V7: &[u8; 8] = &[0; 8];

/// Offsets of fields.
const MODE: usize = 100;
const UID: usize = 108;
const SIZE: usize = 124;
const MTIME: usize = 136;
const LINK: usize = 157;
const MAGIC: usize = 257;
const DEVICE: usize = 329;
const PREFIX: usize = 345;

/// One or more entries with a name of their own.
#[derive(Debug, Clone)]
pub struct Piece {
    /// What is odd.
    pub name: String,
    /// Headers and contents, no end of archive.
    pub bytes: Vec<u8>,
}

/// A header block in the making.
#[derive(Clone, Copy)]
struct Block([u8; 512]);

fn block(name: &[u8], kind: u8, size: usize) -> Block {
    let mut fields = Block([0; 512]);
    fields = fields.put(0, name).put(MODE, b"0000644\0").put(UID, b"0000000\0").put(116, b"0000000\0");
    fields = fields.put(SIZE, format!("{size:011o}\0").as_bytes()).put(MTIME, b"14524641000\0");
    fields.put(156, &[kind]).put(MAGIC, USTAR).put(DEVICE, b"0000000\x000000000\0")
}

impl Block {
    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Another magic; device numbers go with those that have none.
    fn magic(self, magic: &[u8]) -> Self {
        let own = self.put(MAGIC, magic);
        if magic.starts_with(b"ustar") { own } else { own.put(DEVICE, &[0; 16]) }
    }

    /// With its checksum, and `content` behind it.
    fn with(self, content: &[u8]) -> Vec<u8> {
        let sum: u32 = self.put(148, b"        ").0.iter().map(|byte| u32::from(*byte)).sum();
        let mut bytes = self.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    block(name, b'0', content.len()).with(content)
}

fn link(kind: u8, name: &[u8], target: &[u8]) -> Block {
    block(name, kind, 0).put(LINK, target)
}

fn extended(kind: u8, body: &[u8]) -> Vec<u8> {
    block(b"PaxHeaders/x", kind, body.len()).with(body)
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    extended(b'x', &records.iter().flat_map(|(key, value)| pax_record(key, value)).collect::<Vec<u8>>())
}

fn long(kind: u8, body: &[u8]) -> Vec<u8> {
    block(b"././@LongLink", kind, body.len()).magic(GNU).with(body)
}

/// All of them.
pub fn pieces() -> Vec<Piece> {
    let mut all = Vec::new();
    let mut add = |name: &str, parts: &[Vec<u8>]| {
        all.push(Piece { name: name.to_owned(), bytes: parts.concat() });
    };
    dialects(&mut add);
    long_names(&mut add);
    records::records(&mut add);
    records::times(&mut add);
    records::sparse(&mut add);
    fields::kinds(&mut add);
    fields::numbers(&mut add);
    fields::names(&mut add);
    all
}

type Add<'a> = dyn FnMut(&str, &[Vec<u8>]) + 'a;

fn dialects(add: &mut Add) {
    let plain = block(b"file", b'0', 2);
    for (name, magic) in [
        ("ustar", USTAR),
        ("gnu", GNU),
        ("v7", V7),
        ("docker", b"ustar\0 \0"),
        ("version-nul", b"ustar\0\0\0"),
        ("version-0-nul", b"ustar\x000\0"),
        ("version-01", b"ustar\x0001"),
        ("space-00", b"ustar 00"),
        ("spaces", b"ustar   "),
        ("no-nul", b"ustar000"),
        ("upper", b"USTAR\x0000"),
        ("other", b"foobar00"),
    ] {
        let own = plain.magic(magic);
        add(&format!("magic-{name}"), &[own.with(b"pp")]);
        add(&format!("magic-{name}-prefix"), &[own.put(PREFIX, b"dir").with(b"pp")]);
        add(&format!("magic-{name}-device"), &[block(b"c", b'3', 0).magic(magic).with(b"")]);
        add(&format!("magic-{name}-dir"), &[block(b"d/", b'5', 0).magic(magic).with(b"")]);
        let long = block(b"././@LongLink", b'L', 5).magic(magic).with(b"long\0");
        add(&format!("magic-{name}-long-name"), &[long, file(b"file", b"pp")]);
        let body = pax_record("path", b"long");
        let records = block(b"PaxHeaders/x", b'x', body.len()).magic(magic).with(&body);
        add(&format!("magic-{name}-records"), &[records, own.with(b"pp")]);
        let other = pax(&[("uid", b"7")]);
        add(&format!("magic-{name}-prefix-after-records"), &[other, own.put(PREFIX, b"dir").with(b"pp")]);
    }
    let times = plain.magic(GNU).put(PREFIX, b"14000000000\x0014000000000\0");
    add("gnu-times-for-prefix", &[times.with(b"pp")]);
    let star = |prefix: &[u8]| {
        let own = plain.put(PREFIX, prefix).put(476, b"00000000001 00000000002 ").put(508, b"tar\0");
        own.with(b"pp")
    };
    add("star", &[star(b"dir")]);
    add("star-full-prefix", &[star(&[b'd'; 131])]);
    add("prefix-155", &[plain.put(PREFIX, &[b'd'; 155]).with(b"pp")]);
    add("prefix-155-and-padding", &[plain.put(PREFIX, &[b'd'; 155]).put(500, b"padding").with(b"pp")]);
    add("prefix-slash", &[plain.put(PREFIX, b"dir/").with(b"pp")]);
    add("prefix-root", &[plain.put(PREFIX, b"/").with(b"pp")]);
    add("prefix-dir-without-name", &[block(b"", b'5', 0).put(PREFIX, b"dir").with(b"")]);
    add("prefix-file-without-name", &[block(b"", b'0', 0).put(PREFIX, b"dir").with(b"")]);
    add("prefix-absolute-name", &[block(b"/file", b'0', 2).put(PREFIX, b"dir").with(b"pp")]);
    let rest = [0xff; 155];
    add("v7-garbage-behind", &[plain.magic(V7).put(PREFIX + 2, &rest[2..]).with(b"pp")]);
    let signed = {
        let own = block(b"p\xe4", b'0', 2);
        let sum: i32 = own.put(148, b"        ").0.iter().map(|byte| i32::from(*byte as i8)).sum();
        let mut bytes = own.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec();
        bytes.extend_from_slice(b"pp");
        bytes.resize(1024, 0);
        bytes
    };
    add("checksum-signed", &[signed]);
}

fn long_names(add: &mut Add) {
    let of = block(b"short", b'0', 2).magic(GNU).with(b"pp");
    for (name, body) in [
        ("plain", &b"long\0"[..]),
        ("without-nul", b"long"),
        ("nul-inside", b"long\0er\0"),
        ("two-nuls", b"long\0\0"),
        ("empty", b"\0"),
        ("no-bytes", b""),
        ("folder", b"long/\0"),
    ] {
        add(&format!("long-name-{name}"), &[long(b'L', body), of.clone()]);
        let symlink = link(b'2', b"s", b"t").magic(GNU).with(b"");
        add(&format!("long-link-{name}"), &[long(b'K', body), symlink]);
    }
    let long_of = |len: usize| [vec![b'n'; len], vec![0]].concat();
    add("long-name-of-5000", &[long(b'L', &long_of(5000)), of.clone()]);
    add("long-name-twice", &[long(b'L', b"one\0"), long(b'L', b"two\0"), of.clone()]);
    let (one, two) = (long(b'L', b"one\0"), pax(&[("path", b"two")]));
    add("long-name-then-path", &[one.clone(), two.clone(), of.clone()]);
    add("path-then-long-name", &[two, one.clone(), of.clone()]);
    add("long-name-then-same-path", &[one.clone(), pax(&[("path", b"one")]), of.clone()]);
    add("long-name-then-records", &[one.clone(), pax(&[("uid", b"7")]), of.clone()]);
    let links = [long(b'K', b"one\0"), pax(&[("linkpath", b"two")])];
    let symlink = link(b'2', b"s", b"t").with(b"");
    add("long-link-then-linkpath", &[links[0].clone(), links[1].clone(), symlink.clone()]);
    add("linkpath-then-long-link", &[links[1].clone(), links[0].clone(), symlink]);
    let global = extended(b'g', &pax_record("comment", b"x"));
    add("long-name-then-global", &[one.clone(), global.clone(), of.clone()]);
    add("records-then-global", &[pax(&[("path", b"one")]), global.clone(), of.clone()]);
    add("global-then-records", &[global, pax(&[("path", b"one")]), of.clone()]);
    add("records-then-zeros", &[pax(&[("path", b"one")]), vec![0; 512], of.clone()]);
    add("two-record-headers", &[pax(&[("path", b"one")]), pax(&[("uid", b"7")]), of]);
}
