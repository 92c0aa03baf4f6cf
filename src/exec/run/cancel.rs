//! What ends before it is done, and which candidate takes its place. Knows statuses and goals; ignores
//! why something shall end.

use petgraph::{Direction, visit::EdgeRef};

use super::{Shared, Stage, State, Status, Task, Told};
use crate::{
    exec::Event,
    types::{Edge, NodeId},
};

impl Shared {
    /// Admits nothing more and cancels everything that has not ended.
    pub(super) fn stop(&self, state: &mut State) -> Told {
        state.stage = Stage::Stopped;
        self.cancel(state, |_, _| true)
    }

    /// After a run that the failure of one goal has ended: gives the reason to those that it
    /// has kept from being done.
    pub(super) fn fail_what_was_stopped(&self, state: &mut State) {
        let Some(why) = state.failed_fast.take() else { return };
        for node in self.graph.externals(Direction::Outgoing) {
            if state.status[node.index()] == Status::Cancelled {
                for goal in &self.graph[node].wanted_by {
                    state.goals[*goal].get_or_insert_with(|| (node, why.clone()));
                }
            }
        }
    }

    /// Turns to the next candidate wherever `node`, which will deliver nothing, was the one in turn.
    pub(super) fn next_candidates(&self, state: &mut State, node: NodeId, told: &mut Told) {
        for edge in self.graph.edges_directed(node, Direction::Outgoing) {
            let consumer = state.status[edge.target().index()];
            let alive = consumer == Status::Waiting || consumer.is_active();
            if alive && matches!(edge.weight(), Edge::Candidate { .. }) {
                self.next_candidate(state, edge.target(), told);
            }
        }
    }

    fn next_candidate(&self, state: &mut State, consumer: NodeId, told: &mut Told) {
        let edges = self.graph.edges_directed(consumer, Direction::Incoming);
        let mut ranked: Vec<(u32, NodeId)> = edges
            .filter_map(|e| match e.weight() {
                Edge::Candidate { rank } => Some((*rank, e.source())),
                _ => None,
            })
            .collect();
        ranked.sort();
        let in_turn =
            |status| matches!(status, Status::Waiting | Status::Started | Status::Running | Status::Done);
        if ranked.iter().any(|(_, n)| in_turn(state.status[n.index()])) {
            return;
        }
        let next = ranked.into_iter().find(|(_, n)| state.status[n.index()] == Status::Standby);
        if let Some((_, next)) = next {
            state.status[next.index()] = Status::Waiting;
            told.ready.push(next);
            if state.status[consumer.index()].is_active() {
                told.events.push(Event::Restarted(consumer));
            }
        }
    }

    pub(super) fn cancel(&self, state: &mut State, which: impl Fn(&State, &Task) -> bool) -> Told {
        let mut told = Told::default();
        let nodes: Vec<NodeId> =
            self.graph.node_indices().filter(|node| which(state, &self.graph[*node])).collect();
        for node in nodes {
            self.cancel_node(state, node, &mut told);
        }
        // A candidate is wanted by fewer than its consumer is: others may have one of their own.
        let gone = told.never.clone();
        self.make_up_for(state, &gone, &mut told);
        told
    }

    /// Cancels `node`, or tells it to end if its work is set off. Whether it has ended by that.
    pub(super) fn cancel_node(&self, state: &mut State, node: NodeId, told: &mut Told) -> bool {
        match state.status[node.index()] {
            Status::Waiting | Status::Standby => {
                state.status[node.index()] = Status::Cancelled;
                told.events.push(Event::Cancelled(node));
                told.never.push(node);
                true
            }
            Status::Started | Status::Running => {
                told.cancels.push(state.cancels[node.index()].clone());
                false
            }
            Status::Done | Status::Failed | Status::Cancelled => false,
        }
    }
}
