//! How urgent a node is: the longest way from it to the end. Knows costs and edges.

use petgraph::{Direction, algo::toposort, graph::DiGraph};

use super::Task;
use crate::types::Edge;

/// For each node its cost plus the most expensive way through its consumers; `None` if there is a cycle.
///
/// Every node counts at least 1, so that among free ones the longer chain goes first.
pub(super) fn remaining(graph: &DiGraph<Task, Edge>) -> Option<Vec<u64>> {
    let order = toposort(graph, None).ok()?;
    let mut remaining = vec![0; graph.node_count()];
    for node in order.into_iter().rev() {
        let consumers = graph.neighbors_directed(node, Direction::Outgoing);
        let longest = consumers.map(|c| remaining[c.index()]).max().unwrap_or(0);
        remaining[node.index()] = graph[node].cost.max(1).saturating_add(longest);
    }
    Some(remaining)
}
