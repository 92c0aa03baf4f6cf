//! System calls that fail while a secure repository is made and filled, each once: the pull ends, its exit
//! code is the truth, nothing is visible that the kernel does not guard, and the next pull ends as an
//! undisturbed one. Knows the calls that this depends on; the others fail in `tests/faults.rs`, where no
//! kernel with fs-verity is needed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use composefs::fsverity::{Sha512HashValue, measure_verity_opt};
use libc::{
    EDQUOT, EIO, EMFILE, ENODATA, ENOMEM, ENOSPC, EOPNOTSUPP, ETXTBSY, SYS_fsync, SYS_ioctl, SYS_linkat,
    SYS_open, SYS_renameat, SYS_renameat2, SYS_syncfs, SYS_unlinkat,
};

use super::{
    guest::{DISK, mount_disk},
    machine::{Disk, Machine},
    secure::mismeasured,
};
use support::{
    image::{Image, Layout, layout},
    inject::{Kind, Seen, inject, inject_always, watch},
    oracle,
    pulls::assert_no_leftovers,
    repo::{Finished, Invocation, assert_same_lines, cfs_dag, difference, repo_manifest},
    tar::{dir, file, noise, tar},
};

/// What runs inside, by name.
pub const SCENARIOS: &[(&str, fn())] = &[("faults", faults), ("held-open", held_open)];

#[test]
fn whatever_fails_nothing_is_visible_without_verity_and_the_next_pull_goes_on() {
    Machine::boot("faults", &[&Disk::new(96)]).assert_good();
}

#[test]
fn where_files_stay_open_for_writing_the_advice_works() {
    Machine::boot("held-open", &[&Disk::new(96)]).assert_good();
}

static KINDS: [Kind; 9] = [
    ENABLING,
    Kind::those("measuring verity", SYS_ioctl, measures_verity, &[EIO, ENOMEM, ENODATA]),
    // Objects get a name in cfs-dag/tmp before they get verity, and their own afterwards.
    Kind::all("linkat", SYS_linkat, &[ENOSPC, EIO]),
    Kind::all("renameat2", SYS_renameat2, &[EIO, ENOSPC]),
    Kind::all("renameat", SYS_renameat, &[ENOSPC, EIO]),
    Kind::those("reopening", SYS_open, reopens, &[EMFILE, EIO]),
    Kind::all("unlinkat", SYS_unlinkat, &[EIO]),
    Kind::all("syncfs", SYS_syncfs, &[EIO, ENOSPC]),
    Kind::all("fsync", SYS_fsync, &[ENOSPC, EIO]),
];

const ENABLING: Kind = Kind::those(
    "enabling verity",
    SYS_ioctl,
    enables_verity,
    &[EIO, ENOSPC, EDQUOT, ENOMEM, EOPNOTSUPP, ETXTBSY],
);

/// `FS_IOC_ENABLE_VERITY` of linux/fsverity.h.
fn enables_verity(seen: &Seen) -> bool {
    seen.args[1] as u32 == 0x4080_6685
}

/// `FS_IOC_MEASURE_VERITY`.
fn measures_verity(seen: &Seen) -> bool {
    seen.args[1] as u32 == 0xc004_6686
}

/// A descriptor that can write is swapped for one that cannot.
fn reopens(seen: &Seen) -> bool {
    seen.about.contains("/proc/self/fd/")
}

