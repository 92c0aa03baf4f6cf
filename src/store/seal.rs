//! Bytes become a complete file, with fs-verity where there is any; and the calls that link it. Knows
//! anonymous files; ignores what was there before and what the files mean.
//!
//! fs-verity wants a file that nobody has open for writing, and a fork in another thread may hold a copy of
//! our descriptor for a moment. Then the file is written anew: the fork cannot hold what came after it.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, IoSlice, Seek},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use composefs::fsverity::{EnableVerityError, FsVerityHashValue, enable_verity_with_retry, measure_verity};
use rustix::{
    fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags},
    io::Errno,
    path::Arg,
};

use super::{
    Store, StoreError, calls,
    objects::{Objects, object_path},
    scratch::Scratch,
};

/// Upstream's mode, less the umask, as upstream has it.
const OBJECT_MODE: Mode = Mode::from_raw_mode(0o644);
/// How often a file is written anew because a fork held it open for writing (it then cannot get fs-verity).
const SEAL_ATTEMPTS: usize = 16;

/// Where an object's bytes come from.
pub(super) enum Source<'a> {
    Parts(&'a [IoSlice<'a>]),
    /// A file that may be linked itself.
    File(File),
    /// A file whose bytes must be copied.
    Copy(File),
}

/// A complete file without its final name.
pub(super) enum Sealed {
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
    /// An anonymous file on the repository's filesystem, gone when closed unless given to
    /// [`put_file`](Self::put_file).
    ///
    /// # Errors
    /// What the filesystem refuses, as an [`io::Error`] so that other rooms need not know this one.
    pub fn spool(&self) -> io::Result<File> {
        let objects = self.objects_dir()?;
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

    /// Makes a complete file of `source`, with fs-verity where there is any.
    pub(super) fn seal(
        &self,
        dir: BorrowedFd<'_>,
        id: &H,
        mut source: Source<'_>,
    ) -> Result<Sealed, StoreError> {
        let fault = |cause: io::Error| self.explain(object_path(id), cause);
        for _ in 0..SEAL_ATTEMPTS {
            let (sealed, rest) = self.write(dir, id, source)?;
            if !self.has_verity() {
                return Ok(sealed);
            }
            let sealed = self.read_only(id, sealed)?;
            match enable_verity_with_retry::<H>(sealed.fd()) {
                Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {
                    self.confirm(id, sealed.fd())?;
                    return Ok(sealed);
                }
                Err(error) if self.is_insecure() && is_unsupported(&error) => {
                    self.objects.no_verity.store(true, Ordering::Relaxed);
                    return Ok(sealed);
                }
                Err(EnableVerityError::FileOpenedForWrite) => {
                    source = match rest {
                        Some(parts) => Source::Parts(parts),
                        None => Source::Copy(File::from(sealed.fd().try_clone_to_owned().map_err(fault)?)),
                    };
                }
                Err(EnableVerityError::Io(cause)) => return Err(fault(cause)),
                Err(other) => return Err(fault(io::Error::other(other))),
            }
        }
        let cause = io::Error::other("other processes keep its file open for writing: try again");
        Err(self.explain(format!("enabling fs-verity on {}", object_path(id)), cause))
    }

    /// Swaps the writable descriptor for a read-only one: the kernel enables fs-verity on nothing else.
    /// And the file gets a name for the time being: ext4 would no longer know that it has none, and lose
    /// its blocks in a power cut.
    fn read_only(&self, id: &H, mut sealed: Sealed) -> Result<Sealed, StoreError> {
        let fault = |errno| self.fault(writing(id), errno);
        let readable = sealed.reopen().map_err(fault)?;
        match &mut sealed {
            Sealed::Anonymous(fd) => {
                let scratch = self.scratch()?;
                let name = scratch.unused_name();
                self.link_anonymous(fd, scratch.dir(), &*name).map_err(fault)?;
                Ok(Sealed::Named { fd: readable, scratch, name })
            }
            Sealed::Named { fd, .. } => {
                *fd = readable;
                Ok(sealed)
            }
        }
    }

    /// Whether objects get fs-verity; certain once one was sealed.
    pub(super) fn has_verity(&self) -> bool {
        !(self.is_insecure() && self.objects.no_verity.load(Ordering::Relaxed))
    }

    /// The kernel's own digest is the last word: a wrong one means that our hashing or
    /// the memory is at fault.
    fn confirm(&self, id: &H, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        match measure_verity::<H>(fd) {
            Ok(found) if found == *id => Ok(()),
            Ok(found) => {
                let found = found.to_hex();
                let cause =
                    io::Error::other(format!("the kernel measured {found}: faulty memory, or our error"));
                Err(self.explain(object_path(id), cause))
            }
            Err(error) => {
                let what = format!("measuring {}", object_path(id));
                Err(self.explain(what, io::Error::other(error)))
            }
        }
    }

    /// Writes `source` to a new file (or takes it as it is); gives back the parts for another attempt.
    fn write<'a>(
        &self,
        dir: BorrowedFd<'_>,
        id: &H,
        source: Source<'a>,
    ) -> Result<(Sealed, Option<&'a [IoSlice<'a>]>), StoreError> {
        let fault = |errno| self.fault(writing(id), errno);
        let io_fault = |cause| self.explain(writing(id), cause);
        let source = match source {
            Source::File(file) if !self.objects.no_tmpfile.load(Ordering::Relaxed) => {
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
        match source {
            Source::Parts(parts) => {
                write_parts(sealed.fd(), parts).map_err(fault)?;
                Ok((sealed, Some(parts)))
            }
            Source::File(mut file) | Source::Copy(mut file) => {
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
        match calls::openat(dir, c".", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, OBJECT_MODE) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS) => {
                self.objects.no_tmpfile.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Gives the file its name, if nothing has it.
    pub(super) fn link(&self, dir: BorrowedFd<'_>, name: &CStr, file: &Sealed) -> Result<(), Errno> {
        match file {
            Sealed::Anonymous(fd) => self.link_anonymous(fd, dir, name),
            Sealed::Named { scratch, name: from, .. } => self.move_to_unused(scratch, from, dir, name),
        }
    }

    /// Moves a complete file out of `scratch` to a name that nothing has, in the best way that the filesystem
    /// knows. In each of them the name is there at once and names all of the file, also after a power cut.
    fn move_to_unused(
        &self,
        scratch: &Scratch,
        from: &str,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Errno> {
        let Objects { no_exclusive_rename, no_hard_links, .. } = &self.objects;
        // NFS, SMB and older FUSE know no flags of a rename.
        if !no_exclusive_rename.load(Ordering::Relaxed) {
            match fs::renameat_with(scratch.dir(), from, dir, name, RenameFlags::NOREPLACE) {
                Err(errno) if lacks_call(errno) => no_exclusive_rename.store(true, Ordering::Relaxed),
                moved => return moved,
            }
        }
        if !no_hard_links.load(Ordering::Relaxed) {
            match fs::linkat(scratch.dir(), from, dir, name, AtFlags::empty()) {
                Err(errno) if lacks_call(errno) => no_hard_links.store(true, Ordering::Relaxed),
                // A second name that stays, in a power cut say, is swept like any leftover of a run.
                Ok(()) => {
                    let _ = fs::unlinkat(scratch.dir(), from, AtFlags::empty());
                    return Ok(());
                }
                refused => return refused,
            }
        }
        // Another program may name the object between the two calls. Then ours takes its place, with the same
        // bytes: an object's name says what they are, and both were checked.
        match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => fs::renameat(scratch.dir(), from, dir, name),
            Err(errno) => Err(errno),
        }
    }

    /// Puts the file in the place of what has its name, at once.
    pub(super) fn replace(
        &self,
        dir: BorrowedFd<'_>,
        id: &H,
        name: &CStr,
        file: &Sealed,
    ) -> Result<(), StoreError> {
        let scratch = self.scratch()?;
        let renamed = match file {
            Sealed::Anonymous(fd) => {
                let from = scratch.unused_name();
                self.link_anonymous(fd, scratch.dir(), &*from)
                    .and_then(|()| fs::renameat(scratch.dir(), &*from, dir, name))
            }
            Sealed::Named { scratch, name: from, .. } => fs::renameat(scratch.dir(), &**from, dir, name),
        };
        renamed.map_err(|errno| self.fault(format!("replacing {}", object_path(id)), errno))
    }

    pub(super) fn link_anonymous<P: Arg + Copy>(
        &self,
        fd: &OwnedFd,
        dir: BorrowedFd<'_>,
        name: P,
    ) -> Result<(), Errno> {
        if !self.objects.link_by_proc.load(Ordering::Relaxed) {
            match fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT) => self.objects.link_by_proc.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        fs::linkat(CWD, proc_path(fd.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Sealed {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Anonymous(fd) | Self::Named { fd, .. } => fd.as_fd(),
        }
    }

    /// Whether it has one of those names that are not final.
    pub(super) fn has_a_name(&self) -> bool {
        matches!(self, Self::Named { .. })
    }

    /// A descriptor to read the file by.
    pub(super) fn reopen(&self) -> Result<OwnedFd, Errno> {
        match self {
            Self::Anonymous(fd) => reopen_read_only(fd.as_fd()),
            // Without `/proc`, which not every sandbox has.
            Self::Named { scratch, name, .. } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                calls::openat(scratch.dir(), &**name, flags, Mode::empty())
            }
        }
    }
}

/// Whether a call failed because the filesystem, or a sandbox, has none of its kind.
pub(super) fn lacks_call(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

fn writing<H: FsVerityHashValue>(id: &H) -> String {
    format!("writing {}", object_path(id))
}

/// Whether the filesystem has no fs-verity, or none for our blocks: it says EINVAL if its own are
/// smaller than 4096 bytes.
pub(super) fn is_unsupported(error: &EnableVerityError) -> bool {
    match error {
        EnableVerityError::FilesystemNotSupported => true,
        EnableVerityError::Io(cause) => Errno::from_io_error(cause) == Some(Errno::INVAL),
        _ => false,
    }
}

/// A read-only descriptor of the same file, which may have no name.
pub(super) fn reopen_read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    calls::open(&*proc_path(fd), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn named_file(scratch: &Scratch) -> Result<(OwnedFd, String), Errno> {
    let name = scratch.unused_name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok((calls::openat(scratch.dir(), &*name, flags, OBJECT_MODE)?, name))
}

/// Writes all parts in order: one system call unless there are more than 1024 of them or
/// the kernel stops short.
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
