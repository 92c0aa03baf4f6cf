//! A repository in which a check has found damage. Knows the note that says so, and how to read an object to
//! its end; ignores what is made of what it reads.
//!
//! Usually what a tagged image reaches is believed, a size is as good as a digest, and in a secure repository
//! the kernel's word of a digest is as good as reading. A disk that has changed bytes proves all that wrong.
//! So a check that finds damage leaves a note, and while it is there nothing is believed that was not read:
//! every pull makes anew what of its images is damaged. A check that finds nothing takes the note away.

use std::{
    fs::File,
    io::{self, Read, Seek},
};

use composefs::fsverity::{FsVerityHashValue, measure_verity_with_fallback};
use rustix::io::Errno;

use super::{Store, StoreError, beneath, calls, objects::object_path, scratch::OWN_DIR};

/// An empty folder.
const NOTE: &str = "cfs-dag/damaged";
/// Enough to keep a disk busy.
pub(super) const PIECE: usize = 1 << 20;

impl<H: FsVerityHashValue> Store<H> {
    /// Whether the last check found damage, or that cannot be told. Asked of the disk once.
    pub(super) fn is_doubted(&self) -> bool {
        *self.doubted.get_or_init(|| !matches!(beneath::stat(self.root(), NOTE), Err(Errno::NOENT)))
    }

    /// Leaves the note, durable when this returns, or takes it away; one that comes back after a power cut
    /// costs but time. Gives whether that could be done: a repository may be read-only.
    pub(super) fn note_damage(&self, damaged: bool) -> bool {
        let leave = || {
            beneath::make_dir(self.root(), OWN_DIR)?;
            beneath::make_dir(self.root(), NOTE)?;
            // Only this tells a folder from something else of its name.
            beneath::dir(self.root(), NOTE)?;
            calls::fsync(beneath::dir(self.root(), OWN_DIR)?)?;
            calls::fsync(self.root())
        };
        let noted = if damaged { leave() } else { beneath::remove_dir(self.root(), NOTE) };
        matches!(noted, Ok(()) | Err(Errno::NOENT))
    }

    /// Whether all bytes of an object that looks right can be read and have its digest; believed unless the
    /// repository is doubted. The file is read from its beginning by whoever reads it next.
    ///
    /// # Errors
    /// Failures that say nothing about the object.
    pub(super) fn is_sound(&self, id: &H, mut file: &File) -> Result<bool, StoreError> {
        if !self.is_doubted() {
            return Ok(true);
        }
        // Where the kernel knows a digest it compares each page with it, and measuring reads nothing.
        let mut read = || {
            file.rewind()?;
            read_to_end(file, &mut vec![0; PIECE])?;
            file.rewind()?;
            let found = measure_verity_with_fallback::<H>(file).map_err(io::Error::other)?;
            file.rewind()?;
            Ok(found == *id)
        };
        match read() {
            Err(cause) if is_damage(&cause) => Ok(false),
            read => read.map_err(|cause| self.explain(object_path(id), cause)),
        }
    }

    /// Whether a failure means that an object of a doubted repository is damaged.
    pub(super) fn shows_damage(&self, cause: &io::Error) -> bool {
        self.is_doubted() && is_damage(cause)
    }
}

/// Whether a failure is the object's, not that of the system or the caller.
pub(super) fn is_damage(cause: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::ACCESS, Errno::PERM];
    !Errno::from_io_error(cause).is_some_and(|errno| ours.contains(&errno))
}

/// Reads a file to its end and forgets what it says.
pub(super) fn read_to_end(mut file: &File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}
