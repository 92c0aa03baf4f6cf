//! Images that between them use every tar feature: those that upstream stores, and those that it refuses.

use super::{
    image::{Image, Layout},
    tar::*,
};

/// A named image, by the tars of its layers, lowest first.
pub struct Case {
    /// Names the case in messages; fit for a tag.
    pub name: &'static str,
    /// Uncompressed layers.
    pub layers: Vec<Vec<u8>>,
}

impl Case {
    /// Writes the case as an image under its name; the layers alternate between gzip, zstd and plain.
    pub fn write(&self, layout: &Layout) -> Image {
        let mut image = layout.image(self.name);
        for (n, layer) in self.layers.iter().enumerate() {
            image = image.layer(layer.as_slice());
            image = match n % 3 {
                0 => image.gzip(),
                1 => image.zstd(),
                _ => image.plain(),
            };
        }
        image.write()
    }
}

/// Images that upstream pulls and mounts.
pub fn accepted() -> Vec<Case> {
    vec![
        sizes(),
        long_names(),
        odd_names(),
        metadata(),
        hard_links(),
        whiteouts(),
        opaque_directories(),
        special_files(),
        old_headers(),
        replacements(),
        odd_archives(),
        empty_layers(),
        repeated_layer(),
        emptied_run(),
        large_files(),
        long_runs(),
        odd_times(),
        many_entries(),
    ]
}

/// The least `--memory` of the program, in bytes; some files of [`accepted`] are larger.
pub const MEMORY_MIN: u64 = cfs_dag::pull::MEMORY_MIN;

/// Images that upstream refuses, each for the reason in its name.
pub fn refused() -> Vec<Case> {
    let after = |entry: Entry| vec![tar([dir("usr"), file("usr/before", "x"), entry])];
    let whole = tar([dir("usr"), file("usr/f", noise(1, 5000))]);
    let case = |name, layers| Case { name, layers };
    vec![
        case("gnu-sparse", after(gnu_sparse("usr/hole"))),
        case("pax-sparse", after(pax_sparse("usr/hole"))),
        case("unknown-type", after(file("usr/what", "").typeflag(b'Q'))),
        case("broken-checksum", after(file("usr/bad", "x").broken_checksum())),
        case("cut-in-header", vec![cut(whole.clone(), 512 + 100)]),
        case("cut-in-content", vec![cut(whole.clone(), 512 + 512 + 3000)]),
        case("no-end", vec![unfinished([dir("usr")])]),
        case("garbage", vec![noise(2, 4096)]),
        case(
            "run-symlink",
            vec![tar([dir("etc"), file("etc/hostname", "x")]), tar([dir("usr"), symlink("run", "etc")])],
        ),
        case(
            "below-symlink",
            vec![tar([dir("usr"), symlink("lib", "usr/lib")]), tar([file("lib/foo", "x")])],
        ),
        case(
            "linked-whiteout",
            vec![tar([dir("usr"), char_device("usr/a", 0, 0), hardlink("usr/b", "usr/a")])],
        ),
        case("dot-dot", after(file("usr/../etc", "x"))),
        case("dangling-hard-link", after(hardlink("usr/link", "usr/nothing"))),
        case("under-a-file", after(file("usr/before/f", "x"))),
    ]
}

/// Around every size at which a file is treated in another way: a segment, what may stay in memory until it
/// is hashed (a quarter of the budget), and the whole budget.
fn large_files() -> Case {
    const SEGMENT: usize = 1 << 20;
    let budget = MEMORY_MIN as usize;
    let near = |size: usize| [size - 1, size, size + 1];
    let sizes = [near(SEGMENT), near(2 * SEGMENT), near(budget / 4)].concat();
    let files = sizes.iter().map(|&size| file(format!("usr/f{size}"), noise(size as u64, size)));
    let larger = [
        file("usr/larger-than-the-budget", noise(22, budget + 4097)),
        file("usr/zeros", vec![0; budget + SEGMENT]),
        file("usr/after", noise(23, 100)),
    ];
    let above = tar([hardlink("usr/linked", "usr/larger-than-the-budget"), file("usr/f1048576", "replaced")]);
    Case {
        name: "large-files",
        layers: vec![tar([dir("usr")].into_iter().chain(files).chain(larger)), above],
    }
}

