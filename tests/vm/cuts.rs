//! Power cuts: whatever moment the machine stops at, what was reported is there, what is visible is
//! whole, and the next run ends as an undisturbed one. Knows what is done, and what must hold afterwards;
//! ignores disks and their logs.
//!
//! One machine does the work while everything that it writes to its disk is logged. The log gives the disk as
//! it would be at any moment, with a cache that keeps, loses or tears what was not flushed; many such disks
//! are put into a second machine, which looks at each of them. `CFS_DAG_CUTS` is how many (24),
//! `CFS_DAG_SEED` chooses the moments. Other machines are really killed at such moments.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use composefs::fsverity::{FsVerityHashValue, Sha512HashValue, measure_verity_with_fallback};
use libc::SIGKILL;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::{
    guest::{DISK, mount_disk},
    machine::{Disk, Machine, copy_image},
    marks::{Marks, Reported, label, labelled, last},
    writelog::{Cache, WriteLog},
};
use support::{
    image::{Layout, layout},
    oracle,
    pulls::swept,
    random::Random,
    repo::{Invocation, assert_same_lines, cfs_dag, command, program},
    tar::{dir, file, noise, tar},
};

/// What runs inside, by name.
pub const SCENARIOS: &[(&str, fn())] = &[
    ("work", || work(&[])),
    ("work-insecure", || work(&["--insecure"])),
    ("work-insecure-without-syncfs", || work(&["--insecure", "syncfs"])),
    ("work-without-fsync", || work(&["fsync"])),
    ("look", look),
];

const IMAGES: &str = "/tmp/images";
const MEBIBYTES: u32 = 24;
/// What a disk that is not as it must be is reported with.
const BAD: &str = "BAD ";
/// How many disks were looked at.
const LOOKED: &str = "LOOKED ";
/// Before and after each step.
const MARKS: usize = 14;

#[test]
fn a_power_cut_loses_nothing_of_a_secure_repository() {
    let before = Disk::new(MEBIBYTES);
    let log = worked("work", &before);
    assert_all_good(&before, disks_after_cuts(&before, &log, count()));
}

#[test]
fn a_power_cut_loses_nothing_of_an_insecure_repository() {
    let before = Disk::plain(MEBIBYTES);
    let log = worked("work-insecure", &before);
    assert_all_good(&before, disks_after_cuts(&before, &log, count()));
}

#[test]
fn a_machine_that_is_killed_loses_nothing() {
    let disk = Disk::new(MEBIBYTES);
    let log = worked("work", &disk);
    let mut random = Random(seed());
    let killed = (0..count().div_ceil(8)).map(|_| {
        let first = log.bytes_at(log.marks()[0]);
        // No two runs write the same, so the last part is left to the others.
        let moment = first + random.number() % ((log.bytes_at(log.len()) - first) * 3 / 4);
        let disk = disk.logged();
        let written = || fs::metadata(disk.log().unwrap()).unwrap().len();
        let cut = Machine::boot("work", &[&disk]).cut_when(|| written() >= moment);
        assert!(cut, "the machine ended by itself when it had written {} of {moment} bytes", written());
        label(disk.path(), &format!("killed when it had written {} of {moment} bytes", written()));
        disk
    });
    assert_all_good(&disk, killed.collect());
}

#[test]
fn without_its_barrier_a_pull_would_lose_objects() {
    let before = Disk::plain(MEBIBYTES);
    let log = worked("work-insecure-without-syncfs", &before);
    let bad = bad_disks(&before, &disks_at_reports(&before, &log, 4));
    assert!(bad.iter().any(|why| why.contains("is not what its name says")), "{bad:#?}");
}

#[test]
fn without_syncing_the_folders_of_links_a_pull_would_lose_tags() {
    let before = Disk::new(MEBIBYTES);
    let log = worked("work-without-fsync", &before);
    let bad = bad_disks(&before, &disks_at_reports(&before, &log, 4));
    assert!(bad.iter().any(|why| why.contains("was reported, and is gone")), "{bad:#?}");
}

