//! Records of mirrors, and taking several tags away.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
};

use super::{law::Op, *};
use crate::store::{MirroredElsewhere, MirroredName, MirroredNames};

const LIST: &str = "/etc/images.list";

/// Names that a mirror made.
fn names(names: &[&str]) -> MirroredNames {
    let made = |name: &&str| ((*name).to_owned(), MirroredName { made: true, image: None });
    names.iter().map(made).collect()
}

/// A mirror of `list`, which has `wanted` with their images, makes `making`; gives the
/// names that it makes first.
fn begin<H: FsVerityHashValue>(
    scene: &Scene<H>,
    list: &str,
    wanted: &[(&str, Option<&str>)],
    making: &[&str],
) -> Vec<String> {
    let wanted: BTreeMap<_, _> =
        wanted.iter().map(|(name, image)| ((*name).to_owned(), image.map(str::to_owned))).collect();
    let making = making.iter().copied().collect::<BTreeSet<_>>();
    scene.store.begin_mirror(list, &wanted, &making).unwrap().new.into_iter().collect()
}

/// Records that mirrors of `list` have made just these names.
fn set<H: FsVerityHashValue>(scene: &Scene<H>, list: &str, given: &[&str]) {
    scene.store.change_mirrored(list, |record| *record = names(given)).unwrap();
}

/// The only record there is.
fn record<H: FsVerityHashValue>(scene: &Scene<H>) -> PathBuf {
    let files: Vec<PathBuf> =
        fs::read_dir(scene.path("cfs-dag/mirrors")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    file.clone()
}

#[test]
fn what_a_mirror_has_named_is_known_to_the_next_one() {
    let scene = repo::<Sha256HashValue>();
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&[]));
    assert!(!scene.path("cfs-dag").exists(), "asking makes nothing");
    set(&scene, LIST, &["b", "a"]);
    let scene = reopen(scene);
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&["a", "b"]));
    let text = fs::read_to_string(record(&scene)).unwrap();
    assert_eq!(text, r#"{"schema":1,"list":"/etc/images.list","names":["a","b"]}"#);
    assert_eq!(fs::metadata(record(&scene)).unwrap().permissions().mode() & 0o777, 0o600);
    set(&scene, LIST, &["c"]);
    assert!(scene.store.mirrored_elsewhere(LIST).unwrap().is_empty());
    set(&scene, "another list", &["d"]);
    let elsewhere = scene.store.mirrored_elsewhere(LIST).unwrap();
    let other = MirroredElsewhere { list: "another list".to_owned(), made: true, image: None };
    assert_eq!(elsewhere.into_iter().collect::<Vec<_>>(), [("d".to_owned(), other)]);
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&["c"]));
    // A gc has nothing to say about it.
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&["c"]));
    scene.fsck_is_clean();
}

#[test]
fn a_record_that_cannot_be_read_is_never_taken_for_an_empty_one() {
    let scene = repo::<Sha256HashValue>();
    set(&scene, LIST, &["a"]);
    let (file, whole) = (record(&scene), fs::read_to_string(record(&scene)).unwrap());
    let damaged = [
        (String::new(), "is damaged"),
        (whole[..whole.len() - 1].to_owned(), "is damaged"),
        (whole.replace("\"a\"", "7"), "is damaged"),
        (whole.replace("\"schema\":1", "\"schema\":2,\"new\":[]"), "is of version 2, and we know 1"),
        (whole.replace("images", "other"), "is that of \"/etc/other.list\""),
    ];
    for (text, why) in damaged {
        fs::write(&file, &text).unwrap();
        let error = scene.store.mirrored(LIST).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(": remove it"), "{error}");
        assert!(error.starts_with(&file.display().to_string()) && !error.contains('\n'), "{error}");
    }
    fs::write(&file, "").unwrap();
    assert!(scene.store.mirrored_elsewhere("another list").is_err());
    fs::remove_file(&file).unwrap();
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&[]));
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let scene = repo::<Sha256HashValue>();
    set(&scene, LIST, &["a"]);
    let many: Vec<String> = (0..300_000).map(|n| format!("{n:0250}")).collect();
    let many = names(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let error = scene.store.change_mirrored(LIST, |record| record.extend(many)).unwrap_err().to_string();
    assert!(error.contains("300001 names") && error.contains("split the list"), "{error}");
    assert_eq!(scene.store.mirrored(LIST).unwrap(), names(&["a"]));
}

#[test]
fn several_tags_go_at_once_and_for_good() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "stays");
    for tag in ["one", "docker://example.com/two:1"] {
        scene.store.tag("stays", tag).unwrap();
    }
    let scene = reopen(scene);
    let gone = scene.store.untag_all(["one", "never was", "docker://example.com/two:1", "@bad"]).unwrap();
    assert_eq!(gone, ["one", "docker://example.com/two:1"]);
    let synced =
        |scene: &Scene<_>| scene.journal.ops().iter().filter(|op| matches!(op, Op::DirSynced(_))).count();
    assert_eq!(synced(&scene), 1, "one sync serves all");
    let left: Vec<String> = scene.store.tags().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["stays"]);
    assert!(scene.store.untag_all(["one"]).unwrap().is_empty());
    assert!(repo::<Sha256HashValue>().store.untag_all(["one"]).unwrap().is_empty(), "no tag was ever made");
}

#[test]
fn names_are_made_by_mirrors_or_found() {
    let scene = repo::<Sha256HashValue>();
    let made = |list: &str| -> Vec<String> {
        let names = scene.store.mirrored(list).unwrap();
        names.into_iter().filter(|(_, known)| known.made).map(|(name, _)| name).collect()
    };
    assert_eq!(begin(&scene, LIST, &[("a", None), ("b", Some("docker://r/b:1"))], &["a"]), ["a"]);
    let text = fs::read_to_string(record(&scene)).unwrap();
    let expected = r#"{"schema":1,"list":"/etc/images.list","names":["a","b"],"found":["b"],"images":{"b":"docker://r/b:1"}}"#;
    assert_eq!(text, expected);
    assert_eq!(made(LIST), ["a"]);
    // What one mirror made is made for all; what was made stays made.
    assert!(begin(&scene, "other", &[("a", None), ("b", None)], &[]).is_empty());
    assert_eq!(made("other"), ["a"]);
    assert_eq!(begin(&scene, "other", &[("a", None), ("b", None)], &["a", "b"]), ["b"]);
    assert!(begin(&scene, LIST, &[("b", None)], &[]).is_empty());
    assert_eq!(made(LIST), ["a", "b"]);
    let elsewhere = scene.store.mirrored_elsewhere("third").unwrap();
    assert!(elsewhere.values().all(|other| other.made) && elsewhere.len() == 2, "{elsewhere:?}");
}
