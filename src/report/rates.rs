//! How fast a machine was: what nodes of each kind cost by the byte. Knows plans and records;
//! ignores what is made of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{NodeOutcome, Record};
use crate::graph::{Costs, Kind, NodeId, Plan, Reason, State};

/// How much larger the objects of a layer are than its blob, before anything was measured:
/// gzip, Debian's packages.
const TYPICAL_GROWTH: f64 = 2.6;

/// What the nodes of a run cost, by kind. Rates of several runs add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// By kind.
    pub kinds: BTreeMap<String, Rate>,
    /// The network: compressed bytes, and the time in which any came.
    pub network: Rate,
    /// Compressed bytes of the layers that were made.
    pub layer_bytes: u64,
    /// Bytes of the new objects that came of them.
    pub written_bytes: u64,
}

/// What some nodes cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many there were.
    pub nodes: u64,
    /// Compressed bytes of the layers that they worked on.
    pub bytes: u64,
    /// How long they took if nothing held them up, in microseconds.
    pub alone_us: u64,
    /// Cpu time that they took.
    pub cpu_us: u64,
}

/// For each node the compressed bytes of the layers that it works on: what its cost grows with.
fn weights(plan: &Plan) -> Vec<u64> {
    let mut weights: Vec<u64> = plan.graph.node_weights().map(|node| node.cost_bytes).collect();
    let mut of_layer = BTreeMap::new();
    for layer in plan.layers() {
        let blob = layer.fetches.first().map_or(0, |fetch| plan.graph[*fetch].cost_bytes);
        for node in layer.nodes.iter().filter(|node| plan.graph[**node].kind != Kind::Fetch) {
            weights[node.index()] = blob;
        }
        of_layer.insert(layer.finalize, blob);
    }
    for node in plan.graph.node_indices().filter(|node| plan.graph[*node].kind == Kind::Filesystem) {
        let layers = plan.graph.neighbors_directed(node, petgraph::Direction::Incoming);
        weights[node.index()] = layers.filter_map(|layer| of_layer.get(&layer)).sum();
    }
    weights
}

impl Rates {
    /// What the nodes that ended well in a run cost.
    pub fn of(plan: &Plan, record: &Record) -> Self {
        let weights = weights(plan);
        let mut rates = Self::default();
        let (mut fetching, mut held_us) = (Vec::new(), 0);
        for did in record.nodes.iter().filter(|did| did.outcome == NodeOutcome::Finished) {
            let Some(node) = plan.graph.node_weight(NodeId::new(did.node)) else { continue };
            if node.state == State::Stored {
                continue;
            }
            let mut rate = Rate { nodes: 1, bytes: weights[did.node], alone_us: 0, cpu_us: did.cpu_us };
            rate.alone_us = match node.kind {
                Kind::Fetch => {
                    fetching.extend(did.start_us.zip(did.end_us));
                    held_us += did.count("held_us");
                    did.took_us().saturating_sub(did.count("held_us"))
                }
                // Waits for the barrier: no worker, but no wish of ours either.
                Kind::Tag => did.took_us(),
                _ => did.busy_us,
            };
            match node.kind {
                Kind::Fetch => rates.network.bytes += did.bytes,
                Kind::Write => {
                    rates.layer_bytes += weights[did.node];
                    rates.written_bytes += did.bytes;
                }
                _ => {}
            }
            rates.kinds.entry(node.kind.name().to_owned()).or_default().add(&rate);
        }
        let all_us: u64 = fetching.iter().map(|(start, end)| end.saturating_sub(*start)).sum();
        let free = 1.0 - held_us as f64 / all_us.max(1) as f64;
        rates.network.nodes = fetching.len() as u64;
        rates.network.alone_us = (union(fetching) as f64 * free.clamp(0.0, 1.0)) as u64;
        rates
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (kind, rate) in &other.kinds {
            self.kinds.entry(kind.clone()).or_default().add(rate);
        }
        self.network.add(&other.network);
        self.layer_bytes = self.layer_bytes.saturating_add(other.layer_bytes);
        self.written_bytes = self.written_bytes.saturating_add(other.written_bytes);
    }

    /// Whether there is anything to base an estimate on.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// About how many bytes a run of `plan` adds to the repository.
    pub fn disk_bytes(&self, plan: &Plan) -> u64 {
        // What is only made again is there.
        let needed = plan.graph.node_weights().filter(|node| {
            node.kind == Kind::Fetch && node.state == State::Needed && node.reason != Reason::Forced
        });
        let bytes: u64 = needed.map(|node| node.cost_bytes).fold(0, u64::saturating_add);
        let growth = match self.layer_bytes {
            0 => TYPICAL_GROWTH,
            layers => self.written_bytes as f64 / layers as f64,
        };
        (bytes as f64 * growth) as u64
    }