fn count() -> usize {
    let count = env::var("CFS_DAG_CUTS").map_or(24, |count| count.parse().expect("CFS_DAG_CUTS is a number"));
    assert!(count > MARKS, "CFS_DAG_CUTS is more than {MARKS}, the moments that are always looked at");
    count
}

fn seed() -> u64 {
    env::var("CFS_DAG_SEED").map_or(1, |seed| seed.parse().expect("CFS_DAG_SEED is a number"))
}

/// Lets a machine do the work on a copy of an empty disk: all its writes.
fn worked(scenario: &str, empty: &Disk) -> WriteLog {
    let disk = empty.logged();
    Machine::boot(scenario, &[&disk]).assert_good();
    let log = WriteLog::read(disk.log().unwrap(), disk.size());
    assert_eq!(log.marks().len(), MARKS);
    log
}

/// The disk right after each report (or the first `most` of them), when whatever was not flushed is lost.
fn disks_at_reports(before: &Disk, log: &WriteLog, most: usize) -> Vec<Disk> {
    let moments = log.marks().into_iter().take(most);
    moments.map(|moment| cut(before, log, moment, Cache::Lost, 0)).collect()
}

/// The same, and as many more as it takes to `count` at other moments.
fn disks_after_cuts(before: &Disk, log: &WriteLog, count: usize) -> Vec<Disk> {
    let mut disks = disks_at_reports(before, log, count);
    let marks = log.marks();
    let mut random = Random(seed());
    for n in 0..count - disks.len() {
        // The steps in turn: each gets its share, also those that write little. Between them nothing happens.
        let step = 2 * (n % (marks.len() / 2));
        let moment = marks[step] + random.below(marks[step + 1] - marks[step]);
        let cache = [Cache::Kept, Cache::Torn, Cache::Torn, Cache::Lost][random.below(4)];
        disks.push(cut(before, log, moment, cache, random.number()));
    }
    disks
}

fn cut(before: &Disk, log: &WriteLog, moment: usize, cache: Cache, seed: u64) -> Disk {
    let disk = before.copied(|from, to| log.cut(from, to, moment, cache, seed));
    label(disk.path(), &format!("after {moment} of {} writes, cache {cache:?} ({seed})", log.len()));
    disk
}

#[track_caller]
fn assert_all_good(before: &Disk, disks: Vec<Disk>) {
    let bad = bad_disks(before, &disks);
    assert!(bad.is_empty(), "{} of {} disks:\n{}", bad.len(), disks.len(), bad.join("\n"));
    disks.iter().for_each(Disk::assert_filesystem_clean);
}

/// Lets machines look at the disks, many at a time: what is wrong.
#[track_caller]
fn bad_disks(before: &Disk, disks: &[Disk]) -> Vec<String> {
    let mut bad = Vec::new();
    for some in disks.chunks(64) {
        let undisturbed = before.copied(copy_image);
        label(undisturbed.path(), UNDISTURBED);
        let all: Vec<&Disk> = std::iter::once(&undisturbed).chain(some).collect();
        let (code, console) = Machine::boot("look", &all).wait();
        let found = console.lines().filter_map(|line| line.strip_prefix(BAD)).map(str::to_owned);
        let sofar = bad.len();
        let looked = console.lines().find_map(|line| line.strip_prefix(LOOKED));
        assert_eq!(looked, Some(&*some.len().to_string()), "{console}");
        bad.extend(found);
        assert_eq!(code, Some(i32::from(bad.len() > sofar)), "{console}");
    }
    bad
}

const UNDISTURBED: &str = "undisturbed";

/// Three images that share layers; `web` and `db` are pulled as a batch.
fn write_images() -> Layout {
    let layout = layout();
    let layer = |seed: u64, files: u64| {
        let contents = (0..files).map(|n| {
            let size = if n % 3 == 0 { 40 } else { 3000 + 2500 * n as usize };
            file(format!("usr/{seed}-{n}"), noise(100 * seed + n, size))
        });
        tar(std::iter::once(dir("usr")).chain(contents))
    };
    layout.image("app").layer(layer(1, 9)).layer(layer(2, 5)).zstd().write();
    layout.image("web").layer(layer(1, 9)).layer(layer(3, 6)).write();
    layout.image("db").layer(layer(4, 7)).layer(layer(3, 6)).layer(layer(5, 1)).write();
    std::os::unix::fs::symlink(layout.path(), IMAGES).unwrap();
    layout
}

