//! The place for names that are not final yet: `<repo>/cfs-dag/tmp/<run>/`. Knows directories and locks;
//! ignores what is put there.
//!
//! Nothing temporary ever gets a name in `objects/`, `streams/` or `images/`, where a leftover would stop a
//! gc. Each run has a folder of its own and holds a lock on it, so that a later run can tell the leftovers of
//! a dead one from the work of a living one.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{self, AtFlags, FlockOperation, Mode, OFlags},
    io::{Errno, Result},
};

use super::{beneath, calls};

/// Our folder in a repository; upstream's gc and fsck leave it alone.
pub(super) const OWN_DIR: &str = "cfs-dag";
pub(super) const TMP_DIR: &str = "cfs-dag/tmp";
/// The node cache.
pub(super) const NODES_DIR: &str = "cfs-dag/nodes";
/// Records of runs.
pub(super) const RUNS_DIR: &str = "cfs-dag/runs";
/// Claims of layers.
pub(super) const CLAIMS_DIR: &str = "cfs-dag/claims";
/// What mirrors have named.
pub(super) const MIRRORS_DIR: &str = "cfs-dag/mirrors";
/// Notes about layers that tar readers read differently.
pub(super) const AMBIGUOUS_DIR: &str = "cfs-dag/ambiguous";
/// All of them.
pub(super) const ALL_DIRS: [&str; 7] =
    [OWN_DIR, TMP_DIR, NODES_DIR, RUNS_DIR, CLAIMS_DIR, MIRRORS_DIR, AMBIGUOUS_DIR];
/// How often a folder may be swept away before it is locked: each time takes another run
/// that starts just then.
const ATTEMPTS: usize = 16;

/// The folder of this run, removed with everything in it when dropped.
pub(super) struct Scratch {
    parent: OwnedFd,
    dir: OwnedFd,
    name: String,
    next: AtomicU64,
}

impl Scratch {
    /// A fresh, locked folder; removes the leftovers of dead runs on the way.
    pub(super) fn create(repo: BorrowedFd<'_>) -> Result<Self> {
        beneath::make_dir(repo, OWN_DIR)?;
        beneath::make_dir(repo, TMP_DIR)?;
        let parent = beneath::dir(repo, TMP_DIR)?;
        sweep_dir(&parent)?;
        for _ in 0..ATTEMPTS {
            let name = fresh_name();
            fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o700))?;
            // A sweeping run may take the folder between mkdir and lock: then it is gone, or locked by it.
            let dir = match beneath::dir(parent.as_fd(), &name) {
                Err(Errno::NOENT) => continue,
                opened => opened?,
            };
            match calls::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                locked => locked?,
            }
            if fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Ok(Self { parent, dir, name, next: AtomicU64::new(0) });
            }
        }
        Err(Errno::AGAIN)
    }

    /// The folder itself.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A new file of these bytes, complete but not synced, and its name in the folder.
    pub(super) fn write(&self, mode: Mode, bytes: &[u8]) -> std::io::Result<(File, String)> {
        let name = self.unused_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(calls::openat(&self.dir, &*name, flags, mode)?);
        file.write_all(bytes)?;
        Ok((file, name))
    }

    /// A name in the folder that this run has not used yet.
    pub(super) fn unused_name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Failing is harmless: the next run sweeps.
        let _ = empty_dir(&self.dir);
        let _ = fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Removes what dead runs left behind; creates nothing.
pub(super) fn sweep(repo: BorrowedFd<'_>) -> Result<()> {
    match beneath::dir(repo, TMP_DIR) {
        Ok(parent) => sweep_dir(&parent),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn sweep_dir(parent: &OwnedFd) -> Result<()> {
    for entry in calls::entries(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        // Not a folder: nothing of ours, so it stays. What a link leads to is somebody else's.
        let Ok(dir) = beneath::dir(parent.as_fd(), name) else { continue };
        if calls::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            empty_dir(&dir)?;
            match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn empty_dir(dir: &OwnedFd) -> Result<()> {
    for entry in calls::entries(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn fresh_name() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}-{now:x}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_dead_runs_leftovers_go_and_a_living_runs_work_stays() {
        let (dir, fd) = repo();
        let dead = dir.path().join("cfs-dag/tmp/1-dead");
        std::fs::create_dir_all(&dead).unwrap();
        std::fs::write(dead.join("0"), "half an object").unwrap();
        let living = Scratch::create(fd.as_fd()).unwrap();
        let name = living.unused_name();
        std::fs::write(dir.path().join(TMP_DIR).join(&living.name).join(&name), "work").unwrap();
        sweep(fd.as_fd()).unwrap();
        let other = Scratch::create(fd.as_fd()).unwrap();
        assert!(!dead.exists());
        assert!(dir.path().join(TMP_DIR).join(&living.name).join(&name).exists());
        drop((living, other));
        assert_eq!(std::fs::read_dir(dir.path().join(TMP_DIR)).unwrap().count(), 0);
    }

    #[test]
    fn sweeping_creates_nothing() {
        let (dir, fd) = repo();
        sweep(fd.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
