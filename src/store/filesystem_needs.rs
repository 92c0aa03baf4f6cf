//! What a repository needs of the filesystem that it is on, found out before anything is fetched. Knows
//! mounts, case and links; ignores what is stored.
//!
//! What can be done in another way is: files that have a name from the beginning instead of anonymous
//! ones, a link and an unlink instead of a rename that replaces nothing. What cannot is refused, with
//! what the filesystem lacks.

use std::{os::fd::AsFd, sync::atomic::Ordering};

use composefs::{fsverity::FsVerityHashValue, repository::REPO_METADATA_FILENAME};
use rustix::{
    fs::{self, Access, AtFlags, IFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    Store, StoreError, beneath, calls,
    links::{IMAGES, REFS, STREAMS, TAGS},
    scratch::TMP_DIR,
    seal::lacks_call,
};

/// Folders between which names move, and which one `syncfs` has to reach.
const FOLDERS: [&str; 4] = ["objects", IMAGES, TAGS, TMP_DIR];
/// `FS_CASEFOLD_FL` of the kernel's fs.h, which rustix does not name: names of this
/// folder are equal in any case.
const CASEFOLD: IFlags = IFlags::from_bits_retain(0x4000_0000);

impl<H: FsVerityHashValue> Store<H> {
    /// Refuses a repository in which images would get lost; writes nothing.
    ///
    /// # Errors
    /// A folder of it is another mount, or names that differ in case are the same name there.
    pub fn require_suitable(&self) -> Result<(), StoreError> {
        let shown = self.path().display();
        let fault = |errno| self.fault("looking at its folders", errno);
        if self.suitable.get().is_some() {
            return Ok(());
        }
        for folder in FOLDERS {
            if let Some(folder) = beneath::other_mount(self.root(), folder).map_err(fault)? {
                return Err(StoreError::Refused(format!(
                    "{shown}/{folder} is another filesystem or mount than {shown}: a repository has to be \
                     on one, since \
                     files are moved between its folders and synced together: put the folder itself in its \
                     place, or \
                     mount a filesystem on {shown} instead"
                )));
            }
        }
        if self.ignores_case().map_err(fault)? {
            return Err(StoreError::Refused(format!(
                "{shown}: this filesystem ignores the case of names: app:V1 and app:v1 would replace each \
                 other: choose \
                 a place where case counts (on ext4 a folder without the attribute F of chattr)"
            )));
        }
        let _ = self.suitable.set(());
        Ok(())
    }

    /// Whether names that differ in case are the same name: everywhere (SMB, virtiofs on macOS), or in the
    /// folder of tags (ext4, f2fs and tmpfs have it for single folders).
    fn ignores_case(&self) -> Result<bool, Errno> {
        let (name, other) = (REPO_METADATA_FILENAME, REPO_METADATA_FILENAME.to_uppercase());
        match fs::accessat(self.root(), &*other, Access::EXISTS, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            // Unless it is a file of its own.
            Ok(()) => {
                let inode = |name| beneath::stat(self.root(), name).map(|found| found.st_ino).ok();
                return Ok(inode(&other).is_none_or(|other| inode(name) == Some(other)));
            }
            Err(errno) => return Err(errno),
        }
        // A new folder is as the one that it is in.
        for folder in [TAGS, REFS, STREAMS] {
            match beneath::dir(self.root(), folder) {
                Err(Errno::NOENT) => {}
                // Most filesystems know no such flags.
                Ok(folder) => return Ok(fs::ioctl_getflags(folder).is_ok_and(|f| f.contains(CASEFOLD))),
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    /// Tries what cannot be seen without writing, and chooses how objects get their names. For runs that make
    /// something: others need no space on the disk.
    ///
    /// # Errors
    /// The filesystem has no symbolic links; or what it refuses.
    pub fn try_filesystem(&self) -> Result<(), StoreError> {
        let scratch = self.scratch()?;
        let (dir, name) = (scratch.dir(), scratch.unused_name());
        match fs::symlinkat("tried", dir, &*name) {
            Ok(()) => drop(fs::unlinkat(dir, &*name, AtFlags::empty())),
            Err(errno) if lacks_call(errno) => {
                return Err(StoreError::Refused(format!(
                    "{}: this filesystem has no symbolic links, which every repository needs ({}): choose \
                     another place",
                    self.path().display(),
                    std::io::Error::from(errno)
                )));
            }
            Err(errno) => return Err(self.fault("making a link in cfs-dag/tmp", errno)),
        }
        // Another name, should that one have stayed.
        let tried = self
            .can_name_anonymous(dir, &scratch.unused_name())
            .map_err(|errno| self.fault(TMP_DIR, errno))?;
        self.objects.no_tmpfile.store(!tried, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an anonymous file can get a name, and be opened once more, which takes `/proc`.
    fn can_name_anonymous(&self, dir: impl AsFd, name: &str) -> Result<bool, Errno> {
        if !calls::has_proc() {
            return Ok(false);
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = match calls::openat(&dir, ".", flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => return Ok(false),
            opened => opened?,
        };
        match self.link_anonymous(&file, dir.as_fd(), name) {
            Ok(()) => {
                // What stays goes with the folder.
                let _ = fs::unlinkat(&dir, name, AtFlags::empty());
                Ok(true)
            }
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
                Err(errno)
            }
            // Whatever keeps a file without a name from getting one (an unknown call, another mount, a
            // security module) does not concern files that have one from the beginning.
            Err(_) => Ok(false),
        }
    }
}
