//! A repository in which a check has found damage. Knows the note that says so, and how to read an object to its end;
//! ignores what is made of what it reads.
//!
//! Usually what a tagged image reaches is believed, a size is as good as a digest, and in a secure repository the
//! kernel's word of a digest is as good as reading. A disk that has changed bytes proves all that wrong. So a check that
//! finds damage leaves a note, and while it is there nothing is believed that was not read: every pull makes anew what
//! of its images is damaged. A check that finds nothing takes the note away.

use std::{
    fs::File,
    io::{self, Read},
};

use composefs::fsverity::{FsVerityHashValue, measure_verity_with_fallback};
use rustix::io::Errno;

use super::{Store, beneath, scratch::OWN_DIR};

/// An empty folder.
const NOTE: &str = "cfs-dag/damaged";
/// Enough to keep a disk busy.
const PIECE: usize = 1 << 20;

impl<H: FsVerityHashValue> Store<H> {
    /// Whether the last check found damage. Asked of the disk once.
    pub(super) fn is_doubted(&self) -> bool {
        *self.doubted.get_or_init(|| beneath::stat(self.root(), NOTE).is_ok())
    }

    /// Leaves the note, or takes it away. Gives whether that could be done: a repository may be read-only.
    pub(super) fn note_damage(&self, damaged: bool) -> bool {
        let noted = match damaged {
            true => {
                beneath::make_dir(self.root(), OWN_DIR).and_then(|_| beneath::make_dir(self.root(), NOTE))
            }
            false => beneath::remove_dir(self.root(), NOTE).map(|()| true),
        };
        matches!(noted, Ok(_) | Err(Errno::NOENT))
    }

    /// Whether all bytes of an object that looks right can be read and have its digest; believed unless the repository
    /// is doubted.
    pub(super) fn is_sound(&self, id: &H, file: &File) -> bool {
        if !self.is_doubted() {
            return true;
        }
        if self.is_insecure() {
            return measure_verity_with_fallback::<H>(file).is_ok_and(|found| found == *id);
        }
        // The kernel compares each page with the digest that is in force.
        let again = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
        again.and_then(|file| read_to_end(file, &mut vec![0; PIECE])).is_ok()
    }
}

/// Reads a file and forgets what it says.
pub(super) fn read_to_end(mut file: File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}
