//! Every system call of a command fails once, one after another: the command ends, its exit code is the
//! truth, it says in one line what failed, and the next command finishes what it left.
//!
//! `CFS_DAG_FAULTS=all` tries every call with every error (some minutes); without it each call fails with one
//! of its errors in turn, another one in each command, and of calls that come often a part is tried.
//! `CFS_DAG_FAULTS='cold pull: openat 12 EMFILE'`, as failures have it, tries that one and shows what was
//! said; a beginning of it, `cold pull`, tries all that begin so.
//!
//! Left out: what the dynamic loader and the standard library do before `main`; the runtime's own
//! pipes; and the calls in [`LEFT_OUT`]. A command that makes any other call fails the test until
//! that is in one of the lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use libc::*;
use support::{
    image::{Layout, layout},
    inject::{Kind, Seen, inject, watch},
    oracle,
    pulls::*,
    repo::{Finished, Invocation, Scratch, cfs_dag, difference, fix_umask, repo_manifest, scratch},
    tar::*,
};

static KINDS: [Kind; 44] = [
    Kind::all("open", SYS_open, &[EIO, EMFILE, EINTR]),
    Kind::those("openat", SYS_openat, |seen| !creates(seen), &[EMFILE, EIO, EINTR]),
    Kind::those("openat to create", SYS_openat, creates, &[EMFILE, ENOSPC, EIO, EDQUOT, EINTR]),
    Kind::all("openat2", SYS_openat2, &[EMFILE, EIO, EINTR]),
    Kind::those("read", SYS_read, is_on_disk, &[EIO, EINTR]),
    Kind::all("pread64", SYS_pread64, &[EIO, EINTR]),
    Kind::those("write", SYS_write, is_on_disk, &[ENOSPC, EIO, EDQUOT, EINTR]),
    Kind::all("pwrite64", SYS_pwrite64, &[ENOSPC, EIO, EDQUOT, EINTR]),
    Kind::all("writev", SYS_writev, &[ENOSPC, EIO, EDQUOT, EINTR]),
    Kind::all("linkat", SYS_linkat, &[ENOSPC, EIO, EDQUOT, EMLINK]),
    Kind::all("symlinkat", SYS_symlinkat, &[ENOSPC, EIO, EDQUOT]),
    Kind::all("rename", SYS_rename, &[ENOSPC, EIO]),
    Kind::all("renameat", SYS_renameat, &[ENOSPC, EIO, EDQUOT]),
    Kind::all("renameat2", SYS_renameat2, &[ENOSPC, EIO, EDQUOT]),
    Kind::all("mkdirat", SYS_mkdirat, &[ENOSPC, EIO, EDQUOT]),
    Kind::all("unlink", SYS_unlink, &[EIO]),
    Kind::all("unlinkat", SYS_unlinkat, &[EIO]),
    Kind::all("readlink", SYS_readlink, &[EIO]),
    Kind::all("readlinkat", SYS_readlinkat, &[EIO]),
    Kind::all("statx", SYS_statx, &[EIO, ENOMEM]),
    Kind::all("newfstatat", SYS_newfstatat, &[EIO]),
    Kind::all("fstat", SYS_fstat, &[EIO]),
    Kind::all("lseek", SYS_lseek, &[EIO]),
    Kind::all("faccessat", SYS_faccessat, &[EIO]),
    Kind::all("faccessat2", SYS_faccessat2, &[EIO]),
    Kind::all("statfs", SYS_statfs, &[EIO, EINTR]),
    Kind::all("fstatfs", SYS_fstatfs, &[EIO, EINTR]),
    Kind::all("syncfs", SYS_syncfs, &[EIO, ENOSPC, EDQUOT]),
    Kind::all("fsync", SYS_fsync, &[EIO, ENOSPC, EINTR]),
    Kind::all("flock", SYS_flock, &[ENOLCK, EINTR]),
    Kind::all("ftruncate", SYS_ftruncate, &[ENOSPC, EIO, EINTR]),
    Kind::all("getdents64", SYS_getdents64, &[EIO]),
    // The others have nothing to run out of.
    Kind::those(
        "fcntl",
        SYS_fcntl,
        |seen| [F_DUPFD, F_DUPFD_CLOEXEC].contains(&(seen.args[1] as i32)),
        &[EMFILE],
    ),
    Kind::all("ioctl", SYS_ioctl, &[EIO, ENOMEM]),
    Kind::all("mmap", SYS_mmap, &[ENOMEM]),
    Kind::all("mprotect", SYS_mprotect, &[ENOMEM]),
    Kind::all("clone3", SYS_clone3, &[EAGAIN]),
    Kind::all("eventfd2", SYS_eventfd2, &[EMFILE]),
    Kind::all("epoll_create1", SYS_epoll_create1, &[EMFILE]),
    Kind::all("epoll_ctl", SYS_epoll_ctl, &[ENOSPC]),
    Kind::all("epoll_wait", SYS_epoll_wait, &[EINTR]),
    Kind::all("socketpair", SYS_socketpair, &[EMFILE]),
    Kind::all("getrandom", SYS_getrandom, &[EINTR]),
    Kind::all("fadvise64", SYS_fadvise64, &[EIO]),
];

