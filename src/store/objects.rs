//! The hash-first object writer. Knows `objects/`, fs-verity and the system calls; ignores what objects mean.
//!
//! An object's id is known before anything is written, so the usual questions are cheap: the id was met in this
//! run (no system call), or the file is there (one `stat`). A new object is an anonymous file that gets its name
//! when it is complete, so nobody ever sees half of one, and two threads with the same object need not wait for
//! each other: both write, one links, the other finds a complete file. Nothing is synced here; see `commit`.

use std::{
    collections::HashSet,
    ffi::CStr,
    fs::File,
    io::{self, IoSlice, Seek},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use composefs::fsverity::{
    EnableVerityError, FsVerityHashValue, MeasureVerityError, enable_verity_with_retry, measure_verity,
    measure_verity_with_fallback,
};
use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
    path::Arg,
};

use super::{
    Store, StoreError,
    law::Op,
    scratch::{Scratch, make_dir},
};

/// Upstream's mode, less the umask, as upstream has it.
const OBJECT_MODE: Mode = Mode::from_raw_mode(0o644);
/// How often a file is written anew because a fork held it open for writing (it then cannot get fs-verity).
const SEAL_ATTEMPTS: usize = 16;
/// How often a name may change between looking and linking: only another program that replaces objects does that.
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
    dirs: [OnceLock<OwnedFd>; 256],
    pub(super) known: Known<H>,
    /// Set once the filesystem said that it has no fs-verity: saves two system calls an object.
    no_verity: AtomicBool,
    /// Set once the filesystem said that it has no anonymous files.
    pub(super) no_tmpfile: AtomicBool,
    /// Set once linking by descriptor alone was refused: older kernels want CAP_DAC_READ_SEARCH for it.
    pub(super) link_by_proc: AtomicBool,
}

impl<H> Default for Objects<H> {
    fn default() -> Self {
        Self {
            dirs: [const { OnceLock::new() }; 256],
            known: Known::default(),
            no_verity: AtomicBool::new(false),
            no_tmpfile: AtomicBool::new(false),
            link_by_proc: AtomicBool::new(false),
        }
    }
}

/// What is under an object's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Right,
    Wrong,
}

/// Where an object's bytes come from.
enum Content<'a> {
    Parts(&'a [IoSlice<'a>]),
    /// A file that may be linked itself.
    File(File),
    /// A file whose bytes must be copied.
    Copy(File),
}

/// A complete file without its final name.
enum Sealed {
    Anonymous(OwnedFd),
    Named { fd: OwnedFd, scratch: Arc<Scratch>, name: String },
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if let Self::Named { scratch, name, .. } = self {
            // Gone already if it was renamed into place.
            let _ = fs::unlinkat(scratch.dir(), &**name, AtFlags::empty());
        }
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Stores the concatenation of `parts`, whose fs-verity digest must be `id`.
    ///
    /// The object is complete when this returns, whoever wrote it, but not durable: that takes a barrier.
    ///
    /// # Errors
    /// What the filesystem refuses, and (with fs-verity) a digest that is not `id`.
    pub fn put(&self, id: &H, parts: &[IoSlice<'_>]) -> Result<Put, StoreError> {
        let size = parts.iter().map(|part| part.len() as u64).sum();
        self.put_content(id, size, Content::Parts(parts))
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
            return Err(StoreError::Io { what: object_path(id), cause });
        }
        self.put_content(id, size, Content::File(file))
    }

    /// Whether the object is there with `size` bytes and, in a secure repository, the right digest in force.
    /// Writes nothing.
    ///
    /// # Errors
    /// Failures other than its absence.
    pub fn contains(&self, id: &H, size: u64) -> Result<bool, StoreError> {
        if self.objects.known.contains(id) {
            return Ok(true);
        }
        let Some(dir) = self.object_dir(id)? else { return Ok(false) };
        let right = self.look(dir, id, size, false)? == Seen::Right;
        if right {
            self.note_complete(id);
        }
        Ok(right)
    }

    /// An anonymous file on the repository's filesystem, gone when closed unless given to
    /// [`put_file`](Self::put_file).
    ///
    /// # Errors
    /// What the filesystem refuses, as an [`io::Error`] so that other rooms need not know this one.
    pub fn spool(&self) -> io::Result<File> {
        let objects = self.repo.objects_dir()?.as_fd();
        match self.tmpfile(objects).map_err(io::Error::from)? {
            Some(fd) => Ok(File::from(fd)),
            None => {
                // Unlinked at once: `put_file` will have to copy it, on filesystems that are slow anyway.
                let scratch = self.scratch().map_err(io::Error::other)?;
                let (fd, name) = named_file(&scratch)?;
                fs::unlinkat(scratch.dir(), name, AtFlags::empty())?;
                Ok(File::from(fd))
            }
        }
    }

