//! One open repository. Knows composefs' `Repository` and our own folder in it; ignores
//! what is stored and why.

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use composefs::{
    erofs::format::{FormatEpoch, FormatVersion},
    fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    repository::{FeatureCheck, Repository},
};
use rustix::{
    fs::{self, Access, AtFlags, StatVfsMountFlags},
    io::Errno,
};

use super::{
    StoreError, StreamName, beneath, calls,
    law::{Op, Recorder},
    links::STREAMS,
    objects::Objects,
    open::{denied_by_umask, unprotected},
    scratch::{self, Scratch},
};

/// A repository as this program uses it; everything is callable from any thread.
///
/// A process holds exactly one for a repository: upstream's gc would wait for the lock
/// of a second one for ever.
pub struct Store<H: FsVerityHashValue> {
    pub(super) repo: Arc<Repository<H>>,
    pub(super) objects: Objects<H>,
    pub(super) reached: Mutex<Option<HashSet<H>>>,
    /// Whether nothing is believed that was not read.
    pub(super) doubted: OnceLock<bool>,
    /// Set once the filesystem was seen to be fit for a repository.
    pub(super) suitable: OnceLock<()>,
    path: PathBuf,
    scratch: Mutex<Option<Arc<Scratch>>>,
    /// The folder of claims, once it is needed.
    pub(super) claims: OnceLock<Arc<OwnedFd>>,
    recorder: OnceLock<Arc<dyn Recorder>>,
    pub(super) barriers: AtomicU64,
    /// Set when a sync failed: the system tells it but once, and what it lost is not known.
    pub(super) lost: OnceLock<Errno>,
}

/// A store of either algorithm.
#[derive(Clone)]
pub enum AnyStore {
    /// Objects are named by SHA-256 fs-verity digests.
    Sha256(Arc<Store<Sha256HashValue>>),
    /// Objects are named by SHA-512 fs-verity digests.
    Sha512(Arc<Store<Sha512HashValue>>),
}

/// Runs `$body` with `$store` bound to the typed store inside an [`AnyStore`](crate::store::AnyStore).
#[macro_export]
macro_rules! with_store {
    ($any:expr, $store:ident => $body:expr) => {
        match $any {
            $crate::store::AnyStore::Sha256($store) => $body,
            $crate::store::AnyStore::Sha512($store) => $body,
        }
    };
}

impl AnyStore {
    /// Refuses a repository that goes without fs-verity: what is in it is not protected by the kernel.
    ///
    /// # Errors
    /// It goes without.
    pub fn require_verity(&self) -> Result<(), StoreError> {
        let (insecure, path) = with_store!(self, store => (store.is_insecure(), store.path()));
        if insecure { Err(unprotected(path)) } else { Ok(()) }
    }
}