/// Inline runs of the stream that are too long for memory, and streams that do not shrink.
fn long_runs() -> Case {
    let trailing = with_tail(tar([dir("usr"), file("usr/f", noise(24, 500))]), &noise(25, 6 << 20));
    let tiny = (0..3000).map(|n| file(format!("usr/tiny{n:04}"), noise(n, 64)));
    let comment = file("usr/commented", noise(26, 65)).pax("comment", noise(27, 200_000));
    Case { name: "long-runs", layers: vec![trailing, tar(tiny.chain([comment]))] }
}

fn odd_times() -> Case {
    let layer = tar([
        dir("usr").precise_mtime("1600000000.25"),
        file("usr/last-nanosecond", "x").precise_mtime("1700000000.999999999"),
        file("usr/trailing-zeros", "x").precise_mtime("1700000000.100000000000"),
        file("usr/no-fraction", "x").precise_mtime("1700000000."),
        file("usr/leading-zeros", "x").precise_mtime("1700000000.000000001"),
        symlink("usr/link", "no-fraction").precise_mtime("1700000000.75"),
        file("usr/epoch-fraction", "x").precise_mtime("0.5"),
        file("usr/gnu-far", "x").gnu().mtime(1 << 34),
        file("usr/access-times", "x").pax("atime", "1.5").pax("ctime", "2.5"),
    ]);
    Case { name: "odd-times", layers: vec![layer] }
}

/// More entries than one step takes, of sizes that leave no buffer boundary untouched.
fn many_entries() -> Case {
    let sizes = (0..2000u64).map(|n| (n, (n * n * 7919 % 3000) as usize));
    let files = sizes.map(|(n, size)| file(format!("usr/{:02}/f{n}", n % 20), noise(n, size)));
    let dirs = (0..20).map(|n| dir(format!("usr/{n:02}")));
    let same = (0..50).map(|n| file(format!("usr/same{n}"), noise(28, 4000)));
    Case {
        name: "many-entries",
        layers: vec![tar([dir("usr")].into_iter().chain(dirs).chain(files).chain(same))],
    }
}

fn sizes() -> Case {
    let sizes = [0, 1, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 8192, 100_000, 128 * 4096 + 1, 3_000_000];
    let files = sizes.iter().map(|&size| file(format!("usr/f{size}"), noise(size as u64, size)));
    let zeros = [65, 4096, 70_000].map(|size| file(format!("usr/zeros{size}"), vec![0; size]));
    Case { name: "sizes", layers: vec![tar([dir("usr")].into_iter().chain(files).chain(zeros))] }
}

fn long_names() -> Case {
    let deep = format!("usr/{}", ["a-directory-name-of-middling-length"; 3].join("/"));
    let parents = |make: fn(String) -> Entry| {
        let parts: Vec<&str> = deep.split('/').collect();
        (1..=parts.len()).map(|n| make(parts[..n].join("/"))).collect::<Vec<_>>()
    };
    let long = "n".repeat(200);
    let target = format!("/usr/{}", "t".repeat(150));
    let ustar = vec![
        file(format!("{deep}/in-the-prefix-field"), "prefix"),
        file(format!("usr/{}", "e".repeat(96)), "exactly 100"),
        file(format!("usr/{long}"), noise(3, 100)),
        symlink("usr/far", target.clone()),
        hardlink("usr/hard", format!("usr/{long}")),
        file(format!("usr/{}", "c".repeat(255)), "the longest component"),
    ];
    let gnu = vec![
        file(format!("{deep}/by-longlink"), "gnu").gnu(),
        file(format!("usr/{}", "g".repeat(200)), noise(4, 100)).gnu(),
        symlink(format!("usr/{}", "s".repeat(200)), target).gnu(),
        hardlink("usr/hard-gnu", format!("usr/{}", "g".repeat(200))).gnu(),
    ];
    Case { name: "long-names", layers: vec![tar(parents(dir).into_iter().chain(ustar)), tar(gnu)] }
}

