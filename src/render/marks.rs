//! What is drawn over a plan. Knows nodes by number; ignores where estimates and measures come from.

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
    /// When it began, from the beginning of the run; `None` if it ended without.
    pub start: Option<Duration>,
    /// When it ended; `None` if the run ended first.
    pub end: Option<Duration>,
    /// Cpu time that workers spent on it.
    pub cpu: Duration,
    /// Bytes that passed through it.
    pub bytes: u64,
    /// Real counts by name (`objects_new`, …).
    pub counts: BTreeMap<String, u64>,
    /// Why it failed, one line.
    pub error: Option<String>,
}

impl Measured {
    /// How long it took from its start to its end.
    pub fn took(&self) -> Option<Duration> {
        Some(self.end?.saturating_sub(self.start?))
    }
}
