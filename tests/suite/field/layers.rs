//! Layers that readers read differently: refused, or with --as-upstream taken as cfsctl takes them.

use std::path::Path;

use cfs_dag::types::AmbiguityKind;
use support::{
    image::{Layout, layout},
    oracle::{self, DEFAULT_KIND},
    repo::{Finished, Invocation, cfs_dag, scratch},
    tar::*,
};

/// A tar with an ambiguous entry, and the path that is named.
struct Case {
    name: &'static str,
    kind: AmbiguityKind,
    entry: &'static str,
    tar: Vec<u8>,
}

fn case(kind: AmbiguityKind, name: &'static str, entry: &'static str, entries: Vec<Entry>) -> Case {
    Case { name, kind, entry, tar: tar([vec![dir("usr")], entries].concat()) }
}

fn a() -> Entry {
    file("usr/a", noise(1, 700))
}

/// Files behind the ambiguous entry, which a reader may lose: the first has so many
/// blocks as the entry claims.
fn rest() -> Vec<Entry> {
    vec![file("usr/c", noise(2, 300)), file("usr/d", noise(3, 90))]
}

fn cases() -> Vec<Case> {
    use AmbiguityKind::*;
    let followed = |entries: Vec<Entry>| [entries, rest()].concat();
    let zero_block = |before: Vec<Entry>, after: Vec<Entry>| {
        [unfinished([vec![dir("usr")], before].concat()), vec![0; 512], tar(after)].concat()
    };
    let sparse = |records: &[(&str, &str)]| {
        let file = file("usr/sparse", [&b"1\n0\n10\n"[..], &[0; 505], &[b'x'; 10]].concat());
        records.iter().fold(file, |file, (key, value)| file.pax(key, *value))
    };
    let long = file("././@LongLink", "usr/one\0").gnu().typeflag(b'L');
    let star = ["usr/".to_owned() + &"d".repeat(127) + "00000000001 00000000001"].concat();
    let records = b"20 path=usr/renamed\n".to_vec();
    let extended = file("PaxHeaders/b", records).typeflag(b'x');
    vec![
        case(
            SizeWithoutData,
            "a hard link with a size",
            "usr/b",
            followed(vec![a(), hardlink("usr/b", "usr/a").claims_size(700)]),
        ),
        case(
            SizeWithoutData,
            "a hard link with a size in a PAX record",
            "usr/b",
            followed(vec![a(), hardlink("usr/b", "usr/a").pax("size", "700")]),
        ),
        case(
            SizeWithoutData,
            "a symbolic link with a size",
            "usr/l",
            followed(vec![symlink("usr/l", "a").claims_size(700)]),
        ),
        case(
            SizeWithoutData,
            "a directory with a size",
            "usr/e",
            followed(vec![dir("usr/e").claims_size(700)]),
        ),
        case(
            SizeWithoutData,
            "a device with a size",
            "usr/n",
            followed(vec![char_device("usr/n", 1, 3).claims_size(700)]),
        ),
        case(SizeWithoutData, "a fifo with a size", "usr/p", followed(vec![fifo("usr/p").claims_size(700)])),
        case(
            FileNamedAsDirectory,
            "a v7 directory",
            "usr/e",
            vec![file("usr/e/", "").v7(), file("usr/f", "x")],
        ),
        case(
            FileNamedAsDirectory,
            "a file with a slash at its end",
            "usr/e",
            vec![file("usr/e/", noise(1, 100))],
        ),
        case(
            FileNamedAsDirectory,
            "a file in the place of its own directory",
            "usr/e/.",
            vec![dir("usr/e"), file("usr/e/.", noise(1, 100))],
        ),
        case(
            UstarVersion,
            "a prefix in a ustar header of another version",
            "usr/p/file",
            vec![
                dir("usr/p"),
                file("file", noise(1, 90)).overlay(257, *b"ustar\0 \0").overlay(345, *b"usr/p"),
            ],
        ),
        case(
            UnknownSparseForm,
            "a sparse file of form 1.1",
            "usr/sparse",
            vec![sparse(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "1")])],
        ),
        case(
            UnknownSparseForm,
            "a sparse file without a map",
            "usr/sparse",
            vec![sparse(&[("GNU.sparse.realsize", "100000")])],
        ),
        case(
            NulInName,
            "a NUL in a path",
            "usr/passwd\\0x",
            vec![file("usr/passwd", "x"), file("usr/p", "evil").pax("path", "usr/passwd\0x")],
        ),
        case(
            NulInName,
            "a NUL in a link target",
            "usr/l",
            vec![symlink("usr/l", "a").pax("linkpath", "usr/a\0b")],
        ),
        case(
            NulInName,
            "a NUL in an attribute's name",
            "usr/f",
            vec![file("usr/f", "x").xattr("user.a\0b", "x")],
        ),
        Case {
            name: "a zero block between entries",
            kind: LoneZeroBlock,
            entry: "usr/c",
            tar: zero_block(vec![a()], rest()),
        },
        Case {
            name: "a zero block between an extended header and its entry",
            kind: LoneZeroBlock,
            entry: "usr/renamed",
            tar: zero_block(vec![extended.clone()], rest()),
        },
        Case {
            name: "a zero block before a global header",
            kind: LoneZeroBlock,
            entry: "usr/c",
            tar: zero_block(vec![a()], [vec![global_header(&[("comment", "x")])], rest()].concat()),
        },
        case(
            RepeatedTime,
            "two times",
            "usr/f",
            vec![file("usr/f", "x").pax("mtime", "1500000000.25").pax("mtime", "1600000000.75")],
        ),
        case(OddTime, "a sign in a fraction", "usr/f", vec![file("usr/f", "x").pax("mtime", "1.+5")]),
        case(
            OddTime,
            "a time beyond 63 bits",
            "usr/f",
            vec![file("usr/f", "x").pax("mtime", "18446744073709551615")],
        ),
        Case {
            name: "a GNU and a PAX name",
            kind: ConflictingNames,
            entry: "usr/two",
            tar: tar([dir("usr"), long, file("usr/p", "x").pax("path", "usr/two")]),
        },
        case(
            GnuPrefix,
            "a prefix in a GNU header",
            "usr/p/file",
            vec![dir("usr/p"), file("file", "x").gnu().overlay(345, *b"usr/p")],
        ),
        case(
            GnuPrefix,
            "a GNU header with one time and other bytes behind it",
            "14000000000/file",
            vec![dir("14000000000"), file("file", "x").gnu().overlay(345, *b"14000000000\0usr/p")],
        ),
        case(
            StarPrefix,
            "a full prefix in a star header",
            "usr/ddd",
            [
                ["usr/".to_owned() + &"d".repeat(127) + "00000000001 00000000001"].map(dir).to_vec(),
                vec![file("f", "x").overlay(345, star).overlay(508, *b"tar\0")],
            ]
            .concat(),
        ),
        case(
            OddNumber,
            "a size with a sign",
            "usr/f",
            vec![file("usr/f", "xx").overlay(124, *b"+0000000002\0")],
        ),
        case(
            OddNumber,
            "a size with a sign in the archive's last header",
            "a global header at the end of the archive",
            vec![file("usr/f", "x"), global_header(&[("comment", "x")]).overlay(124, *b"+0000000015\0")],
        ),
        case(
            OddNumber,
            "a mode behind a NUL",
            "usr/f",
            vec![file("usr/f", "x").overlay(100, *b"\x000000644")],
        ),
        case(
            MalformedRecord,
            "bytes behind the records",
            "usr/g",
            vec![file("PaxHeaders/f", "14 path=usr/g\nxxx").typeflag(b'x'), file("usr/f", "x")],
        ),
        case(OwnerOutOfRange, "an owner of 33 bits", "usr/f", vec![file("usr/f", "x").owner(1 << 32, 0)]),
        case(EmptyTarget, "a symbolic link without a target", "usr/l", vec![symlink("usr/l", "")]),
        case(OddWhiteout, "a whiteout of the folder itself", "usr/.wh..", vec![file("usr/.wh..", "")]),
        case(
            LostExtendedHeader,
            "a global header behind an extended header",
            "usr/c",
            [vec![extended, global_header(&[("comment", "x")])], rest()].concat(),
        ),
    ]
}

