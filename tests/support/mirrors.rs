//! Mirrors by the built program, and what is left of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::repo::{Invocation, Running, Scratch, cfs_dag};

/// Writes a list with a reference a line.
pub fn list(scratch: &Scratch, name: &str, references: &[&String]) -> PathBuf {
    let path = scratch.path(name);
    let lines: String = references.iter().map(|reference| format!("{reference}\n")).collect();
    fs::write(&path, lines).unwrap();
    path
}

/// A mirror of the list at `list` into the repository at `repo`, which need not exist; the result as JSON.
/// What stalls does so for longer than any test runs.
pub fn mirror(repo: &Path, list: &Path) -> Invocation {
    mirror_showing("plain", repo, list)
}

/// The same with another kind of progress.
pub fn mirror_showing(progress: &str, repo: &Path, list: &Path) -> Invocation {
    let flags = [
        "mirror",
        "--insecure",
        "--tls-verify=false",
        "--format=json",
        "--retry-delay=1ms",
        "--stall-timeout=1h",
        "--progress",
        progress,
    ];
    cfs_dag(flags).arg(list).repo(repo)
}

/// The names in the repository.
pub fn names(repo: &Path) -> Vec<String> {
    let rows = cfs_dag(["images", "--json"]).repo(repo).expect_success().json();
    let rows = rows.as_array().or_else(|| rows["images"].as_array()).unwrap().clone();
    rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until it is so; the command's own time limit ends it if that never comes.
#[track_caller]
pub fn until(running: &mut Running, mut such: impl FnMut() -> bool) {
    while !such() {
        assert!(running.is_running(), "it ended before it got there: {}", running.stderr());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asserts that nobody claims a layer any more.
#[track_caller]
pub fn assert_no_claims(repo: &Path) {
    let Ok(claims) = fs::read_dir(repo.join("cfs-dag/claims")) else { return };
    let claims: Vec<_> = claims.map(|entry| entry.unwrap().path()).collect();
    assert!(claims.is_empty(), "{claims:?}");
}

/// Asserts that all processes end that were started with `mark` in their environment. The kernel ends some of
/// them, a moment after who started them.
#[track_caller]
pub fn assert_nobody_left(mark: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = started_with(mark);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes that have `mark` in their environment, as their command lines.
pub fn started_with(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let marked = processes.filter(|path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    });
    marked
        .map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " "))
        .collect()
}