/// Calls on which nothing is tried, and why.
const LEFT_OUT: &[(c_long, &str)] = &[
    (SYS_close, "the file is closed whatever it says"),
    (SYS_sysinfo, "cannot fail with a pointer that is good"),
    (SYS_brk, "tells a failure in another way, and malloc goes on with mmap"),
    (SYS_munmap, "nobody waits for memory that was given back"),
    (SYS_mremap, "realloc goes on with a copy"),
    (SYS_madvise, "is advice"),
    (SYS_futex, "its callers loop"),
    (SYS_nanosleep, "its callers loop"),
    (SYS_clock_nanosleep, "its callers loop"),
    (SYS_clock_gettime, "cannot fail, and seldom is a call at all"),
    (SYS_sched_yield, "cannot fail"),
    (SYS_getpid, "cannot fail"),
    (SYS_gettid, "cannot fail"),
    (SYS_getuid, "cannot fail"),
    (SYS_geteuid, "cannot fail"),
    (SYS_getgid, "cannot fail"),
    (SYS_getegid, "cannot fail"),
    (SYS_exit, "does not return"),
    (SYS_exit_group, "does not return"),
    (SYS_rt_sigreturn, "does not return"),
    (SYS_rt_sigaction, "fails only if used wrongly"),
    (SYS_rt_sigprocmask, "fails only if used wrongly"),
    (SYS_sigaltstack, "fails only if used wrongly"),
    (SYS_sched_getaffinity, "fails only if used wrongly"),
    (SYS_prlimit64, "fails only if used wrongly, or leaves a limit as it is"),
    (SYS_set_robust_list, "fails only if used wrongly"),
    (SYS_rseq, "makes the C library faster"),
    (SYS_prctl, "gives threads names, for people"),
    (SYS_utimensat, "shows those who wait for a layer that its transfer goes on"),
];

fn creates(open: &Seen) -> bool {
    open.args[2] as i32 & (O_CREAT | O_TMPFILE) & !O_DIRECTORY != 0
}

/// Not the runtime's own pipes, without a disk behind them: they fail only if used wrongly.
fn is_on_disk(seen: &Seen) -> bool {
    !["anon_inode:", "socket:", "pipe:"].iter().any(|kind| seen.about.starts_with(kind))
}

/// One call that fails.
#[derive(Clone, Copy)]
struct Fault {
    kind: &'static Kind,
    /// 1-based occurrence among the calls of its kind.
    at: usize,
    errno: i32,
}

