//! Entries that need parents, images without /usr, and how contradictions are told.

use std::{fs, path::Path};

use support::{
    image::{Layout, layout},
    oracle::{self, DEFAULT_KIND, Formats, Stored},
    repo::{Invocation, assert_same_lines, cfs_dag, scratch},
    tar::*,
    tree,
};

fn pull(repo: &Path, reference: &str) -> Invocation {
    pull_showing("none", repo, reference)
}

fn pull_showing(progress: &str, repo: &Path, reference: &str) -> Invocation {
    let flags = ["pull", "--insecure", "--format=json", "--erofs-version=1,2", "--progress", progress];
    cfs_dag(flags).arg(reference).repo(repo)
}

fn write(layout: &Layout, tag: &str, layers: impl IntoIterator<Item = Vec<u8>>) -> String {
    layers.into_iter().fold(layout.image(tag), |image, layer| image.layer(layer)).write().reference
}

/// The ids of both EROFS images of `name`.
fn erofs(repo: &Path, name: &str) -> [String; 2] {
    let Stored { erofs_v1, erofs_v2, .. } = oracle::stored(repo, name);
    [erofs_v1.expect("a V1 image"), erofs_v2.expect("a V2 image")]
}

/// The ids that upstream gives to an image of these layers.
fn upstream_erofs(layers: impl IntoIterator<Item = Vec<u8>>) -> [String; 2] {
    let layout = layout();
    let reference = write(&layout, "expected", layers);
    let pulled = oracle::oracle(&reference, oracle::RepoKind(oracle::Algorithm::Sha512, Formats::Both));
    erofs(&pulled.repo(), &reference)
}

/// A pull of an image of these layers into a new repository, and the ids that it has there; sound by
/// upstream's judgement and ours.
fn our_erofs(layers: impl IntoIterator<Item = Vec<u8>>) -> [String; 2] {
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "ours", layers);
    let repo = scratch.path("repo");
    pull(&repo, &reference).expect_success();
    assert_sound(&repo);
    erofs(&repo, &reference)
}

#[track_caller]
fn assert_sound(repo: &Path) {
    oracle::assert_clean(repo);
    oracle::assert_gc_removes_nothing(repo);
    cfs_dag(["fsck"]).repo(repo).expect_success();
    let before = oracle::objects(repo);
    cfs_dag(["gc"]).repo(repo).expect_success();
    assert_eq!(before, oracle::objects(repo), "our own gc removed something");
}

/// Asserts that a pull of an image of these layers fails with one line that has all of `words`, tags nothing,
/// and leaves a repository that is clean; and that upstream refuses it, too.
#[track_caller]
fn assert_refused(layers: impl IntoIterator<Item = Vec<u8>>, words: &[&str]) {
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "refused", layers);
    let repo = scratch.path("repo");
    let finished = pull(&repo, &reference).expect_failure(1).says(words).says(&[&reference]);
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    let tags = fs::read_dir(repo.join("streams/refs/oci")).map_or(0, Iterator::count);
    assert_eq!(tags, 0, "{finished}");
    oracle::assert_clean(&repo);
    let theirs = scratch.path("theirs");
    oracle::create(&theirs, DEFAULT_KIND);
    assert!(oracle::upstream_pull(&theirs, &reference, "x").is_err(), "upstream takes it");
}

/// A directory as it is made where the layer has no entry for it.
fn made(path: &str) -> Entry {
    dir(path).mode(0o755).owner(0, 0).mtime(0)
}