fn reference(tag: &str) -> String {
    format!("oci:{IMAGES}:{tag}")
}

fn pull(repo: &Path, tags: &[&str]) -> Invocation {
    cfs_dag(["pull", "--progress=none"]).args(tags.iter().map(|tag| reference(tag))).repo(repo)
}

fn repo() -> PathBuf {
    Path::new(DISK).join("repo")
}

/// What is done, with a mark before and after each step. `how` may have `--insecure`, and a system call that
/// does nothing and says that all is well.
fn work(how: &[&str]) {
    mount_disk("/dev/vda");
    let layout = write_images();
    let insecure = how.contains(&"--insecure");
    let broken_call = how.iter().find(|word| !word.starts_with('-'));
    let run = |invocation: &[&str]| {
        let flags: &[&str] = if insecure && invocation[0] == "pull" { &["--insecure"] } else { &[] };
        let program = program();
        let invocation = match broken_call {
            None => cfs_dag(invocation),
            Some(call) => command("/usr/bin/strace", ["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"])
                .args([format!("--trace={call}"), format!("--inject={call}:retval=0")])
                .arg(program)
                .args(invocation),
        };
        invocation.args(flags).repo(repo()).expect_success();
    };
    let mut marks = Marks::open(Path::new("/dev/vda"));
    let mut state = Reported { insecure, ..Reported::default() };
    let tag = |name: &str| if name == "stable" { name.to_owned() } else { reference(name) };
    let mut step = |run: &dyn Fn(&[&str]), invocation: &[&str], made: &[&str], removed: &[&str]| {
        state.step = format!("during {}", invocation.join(" "));
        state.gone.retain(|name| !made.iter().any(|made| tag(made) == *name));
        state.there.retain(|name| !removed.iter().any(|removed| tag(removed) == *name));
        marks.leave(&state);
        run(invocation);
        state.step = format!("after {}", invocation.join(" "));
        state.there.extend(made.iter().map(|made| tag(made)));
        state.gone.extend(removed.iter().map(|removed| tag(removed)));
        marks.leave(&state);
    };
    let [app, web, db] = ["app", "web", "db"].map(reference);
    let after_a_kill = |invocation: &[&str]| {
        // Between the marks of the step, since `db` is not reported gone there.
        if broken_call.is_none() {
            leave_links_unsynced(&db, insecure);
        }
        run(invocation);
    };
    step(&run, &["pull", "--progress=none", &app], &["app"], &[]);
    step(&run, &["pull", "--progress=none", &web, &db], &["web", "db"], &[]);
    step(&run, &["tag", &app, "stable"], &["stable"], &[]);
    step(&run, &["untag", &db], &[], &["db"]);
    step(&run, &["gc"], &[], &[]);
    step(&after_a_kill, &["pull", "--progress=none", &app, &db], &["db"], &[]);
    step(&run, &["untag", "stable"], &[], &["stable"]);
    drop(layout);
}

/// A pull that is killed when all its links are made and none is synced. Whoever comes next finds them in
/// place, and must not report them before it has synced them itself. So from here on the journal is not
/// committed every second, which would sync them for it.
fn leave_links_unsynced(reference: &str, insecure: bool) {
    mount_remount(DISK, MountFlags::empty(), c"commit=300").unwrap();
    // Without --seccomp-bpf: the kernel takes no signals at its stops.
    let killed = command("/usr/bin/strace", ["-f", "-qq", "-o", "/dev/null", "--trace=fsync"])
        .args(["--inject=fsync:signal=KILL:when=1", program(), "pull", "--progress=none", reference])
        .args(insecure.then_some("--insecure"))
        .repo(repo())
        .run();
    assert_eq!(killed.signal, Some(SIGKILL), "{killed}");
    assert!(tags(&repo()).contains(reference), "it was killed before it made its links");
}

