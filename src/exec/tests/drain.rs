//! Runs that are to end: drained, interrupted, or ended by their first failure.

use std::{collections::BTreeSet, thread};

use petgraph::{Direction, visit::EdgeRef};
use proptest::prelude::*;

use super::*;

/// What was told of each node, in order.
#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl Observer for Log {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    /// How a node ended, if that was told; it may be told once.
    fn end(&self, node: NodeId) -> Option<&'static str> {
        let events = self.0.lock().unwrap();
        let mut ends = events.iter().filter_map(|event| match event {
            Event::Finished(of) => (*of == node).then_some("finished"),
            Event::Failed(of, _) => (*of == node).then_some("failed"),
            Event::Cancelled(of) => (*of == node).then_some("cancelled"),
            _ => None,
        });
        let end = ends.next();
        assert_eq!(ends.next(), None, "{node:?} {end:?}");
        end
    }

    fn ends(&self, nodes: &[NodeId]) -> Vec<Option<&'static str>> {
        nodes.iter().map(|node| self.end(*node)).collect()
    }
}

/// A graph that waits where the test wants it to.
struct Stage {
    bench: Bench,
    script: Script,
    log: Arc<Log>,
    /// Raised by the test: what waits goes on.
    gate: Cancel,
    /// Nodes that have begun to wait.
    waiting: Arc<AtomicUsize>,
}

impl Stage {
    fn new() -> Self {
        let (log, gate) = (Arc::default(), Cancel::default());
        Self { bench: bench(2), script: Script::default(), log, gate, waiting: Arc::default() }
    }

    /// `node` begins, and finishes when the gate opens, unless it is cancelled before.
    fn holds(&self, node: NodeId) {
        let (gate, waiting) = (self.gate.clone(), self.waiting.clone());
        self.script.on(node, move |ticket| {
            ticket.begin();
            waiting.fetch_add(1, Ordering::SeqCst);
            let gate = gate.clone();
            wait(ticket, async move { gate.raised().await });
        });
    }

    /// `node` waits for a slot that never comes: it is set off and does not begin.
    fn queues(&self, node: NodeId) {
        let waiting = self.waiting.clone();
        self.script.on(node, move |ticket| {
            waiting.fetch_add(1, Ordering::SeqCst);
            wait(ticket, std::future::pending());
        });
    }

    /// `node` begins and gives up when the run drains.
    fn gives_up(&self, node: NodeId) {
        let waiting = self.waiting.clone();
        self.script.on(node, move |ticket| {
            ticket.begin();
            waiting.fetch_add(1, Ordering::SeqCst);
            let pool = ticket.pool().clone();
            pool.spawn_async(async move {
                ticket.draining().raised().await;
                ticket.cancelled();
            });
        });
    }

    fn run(&self, graph: &Graph, goals: usize) -> Run {
        let pool = Pool::new(2, self.bench.runtime.handle().clone()).unwrap();
        Run::new(graph.clone(), goals, pool, self.log.clone(), self.script.clone()).unwrap()
    }

    /// Runs until `number` nodes wait, then does `then`; the run has to end by that.
    fn go(&self, run: &Run, number: usize, then: impl FnOnce(&Run)) -> Outcome {
        thread::scope(|scope| {
            let ended = scope.spawn(|| run.go());
            while self.waiting.load(Ordering::SeqCst) < number {
                thread::yield_now();
            }
            then(run);
            let outcome = ended.join().unwrap();
            assert!(outcome.defect.is_none(), "{outcome:?}");
            outcome
        })
    }
}

/// Finishes when `until` has ended, unless it is cancelled before.
fn wait(ticket: Ticket, until: impl Future<Output = ()> + Send + 'static) {
    let pool = ticket.pool().clone();
    pool.spawn_async(async move {
        let cancel = ticket.cancel().clone();
        tokio::select! {
            biased;
            () = cancel.raised() => ticket.cancelled(),
            () = until => ticket.finish(Ok(())),
        }
    });
}

fn chain(graph: &mut Graph, nodes: &[NodeId], edge: Edge) {
    for pair in nodes.windows(2) {
        graph.add_edge(pair[0], pair[1], edge);
    }
}

