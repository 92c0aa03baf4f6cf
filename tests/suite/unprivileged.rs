//! An ordinary user: everything but mounting works, what belongs to others is left alone, and what is made
//! has the modes and owners that upstream's own pull gives it, whatever the umask.
//!
//! As root the program is run as another user, from a copy that everyone may run;
//! otherwise as whoever we are.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustix::process::{geteuid, umask};
use support::{
    image::{Image, Layout, layout},
    mirrors::list,
    oracle::{self, DEFAULT_KIND},
    pulls::*,
    registry_real::real_registry,
    repo::{Finished, Invocation, Scratch, command, fix_umask, program, repo_manifest, scratch},
    tar::*,
    users::*,
};
use tempfile::TempDir;

/// Programs that everyone may run: those that are being tested may lie where only root gets in.
struct Programs {
    _dir: TempDir,
    cfs_dag: PathBuf,
    this_test: PathBuf,
}

fn programs() -> &'static Programs {
    static COPIES: OnceLock<Programs> = OnceLock::new();
    COPIES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        let copy = |from: &Path, name: &str| {
            let to = dir.path().join(name);
            // Not by ourselves: a fork in another thread could hold it open for writing,
            // and then it does not start.
            assert!(Command::new("cp").arg(from).arg(&to).status().unwrap().success());
            set_mode(&to, 0o755);
            to
        };
        let cfs_dag = copy(Path::new(program()), "cfs-dag");
        let this_test = copy(&std::env::current_exe().unwrap(), "this-test");
        Programs { cfs_dag, this_test, _dir: dir }
    })
}

/// Somebody with a home of their own.
struct User {
    home: Scratch,
}

impl User {
    fn new() -> Self {
        let home = scratch();
        give_away(&home.path(""));
        Self { home }
    }

    /// The program, run by this user.
    fn cfs_dag<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        as_user(command(programs().cfs_dag.to_str().unwrap(), args)).env("HOME", self.home.path(""))
    }

    fn repo(&self) -> PathBuf {
        self.home.path(".var/lib/composefs")
    }
}

/// An image in a layout that everyone can read.
struct Shown {
    image: Image,
    _layout: Layout,
}

fn shown() -> Shown {
    let layout = layout();
    let base = tar([dir("usr"), file("usr/base", noise(1, 50_000))]);
    let image = layout.image("app").layer(base).layer(tar([file("usr/top", noise(2, 5000))])).write();
    let (path, _) = image.reference.strip_prefix("oci:").unwrap().rsplit_once(':').unwrap();
    set_mode(Path::new(path).parent().unwrap(), 0o755);
    Shown { image, _layout: layout }
}

#[test]
fn everything_but_mounting_works_as_an_ordinary_user() {
    let (user, shown, registry) = (User::new(), shown(), real_registry());
    let local = &*shown.image.reference;
    let remote = registry.push(local, "app:v1");
    let run = |args: &[&str]| user.cfs_dag(args.iter().copied()).arg("--user").expect_success();
    assert_eq!(run(&["init", "--insecure"]).stdout, format!("{}: created\n", user.repo().display()));
    let dry = run(&["pull", "--dry-run", local]);
    assert!(dry.stdout.contains("needed"), "{dry}");
    run(&["pull", "--name=app", local]);
    run(&["pull", "--name=far", "--tls-verify=false", &remote]);
    let list = list(&user.home, "list", &[&remote]);
    run(&["mirror", "--tls-verify=false", list.to_str().unwrap()]);
    run(&["tag", "app", "other"]);
    let images = run(&["images"]);
    for name in ["app", "far", "other", &*remote] {
        assert!(images.stdout.lines().any(|line| line.starts_with(&format!("{name} "))), "{images}");
    }
    assert!(run(&["inspect", "app"]).stdout.contains(&shown.image.manifest));
    run(&["untag", "other"]);
    assert!(!run(&["log"]).stdout.is_empty());
    assert!(run(&["gc"]).stdout.starts_with("removed 0 objects"));
    run(&["fsck"]);
    assert_no_leftovers(&user.repo());
    assert_stored(&user.repo(), "app", local);
    if geteuid().is_root() {
        let foreign = owners(&user.repo()).into_iter().filter(|(_, owner)| *owner != (USER, USER));
        assert_eq!(foreign.collect::<Vec<_>>(), []);
    }
    let mount = user.cfs_dag(["mount", "--user", "app"]).arg(user.home.path(""));
    let finished = mount.expect_failure(1);
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    finished.says(&["cfs-dag: ", "app", "mounting needs root"]);
}

#[test]
fn a_folder_that_may_not_be_read_is_named_with_its_repository() {
    let (user, shown) = (User::new(), shown());
    let repo = user.home.path("repo");
    let run = |args: &[&str]| user.cfs_dag(args.iter().copied()).repo(&repo);
    run(&["pull", "--insecure", "--name=app", &shown.image.reference]).expect_success();
    let first = fs::read_dir(repo.join("objects")).unwrap().next().unwrap().unwrap().file_name();
    let objects = format!("objects/{}", first.display());
    for (folder, verbs) in [
        (&*objects, &[&["fsck"][..], &["gc", "--dry-run"]][..]),
        ("cfs-dag/runs", &[&["log"], &["log", "--list"]]),
    ] {
        set_mode(&repo.join(folder), 0);
        for verb in verbs {
            let finished = run(verb).expect_failure(1);
            let shown = format!("{}: {folder}: Permission denied", repo.display());
            assert_eq!(finished.stderr.matches(&*shown).count(), 1, "{shown}: {finished}");
        }
        set_mode(&repo.join(folder), 0o755);
    }
}

