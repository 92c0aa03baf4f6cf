//! The hash-first object writer. Knows `objects/`, fs-verity and the system calls; ignores what objects mean.
//!
//! An object's id is known before anything is written, so the usual questions are cheap: the id was met in
//! this run (no system call), or the file is there (one `stat`, and none in a directory that this run made).
//! A new object is an anonymous file until it is complete and on the disk (see `staged`), so nobody ever sees
//! half of one, and two threads or programs with the same object need not wait for each other: both write,
//! one file gets the name, the other goes. What makes them durable is `barrier`.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use composefs::fsverity::{
    EnableVerityError, FsVerityHashValue, MeasureVerityError, enable_verity_with_retry, measure_verity,
    measure_verity_with_fallback,
};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Store, StoreError, beneath, calls,
    known::Known,
    law::Op,
    seal::Source,
    staged::{Staged, Unnamed},
};

/// How the kernel refuses to open a file whose size is not the one that its fs-verity descriptor covers,
/// which btrfs can leave after a power cut.
pub(super) const VERITY_ERROR: Errno = Errno::INVAL;

/// How often a name may change between looking and linking: only another program that
/// replaces objects does that.
const LINK_ATTEMPTS: usize = 8;

/// What [`Store::put`] found or did. In every case the object is complete afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there and was written.
    New,
    /// It was there.
    Present,
    /// Something else had its name (truncated by a crash, say) and was replaced.
    Replaced,
}

/// What is kept between calls: directory descriptors, ids met, what the filesystem cannot do.
pub(super) struct Objects<H> {
    /// `objects/` itself.
    base: OnceLock<OwnedFd>,
    dirs: [OnceLock<ObjectDir>; 256],
    pub(super) known: Known<H>,
    pub(super) staged: Staged<H>,
    /// Set when an object was written, or got its fs-verity, that no barrier has served yet.
    pub(super) unsynced: AtomicBool,
    /// Set once the filesystem said that it has no fs-verity: saves two system calls an object.
    pub(super) no_verity: AtomicBool,
    /// Set once the filesystem said that it has no anonymous files.
    pub(super) no_tmpfile: AtomicBool,
    /// Set once the filesystem said that it has no rename that replaces nothing.
    pub(super) no_exclusive_rename: AtomicBool,
    /// Set once it said that files have one name each.
    pub(super) no_hard_links: AtomicBool,
    /// Set once linking by descriptor alone was refused: older kernels want CAP_DAC_READ_SEARCH for it.
    pub(super) link_by_proc: AtomicBool,
}

impl<H> Default for Objects<H> {
    fn default() -> Self {
        Self {
            base: OnceLock::new(),
            dirs: [const { OnceLock::new() }; 256],
            known: Known::default(),
            staged: Staged::default(),
            unsynced: AtomicBool::new(false),
            no_verity: AtomicBool::new(false),
            no_tmpfile: AtomicBool::new(false),
            no_exclusive_rename: AtomicBool::new(false),
            no_hard_links: AtomicBool::new(false),
            link_by_proc: AtomicBool::new(false),
        }
    }
}

/// One of `objects/xx`.
pub(super) struct ObjectDir {
    fd: OwnedFd,
    /// Whether this run made it: an object that is not known is hardly there, and asking costs 8 % of a
    /// first pull of small files.
    pub(super) fresh: bool,
}

/// What is under an object's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Right,
    Wrong,
}

