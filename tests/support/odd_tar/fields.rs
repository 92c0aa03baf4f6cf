//! Fields of the entry's own header: type, numbers, names.

use super::{Add, DEVICE, GNU, LINK, MODE, MTIME, SIZE, UID, USTAR, V7, block, file, link};

pub(super) fn kinds(add: &mut Add) {
    for kind in *b"789ADEIMNPSVXZas " {
        let shown = char::from(kind);
        add(&format!("kind-{shown}"), &[block(b"t", kind, 0).with(b"")]);
        add(&format!("kind-{shown}-with-data"), &[block(b"t", kind, 2).with(b"tt")]);
    }
    let target = file(b"a", b"aa");
    for (name, kind) in
        [("hard", b'1'), ("sym", b'2'), ("char", b'3'), ("block", b'4'), ("dir", b'5'), ("fifo", b'6')]
    {
        let to: &[u8] = if kind < b'3' { b"a" } else { b"" };
        let plain = block(b"k", kind, 0).put(LINK, to);
        add(&format!("size-0-{name}"), &[target.clone(), plain.with(b"")]);
        let sized = block(b"k", kind, 2).put(LINK, to);
        add(&format!("size-with-data-{name}"), &[target.clone(), sized.with(b"zz")]);
        let hidden = block(b"k", kind, 1024).put(LINK, to).with(b"");
        add(&format!("size-over-an-entry-{name}"), &[target.clone(), hidden, file(b"hidden", b"h")]);
        add(&format!("slash-{name}"), &[target.clone(), block(b"k/", kind, 0).put(LINK, to).with(b"")]);
    }
    for (name, kind, magic) in
        [("nul", 0, USTAR), ("0", b'0', USTAR), ("7", b'7', USTAR), ("v7", 0, V7), ("gnu", b'0', GNU)]
    {
        add(&format!("file-slash-{name}"), &[block(b"d/", kind, 0).magic(magic).with(b"")]);
        add(&format!("file-slash-{name}-with-data"), &[block(b"d/", kind, 2).magic(magic).with(b"dd")]);
    }
    add("symlink-to-nothing", &[link(b'2', b"s", b"").with(b"")]);
    add("file-with-target", &[block(b"p", b'0', 2).put(LINK, b"t").with(b"pp")]);
    add("hard-link-absolute", &[target.clone(), link(b'1', b"h", b"/a").with(b"")]);
    add("hard-link-slash", &[target.clone(), link(b'1', b"h", b"a/").with(b"")]);
    add("hard-link-dot", &[target.clone(), link(b'1', b"h", b"./a").with(b"")]);
    add("zero-block-before", &[vec![0; 512], target.clone()]);
    add("zero-block-between", &[target.clone(), vec![0; 512], file(b"b", b"bb")]);
    let numbered =
        |major: &[u8], minor: &[u8]| block(b"c", b'3', 0).put(DEVICE, major).put(DEVICE + 8, minor).with(b"");
    add("device-large", &[numbered(b"0007777\0", b"3777777\0")]);
    add("device-nuls", &[numbered(&[0; 8], &[0; 8])]);
    add("device-base-256", &[numbered(b"\x80\0\0\0\0\0\0\x05", b"\x80\0\0\0\0\0\0\x06")]);
    add("file-with-device-garbage", &[block(b"p", b'0', 2).put(DEVICE, b"garbage!").with(b"pp")]);
}