/// How an error is called: its own name, and the words of which a message must have one.
fn names(errno: i32) -> (&'static str, &'static [&'static str]) {
    match errno {
        EIO => ("EIO", &["input/output error"]),
        ENOSPC => ("ENOSPC", &["no space left"]),
        EDQUOT => ("EDQUOT", &["disk quota"]),
        ENOMEM => ("ENOMEM", &["cannot allocate memory"]),
        EMFILE => ("EMFILE", &["too many open files"]),
        EOPNOTSUPP => ("EOPNOTSUPP", &["has no fs-verity", "does not support fs-verity"]),
        ETXTBSY => ("ETXTBSY", &["open for writing", "opened for writing"]),
        ENODATA => ("ENODATA", &["fs-verity is not enabled"]),
        other => panic!("no name for error {other}"),
    }
}

/// Two layers with files of several sizes, one of which has two segments and so is
/// written while it is hashed.
fn image(layout: &Layout) -> Image {
    let base = [
        dir("usr"),
        file("usr/a", noise(1, 5000)),
        file("usr/b", noise(2, 40)),
        file("usr/large", noise(3, (1 << 20) + 1)),
    ];
    let top = [(4, 70_000), (5, 9000), (6, 20_000)];
    let top = top.map(|(seed, size)| file(format!("usr/{seed}"), noise(seed, size)));
    layout.image("app").layer(tar(base)).layer(tar(top)).zstd().write()
}

fn pull(image: &Image, repo: &Path) -> Invocation {
    // One worker, so that most calls come in the same order each time.
    cfs_dag(["pull", "--format=json", "--progress=none", "--name=app", "--jobs=1"])
        .arg(&image.reference)
        .repo(repo)
        .env("RUST_BACKTRACE", "0")
}

/// One call that fails.
struct Fault {
    kind: &'static Kind,
    /// 1-based occurrence among the calls of its kind.
    at: usize,
    errno: i32,
}

impl Fault {
    /// What to try on a kind of call that is made `count` times: verity with each of its errors,
    /// others with one at each place.
    fn all(kind: &'static Kind, count: usize) -> Vec<Self> {
        // The first ones are about the place and meta.json, most others about objects.
        let places = BTreeSet::from([1, 2, 3, count.div_ceil(2), count]);
        let mut faults = Vec::new();
        for at in places.into_iter().filter(|at| (1..=count).contains(at)) {
            let one = &kind.errors[at % kind.errors.len()..][..1];
            let errors = if kind.call == SYS_ioctl { kind.errors } else { one };
            faults.extend(errors.iter().map(|errno| Self { kind, at, errno: *errno }));
        }
        faults
    }

    fn title(&self) -> String {
        format!("{} {} {}", self.kind.name, self.at, names(self.errno).0)
    }
}

fn faults() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let repo = Path::new(DISK).join("repo");
    let (finished, calls) = watch(pull(&image, &repo));
    finished.assert_code(0);
    let undisturbed = repo_manifest(&repo);
    fs::remove_dir_all(&repo).unwrap();

    let faults: Vec<Fault> = KINDS.iter().flat_map(|kind| Fault::all(kind, kind.count(&calls))).collect();
    let (mut hit, mut wrong) = (BTreeSet::new(), Vec::new());
    for fault in &faults {
        match catch_unwind(AssertUnwindSafe(|| check(fault, &image, &repo, &undisturbed))) {
            Ok(Ok(true)) => {
                hit.insert(fault.kind.name);
            }
            Ok(Ok(false)) => println!("{}: not made this time", fault.title()),
            Ok(Err(text)) => wrong.push(format!("{}: {text}", fault.title())),
            // What is wrong has been printed.
            Err(_) => wrong.push(format!("{}: panicked", fault.title())),
        }
        if repo.exists() {
            fs::remove_dir_all(&repo).unwrap();
        }
    }
    println!("{} faults", faults.len());
    assert!(wrong.is_empty(), "{} of {} faults:\n{}", wrong.len(), faults.len(), wrong.join("\n"));
    let never: Vec<&str> = KINDS.iter().map(|kind| kind.name).filter(|name| !hit.contains(name)).collect();
    assert!(never.is_empty(), "nothing failed of {never:?}");
}

