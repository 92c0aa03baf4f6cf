//! The barrier between complete and durable. Knows `syncfs`; ignores what is waiting for it.
//!
//! What is complete gets its name behind one `syncfs`, and the names are durable behind the next.

use std::sync::atomic::Ordering;

use composefs::fsverity::FsVerityHashValue;
use rustix::io::Errno;

use super::{
    Store, StoreError, beneath, calls,
    law::Op,
    links::{IMAGES, STREAMS, TAGS},
};

/// Proof that a barrier began after `T` was handed over and has ended well. Links are made with nothing less.
///
/// Its field is private to this file, so it comes from [`Store::barrier`] alone.
pub(super) struct Durable<T>(T);

impl<T> Durable<T> {
    /// What is durable.
    pub(super) fn get(&self) -> &T {
        &self.0
    }

    /// Gives up the proof.
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Durable<Vec<T>> {
    /// Each of the things is as durable as all.
    pub(super) fn into_each(self) -> impl Iterator<Item = Durable<T>> {
        self.0.into_iter().map(Durable)
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Names and writes to disk everything that is complete, and vouches for `complete`: all that it reaches
    /// must have been complete before the call. On failure it comes back without the proof.
    pub(super) fn barrier<T>(&self, complete: T) -> Result<Durable<T>, (T, StoreError)> {
        let turn = self.naming_turn();
        self.objects.unsynced.store(false, Ordering::SeqCst);
        if let Err(error) = self.name_all(&turn).and_then(|()| self.sync()) {
            self.objects.unsynced.store(true, Ordering::SeqCst);
            return Err((complete, error));
        }
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.record(|| Op::Barrier);
        Ok(Durable(complete))
    }

    /// Writes the whole filesystem to disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        if let Some(errno) = self.lost.get() {
            return Err(StoreError::AfterFailedSync(*errno));
        }
        self.record(|| Op::SyncBegin);
        calls::syncfs(self.root()).map_err(|errno| {
            let _ = self.lost.set(errno);
            self.fault("syncing the repository to disk", errno)
        })?;
        self.record(|| Op::SyncEnd);
        Ok(())
    }

    /// Makes all links durable, whoever made them: a run that was killed may have left some that are not,
    /// and upstream syncs none.
    pub(super) fn sync_links(&self) -> Result<(), StoreError> {
        for dir in [IMAGES, STREAMS, TAGS] {
            match beneath::stat(self.root(), dir) {
                Err(Errno::NOENT) => {}
                _ => self.sync_dir(dir)?,
            }
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_dir(&self, dir: &'static str) -> Result<(), StoreError> {
        let fault = |errno| self.fault(format!("syncing {dir}"), errno);
        let fd = beneath::dir(self.root(), dir).map_err(fault)?;
        calls::fsync(fd).map_err(fault)?;
        self.record(|| Op::DirSynced(dir.to_owned()));
        Ok(())
    }
}
