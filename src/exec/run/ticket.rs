//! What a node's work holds while it is done: its way to say how it goes. Knows one node; the state
//! machine decides what follows.

use std::sync::Arc;

use super::{Shared, Stage, State, Status, Told};
use crate::{
    exec::{Cancel, Event, Failure, Pool, Priority},
    types::NodeId,
};

/// The right and the duty to do one node. A dropped ticket fails its node, so that a
/// defect cannot hang a run.
pub struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeId,
    pub(super) pool: Pool,
    pub(super) cancel: Cancel,
    /// It has not ended.
    pub(super) open: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the work on node {0} was dropped (a defect in this program, please report it)")]
struct Dropped(usize);

/// The work ended because nobody wanted it any more.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Cancelled;

impl Ticket {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How urgent it is, for [`Pool::spawn`].
    pub fn priority(&self) -> Priority {
        self.shared.priorities[self.node.index()]
    }

    /// The pool to do it on; work that is handed in there counts as this node's.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Raised when nobody wants the node any more; then end soon, with [`Ticket::cancelled`].
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Raised when the run ends in good order: what has much left to do should give up,
    /// with [`Ticket::cancelled`].
    pub fn draining(&self) -> &Cancel {
        &self.shared.draining
    }

    /// Says that the work really begins: consumers of its stream may start.
    pub fn begin(&self) {
        self.shared.begin(self.node);
    }

    /// Says that `bytes` more have passed.
    pub fn progress(&self, bytes: u64) {
        if bytes > 0 {
            self.shared.observer.event(Event::Progress { node: self.node, bytes });
        }
    }

    /// Says that `number` more of `what` were counted; what starts over is counted again.
    pub fn count(&self, what: &'static str, number: u64) {
        if number > 0 {
            self.shared.observer.counted(self.node, what, number);
        }
    }

    /// Tells people something about the node that is no event: what it waits for, what is tried again.
    pub fn note(&self, text: &str) {
        self.shared.observer.noted(self.node, text);
    }

    /// Says that the work starts over, so that its progress counts from zero again.
    pub fn restarted(&self) {
        self.shared.observer.event(Event::Restarted(self.node));
    }

    /// Ends the node.
    pub fn finish(mut self, result: Result<(), Failure>) {
        self.open = false;
        self.shared.finish(self.node, result);
    }

    /// Ends a node that nobody wants any more.
    pub fn cancelled(self) {
        self.cancel.raise();
        self.finish(Err(Cancelled.into()));
    }

    /// Says that `producer`, of this node's stream, delivered what cannot be used. It fails, even if it has
    /// ended, and the next candidate is set off; without one this node is cancelled with its last goal. If it
    /// has failed by itself meanwhile, its successor must not pay for it: then nothing happens.
    pub fn reject(&self, producer: NodeId, failure: Failure) {
        let mut state = self.shared.lock();
        if !state.status[producer.index()].flows() {
            return;
        }
        let told = self.shared.reject(&mut state, producer, failure);
        self.shared.tell(state, told);
    }

    /// Asks for the stream of `producer` once more, from its start; it has been read to its end. Nothing
    /// happens if it has failed meanwhile, or if the run is being stopped.
    pub fn again(&self, producer: NodeId) {
        let mut state = self.shared.lock();
        if !state.status[producer.index()].flows() || state.stage == Stage::Stopped {
            return;
        }
        let mut told =
            Told { events: vec![Event::Restarted(self.node), Event::Restarted(producer)], ..Told::default() };
        if state.status[producer.index()] == Status::Done {
            state.status[producer.index()] = Status::Waiting;
            told.ready.push(producer);
        } else {
            state.again.insert(producer);
        }
        self.shared.tell(state, told);
    }
}

impl Shared {
    fn reject(&self, state: &mut State, producer: NodeId, failure: Failure) -> Told {
        let running = state.status[producer.index()].is_active();
        let mut told = self.fail(state, producer, failure);
        if running {
            // Its ticket is still out: it ends by itself, and `finish` finds it cancelled.
            told.cancels.push(state.cancels[producer.index()].clone());
        }
        told
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            self.open = false;
            self.shared.finish(self.node, Err(Dropped(self.node.index()).into()));
        }
    }
}
