//! Limits of a process, and surroundings that are not there: told in words, or no matter.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use libc::*;
use support::{
    image::layout,
    inject::{Kind, inject_always},
    oracle,
    pulls::*,
    repo::{Invocation, assert_same_repo, cfs_dag, command, program, scratch},
    users::{as_user, give_away},
};

use super::{after, image, pull_after};

#[test]
fn file_that_gets_too_large_is_told_with_the_limit() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let repo = scratch.path("repo");
    // In blocks of 512 bytes.
    let told = pull_after("ulimit -f 1000", &repo, &image.reference).expect_failure(1);
    assert_eq!(told.stderr.lines().count(), 1, "{told}");
    told.says(&[&image.reference, "layer 2 of 2", "File too large", "ulimit -f"]);
    oracle::assert_clean(&repo);
    pull(&repo, &[&image.reference]).expect_success();
}

#[test]
fn memory_that_is_refused_is_told_and_nothing_is_aborted() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let mut told = 0;
    for megabytes in (40..120).step_by(10).chain((120..600).step_by(60)) {
        let repo = scratch.path(&format!("repo{megabytes}"));
        let first = format!("ulimit -v {}", megabytes * 1024);
        let finished = pull_after(&first, &repo, &image.reference).run();
        assert!(finished.signal.is_none(), "{finished}");
        assert!([Some(0), Some(1)].contains(&finished.code), "{finished}");
        assert!(finished.stderr.lines().all(|line| line.starts_with("cfs-dag: ")), "{finished}");
        told += usize::from(finished.stderr.contains("memory"));
    }
    assert!(told > 0, "no limit was too low");
}

#[test]
fn open_files_that_ran_out_are_told_with_the_limit() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    for files in [8, 10, 20, 40] {
        let repo = scratch.path(&format!("repo{files}"));
        let told = pull_after(&format!("ulimit -n {files}"), &repo, &image.reference).expect_failure(1);
        told.says(&["Too many open files", "ulimit -n"]);
    }
}

/// A pull in a mount namespace of its own, after `first`; `None` where that is not allowed.
fn pull_among(first: &str, repo: &Path, reference: &str) -> Option<Invocation> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return None;
    }
    let args = ["-m", "sh", "-c", &format!("{first}; exec \"$@\""), "sh", program()];
    Some(command("unshare", args).args(["pull", "--insecure", "--progress=none", reference]).repo(repo))
}

#[test]
fn pull_needs_proc_for_a_new_repository_alone() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let (clean, repo, new) = (scratch.path("clean"), scratch.path("repo"), scratch.path("new"));
    pull(&clean, &[&image.reference]).expect_success();
    cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    let Some(pull) = pull_among("umount -l /proc", &repo, &image.reference) else { return };
    pull.expect_success();
    assert_same_repo(&clean, &repo);
    let refused = pull_among("umount -l /proc", &new, &image.reference).unwrap().expect_failure(1);
    refused.says(&[new.to_str().unwrap(), "/proc is not mounted", "mount -t proc"]);
    assert!(!new.exists());
}

#[test]
fn pull_does_without_sys_shm_and_a_folder_for_temporary_files() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let (clean, repo, other) = (scratch.path("clean"), scratch.path("repo"), scratch.path("other"));
    pull(&clean, &[&image.reference]).expect_success();
    pull(&other, &[&image.reference]).env("TMPDIR", "/nowhere/at/all").expect_success();
    assert_same_repo(&clean, &other);
    let Some(pull) = pull_among("umount -l /sys; umount -l /dev/shm", &repo, &image.reference) else {
        return;
    };
    pull.expect_success();
    assert_same_repo(&clean, &repo);
}

#[test]
fn users_repository_needs_a_home() {
    for first in ["unset HOME", "HOME="] {
        let told = after(first, ["images", "--user"]).expect_failure(1);
        assert_eq!(told.stderr, "cfs-dag: $HOME is not set: name the repository with --repo PATH\n");
    }
}

#[test]
fn repository_path_may_be_any_bytes_and_not_a_file() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let clean = scratch.path("clean");
    pull(&clean, &[&image.reference]).expect_success();
    for name in [&b"new\nline"[..], b"not \xff UTF-8", b"-v", b" "] {
        let repo = scratch.path("").join(OsStr::from_bytes(name));
        pull(&repo, &[&image.reference]).expect_success();
        assert_same_repo(&clean, &repo);
        assert_eq!(cfs_dag(["images"]).repo(&repo).expect_success().stdout.lines().count(), 2);
        fs::remove_file(repo.join("meta.json")).unwrap();
        fs::remove_dir_all(repo.join("objects")).unwrap();
        let told = pull(&repo, &[&image.reference]).expect_failure(1);
        assert_eq!(told.stderr.lines().count(), 1, "a path's line feed ends no line: {told}");
    }
    let file = scratch.path("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        pull(&path, &[&image.reference]).expect_failure(1).says(&[path.to_str().unwrap(), "not a directory"]);
    }
}

#[test]
fn umask_that_denies_the_owner_is_named() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: what an ordinary user makes is read by root here");
    }
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let folder: PathBuf = scratch.path("user");
    fs::create_dir(&folder).unwrap();
    give_away(&folder);
    for path in
        [scratch.path(""), Path::new(image.reference.strip_prefix("oci:").unwrap()).parent().unwrap().into()]
    {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let (old, new) = (folder.join("old"), folder.join("new"));
    as_user(cfs_dag(["init", "--insecure"]).repo(&old)).expect_success();
    for repo in [&old, &new] {
        let told = as_user(pull_after("umask 0777", repo, &image.reference)).expect_failure(1);
        assert_eq!(told.stderr.lines().count(), 1, "{told}");
        told.says(&[repo.to_str().unwrap(), "umask (0777)", "umask 022"]);
    }
    assert!(!new.exists());
}

static RECORDS: Kind =
    Kind::those("write", SYS_write, |seen| seen.about.contains("/cfs-dag/tmp/"), &[ENOSPC]);

#[test]
fn full_disk_is_told_of_a_record_and_of_a_summary() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let repo = scratch.path("repo");
    pull(&repo, &[&image.reference]).expect_success();
    let told = inject_always(pull(&repo, &[&image.reference]), &RECORDS, ENOSPC).assert_code(0);
    told.says(&["no record of this run was kept", "no space left"]);
    let told = pull(&repo, &[&image.reference]).arg("--summary=/dev/full").expect_failure(1);
    told.says(&["/dev/full: the summary cannot be written", "No space left", "free some"]);
    let args = ["pull", "--insecure", "--progress=none", &image.reference];
    let told = command("sh", ["-c", "exec \"$@\" > /dev/full", "sh", program()]).args(args).repo(&repo);
    told.expect_failure(1).says(&["could not be written to stdout", "No space left"]);
}