/// How an error is called: its own name, and the words of which a message must have one.
fn names(errno: i32) -> (&'static str, &'static [&'static str]) {
    match errno {
        EIO => ("EIO", &["Input/output error"]),
        EMFILE => ("EMFILE", &["too many open files"]),
        ENOSPC => ("ENOSPC", &["no space left"]),
        EDQUOT => ("EDQUOT", &["disk quota"]),
        EINTR => ("EINTR", &["nothing: it is to be tried again"]),
        // A thread that gets no stack is refused with EAGAIN by the C library.
        ENOMEM => ("ENOMEM", &["Cannot allocate memory", "Resource temporarily unavailable"]),
        EAGAIN => ("EAGAIN", &["Resource temporarily unavailable"]),
        ENOLCK => ("ENOLCK", &["No locks available"]),
        EMLINK => ("EMLINK", &["Too many links"]),
        other => panic!("no name for error {other}"),
    }
}

/// The commands, each in a repository as it wants it.
const SCENARIOS: [Scenario; 12] = [
    Scenario { name: "init", before: "nothing", args: &["init", "--insecure"], is_upstreams: false },
    Scenario { name: "cold pull", before: "nothing", args: PULL, is_upstreams: false },
    Scenario { name: "warm pull", before: "base", args: PULL, is_upstreams: false },
    Scenario { name: "idle pull", before: "app", args: PULL, is_upstreams: false },
    Scenario {
        name: "dry run",
        before: "base",
        args: &["pull", "--insecure", "--dry-run", "APP"],
        is_upstreams: false,
    },
    Scenario { name: "gc", before: "garbage", args: &["gc"], is_upstreams: true },
    Scenario { name: "tag", before: "app", args: &["tag", "app", "other"], is_upstreams: true },
    Scenario { name: "untag", before: "app", args: &["untag", "base"], is_upstreams: true },
    Scenario { name: "images", before: "app", args: &["images"], is_upstreams: true },
    Scenario { name: "inspect", before: "app", args: &["inspect", "app"], is_upstreams: true },
    Scenario { name: "log", before: "app", args: &["log", "--critical-path"], is_upstreams: false },
    Scenario { name: "fsck", before: "app", args: &["fsck"], is_upstreams: true },
];

const PULL: &[&str] = &[
    "pull",
    "--insecure",
    "--name=app",
    "--format=json",
    "--progress=none",
    "--jobs=1",
    "--memory=18MiB",
    "--summary=SUMMARY",
    "APP",
];

struct Scenario {
    name: &'static str,
    /// The repository before, one of those that [`World`] has.
    before: &'static str,
    args: &'static [&'static str],
    /// Whether most of it is upstream's code, which does not try again what a signal cuts short. Only
    /// filesystems in user space do that to calls on files, and the words say what it was.
    is_upstreams: bool,
}

/// The images, and repositories to begin with.
struct World {
    _layout: Layout,
    app: String,
    repos: Scratch,
}

impl World {
    fn new() -> Self {
        let layout = layout();
        let base =
            [dir("usr"), file("usr/a", noise(1, 5000)), file("usr/b", noise(2, 300)), file("usr/c", "c")];
        // Two segments, so that it is written while it is hashed.
        let large = file("usr/large", noise(4, (1 << 20) + 1));
        let base = tar(base.into_iter().chain([large]));
        let mut top = tar([file("usr/d", noise(3, 70_000)), file("usr/larger", noise(5, (1 << 20) + 2))]);
        // So much inline goes through a file.
        top.resize(top.len() + (1 << 20), 0);
        let app = layout.image("app").layer(base.clone()).layer(top).zstd().write();
        let base = layout.image("base").layer(base).write();
        let world = Self { app: app.reference, _layout: layout, repos: scratch() };
        fs::create_dir(world.repos.path("nothing")).unwrap();
        let pull = |into: &str, image: &str, name: &str| {
            let repo = world.repos.path(into).join("repo");
            pull(&repo, &[image]).args(["--name", name, "-j1"]).expect_success();
        };
        for into in ["base", "app", "garbage"] {
            fs::create_dir(world.repos.path(into)).unwrap();
            pull(into, &base.reference, "base");
        }
        pull("app", &world.app, "app");
        pull("garbage", &world.app, "app");
        cfs_dag(["untag", "app"]).repo(world.repos.path("garbage").join("repo")).expect_success();
        world
    }