pub(super) fn numbers(add: &mut Add) {
    for (field, at, width) in [("mode", MODE, 8), ("uid", UID, 8), ("size", SIZE, 12), ("mtime", MTIME, 12)] {
        let digits: &[u8] = if field == "size" { b"2" } else { b"644" };
        let value = if field == "size" { 2 } else { 0o644u64 };
        let left = |bytes: &[u8], fill: u8| {
            let mut own = bytes.to_vec();
            own.resize(width, fill);
            own
        };
        let right = |fill: u8, end: &[u8]| {
            [vec![fill; width - digits.len() - end.len()], digits.to_vec(), end.to_vec()].concat()
        };
        let base = |first: u8, value: u64| {
            let mut own = vec![0; width];
            let bytes = value.to_be_bytes();
            let kept = (width - 1).min(8);
            own[width - kept..].copy_from_slice(&bytes[8 - kept..]);
            own[0] = first;
            own
        };
        for (name, bytes) in [
            ("spaces", right(b' ', b" ")),
            ("spaces-no-end", right(b' ', b"")),
            ("no-end", right(b'0', b"")),
            ("short", left(digits, 0)),
            ("space-end", left(digits, b' ')),
            ("garbage-after-nul", left(&[digits, b"\0"].concat(), b'7')),
            ("garbage-after-space", left(&[digits, b" "].concat(), b'7')),
            ("nuls", vec![0; width]),
            ("nul-before", left(&[b"\0", digits].concat(), 0)),
            ("nul-before-all", [&[0][..], &right(b'0', b"")[1..]].concat()),
            ("tab-before", left(&[b"\t", digits].concat(), 0)),
            ("tab-after", left(&[digits, b"\t"].concat(), 0)),
            ("plus", left(&[b"+", digits].concat(), 0)),
            ("minus", left(&[b"-", digits].concat(), 0)),
            ("digit-8", left(b"8", 0)),
            ("letters", left(&[digits, b"abc"].concat(), 0)),
            ("base-256", base(0x80, value)),
            ("base-256-81", base(0x81, value)),
            ("base-256-a0", base(0xa0, value)),
            ("base-256-c0", base(0xc0, value)),
            ("base-256-negative", [vec![0xff; width - 1], vec![0xfe]].concat()),
        ] {
            // An empty size makes a header of the content; that is for others.
            let content: &[u8] = if field == "size" && name.starts_with("nul") { b"" } else { b"pp" };
            let own = block(b"p", b'0', content.len()).put(at, &bytes);
            add(&format!("{field}-{name}"), &[own.with(content)]);
        }
    }
    // What is the content of an extended header for one reader is an entry for another.
    for kind in *b"gxLK" {
        let hidden = block(b"hidden", b'0', 0).with(b"");
        let odd = block(b"extended", kind, 0).put(SIZE, b"\x000000001000\0").with(&hidden);
        add(&format!("size-nul-before-of-{}", char::from(kind)), &[odd]);
    }
    let uid = block(b"p", b'0', 2).put(UID, b"\x80\0\0\x01\0\0\0\0");
    add("uid-base-256-of-2-to-32", &[uid.with(b"pp")]);
    for (name, bytes) in [
        ("2-to-63", b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
        ("2-to-64", b"\x80\0\0\x01\0\0\0\0\0\0\0\x05"),
        ("minus-1", &[0xff; 12]),
        ("octal-12-digits", b"777777777777"),
    ] {
        add(&format!("mtime-{name}"), &[block(b"p", b'0', 2).put(MTIME, bytes).with(b"pp")]);
    }
    for (name, bytes) in [("of-file", b"0100644\0"), ("all-bits", b"0107777\0"), ("no-end-8", b"00000644")] {
        add(&format!("mode-{name}"), &[block(b"p", b'0', 2).put(MODE, bytes).with(b"pp")]);
    }
}

pub(super) fn names(add: &mut Add) {
    for name in [
        "./x",
        ".//x",
        "/x",
        "//x",
        "a//b",
        "a/./b",
        "a/../b",
        "../x",
        "..",
        "x/.",
        " x",
        "x ",
        "a b",
        "a\tb",
        "a\nb",
        "a\\b",
        "\\n",
        "a\x7f",
        "\"q\"",
        "-x",
        "c:\\x",
        "a -> b",
        "a link to b",
    ] {
        add(&format!("name-{}", name.escape_debug()), &[file(name.as_bytes(), b"pp")]);
        let folder = block(format!("{name}/").as_bytes(), b'5', 0).with(b"");
        add(&format!("name-of-dir-{}", name.escape_debug()), &[folder]);
        let symlink = link(b'2', b"s", name.as_bytes()).with(b"");
        add(&format!("target-{}", name.escape_debug()), &[symlink]);
    }
    add("name-latin-1", &[file(b"p\xe4", b"pp")]);
    add("name-100", &[file(&[b'n'; 100], b"pp")]);
    add("name-garbage-after-nul", &[block(b"p", b'0', 2).put(50, b"garbage").with(b"pp")]);
    add("name-empty", &[file(b"", b"pp")]);
    add("dir-without-slash", &[block(b"d", b'5', 0).with(b"")]);
    add("dir-slashes", &[block(b"d///", b'5', 0).with(b"")]);
    add("dir-root", &[block(b"./", b'5', 0).with(b""), block(b"/", b'5', 0).with(b"")]);
    add("same-name-twice", &[file(b"p", b"1"), file(b"p", b"22")]);
}
