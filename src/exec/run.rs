//! The state machine of a run: what is ready starts, what failed takes along only what nobody else wants, and
//! it always ends (law 6). Knows statuses and goals; how a node is done is its [`Work`]'s business.

mod cancel;
mod drain;
mod ticket;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use petgraph::{Direction, graph::DiGraph, visit::EdgeRef};

use super::{Cancel, Event, Observer, Pool, Priority, priority};
use crate::types::{Edge, NodeId};

pub use ticket::Ticket;

/// A graph to run.
pub type Graph = DiGraph<Task, Edge>;

/// What the scheduler knows of a node.
#[derive(Debug, Clone)]
pub struct Task {
    /// Estimated work, in any one unit.
    pub cost: u64,
    /// The goals that fail if this node fails. A node is cancelled when all of them have failed.
    pub wanted_by: Vec<usize>,
    /// Where it begins.
    pub initial: Initial,
}

/// Where a node begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// It has to be done.
    Needed,
    /// It is done already.
    Done,
    /// It is done only if a candidate before it fails.
    Standby,
}

/// Why a node failed; cheap to share between all goals that it takes along.
#[derive(Clone)]
pub struct Failure(pub Arc<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the nodes are done.
pub trait Work: Send + Sync + 'static {
    /// Sets off the work of a node and returns at once. The ticket says [`Ticket::begin`] when it really
    /// begins and [`Ticket::finish`] when it has ended.
    fn start(&self, ticket: Ticket);

    /// Says that a node was cancelled before it was set off: what is kept for it can go.
    fn never(&self, _: NodeId) {}
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// For each goal, why it failed, if it did.
    pub goals: Vec<Option<(NodeId, Failure)>>,
    /// Whether it was interrupted from outside.
    pub interrupted: bool,
    /// A defect of this program: nodes were left that nothing would ever have finished, or a worker panicked.
    pub defect: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    Standby,
    /// Its work is set off, but it has not begun (it waits for a download slot, say).
    Started,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl Status {
    fn is_active(self) -> bool {
        matches!(self, Status::Started | Status::Running)
    }

    fn flows(self) -> bool {
        matches!(self, Status::Running | Status::Done)
    }
}

/// What a run admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Whatever is ready.
    Open,
    /// What follows from what runs.
    Draining,
    /// Nothing.
    Stopped,
}

struct Shared {
    graph: Graph,
    priorities: Vec<Priority>,
    pool: Pool,
    observer: Arc<dyn Observer>,
    work: Box<dyn Work>,
    state: Mutex<State>,
    changed: Condvar,
    /// Raised when the run begins to drain.
    draining: Cancel,
}

struct State {
    status: Vec<Status>,
    cancels: Vec<Cancel>,
    /// Nodes that start over as soon as they have ended.
    again: BTreeSet<NodeId>,
    goals: Vec<Option<(NodeId, Failure)>>,
    /// Tickets that are out.
    out: usize,
    stage: Stage,
    interrupted: bool,
    /// Why goals are not done when another one failed first, if that is to end the run.
    fail_fast: Option<Failure>,
    /// The same, once it has ended the run.
    failed_fast: Option<Failure>,
    defect: Option<String>,
}

/// A run that can be interrupted while it goes on.
#[derive(Clone)]
pub struct Run(Arc<Shared>);