#[test]
fn missing_parents_are_made_as_if_the_layer_had_entries_for_them() {
    let below = [dir("usr"), file("usr/keep/old", "x"), dir("usr/keep").mode(0o700).owner(3, 4)];
    let above = [
        file("usr/x/y/f", noise(1, 5000)).mode(0o755).owner(1, 2),
        symlink("opt/tool/bin/run", "/usr/x/y/f"),
        hardlink("srv/linked/f", "usr/x/y/f"),
        dir("var/lib/app").mode(0o700),
        fifo("usr/keep/new/pipe"),
        // What the layer says itself holds, also when it says so later.
        dir("var").owner(7, 7),
    ];
    let explicit_below = [vec![dir("usr"), made("usr/keep")], below[1..].to_vec()].concat();
    let parents = ["usr/x", "usr/x/y", "opt", "opt/tool", "opt/tool/bin", "srv", "srv/linked"];
    let more = ["var", "var/lib", "usr/keep/new"];
    let explicit_above: Vec<_> =
        parents.iter().chain(&more).map(|path| made(path)).chain(above.clone()).collect();
    let explicit = [tar(explicit_below), tar(explicit_above)];
    let layers = [tar(below), tar(above)];
    assert_eq!(our_erofs(layers.clone()), upstream_erofs(explicit.clone()));

    if !tree::can_mount() {
        return;
    }
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "mounted", layers);
    let repo = scratch.path("repo");
    cfs_dag(["pull", "--insecure", "--progress=none", &reference]).repo(&repo).expect_success();
    let expected = tree::expected_tree(explicit, Formats::V1);
    assert_same_lines("mounted", &expected, &mounted(&repo, &reference));
}

/// The whole tree of an image that our own command mounts, with all its contents.
fn mounted(repo: &Path, name: &str) -> Vec<String> {
    let target = tempfile::tempdir().unwrap();
    cfs_dag(["mount", name]).arg(target.path()).repo(repo).expect_success();
    let found = std::panic::catch_unwind(|| tree::tree_at(target.path()));
    rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    found.unwrap()
}

#[test]
fn whiteouts_below_missing_directories_make_none() {
    let below = || tar([dir("usr"), file("usr/f", "x"), dir("usr/d"), file("usr/d/g", "y")]);
    let above = tar([
        whiteout("nowhere/f"),
        opaque("usr/nowhere"),
        opaque("nowhere/at/all"),
        whiteout("usr/d"),
        // Gone by now, as is what it had.
        whiteout("usr/d/g"),
        opaque("usr/d"),
        file("usr/h", "z"),
    ]);
    let expected = tar([whiteout("usr/d"), file("usr/h", "z")]);
    assert_eq!(our_erofs([below(), above]), upstream_erofs([below(), expected]));
}

#[test]
fn directory_that_a_whiteout_removed_is_made_again_for_what_follows() {
    let below = || tar([dir("usr"), dir("usr/d").mode(0o700), file("usr/d/old", "x")]);
    let above = tar([whiteout("usr/d"), file("usr/d/new", "y")]);
    let expected = tar([whiteout("usr/d"), made("usr/d"), file("usr/d/new", "y")]);
    assert_eq!(our_erofs([below(), above]), upstream_erofs([below(), expected]));
}

#[test]
fn made_parents_count_as_entries_and_as_metadata() {
    let layout = layout();
    // 1 + 1 entries, and 100 directories that are made: usr/a, usr/a/a, …
    let path = |depth| format!("usr{}/f", "/a".repeat(depth));
    let reference = write(&layout, "deep", [tar([dir("usr"), file(path(100), "x")])]);
    let path_bytes: usize =
        "usr".len() + path(100).len() + (1..=100).map(|n| "usr".len() + 2 * n).sum::<usize>();
    let limited = |limit: &str, value: usize| {
        let scratch = scratch();
        let run = pull(&scratch.path("repo"), &reference).arg(format!("--limit={limit}={value}")).run();
        (scratch, run)
    };
    for (limit, most) in [("entries", 102), ("metadata", path_bytes)] {
        limited(limit, most).1.assert_code(0);
        let words = [&*reference, &format!("more than {} ", most - 1), &format!("--limit {limit}=N")];
        limited(limit, most - 1).1.assert_code(1).says(&words);
    }
    // Also when the layer is stored already and is read back.
    let repo = scratch();
    for _ in 0..2 {
        let run = pull(&repo.path("repo"), &reference).arg("--limit=entries=101");
        run.expect_failure(1).says(&["more than 101 entries"]);
    }
}

