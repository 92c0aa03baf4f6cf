//! Which objects were seen in this run. Knows ids; ignores files.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use composefs::fsverity::FsVerityHashValue;

const SHARDS: usize = 64;
/// In all 131 072 ids, some 16 MB with SHA-512.
const SHARD_LIMIT: usize = 2048;

/// Ids that were seen complete in this run, up to a limit: a table of every file of a huge batch would be
/// memory that grows with the input, and forgetting costs no more than a `stat` for each later object.
pub(super) struct Known<H> {
    shards: [Mutex<HashSet<H>>; SHARDS],
    forgot: AtomicBool,
}

impl<H> Default for Known<H> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashSet::new())), forgot: AtomicBool::new(false) }
    }
}

impl<H: FsVerityHashValue> Known<H> {
    fn shard(&self, id: &H) -> MutexGuard<'_, HashSet<H>> {
        let index = usize::from(id.as_bytes()[1]) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contains(&self, id: &H) -> bool {
        self.shard(id).contains(id)
    }

    pub(super) fn insert(&self, id: &H) {
        let mut shard = self.shard(id);
        if shard.len() >= SHARD_LIMIT {
            shard.clear();
            self.forgot.store(true, Ordering::Relaxed);
        }
        shard.insert(id.clone());
    }

    /// Whether every id that was seen is still known.
    pub(super) fn is_complete(&self) -> bool {
        !self.forgot.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.forgot.store(true, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