impl Run {
    /// Prepares to run `graph` with `goals` goals.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(
        graph: Graph,
        goals: usize,
        pool: Pool,
        observer: Arc<dyn Observer>,
        work: impl Work,
    ) -> Result<Self, Cycle> {
        let priorities = priority::remaining(&graph).ok_or(Cycle)?;
        pool.observe(observer.clone());
        let status = graph.node_weights().map(|task| match task.initial {
            Initial::Needed => Status::Waiting,
            Initial::Done => Status::Done,
            Initial::Standby => Status::Standby,
        });
        let state = State {
            status: status.collect(),
            cancels: graph.node_indices().map(|_| Cancel::default()).collect(),
            again: BTreeSet::new(),
            goals: vec![None; goals],
            out: 0,
            stage: Stage::Open,
            interrupted: false,
            fail_fast: None,
            failed_fast: None,
            defect: None,
        };
        let shared = Shared {
            graph,
            priorities,
            pool,
            observer,
            work: Box::new(work),
            state: Mutex::new(state),
            changed: Condvar::new(),
            draining: Cancel::default(),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Has the first goal that fails end the run: what is not done then fails with `why`.
    pub fn fail_fast(&self, why: impl Into<Failure>) {
        self.0.lock().fail_fast = Some(why.into());
    }

    /// Runs to the end; blocks the calling thread, which must be none of the pool's.
    pub fn go(&self) -> Outcome {
        let watcher = Arc::downgrade(&self.0);
        self.0.pool.watch(move |panic| {
            let Some(shared) = watcher.upgrade() else { return };
            if let Some(message) = panic {
                Run(shared.clone()).abort(format!("a worker panicked: {message}"));
            }
            // The lock orders this with the waiter's look at the pool: no wake-up is lost.
            drop(shared.lock());
            shared.changed.notify_all();
        });
        self.0.start_ready(self.0.graph.node_indices());
        let mut state = self.0.lock();
        loop {
            // A piece whose node has ended may still hold what the caller is about to take down.
            let quiet = self.0.pool.is_quiet();
            if state.out == 0 && quiet {
                break;
            }
            if quiet {
                let stuck = self.describe(&state, |status| status.is_active());
                drop(state);
                self.abort(format!("scheduler stalled, unfinished nodes: {stuck}"));
                state = self.0.lock();
                if self.0.pool.is_quiet() {
                    break;
                }
                continue;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.defect.is_none() && state.status.contains(&Status::Waiting) {
            let stuck = self.describe(&state, |status| status == Status::Waiting);
            state.defect = Some(format!("nodes wait for what will never come: {stuck}"));
        }
        self.0.fail_what_was_stopped(&mut state);
        Outcome {
            goals: std::mem::take(&mut state.goals),
            interrupted: state.interrupted,
            defect: state.defect.take(),
        }
    }

    /// Stops admitting work; what runs is told to end, what is committed stands.
    pub fn interrupt(&self) {
        let mut state = self.0.lock();
        state.interrupted = true;
        let told = self.0.stop(&mut state);
        self.0.tell(state, told);
    }

    fn abort(&self, defect: String) {
        let mut state = self.0.lock();
        state.defect.get_or_insert(defect);
        let told = self.0.stop(&mut state);
        self.0.tell(state, told);
    }

    fn describe(&self, state: &State, which: impl Fn(Status) -> bool) -> String {
        let mut lines = Vec::new();
        for node in self.0.graph.node_indices().filter(|n| which(state.status[n.index()])) {
            let producers = self.0.graph.edges_directed(node, Direction::Incoming);
            let producers: Vec<String> = producers
                .map(|e| {
                    format!("{} {:?} {:?}", e.source().index(), e.weight(), state.status[e.source().index()])
                })
                .collect();
            lines.push(format!(
                "node {} {:?} after [{}]",
                node.index(),
                state.status[node.index()],
                producers.join(", ")
            ));
        }
        lines.join("; ")
    }
}

/// The graph has a cycle, so nothing in it could ever start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the graph has a cycle")]
pub struct Cycle;

/// What an action asks for once the lock is gone.
#[derive(Default)]
struct Told {
    events: Vec<Event>,
    cancels: Vec<Cancel>,
    /// Nodes that may be able to start now.
    ready: Vec<NodeId>,
    /// Nodes that were cancelled before they started.
    never: Vec<NodeId>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks and does what is asked for. The tickets of what follows are out before the lock is gone, so
    /// that nobody sees a run without tickets that is not over.
    fn tell(self: &Arc<Self>, mut state: MutexGuard<'_, State>, told: Told) {
        let tickets = self.claim(&mut state, told.ready.into_iter());
        // We may be on a thread that the pool does not count: it must not look quiet before all is told.
        let _busy = self.pool.busy();
        drop(state);
        for event in told.events {
            self.observer.event(event);
        }
        for cancel in told.cancels {
            cancel.raise();
        }
        for node in told.never {
            self.work.never(node);
        }
        for ticket in tickets {
            self.work.start(ticket);
        }
        self.changed.notify_all();
    }

    fn consumers(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        self.graph.neighbors_directed(node, Direction::Outgoing)
    }

    /// Starts those of `nodes` that can start, most urgent first.
    fn start_ready(self: &Arc<Self>, nodes: impl Iterator<Item = NodeId>) {
        let tickets = self.claim(&mut self.lock(), nodes);
        for ticket in tickets {
            self.work.start(ticket);
        }
    }

    /// The tickets of those of `nodes` that can start, most urgent first.
    fn claim(self: &Arc<Self>, state: &mut State, nodes: impl Iterator<Item = NodeId>) -> Vec<Ticket> {
        if state.stage == Stage::Stopped {
            return Vec::new();
        }
        let mut ready: Vec<NodeId> = nodes.filter(|n| self.is_ready(state, *n)).collect();
        ready.sort_by_key(|n| (std::cmp::Reverse(self.priorities[n.index()]), n.index()));
        ready.dedup();
        let mut tickets = Vec::new();
        for node in ready {
            state.status[node.index()] = Status::Started;
            state.out += 1;
            let cancel = state.cancels[node.index()].clone();
            let pool = self.pool.on_behalf_of(node);
            tickets.push(Ticket { shared: self.clone(), node, pool, cancel, open: true });
        }
        tickets
    }

    fn is_ready(&self, state: &State, node: NodeId) -> bool {
        if state.status[node.index()] != Status::Waiting {
            return false;
        }
        let (mut candidates, mut flowing) = (false, false);
        for edge in self.graph.edges_directed(node, Direction::Incoming) {
            let producer = state.status[edge.source().index()];
            let ok = match edge.weight() {
                Edge::Needs => producer == Status::Done,
                Edge::Streams => producer.flows(),
                Edge::Candidate { .. } => {
                    candidates = true;
                    flowing |= producer.flows();
                    true
                }
            };
            if !ok {
                return false;
            }
        }
        !candidates || flowing
    }

    fn begin(self: &Arc<Self>, node: NodeId) {
        let mut state = self.lock();
        if state.status[node.index()] != Status::Started {
            return;
        }
        state.status[node.index()] = Status::Running;
        drop(state);
        self.observer.event(Event::Started(node));
        self.start_ready(self.consumers(node));
    }

    fn finish(self: &Arc<Self>, node: NodeId, result: Result<(), Failure>) {
        let mut state = self.lock();
        state.out -= 1;
        let mut told = Told::default();
        match result {
            // Rejected by its consumer while it ran: that has been told.
            _ if !state.status[node.index()].is_active() => {}
            Ok(()) if state.again.remove(&node) && state.stage != Stage::Stopped => {
                state.status[node.index()] = Status::Waiting;
                told.ready.push(node);
            }
            Ok(()) => {
                state.status[node.index()] = Status::Done;
                told.events.push(Event::Finished(node));
                told.ready.extend(self.consumers(node));
            }
            Err(_) if state.cancels[node.index()].is_raised() => {
                state.status[node.index()] = Status::Cancelled;
                told.events.push(Event::Cancelled(node));
                self.make_up_for(&mut state, &[node], &mut told);
            }
            Err(failure) => told = self.fail(&mut state, node, failure),
        }
        self.tell(state, told);
    }

    /// Fails `node` and its goals, cancels what nobody wants any more, and turns to the next candidates.
    fn fail(&self, state: &mut State, node: NodeId, failure: Failure) -> Told {
        state.status[node.index()] = Status::Failed;
        for goal in &self.graph[node].wanted_by {
            state.goals[*goal].get_or_insert_with(|| (node, failure.clone()));
        }
        if state.stage == Stage::Open && !self.graph[node].wanted_by.is_empty() {
            state.failed_fast = state.fail_fast.take();
        }
        let mut told = match state.stage {
            Stage::Open if state.failed_fast.is_some() => self.stop(state),
            _ => self.cancel(state, |state, task| {
                !task.wanted_by.is_empty() && task.wanted_by.iter().all(|goal| state.goals[*goal].is_some())
            }),
        };
        told.events.insert(0, Event::Failed(node, failure.to_string().into()));
        self.make_up_for(state, &[node], &mut told);
        told
    }
}
