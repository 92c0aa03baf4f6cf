//! Filesystems that lack what a repository needs, or lack it and another way is as good.

use std::fs;

use libc::*;
use support::{
    fuse::{Fuse, Lacks},
    image::layout,
    inject::{Kind, inject_always},
    mount::Mount,
    oracle,
    pulls::*,
    registry::Registry,
    repo::{assert_same_repo, cfs_dag, scratch},
};

use super::{image, served};

#[test]
fn repository_where_case_does_not_count_is_refused_for_writing() {
    let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
    let image = served(&registry, &layout);
    let (backing, at) = (scratch.path("backing"), scratch.path("at"));
    [&backing, &at].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    pull(&backing.join("repo"), &[&image.reference]).args(["--name", "app:v1"]).expect_success();
    let asked = registry.requests_for("app");
    let Some(_fuse) = Fuse::new(&backing, &at, Lacks { case: true, ..Lacks::default() }) else { return };
    let (repo, new) = (at.join("repo"), at.join("new"));
    let refused = pull(&repo, &[&image.reference]).args(["--name", "app:V1"]).expect_failure(1);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    refused.says(&[repo.to_str().unwrap(), "ignores the case of names", "choose a place where case counts"]);
    assert_eq!(registry.requests_for("app"), asked, "refused before anything is asked");
    cfs_dag(["tag", "app:v1", "app:V1"]).repo(&repo).expect_failure(1).says(&["ignores the case of names"]);
    pull(&new, &[&image.reference]).expect_failure(1).says(&["ignores the case of names"]);
    assert!(!new.exists(), "what is refused leaves nothing");
    // What is there can be looked at, planned for, and taken away.
    assert!(cfs_dag(["images"]).repo(&repo).expect_success().stdout.contains("app:v1"));
    let dry = cfs_dag(["pull", "--tls-verify=false", "--dry-run", &image.reference]).repo(&repo);
    dry.expect_success();
    cfs_dag(["untag", "app:v1"]).repo(&repo).expect_success();
    cfs_dag(["gc"]).repo(&repo).expect_success();
}

#[test]
fn repository_on_a_filesystem_without_exclusive_renames_and_links_is_the_same() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let clean = scratch.path("clean");
    pull(&clean, &[&image.reference]).expect_success();
    let no_flags = Lacks { rename_flags: true, ..Lacks::default() };
    for (number, lacks) in [no_flags, Lacks { hard_links: true, ..no_flags }].into_iter().enumerate() {
        let (backing, at) = (scratch.path(&format!("backing{number}")), scratch.path(&format!("at{number}")));
        [&backing, &at].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let Some(_fuse) = Fuse::new(&backing, &at, lacks) else { return };
        let repo = at.join("repo");
        pull(&repo, &[&image.reference]).expect_success();
        assert_same_repo(&clean, &backing.join("repo"));
        oracle::assert_clean(&repo);
        assert_no_leftovers(&repo);
        // The record of the run is there, and a damaged object is replaced.
        cfs_dag(["log"]).repo(&repo).expect_success();
        let object = support::repo::repo_manifest(&backing.join("repo"));
        let object =
            object.iter().find(|line| line.starts_with("objects/") && line.contains(" 5000 ")).unwrap();
        fs::write(repo.join(object.split(' ').next().unwrap()), "short").unwrap();
        pull(&repo, &[&image.reference]).arg("--force").expect_success();
        assert_same_repo(&clean, &backing.join("repo"));
    }
}

#[test]
fn filesystem_without_symbolic_links_is_refused_before_a_blob_is_fetched() {
    let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
    let image = served(&registry, &layout);
    let (backing, at) = (scratch.path("backing"), scratch.path("at"));
    [&backing, &at].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let Some(_fuse) = Fuse::new(&backing, &at, Lacks { symlinks: true, ..Lacks::default() }) else { return };
    let repo = at.join("repo");
    let refused = pull(&repo, &[&image.reference]).expect_failure(1);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    refused.says(&[repo.to_str().unwrap(), "no symbolic links", "choose another place"]);
    assert!(image.layers.iter().all(|layer| registry.requests_for(&layer.blob) == 0));
}

