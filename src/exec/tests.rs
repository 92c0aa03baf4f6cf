//! The scheduler on synthetic graphs, with counters instead of bytes.

mod drain;
mod random;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::types::{Edge, NodeId};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(&'static str);

type Action = Arc<dyn Fn(Ticket) + Send + Sync>;

/// Runs what the test says for a node, and otherwise just finishes it on the pool.
#[derive(Clone, Default)]
struct Script {
    actions: Arc<Mutex<BTreeMap<usize, Action>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn on(&self, node: NodeId, action: impl Fn(Ticket) + Send + Sync + 'static) {
        self.actions.lock().unwrap().insert(node.index(), Arc::new(action));
    }

    fn log(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }
}

impl Work for Script {
    fn start(&self, ticket: Ticket) {
        let action = self.actions.lock().unwrap().get(&ticket.node().index()).cloned();
        let script = self.clone();
        ticket.pool().clone().spawn(ticket.priority(), move || match action {
            Some(action) => action(ticket),
            None => {
                ticket.begin();
                script.log(format!("did {}", ticket.node().index()));
                ticket.finish(Ok(()));
            }
        });
    }
}

fn task(cost: u64, wanted_by: &[usize]) -> Task {
    Task { cost, wanted_by: wanted_by.to_vec(), initial: Initial::Needed }
}

fn standby(wanted_by: &[usize]) -> Task {
    Task { initial: Initial::Standby, ..task(1, wanted_by) }
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    jobs: usize,
}

fn bench(jobs: usize) -> Bench {
    Bench { runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap(), jobs }
}

impl Bench {
    fn run(&self, graph: Graph, goals: usize, script: &Script) -> Run {
        let pool = Pool::new(self.jobs, self.runtime.handle().clone()).unwrap();
        Run::new(graph, goals, pool, Arc::new(Silent), script.clone()).unwrap()
    }

    fn go(&self, graph: Graph, goals: usize, script: &Script) -> Outcome {
        self.run(graph, goals, script).go()
    }
}

fn layered(width: usize, depth: usize) -> Graph {
    let mut graph = Graph::new();
    let mut above: Vec<NodeId> = Vec::new();
    for _ in 0..depth {
        let row: Vec<NodeId> = (0..width).map(|_| graph.add_node(task(1, &[0]))).collect();
        for (i, node) in row.iter().enumerate() {
            for producer in above.iter().skip(i % 3) {
                graph.add_edge(*producer, *node, Edge::Needs);
            }
        }
        above = row;
    }
    graph
}

#[test]
fn every_node_runs_once_and_after_what_it_needs() {
    for jobs in [1, 2, 8, 64] {
        let (graph, script) = (layered(5, 6), Script::default());
        let outcome = bench(jobs).go(graph.clone(), 1, &script);
        assert!(outcome.goals[0].is_none() && outcome.defect.is_none(), "{outcome:?}");
        let lines = script.lines();
        assert_eq!(lines.len(), graph.node_count());
        let place = |n: NodeId| lines.iter().position(|l| *l == format!("did {}", n.index())).unwrap();
        for edge in graph.raw_edges() {
            assert!(place(edge.source()) < place(edge.target()));
        }
    }
}

#[test]
fn the_longest_way_goes_first() {
    let mut graph = Graph::new();
    let short = graph.add_node(task(5, &[0]));
    let long = graph.add_node(task(1, &[0]));
    let end = graph.add_node(task(100, &[0]));
    graph.add_edge(long, end, Edge::Needs);
    let script = Script::default();
    let gate = bench(1);
    gate.go(graph, 1, &script);
    let first = script.lines();
    assert_eq!(first[0], format!("did {}", long.index()), "before {}", short.index());
}

#[test]
fn a_failure_takes_along_only_what_nobody_else_wants() {
    let mut graph = Graph::new();
    let bad = graph.add_node(task(1, &[0]));
    let shared = graph.add_node(task(1, &[0, 1]));
    let after_bad = graph.add_node(task(1, &[0]));
    let other = graph.add_node(task(1, &[1]));
    graph.add_edge(bad, after_bad, Edge::Needs);
    graph.add_edge(shared, after_bad, Edge::Needs);
    graph.add_edge(shared, other, Edge::Needs);
    let script = Script::default();
    script.on(bad, |ticket| ticket.finish(Err(Broken("no").into())));
    let outcome = bench(2).go(graph, 2, &script);
    assert_eq!(outcome.goals[0].as_ref().map(|(n, e)| (*n, e.to_string())), Some((bad, "no".into())));
    assert!(outcome.goals[1].is_none() && outcome.defect.is_none());
    assert_eq!(script.count(&format!("did {}", after_bad.index())), 0);
    assert_eq!(script.count(&format!("did {}", other.index())), 1);
}

#[test]
fn candidates_are_tried_in_order_and_only_their_own_goals_fail() {
    let mut graph = Graph::new();
    let first = graph.add_node(task(1, &[0]));
    let second = graph.add_node(standby(&[1]));
    let third = graph.add_node(standby(&[2]));
    let consumer = graph.add_node(task(1, &[0, 1, 2]));
    for (rank, node) in [first, second, third].into_iter().enumerate() {
        graph.add_edge(node, consumer, Edge::Candidate { rank: rank as u32 });
    }
    let script = Script::default();
    let held = Arc::new(Mutex::new(None::<Ticket>));
    let slot = held.clone();
    script.on(consumer, move |ticket| {
        ticket.begin();
        // Delivered, but useless: the consumer says so after the producer has ended.
        ticket.reject(first, Broken("lies").into());
        *slot.lock().unwrap() = Some(ticket);
    });
    let log = script.clone();
    script.on(second, move |ticket| {
        log.log("second".into());
        ticket.begin();
        let consumer = held.lock().unwrap().take();
        ticket.finish(Ok(()));
        consumer.unwrap().finish(Ok(()));
    });
    let outcome = bench(1).go(graph, 3, &script);
    assert_eq!(outcome.goals[0].as_ref().map(|(n, e)| (*n, e.to_string())), Some((first, "lies".into())));
    assert!(
        outcome.goals[1].is_none() && outcome.goals[2].is_none() && outcome.defect.is_none(),
        "{outcome:?}"
    );
    assert_eq!((script.count("second"), script.count("did 2")), (1, 0));
}

#[test]
fn a_stream_can_be_asked_for_again() {
    let mut graph = Graph::new();
    let producer = graph.add_node(task(1, &[0]));
    let consumer = graph.add_node(task(1, &[0]));
    graph.add_edge(producer, consumer, Edge::Streams);
    let script = Script::default();
    let held = Arc::new(Mutex::new(None::<Ticket>));
    let (slot, log) = (held.clone(), script.clone());
    script.on(producer, move |ticket| {
        log.log("produced".into());
        ticket.begin();
        ticket.finish(Ok(()));
        if let Some(consumer) = slot.lock().unwrap().take() {
            consumer.finish(Ok(()));
        }
    });
    script.on(consumer, move |ticket| {
        ticket.begin();
        let mut slot = held.lock().unwrap();
        ticket.again(producer);
        *slot = Some(ticket);
    });
    let outcome = bench(2).go(graph, 1, &script);
    assert!(outcome.goals[0].is_none() && outcome.defect.is_none(), "{outcome:?}");
    assert_eq!(script.count("produced"), 2);
}

/// A producer far faster than its consumer, over a flow of two places.
#[test]
fn a_slow_consumer_holds_its_producer_back() {
    struct Flow {
        items: Mutex<VecDeque<usize>>,
        most: AtomicUsize,
    }
    struct Produce(Arc<Flow>, usize, Option<Ticket>, Actor);
    struct Consume(Arc<Flow>, usize, Option<Ticket>, Actor);
    const ITEMS: usize = 1000;
    impl CpuTask for Produce {
        fn step(&mut self) -> Step {
            let mut items = self.0.items.lock().unwrap();
            if items.len() >= 2 {
                return Step::Idle;
            }
            items.push_back(self.1);
            self.0.most.fetch_max(items.len(), Ordering::SeqCst);
            drop(items);
            self.1 += 1;
            self.3.wake();
            if self.1 < ITEMS {
                return Step::Again;
            }
            self.2.take().unwrap().finish(Ok(()));
            Step::Done
        }
    }
    impl CpuTask for Consume {
        fn step(&mut self) -> Step {
            let Some(item) = self.0.items.lock().unwrap().pop_front() else { return Step::Idle };
            assert_eq!(item, self.1);
            self.1 += 1;
            self.3.wake();
            if self.1 < ITEMS {
                return Step::Again;
            }
            self.2.take().unwrap().finish(Ok(()));
            Step::Done
        }
    }
    for jobs in [1, 2, 4] {
        let mut graph = Graph::new();
        let producer = graph.add_node(task(1, &[0]));
        let consumer = graph.add_node(task(1, &[0]));
        graph.add_edge(producer, consumer, Edge::Streams);
        let script = Script::default();
        let flow = Arc::new(Flow { items: Mutex::new(VecDeque::new()), most: AtomicUsize::new(0) });
        let bench = bench(jobs);
        let pool = Pool::new(jobs, bench.runtime.handle().clone()).unwrap();
        let (actor_p, actor_c) = (Actor::new(&pool, Priority::new(2)), Actor::new(&pool, Priority::new(1)));
        let (f, p, c) = (flow.clone(), actor_p.clone(), actor_c.clone());
        script.on(producer, move |ticket| {
            ticket.begin();
            p.start(Produce(f.clone(), 0, Some(ticket), c.clone()));
        });
        let (f, p, c) = (flow.clone(), actor_p.clone(), actor_c.clone());
        script.on(consumer, move |ticket| {
            ticket.begin();
            c.start(Consume(f.clone(), 0, Some(ticket), p.clone()));
        });
        let run = Run::new(graph, 1, pool, Arc::new(Silent), script.clone()).unwrap();
        let outcome = run.go();
        assert!(outcome.goals[0].is_none() && outcome.defect.is_none(), "{outcome:?}");
        assert!(flow.most.load(Ordering::SeqCst) <= 2);
    }
}

#[test]
fn an_interrupted_run_ends_and_starts_nothing_more() {
    let mut graph = Graph::new();
    let first = graph.add_node(task(1, &[0]));
    let second = graph.add_node(task(1, &[0]));
    graph.add_edge(first, second, Edge::Needs);
    let script = Script::default();
    let run_slot = Arc::new(Mutex::new(None::<Run>));
    let slot = run_slot.clone();
    script.on(first, move |ticket| {
        ticket.begin();
        slot.lock().unwrap().as_ref().unwrap().interrupt();
        assert!(ticket.cancel().is_raised());
        ticket.cancelled();
    });
    let bench = bench(2);
    let run = bench.run(graph, 1, &script);
    *run_slot.lock().unwrap() = Some(run.clone());
    let outcome = run.go();
    run_slot.lock().unwrap().take();
    assert!(outcome.interrupted && outcome.defect.is_none());
    assert_eq!(script.lines().len(), 0);
}

#[test]
fn a_node_that_forgets_to_end_is_reported_and_does_not_hang() {
    let mut graph = Graph::new();
    let node = graph.add_node(task(1, &[0]));
    let script = Script::default();
    script.on(node, drop);
    let outcome = bench(1).go(graph.clone(), 1, &script);
    assert!(outcome.goals[0].as_ref().unwrap().1.to_string().contains("defect"));

    // Kept for ever, with nothing going on: worse, and found too.
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let script = Script::default();
    script.on(node, move |ticket| keep.lock().unwrap().push(ticket));
    let outcome = bench(1).go(graph, 1, &script);
    assert!(outcome.defect.as_ref().unwrap().contains("node 0"), "{outcome:?}");
    kept.lock().unwrap().clear();
}

#[test]
fn an_inconsistent_graph_is_reported() {
    let mut graph = Graph::new();
    let (a, b) = (graph.add_node(task(1, &[0])), graph.add_node(task(1, &[0])));
    graph.add_edge(a, b, Edge::Needs);
    graph.add_edge(b, a, Edge::Needs);
    let bench = bench(1);
    let pool = Pool::new(1, bench.runtime.handle().clone()).unwrap();
    assert!(Run::new(graph, 1, pool, Arc::new(Silent), Script::default()).is_err());

    // A consumer whose only candidate never starts: nothing fails, and yet nothing can go on.
    let mut graph = Graph::new();
    let never = graph.add_node(standby(&[0]));
    let consumer = graph.add_node(task(1, &[0]));
    graph.add_edge(never, consumer, Edge::Candidate { rank: 0 });
    let outcome = bench.go(graph, 1, &Script::default());
    assert!(outcome.defect.unwrap().contains("never come"));
}

#[test]
fn a_panic_ends_the_run() {
    let mut graph = Graph::new();
    let node = graph.add_node(task(1, &[0]));
    let script = Script::default();
    script.on(node, |_ticket| panic!("a bug"));
    let outcome = bench(2).go(graph, 1, &script);
    assert!(outcome.goals[0].is_some() || outcome.defect.is_some());
}

/// Says nothing, slowly: what a busy terminal does to the thread that ends a node.
struct Slow;

impl Observer for Slow {
    fn event(&self, event: Event) {
        if matches!(event, Event::Finished(_)) {
            (0..50_000).for_each(|_| std::thread::yield_now());
        }
    }
}

#[test]
fn a_run_goes_on_while_the_end_of_its_only_node_is_being_told() {
    let mut graph = Graph::new();
    let nodes: Vec<NodeId> = (0..3).map(|_| graph.add_node(task(1, &[0]))).collect();
    for pair in nodes.windows(2) {
        graph.add_edge(pair[0], pair[1], Edge::Needs);
    }
    let (bench, script) = (bench(2), Script::default());
    let pool = Pool::new(2, bench.runtime.handle().clone()).unwrap();
    let outcome = Run::new(graph, 1, pool, Arc::new(Slow), script.clone()).unwrap().go();
    assert!(outcome.defect.is_none(), "{outcome:?}");
    assert_eq!(script.lines().len(), 3);
}

#[test]
fn a_candidate_that_is_cancelled_with_its_image_makes_room_for_the_next() {
    // `first` waits when its image fails, or runs; either way the other image's blob has to be read.
    for running in [false, true] {
        let mut graph = Graph::new();
        let bad = graph.add_node(task(1, &[0]));
        let first = graph.add_node(task(1, &[0]));
        let second = graph.add_node(standby(&[1]));
        let consumer = graph.add_node(task(1, &[0, 1]));
        graph.add_edge(first, consumer, Edge::Candidate { rank: 0 });
        graph.add_edge(second, consumer, Edge::Candidate { rank: 1 });
        if !running {
            graph.add_edge(bad, first, Edge::Needs);
        }
        let script = Script::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let seen = begun.clone();
        script.on(bad, move |ticket| {
            while running && seen.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            ticket.finish(Err(Broken("no").into()));
        });
        script.on(first, move |ticket| {
            ticket.begin();
            begun.store(1, Ordering::SeqCst);
            while !ticket.cancel().is_raised() {
                std::thread::yield_now();
            }
            ticket.cancelled();
        });
        let held = Arc::new(Mutex::new(None::<Ticket>));
        let slot = held.clone();
        script.on(consumer, move |ticket| {
            ticket.begin();
            *slot.lock().unwrap() = Some(ticket);
        });
        let log = script.clone();
        script.on(second, move |ticket| {
            log.log("second".into());
            ticket.begin();
            ticket.finish(Ok(()));
            // A consumer that was not running starts only now.
            loop {
                if let Some(consumer) = held.lock().unwrap().take() {
                    return consumer.finish(Ok(()));
                }
                std::thread::yield_now();
            }
        });
        let outcome = bench(4).go(graph, 2, &script);
        assert!(outcome.goals[0].is_some() && outcome.goals[1].is_none(), "{running} {outcome:?}");
        assert!(outcome.defect.is_none(), "{running} {outcome:?}");
        assert_eq!(script.count("second"), 1);
    }
}

#[test]
fn a_late_rejection_does_not_hit_the_next_candidate() {
    let mut graph = Graph::new();
    let first = graph.add_node(task(1, &[0]));
    let second = graph.add_node(standby(&[1]));
    let consumer = graph.add_node(task(1, &[0, 1]));
    graph.add_edge(first, consumer, Edge::Candidate { rank: 0 });
    graph.add_edge(second, consumer, Edge::Candidate { rank: 1 });
    let script = Script::default();
    let held = Arc::new(Mutex::new(None::<Ticket>));
    let slot = held.clone();
    script.on(consumer, move |ticket| {
        ticket.begin();
        *slot.lock().unwrap() = Some(ticket);
    });
    let seen = held.clone();
    script.on(first, move |ticket| {
        ticket.begin();
        while seen.lock().unwrap().is_none() {
            std::thread::yield_now();
        }
        ticket.finish(Err(Broken("the connection broke").into()));
    });
    script.on(second, move |ticket| {
        ticket.begin();
        let consumer = held.lock().unwrap().take().unwrap();
        // The consumer still chews on what the first one sent.
        consumer.reject(first, Broken("corrupt").into());
        ticket.finish(Ok(()));
        consumer.finish(Ok(()));
    });
    let outcome = bench(4).go(graph, 2, &script);
    assert!(outcome.goals[0].is_some() && outcome.goals[1].is_none(), "{outcome:?}");
    assert!(outcome.defect.is_none(), "{outcome:?}");
}