fn odd_names() -> Case {
    let names: [&[u8]; 7] = [
        b"usr/a b",
        b"usr/new\nline",
        b"usr/\xff\xfe",
        b"usr/caf\xc3\xa9",
        b"usr/\\x41",
        b"usr/-",
        b"usr/=eq",
    ];
    let files = names.iter().map(|name| file(*name, *name));
    let links = [symlink("usr/to-bytes", b"\xff\xfe"), symlink(b"usr/\xfe\xff".as_slice(), "a b")];
    let pax = file("usr/short", "overridden by PAX").pax("path", b"usr/pax-\xf0\xff".as_slice());
    Case {
        name: "odd-names",
        layers: vec![tar([dir("usr")].into_iter().chain(files).chain(links).chain([pax]))],
    }
}

fn metadata() -> Case {
    let layer = tar([
        global_header(&[("comment", "0123456789abcdef"), ("uid", "4711")]),
        dir("usr").mode(0o751).owner(3, 4).mtime(1_234_567_890).xattr("user.on-usr", "dropped"),
        file("usr/ping", noise(5, 300)).mode(0o755).xattr("security.capability", net_raw_capability()),
        file("usr/attributes", "x").xattr("user.comment", "dropped").xattr("security.selinux", "dropped"),
        dir("usr/caps").xattr("security.capability", net_raw_capability()),
        file("usr/su", noise(6, 200)).mode(0o4755),
        dir("usr/sticky").mode(0o3777),
        file("usr/none", "x").mode(0),
        file("usr/pax-owner", "x").owner(3_000_000_000, 3_000_000_001),
        file("usr/gnu-owner", "x").owner(3_000_000_000, 3_000_000_001).gnu(),
        file("usr/half", "x").precise_mtime("1700000000.5"),
        file("usr/nanos", "x").precise_mtime("1700000000.123456789"),
        file("usr/too-precise", "x").precise_mtime("1700000000.1234567891234"),
        file("usr/whole", "x").precise_mtime("1700000001"),
        file("usr/epoch", "x").mtime(0),
        file("usr/2106", "x").mtime(5_000_000_000),
        file("usr/pax-size", noise(7, 1000)).size_in_pax(),
        file("usr/pax-small-size", "seven b").size_in_pax(),
    ]);
    Case { name: "metadata", layers: vec![layer] }
}

fn hard_links() -> Case {
    let below = tar([
        dir("usr"),
        file("usr/big", noise(8, 10_000)),
        file("usr/small", "inline"),
        symlink("usr/sym", "big"),
        hardlink("usr/big-too", "usr/big"),
        hardlink("usr/sym-too", "usr/sym"),
        fifo("usr/pipe"),
        hardlink("usr/pipe-too", "usr/pipe"),
    ]);
    let above = tar([
        dir("usr/links"),
        hardlink("usr/links/big", "usr/big"),
        hardlink("./usr/links/small", "./usr/small"),
        hardlink("usr/links/absolute", "/usr/small"),
        whiteout("usr/big"),
    ]);
    let replaced =
        tar([file("usr/small", "no longer the same file"), hardlink("usr/links/new", "usr/small")]);
    Case { name: "hard-links", layers: vec![below, above, replaced] }
}

fn whiteouts() -> Case {
    let below = tar([
        dir("usr"),
        dir("usr/doc"),
        file("usr/doc/a", noise(9, 100)),
        file("usr/doc/b", "b"),
        dir("usr/doc/sub"),
        file("usr/doc/sub/c", noise(10, 100)),
        file("usr/keep", "k"),
        file("top", "t"),
    ]);
    let above = tar([
        whiteout("usr/doc/a"),
        whiteout("usr/doc/sub"),
        whiteout("usr/was-never-there"),
        whiteout("top"),
        file("usr/doc/new", "n"),
    ]);
    let again =
        tar([file("usr/doc/a", "back again"), whiteout("usr/doc/b"), file("usr/doc/b", "in the same layer")]);
    Case { name: "whiteouts", layers: vec![below, above, again] }
}