/// Who owns what, in all of a repository.
fn owners(folder: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.append(&mut owners(&path));
        }
        found.insert(path, (metadata.uid(), metadata.gid()));
    }
    found
}

#[test]
fn what_belongs_to_somebody_else_can_be_read_and_is_left_alone() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let (user, shown, place) = (User::new(), shown(), scratch());
    let reference = &*shown.image.reference;
    let repo = place.path("repo");
    set_mode(&place.path(""), 0o755);
    pull(&repo, &[reference]).arg("--name=app").expect_success();
    let run = |args: &[&str]| user.cfs_dag(args.iter().copied()).repo(&repo).run();
    let reading: [&[&str]; 4] =
        [&["images"], &["inspect", "app"], &["fsck"], &["pull", "--dry-run", reference]];
    let writing: [&[&str]; 6] = [
        &["pull", "--insecure", "--progress=none", "--name=mine", reference],
        &["pull", "--insecure", "--progress=none", "--force", reference],
        &["tag", "app", "other"],
        &["untag", "app"],
        &["gc"],
        &["init", "--insecure"],
    ];
    let one_line = |finished: &Finished| {
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert_eq!(finished.code, Some(1), "{finished}");
    };
    // As upstream makes it, a repository is for its owner alone.
    let before = owners(&repo);
    for args in reading.iter().chain(&writing) {
        let finished = run(args);
        one_line(&finished);
        finished.says(&["Permission denied"]);
    }
    set_mode(&repo, 0o755);
    let manifest = repo_manifest(&repo);
    for args in reading {
        run(args).assert_code(0);
    }
    // Records may hold what is not for everyone.
    run(&["log"]).assert_code(1).says(&["cannot be read", "Permission denied"]);
    for args in &writing[..5] {
        let finished = run(args);
        one_line(&finished);
        finished.says(&["no permission to write"]);
    }
    let there = run(writing[5]).assert_code(0);
    assert_eq!(there.stderr, "", "{there}");
    assert_eq!(owners(&repo), before);
    assert_eq!(repo_manifest(&repo), manifest);
}

#[test]
fn modes_and_owners_are_those_that_upstream_gives() {
    let shown = shown();
    for mask in [0o022, 0o027, 0o077, 0o002] {
        for parent_mode in [0o755, 0o2775] {
            let [ours, theirs] = ["ours", "theirs"].map(|whose| {
                let place = scratch();
                give_away(&place.path(""));
                // A group that is not the user's own, where we can give it.
                if geteuid().is_root() {
                    chown(place.path(""), Some(USER), Some(100)).unwrap();
                }
                set_mode(&place.path(""), parent_mode);
                let repo = place.path("repo");
                let program = match whose {
                    "ours" => pull_by_user(&repo, &shown.image.reference),
                    _ => upstream_by_user(&repo, &shown.image.reference),
                };
                under_umask(program, mask).expect_success();
                if whose == "ours" {
                    assert_records_are_private(&repo);
                }
                kinds(&repo, whose == "theirs")
            });
            assert_eq!(ours, theirs, "umask {mask:03o}, parent {parent_mode:04o}");
        }
    }
}

fn pull_by_user(repo: &Path, reference: &str) -> Invocation {
    let args = ["pull", "--insecure", "--progress=none", "--name=app", reference];
    as_user(command(programs().cfs_dag.to_str().unwrap(), args)).repo(repo)
}

const CHILD: &str = "CFS_DAG_TEST_UPSTREAM_AS_USER";

fn upstream_by_user(repo: &Path, reference: &str) -> Invocation {
    let program = programs().this_test.to_str().unwrap();
    as_user(command(program, ["--exact", "unprivileged::upstream_pull_child"]))
        .env(CHILD, format!("{}\n{reference}", repo.display()))
}

/// Not a test by itself: upstream's pull in a process with the umask that is asked for.
#[test]
fn upstream_pull_child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (repo, reference) = task.split_once('\n').unwrap();
    let wanted = umask(0.into());
    // The oracle's own would come later otherwise.
    fix_umask();
    umask(wanted);
    oracle::create(Path::new(repo), DEFAULT_KIND);
    oracle::upstream_pull(Path::new(repo), reference, "app").unwrap();
}

fn under_umask(program: Invocation, mask: u32) -> Invocation {
    program.changed(|command| {
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                umask(mask.into());
                Ok(())
            });
        }
    })
}

fn assert_records_are_private(repo: &Path) {
    for record in fs::read_dir(repo.join("cfs-dag/runs")).unwrap() {
        let mode = record.unwrap().metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    }
}
