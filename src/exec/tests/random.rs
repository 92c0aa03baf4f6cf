//! Random graphs that are drained or interrupted at any moment.

use std::collections::BTreeSet;

use petgraph::{Direction, visit::EdgeRef};
use proptest::prelude::*;

use super::{drain::Log, *};

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
    // Some are reached through candidates, which share its goals between them; a
    // candidate may need something too.
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

    /// Whenever a run is drained, and perhaps interrupted: it ends, tells each end once, leaves nothing
    /// waiting, begins nothing new, and does what can still be done.
    #[test]
    fn a_run_that_is_drained_at_any_moment_ends_in_good_order(
        seed: u64, threads in 1..3usize, drain_at in 0..40usize, interrupt_at in 0..120usize,
            broken in 0..3u64,
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
