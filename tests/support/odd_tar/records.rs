//! Extended headers: keys and values, lengths that lie, times, sparse files.

use super::{Add, Block, GNU, SIZE, USTAR, V7, block, extended, file, link, pax};
use crate::tar::pax_record;

pub(super) fn records(add: &mut Add) {
    let of = file(b"short", b"pp");
    let symlink = link(b'2', b"s", b"t").with(b"");
    let mut with = |name: &str, records: &[(&str, &[u8])]| {
        let of = if records[0].0 == "linkpath" { &symlink } else { &of };
        add(&format!("record-{name}"), &[pax(records), of.clone()]);
    };
    for key in ["path", "linkpath", "size", "uid", "gid", "mtime", "uname", "SCHILY.xattr.user.a"] {
        with(&format!("empty-{key}"), &[(key, b"")]);
    }
    with("path-twice", &[("path", b"one"), ("path", b"two")]);
    with("path-then-empty", &[("path", b"one"), ("path", b"")]);
    with("linkpath-twice", &[("linkpath", b"one"), ("linkpath", b"two")]);
    with("size-twice", &[("size", b"9"), ("size", b"2")]);
    with("uid-twice", &[("uid", b"1"), ("uid", b"2")]);
    with("xattr-twice", &[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"2")]);
    for (name, value) in [
        ("space-before", " 2"),
        ("space-after", "2 "),
        ("plus", "+2"),
        ("zeros", "0002"),
        ("underscore", "0_2"),
        ("negative", "-2"),
        ("hex", "0x2"),
        ("fraction", "2.0"),
        ("2-to-31", "2147483648"),
        ("2-to-32", "4294967296"),
        ("2-to-32-and-7", "4294967303"),
    ] {
        if value.len() < 6 {
            with(&format!("size-{name}"), &[("size", value.as_bytes())]);
        }
        with(&format!("uid-{name}"), &[("uid", value.as_bytes())]);
        with(&format!("gid-{name}"), &[("gid", value.as_bytes())]);
    }
    with("path-not-utf8", &[("path", b"p\xff")]);
    with("path-binary", &[("hdrcharset", b"BINARY"), ("path", b"p\xff")]);
    with("path-utf8", &[("path", "pä".as_bytes())]);
    with("path-newline", &[("path", b"p\nq")]);
    with("path-nul", &[("path", b"p\0q")]);
    with("path-nul-at-end", &[("path", b"p\0")]);
    with("path-folder", &[("path", b"p/")]);
    with("linkpath-nul", &[("linkpath", b"p\0q")]);
    with("xattr-name-nul", &[("SCHILY.xattr.user.a\0b", b"v")]);
    with("xattr-value-nul", &[("SCHILY.xattr.user.a", b"v\0w")]);
    with("xattr-value-binary", &[("SCHILY.xattr.user.a", b"\xff\xfe")]);
    with("xattr-value-records", &[("SCHILY.xattr.user.a", b"x\n30 path=evil\n")]);
    with("xattr-name-equals", &[("SCHILY.xattr.user.a=b", b"v")]);
    with("xattr-libarchive", &[("LIBARCHIVE.xattr.user.a", b"dg==")]);
    with("unknown", &[("VENDOR.key", b"v")]);
    with("empty-key", &[("", b"v")]);
    let device = block(b"c", b'3', 0).with(b"");
    let star = pax(&[("SCHILY.devmajor", b"9"), ("SCHILY.devminor", b"8")]);
    add("record-devices-of-star", &[star, device]);
    for (name, body) in [
        ("nothing", &b""[..]),
        ("nuls-behind", b"9 path=q\n\0\0\0"),
        ("text-behind", b"9 path=q\nxxx"),
        ("no-newline", b"8 path=q"),
        ("too-long", b"99 path=q\n"),
        ("too-short", b"7 path=q\n"),
        ("zero-before-length", b"010 path=q\n"),
        ("space-before-length", b" 10 path=q\n"),
        ("plus-before-length", b"+10 path=q\n"),
        ("tab", b"9\tpath=q\n"),
        ("no-equals", b"6 abc\n"),
    ] {
        add(&format!("records-{name}"), &[extended(b'x', body), of.clone()]);
    }
    for (name, record) in [("path", &b"one"[..]), ("uid", b"9"), ("mtime", b"77"), ("comment", b"x")] {
        add(&format!("global-{name}"), &[extended(b'g', &pax_record(name, record)), of.clone()]);
    }
    add("records-of-solaris", &[extended(b'X', &pax_record("path", b"one")), of.clone()]);
    let large = file(b"short", &[b'q'; 700]);
    add("size-larger-than-header", &[pax(&[("size", b"700")]), patched(&large, b"00000000002\0")]);
    add("size-only-in-records", &[pax(&[("size", b"2")]), patched(&of, b"00000000000\0")]);
    add("size-of-dir-in-records", &[pax(&[("size", b"2")]), block(b"d/", b'5', 0).with(b"zz")]);
}

