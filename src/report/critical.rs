//! The chain of nodes that decided how long a run took. Knows real times and edges;
//! ignores how anything is drawn.
//!
//! It is found from the end. A node that *needs* another waited for its end, and for the last of several.
//! Nodes that *stream* run together; whose time was it? Each could have ended when its own work was done,
//! counted from its first piece: busy time of a worker's step, a transfer's time without that in which it
//! was held up. The node of a stream that would have ended last by this measure was the bottleneck and
//! has the common time; those before it have the time until its first piece, those after it the time
//! since its end. A fetch that found every place for transfers taken goes on with the fetch that gave it
//! one. So the links tile the run: what lies between two of them is waiting for a worker or for memory,
//! and belongs to the one that waited.

mod gains;
mod text;

use std::cmp::Reverse;

use petgraph::{Direction, algo::toposort, visit::EdgeRef};

use super::{
    Run,
    timeline::{NodeTimes, Timeline},
};
pub(super) use text::{node_name, time};

use crate::{
    graph::{Bound, Edge, Kind, NodeId, Plan},
    render::Marks,
};

/// From this share on the workers count as all busy: between two pieces each has a short gap.
const ALL_BUSY: f64 = 0.85;

/// What decided how long a run took. Times count from the run's beginning, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct CriticalPath {
    /// How long the run took.
    pub wall_us: u64,
    /// The chain, first node first. Each begins to wait where the one before it ends.
    pub links: Vec<Link>,
    /// Time after the last node's end.
    pub after_us: u64,
    /// What bounded the run by its own costs: the chain, the workers or the network.
    pub bound: Bound,
    /// How much of the run's time its workers were busy, from 0 to 1.
    pub workers_busy: f64,
    /// How much of the run's time bytes could have come and did, from 0 to 1.
    pub network_busy: f64,
    /// Nodes outside of the chain that would have won most, and how much: only where workers or
    /// the network are the bound.
    pub others: Vec<(NodeId, u64)>,
}

/// A node's own part of the time that a run took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// The node.
    pub node: NodeId,
    /// How long it waited before its part.
    pub waited_us: u64,
    /// What for.
    pub wait: Wait,
    /// When its part began.
    pub from_us: u64,
    /// When its part ended.
    pub to_us: u64,
    /// How much of its part nothing was done for it.
    pub idle_us: u64,
    /// What it waited for then.
    pub idle: Wait,
    /// How much shorter the run would have been had the node cost one second less, or
    /// nothing if it cost less.
    pub win_us: u64,
}

/// What a node waits for when all that it needs is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Nothing: it is the first.
    Start,
    /// A place among the transfers at once.
    Download,
    /// A worker: all of them were busy.
    Worker,
    /// Memory, or what no event tells.
    Memory,
    /// A fetch, amid its part: those who take its bytes.
    Takers,
}

impl Wait {
    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "the first start",
            Self::Download => "a download slot",
            Self::Worker => "a worker",
            Self::Memory => "memory or others",
            Self::Takers => "those who take the bytes",
        }
    }
}

/// Which end of a node's time is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    First,
    End,
}

/// So many links, the longest ones, are asked what a free second would have won: each costs a
/// look at the whole graph.
const JUDGED: usize = 32;

/// What decided how long `run` took.
pub fn critical_path(run: &Run) -> CriticalPath {
    let timeline = Timeline::of(run);
    let mut links = Walk { run, timeline: &timeline, free_ends: free_ends(&run.plan, &timeline) }.links();
    let gains = gains::Gains::of(run, &timeline);
    let mut longest: Vec<&mut Link> = links.iter_mut().collect();
    longest.sort_by_key(|link| std::cmp::Reverse(link.to_us - link.from_us));
    for link in longest.into_iter().take(JUDGED) {
        link.win_us = gains.win_us(&run.plan, link.node);
    }
    let chain: Vec<NodeId> = links.iter().map(|link| link.node).collect();
    CriticalPath {
        wall_us: timeline.length_us,
        after_us: timeline.length_us - links.last().map_or(0, |link| link.to_us),
        links,
        bound: gains.bound(),
        workers_busy: timeline.busy_share(0, timeline.length_us),
        network_busy: gains.network_share(),
        others: gains.others(&run.plan, &chain),
    }
}