#[test]
fn a_drained_run_does_what_follows_from_what_runs_and_nothing_else() {
    let mut graph = Graph::new();
    let [runs, after, queued, behind, both] = [(); 5].map(|()| graph.add_node(task(1, &[0])));
    let done = graph.add_node(Task { initial: Initial::Done, ..task(1, &[0]) });
    chain(&mut graph, &[runs, after], Edge::Needs);
    chain(&mut graph, &[done, after], Edge::Needs);
    chain(&mut graph, &[queued, behind], Edge::Streams);
    chain(&mut graph, &[after, both], Edge::Needs);
    chain(&mut graph, &[queued, both], Edge::Needs);
    let stage = Stage::new();
    stage.holds(runs);
    stage.queues(queued);
    let outcome = stage.go(&stage.run(&graph, 1), 2, |run| {
        run.drain();
        assert_eq!(stage.log.ends(&[behind, both]), [Some("cancelled"); 2], "at once");
        stage.gate.raise();
    });
    assert!(outcome.interrupted && outcome.goals[0].is_none());
    assert_eq!(stage.log.ends(&[runs, after]), [Some("finished"); 2]);
    assert_eq!(stage.log.ends(&[queued, behind, both]), [Some("cancelled"); 3]);
}

#[test]
fn a_run_that_is_drained_before_it_begins_ends_at_once() {
    let (graph, stage) = (layered(3, 3), Stage::new());
    let run = stage.run(&graph, 1);
    run.drain();
    run.drain();
    let outcome = stage.go(&run, 0, |_| ());
    assert!(outcome.interrupted);
    assert!(graph.node_indices().all(|node| stage.log.end(node) == Some("cancelled")));
}

#[test]
fn what_gives_up_while_the_run_drains_takes_along_what_lived_on_it() {
    let mut graph = Graph::new();
    let [fetch, other_fetch] = [(); 2].map(|()| graph.add_node(task(1, &[0])));
    let [split, encode, end] = [(); 3].map(|()| graph.add_node(task(1, &[0])));
    chain(&mut graph, &[fetch, split], Edge::Candidate { rank: 0 });
    chain(&mut graph, &[split, encode], Edge::Streams);
    chain(&mut graph, &[encode, end], Edge::Needs);
    chain(&mut graph, &[other_fetch, end], Edge::Needs);
    let stage = Stage::new();
    stage.gives_up(fetch);
    stage.holds(other_fetch);
    // Nothing but a cancel ends those two.
    for node in [split, encode] {
        let waiting = stage.waiting.clone();
        stage.script.on(node, move |ticket| {
            ticket.begin();
            waiting.fetch_add(1, Ordering::SeqCst);
            wait(ticket, std::future::pending());
        });
    }
    stage.go(&stage.run(&graph, 1), 4, |run| {
        run.drain();
        stage.gate.raise();
    });
    assert_eq!(stage.log.end(other_fetch), Some("finished"));
    assert_eq!(stage.log.ends(&[fetch, split, encode, end]), [Some("cancelled"); 4]);
}

#[test]
fn a_candidate_that_fails_while_the_run_drains_has_no_successor() {
    let mut graph = Graph::new();
    let first = graph.add_node(task(1, &[0]));
    let second = graph.add_node(standby(&[1]));
    let split = graph.add_node(task(1, &[0, 1]));
    chain(&mut graph, &[first, split], Edge::Candidate { rank: 0 });
    chain(&mut graph, &[second, split], Edge::Candidate { rank: 1 });
    let stage = Stage::new();
    let (gate, waiting) = (stage.gate.clone(), stage.waiting.clone());
    stage.script.on(first, move |ticket| {
        ticket.begin();
        waiting.fetch_add(1, Ordering::SeqCst);
        let (gate, pool) = (gate.clone(), ticket.pool().clone());
        pool.spawn_async(async move {
            gate.raised().await;
            ticket.finish(Err(Broken("the connection broke").into()));
        });
    });
    // It has to end by the failure of its candidate.
    let waiting = stage.waiting.clone();
    stage.script.on(split, move |ticket| {
        ticket.begin();
        waiting.fetch_add(1, Ordering::SeqCst);
        wait(ticket, std::future::pending());
    });
    let outcome = stage.go(&stage.run(&graph, 2), 2, |run| {
        run.drain();
        stage.gate.raise();
    });
    assert!(outcome.goals[0].is_some() && outcome.goals[1].is_none());
    assert_eq!(
        stage.log.ends(&[first, second, split]),
        [Some("failed"), Some("cancelled"), Some("cancelled")]
    );
}