fn opaque_directories() -> Case {
    let below = tar([
        dir("usr"),
        dir("usr/www"),
        file("usr/www/old", noise(11, 100)),
        dir("usr/www/deep"),
        file("usr/www/deep/old", "o"),
        dir("usr/other"),
        file("usr/other/old", "o"),
    ]);
    let above = tar([
        dir("usr/www").mode(0o700),
        opaque("usr/www"),
        file("usr/www/new", "n"),
        opaque("usr/other"),
        file("usr/other/new", "n"),
    ]);
    Case { name: "opaque-directories", layers: vec![below, above] }
}

fn special_files() -> Case {
    let layer = tar([
        dir("usr"),
        dir("dev"),
        char_device("dev/null", 1, 3),
        char_device("dev/high", 511, 1_048_575),
        block_device("dev/vda", 254, 0),
        fifo("dev/initctl").owner(1, 2),
        symlink("dev/fd", "/proc/self/fd"),
        symlink("usr/dangling", "nowhere/at/all"),
        symlink("usr/dot", "."),
        symlink("bin", "usr/bin"),
    ]);
    Case { name: "special-files", layers: vec![layer] }
}

fn old_headers() -> Case {
    let layer = tar([
        dir("usr").v7(),
        file("usr/v7", noise(12, 1000)).v7().owner(1, 1),
        file("usr/v7-small", "x").v7(),
        symlink("usr/v7-link", "v7").v7(),
        hardlink("usr/v7-hard", "usr/v7").v7(),
        file("usr/contiguous", noise(13, 700)).typeflag(b'7'),
        file("usr/contiguous-small", "c").typeflag(b'7'),
        file("usr/gnu", noise(14, 700)).gnu(),
    ]);
    Case { name: "old-headers", layers: vec![layer] }
}

fn replacements() -> Case {
    let below = tar([
        dir("usr"),
        file("usr/twice", "first"),
        file("usr/twice", noise(15, 100)),
        dir("usr/dir-to-file"),
        file("usr/dir-to-file/lost", "x"),
        file("usr/file-to-dir", "x"),
        symlink("usr/link-to-file", "twice"),
        dir("usr/kept").mode(0o700),
        file("usr/kept/inside", "stays"),
    ]);
    let above = tar([
        file("usr/dir-to-file", "now a file"),
        dir("usr/file-to-dir"),
        file("usr/file-to-dir/inside", "x"),
        file("usr/link-to-file", "now a file"),
        dir("usr/kept").mode(0o755).owner(5, 5),
        dir("usr").mtime(1_600_000_000),
    ]);
    Case { name: "replacements", layers: vec![below, above] }
}

fn odd_archives() -> Case {
    let root = tar([dir("./").mode(0o700).owner(9, 9), dir("./usr/"), file("./usr/dotted", noise(16, 100))]);
    let slashes = tar([dir("/usr/absolute/"), file("/usr/absolute/f", "x"), dir("usr/many///")]);
    let tail = with_tail(tar([file("usr/with-tail", "x")]), &noise(17, 5000));
    let hidden = with_tail(tar([file("usr/seen", "x")]), &tar([file("usr/not-seen", noise(18, 100))]));
    Case {
        name: "odd-archives",
        layers: vec![
            root,
            record_padded(slashes),
            unfinished([file("usr/no-end", noise(19, 600))]),
            tail,
            hidden,
        ],
    }
}

fn empty_layers() -> Case {
    Case {
        name: "empty-layers",
        layers: vec![tar([dir("usr")]), tar([]), Vec::new(), record_padded(tar([]))],
    }
}

fn repeated_layer() -> Case {
    let layer = tar([dir("usr"), file("usr/f", noise(20, 5000))]);
    let remove = tar([whiteout("usr/f")]);
    Case { name: "repeated-layer", layers: vec![layer.clone(), remove, layer] }
}

fn emptied_run() -> Case {
    let layer = tar([
        dir("run").mode(0o700),
        file("run/secret", noise(21, 2000)),
        dir("usr").mtime(1_500_000_000),
        hardlink("usr/kept", "run/secret"),
    ]);
    Case { name: "emptied-run", layers: vec![layer] }
}
