//! Complete objects that have no name yet, and giving it to them. Knows that nothing may have a name whose bytes could
//! still be lost; ignores what objects are for.
//!
//! Filesystems that write data later than names would show, after a power cut, empty files or zeros under names that
//! vouch for content. So names come behind a `syncfs`, many at a time: at every barrier, and whenever so many files are
//! open that it would be too many.
//!
//! Enabling fs-verity writes a file to the disk, so what has it is named at once. It must not wait, either: ext4 then
//! no longer knows that the file has no name, and after a power cut its blocks would be lost until the next e2fsck.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use composefs::fsverity::FsVerityHashValue;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{Store, StoreError, seal::Sealed};

/// How many objects wait for a barrier; more are given their names before. On a disk a `syncfs` for each 2500 of a
/// hundred thousand small files costs a quarter of the time, for each 5000 a tenth; an open file is 1.5 kB of the kernel's.
const MOST: usize = 16_384;
/// The part of the files that this process may open that may wait.
const SHARE: u64 = 4;

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
    most: usize,
}

impl<H> Default for Staged<H> {
    fn default() -> Self {
        let most = match getrlimit(Resource::Nofile).current {
            Some(limit) => usize::try_from(limit / SHARE).map_or(MOST, |share| share.clamp(1, MOST)),
            None => MOST,
        };
        Self { objects: Mutex::default(), turn: Mutex::default(), most }
    }
}

impl<H: FsVerityHashValue> Staged<H> {
    fn objects(&self) -> MutexGuard<'_, HashMap<H, Arc<Unnamed>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &H) -> Option<Arc<Unnamed>> {
        self.objects().get(id).cloned()
    }

    /// Forgets all: they are gone as if they had never been written.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.objects());
        drop(gone);
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Takes a complete file that shall be the object `id`.
    ///
    /// # Errors
    /// What keeps others, whose turn it was, from being named.
    pub(super) fn stage(&self, id: &H, unnamed: Unnamed) -> Result<(), StoreError> {
        let staged = &self.objects.staged;
        let waiting = {
            let mut objects = staged.objects();
            objects.insert(id.clone(), Arc::new(unnamed));
            objects.len()
        };
        if waiting < staged.most {
            return Ok(());
        }
        let turn = match staged.turn.try_lock() {
            Ok(turn) => turn,
            // Somebody is at it; wait only if that is not fast enough.
            Err(TryLockError::WouldBlock) if waiting < 2 * staged.most => return Ok(()),
            Err(TryLockError::WouldBlock) => staged.turn.lock().unwrap_or_else(PoisonError::into_inner),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if staged.objects().len() >= staged.most { self.name_all(&turn) } else { Ok(()) }
    }

    /// The right to give names; whoever had it before is done.
    pub(super) fn naming_turn(&self) -> MutexGuard<'_, ()> {
        self.objects.staged.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives their names to all objects that are complete now. The names are not durable when this returns.
    ///
    /// # Errors
    /// A failed sync, or what the filesystem refuses; what has no name by then waits for the next time.
    pub(super) fn name_all(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let staged = &self.objects.staged;
        let batch: Vec<(H, Arc<Unnamed>)> =
            staged.objects().iter().map(|(id, unnamed)| (id.clone(), unnamed.clone())).collect();
        if batch.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for (id, unnamed) in &batch {
            self.name(id, unnamed)?;
            let named = staged.objects().remove(id);
            drop(named);
        }
        Ok(())
    }

    /// A descriptor of an object that may have no name yet.
    pub(super) fn open_staged(&self, id: &H) -> Option<Result<File, Errno>> {
        Some(self.objects.staged.get(id)?.file.reopen().map(File::from))
    }
}