    /// What the nodes of `plan` would cost, in seconds, on so many workers. Kinds that were never seen
    /// cost what typical ones do.
    pub fn costs(&self, plan: &Plan, workers: usize) -> Costs {
        let weights = weights(plan);
        let count = plan.graph.node_count();
        let mut costs =
            Costs { alone: vec![0.0; count], cpu: vec![0.0; count], network: vec![0.0; count], workers };
        for node in plan.graph.node_indices().filter(|node| plan.graph[*node].state == State::Needed) {
            let (at, kind) = (node.index(), plan.graph[node].kind);
            let rate = self.kinds.get(kind.name()).filter(|rate| rate.alone_us > 0);
            let rate = rate.copied().unwrap_or_else(|| typical(kind));
            costs.alone[at] = rate.alone_us_for(weights[at]) / 1e6;
            costs.cpu[at] = costs.alone[at] * rate.cpu_us as f64 / rate.alone_us.max(1) as f64;
            if kind == Kind::Fetch {
                costs.network[at] = self.network.alone_us_for(weights[at]) / 1e6;
                costs.cpu[at] = 0.0;
            }
        }
        costs
    }
}

impl Rate {
    fn add(&mut self, other: &Self) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.alone_us = self.alone_us.saturating_add(other.alone_us);
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
    }

    /// Microseconds for a node of this weight: by the byte, or by the node if bytes say
    /// nothing. Never nothing at all.
    fn alone_us_for(&self, bytes: u64) -> f64 {
        let each = |all: u64| self.alone_us as f64 / all.max(1) as f64;
        let by_byte = if self.bytes > 0 { each(self.bytes) * bytes as f64 } else { each(self.nodes) };
        by_byte.max(1.0)
    }
}

/// What nodes cost before anything was measured, for ten megabytes: only good for telling
/// which chain is the longest.
fn typical(kind: Kind) -> Rate {
    let (bytes, us) = match kind {
        Kind::Fetch => (10 << 20, 400_000),
        Kind::Split => (10 << 20, 100_000),
        Kind::Write => (10 << 20, 90_000),
        Kind::Encode => (10 << 20, 10_000),
        Kind::Finalize => (10 << 20, 4_000),
        Kind::Filesystem => (10 << 20, 8_000),
        Kind::Config | Kind::Manifest => (0, 200),
        Kind::Tag => (0, 20_000),
    };
    Rate { nodes: 1, bytes, alone_us: us, cpu_us: us }
}

/// How long at least one of these times lasted.
pub(super) fn union(mut times: Vec<(u64, u64)>) -> u64 {
    times.sort_unstable();
    let (mut sum, mut until) = (0, 0);
    for (start, end) in times {
        sum += end.saturating_sub(start.max(until));
        until = until.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::forecast, render::sample, report::NodeRecord};

    #[test]
    fn overlapping_times_count_once() {
        assert_eq!(union(vec![(5, 10), (0, 3), (7, 12), (11, 12)]), 3 + 7);
        assert_eq!(union(Vec::new()), 0);
    }

    /// A run of the plan in which the layer's fetch took 6 s, 2 of them held, and its split 3 s of cpu.
    fn rates() -> (Plan, Rates) {
        let plan = sample::two_images();
        let id = |kind| {
            let mut nodes = plan.graph.node_indices();
            nodes
                .find(|n| plan.graph[*n].kind == kind && plan.graph[*n].state == State::Needed)
                .unwrap()
                .index()
        };
        let did = |kind, start_us, end_us, bytes| NodeRecord {
            node: id(kind),
            start_us: Some(start_us),
            end_us: Some(end_us),
            bytes,
            outcome: NodeOutcome::Finished,
            ..NodeRecord::default()
        };
        let mut fetch = did(Kind::Fetch, 0, 6_000_000, 12_000_000);
        fetch.counts.insert("held_us".into(), 2_000_000);
        let split = NodeRecord { cpu_us: 3_000_000, busy_us: 3_000_000, ..did(Kind::Split, 0, 6_000_000, 1) };
        let write = did(Kind::Write, 0, 6_000_000, 30_000_000);
        let record = Record { nodes: vec![fetch, split, write], ..Record::default() };
        let rates = Rates::of(&plan, &record);
        (plan, rates)
    }

    #[test]
    fn what_was_held_up_is_not_slow() {
        let (_, rates) = rates();
        assert_eq!(rates.kinds["fetch"].alone_us, 4_000_000);
        assert_eq!(rates.network.alone_us, 4_000_000);
        assert_eq!(rates.kinds["split"].alone_us, 3_000_000);
        assert_eq!((rates.layer_bytes, rates.written_bytes), (12_000_000, 30_000_000));
    }

    #[test]
    fn the_same_plan_takes_as_long_again() {
        let (plan, rates) = rates();
        let forecast = forecast(&plan, &rates.costs(&plan, 2));
        assert!((4.0..4.3).contains(&forecast.time()), "{forecast:?}");
        assert_eq!(plan.graph[forecast.chain[0]].kind, Kind::Fetch);
    }

    #[test]
    fn without_any_rate_there_is_still_a_longest_chain() {
        let plan = sample::two_images();
        let rates = Rates::default();
        assert!(rates.is_empty());
        assert!(forecast(&plan, &rates.costs(&plan, 2)).chain.len() > 5);
    }
}