#[test]
fn an_interrupt_cuts_what_a_drained_run_still_does() {
    let mut graph = Graph::new();
    let [runs, after] = [(); 2].map(|()| graph.add_node(task(1, &[0])));
    chain(&mut graph, &[runs, after], Edge::Needs);
    let stage = Stage::new();
    stage.holds(runs);
    let outcome = stage.go(&stage.run(&graph, 1), 1, |run| {
        run.drain();
        assert_eq!(stage.log.ends(&[runs, after]), [None; 2]);
        run.interrupt();
        run.drain();
    });
    assert!(outcome.interrupted);
    assert_eq!(stage.log.ends(&[runs, after]), [Some("cancelled"); 2]);
}

#[test]
fn the_first_failure_ends_a_run_that_is_to_fail_fast() {
    let mut graph = Graph::new();
    let [bad, visible] = [0, 1].map(|goal| graph.add_node(task(1, &[goal])));
    let [runs, waits] = [(); 2].map(|()| graph.add_node(task(1, &[2])));
    let never = graph.add_node(standby(&[1]));
    chain(&mut graph, &[runs, waits], Edge::Needs);
    chain(&mut graph, &[visible, bad], Edge::Needs);
    chain(&mut graph, &[never, visible], Edge::Candidate { rank: 1 });
    let had = graph.add_node(Task { initial: Initial::Done, ..task(1, &[1]) });
    chain(&mut graph, &[had, visible], Edge::Candidate { rank: 0 });
    let stage = Stage::new();
    stage.holds(runs);
    let waiting = stage.waiting.clone();
    stage.script.on(bad, move |ticket| {
        while waiting.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        ticket.finish(Err(Broken("no").into()));
    });
    let run = stage.run(&graph, 3);
    run.fail_fast(Broken("another failed first"));
    let outcome = stage.go(&run, 1, |_| ());
    let failures: Vec<Option<String>> =
        outcome.goals.iter().map(|goal| goal.as_ref().map(|(_, why)| why.to_string())).collect();
    assert_eq!(failures, [Some("no".into()), None, Some("another failed first".into())]);
    assert!(!outcome.interrupted);
    assert_eq!(stage.log.ends(&[runs, waits, never]), [Some("cancelled"); 3]);
}

#[test]
fn a_failure_in_a_run_that_is_interrupted_is_nobody_elses() {
    let mut graph = Graph::new();
    let [bad, other] = [0, 1].map(|goal| graph.add_node(task(1, &[goal])));
    let stage = Stage::new();
    stage.holds(other);
    let (gate, waiting) = (stage.gate.clone(), stage.waiting.clone());
    stage.script.on(bad, move |ticket| {
        ticket.begin();
        waiting.fetch_add(1, Ordering::SeqCst);
        let (gate, pool) = (gate.clone(), ticket.pool().clone());
        pool.spawn_async(async move {
            gate.raised().await;
            ticket.finish(Err(Broken("no").into()));
        });
    });
    let run = stage.run(&graph, 2);
    run.fail_fast(Broken("another failed first"));
    let outcome = stage.go(&run, 2, |run| {
        run.drain();
        stage.gate.raise();
    });
    assert!(outcome.goals[0].is_some() && outcome.goals[1].is_none() && outcome.interrupted);
    assert_eq!(stage.log.end(other), Some("finished"));
}

#[test]
fn a_candidate_in_reserve_that_is_cancelled_makes_no_room() {
    let mut graph = Graph::new();
    let bad = graph.add_node(task(1, &[0]));
    let first = graph.add_node(task(1, &[1]));
    let [second, third] = [0, 1].map(|goal| graph.add_node(standby(&[goal])));
    let split = graph.add_node(task(1, &[0, 1]));
    for (rank, node) in [first, second, third].into_iter().enumerate() {
        graph.add_edge(node, split, Edge::Candidate { rank: rank as u32 });
    }
    let stage = Stage::new();
    stage.holds(first);
    let (gate, waiting) = (stage.gate.clone(), stage.waiting.clone());
    stage.script.on(bad, move |ticket| {
        while waiting.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        ticket.finish(Err(Broken("no").into()));
        gate.raise();
    });
    stage.go(&stage.run(&graph, 2), 1, |_| ());
    assert_eq!(stage.log.ends(&[first, second, third]), [Some("finished"), Some("cancelled"), None]);
}

