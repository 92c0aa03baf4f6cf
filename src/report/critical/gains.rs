//! What a free second would have won: the run's own costs, forecast with and without it. Knows costs; ignores
//! when anything really happened.

use std::{cmp::Reverse, collections::HashSet};

use crate::{
    graph::{Bound, Costs, Forecast, Kind, NodeId, Plan, forecast},
    report::{Run, rates::union, timeline::Timeline},
};

/// What is taken off a node.
const FREE_US: f64 = 1e6;
/// How many nodes outside of the chain are named.
const OTHERS: usize = 3;
/// So many are tried for that: those that cost most.
const TRIED: usize = 16;

/// A run's costs, and what a model makes of them.
pub(super) struct Gains {
    /// In microseconds.
    costs: Costs,
    before: Forecast,
    wall_us: f64,
}

impl Gains {
    pub(super) fn of(run: &Run, timeline: &Timeline) -> Self {
        let count = run.plan.graph.node_count();
        let zero = || vec![0.0; count];
        let workers = timeline.workers.len().max(1);
        let mut costs = Costs { alone: zero(), cpu: zero(), network: zero(), workers };
        let mut bytes = zero();
        for did in &run.record.nodes {
            let Some(times) = timeline.nodes.get(did.node).and_then(Option::as_ref) else { continue };
            costs.alone[did.node] = times.own_us as f64;
            let spent_us = did.cpu_us.min(timeline.length_us.saturating_mul(workers as u64));
            costs.cpu[did.node] = spent_us as f64;
            if run.plan.graph[NodeId::new(did.node)].kind == Kind::Fetch {
                bytes[did.node] = did.bytes.saturating_add(did.lost_bytes) as f64;
            }
        }
        // The time in which bytes came, by their number: the transfers share one network.
        let all: f64 = bytes.iter().sum();
        if all > 0.0 {
            let network_us = network_us(timeline);
            costs.network = bytes.iter().map(|bytes| bytes / all * network_us).collect();
        }
        let before = forecast(&run.plan, &costs);
        Self { costs, before, wall_us: timeline.length_us as f64 }
    }

    pub(super) fn bound(&self) -> Bound {
        self.before.bound()
    }

    /// How much of the run's time the network was in use, from 0 to 1.
    pub(super) fn network_share(&self) -> f64 {
        (self.before.network_time / self.wall_us).min(1.0)
    }

    /// How much shorter the run would have been had `node` cost a second less; at most what it cost.
    pub(super) fn win_us(&self, plan: &Plan, node: NodeId) -> u64 {
        let at = node.index();
        let own = self.costs.alone[at];
        let before = self.before.time();
        if own <= 0.0 || before <= 0.0 {
            return 0;
        }
        let taken = own.min(FREE_US);
        // The same part of everything that it cost: half a transfer has half the network as well.
        let left = 1.0 - taken / own;
        let mut costs = self.costs.clone();
        for cost in [&mut costs.alone, &mut costs.cpu, &mut costs.network] {
            cost[at] *= left;
        }
        // A model never waits; the run did, in about the same measure everywhere.
        let won = (before - forecast(plan, &costs).time()) * self.wall_us / before;
        won.clamp(0.0, taken) as u64
    }

    /// The nodes outside of `chain` that would have won most: none where the chain itself is the bound.
    pub(super) fn others(&self, plan: &Plan, chain: &[NodeId]) -> Vec<(NodeId, u64)> {
        let cost = match self.bound() {
            Bound::Chain => return Vec::new(),
            Bound::Cpu => &self.costs.cpu,
            Bound::Network => &self.costs.network,
        };
        let chain: HashSet<NodeId> = chain.iter().copied().collect();
        let mut nodes: Vec<NodeId> = plan.graph.node_indices().filter(|node| !chain.contains(node)).collect();
        nodes.sort_by(|a, b| {
            let more = cost[b.index()].total_cmp(&cost[a.index()]);
            more.then_with(|| plan.graph[*a].key.cmp(&plan.graph[*b].key))
        });
        let tried = nodes.into_iter().take(TRIED).map(|node| (node, self.win_us(plan, node)));
        let mut won: Vec<_> = tried.filter(|(_, win_us)| *win_us > 0).collect();
        won.sort_by_key(|(_, win_us)| Reverse(*win_us));
        won.truncate(OTHERS);
        won
    }
}

/// The time in which any transfer went on, without the part in which they were held up.
fn network_us(timeline: &Timeline) -> f64 {
    let transfers = timeline.network.iter().flatten();
    let union = union(transfers.clone().map(|slice| (slice.start_us, slice.end_us)).collect());
    let (mut all, mut free) = (0.0, 0.0);
    for slice in transfers {
        let share = timeline.node(slice.node).map_or(1.0, |times| times.free_share);
        all += slice.took_us() as f64;
        free += slice.took_us() as f64 * share;
    }
    if all > 0.0 { union as f64 * free / all } else { 0.0 }
}