fn pull(repo: &Path, reference: &str) -> Invocation {
    cfs_dag(["pull", "--insecure", reference]).repo(repo)
}

fn write(layout: &Layout, name: &str, tar: &[u8]) -> String {
    layout.image(name).layer(tar).write();
    layout.reference(name)
}

/// Asserts that an image is refused in one line that names the layer, the entry and the ambiguity, and that
/// nothing of it has a name.
#[track_caller]
fn assert_refused(finished: Finished, repo: &Path, case: &Case) {
    let finished = finished.assert_code(1);
    let lines = finished.stderr.lines().filter(|line| line.starts_with("cfs-dag: "));
    assert_eq!(lines.count(), 1, "{}: {finished}", case.name);
    finished.says(&["layer 1 of 1", case.entry, case.kind.text(), "--as-upstream"]);
    oracle::assert_clean(repo);
    let images = cfs_dag(["images", "--json"]).repo(repo).expect_success().json();
    assert_eq!(images.as_array().map(Vec::len), Some(0), "{}", case.name);
}

#[test]
fn ambiguous_layer_is_refused() {
    for case in cases() {
        let (layout, scratch) = (layout(), scratch());
        let reference = write(&layout, "x", &case.tar);
        let repo = scratch.path("repo");
        assert_refused(pull(&repo, &reference).run(), &repo, &case);
    }
}

