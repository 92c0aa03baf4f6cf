//! What is expected of a run before it begins. Knows numbers; ignores how they were found.

use std::time::Duration;

use crate::graph::{Bound, NodeId};

/// What is expected of a run before it begins; everything in it is an estimate but the free space.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// The chain of nodes that decides how long it takes, first one first.
    pub critical: Vec<NodeId>,
    /// How long it takes and what decides that, from what earlier runs recorded; `None` before the first.
    pub time: Option<ExpectedTime>,
    /// Bytes that the repository will grow by.
    pub disk_bytes: Option<u64>,
    /// Bytes free on the repository's filesystem.
    pub free_bytes: Option<u64>,
}

/// How long a run is expected to take.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedTime {
    /// All of it.
    pub whole: Duration,
    /// What decides it.
    pub bound: Bound,
    /// The critical chain alone.
    pub chain: Duration,
    /// How many earlier runs say so.
    pub runs: usize,
}