#[test]
fn repository_on_several_mounts_is_refused_before_anything_is_asked() {
    let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
    let image = served(&registry, &layout);
    let repo = scratch.path("repo");
    pull(&repo, &[&image.reference]).expect_success();
    let asked = registry.requests_for("app");
    for folder in ["objects", "streams", "streams/refs/oci", "images", "cfs-dag", "cfs-dag/tmp"] {
        let at = repo.join(folder);
        // Another filesystem, and the same one by another way.
        for args in [&["-t", "tmpfs", "none"][..], &["--bind", at.to_str().unwrap()]] {
            let Some(_mount) = Mount::new(at.clone(), args) else { return };
            let refused = pull(&repo, &[&image.reference]).expect_failure(1);
            assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
            refused.says(&[
                at.to_str().unwrap(),
                "another filesystem or mount",
                "put the folder itself in its place",
            ]);
            cfs_dag(["images"]).repo(&repo).expect_success();
        }
    }
    assert_eq!(registry.requests_for("app"), asked);
    // A mount at the repository itself is as good as any place.
    let Some(_mount) = Mount::new(repo.clone(), &["-t", "tmpfs", "none"]) else { return };
    pull(&repo, &[&image.reference]).expect_success();
}

#[test]
fn inodes_that_ran_out_are_called_inodes() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let disk = scratch.path("disk");
    fs::create_dir(&disk).unwrap();
    let Some(mount) = Mount::new(disk.clone(), &["-t", "tmpfs", "-o", "nr_inodes=60", "none"]) else {
        return;
    };
    let repo = disk.join("repo");
    for jobs in ["1", "8"] {
        let finished = pull(&repo, &[&image.reference]).arg("-j").arg(jobs).expect_failure(1);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        finished.says(&[&image.reference, "no inodes left", "df -i"]);
    }
    mount.change("remount,nr_inodes=6000");
    pull(&repo, &[&image.reference]).expect_success();
}

static EXCLUSIVE_RENAMES: Kind = Kind::all("renameat2", SYS_renameat2, &[EINVAL]);
static HARD_LINKS: Kind = Kind::all("linkat", SYS_linkat, &[EPERM]);
static SYMBOLIC_LINKS: Kind = Kind::all("symlinkat", SYS_symlinkat, &[EPERM]);
static ANONYMOUS_FILES: Kind =
    Kind::those("openat", SYS_openat, |seen| seen.args[2] as i32 & O_TMPFILE == O_TMPFILE, &[EOPNOTSUPP]);

#[test]
fn calls_that_a_sandbox_or_filesystem_refuses_are_made_in_another_way() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let clean = scratch.path("clean");
    pull(&clean, &[&image.reference]).expect_success();
    for (number, (kind, errno)) in [
        (&EXCLUSIVE_RENAMES, EINVAL),
        (&EXCLUSIVE_RENAMES, ENOSYS),
        (&HARD_LINKS, EPERM),
        (&HARD_LINKS, EOPNOTSUPP),
        (&HARD_LINKS, ENOSYS),
        (&ANONYMOUS_FILES, EOPNOTSUPP),
    ]
    .into_iter()
    .enumerate()
    {
        let repo = scratch.path(&format!("repo{number}"));
        cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
        inject_always(pull(&repo, &[&image.reference]), kind, errno).assert_code(0);
        assert_same_repo(&clean, &repo);
        assert_no_leftovers(&repo);
        cfs_dag(["log"]).repo(&repo).expect_success();
    }
    let repo = scratch.path("repo");
    for errno in [EPERM, EOPNOTSUPP, ENOSYS] {
        let refused = inject_always(pull(&repo, &[&image.reference]), &SYMBOLIC_LINKS, errno).assert_code(1);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        refused.says(&[repo.to_str().unwrap(), "no symbolic links"]);
    }
}

static NEW_FILES: Kind = Kind::those("openat", SYS_openat, is_an_object, &[EPERM]);

fn is_an_object(seen: &support::inject::Seen) -> bool {
    seen.args[2] as i32 & O_TMPFILE == O_TMPFILE && seen.about.contains("/objects/")
}

#[test]
fn call_that_is_not_permitted_is_told_with_its_path_and_remedy() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let repo = scratch.path("repo");
    let told = inject_always(pull(&repo, &[&image.reference]), &NEW_FILES, EPERM).assert_code(1);
    assert_eq!(told.stderr.lines().count(), 1, "{told}");
    told.says(&[&image.reference, "writing objects/", "Operation not permitted", "lsattr", "sandbox"]);
}

#[test]
fn folder_that_is_immutable_is_refused_before_anything_is_asked() {
    let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
    let image = served(&registry, &layout);
    let repo = scratch.path("repo");
    cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    let change = |how: &str| {
        std::process::Command::new("chattr")
            .arg(how)
            .arg(&repo)
            .output()
            .is_ok_and(|done| done.status.success())
    };
    if !change("+i") {
        return eprintln!("skipped: nothing can be made immutable here");
    }
    let refused = pull(&repo, &[&image.reference]).run();
    assert!(change("-i"));
    refused.assert_code(1).says(&[repo.to_str().unwrap(), "immutable", "chattr -i"]);
    assert_eq!(registry.requests_for("app"), 0);
}