#[test]
fn ambiguous_layer_as_upstream_has_the_ids_of_upstream() {
    for case in cases() {
        let (layout, scratch) = (layout(), scratch());
        let reference = write(&layout, "x", &case.tar);
        let theirs = oracle::oracle(&reference, DEFAULT_KIND);
        let repo = scratch.path("repo");
        let finished = pull(&repo, &reference).arg("--as-upstream").expect_success();
        assert_eq!(theirs.stored, oracle::stored(&repo, &reference), "{}", case.name);
        oracle::assert_clean(&repo);
        let finished = finished.says(&["warning", "layer 1", case.entry, case.kind.text()]);
        assert!(finished.stdout.contains("warning   layer 1: "), "{}: {finished}", case.name);
    }
}

#[test]
fn every_kind_of_a_header_has_a_case() {
    for kind in AmbiguityKind::ALL {
        // Seen where layers are applied.
        let elsewhere = kind == AmbiguityKind::LateOpaqueMarker;
        assert!(elsewhere || cases().iter().any(|case| case.kind == kind), "{kind:?}");
    }
}

#[test]
fn opaque_marker_after_its_siblings_is_refused_or_applied_as_upstream_does() {
    let kind = AmbiguityKind::LateOpaqueMarker;
    let lower = tar([dir("usr"), dir("usr/d"), file("usr/d/old", noise(1, 90))]);
    let late = tar([dir("usr/d"), file("usr/d/new", noise(2, 90)), opaque("usr/d")]);
    let (layout, scratch) = (layout(), scratch());
    layout.image("x").layer(lower.clone()).layer(late.clone()).write();
    let (reference, repo) = (layout.reference("x"), scratch.path("repo"));
    let refused = || pull(&repo, &reference).run().assert_code(1);
    // Again when its layers are stored, and when another program has stored them.
    for _ in 0..2 {
        refused().says(&["layer 2 of 2", "usr/d: ", kind.text(), "--as-upstream"]);
    }
    pull(&repo, &reference).arg("--as-upstream").expect_success().says(&["warning", "layer 2: usr/d"]);
    assert_eq!(oracle::oracle(&reference, DEFAULT_KIND).stored, oracle::stored(&repo, &reference));
    refused().says(&["layer 2 of 2", "usr/d: ", kind.text(), "--as-upstream"]);
    let early = tar([dir("usr/d"), opaque("usr/d"), file("usr/d/new", noise(2, 90))]);
    layout.image("early").layer(lower).layer(early).write();
    pull(&repo, &layout.reference("early")).expect_success();
}

#[test]
fn mirror_refuses_ambiguous_layers_or_takes_them_as_upstream_does() {
    let (layout, scratch) = (layout(), scratch());
    let case = hardlink_case();
    let (one, other) = (write(&layout, "one", &case.tar), write(&layout, "other", &case.tar));
    let list = scratch.path("list");
    std::fs::write(&list, format!("{one}\n{other}\n")).unwrap();
    let repo = scratch.path("repo");
    let mirror = |more: &[&str]| {
        let list = list.to_str().unwrap().to_owned();
        cfs_dag(["mirror", "--insecure", &list]).args(more).repo(&repo).run()
    };
    mirror(&[]).assert_code(1).says(&["usr/b", case.kind.text()]);
    let taken = mirror(&["--as-upstream"]).assert_code(0);
    assert_eq!(taken.stdout.lines().filter(|line| line.starts_with("warning ")).count(), 2, "{taken}");
}

fn hardlink_case() -> Case {
    cases().remove(0)
}

#[test]
fn warning_stays_in_results_summary_and_record() {
    let (layout, scratch) = (layout(), scratch());
    let case = hardlink_case();
    let reference = write(&layout, "x", &case.tar);
    let (repo, summary) = (scratch.path("repo"), scratch.path("summary.json"));
    let lenient = || pull(&repo, &reference).args(["--as-upstream", "--format=json"]);
    let noted = serde_json::json!([{"layer": 1, "kind": "size-without-data", "path": "usr/b"}]);
    // The second pull finds the layer stored and splits nothing.
    for _ in 0..2 {
        let finished = lenient().arg("--summary").arg(&summary).expect_success();
        assert_eq!(finished.json()["images"][0]["ambiguities"], noted);
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&summary).unwrap()).unwrap();
        assert_eq!(written["images"][0]["ambiguities"], noted);
        let log = cfs_dag(["log"]).repo(&repo).expect_success();
        assert!(log.stdout.contains("warning: layer 1: usr/b: "), "{log}");
    }
}