/// Looks at all disks, and at the undisturbed one first.
fn look() {
    let _layout = write_images();
    let disks =
        fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().file_name().into_string().unwrap());
    let mut disks: Vec<String> = disks.filter(|disk| disk.starts_with("vd")).collect();
    disks.sort_by_key(|disk| (disk.len(), disk.clone()));
    let mut disks = disks.into_iter().map(|disk| PathBuf::from("/dev").join(disk));
    let first = disks.next().unwrap();
    assert_eq!(labelled(&first), UNDISTURBED);
    mount_disk(&first);
    let mut undisturbed = Vec::new();
    let (mut all_good, mut looked) = (true, 0);
    for disk in disks {
        let reported = last(&disk).unwrap_or_else(|| panic!("{}: no mark", labelled(&disk)));
        if undisturbed.is_empty() {
            undisturbed = completed(reported.insecure);
            oracle::assert_clean(&repo());
        }
        unmount(DISK, UnmountFlags::empty()).unwrap();
        mount_disk(&disk);
        let good = catch_unwind(AssertUnwindSafe(|| look_at(&reported, &undisturbed)));
        looked += 1;
        if let Err(why) = good {
            let why =
                why.downcast_ref::<String>().cloned().or(why.downcast_ref::<&str>().map(ToString::to_string));
            let why = why.unwrap_or_default().replace('\n', " | ");
            println!("\n{BAD}{}, {}: {why}", labelled(&disk), reported.step);
            all_good = false;
        }
    }
    unmount(DISK, UnmountFlags::empty()).unwrap();
    println!("\n{LOOKED}{looked}");
    assert!(all_good);
}

/// What must hold of the repository as the cut has left it, and after another pull.
fn look_at(reported: &Reported, undisturbed: &[String]) {
    let repo = repo();
    let begun = repo.join("meta.json").exists();
    assert!(begun || reported.there.is_empty(), "the repository was reported, and is gone");
    if begun {
        assert_visible_whole(&repo);
        let tags: BTreeSet<String> = tags(&repo);
        for tag in &reported.there {
            assert!(tags.contains(tag), "{tag} was reported, and is gone");
        }
        for tag in &reported.gone {
            assert!(!tags.contains(tag), "{tag} was reported gone, and is there");
        }
        // It has all that upstream's has to say.
        cfs_dag(["fsck"]).repo(&repo).expect_success();
    }
    assert_same_lines("repository after another pull", undisturbed, &completed(reported.insecure));
}

/// What every run would end with: all images, and no other names.
fn completed(insecure: bool) -> Vec<String> {
    let repo = repo();
    let flags: &[&str] = if insecure { &["--insecure"] } else { &[] };
    pull(&repo, &["app", "web", "db"]).args(flags).expect_success();
    cfs_dag(["untag", "stable"]).repo(&repo).run();
    swept(&repo)
}

fn tags(repo: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(repo.join("streams/refs/oci")).into_iter().flatten().map(Result::unwrap);
    names
        .map(|name| name.file_name().into_string().unwrap().replace("%2F", "/").replace("%25", "%"))
        .collect()
}

/// Asserts that every link leads to an object that is what its name says.
fn assert_visible_whole(repo: &Path) {
    for folder in ["streams", "images"] {
        for link in fs::read_dir(repo.join(folder)).into_iter().flatten().map(|link| link.unwrap().path()) {
            if !link.is_symlink() {
                continue;
            }
            let target = fs::read_link(&link).unwrap();
            let name = target.strip_prefix("../objects").unwrap().to_str().unwrap().replace('/', "");
            let file = File::open(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
            let measured = measure_verity_with_fallback::<Sha512HashValue>(&file).unwrap();
            assert_eq!(measured.to_hex(), name, "{} is not what its name says", link.display());
        }
    }
}