impl<H: FsVerityHashValue> Store<H> {
    /// Stores the concatenation of `parts`, whose fs-verity digest must be `id`.
    ///
    /// The object is complete when this returns, whoever wrote it, but not durable, and perhaps without a
    /// name: that takes a barrier.
    ///
    /// # Errors
    /// What the filesystem refuses, and (with fs-verity) a digest that is not `id`.
    pub fn put(&self, id: &H, parts: &[IoSlice<'_>]) -> Result<Put, StoreError> {
        let size = parts.iter().map(|part| part.len() as u64).sum();
        self.put_source(id, size, Source::Parts(parts))
    }

    /// Stores a file from [`spool`](Self::spool) that holds exactly the object, `size` bytes long.
    ///
    /// Nobody else may hold the file open for writing, or it is copied first.
    ///
    /// # Errors
    /// As [`put`](Self::put), and if the file has another size.
    pub fn put_file(&self, id: &H, file: File, size: u64) -> Result<Put, StoreError> {
        let found = fs::fstat(&file).map_err(|errno| self.object_fault(id, errno))?.st_size;
        if u64::try_from(found) != Ok(size) {
            let cause = io::Error::other(format!("the spooled file has {found} bytes instead of {size}"));
            return Err(self.explain(object_path(id), cause));
        }
        self.put_source(id, size, Source::File(file))
    }

    /// Whether the object is there with `size` bytes and, in a secure repository, the right digest in force.
    /// Writes nothing.
    ///
    /// # Errors
    /// Failures other than its absence.
    pub fn contains(&self, id: &H, size: u64) -> Result<bool, StoreError> {
        if self.is_here(id) {
            return Ok(true);
        }
        let Some(dir) = self.object_dir(id)? else { return Ok(false) };
        let right = self.look(dir.fd.as_fd(), id, size, false)? == Seen::Right;
        if right {
            self.note_found(id);
        }
        Ok(right)
    }

    /// Whether any object may be stored. Only a guess to save work.
    pub fn may_have_objects(&self) -> bool {
        let objects = match beneath::dir(self.root(), "objects") {
            Err(Errno::NOENT) => return false,
            opened => opened.and_then(calls::entries),
        };
        objects.map_or(true, |mut entries| entries.next().is_some())
    }

    /// Whether this run has met the object or made it.
    fn is_here(&self, id: &H) -> bool {
        self.objects.known.contains(id) || self.objects.staged.get(id).is_some()
    }

    /// Forgets objects that have no name yet, and that they are there.
    pub(super) fn forget_unnamed(&self) {
        if self.objects.staged.clear() {
            self.objects.known.clear();
        }
    }

    /// Forgets what was seen to be there: a garbage collection ran.
    pub(super) fn forget_what_is_there(&self) {
        self.objects.staged.clear();
        self.objects.known.clear();
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn put_source(&self, id: &H, size: u64, source: Source<'_>) -> Result<Put, StoreError> {
        if self.is_here(id) {
            return Ok(Put::Present);
        }
        let dir = self.make_object_dir(id)?;
        // Only a guess: naming it finds out.
        let seen = match dir.fresh && self.objects.known.is_complete() {
            true => Seen::Nothing,
            false => self.look(dir.fd.as_fd(), id, size, true)?,
        };
        if seen == Seen::Right {
            self.note_found(id);
            return Ok(Put::Present);
        }
        if seen == Seen::Wrong {
            self.require_no_folder(dir.fd.as_fd(), id)?;
        }
        let file = self.seal(dir.fd.as_fd(), id, source)?;
        self.record(|| Op::Complete(id.to_hex()));
        let unnamed = Unnamed { size, file };
        let put = if self.has_verity() {
            self.record(|| Op::Verity(id.to_hex()));
            self.unsynced(|| self.name(id, &unnamed))?
        } else {
            match (self.stage(id, unnamed)?, seen) {
                (false, _) => Put::Present,
                (true, Seen::Wrong) => Put::Replaced,
                (true, _) => Put::New,
            }
        };
        // Not before: who knows it may ask for a barrier.
        self.objects.known.insert(id);
        Ok(put)
    }

    /// Does what a barrier has to make durable.
    fn unsynced<T>(&self, work: impl FnOnce() -> T) -> T {
        // Before, for whoever finds it, and after, should a barrier begin in between.
        self.objects.unsynced.store(true, Ordering::SeqCst);
        let done = work();
        self.objects.unsynced.store(true, Ordering::SeqCst);
        done
    }

    /// Gives a complete file, which is on the disk or has fs-verity, the name of the object `id`.
    pub(super) fn name(&self, id: &H, Unnamed { size, file }: &Unnamed) -> Result<Put, StoreError> {
        let (dir, name) = (self.make_object_dir(id)?.fd.as_fd(), Basename::of(id));
        for _ in 0..LINK_ATTEMPTS {
            match self.link(dir, name.as_c_str(), file) {
                // Someone else was faster, or it is what is to be replaced.
                Err(Errno::EXIST) => {}
                linked => {
                    linked.map_err(|errno| self.object_fault(id, errno))?;
                    self.record(|| Op::Named(id.to_hex()));
                    return Ok(Put::New);
                }
            }
            match self.look(dir, id, *size, true)? {
                Seen::Nothing => {}
                Seen::Right => {
                    self.record(|| Op::Found(id.to_hex()));
                    return Ok(Put::Present);
                }
                Seen::Wrong => {
                    self.replace(dir, id, name.as_c_str(), file)?;
                    self.record(|| Op::Named(id.to_hex()));
                    return Ok(Put::Replaced);
                }
            }
        }
        let cause = io::Error::other("its file changes all the time: is another program writing here?");
        Err(self.explain(object_path(id), cause))
    }

    /// Refuses a folder under an object's name, which no file can replace, while the only one to suffer
    /// is who wants the object.
    fn require_no_folder(&self, dir: BorrowedFd<'_>, id: &H) -> Result<(), StoreError> {
        match fs::statat(dir, Basename::of(id).as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
                Err(self.object_fault(id, Errno::ISDIR))
            }
            _ => Ok(()),
        }
    }

    /// What is under the name of `id`. In a secure repository a file without fs-verity is verified, and with
    /// `heal` gets it.
    fn look(&self, dir: BorrowedFd<'_>, id: &H, size: u64, heal: bool) -> Result<Seen, StoreError> {
        let name = Basename::of(id);
        if self.is_insecure() {
            return match fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if !FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Seen::Wrong),
                Ok(stat) if u64::try_from(stat.st_size) == Ok(size) => self.seen_whole(dir, id),
                Ok(_) => Ok(Seen::Wrong),
                Err(Errno::NOENT) => Ok(Seen::Nothing),
                Err(errno) => Err(self.object_fault(id, errno)),
            };
        }
        // A pipe is not waited for: it has no digest.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match calls::openat(dir, name.as_c_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Seen::Nothing),
            Err(Errno::LOOP) => return Ok(Seen::Wrong),
            Err(errno) if self.shows_damage(&errno.into()) => return Ok(Seen::Wrong),
            Err(VERITY_ERROR) => return Ok(Seen::Wrong),
            Err(errno) => return Err(self.object_fault(id, errno)),
        };
        let file = File::from(fd);
        // The digest covers the size.
        match measure_verity::<H>(&file) {
            Ok(found) if found == *id && self.is_sound(id, &file)? => Ok(Seen::Right),
            Err(MeasureVerityError::VerityMissing) if heal => self.heal(id, &file),
            Err(MeasureVerityError::Io(cause)) if !self.shows_damage(&cause) => {
                Err(self.explain(object_path(id), cause))
            }
            _ => Ok(Seen::Wrong),
        }
    }

    /// What a file is that has the right size: right, unless the repository is doubted
    /// and its bytes are wrong.
    fn seen_whole(&self, dir: BorrowedFd<'_>, id: &H) -> Result<Seen, StoreError> {
        if !self.is_doubted() {
            return Ok(Seen::Right);
        }
        let file = beneath::file(dir, Basename::of(id).as_c_str());
        let file = file.map_err(|errno| self.object_fault(id, errno))?;
        Ok(if self.is_sound(id, &file)? { Seen::Right } else { Seen::Wrong })
    }

    /// Verifies a file that has no fs-verity yet (a crash can leave one) and enables it.
    fn heal(&self, id: &H, file: &File) -> Result<Seen, StoreError> {
        match measure_verity_with_fallback::<H>(file) {
            Ok(found) if found == *id => {}
            Ok(_) => return Ok(Seen::Wrong),
            Err(error) => {
                return Err(self.explain(object_path(id), io::Error::other(error)));
            }
        }
        match self.unsynced(|| enable_verity_with_retry::<H>(file)) {
            Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {
                // Only now do its bytes hold still: measure what is in force.
                let right = measure_verity::<H>(file).is_ok_and(|found| found == *id);
                Ok(if right { Seen::Right } else { Seen::Wrong })
            }
            // Another writer holds it open, or it cannot be enabled: our own copy takes its place.
            Err(_) => Ok(Seen::Wrong),
        }
    }

    /// `objects/xx` of `id`, if there is one.
    fn object_dir(&self, id: &H) -> Result<Option<&ObjectDir>, StoreError> {
        self.open_object_dir(id, false)
    }

    /// `objects/xx` of `id`, made if need be.
    pub(super) fn make_object_dir(&self, id: &H) -> Result<&ObjectDir, StoreError> {
        let fault = |errno| self.object_fault(id, errno);
        if let Some(dir) = self.object_dir(id)? {
            return Ok(dir);
        }
        let made =
            beneath::make_dir(self.objects_dir().map_err(fault)?, &id.to_object_dir()).map_err(fault)?;
        self.open_object_dir(id, made)?.ok_or_else(|| fault(Errno::NOENT))
    }

    fn open_object_dir(&self, id: &H, fresh: bool) -> Result<Option<&ObjectDir>, StoreError> {
        let slot = &self.objects.dirs[usize::from(id.as_bytes()[0])];
        if slot.get().is_none() {
            match beneath::place(self.root(), format!("objects/{}", id.to_object_dir())) {
                Ok(fd) => drop(slot.set(ObjectDir { fd, fresh })),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(self.object_fault(id, errno)),
            }
        }
        Ok(slot.get())
    }

    /// `objects/`, made if need be.
    pub(super) fn objects_dir(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.objects.base.get().is_none() {
            let dir = match beneath::place(self.root(), "objects") {
                Err(Errno::NOENT) => {
                    // Upstream's mode, less the umask, as upstream has it.
                    match fs::mkdirat(self.root(), "objects", Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    beneath::place(self.root(), "objects")?
                }
                found => found?,
            };
            // Another thread may have been faster: one is as good as the other.
            let _ = self.objects.base.set(dir);
        }
        self.objects.base.get().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    /// What has the object's name, if anything: a link is a link.
    pub(super) fn object_stat(&self, id: &H) -> Result<Option<fs::Stat>, StoreError> {
        let Some(dir) = self.object_dir(id)? else { return Ok(None) };
        match fs::statat(&dir.fd, Basename::of(id).as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.object_fault(id, errno)),
        }
    }

    fn note_found(&self, id: &H) {
        self.record(|| Op::Found(id.to_hex()));
        self.objects.known.insert(id);
    }

    fn object_fault(&self, id: &H, errno: Errno) -> StoreError {
        self.fault(object_path(id), errno)
    }
}

/// An object's name inside `objects/xx`, without allocation: it is needed for every file of every layer.
struct Basename([u8; 127]);

impl Basename {
    fn of<H: FsVerityHashValue>(id: &H) -> Self {
        let mut name = [0; 127];
        let rest = &id.as_bytes()[1..];
        // Fits both algorithms: 31 or 63 bytes and a NUL.
        let fits = hex::encode_to_slice(rest, &mut name[..2 * rest.len()]);
        debug_assert!(fits.is_ok());
        Self(name)
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// The path of an object in its repository, for messages.
pub(super) fn object_path<H: FsVerityHashValue>(id: &H) -> String {
    format!("objects/{}", id.to_object_pathname())
}
