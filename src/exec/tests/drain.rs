//! Runs that are to end: drained, interrupted, or ended by their first failure.

use std::thread;

use super::*;

/// What was told of each node, in order.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<Event>>);

impl Observer for Log {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    /// How a node ended, if that was told; it may be told once.
    pub(super) fn end(&self, node: NodeId) -> Option<&'static str> {
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