    /// The command, on a fresh copy of its repository.
    fn prepare(&self, scenario: &Scenario) -> (Scratch, PathBuf) {
        let scratch = scratch();
        copy(&self.repos.path(scenario.before), &scratch.path("here"));
        let repo = scratch.path("here").join("repo");
        (scratch, repo)
    }

    fn command(&self, scenario: &Scenario, repo: &Path) -> Invocation {
        let summary = format!("--summary={}.json", repo.display());
        let args = scenario.args.iter().map(|arg| match *arg {
            "APP" => &self.app,
            "--summary=SUMMARY" => &summary,
            arg => arg,
        });
        cfs_dag(args).repo(repo).env("RUST_BACKTRACE", "0").time_limit(Duration::from_secs(20))
    }

    /// What the scenario does undisturbed.
    fn learn<'a>(&'a self, place: usize, scenario: &'a Scenario) -> Learned<'a> {
        let (_scratch, repo) = self.prepare(scenario);
        // To be asked about every call takes time.
        let command = self.command(scenario, &repo).time_limit(Duration::from_secs(60));
        let (finished, calls) = watch(command);
        finished.assert_code(0);
        let counts = KINDS.iter().map(|kind| (kind, kind.count(&calls))).collect();
        let is_listed = |call: c_long| {
            KINDS.iter().any(|kind| kind.call == call) || LEFT_OUT.iter().any(|(other, _)| *other == call)
        };
        let unlisted = calls.iter().filter(|seen| !is_listed(seen.call));
        let unlisted = unlisted.map(|seen| (seen.call, format!("{}: {}", scenario.name, seen.thread)));
        let unlisted = unlisted.collect();
        Learned { world: self, place, scenario, counts, unlisted, after: repo_manifest(&repo) }
    }
}

/// What a command does when nothing fails.
struct Learned<'a> {
    world: &'a World,
    /// Which of the scenarios it is.
    place: usize,
    scenario: &'a Scenario,
    /// How often each kind of call is made.
    counts: Vec<(&'static Kind, usize)>,
    /// The numbers of calls that are in no list, with a thread that makes them.
    unlisted: BTreeMap<c_long, String>,
    /// The repository afterwards.
    after: Vec<String>,
}

/// What became of one fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Exit code 0 and all is there.
    Harmless,
    /// Exit code 1, and the next command went on from there.
    Failed,
    /// This time the call was not made so often.
    Missed,
}