/// The nodes of that chain, first one first.
pub fn critical_nodes(run: &Run) -> Vec<NodeId> {
    let timeline = Timeline::of(run);
    let walk = Walk { run, timeline: &timeline, free_ends: free_ends(&run.plan, &timeline) };
    walk.links().into_iter().map(|link| link.node).collect()
}

impl Run {
    /// What is drawn over the plan: what each node did, and the chain that decided how long it took.
    pub fn marks(&self) -> Marks {
        let mut nodes = self.record.measured();
        nodes.retain(|node, _| self.plan.graph.node_weight(*node).is_some());
        Marks { critical: critical_nodes(self), nodes }
    }
}

/// When each node could have ended by itself, had those that take its bytes been quick: by its own work, or
/// by the end of what streams into it. 0 for what never began.
fn free_ends(plan: &Plan, timeline: &Timeline) -> Vec<u64> {
    let mut ends = vec![0; plan.graph.node_count()];
    // A plan has no cycle; if a file's has, nothing in it is known to wait for anything.
    let Ok(order) = toposort(&plan.graph, None) else { return ends };
    for node in order {
        let Some(times) = timeline.node(node) else { continue };
        let before = streams_into(plan, node).map(|producer| ends[producer.index()]).max();
        ends[node.index()] = alone_end(times).max(before.unwrap_or(0));
    }
    ends
}

fn alone_end(times: &NodeTimes) -> u64 {
    times.first_us.saturating_add(times.own_us)
}

fn streams_into(plan: &Plan, node: NodeId) -> impl Iterator<Item = NodeId> {
    let edges = plan.graph.edges_directed(node, Direction::Incoming);
    edges.filter(|edge| !matches!(edge.weight(), Edge::Needs)).map(|edge| edge.source())
}

struct Walk<'a> {
    run: &'a Run,
    timeline: &'a Timeline,
    free_ends: Vec<u64>,
}