#[test]
fn a_stream_that_was_asked_for_again_does_not_outlive_an_interrupt() {
    let mut graph = Graph::new();
    let [producer, consumer] = [(); 2].map(|()| graph.add_node(task(1, &[0])));
    chain(&mut graph, &[producer, consumer], Edge::Streams);
    let stage = Stage::new();
    // It does not look at its cancel: it ends well, after the interrupt.
    let (gate, waiting) = (stage.gate.clone(), stage.waiting.clone());
    stage.script.on(producer, move |ticket| {
        ticket.begin();
        let (gate, pool) = (gate.clone(), ticket.pool().clone());
        pool.spawn_async(async move {
            gate.raised().await;
            ticket.finish(Ok(()));
        });
    });
    stage.script.on(consumer, move |ticket| {
        ticket.begin();
        ticket.again(producer);
        waiting.fetch_add(1, Ordering::SeqCst);
        wait(ticket, std::future::pending());
    });
    stage.go(&stage.run(&graph, 1), 1, |run| {
        run.interrupt();
        stage.gate.raise();
    });
    assert_eq!(stage.log.ends(&[producer, consumer]), [Some("finished"), Some("cancelled")]);
}

/// Numbers that depend on a seed only.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// How a node of a random graph behaves.
#[derive(Clone, Copy)]
struct Manner {
    /// How often it lets others go first: before it begins, and before it ends.
    patience: [u64; 2],
    fails: bool,
    gives_up: bool,
    root: bool,
}

/// A graph of `goals` goals with all kinds of edges.
fn random_graph(dice: &mut Dice, goals: usize) -> Graph {
    let mut graph = Graph::new();
    let count = 2 + dice.below(14) as usize;
    for _ in 0..count {
        graph.add_node(task(dice.below(5), &[]));
    }
    for to in 1..count {
        for _ in 0..dice.below(3) {
            let from = dice.below(to as u64) as usize;
            let edge = if dice.below(2) == 0 { Edge::Needs } else { Edge::Streams };
            graph.update_edge(NodeId::new(from), NodeId::new(to), edge);
        }
    }
    let mut wanted: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); count];
    for node in (0..count).rev() {
        let consumers = graph.neighbors_directed(NodeId::new(node), Direction::Outgoing);
        let mut goals_of: BTreeSet<usize> =
            consumers.flat_map(|consumer| wanted[consumer.index()].clone()).collect();
        if goals_of.is_empty() || dice.below(4) == 0 {
            goals_of.insert(dice.below(goals as u64) as usize);
        }
        wanted[node] = goals_of;
    }
    for (node, goals) in wanted.iter().enumerate() {
        graph[NodeId::new(node)].wanted_by = goals.iter().copied().collect();
    }
    // Some are reached through candidates, which share its goals between them; a candidate may need something too.
    for (consumer, goals) in wanted.iter().enumerate() {
        let goals: Vec<usize> = goals.iter().copied().collect();
        if goals.len() < 2 || dice.below(2) == 0 {
            continue;
        }
        for (rank, goals) in goals.chunks(goals.len().div_ceil(2)).enumerate() {
            let candidate = if rank == 0 { task(1, goals) } else { standby(goals) };
            let candidate = graph.add_node(candidate);
            graph.add_edge(candidate, NodeId::new(consumer), Edge::Candidate { rank: rank as u32 });
            if dice.below(3) == 0 {
                let below = graph.add_node(task(1, goals));
                graph.add_edge(below, candidate, Edge::Needs);
            }
        }
    }
    graph
}

/// Does what each node's manner says, and ends the run at some beginnings.
#[derive(Clone)]
struct Random {
    manners: Arc<Vec<Manner>>,
    begun: Arc<AtomicUsize>,
    gave_up: Arc<Mutex<BTreeSet<NodeId>>>,
    /// What has begun by itself although the run was draining.
    new: Arc<Mutex<BTreeSet<NodeId>>>,
    run: Arc<Mutex<Option<Run>>>,
    drain_at: usize,
    interrupt_at: usize,
}

