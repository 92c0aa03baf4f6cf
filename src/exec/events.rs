//! What happens while a graph runs, as one stream. Knows nodes by id; ignores who listens.

use std::{sync::Arc, time::Instant};

use crate::types::NodeId;

/// One thing that happened. Order per node: `Started`, any `Progress`, then one of the ends.
#[derive(Debug, Clone)]
pub enum Event {
    /// Work on the node began.
    Started(NodeId),
    /// `bytes` more have passed through the node (compressed ones for a fetch, tar bytes for a split, bytes
    /// of new objects for a write).
    Progress {
        /// The node.
        node: NodeId,
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// The node starts over: a candidate failed, or the same blob is read in another way.
    Restarted(NodeId),
    /// The node has ended well.
    Finished(NodeId),
    /// The node failed; the text is one line for people.
    Failed(NodeId, Arc<str>),
    /// Nobody wants the node any more.
    Cancelled(NodeId),
}

impl Event {
    /// The node to which it happened.
    pub fn node(&self) -> NodeId {
        match self {
            Event::Started(node)
            | Event::Progress { node, .. }
            | Event::Restarted(node)
            | Event::Finished(node)
            | Event::Failed(node, _)
            | Event::Cancelled(node) => *node,
        }
    }
}

/// A piece of cpu work that was done for a node.
#[derive(Debug, Clone, Copy)]
pub struct Worked {
    /// The node.
    pub node: NodeId,
    /// The worker's number, from 0.
    pub worker: usize,
    /// When it began.
    pub start: Instant,
    /// When it ended.
    pub end: Instant,
}

/// Receives events; called from any thread, must be quick.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// Takes note of a piece of work; comes for every piece, some thousand a second.
    fn worked(&self, _: Worked) {}

    /// Takes note that `number` more of `what` were counted in a node.
    fn counted(&self, _: NodeId, _what: &'static str, _number: u64) {}

    /// Takes a line for people about a node: what it waits for, what is tried again.
    fn noted(&self, _: NodeId, _text: &str) {}
}

/// Listens to nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}