impl Learned<'_> {
    /// The faults to try.
    fn faults(&self, all: bool) -> Vec<Fault> {
        let mut faults = Vec::new();
        for &(kind, count) in &self.counts {
            for at in 1..=count {
                let fault = |errno: &i32| Fault { kind, at, errno: *errno };
                match all {
                    true => faults.extend(kind.errors.iter().map(fault)),
                    // A kind that is made once has another error in each command.
                    false if is_chosen(at, count) => {
                        faults.push(fault(&kind.errors[(at + self.place) % kind.errors.len()]));
                    }
                    false => {}
                }
            }
        }
        faults
    }

    /// Runs the command with the fault, and says what is not as it should be.
    fn check(&self, fault: Fault, show: bool) -> Result<End, String> {
        let (scratch, repo) = self.world.prepare(self.scenario);
        let Fault { kind, at, errno } = fault;
        let command = self.world.command(self.scenario, &repo);
        let (finished, hit) = inject(command, kind, at, errno);
        let hit = hit.map(|seen| format!("{} {}", seen.thread, seen.about));
        if show {
            println!("{finished}\nfailed: {hit:?}");
        }
        let wrong = self.wrong(fault, &finished, hit.is_some(), &repo);
        let here = scratch.path("here").display().to_string();
        match wrong {
            Some(wrong) => Err(format!(
                "{wrong}\n    in {}\n    code {:?}, signal {:?}, {}",
                hit.unwrap_or_default().replace(&here, ""),
                finished.code,
                finished.signal,
                finished.stderr.replace(&here, "").trim_end()
            )),
            None if hit.is_none() => Ok(End::Missed),
            None if finished.code == Some(0) => Ok(End::Harmless),
            None => Ok(End::Failed),
        }
    }

    fn wrong(&self, fault: Fault, finished: &Finished, hit: bool, repo: &Path) -> Option<String> {
        let done = match finished.code {
            Some(0) => true,
            Some(1) => false,
            _ => return Some("it crashed".to_owned()),
        };
        if let Some(line) = finished.stderr.lines().find(|line| !line.starts_with("cfs-dag: ")) {
            return Some(format!("said {line:?}"));
        }
        if finished.stderr.contains("defect") {
            return Some("said to be a defect".to_owned());
        }
        if done {
            if hit && ["syncfs", "fsync"].contains(&fault.kind.name) && fault.errno != EINTR {
                return Some("a lost sync, and it says that all is well".to_owned());
            }
            if let Some(wrong) = self.unlike_after(repo) {
                return Some(format!("exit code 0, but {wrong}"));
            }
        } else if let Some(wrong) = self.ill_told(fault.errno, finished) {
            return Some(wrong);
        }
        if repo.join("meta.json").exists() {
            let findings = oracle::fsck(repo);
            // Upstream's gc removes objects before the links to them: the next one goes on from there.
            if !findings.is_empty() && self.scenario.name != "gc" {
                return Some(format!("fsck: {}", findings.join("; ")));
            }
        } else if repo.exists() {
            return Some("a folder without meta.json stays".to_owned());
        }
        if done && leftovers(repo).is_empty() {
            return None;
        }
        // Who has taken the name away before it failed has nothing more to do.
        if self.unlike_after(repo).is_none() && self.scenario.name == "untag" {
            return None;
        }
        let next = self.world.command(self.scenario, repo).run();
        if next.code != Some(0) {
            return Some(format!("the next one fails: {:?}", next.stderr));
        }
        let leftovers = leftovers(repo);
        if !leftovers.is_empty() {
            return Some(format!("the next one leaves {leftovers:?}"));
        }
        self.unlike_after(repo).map(|wrong| format!("after the next one {wrong}"))
    }

    /// What is wrong with how a failure is told.
    fn ill_told(&self, errno: i32, finished: &Finished) -> Option<String> {
        let lines = finished.stderr.lines().count();
        if self.scenario.name == "fsck" && lines == 0 && finished.stdout.contains("error") {
            // A finding: what it could not read it does not call good.
            return None;
        }
        if lines != 1 {
            return Some(format!("{lines} lines are said"));
        }
        if errno == EINTR && self.scenario.is_upstreams {
            return None;
        }
        let (_, words) = names(errno);
        let told = finished.stderr.to_lowercase();
        let named = words.iter().any(|word| told.contains(&word.to_lowercase()));
        (!named).then(|| format!("the reason is not told ({})", words.join(", ")))
    }

    fn unlike_after(&self, repo: &Path) -> Option<String> {
        if !repo.exists() {
            return Some("there is no repository".to_owned());
        }
        let difference = difference(&self.after, &repo_manifest(repo));
        (!difference.is_empty()).then(|| format!("the repository differs: {}", difference.join("; ")))
    }
}

/// Of calls that come often: the first ones, and then some.
fn is_chosen(at: usize, count: usize) -> bool {
    at <= FIRST || (at - FIRST).is_multiple_of((count - FIRST).div_ceil(REST))
}

const FIRST: usize = 6;
const REST: usize = 6;

