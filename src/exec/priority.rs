//! How urgent a piece of work is. Knows costs and edges; ignores what the work is.

use petgraph::{Direction, algo::toposort, graph::DiGraph};

use super::Task;
use crate::types::Edge;

/// The place of a piece of work in the queue.
///
/// The longest way to the end goes first, so that the critical path never waits for work that has time. What
/// gives memory back lies apart: see `DRAINS_PER_WORKER` in the pool for when it goes before everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    drains: bool,
    remaining: u64,
}

impl Priority {
    /// The priority of work from which the way to the end costs `remaining`, in the graph's unit.
    pub fn new(remaining: u64) -> Self {
        Self { drains: false, remaining }
    }

    /// Whether it gives memory back.
    pub(super) fn drains(self) -> bool {
        self.drains
    }

    /// The same, for work that gives memory back.
    pub fn frees_memory(self) -> Self {
        Self { drains: true, ..self }
    }
}

/// For each node its cost plus the most expensive way through its consumers; `None` if there is a cycle.
///
/// Every node counts at least 1, so that among free ones the longer chain goes first.
pub(super) fn remaining(graph: &DiGraph<Task, Edge>) -> Option<Vec<Priority>> {
    let order = toposort(graph, None).ok()?;
    let mut remaining = vec![0; graph.node_count()];
    for node in order.into_iter().rev() {
        let consumers = graph.neighbors_directed(node, Direction::Outgoing);
        let longest = consumers.map(|c| remaining[c.index()]).max().unwrap_or(0);
        remaining[node.index()] = graph[node].cost.max(1).saturating_add(longest);
    }
    Some(remaining.into_iter().map(Priority::new).collect())
}