#[test]
fn few_long_paths_cannot_take_memory_for_their_parents() {
    const PATHS: usize = 400;
    let deep = |n| file(format!("usr/{n:03}{}", "/a".repeat(2000)), "");
    let layout = layout();
    // 800 000 directories out of some megabytes of headers.
    let reference = write(&layout, "bomb", [tar([dir("usr")].into_iter().chain((0..PATHS).map(deep)))]);
    let scratch = scratch();
    let repo = scratch.path("repo");
    let flags = ["--memory=67108864", "--limit=entries=20000"];
    let finished = pull(&repo, &reference).args(flags).expect_failure(1);
    let finished = finished.says(&[&reference, "more than 20000 entries of an image"]);
    // 64 MiB, the program itself, and 1.4 kB for each of 22 000 directories.
    let peak = finished.peak_memory >> 20;
    assert!(peak < 64 + 32 + 32, "{peak} MiB");
    oracle::assert_clean(&repo);
}

/// A static program as it is packed alone, with `/run` and attributes that are not for an image.
fn pause() -> Vec<Vec<u8>> {
    let below = tar([
        dir("./").mode(0o711).owner(5, 5),
        file("pause", noise(3, 70_000)).mode(0o755),
        file("etc/passwd", "root:x:0:0\n").owner(1, 2).xattr("user.comment", "dropped"),
        dir("run").mode(0o700).mtime(1_600_000_000),
        file("run/secret", noise(4, 2000)),
    ]);
    let above = tar([
        file("bin/ping", noise(5, 3000)).mode(0o4755).xattr("security.capability", net_raw_capability()),
        hardlink("bin/pause", "pause"),
        symlink("lib", "bin"),
    ]);
    vec![below, above]
}

#[test]
fn image_without_usr_is_stored_and_all_commands_take_it() {
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "pause", pause());
    let repo = scratch.path("repo");
    let result = pull(&repo, &reference).expect_success().json();
    assert_eq!(result["images"][0]["outcome"], "ok", "{result:#}");
    assert_sound(&repo);

    let ids = erofs(&repo, &reference);
    let told = &result["images"][0]["erofs"];
    assert_eq!(told["v1"], ids[0].as_str(), "{result:#}");
    assert_eq!(told["v2"], ids[1].as_str(), "{result:#}");
    let images = cfs_dag(["images"]).repo(&repo).expect_success();
    assert!(images.stdout.contains(&reference), "{images}");
    let inspected = cfs_dag(["inspect", &reference]).repo(&repo).expect_success();
    assert!(ids.iter().all(|id| inspected.stdout.contains(id)), "{inspected}");

    let again = pull_showing("json", &repo, &reference).expect_success();
    assert!(!again.stderr.contains("\"started\""), "something was built again: {again}");
    assert_eq!(again.json()["images"][0]["erofs"], *told, "{again}");
    // Upstream's own pull still refuses it, and does no harm to what is there.
    assert!(oracle::upstream_pull(&repo, &reference, "theirs").is_err());
    assert_eq!(erofs(&repo, &reference), ids);
    oracle::assert_clean(&repo);
    oracle::gc(&repo);
    assert_eq!(erofs(&repo, &reference), ids);
    assert_sound(&repo);

    cfs_dag(["untag", &reference]).repo(&repo).expect_success();
    cfs_dag(["gc"]).repo(&repo).expect_success();
    assert!(oracle::objects(&repo).is_empty(), "gc leaves {:?}", oracle::objects(&repo));
}

#[test]
fn mirrored_image_without_usr_is_unchanged_the_second_time() {
    let (layout, scratch) = (layout(), scratch());
    let reference = write(&layout, "pause", pause());
    let (repo, list) = (scratch.path("repo"), scratch.path("list"));
    fs::write(&list, format!("{reference}\n")).unwrap();
    let mirror = || {
        let run = cfs_dag(["mirror", "--insecure", "--progress=none"]).arg(&list).repo(&repo);
        run.expect_success().stdout
    };
    assert!(mirror().starts_with("new"));
    assert_eq!(mirror(), "unchanged 1 image\n");
}

