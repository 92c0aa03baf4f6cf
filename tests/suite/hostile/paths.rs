//! Names in tars that lead out, say nothing or too much: the same ids as upstream's, or
//! refused as upstream does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use support::{
    image::layout,
    oracle::{self, DEFAULT_KIND},
    repo::{cfs_dag, scratch},
    tar::*,
};

/// Asserts that we make of an image with these entries above `/usr` and `/usr/f` what upstream makes of it:
/// the same ids, or nothing. Only if no directory `/usr` is left, we take it and upstream does not.
#[track_caller]
fn assert_as_upstream(what: &str, entries: Vec<Entry>) -> bool {
    let layout = layout();
    let before = [dir("usr"), file("usr/f", noise(1, 100)), dir("usr/d"), file("usr/d/g", "small")];
    layout.image("odd").layer(tar(before)).layer(tar(entries)).write();
    let reference = layout.reference("odd");
    let (ours, theirs) = (scratch(), scratch());
    oracle::create(&theirs.path("repo"), DEFAULT_KIND);
    let pull = || oracle::upstream_pull(&theirs.path("repo"), &reference, &reference);
    let expected = catch_unwind(AssertUnwindSafe(pull)).unwrap_or_else(|_| Err("it panics".into()));
    let finished = cfs_dag(["pull", "--insecure", "--as-upstream", &reference]).repo(ours.path("repo")).run();
    match expected {
        Ok(expected) => {
            assert_eq!(finished.code, Some(0), "{what}: upstream takes it: {finished}");
            assert_eq!(expected, oracle::stored(&ours.path("repo"), &reference), "{what}");
            true
        }
        Err(error) if error.contains("Directory entry \"usr\"") => {
            assert_eq!(finished.code, Some(0), "{what}: there is only no /usr: {finished}");
            oracle::assert_clean(&ours.path("repo"));
            false
        }
        Err(error) => {
            assert_eq!(finished.code, Some(1), "{what}: upstream refuses it: {error}\n{finished}");
            assert!(finished.stderr.contains("of 2"), "{what}: the layer is not named: {finished}");
            false
        }
    }
}

fn named(name: impl Into<Vec<u8>>) -> Vec<Entry> {
    vec![file(name, "x")]
}

#[test]
fn names_that_lead_out_are_as_upstream_has_them() {
    for name in ["../x", "usr/../x", "usr/../../x", "..", "usr/..", "usr/d/../f", "/../x", "//x", "usr//x"] {
        assert_as_upstream(name, named(name));
        assert_as_upstream(name, vec![dir(name)]);
        assert_as_upstream(name, vec![hardlink("usr/h", name)]);
        assert_as_upstream(name, vec![symlink("usr/s", name)]);
    }
}

#[test]
fn names_that_say_little_are_as_upstream_has_them() {
    for name in
        ["", ".", "./", "/", "./.", "usr/.", "./usr/x", "/usr/x", "usr/x/", "usr/x//", "...", "usr/f/x"]
    {
        assert_as_upstream(name, named(name));
        assert_as_upstream(name, vec![dir(name)]);
    }
    for value in ["", "/", "\0", "usr/a\0b", "usr/a\nb"] {
        assert_as_upstream(value, vec![file("usr/x", "x").pax("path", value)]);
        assert_as_upstream(value, vec![symlink("usr/x", "y").pax("linkpath", value)]);
    }
    assert!(assert_as_upstream("no text", named(&b"usr/\xff\xfe"[..])));
}

#[test]
fn names_like_whiteouts_are_as_upstream_has_them() {
    for name in [
        "usr/.wh.f",
        "usr/.wh.nothing",
        "usr/.wh.",
        "usr/.wh..",
        "usr/.wh...",
        "usr/.wh..wh.f",
        "usr/.wh..wh..opq",
        "usr/.wh..wh..plnk",
        "usr/d/.wh..wh..opq",
        ".wh.usr",
        ".wh..wh..opq",
        "usr/.wh.d/x",
        "usr/..wh.f",
        "usr/.whf",
        "usr/.wh.d/../f",
    ] {
        assert_as_upstream(name, named(name));
        assert_as_upstream(name, vec![dir(name)]);
        assert_as_upstream(name, vec![symlink(name, "x")]);
    }
}

#[test]
fn long_names_are_as_upstream_has_them_up_to_what_the_kernel_takes() {
    assert!(assert_as_upstream("a name of 255", named(format!("usr/{}", "n".repeat(255)))));
    // Upstream makes an image of them; the kernel calls a folder with such a name corrupt.
    for len in [256, 1000] {
        assert_refused(named(format!("usr/{}", "n".repeat(len))), "a name has more than 255 bytes");
    }
    let deep = |len: usize| {
        let mut path = "usr/d".to_owned();
        let mut entries = Vec::new();
        while len - path.len() > 200 {
            path.push_str(&format!("/{}", "d".repeat(99)));
            entries.push(dir(path.clone()));
        }
        let rest = len - path.len() - 1;
        entries.push(file(format!("{path}/{}", "f".repeat(rest)), "x"));
        entries
    };
    assert!(assert_as_upstream("4096", deep(4096)));
    let too_deep = [dir("usr"), dir("usr/d")].into_iter().chain(deep(4097)).collect();
    assert_refused(too_deep, "more than 4096 bytes of a path");
}

fn assert_refused(entries: Vec<Entry>, words: &str) {
    let layout = layout();
    layout.image("long").layer(tar([dir("usr")].into_iter().chain(entries))).write();
    let scratch = scratch();
    let refused = cfs_dag(["pull", "--insecure", &layout.reference("long")]).repo(scratch.path("repo"));
    refused.expect_failure(1).says(&["layer 1 of 1", words]);
}