/// An entry whose size field is `size`.
fn patched(entry: &[u8], size: &[u8; 12]) -> Vec<u8> {
    let (header, content) = entry.split_at(512);
    let mut fields = Block([0; 512]);
    fields.0.copy_from_slice(header);
    [fields.put(SIZE, size).with(b""), content.to_vec()].concat()
}

pub(super) fn times(add: &mut Add) {
    let of = file(b"short", b"pp");
    for value in [
        "1.5",
        "1.123456789",
        "1.1234567891234",
        "1.",
        ".5",
        "1.-5",
        "1.+5",
        "1.5x",
        "1.5.5",
        "1,5",
        "-1.5",
        "-0.5",
        "-1",
        "-0",
        "+5",
        "1e3",
        " 5",
        "1 .5",
        "0.1234567",
        "99999999999",
        "9223372036854775808",
        "18446744073709551615",
    ] {
        add(&format!("time-{value}"), &[pax(&[("mtime", value.as_bytes())]), of.clone()]);
    }
    let two = |first: &str, second: &str| pax(&[("mtime", first.as_bytes()), ("mtime", second.as_bytes())]);
    add("time-twice", &[two("5.25", "6.75"), of.clone()]);
    add("time-twice-the-same", &[two("5.25", "5.25"), of.clone()]);
    add("time-twice-in-other-words", &[two("5", "5.0"), of]);
}

pub(super) fn sparse(add: &mut Add) {
    let map = [&b"1\n10\n2\n"[..], &[0; 505], b"dd"].concat();
    for (name, content, keys) in [
        ("0.0", &b"dd"[..], &[("size", "20"), ("numblocks", "1"), ("offset", "10"), ("numbytes", "2")][..]),
        ("0.1", b"dd", &[("size", "20"), ("numblocks", "1"), ("map", "10,2"), ("name", "sp")]),
        ("1.0", &map, &[("major", "1"), ("minor", "0"), ("name", "sp"), ("realsize", "20")]),
        ("1.1", &map, &[("major", "1"), ("minor", "1"), ("name", "sp"), ("realsize", "20")]),
        ("2.0", &map, &[("major", "2"), ("minor", "0"), ("name", "sp"), ("realsize", "20")]),
        ("0.1-without-map", b"dd", &[("major", "0"), ("minor", "1"), ("name", "sp"), ("realsize", "20")]),
        ("major-only", &map, &[("major", "1"), ("name", "sp"), ("realsize", "20")]),
        ("minor-only", &map, &[("minor", "0"), ("name", "sp"), ("realsize", "20")]),
        ("name-only", b"dd", &[("name", "sp")]),
        ("realsize-only", b"dd", &[("realsize", "20")]),
        ("size-only", b"dd", &[("size", "20")]),
        ("no-blocks", b"", &[("size", "20"), ("numblocks", "0")]),
        ("offset-only", b"dd", &[("offset", "10")]),
        ("numbytes-only", b"dd", &[("numbytes", "2")]),
        ("empty-map", b"", &[("size", "20"), ("map", "")]),
        ("unknown-key", b"dd", &[("key", "1")]),
    ] {
        let keys: Vec<(String, &[u8])> =
            keys.iter().map(|(key, value)| (format!("GNU.sparse.{key}"), value.as_bytes())).collect();
        let keys: Vec<(&str, &[u8])> = keys.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        add(&format!("sparse-{name}"), &[pax(&keys), file(b"usr/GNUSparseFile.1/sp", content)]);
    }
    add("sparse-name-of-dir", &[pax(&[("GNU.sparse.name", b"sp")]), block(b"d/", b'5', 0).with(b"")]);
    for (name, magic) in [("gnu", GNU), ("ustar", USTAR), ("v7", V7)] {
        let own = block(b"p", b'S', 2).magic(magic).put(386, b"00000000012\x0000000000002\0");
        add(&format!("sparse-header-{name}"), &[own.put(483, b"00000000024\0").with(b"dd")]);
    }
}