#[test]
fn mounted_image_without_usr_is_whole() {
    if !tree::can_mount() {
        return;
    }
    let (layout, scratch) = (layout(), scratch());
    for format in [Formats::V1, Formats::V2] {
        // Upstream's reading of the same with what is made spelled out, and with a /usr
        // like the root that we make.
        let with_usr = tar([made("usr"), made("etc"), made("bin")]);
        let mut layers = pause();
        layers.insert(0, with_usr);
        let mut expected = tree::expected_tree(layers, format);
        expected.retain(|line| !line.starts_with("/usr "));
        let reference = write(&layout, "pause", pause());
        let repo = scratch.path(&format!("{format:?}"));
        let version = if format == Formats::V1 { "1" } else { "2" };
        let run = cfs_dag(["pull", "--insecure", "--progress=none", "--erofs-version", version, &reference]);
        run.repo(&repo).expect_success();
        let (root, rest) = without_links_of_root(mounted(&repo, &reference));
        let (expected_root, expected_rest) = without_links_of_root(expected);
        assert_same_lines("mounted", &expected_rest, &rest);
        assert_eq!(root, expected_root);
        assert!(root.starts_with("/ 0 40755 - 0 0 0 0.0 "), "{root}");
    }
}

/// The line of the root without the number of its links, which counts the directories in it, and the others.
fn without_links_of_root(mut lines: Vec<String>) -> (String, Vec<String>) {
    let root = lines.remove(0);
    let mut fields: Vec<&str> = root.split(' ').collect();
    fields[3] = "-";
    (fields.join(" "), lines)
}

#[test]
fn usr_that_is_not_a_directory_counts_as_no_usr() {
    let (layout, scratch) = (layout(), scratch());
    for (tag, usr) in [("link", symlink("usr", "opt/usr")), ("file", file("usr", noise(6, 500)))] {
        let reference = write(&layout, tag, [tar([dir("opt"), dir("opt/usr").mode(0o700), usr])]);
        let repo = scratch.path(tag);
        cfs_dag(["pull", "--insecure", "--progress=none", &reference]).repo(&repo).expect_success();
        assert_sound(&repo);
        if tree::can_mount() {
            let root = mounted(&repo, &reference).remove(0);
            assert!(root.starts_with("/ 0 40755 ") && root.contains(" 0 0 0 0.0 "), "{root}");
        }
    }
}

#[test]
fn images_of_no_layers_and_of_empty_layers_are_stored_and_are_the_same() {
    let none = our_erofs([]);
    assert_eq!(none, our_erofs([tar([])]));
    assert_eq!(none, our_erofs([tar([]), tar([dir("./").mode(0o700)]), record_padded(tar([]))]));
    // And what is empty in the end.
    assert_eq!(none, our_erofs([tar([dir("usr"), file("usr/f", "x")]), tar([whiteout("usr")])]));
    if tree::can_mount() {
        let (layout, scratch) = (layout(), scratch());
        let reference = write(&layout, "none", []);
        let repo = scratch.path("repo");
        cfs_dag(["pull", "--insecure", "--progress=none", &reference]).repo(&repo).expect_success();
        let found = mounted(&repo, &reference);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("/ 0 40755 2 0 0 0 0.0 "), "{found:?}");
    }
}