    /// Forgets what was seen to be there: a garbage collection ran.
    pub(super) fn forget_what_is_there(&self) {
        self.objects.known.clear();
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn put_content(&self, id: &H, size: u64, content: Content<'_>) -> Result<Put, StoreError> {
        if self.objects.known.contains(id) {
            return Ok(Put::Present);
        }
        let put = self.put_unknown(id, size, content)?;
        self.note_complete(id);
        Ok(put)
    }

    fn put_unknown(&self, id: &H, size: u64, content: Content<'_>) -> Result<Put, StoreError> {
        let dir = self.make_object_dir(id)?;
        let mut content = Some(content);
        let mut sealed = None;
        for _ in 0..LINK_ATTEMPTS {
            let seen = self.look(dir, id, size, true)?;
            if seen == Seen::Right {
                return Ok(Put::Present);
            }
            if let Some(content) = content.take() {
                sealed = Some(self.seal(dir, id, content)?);
            }
            let Some(file) = &sealed else { break };
            if seen == Seen::Wrong {
                self.replace(dir, id, file)?;
                return Ok(Put::Replaced);
            }
            match self.link(dir, id, file) {
                Ok(()) => return Ok(Put::New),
                // Someone else was faster: look at what they made.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.object_fault(id, errno)),
            }
        }
        let cause = io::Error::other("its file changes all the time: is another program writing here?");
        Err(StoreError::Io { what: object_path(id), cause })
    }

    /// What is under the name of `id`. In a secure repository a file without fs-verity is verified, and with
    /// `heal` gets it.
    fn look(&self, dir: BorrowedFd<'_>, id: &H, size: u64, heal: bool) -> Result<Seen, StoreError> {
        let name = Basename::of(id);
        if self.is_insecure() {
            return match fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if !FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Seen::Wrong),
                Ok(stat) if u64::try_from(stat.st_size) == Ok(size) => Ok(Seen::Right),
                Ok(_) => Ok(Seen::Wrong),
                Err(Errno::NOENT) => Ok(Seen::Nothing),
                Err(errno) => Err(self.object_fault(id, errno)),
            };
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::openat(dir, name.as_c_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Seen::Nothing),
            Err(Errno::LOOP) => return Ok(Seen::Wrong),
            Err(errno) => return Err(self.object_fault(id, errno)),
        };
        // The digest covers the size.
        match measure_verity::<H>(&fd) {
            Ok(found) if found == *id => Ok(Seen::Right),
            Err(MeasureVerityError::VerityMissing) if heal => self.heal(id, &File::from(fd)),
            Err(MeasureVerityError::Io(cause)) => Err(StoreError::Io { what: object_path(id), cause }),
            _ => Ok(Seen::Wrong),
        }
    }

    /// Verifies a file that has no fs-verity yet (a crash can leave one) and enables it.
    fn heal(&self, id: &H, file: &File) -> Result<Seen, StoreError> {
        match measure_verity_with_fallback::<H>(file) {
            Ok(found) if found == *id => {}
            Ok(_) => return Ok(Seen::Wrong),
            Err(error) => {
                return Err(StoreError::Io { what: object_path(id), cause: io::Error::other(error) });
            }
        }
        match enable_verity_with_retry::<H>(file) {
            Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {
                // Only now do its bytes hold still: measure what is in force.
                let right = measure_verity::<H>(file).is_ok_and(|found| found == *id);
                Ok(if right { Seen::Right } else { Seen::Wrong })
            }
            // Another writer holds it open, or it cannot be enabled: our own copy takes its place.
            Err(_) => Ok(Seen::Wrong),
        }
    }

    /// Makes a complete file of `content`, with fs-verity where there is any.
    fn seal(&self, dir: BorrowedFd<'_>, id: &H, mut content: Content<'_>) -> Result<Sealed, StoreError> {
        let fault = |cause: io::Error| self.explain(object_path(id), cause);
        for _ in 0..SEAL_ATTEMPTS {
            let (sealed, rest) = self.write(dir, content)?;
            if self.is_insecure() && self.objects.no_verity.load(Ordering::Relaxed) {
                return Ok(sealed);
            }
            let sealed = sealed.read_only().map_err(fault)?;
            match enable_verity_with_retry::<H>(sealed.fd()) {
                Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {
                    self.confirm(id, sealed.fd())?;
                    return Ok(sealed);
                }
                Err(EnableVerityError::FilesystemNotSupported) if self.is_insecure() => {
                    self.objects.no_verity.store(true, Ordering::Relaxed);
                    return Ok(sealed);
                }
                Err(EnableVerityError::FileOpenedForWrite) => {
                    content = match rest {
                        Some(parts) => Content::Parts(parts),
                        None => Content::Copy(File::from(sealed.fd().try_clone_to_owned().map_err(fault)?)),
                    };
                }
                Err(EnableVerityError::Io(cause)) => return Err(fault(cause)),
                Err(other) => return Err(fault(io::Error::other(other))),
            }
        }
        let cause = io::Error::other("other processes keep its file open for writing: try again");
        Err(StoreError::Io { what: format!("enabling fs-verity on {}", object_path(id)), cause })
    }

    /// The kernel's own digest is the last word: a wrong one means that our hashing or the memory is at fault.
    fn confirm(&self, id: &H, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        match measure_verity::<H>(fd) {
            Ok(found) if found == *id => Ok(()),
            Ok(found) => {
                let found = found.to_hex();
                let cause =
                    io::Error::other(format!("the kernel measured {found}: faulty memory, or our error"));
                Err(StoreError::Io { what: object_path(id), cause })
            }
            Err(error) => {
                let what = format!("measuring {}", object_path(id));
                Err(StoreError::Io { what, cause: io::Error::other(error) })
            }
        }
    }

    /// Writes `content` to a new file (or takes it as it is); gives back the parts for another attempt.
    fn write<'a>(
        &self,
        dir: BorrowedFd<'_>,
        content: Content<'a>,
    ) -> Result<(Sealed, Option<&'a [IoSlice<'a>]>), StoreError> {
        let fault = |errno| self.fault("writing an object", errno);
        let io_fault = |cause| self.explain("writing an object", cause);
        let content = match content {
            Content::File(file) if !self.objects.no_tmpfile.load(Ordering::Relaxed) => {
                return Ok((Sealed::Anonymous(file.into()), None));
            }
            other => other,
        };
        let sealed = match self.tmpfile(dir).map_err(fault)? {
            Some(fd) => Sealed::Anonymous(fd),
            None => {
                let scratch = self.scratch()?;
                let (fd, name) = named_file(&scratch).map_err(fault)?;
                Sealed::Named { fd, scratch, name }
            }
        };
        match content {
            Content::Parts(parts) => {
                write_parts(sealed.fd(), parts).map_err(fault)?;
                Ok((sealed, Some(parts)))
            }
            Content::File(mut file) | Content::Copy(mut file) => {
                let mut target = File::from(sealed.fd().try_clone_to_owned().map_err(io_fault)?);
                file.rewind().and_then(|()| io::copy(&mut file, &mut target)).map_err(io_fault)?;
                Ok((sealed, None))
            }
        }
    }

    /// An anonymous file in `dir`, or `None` if the filesystem has none.
    fn tmpfile(&self, dir: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
        if self.objects.no_tmpfile.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match fs::openat(dir, c".", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, OBJECT_MODE) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS) => {
                self.objects.no_tmpfile.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Gives the file its name, if nothing has it.
    fn link(&self, dir: BorrowedFd<'_>, id: &H, file: &Sealed) -> Result<(), Errno> {
        let name = Basename::of(id);
        match file {
            Sealed::Anonymous(fd) => self.link_anonymous(fd, dir, name.as_c_str()),
            Sealed::Named { scratch, name: from, .. } => {
                fs::renameat_with(scratch.dir(), &**from, dir, name.as_c_str(), RenameFlags::NOREPLACE)
            }
        }
    }

    /// Puts the file in the place of what has its name, at once.
    fn replace(&self, dir: BorrowedFd<'_>, id: &H, file: &Sealed) -> Result<(), StoreError> {
        let name = Basename::of(id);
        let scratch = self.scratch()?;
        let renamed = match file {
            Sealed::Anonymous(fd) => {
                let from = scratch.unused_name();
                self.link_anonymous(fd, scratch.dir(), &*from)
                    .and_then(|()| fs::renameat(scratch.dir(), &*from, dir, name.as_c_str()))
            }
            Sealed::Named { scratch, name: from, .. } => {
                fs::renameat(scratch.dir(), &**from, dir, name.as_c_str())
            }
        };
        renamed.map_err(|errno| self.object_fault(id, errno))
    }

    fn link_anonymous<P: Arg + Copy>(&self, fd: &OwnedFd, dir: BorrowedFd<'_>, name: P) -> Result<(), Errno> {
        if !self.objects.link_by_proc.load(Ordering::Relaxed) {
            match fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT) => self.objects.link_by_proc.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        fs::linkat(CWD, proc_path(fd.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// `objects/xx` of `id`, if there is one.
    fn object_dir(&self, id: &H) -> Result<Option<BorrowedFd<'_>>, StoreError> {
        let slot = self.dir_slot(id);
        if slot.get().is_none() {
            match open_path_dir(self.root(), &format!("objects/{}", id.to_object_dir())) {
                Ok(fd) => drop(slot.set(fd)),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(self.object_fault(id, errno)),
            }
        }
        Ok(slot.get().map(|fd| fd.as_fd()))
    }

    /// `objects/xx` of `id`, made if need be.
    fn make_object_dir(&self, id: &H) -> Result<BorrowedFd<'_>, StoreError> {
        let fault = |errno| self.object_fault(id, errno);
        if let Some(dir) = self.object_dir(id)? {
            return Ok(dir);
        }
        let objects = self.repo.objects_dir().map_err(fault)?;
        make_dir(objects.as_fd(), &id.to_object_dir()).map_err(fault)?;
        self.object_dir(id)?.ok_or_else(|| fault(Errno::NOENT))
    }

    fn dir_slot(&self, id: &H) -> &OnceLock<OwnedFd> {
        &self.objects.dirs[usize::from(id.as_bytes()[0])]
    }

    fn note_complete(&self, id: &H) {
        self.record(|| Op::Complete(id.to_hex()));
        self.objects.known.insert(id);
    }

    fn object_fault(&self, id: &H, errno: Errno) -> StoreError {
        self.fault(object_path(id), errno)
    }
}

impl Sealed {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Anonymous(fd) | Self::Named { fd, .. } => fd.as_fd(),
        }
    }

    /// Swaps the writable descriptor for a read-only one: the kernel enables fs-verity on nothing else.
    fn read_only(mut self) -> io::Result<Self> {
        let readable = reopen_read_only(self.fd())?;
        match &mut self {
            Self::Anonymous(fd) | Self::Named { fd, .. } => *fd = readable,
        }
        Ok(self)
    }
}