impl Walk<'_> {
    /// The chain, from the node that ended last back to one that waited for none.
    fn links(&self) -> Vec<Link> {
        let plan = &self.run.plan;
        let began = plan.graph.node_indices().filter_map(|node| Some((node, self.timeline.node(node)?)));
        // Of several that end together, one that feeds no other.
        let feeds =
            |node: NodeId| plan.graph.neighbors(node).any(|after| self.timeline.node(after).is_some());
        let last =
            began.max_by_key(|(node, times)| (times.end_us, !feeds(*node), Reverse(plan.graph[*node].key)));
        let Some((mut node, times)) = last else { return Vec::new() };
        let (mut until, mut moment) = (times.end_us, Moment::End);
        let mut links: Vec<Link> = Vec::new();
        // A file's plan may have a cycle.
        while links.len() <= plan.graph.node_count() {
            let Some(times) = self.timeline.node(node) else { break };
            let bottleneck = if moment == Moment::End { self.bottleneck(node, times) } else { None };
            let (from, next) = match bottleneck {
                Some((producer, end)) => (end.min(until), Some((producer, Moment::End, end))),
                None => (times.first_us.min(until), self.started_after(node)),
            };
            let waits_from = match next {
                Some((_, Moment::End, end)) => end.min(from),
                Some((_, Moment::First, _)) => from,
                None => 0,
            };
            links.push(self.link(node, waits_from, from, until));
            let Some((producer, at, _)) = next else { break };
            (node, moment, until) = (producer, at, waits_from);
        }
        links.reverse();
        links
    }

    /// The one whose bytes a node had to wait for to the end, and when that ended; `None`
    /// if it was slower itself.
    fn bottleneck(&self, node: NodeId, times: &NodeTimes) -> Option<(NodeId, u64)> {
        let plan = &self.run.plan;
        streams_into(plan, node)
            .filter(|producer| self.free_ends[producer.index()] > alone_end(times))
            .filter_map(|producer| Some((producer, self.timeline.node(producer)?.end_us)))
            // Of several that the same one held up, the one that ended last is nearest.
            .max_by_key(|(producer, end_us)| {
                (self.free_ends[producer.index()], *end_us, Reverse(plan.graph[*producer].key))
            })
    }

    /// After which moment of which node the first work on `node` could be done.
    fn started_after(&self, node: NodeId) -> Option<(NodeId, Moment, u64)> {
        let plan = &self.run.plan;
        let edges = plan.graph.edges_directed(node, Direction::Incoming).filter_map(|edge| {
            let times = self.timeline.node(edge.source())?;
            Some(match edge.weight() {
                Edge::Needs => (edge.source(), Moment::End, times.end_us),
                Edge::Streams | Edge::Candidate { .. } => (edge.source(), Moment::First, times.first_us),
            })
        });
        edges.chain(self.candidate_before(node)).chain(self.place_before(node)).max_by_key(
            |(producer, moment, at)| (*at, *moment == Moment::End, Reverse(plan.graph[*producer].key)),
        )
    }

    /// A candidate begins when the one before it has failed.
    fn candidate_before(&self, node: NodeId) -> Option<(NodeId, Moment, u64)> {
        let plan = &self.run.plan;
        let rank = |edge: &Edge| match edge {
            Edge::Candidate { rank } => Some(*rank),
            Edge::Needs | Edge::Streams => None,
        };
        let own = plan.graph.edges(node).find_map(|edge| Some((edge.target(), rank(edge.weight())?)))?;
        let began = self.timeline.node(node)?.first_us;
        let rivals = plan.graph.edges_directed(own.0, Direction::Incoming).filter_map(|edge| {
            let end_us = self.timeline.node(edge.source())?.end_us;
            let earlier = rank(edge.weight()).is_some_and(|rank| rank < own.1);
            (earlier && end_us <= began).then_some((edge.source(), Moment::End, end_us))
        });
        rivals.max_by_key(|rival| (rival.2, Reverse(plan.graph[rival.0].key)))
    }

    /// A fetch that found all places taken began when another fetch ended.
    fn place_before(&self, node: NodeId) -> Option<(NodeId, Moment, u64)> {
        let began = self.timeline.node(node)?.first_us;
        if self.run.plan.graph[node].kind != Kind::Fetch || self.wait(node, 0, began) != Wait::Download {
            return None;
        }
        let ended = self.timeline.network.iter().flatten().filter(|other| other.end_us <= began);
        let last = ended.max_by_key(|other| (other.end_us, Reverse(self.run.plan.graph[other.node].key)))?;
        Some((last.node, Moment::End, last.end_us))
    }

    fn link(&self, node: NodeId, waits_from: u64, from_us: u64, to_us: u64) -> Link {
        let worked_us = self.timeline.node(node).map_or(0, |times| times.worked_us(from_us, to_us));
        Link {
            node,
            waited_us: from_us - waits_from,
            wait: if waits_from == 0 { Wait::Start } else { self.wait(node, waits_from, from_us) },
            from_us,
            to_us,
            idle_us: (to_us - from_us).saturating_sub(worked_us),
            idle: match self.run.plan.graph[node].kind {
                Kind::Fetch => Wait::Takers,
                _ => self.wait(node, from_us, to_us),
            },
            win_us: 0,
        }
    }

    /// What a node waited for at that time.
    fn wait(&self, node: NodeId, from_us: u64, to_us: u64) -> Wait {
        if self.run.plan.graph[node].kind == Kind::Fetch {
            // Just before, since there was room right after.
            let full =
                self.timeline.transfers_at(to_us.saturating_sub(1)) >= self.run.head.limits.downloads.max(1);
            return if full { Wait::Download } else { Wait::Memory };
        }
        match self.timeline.busy_share(from_us, to_us) > ALL_BUSY {
            true => Wait::Worker,
            false => Wait::Memory,
        }
    }
}

#[cfg(test)]
mod tests;
