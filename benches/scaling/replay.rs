//! The recorded pieces under the real scheduler: the same graph, actors, priorities and memory as in a pull, only that
//! a worker sleeps for as long as a piece has cost. In slow motion, so that waking up costs nothing in comparison.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cfs_dag::{
    exec::{Actor, CpuTask, Graph, Initial, Pool, Run, Silent, Step as Stepped, Task, Ticket, Work},
    types::{Account, Budget, Edge, Slice, Wake},
};

use super::{
    common::{Result, TAR_BUFFER},
    record::{self, Recorded},
};

/// How much slower than life.
const SLOW_MOTION: u32 = 10;
/// The default budget, and what a layer may have of it, as in the pull.
const MEMORY: usize = 256 << 20;
const RESERVE: usize = 9 << 20;
const KEPT: usize = 6 << 20;
const LIMIT: usize = RESERVE + (8 << 20);

/// How long the pull takes on so many workers.
pub fn replay(recorded: &Recorded, workers: usize) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let pool = Pool::new(workers, runtime.handle().clone())?;
    let (graph, work) = compile(recorded);
    let run = Run::new(graph, 1, pool, Arc::new(Silent), work)?;
    let begin = Instant::now();
    let outcome = run.go();
    let took = begin.elapsed() / SLOW_MOTION;
    match (outcome.defect, outcome.goals.into_iter().flatten().next()) {
        (None, None) => Ok(took),
        (defect, failed) => Err(format!("{defect:?} {failed:?}").into()),
    }
}

fn sleep(cost: Duration) {
    std::thread::sleep(cost * SLOW_MOTION);
}

enum Job {
    Split(Arc<Layer>),
    Write(Arc<Layer>),
    Encode(Arc<Layer>),
    /// Finalize and filesystem image.
    Piece(Duration),
}

struct Jobs(Vec<Job>);

/// One layer while it is replayed.
struct Layer {
    steps: Mutex<VecDeque<record::Step>>,
    budget: Budget,
    split: OnceLock<Actor>,
    check: OnceLock<Actor>,
    encode: OnceLock<Actor>,
    /// Hashing that is to be done, with what it keeps in memory.
    unchecked: Mutex<VecDeque<(Duration, Slice)>>,
    /// Encoding that is to be done, how many jobs it waits for, and what it keeps in memory.
    unencoded: Mutex<VecDeque<(Duration, Arc<AtomicUsize>, Slice)>>,
    /// How many of the split, the check and the jobs are under way.
    under_way: AtomicUsize,
    split_ended: AtomicBool,
    write: Mutex<Option<Ticket>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The graph that the planner makes of these images, without what costs nothing.
fn compile(recorded: &Recorded) -> (Graph, Jobs) {
    let (mut graph, mut jobs) = (Graph::new(), Vec::new());
    let budget = Budget::new(MEMORY);
    let mut add = |graph: &mut Graph, cost: u64, job: Job| {
        jobs.push(job);
        graph.add_node(Task { cost, wanted_by: vec![0], initial: Initial::Needed })
    };
    let mut finalized = Vec::new();
    for recorded in &recorded.layers {
        let steps =
            recorded.steps.iter().map(|step| record::Step { jobs: step.jobs.clone(), ..*step }).collect();
        let layer = Arc::new(Layer {
            steps: Mutex::new(steps),
            budget: budget.clone(),
            split: OnceLock::new(),
            check: OnceLock::new(),
            encode: OnceLock::new(),
            unchecked: Mutex::default(),
            unencoded: Mutex::default(),
            under_way: AtomicUsize::new(2),
            split_ended: AtomicBool::new(false),
            write: Mutex::default(),
        });
        let split = add(&mut graph, recorded.size, Job::Split(layer.clone()));
        let write = add(&mut graph, 1, Job::Write(layer.clone()));
        let encode = add(&mut graph, 1, Job::Encode(layer));
        let finalize = add(&mut graph, 1, Job::Piece(recorded.finalize));
        graph.add_edge(split, write, Edge::Streams);
        graph.add_edge(split, encode, Edge::Streams);
        for producer in [split, write, encode] {
            graph.add_edge(producer, finalize, Edge::Needs);
        }
        finalized.push(finalize);
    }
    for image in &recorded.images {
        let build = add(&mut graph, 1, Job::Piece(image.build));
        for layer in &image.layers {
            graph.update_edge(finalized[*layer], build, Edge::Needs);
        }
    }
    (graph, Jobs(jobs))
}

impl Work for Jobs {
    fn start(&self, ticket: Ticket) {
        let (pool, priority) = (ticket.pool().clone(), ticket.priority());
        ticket.begin();
        match &self.0[ticket.node().index()] {
            Job::Split(layer) => {
                let check = layer.check.get_or_init(|| Actor::new(&pool, priority.frees_memory()));
                check.start(Check(layer.clone()));
                let actor = layer.split.get_or_init(|| Actor::new(&pool, priority));
                actor.start(Split { layer: layer.clone(), account: None, ticket: Some(ticket) });
            }
            Job::Write(layer) => *lock(&layer.write) = Some(ticket),
            Job::Encode(layer) => {
                let actor = layer.encode.get_or_init(|| Actor::new(&pool, priority.frees_memory()));
                actor.start(Encode(layer.clone(), Some(ticket)));
            }
            Job::Piece(cost) => {
                let cost = *cost;
                pool.spawn(priority, move || {
                    sleep(cost);
                    ticket.finish(Ok(()));
                });
            }
        }
    }
}

impl Layer {
    fn waker(self: &Arc<Self>) -> Wake {
        let layer = Arc::downgrade(self);
        Arc::new(move || {
            if let Some(split) = layer.upgrade().as_ref().and_then(|layer| layer.split.get()) {
                split.wake();
            }
        })
    }

