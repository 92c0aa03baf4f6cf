//! What all steps of a run share. Knows nothing of the steps.

use std::sync::Arc;

use composefs::fsverity::FsVerityHashValue;
use tokio::sync::Semaphore;

use crate::{
    source::{Patience, Retries},
    store::{Commit, Store},
    types::{Budget, Limits},
};

use super::{overcommit::Lane, rate_limit::RateLimit};

/// What all steps of a run share.
pub(super) struct Context<H: FsVerityHashValue> {
    pub(super) store: Arc<Store<H>>,
    pub(super) commit: Commit<H>,
    pub(super) budget: Budget,
    pub(super) downloads: Semaphore,
    /// What is refused as hostile.
    pub(super) limits: Limits,
    /// What is stored is made again.
    pub(super) force: bool,
    /// When a transfer that failed is tried again.
    pub(super) retries: Retries,
    /// How long another program may be at work on a layer without getting on.
    pub(super) patience: Patience,
    /// For transfers from registries.
    pub(super) rate_limit: Option<RateLimit>,
    /// For image builds: a filesystem's tree is not in the budget.
    pub(super) builds: Arc<Lane>,
    /// For frames that need an unusual window.
    pub(super) windows: Arc<Lane>,
    /// The largest file that is kept in memory until its id is known, in bytes: if it is stored already, it
    /// costs no write. In an empty repository there is little hope, and to write each segment as soon as it
    /// is hashed takes less memory, and no long write at the end.
    pub(super) hash_first_max: u64,
}