/// What is in `cfs-dag/tmp`, and what was to become a summary.
fn leftovers(repo: &Path) -> Vec<PathBuf> {
    let below = |folder: &Path| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let beside =
        below(repo.parent().unwrap()).filter(|path| path.extension().is_some_and(|ending| ending == "tmp"));
    below(&repo.join("cfs-dag/tmp")).chain(beside).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), to).unwrap();
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[test]
fn whatever_fails_is_told_and_the_next_command_goes_on_from_there() {
    fix_umask();
    let wanted = std::env::var("CFS_DAG_FAULTS").unwrap_or_default();
    let world = World::new();
    let learned = SCENARIOS.iter().enumerate().map(|(place, scenario)| world.learn(place, scenario));
    let learned: Vec<Learned> = learned.collect();
    require_whole_lists(&learned);
    let mut cases = Vec::new();
    for scenario in &learned {
        cases.extend(scenario.faults(!wanted.is_empty()).into_iter().map(|fault| (scenario, fault)));
    }
    if !["", "all"].contains(&&*wanted) {
        cases.retain(|(scenario, fault)| title(scenario.scenario, *fault).starts_with(&wanted));
        assert!(!cases.is_empty(), "{wanted:?} is none of the faults");
    }
    let show = cases.len() < 20;
    let next = AtomicUsize::new(0);
    let (ends, hit) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeSet::new()));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        let work = || {
            while let Some((scenario, fault)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                let end = std::panic::catch_unwind(|| scenario.check(*fault, show));
                let end = end.unwrap_or_else(|panic| Err(panic_text(&*panic)));
                match end {
                    Ok(end) => {
                        *ends.lock().unwrap().entry((scenario.scenario.name, end)).or_insert(0) += 1;
                        if end != End::Missed {
                            hit.lock().unwrap().insert(fault.kind.name);
                        }
                    }
                    Err(text) => {
                        wrong.lock().unwrap().push(format!("{}: {text}", title(scenario.scenario, *fault)));
                    }
                }
            }
        };
        threads.spawn(work);
        threads.spawn(work);
    });
    let (ends, mut wrong) = (ends.into_inner().unwrap(), wrong.into_inner().unwrap());
    wrong.sort();
    println!("{} faults: {ends:?}", cases.len());
    assert!(wrong.is_empty(), "{} of {} faults:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let missed: usize = ends.iter().filter(|((_, end), _)| *end == End::Missed).map(|(_, count)| count).sum();
    assert!(missed * 5 <= cases.len(), "{missed} of {} calls were not made", cases.len());
    let hit = hit.into_inner().unwrap();
    let kinds: BTreeSet<&str> = cases.iter().map(|(_, fault)| fault.kind.name).collect();
    let never: Vec<_> = kinds.difference(&hit).collect();
    assert!(never.is_empty(), "none of these calls was made when it was to fail: {never:?}");
}

/// A kind that no command makes would be tried nowhere, and so would a call that is in no list. With another
/// C library than glibc they have other names.
fn require_whole_lists(learned: &[Learned]) {
    let made = |place: &usize| learned.iter().any(|scenario| scenario.counts[*place].1 > 0);
    let never = (0..KINDS.len()).filter(|place| !made(place)).map(|place| KINDS[place].name);
    let never: Vec<&str> = never.collect();
    assert!(
        never.is_empty() || cfg!(not(target_env = "gnu")),
        "no command makes any of these calls: {never:?}"
    );
    let unlisted: BTreeMap<c_long, &str> = learned
        .iter()
        .flat_map(|scenario| &scenario.unlisted)
        .map(|(call, thread)| (*call, &**thread))
        .collect();
    assert!(
        unlisted.is_empty() || cfg!(not(target_env = "gnu")),
        "calls that are neither in KINDS nor in LEFT_OUT, by their numbers: {unlisted:#?}"
    );
}

fn title(scenario: &Scenario, fault: Fault) -> String {
    format!("{}: {} {} {}", scenario.name, fault.kind.name, fault.at, names(fault.errno).0)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}