    /// The split, the check or a job has ended.
    fn one_less(&self) {
        if self.under_way.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(ticket) = lock(&self.write).take()
        {
            ticket.finish(Ok(()));
        }
        wake(&self.encode);
    }
}

fn wake(actor: &OnceLock<Actor>) {
    if let Some(actor) = actor.get() {
        actor.wake();
    }
}

struct Split {
    layer: Arc<Layer>,
    account: Option<Account>,
    ticket: Option<Ticket>,
}

impl CpuTask for Split {
    fn step(&mut self) -> Stepped {
        if self.account.is_none() {
            self.account = self.layer.budget.open(RESERVE, self.layer.waker());
            if let Some(account) = &self.account {
                account.limit(LIMIT);
                account.keep(KEPT);
            }
        }
        let Some(buffer) = self.account.as_ref().and_then(|account| account.buffer(TAR_BUFFER)) else {
            return Stepped::Idle;
        };
        let (Some(step), Some(ticket)) = (lock(&self.layer.steps).pop_front(), &self.ticket) else {
            self.layer.split_ended.store(true, Ordering::SeqCst);
            self.layer.one_less();
            wake(&self.layer.check);
            if let Some(ticket) = self.ticket.take() {
                ticket.finish(Ok(()));
            }
            return Stepped::Done;
        };
        sleep(step.split);
        let slice = buffer.freeze(TAR_BUFFER);
        lock(&self.layer.unchecked).push_back((step.check, slice.clone()));
        wake(&self.layer.check);
        let missing = Arc::new(AtomicUsize::new(step.jobs.len()));
        lock(&self.layer.unencoded).push_back((step.encode, missing.clone(), slice.clone()));
        for cost in step.jobs {
            self.layer.under_way.fetch_add(1, Ordering::SeqCst);
            let (layer, missing, slice) = (self.layer.clone(), missing.clone(), slice.clone());
            ticket.pool().spawn(ticket.priority().frees_memory(), move || {
                sleep(cost);
                missing.fetch_sub(1, Ordering::SeqCst);
                drop(slice);
                layer.one_less();
            });
        }
        wake(&self.layer.encode);
        Stepped::Again
    }
}

struct Check(Arc<Layer>);

impl CpuTask for Check {
    fn step(&mut self) -> Stepped {
        let ended = self.0.split_ended.load(Ordering::SeqCst);
        let next = lock(&self.0.unchecked).pop_front();
        match next {
            Some((cost, _slice)) => {
                sleep(cost);
                Stepped::Again
            }
            None if ended => {
                self.0.one_less();
                Stepped::Done
            }
            None => Stepped::Idle,
        }
    }
}

struct Encode(Arc<Layer>, Option<Ticket>);

impl CpuTask for Encode {
    fn step(&mut self) -> Stepped {
        let ended = self.0.under_way.load(Ordering::SeqCst) == 0;
        let mut waiting = lock(&self.0.unencoded);
        let ready = waiting.front().is_some_and(|(_, missing, _)| missing.load(Ordering::SeqCst) == 0);
        let next = if ready { waiting.pop_front() } else { None };
        drop(waiting);
        match next {
            Some((cost, _, _slice)) => {
                sleep(cost);
                Stepped::Again
            }
            None if ended => {
                if let Some(ticket) = self.1.take() {
                    ticket.finish(Ok(()));
                }
                Stepped::Done
            }
            None => Stepped::Idle,
        }
    }
}