impl Work for Random {
    fn start(&self, ticket: Ticket) {
        let (this, pool) = (self.clone(), ticket.pool().clone());
        pool.spawn_async(async move {
            let manner = this.manners[ticket.node().index()];
            this.go_on(&ticket, manner.patience[0]).await;
            let draining = ticket.draining().is_raised();
            if ticket.cancel().is_raised() {
                return ticket.cancelled();
            }
            if draining && manner.root {
                this.new.lock().unwrap().insert(ticket.node());
            }
            ticket.begin();
            this.go_on(&ticket, manner.patience[1]).await;
            if ticket.cancel().is_raised() {
                return ticket.cancelled();
            }
            if manner.gives_up && ticket.draining().is_raised() {
                this.gave_up.lock().unwrap().insert(ticket.node());
                return ticket.cancelled();
            }
            ticket.finish(if manner.fails { Err(Broken("no").into()) } else { Ok(()) });
        });
    }
}

impl Random {
    /// Lets others go first, then may end the run.
    async fn go_on(&self, ticket: &Ticket, patience: u64) {
        for _ in 0..patience {
            tokio::task::yield_now().await;
        }
        if ticket.cancel().is_raised() {
            return;
        }
        let begun = self.begun.fetch_add(1, Ordering::SeqCst);
        let run = self.run.lock().unwrap().clone().unwrap();
        if begun == self.drain_at {
            run.drain();
        }
        if begun == self.interrupt_at {
            run.interrupt();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whenever a run is drained, and perhaps interrupted: it ends, tells each end once, leaves nothing waiting, begins
    /// nothing new, and does what can still be done.
    #[test]
    fn a_run_that_is_drained_at_any_moment_ends_in_good_order(
        seed: u64, threads in 1..3usize, drain_at in 0..40usize, interrupt_at in 0..120usize, broken in 0..3u64,
    ) {
        let goals = 3;
        let mut dice = Dice(seed);
        let graph = random_graph(&mut dice, goals);
        let manner = |node| Manner {
            patience: [dice.below(4), dice.below(8)],
            fails: dice.below(10) < broken,
            gives_up: dice.below(5) == 0,
            root: graph.neighbors_directed(node, Direction::Incoming).next().is_none(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
        let work = Random {
            manners: Arc::new(graph.node_indices().map(manner).collect()),
            begun: Arc::default(),
            gave_up: Arc::default(),
            new: Arc::default(),
            run: Arc::default(),
            drain_at,
            interrupt_at,
        };
        let log = Arc::new(Log::default());
        let pool = Pool::new(1, runtime.handle().clone()).unwrap();
        let run = Run::new(graph.clone(), goals, pool, log.clone(), work.clone()).unwrap();
        *work.run.lock().unwrap() = Some(run.clone());
        let outcome = run.go();
        work.run.lock().unwrap().take();
        let begun = work.begun.load(Ordering::SeqCst);
        prop_assert!(outcome.defect.is_none(), "{:?}", outcome);
        prop_assert_eq!(&*work.new.lock().unwrap(), &BTreeSet::new());
        prop_assert_eq!(outcome.interrupted, begun > drain_at.min(interrupt_at));
        for node in graph.node_indices() {
            let end = log.end(node);
            let unused = graph[node].initial == Initial::Standby;
            prop_assert!(end.is_some() || unused, "{:?} has not ended", node);
            let of = |edges: fn(&Edge) -> bool| {
                let producers = graph.edges_directed(node, Direction::Incoming);
                let producers = producers.filter(move |edge| edges(edge.weight()));
                producers.map(|edge| log.end(edge.source()) == Some("finished")).collect::<Vec<bool>>()
            };
            let needs = of(|edge| *edge == Edge::Needs);
            let streams = of(|edge| *edge == Edge::Streams);
            let candidates = of(|edge| matches!(edge, Edge::Candidate { .. }));
            if end == Some("finished") {
                prop_assert!(needs.iter().all(|done| *done), "{:?} came too early", node);
            }
            let root = graph.neighbors_directed(node, Direction::Incoming).next().is_none();
            let lost = graph[node].wanted_by.iter().all(|goal| outcome.goals[*goal].is_some());
            let gave_up = work.gave_up.lock().unwrap().contains(&node);
            // With more threads, what was told to end may have ended well before it heard of it.
            let ours = threads == 1 && begun <= interrupt_at && !root && !lost && !gave_up && !unused;
            if ours && end == Some("cancelled") {
                let whole = needs.iter().chain(&streams).all(|done| *done);
                prop_assert!(
                    !whole || !(candidates.is_empty() || candidates.contains(&true)),
                    "{:?} could have been done", node
                );
            }
        }
    }
}
