//! The barrier between complete and durable. Knows `syncfs`; ignores what is waiting for it.

use std::sync::atomic::Ordering;

use composefs::fsverity::FsVerityHashValue;
use rustix::io::Errno;

use super::{Store, StoreError, calls, law::Op};

/// Proof that a `syncfs` began after `T` was handed over and has ended well. Links are made with nothing less.
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
    /// Writes the whole filesystem to disk and vouches for `complete`: everything that it reaches must have been
    /// complete before the call. On failure it comes back without the proof.
    pub(super) fn barrier<T>(&self, complete: T) -> Result<Durable<T>, (T, Errno)> {
        self.record(|| Op::BarrierBegin);
        self.objects.unsynced.store(false, Ordering::SeqCst);
        if let Err(errno) = calls::syncfs(self.root()) {
            let _ = self.lost.set(errno);
            return Err((complete, errno));
        }
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.record(|| Op::BarrierEnd);
        Ok(Durable(complete))
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_dir(&self, dir: &'static str) -> Result<(), StoreError> {
        let fault = |errno| self.fault(format!("syncing {dir}"), errno);
        let fd = super::beneath::dir(self.root(), dir).map_err(fault)?;
        calls::fsync(fd).map_err(fault)?;
        self.record(|| Op::DirSynced(dir.to_owned()));
        Ok(())
    }
}