/// Ids that were seen complete in this run, up to a limit: a table of every file of a huge batch would be
/// memory that grows with the input, and forgetting costs no more than a `stat`.
pub(super) struct Known<H> {
    shards: [Mutex<HashSet<H>>; KNOWN_SHARDS],
}

const KNOWN_SHARDS: usize = 64;
/// In all 131 072 ids, some 16 MB with SHA-512.
const KNOWN_SHARD_LIMIT: usize = 2048;

impl<H> Default for Known<H> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashSet::new())) }
    }
}

impl<H: FsVerityHashValue> Known<H> {
    fn shard(&self, id: &H) -> std::sync::MutexGuard<'_, HashSet<H>> {
        let index = usize::from(id.as_bytes()[1]) % KNOWN_SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, id: &H) -> bool {
        self.shard(id).contains(id)
    }

    pub(super) fn insert(&self, id: &H) {
        let mut shard = self.shard(id);
        if shard.len() >= KNOWN_SHARD_LIMIT {
            shard.clear();
        }
        shard.insert(id.clone());
    }

    fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
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

/// A read-only descriptor of the same file, which may have no name.
pub(super) fn reopen_read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fs::open(proc_path(fd), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn open_path_dir(at: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    fs::openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn named_file(scratch: &Scratch) -> Result<(OwnedFd, String), Errno> {
    let name = scratch.unused_name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok((fs::openat(scratch.dir(), &*name, flags, OBJECT_MODE)?, name))
}

/// Writes all parts in order: one system call unless there are more than 1024 of them or the kernel stops short.
fn write_parts(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
    let mut owned = parts.to_vec();
    let mut rest = &mut owned[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = rest.len().min(1024);
        match rustix::io::writev(fd, &rest[..batch]) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
