//! Ending a program at a chosen moment: after its so-and-so-many-th change of a repository's folders. Knows
//! inotify; ignores what the changes are.
//!
//! Every object, link and temporary name is one event, so a seeded choice of numbers covers a run from its
//! first object to its last link, however fast the machine is.

use std::{fs, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};

use super::{
    repo::{Finished, Running, cfs_dag},
    tar::noise,
};

/// Makes an insecure repository with all the folders that will be watched. Whoever compares it
/// makes the other one likewise.
pub fn prepare(repo: &Path) {
    cfs_dag(["init", "--insecure"]).repo(repo).expect_success();
    for folder in ["streams/refs/oci", "images", "cfs-dag/tmp"] {
        fs::create_dir_all(repo.join(folder)).unwrap();
    }
    for prefix in 0..=255 {
        fs::create_dir_all(repo.join(format!("objects/{prefix:02x}"))).unwrap();
    }
}

/// What is done to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL.
    Kill,
    /// SIGINT.
    Interrupt,
}

/// Runs a program to its end and counts the events.
pub fn count(repo: &Path, start: impl FnOnce() -> Running) -> (usize, Finished) {
    let watch = Watch::new(repo);
    let mut running = start();
    let mut seen = 0;
    while running.is_running() {
        seen += watch.events();
        std::thread::yield_now();
    }
    (seen + watch.events(), running.wait())
}

/// Starts a program and gives it back at event number `at`; it may have ended by then.
pub fn reach(repo: &Path, at: usize, start: impl FnOnce() -> Running) -> Running {
    let watch = Watch::new(repo);
    let mut running = start();
    let mut seen = 0;
    while seen < at && running.is_running() {
        seen += watch.events();
    }
    running
}

/// Starts a program and strikes at event number `at`; it may be faster.
pub fn strike(how: Strike, repo: &Path, at: usize, start: impl FnOnce() -> Running) -> Finished {
    let mut running = reach(repo, at, start);
    match how {
        Strike::Kill => running.kill(),
        Strike::Interrupt => {
            if running.is_running() {
                running.interrupt();
            }
            running.wait()
        }
    }
}

/// `count` numbers from 1 to `last`: spread over all, and as many close to the end, where links are made.
pub fn moments(seed: u64, count: usize, last: usize) -> Vec<usize> {
    let spread = |ix: usize| (ix * last / count, last / count);
    let late = |_| (last.saturating_sub(24), 24);
    let ranges = (0..count).map(spread).chain((0..count).map(late));
    let words = noise(seed, 16 * count);
    let words = words.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    ranges.zip(words).map(|((from, len), word)| from + 1 + (word % len.max(1) as u64) as usize).collect()
}

struct Watch(OwnedFd);

impl Watch {
    fn new(repo: &Path) -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let objects = (0..=255).map(|prefix| format!("objects/{prefix:02x}"));
        let others = ["streams", "streams/refs/oci", "images", "cfs-dag", "cfs-dag/tmp"].map(str::to_owned);
        for folder in objects.chain(others).map(|folder| repo.join(folder)).filter(|folder| folder.exists()) {
            let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
            inotify::add_watch(&fd, &folder, changes).unwrap();
        }
        Self(fd)
    }

    /// How many events there were since the last call.
    fn events(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 1 << 16];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut count = 0;
        loop {
            match reader.next() {
                Ok(_) => count += 1,
                Err(Errno::AGAIN) => return count,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}
