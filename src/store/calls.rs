//! System calls that a signal can cut short where a filesystem lives in user space or on a network: made
//! again until they end. Knows `EINTR`; ignores what the calls are for.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{self, Access, AtFlags, CWD, Dir, DirEntry, FlockOperation, Mode, OFlags, StatVfs},
    io::{Errno, Result, retry_on_intr},
    path::Arg,
};

use super::error::errno_in;

pub(super) fn open<P: Arg + Copy>(path: P, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    retry_on_intr(|| fs::open(path, flags, mode))
}

pub(super) fn openat<P: Arg + Copy>(at: impl AsFd, path: P, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    retry_on_intr(|| fs::openat(&at, path, flags, mode))
}

pub(super) fn flock(file: impl AsFd, operation: FlockOperation) -> Result<()> {
    retry_on_intr(|| fs::flock(&file, operation))
}

/// Locks a file exclusively; `waiting` is called if another process has to be waited for.
pub(super) fn lock(file: impl AsFd, waiting: impl FnOnce()) -> Result<()> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            waiting();
            flock(&file, FlockOperation::LockExclusive)
        }
        locked => locked,
    }
}

/// Whether this process finds its open files by their numbers.
pub(super) fn has_proc() -> bool {
    fs::accessat(CWD, "/proc/self/fd", Access::EXISTS, AtFlags::empty()).is_ok()
}

/// The umask, if it can be told: asking the system would change it.
pub(super) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

pub(super) fn syncfs(on: impl AsFd) -> Result<()> {
    retry_on_intr(|| fs::syncfs(&on))
}

pub(super) fn fsync(file: impl AsFd) -> Result<()> {
    retry_on_intr(|| fs::fsync(&file))
}

pub(super) fn fstatvfs(on: impl AsFd) -> Result<StatVfs> {
    retry_on_intr(|| fs::fstatvfs(&on))
}

/// The entries of a directory, without `.` and `..`.
pub(super) fn entries(dir: impl AsFd) -> Result<impl Iterator<Item = Result<DirEntry>>> {
    let entries = retry_on_intr(|| Dir::read_from(&dir))?;
    let is_dot = |entry: &DirEntry| matches!(entry.file_name().to_bytes(), b"." | b"..");
    Ok(entries.filter(move |entry| !entry.as_ref().is_ok_and(is_dot)))
}

/// How often a signal may cut the same work of upstream short: a path in the words of another
/// error could look like it.
const INTERRUPTIONS: usize = 100;

/// Does again what a signal cut short in upstream's code, which does not; for what may be done twice.
pub(super) fn until_it_ends<T>(mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 0..INTERRUPTIONS {
        match work() {
            Err(error) if errno_in(&error) == Some(Errno::INTR) => {}
            ended => return ended,
        }
    }
    work()
}
