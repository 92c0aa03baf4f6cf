//! Ending a run in good order: what runs may go on, and what depends on nothing else; the rest ends at once.
//! Knows which nodes can still be done; ignores why the run shall end.

use petgraph::{Direction, algo::toposort, visit::EdgeRef};

use super::{Run, Shared, Stage, State, Status, Told};
use crate::types::{Edge, NodeId};

impl Run {
    /// Admits nothing new: what runs may go on, and with it what depends only on nodes that are done or go on
    /// too. The run ends as soon as nothing can go on; [`Run::interrupt`] ends it at once.
    pub fn drain(&self) {
        let mut state = self.0.lock();
        state.interrupted = true;
        if state.stage != Stage::Open {
            return;
        }
        state.stage = Stage::Draining;
        let mut told = self.0.admit_no_more(&mut state);
        told.cancels.push(self.0.draining.clone());
        self.0.tell(state, told);
    }
}

impl Shared {
    /// Cancels every node that has not begun and does not live on what goes on.
    fn admit_no_more(&self, state: &mut State) -> Told {
        let mut told = Told::default();
        // Without cycles there is an order: that was seen to when the run was made.
        let order = toposort(&self.graph, None).unwrap_or_default();
        let mut survives = vec![false; self.graph.node_count()];
        for node in order {
            let begun = state.status[node.index()] == Status::Running;
            let lives = |producer: NodeId| survives[producer.index()];
            survives[node.index()] = match state.status[node.index()] {
                Status::Done => true,
                Status::Failed | Status::Cancelled => false,
                _ if self.is_root(node) => begun,
                _ => begun || self.can_be_done(node, lives),
            };
        }
        for node in self.graph.node_indices().filter(|node| !survives[node.index()]) {
            self.cancel_node(state, node, &mut told);
        }
        let gone = told.never.clone();
        self.make_up_for(state, &gone, &mut told);
        told
    }

    /// Turns to other candidates of those that are `gone`; while the run drains, cancels
    /// what can no longer be done.
    pub(super) fn make_up_for(&self, state: &mut State, gone: &[NodeId], told: &mut Told) {
        let mut gone = gone.to_vec();
        while let Some(node) = gone.pop() {
            self.next_candidates(state, node, told);
            if state.stage != Stage::Draining {
                continue;
            }
            for consumer in self.consumers(node) {
                let lives = |producer: NodeId| {
                    !matches!(state.status[producer.index()], Status::Failed | Status::Cancelled)
                };
                // What has begun or been set off says itself when it has ended, and comes here again.
                if !self.can_be_done(consumer, lives) && self.cancel_node(state, consumer, told) {
                    gone.push(consumer);
                }
            }
        }
    }

    fn is_root(&self, node: NodeId) -> bool {
        self.graph.edges_directed(node, Direction::Incoming).next().is_none()
    }

    /// Whether `node` has all that it needs as long as those producers deliver that `live`.
    fn can_be_done(&self, node: NodeId, live: impl Fn(NodeId) -> bool) -> bool {
        let (mut candidates, mut delivers) = (false, false);
        for edge in self.graph.edges_directed(node, Direction::Incoming) {
            let lives = live(edge.source());
            match edge.weight() {
                Edge::Needs | Edge::Streams if !lives => return false,
                Edge::Needs | Edge::Streams => {}
                Edge::Candidate { .. } => {
                    candidates = true;
                    delivers |= lives;
                }
            }
        }
        !candidates || delivers
    }
}