/// Pulls with the fault into a new repository: whether the call was made, or what is not as it should be.
fn check(fault: &Fault, image: &Image, repo: &Path, undisturbed: &[String]) -> Result<bool, String> {
    let Fault { kind, at, errno } = fault;
    let (finished, hit) = inject(pull(image, repo), kind, *at, *errno);
    let told = ill_told(fault, &finished, hit.is_some());
    let Some(wrong) = told.or_else(|| ill_left(image, &finished, repo, undisturbed)) else {
        return Ok(hit.is_some());
    };
    let Finished { code, signal, stderr, .. } = finished;
    let about = hit.map(|seen| format!("{} {}", seen.thread, seen.about)).unwrap_or_default();
    Err(format!("{wrong}\n    in {about}\n    code {code:?}, signal {signal:?}, {}", stderr.trim_end()))
}

/// What is wrong with what a pull has said.
fn ill_told(fault: &Fault, finished: &Finished, hit: bool) -> Option<String> {
    if let Some(line) = finished.stderr.lines().find(|line| !line.starts_with("cfs-dag: ")) {
        return Some(format!("said {line:?}"));
    }
    if finished.stderr.contains("defect") {
        return Some("said to be a defect".to_owned());
    }
    match finished.code {
        Some(0) if hit && [SYS_syncfs, SYS_fsync].contains(&fault.kind.call) => {
            Some("a lost sync, and it says that all is well".to_owned())
        }
        Some(0) => None,
        Some(1) => {
            let lines = finished.stderr.lines().count();
            let (_, words) = names(fault.errno);
            let told = finished.stderr.to_lowercase();
            let named = words.iter().any(|word| told.contains(word));
            (lines != 1 || !named).then(|| format!("{lines} lines, wanted one with {words:?}"))
        }
        _ => Some("it crashed".to_owned()),
    }
}

/// What is wrong with the repository that a pull has left, or with that after the next one.
fn ill_left(image: &Image, finished: &Finished, repo: &Path, undisturbed: &[String]) -> Option<String> {
    if finished.code == Some(0)
        && let Some(wrong) = unlike(undisturbed, repo)
    {
        return Some(format!("exit code 0, but {wrong}"));
    }
    if repo.exists()
        && let Some(wrong) = unsound(repo)
    {
        return Some(wrong);
    }
    let next = pull(image, repo).run();
    if next.code != Some(0) {
        return Some(format!("the next one fails: {:?}", next.stderr));
    }
    let wrong = unlike(undisturbed, repo).or_else(|| unsound(repo));
    if let Some(wrong) = wrong {
        return Some(format!("after the next one {wrong}"));
    }
    assert_no_leftovers(repo);
    None
}

fn unlike(undisturbed: &[String], repo: &Path) -> Option<String> {
    if !repo.exists() {
        return Some("there is no repository".to_owned());
    }
    let difference = difference(undisturbed, &repo_manifest(repo));
    (!difference.is_empty()).then(|| format!("the repository differs: {}", difference.join("; ")))
}

/// What is visible and not guarded, or not whole.
fn unsound(repo: &Path) -> Option<String> {
    let Ok(meta) = File::open(repo.join("meta.json")) else {
        return Some("a folder without meta.json stays".to_owned());
    };
    if !matches!(measure_verity_opt::<Sha512HashValue>(meta), Ok(Some(_))) {
        return Some("the repository is insecure".to_owned());
    }
    let mut findings = mismeasured(repo);
    findings.extend(oracle::fsck(repo));
    (!findings.is_empty()).then(|| findings.join("; "))
}

/// Verity can be enabled on no file, because somebody has each of them open for writing (ETXTBSY).
fn held_open() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let [undisturbed, repo] = ["undisturbed", "repo"].map(|name| Path::new(DISK).join(name));
    pull(&image, &undisturbed).expect_success();
    cfs_dag(["init"]).repo(&repo).expect_success();
    let refused = inject_always(pull(&image, &repo), &ENABLING, ETXTBSY).assert_code(1);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    refused.says(&["cfs-dag: ", "keep its file open for writing: try again"]);
    assert_eq!(unsound(&repo), None);
    pull(&image, &repo).expect_success();
    assert_eq!(unsound(&repo), None);
    assert_same_lines("repository", &repo_manifest(&undisturbed), &repo_manifest(&repo));
    assert_no_leftovers(&repo);
}
