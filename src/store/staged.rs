//! Where complete objects wait for their names. Knows that nothing may have a name whose bytes could
//! still be lost; ignores what objects are for.
//!
//! Filesystems that write data later than names would show, after a power cut, empty files or zeros under
//! names that vouch for content. So names come behind a `syncfs`, many at a time: at every barrier, and
//! whenever so many files are open that more would be too many.
//!
//! What has fs-verity vouches for itself, and ext4 and f2fs write it to the disk when it is
//! enabled: it is named at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use composefs::fsverity::FsVerityHashValue;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{Store, StoreError, objects::object_path, seal::Sealed};

/// How many objects wait before names are asked for; twice as many never do. On a disk a `syncfs` for each
/// 2500 of a hundred thousand small files costs a quarter of the time, for each 5000 a tenth; an open file
/// is 1.5 kB of the kernel's.
const MOST: usize = 8192;
/// Of the files that this process may open: the part that waits before names are asked for.
const SHARE: u64 = 4;

/// Called when too many objects are staged.
type Crowded = Box<dyn Fn() + Send>;

/// A complete file without a name.
pub(super) struct Unnamed {
    /// In bytes.
    pub(super) size: u64,
    pub(super) file: Sealed,
}

/// Complete objects of this run that have no name yet.
pub(super) struct Staged<H> {
    objects: Mutex<HashMap<H, Arc<Unnamed>>>,
    /// Whose turn it is to give names.
    turn: Mutex<()>,
    /// See [`MOST`].
    pub(super) most: AtomicUsize,
    crowded: Mutex<Option<Crowded>>,
}

impl<H> Default for Staged<H> {
    fn default() -> Self {
        let most = match getrlimit(Resource::Nofile).current {
            Some(limit) => usize::try_from(limit / SHARE).map_or(MOST, |share| share.clamp(1, MOST)),
            None => MOST,
        };
        Self {
            objects: Mutex::default(),
            turn: Mutex::default(),
            most: AtomicUsize::new(most),
            crowded: Mutex::default(),
        }
    }
}

impl<H: FsVerityHashValue> Staged<H> {
    fn objects(&self) -> MutexGuard<'_, HashMap<H, Arc<Unnamed>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &H) -> Option<Arc<Unnamed>> {
        self.objects().get(id).cloned()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.objects().len()
    }

    /// Forgets all: they are gone as if they had never been written. Whether there were any.
    pub(super) fn clear(&self) -> bool {
        let gone = std::mem::take(&mut *self.objects());
        !gone.is_empty()
    }

    /// Has somebody told when so many objects wait, who gives them their names while others work; or nobody.
    pub(super) fn tell(&self, crowded: Option<Crowded>) {
        *self.crowded.lock().unwrap_or_else(PoisonError::into_inner) = crowded;
    }

    /// Whether somebody was told.
    fn call(&self) -> bool {
        let crowded = self.crowded.lock().unwrap_or_else(PoisonError::into_inner);
        crowded.as_ref().map(|crowded| crowded()).is_some()
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Takes a complete file that shall be the object `id`; false if another one waits already.
    ///
    /// # Errors
    /// What keeps others from being named, if there are too many of them.
    pub(super) fn stage(&self, id: &H, unnamed: Unnamed) -> Result<bool, StoreError> {
        let staged = &self.objects.staged;
        let waiting = {
            let mut objects = staged.objects();
            let waiting = objects.len() + 1;
            match objects.entry(id.clone()) {
                Entry::Occupied(_) => return Ok(false),
                Entry::Vacant(place) => place.insert(Arc::new(unnamed)),
            };
            // Under the lock: a barrier that does not see this object must not call all synced.
            self.objects.unsynced.store(true, Ordering::SeqCst);
            waiting
        };
        let most = staged.most.load(Ordering::Relaxed);
        if waiting < most || (waiting < 2 * most && staged.call()) {
            return Ok(true);
        }
        let turn = self.naming_turn();
        // Whoever had the turn before may have done it.
        let crowded = staged.len() >= most;
        if crowded { self.name_all(&turn).map(|()| true) } else { Ok(true) }
    }

    /// The right to give names; whoever had it before is done.
    pub(super) fn naming_turn(&self) -> MutexGuard<'_, ()> {
        self.objects.staged.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives their names to all objects that are complete now. The names are not durable when this returns.
    ///
    /// # Errors
    /// A failed sync, or the first thing that the filesystem refuses; what has no name by then
    /// waits for the next time.
    pub(super) fn name_all(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let staged = &self.objects.staged;
        let batch: Vec<(H, Arc<Unnamed>)> =
            staged.objects().iter().map(|(id, unnamed)| (id.clone(), unnamed.clone())).collect();
        if batch.is_empty() {
            return Ok(());
        }
        self.sync()?;
        let mut all = Ok(());
        for (id, unnamed) in batch {
            match self.name(&id, &unnamed) {
                // The last that holds it is `unnamed`: no file is closed under the lock.
                Ok(_) => drop(staged.objects().remove(&id)),
                Err(error) => all = all.and(Err(error)),
            }
        }
        all
    }

    /// A descriptor of an object that has no name yet.
    pub(super) fn open_staged(&self, id: &H) -> Result<Option<File>, StoreError> {
        let Some(unnamed) = self.objects.staged.get(id) else { return Ok(None) };
        match unnamed.file.reopen() {
            Ok(reopened) => Ok(Some(File::from(reopened))),
            // It has got its own meanwhile.
            Err(Errno::NOENT) if unnamed.file.has_a_name() => Ok(None),
            Err(errno) => Err(self.fault(object_path(id), errno)),
        }
    }
}
