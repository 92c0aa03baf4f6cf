//! Who is at work on a layer, so that two programs do not fetch it at once: `<repo>/cfs-dag/claims/`. Knows
//! lock files; ignores what is done while one is held.
//!
//! A claim is a courtesy, not a safeguard: whatever two programs do at once, a repository stays right. So
//! what stands in the way of claiming (a filesystem without locks, a missing permission) stops nobody. A
//! claim is an flock on a file of the layer's name; it ends with its process, however that ends, and the file
//! is removed by whoever has the lock.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use composefs::fsverity::FsVerityHashValue;
use rustix::{
    fs::{self, AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    Store, StreamName, beneath, calls,
    holders::{Holder, command, holders},
    scratch::{CLAIMS_DIR, OWN_DIR},
};

/// How often a file may vanish before it is locked: each time takes another claim that ends just then.
const ATTEMPTS: usize = 16;
/// No note is longer; what is, was not made by us.
const NOTE_LIMIT: u64 = 4096;

/// What came of claiming a layer.
#[derive(Debug)]
pub enum Claim {
    /// Nobody else is at work on it, until the guard is dropped.
    Ours(ClaimGuard),
    /// Somebody is. They may fail, or be gone in a moment, so look for the link and ask again.
    Theirs(Holder, Pulse),
}

/// Something about a claim that changes whenever its holder gets on, and with its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse(Option<(u64, SystemTime)>);

/// A claimed layer. To be kept until the layer's link is made; costs one open file.
#[derive(Debug)]
#[must_use = "the layer is anybody's as soon as it is dropped"]
pub struct ClaimGuard(Option<Held>);

impl ClaimGuard {
    /// A claim that nobody sees: whoever cannot wait for another's goes on without.
    pub fn unseen() -> Self {
        Self(None)
    }

    /// Shows those who wait that its holder gets on.
    pub fn beat(&self) {
        let Some(Held { file, .. }) = &self.0 else { return };
        // To the nanosecond, which the kernel's own time of the moment is not. Failing is harmless.
        let _ = file.set_modified(SystemTime::now());
    }

    /// Whether others see the claim; `false` where none can be made.
    pub fn is_seen(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
struct Held {
    dir: Arc<OwnedFd>,
    file: File,
    name: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the lock goes: whoever waits for it finds that its file has no name. Failing is harmless.
        remove(self.dir.as_fd(), &self.name, &self.file);
    }
}

/// What a holder says of itself.
#[derive(Serialize, Deserialize)]
struct Note {
    pid: u32,
    what: String,
    /// Seconds since 1970.
    since: u64,
}

impl Note {
    fn of_this_process() -> Self {
        use std::os::unix::ffi::OsStrExt;
        let arguments: Vec<_> = std::env::args_os().collect();
        let what = command(arguments.iter().map(|argument| argument.as_bytes()));
        Self { pid: std::process::id(), what, since: now() }
    }

    fn holder(&self) -> Holder {
        let time = Duration::from_secs(now().saturating_sub(self.since));
        Holder::new(Some(self.pid), &format!("{}, for {}", self.what, rounded(time)))
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Claims the layer `name` without waiting. Within one process a second claim is somebody else's, too.
    ///
    /// Always [`Claim::Ours`] where none can be made.
    pub fn claim(&self, name: &StreamName) -> Claim {
        self.try_claim(name.to_string()).unwrap_or_else(|errno| {
            tracing::debug!("{name} cannot be claimed: {errno}");
            Claim::Ours(ClaimGuard(None))
        })
    }

    fn try_claim(&self, name: String) -> Result<Claim, Errno> {
        let dir = self.claims_dir()?;
        for _ in 0..ATTEMPTS {
            let file = match open_file(dir.as_fd(), &name) {
                Err(Errno::NOENT) => continue,
                opened => opened?,
            };
            match calls::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if is_named(dir.as_fd(), &name, &file) => {
                    return Ok(Claim::Theirs(holder_of(&file), pulse_of(&file)));
                }
                Err(Errno::WOULDBLOCK) => continue,
                Err(errno) => {
                    remove(dir.as_fd(), &name, &file);
                    return Err(errno);
                }
                Ok(()) => {}
            }
            // Its holder may have removed it between open and lock: then another file has
            // the name by now, or will.
            if !is_named(dir.as_fd(), &name, &file) {
                continue;
            }
            // A dead process's: a new file tells nobody about the old holder.
            if fs::fstat(&file)?.st_size > 0 {
                fs::unlinkat(&dir, &name, AtFlags::empty())?;
                continue;
            }
            let note = serde_json::to_vec(&Note::of_this_process()).unwrap_or_default();
            // Without it the claim is as good.
            let _ = (&file).write_all(&note);
            return Ok(Claim::Ours(ClaimGuard(Some(Held { dir, file, name }))));
        }
        Err(Errno::AGAIN)
    }

    /// The folder of claims, made if need be.
    fn claims_dir(&self) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(dir) = self.claims.get() {
            return Ok(dir.clone());
        }
        for dir in [OWN_DIR, CLAIMS_DIR] {
            beneath::make_dir(self.root(), dir)?;
        }
        let dir = Arc::new(beneath::dir(self.root(), CLAIMS_DIR)?);
        Ok(self.claims.get_or_init(|| dir).clone())
    }
}

/// Removes the claims of dead processes, as far as may be.
pub(super) fn sweep(repo: BorrowedFd<'_>) {
    let Ok(dir) = beneath::dir(repo, CLAIMS_DIR) else { return };
    for entry in calls::entries(&dir).into_iter().flatten().flatten() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = calls::openat(&dir, entry.file_name(), flags, Mode::empty()) else { continue };
        if calls::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // A folder stays: it is nothing of ours.
            remove(dir.as_fd(), entry.file_name(), &file);
        }
    }
}

/// Opens a layer's file, made if need be. Another user's can only be read, which is enough to lock it.
fn open_file(dir: BorrowedFd<'_>, name: &str) -> Result<File, Errno> {
    // A pipe would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened =
        match calls::openat(dir, name, flags | OFlags::RDWR | OFlags::CREATE, Mode::from_raw_mode(0o644)) {
            Err(Errno::ACCESS) => calls::openat(dir, name, flags | OFlags::RDONLY, Mode::empty()),
            opened => opened,
        };
    opened.map(File::from)
}

/// Whether `name` is `file` still.
fn is_named<P: rustix::path::Arg>(dir: BorrowedFd<'_>, name: P, file: impl AsFd) -> bool {
    let Ok(named) = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    fs::fstat(file).is_ok_and(|file| (file.st_dev, file.st_ino) == (named.st_dev, named.st_ino))
}

/// Takes the name away from `file`, whose lock is held.
fn remove<P: rustix::path::Arg + Copy>(dir: BorrowedFd<'_>, name: P, file: impl AsFd) {
    if is_named(dir, name, file) {
        let _ = fs::unlinkat(dir, name, AtFlags::empty());
    }
}

/// Who holds the lock on `file`: as they say, or else as the kernel does.
fn holder_of(mut file: &File) -> Holder {
    let mut text = Vec::new();
    let read = Read::by_ref(&mut file).take(NOTE_LIMIT).read_to_end(&mut text);
    let note = read.ok().and_then(|_| serde_json::from_slice::<Note>(&text).ok());
    let known = note.map(|note| note.holder()).or_else(|| holders(file.as_fd()).into_iter().next());
    known.unwrap_or(Holder::new(None, ""))
}

fn pulse_of(file: &File) -> Pulse {
    let found = file.metadata().ok();
    Pulse(found.and_then(|found| Some((found.ino(), found.modified().ok()?))))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