impl<H: FsVerityHashValue> Store<H> {
    pub(super) fn new(repo: Repository<H>, path: &Path) -> Arc<Self> {
        Arc::new(Self {
            repo: Arc::new(repo),
            objects: Objects::default(),
            reached: Mutex::new(None),
            doubted: OnceLock::new(),
            suitable: OnceLock::new(),
            path: path.to_owned(),
            scratch: Mutex::new(None),
            claims: OnceLock::new(),
            recorder: OnceLock::new(),
            barriers: AtomicU64::new(0),
            lost: OnceLock::new(),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Upstream's handle, for reading and for building filesystem images. Its writing calls are not for use:
    /// they replace layer links, sync for every stream, and accept truncated objects.
    pub fn upstream(&self) -> &Arc<Repository<H>> {
        &self.repo
    }

    /// Whether the repository goes without fs-verity.
    pub fn is_insecure(&self) -> bool {
        self.repo.is_insecure()
    }

    /// The filesystem images that a container image must have here, the default first.
    ///
    /// Formats 0 and 1 share one reference in a config; where a repository asks for both, only 1 can be kept.
    pub fn formats(&self) -> Vec<FormatVersion> {
        let config = self.repo.format_config();
        let shadowed = |version: &FormatVersion| {
            *version == FormatVersion::V0 && config.versions().any(|other| other == FormatVersion::V1)
        };
        let formats: Vec<FormatVersion> = config.versions().filter(|version| !shadowed(version)).collect();
        debug_assert!(formats.iter().filter(|version| version.epoch() == FormatEpoch::Epoch1).count() <= 1);
        formats
    }

    /// Checks that the repository can and may be written, before any work is done for it.
    ///
    /// # Errors
    /// A read-only mount, missing permission, or features that we do not know and that forbid writing.
    pub fn require_writable(&self) -> Result<(), StoreError> {
        let root = self.root();
        let shown = self.path.display();
        if let Ok(FeatureCheck::ReadOnly(unknown)) = self.repo.metadata().features.check() {
            return Err(StoreError::Refused(format!(
                "{shown}: refuse to write: the repository has features that we do not know ({}): use a \
                 newer cfs-dag",
                unknown.join(", ")
            )));
        }
        let mount = calls::fstatvfs(root).map_err(|errno| self.fault("looking at its filesystem", errno))?;
        if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(StoreError::ReadOnly(self.path.clone()));
        }
        self.require_folders()?;
        let own = beneath::no_folder(root, scratch::ALL_DIRS);
        if let Some(own) = own.map_err(|errno| self.fault(scratch::OWN_DIR, errno))? {
            return Err(StoreError::Refused(format!("{shown}/{own} is not a folder: remove it")));
        }
        let own = [scratch::OWN_DIR, scratch::TMP_DIR];
        for part in
            [".", "objects", "streams", "streams/refs", "streams/refs/oci", "images"].into_iter().chain(own)
        {
            match fs::accessat(root, part, Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ACCESS) => {
                    return Err(StoreError::Refused(format!(
                        "{shown}: no permission to write {part}: run as its owner, or choose another \
                         repository"
                    )));
                }
                Err(Errno::PERM) => {
                    return Err(StoreError::Refused(format!(
                        "{shown}: {part} is not to be changed (immutable, see lsattr, or forbidden by a \
                         sandbox): allow it \
                         (chattr -i), or choose another repository"
                    )));
                }
                Err(errno) => return Err(self.fault(part, errno)),
            }
        }
        Ok(())
    }

    /// Refuses to call a run done whose repository is not where it was, or has lost one of the `links`
    /// that the run made or found.
    ///
    /// # Errors
    /// [`StoreError::Gone`], and the system's.
    pub fn require_still_here(&self, links: impl IntoIterator<Item = StreamName>) -> Result<(), StoreError> {
        let gone = |detail: String| StoreError::Gone { path: self.path.clone(), detail };
        let fault = |errno| self.fault("looking at what was written", errno);
        let ours = fs::fstat(self.root()).map_err(fault)?;
        match fs::stat(&self.path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {}
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(gone("the repository is not here any more".into()));
            }
            Err(errno) => return Err(fault(errno)),
        }
        let mut folder = None;
        for link in links {
            let folder = match &folder {
                Some(folder) => folder,
                None => match beneath::place(self.root(), STREAMS) {
                    Err(Errno::NOENT) => return Err(gone(format!("{STREAMS} is gone"))),
                    found => folder.insert(found.map_err(fault)?),
                },
            };
            match fs::statat(folder, link.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => return Err(gone(format!("{STREAMS}/{link} is gone"))),
                Err(errno) => return Err(fault(errno)),
            }
        }
        Ok(())
    }

    /// Refuses a repository whose folders are links: upstream's functions would follow them out of it.
    pub(super) fn require_folders(&self) -> Result<(), StoreError> {
        let shown = self.path.display();
        let found = beneath::foreign_folder(self.root());
        match found.map_err(|errno| self.fault("looking at its folders", errno))? {
            None => Ok(()),
            Some(folder) => Err(StoreError::Refused(format!(
                "{shown}/{folder} is a link, or no folder: the folders of a repository must be in it: put \
                 the folder itself \
                 in its place"
            ))),
        }
    }

    /// How many barriers there were since it was opened.
    pub fn barriers(&self) -> u64 {
        self.barriers.load(Ordering::Relaxed)
    }

    /// Lets `recorder` see every step that the law of durability is about. Only the first call counts.
    pub fn set_recorder(&self, recorder: Arc<dyn Recorder>) {
        let _ = self.recorder.set(recorder);
    }

    /// Tells the recorder, if there is one; `op` is made only then.
    pub(super) fn record(&self, op: impl FnOnce() -> Op) {
        if let Some(recorder) = self.recorder.get() {
            recorder.record(op());
        }
    }

    /// The repository's root directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.repo.repo_fd()
    }

    /// Removes objects that got no name and this run's temporary folder, as dropping the store would, and
    /// forgets what was tagged when it began: to be called when nothing is written any more, since a worker
    /// may hold the store for a moment longer than the process lives.
    pub fn end_of_writing(&self) {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.forget_unnamed();
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// This run's folder for temporary names, made when first needed.
    pub(super) fn scratch(&self) -> Result<Arc<Scratch>, StoreError> {
        let mut slot = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = &*slot {
            return Ok(scratch.clone());
        }
        let scratch = Scratch::create(self.root().as_fd()).map_err(|errno| {
            let denied = if errno == Errno::ACCESS { denied_by_umask(&self.path) } else { None };
            denied.unwrap_or_else(|| self.fault("making a folder in cfs-dag/tmp", errno))
        })?;
        Ok(slot.insert(Arc::new(scratch)).clone())
    }

    /// Words for an I/O error on one of this repository's files, a spool for example.
    pub fn explain(&self, what: impl Into<String>, cause: std::io::Error) -> StoreError {
        match Errno::from_io_error(&cause) {
            Some(errno) => self.fault(what, errno),
            None => StoreError::Io { what: format!("{}: {}", self.path.display(), what.into()), cause },
        }
    }

    /// A failed system call on `what`.
    pub(super) fn fault(&self, what: impl Into<String>, errno: Errno) -> StoreError {
        StoreError::errno(&self.path, what, errno)
    }
}
