//! How long a plan takes, and which chain of nodes decides that. Knows costs and edges; ignores where costs
//! come from and how work is scheduled.
//!
//! Three things bound a run from below, and the largest counts: the longest chain of nodes that wait
//! for one another, all cpu work on all workers, and all bytes on the network. A scheduler that never
//! idles comes close to it.

use std::cmp::Reverse;

use petgraph::{Direction, algo::toposort, visit::EdgeRef};

use super::{Edge, NodeId, Plan};

/// What the nodes cost, by their number; in seconds, or in any one unit as long as only
/// the chain is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// How long a node takes when nothing holds it up; 0 for what is not done.
    pub alone: Vec<f64>,
    /// What workers spend on it.
    pub cpu: Vec<f64>,
    /// How long it has the network, if all share it.
    pub network: Vec<f64>,
    /// The number of workers.
    pub workers: usize,
}

/// What decides how long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Nodes that wait for one another.
    Chain,
    /// The workers.
    Cpu,
    /// The network.
    Network,
}

impl Bound {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Cpu => "workers",
            Self::Network => "network",
        }
    }
}

/// What bounds a run, each in the unit of the costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The longest chain, first node first. Of two that stream, the first is there because the second
    /// cannot begin or end before it.
    pub chain: Vec<NodeId>,
    /// How long the chain takes.
    pub chain_time: f64,
    /// How long all workers together take for all cpu work.
    pub cpu_time: f64,
    /// How long the network takes for all bytes.
    pub network_time: f64,
}

impl Forecast {
    /// The least time that the run takes.
    pub fn time(&self) -> f64 {
        self.chain_time.max(self.cpu_time).max(self.network_time)
    }

    /// What decides that.
    pub fn bound(&self) -> Bound {
        match self.time() {
            time if time <= self.chain_time => Bound::Chain,
            time if time <= self.cpu_time => Bound::Cpu,
            _ => Bound::Network,
        }
    }
}

/// When a node begins and ends at the earliest, and on whom that depends.
#[derive(Clone, Copy, Default)]
struct Times {
    start: f64,
    end: f64,
    start_after: Option<(NodeId, Moment)>,
    /// Whose end its own waits for; `None` if it ends when it has worked through.
    end_after: Option<NodeId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Start,
    End,
}

/// What bounds a run of `plan` at these costs. The same plan gives the same chain,
/// however its nodes are numbered.
pub fn forecast(plan: &Plan, costs: &Costs) -> Forecast {
    let sum = |all: &[f64]| all.iter().sum::<f64>();
    let mut forecast = Forecast {
        chain: Vec::new(),
        chain_time: 0.0,
        cpu_time: sum(&costs.cpu) / costs.workers.max(1) as f64,
        network_time: sum(&costs.network),
    };
    // A plan has no cycle; if it had, nothing in it would have an end.
    let Ok(order) = toposort(&plan.graph, None) else { return forecast };
    let mut times = vec![Times::default(); plan.graph.node_count()];
    for node in order {
        times[node.index()] = earliest(plan, costs, &times, node);
    }
    // Of two that end together the chain goes to the end: nothing ends before what it feeds, so only
    // what feeds nothing comes into question. The key decides between the rest, since numbers change
    // when a plan is read back.
    let ends = plan.graph.node_indices().filter(|node| is_last(plan, costs, *node));
    let last = ends.max_by(|a, b| {
        let of = |node: &NodeId| (times[node.index()].end, Reverse(plan.graph[*node].key));
        let ((end_a, key_a), (end_b, key_b)) = (of(a), of(b));
        end_a.total_cmp(&end_b).then(key_a.cmp(&key_b))
    });
    if let Some(last) = last {
        forecast.chain_time = times[last.index()].end;
        forecast.chain = chain(costs, &times, last);
    }
    forecast
}

/// Whether the node is done and nothing that is done comes after it.
fn is_last(plan: &Plan, costs: &Costs, node: NodeId) -> bool {
    let mut after = plan.graph.neighbors_directed(node, Direction::Outgoing);
    costs.alone[node.index()] > 0.0 && !after.any(|after| costs.alone[after.index()] > 0.0)
}