#[test]
fn entry_below_a_symlink_is_refused_with_the_path_that_the_layer_has_to_carry() {
    let below =
        tar([dir("usr"), dir("usr/lib"), file("usr/lib/old", noise(1, 90)), symlink("lib", "usr/lib")]);
    for (entry, words) in [
        (file("lib/foo", "x"), "lib/foo: lib is a symlink to usr/lib: the layer has to carry usr/lib/foo"),
        (dir("./lib/a/b/"), "lib/a/b: lib is a symlink to usr/lib: the layer has to carry usr/lib/a/b"),
        (whiteout("lib/old"), "the layer has to carry usr/lib/.wh.old"),
        (
            hardlink("usr/f", "lib/old"),
            "usr/f: a hard link to lib/old, but lib is a symlink to usr/lib: the hard \
                                        link has to name usr/lib/old",
        ),
    ] {
        assert_refused([below.clone(), tar([entry])], &["layer 2 of 2", words]);
    }
}

#[test]
fn entry_below_a_file_is_refused_with_the_name_of_the_file() {
    let below = tar([dir("usr"), file("usr/f", noise(1, 90)), char_device("usr/null", 1, 3)]);
    for (path, words) in [
        ("usr/f/g", "usr/f/g: usr/f is a regular file where a directory is needed"),
        ("usr/f/g/h", "usr/f/g/h: usr/f is a regular file where a directory is needed"),
        ("usr/null/x", "usr/null/x: usr/null is a character device where a directory is needed"),
    ] {
        let words = &["layer 2 of 2", words, "the layer has to carry a directory usr/"];
        assert_refused([below.clone(), tar([file(path, "x")])], words);
    }
}

#[test]
fn hard_link_that_cannot_be_is_refused_with_both_names() {
    for (target, words) in [
        (
            "usr/nothing",
            "usr/n: a hard link to usr/nothing, which does not exist: the layer has to carry usr/nothing",
        ),
        ("no/where", "usr/n: a hard link to no/where, which does not exist"),
        ("usr/d", "usr/n: a hard link to usr/d, which is a directory"),
    ] {
        let layer = tar([dir("usr"), dir("usr/d"), hardlink("usr/n", target)]);
        assert_refused([layer], &["layer 1 of 1", words]);
    }
}

#[test]
fn run_that_cannot_be_emptied_is_refused_with_what_it_is() {
    let link = tar([dir("usr"), dir("var"), dir("var/run"), symlink("run", "var/run")]);
    assert_refused(
        [link],
        &["/run is a symlink to var/run where a directory is needed", "make it a directory"],
    );
    let file = tar([file("run", "x"), file("pause", "y")]);
    assert_refused([file], &["/run is a regular file where a directory is needed"]);
}

#[test]
fn device_0_0_with_several_names_is_refused_with_its_names() {
    let words = "usr/c: a device 0:0 with several names (usr/c, usr/c2) cannot be stored";
    let layer = |links: &[&str]| {
        let links: Vec<_> = links.iter().map(|name| hardlink(*name, "usr/c")).collect();
        tar([dir("usr"), char_device("usr/c", 0, 0)].into_iter().chain(links))
    };
    assert_refused([layer(&["usr/c2"])], &[words, "give each name a device of its own"]);
    // With one name in the end it is stored, as upstream does.
    let one_left = || [layer(&["usr/c2"]), tar([whiteout("usr/c2")])];
    assert_eq!(our_erofs(one_left()), upstream_erofs(one_left()));
}

#[test]
fn contradictions_of_hostile_names_are_told_in_plain_text_on_one_line() {
    let name = "usr/\x1b[2J\nok";
    let layer = tar([dir("usr"), file(name, "x"), file(format!("{name}/f"), "x")]);
    assert_refused([layer], &["usr/\\u{1b}[2J\\nok is a regular file"]);
}

#[test]
fn opaque_marker_before_its_siblings_hides_lower_layers_only() {
    let below = || tar([dir("usr"), dir("usr/d"), file("usr/d/old", noise(1, 90))]);
    let above = tar([dir("usr/d"), opaque("usr/d"), file("usr/d/new", noise(2, 90))]);
    let expected = tar([whiteout("usr/d/old"), file("usr/d/new", noise(2, 90))]);
    assert_eq!(our_erofs([below(), above]), upstream_erofs([below(), expected]));
}
