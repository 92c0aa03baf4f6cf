//! What a check has found is made anew by the next pull, whatever it is; and a repository without fs-verity
//! is refused where one is asked for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{
    image::{Image, layout, sha256},
    oracle,
    pulls::{pull, swept},
    repo::{assert_same_lines, cfs_dag, repo_manifest, scratch},
    tar::{dir, file, noise, tar},
};

/// The object behind a link.
fn object(repo: &Path, link: String) -> PathBuf {
    fs::canonicalize(repo.join(link)).unwrap()
}

/// The object whose content has this digest.
fn object_of(repo: &Path, digest: &str) -> PathBuf {
    let mut paths = oracle::objects(repo).into_iter().map(|name| repo.join("objects").join(name));
    paths.find(|path| sha256(&fs::read(path).unwrap()) == digest).expect("an object of these bytes")
}

fn content() -> Vec<u8> {
    noise(1, 9000)
}

/// What is damaged, by name.
type Victim = (&'static str, fn(&Path, &Image) -> PathBuf);

const VICTIMS: [Victim; 6] = [
    ("file", |repo, _| object_of(repo, &sha256(&content()))),
    ("layer", |repo, image| object(repo, format!("streams/oci-layer-{}", image.layers[0].diff_id))),
    ("config", |repo, image| object(repo, format!("streams/oci-config-{}", image.config))),
    ("manifest", |repo, image| object(repo, format!("streams/oci-manifest-{}", image.manifest))),
    ("document", |repo, image| object_of(repo, &image.config)),
    ("filesystem", |repo, image| {
        object(repo, format!("images/{}", oracle::stored(repo, &image.reference).erofs_v1.unwrap()))
    }),
];

/// What happens to it, by name.
type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 4] = [
    ("a bit flipped", |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }),
    ("cut short", |path| fs::write(path, &fs::read(path).unwrap()[..1]).unwrap()),
    ("empty", |path| fs::write(path, []).unwrap()),
    ("gone", |path| fs::remove_file(path).unwrap()),
];

#[test]
fn what_a_check_has_found_is_mended_by_the_next_pull() {
    let layout = layout();
    let content =
        [dir("usr"), file("usr/a", content()), file("usr/b", noise(2, 5000)), file("usr/c", "short")];
    let image = layout.image("app").layer(tar(content)).layer(tar([file("usr/d", noise(3, 7000))])).write();
    let other = layout.image("other").layer(tar([dir("usr"), file("usr/e", noise(4, 7000))])).write();
    let scratch = scratch();
    let repo = scratch.path("repo");
    let references = [&*image.reference, &*other.reference];
    pull(&repo, &references).expect_success();
    let kept = swept(&repo);
    let whole = repo_manifest(&repo);
    for (victim, find) in VICTIMS {
        for (damage, harm) in DAMAGES {
            let shown = format!("{victim} {damage}");
            harm(&find(&repo, &image));
            let found = cfs_dag(["fsck"]).repo(&repo).run().assert_code(1);
            assert!(found.stdout.contains("to mend: pull the images again: "), "{shown}: {found}");
            assert!(repo.join("cfs-dag/damaged").exists(), "{shown}");
            // Another image does not mend it, and does not make us forget it.
            let sound = cfs_dag(["pull", "--dry-run", "--detailed-exitcode"]).arg(&other.reference);
            sound.repo(&repo).expect_success();
            cfs_dag(["inspect", &other.reference]).repo(&repo).expect_success();
            pull(&repo, &references[1..]).expect_success();
            assert!(repo.join("cfs-dag/damaged").exists(), "{shown}");
            pull(&repo, &references).expect_success();
            cfs_dag(["fsck"]).repo(&repo).expect_success();
            assert!(!repo.join("cfs-dag/damaged").exists(), "{shown}");
            assert_same_lines(&shown, &whole, &repo_manifest(&repo));
            oracle::assert_clean(&repo);
        }
    }
    assert_same_lines("after gc", &kept, &swept(&repo));
}

#[test]
fn a_repository_without_verity_is_refused_where_one_is_asked_for() {
    let layout = layout();
    let image = layout.image("app").layer(tar([dir("usr"), file("usr/a", noise(1, 900))])).write();
    let scratch = scratch();
    let repo = scratch.path("repo");
    pull(&repo, &[&image.reference]).expect_success();
    let before = repo_manifest(&repo);
    let words = ["a repository without fs-verity, where one with it is wanted"];
    let reference = &*image.reference;
    let verbs: [&[&str]; 9] = [
        &["pull", reference],
        &["pull", "--dry-run", reference],
        &["images"],
        &["inspect", reference],
        &["tag", reference, "new"],
        &["untag", reference],
        &["fsck"],
        &["gc"],
        &["mount", reference, "/nowhere"],
    ];
    for verb in verbs {
        cfs_dag(verb).arg("--require-verity").repo(&repo).expect_failure(1).says(&words);
    }
    cfs_dag(["init"]).repo(&repo).expect_failure(1).says(&words);
    cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    for verb in ["pull", "init"] {
        let both =
            cfs_dag([verb, "--insecure", "--require-verity"]).args((verb == "pull").then_some(reference));
        both.repo(&repo).expect_failure(2).says(&["exclude each other"]);
    }
    assert_same_lines("repository", &before, &repo_manifest(&repo));
}