fn earliest(plan: &Plan, costs: &Costs, times: &[Times], node: NodeId) -> Times {
    let mut own = Times::default();
    let mut producers: Vec<_> = plan.graph.edges_directed(node, Direction::Incoming).collect();
    producers.retain(|edge| costs.alone[edge.source().index()] > 0.0);
    producers.sort_by_key(|edge| plan.graph[edge.source()].key);
    for edge in &producers {
        let before = &times[edge.source().index()];
        let (moment, at) = match edge.weight() {
            Edge::Needs => (Moment::End, before.end),
            Edge::Streams | Edge::Candidate { .. } => (Moment::Start, before.start),
        };
        if own.start_after.is_none() || at > own.start {
            (own.start, own.start_after) = (at, Some((edge.source(), moment)));
        }
    }
    own.end = own.start + costs.alone[node.index()];
    for edge in producers.iter().filter(|edge| !matches!(edge.weight(), Edge::Needs)) {
        let before = times[edge.source().index()].end;
        if before > own.end {
            (own.end, own.end_after) = (before, Some(edge.source()));
        }
    }
    own
}

/// The nodes on which the end of `last` depends.
fn chain(costs: &Costs, times: &[Times], last: NodeId) -> Vec<NodeId> {
    let mut chain = Vec::new();
    let mut next = Some((last, Moment::End));
    while let Some((node, moment)) = next {
        let own = &times[node.index()];
        if costs.alone[node.index()] > 0.0 {
            chain.push(node);
        }
        next = match (moment, own.end_after) {
            (Moment::End, Some(producer)) => Some((producer, Moment::End)),
            _ => own.start_after,
        };
    }
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        Kind, State,
        sample::{self, Sample},
    };

    /// Costs by kind.
    fn costs(plan: &Plan, of: impl Fn(Kind) -> f64) -> Costs {
        let needed =
            |node: &crate::graph::Node| if node.state == State::Needed { of(node.kind) } else { 0.0 };
        let alone: Vec<f64> = plan.graph.node_weights().map(needed).collect();
        let count = alone.len();
        Costs { alone, cpu: vec![0.0; count], network: vec![0.0; count], workers: 2 }
    }

    fn kinds(plan: &Plan, forecast: &Forecast) -> Vec<Kind> {
        forecast.chain.iter().map(|node| plan.graph[*node].kind).collect()
    }

    #[test]
    fn streams_overlap_and_needs_do_not() {
        let plan = sample::two_images();
        let fetch_bound = forecast(&plan, &costs(&plan, |kind| if kind == Kind::Fetch { 10.0 } else { 1.0 }));
        // Everything of the layer ends with the fetch; finalize, image, config, manifest and tag follow.
        assert_eq!(fetch_bound.chain_time, 10.0 + 5.0);
        let cpu_bound = forecast(&plan, &costs(&plan, |kind| if kind == Kind::Split { 10.0 } else { 1.0 }));
        assert_eq!(cpu_bound.chain_time, 10.0 + 5.0);
        let ends = [Kind::Finalize, Kind::Filesystem, Kind::Config, Kind::Manifest, Kind::Tag];
        for forecast in [fetch_bound, cpu_bound] {
            let kinds = kinds(&plan, &forecast);
            assert_eq!(kinds[0], Kind::Fetch, "{kinds:?}");
            assert_eq!(kinds[kinds.len() - 5..], ends, "{kinds:?}");
        }
    }

    #[test]
    fn the_largest_bound_counts() {
        let plan = sample::two_images();
        let mut costs = costs(&plan, |_| 1.0);
        assert_eq!(forecast(&plan, &costs).bound(), Bound::Chain);
        costs.cpu[0] = 60.0;
        let cpu = forecast(&plan, &costs);
        assert_eq!((cpu.bound(), cpu.time()), (Bound::Cpu, 30.0));
        costs.network[0] = 40.0;
        assert_eq!(forecast(&plan, &costs).bound(), Bound::Network);
    }

    #[test]
    fn of_those_that_end_with_the_fetch_the_chain_takes_the_last() {
        let plan = sample::two_images();
        // Only the steps that stream have costs, and all of them end when the fetch does.
        let cost = |kind| match kind {
            Kind::Fetch => 10.0,
            Kind::Split | Kind::Write => 1.0,
            _ => 0.0,
        };
        let forecast = forecast(&plan, &costs(&plan, cost));
        assert_eq!(kinds(&plan, &forecast), [Kind::Fetch, Kind::Split, Kind::Write]);
        assert_eq!(forecast.chain_time, 10.0);
    }

    #[test]
    fn nothing_to_do_takes_no_time() {
        let stored = Sample::default()
            .layer("base", State::Stored, &[0], &[(("base.gz", 9), &[0])])
            .image("a:v1", State::Stored, &["base"])
            .plan();
        let forecast = forecast(&stored, &costs(&stored, |_| 1.0));
        assert_eq!((forecast.chain.len(), forecast.time()), (0, 0.0));
    }
}