#[test]
fn stored_ambiguous_layer_is_refused_as_a_new_one_is() {
    let (layout, scratch) = (layout(), scratch());
    let case = hardlink_case();
    let reference = write(&layout, "x", &case.tar);
    let other = write(&layout, "other", &case.tar);
    let repo = scratch.path("repo");
    pull(&repo, &reference).arg("--as-upstream").expect_success();
    for reference in [&reference, &other] {
        for more in [&[][..], &["--dry-run"], &["--force"]] {
            let finished = pull(&repo, reference).args(more).run().assert_code(1);
            finished.says(&["layer 1 of 1", "usr/b", case.kind.text(), "--as-upstream"]);
        }
    }
    // A note goes with its layer.
    cfs_dag(["untag", &reference]).repo(&repo).expect_success();
    cfs_dag(["gc"]).repo(&repo).expect_success();
    assert_eq!(std::fs::read_dir(repo.join("cfs-dag/ambiguous")).unwrap().count(), 0);
    assert_refused(pull(&repo, &other).run(), &repo, &case);
}

#[test]
fn one_zero_block_ends_a_tar() {
    let (layout, scratch) = (layout(), scratch());
    let whole = tar([dir("usr"), a(), symlink("usr/l", "a")]);
    let reference = write(&layout, "x", &whole[..whole.len() - 512]);
    let repo = scratch.path("repo");
    pull(&repo, &reference).expect_success();
    oracle::assert_clean(&repo);
    // The filesystem is that of the tar with both blocks, also when it is made from the stored stream.
    let both = write(&layout, "both", &whole);
    let expected = oracle::oracle(&both, DEFAULT_KIND).stored;
    assert_eq!(oracle::stored(&repo, &reference).erofs_v1, expected.erofs_v1);
    std::fs::remove_dir_all(repo.join("cfs-dag")).unwrap();
    layout.image("two").layer(&whole[..whole.len() - 512]).layer(tar([file("usr/more", "x")])).write();
    pull(&repo, &layout.reference("two")).expect_success();
}

#[test]
fn unsupported_entry_is_named_in_words() {
    let long = |flag| file("././@LongLink", "usr/x\0").v7().typeflag(flag);
    for (entries, words) in [
        (vec![file("usr/x", "18 comment=hello\n").typeflag(b'X')], "a Solaris extended header"),
        (vec![file("volume", "").gnu().typeflag(b'V')], "a GNU volume label"),
        (vec![long(b'L')], "a GNU long name in a v7 header"),
        (vec![file("usr/x", "").typeflag(b'Z')], "an entry of unknown type ('Z')"),
        (vec![file("usr/p", "x").pax("mtime", "-1.5")], "usr/p: its modification time (-1.5) is before 1970"),
    ] {
        let (layout, scratch) = (layout(), scratch());
        let reference = write(&layout, "x", &tar([vec![dir("usr")], entries].concat()));
        let finished = pull(&scratch.path("repo"), &reference).run().assert_code(1);
        assert!(!finished.stderr.contains("corrupt"), "{finished}");
        finished.says(&["layer 1 of 1", words]);
    }
}

#[test]
fn ambiguous_layer_that_an_artifact_stored_is_refused_for_an_image() {
    let case = hardlink_case();
    for together in [false, true] {
        let (layout, scratch) = (layout(), scratch());
        layout.artifact("artifact").layer(case.tar.clone()).plain().write();
        let (artifact, image) = (layout.reference("artifact"), write(&layout, "image", &case.tar));
        let repo = scratch.path("repo");
        let finished = if together {
            cfs_dag(["pull", "--insecure", &artifact, &image]).repo(&repo).run().assert_code(3)
        } else {
            pull(&repo, &artifact).expect_success();
            pull(&repo, &image).run().assert_code(1)
        };
        finished.says(&["image: layer 1 of 1", "usr/b", case.kind.text()]);
        let lenient = pull(&repo, &image).arg("--as-upstream").expect_success();
        assert!(lenient.stdout.contains("warning   layer 1: usr/b"), "{lenient}");
    }
}

#[test]
fn note_that_cannot_be_read_is_not_passed_over() {
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "x", &hardlink_case().tar);
    let repo = scratch.path("repo");
    pull(&repo, &reference).arg("--as-upstream").expect_success();
    let note = std::fs::read_dir(repo.join("cfs-dag/ambiguous")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&note, r#"[{"kind": "of-a-later-version", "path": "usr/b"}]"#).unwrap();
    pull(&repo, &reference).expect_failure(1).says(&["cfs-dag/ambiguous/sha256:", "a later version"]);
}

#[test]
fn times_before_1970_in_a_gnu_header_are_not_a_prefix() {
    let (layout, scratch) = (layout(), scratch());
    let mut before = [0xff; 12];
    before[11] = 0xfb;
    let reference = write(&layout, "x", &tar([dir("usr"), file("usr/f", "x").gnu().overlay(345, before)]));
    pull(&scratch.path("repo"), &reference).expect_success();
}
