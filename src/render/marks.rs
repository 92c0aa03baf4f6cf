//! What is drawn over a plan. Knows what a picture can show of a run; ignores where the numbers come from.

use std::{collections::BTreeMap, time::Duration};

use crate::graph::NodeId;

/// What is drawn over a plan: an estimate before a run, what was measured after it.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// The chain of nodes that decides how long it takes, first one first.
    pub critical: Vec<NodeId>,
    /// What the nodes did; empty before a run.
    pub nodes: BTreeMap<NodeId, Measured>,
}

/// What one node did in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// `finished`, `failed`, `cancelled` or `unfinished`.
    pub outcome: &'static str,
    /// From the beginning of the run; `None` if it ended without a start.
    pub start: Option<Duration>,
    /// From the beginning of the run; `None` if it did not end.
    pub end: Option<Duration>,
    /// Cpu time that workers spent on it.
    pub cpu: Duration,
    /// Bytes that passed through it.
    pub bytes: u64,
    /// Real counts by name (`files`, `objects_new`, …).
    pub counts: BTreeMap<String, u64>,
    /// Why it failed, one line.
    pub error: Option<String>,
}

impl Measured {
    /// How long it took; `None` if it did not both start and end.
    pub fn took(&self) -> Option<Duration> {
        self.end?.checked_sub(self.start?)
    }
}
