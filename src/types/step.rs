//! Names of a graph's nodes and how two of them hang together. Knows nothing of what nodes are.

/// Names a node of one graph.
pub type NodeId = petgraph::graph::NodeIndex<u32>;

/// How two nodes hang together, from producer to consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// The consumer starts after the producer has ended.
    Needs,
    /// Producer and consumer run together over a bounded flow.
    Streams,
    /// Like `Streams`, from one of several producers, tried in the order of `rank`.
    Candidate {
        /// The place in the order, from 0.
        rank: u32,
    },
}
