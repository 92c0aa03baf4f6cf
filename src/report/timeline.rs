//! A record's times, made safe to draw: who worked when, and how long each node took by itself. Knows nodes,
//! workers and times; ignores how they are shown.
//!
//! A record is read from a file, which may be damaged or made by hand: nodes that the plan does not
//! have, ends before starts, times after the end, two things at once on one worker. All of that ends
//! here, so that no view meets it.

use std::collections::BTreeMap;

use super::{NodeRecord, Run, Series};
use crate::graph::{Kind, NodeId};

/// No run has more workers; numbers beyond were not written by us.
const MOST_WORKERS: usize = 1024;
/// Times up to this are exact as a JSON number and in JavaScript: 285 years.
const LONGEST_US: u64 = 1 << 53;

/// A time in which something was done for a node; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slice {
    pub(super) start_us: u64,
    pub(super) end_us: u64,
    pub(super) node: NodeId,
}

impl Slice {
    pub(super) fn took_us(&self) -> u64 {
        self.end_us - self.start_us
    }
}

/// What one worker, or one place of several transfers at once, did: in the order of
/// time, one thing at a time.
pub(super) type Lane = Vec<Slice>;

/// When a node was worked on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeTimes {
    /// When it started.
    pub(super) start_us: u64,
    /// When the first work on it was done: for a step that streams, later than its start.
    pub(super) first_us: u64,
    /// When it ended; the end of the run if it did not.
    pub(super) end_us: u64,
    /// How long it would have taken had nothing held it up; at least 1.
    pub(super) own_us: u64,
    /// When any worker worked for it, or when bytes came, in the order of time.
    pub(super) busy: Vec<(u64, u64)>,
    /// How much of its time a fetch did not have to wait for those who take its bytes; 1 for all others.
    pub(super) free_share: f64,
}

/// A run over time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    /// How long it took; at least 1.
    pub(super) length_us: u64,
    /// By worker: its number and what it did, idle ones too.
    pub(super) workers: BTreeMap<usize, Lane>,
    /// Transfers, in as few lanes as hold them.
    pub(super) network: Vec<Lane>,
    /// What needs neither a worker nor the network: tags, which wait for the barrier.
    pub(super) others: Vec<Lane>,
    /// By the node's number; `None` if it never began.
    pub(super) nodes: Vec<Option<NodeTimes>>,
}

impl Timeline {
    /// The times of `run`.
    pub(super) fn of(run: &Run) -> Self {
        let count = run.plan.graph.node_count();
        let known = |node: usize| (node < count).then(|| NodeId::new(node));
        let length_us = length(run);
        let workers = workers(run, length_us, known);
        let mut busy = vec![Vec::new(); count];
        for slice in workers.values().flatten() {
            busy[slice.node.index()].push((slice.start_us, slice.end_us));
        }
        let mut timeline =
            Self { length_us, workers, network: Vec::new(), others: Vec::new(), nodes: vec![None; count] };
        let (mut network, mut others) = (Vec::new(), Vec::new());
        for did in &run.record.nodes {
            let Some((node, start_us)) = known(did.node).zip(did.start_us) else { continue };
            let start_us = start_us.min(length_us - 1);
            let end_us = did.end_us.unwrap_or(length_us).clamp(start_us + 1, length_us);
            let slice = Slice { start_us, end_us, node };
            let spans = merged(std::mem::take(&mut busy[did.node]));
            match run.plan.graph[node].kind {
                Kind::Fetch => network.push(slice),
                _ if spans.is_empty() && did.cpu_us == 0 => others.push(slice),
                _ => {}
            }
            timeline.nodes[did.node] = Some(NodeTimes::new(run.plan.graph[node].kind, slice, spans, did));
        }
        timeline.network = packed(network);
        timeline.others = packed(others);
        timeline
    }

    /// The times of a node, if it ever began.
    pub(super) fn node(&self, node: NodeId) -> Option<&NodeTimes> {
        self.nodes.get(node.index())?.as_ref()
    }

    /// How many workers were busy on average in each of `steps` parts of the run.
    pub(super) fn busy_workers(&self, steps: usize) -> Vec<f64> {
        let step = self.length_us as f64 / steps as f64;
        let mut sums = vec![0.0; steps];
        // What lasts for whole steps counts by its ends: a span may cover all of them.
        let mut whole = vec![0i64; steps + 1];
        for slice in self.workers.values().flatten() {
            let place = |at: u64| ((at as f64 / step) as usize).min(steps - 1);
            let (first, last) = (place(slice.start_us), place(slice.end_us));
            let until = |at: u64, place: usize| at as f64 / step - place as f64;
            sums[last] += until(slice.end_us, last);
            sums[first] -= until(slice.start_us, first);
            whole[first] += 1;
            whole[last] -= 1;
        }
        let mut now = 0;
        for (sum, change) in sums.iter_mut().zip(&whole) {
            now += change;
            *sum = (*sum + now as f64).max(0.0);
        }
        sums
    }

    /// How much of the time from `from_us` to `to_us` the workers were busy, from 0 to 1.
    pub(super) fn busy_share(&self, from_us: u64, to_us: u64) -> f64 {
        let all = self.workers.len() as f64 * to_us.saturating_sub(from_us) as f64;
        let busy: u64 = self.workers.values().flatten().map(|slice| overlap(slice, from_us, to_us)).sum();
        if all > 0.0 { busy as f64 / all } else { 0.0 }
    }

    /// How many transfers went on at a time.
    pub(super) fn transfers_at(&self, at_us: u64) -> usize {
        let covers = |slice: &&Slice| slice.start_us <= at_us && at_us < slice.end_us;
        self.network.iter().flatten().filter(covers).count()
    }
}

impl NodeTimes {
    fn new(kind: Kind, slice: Slice, spans: Vec<(u64, u64)>, did: &NodeRecord) -> Self {
        let took = slice.took_us();
        let whole = vec![(slice.start_us, slice.end_us)];
        let mut times = Self {
            start_us: slice.start_us,
            first_us: slice.start_us,
            end_us: slice.end_us,
            own_us: took,
            busy: whole,
            free_share: 1.0,
        };
        match kind {
            Kind::Fetch => {
                times.own_us = took.saturating_sub(did.count("held_us")).max(1);
                times.free_share = times.own_us as f64 / took as f64;
            }
            // Waits for the barrier: no worker's time, but its own.
            Kind::Tag => {}
            _ if spans.is_empty() && did.cpu_us == 0 => {}
            _ => {
                // What is kept of the pieces is thinned out in long runs, these sums are not.
                let kept_us = spans.iter().map(|(start, end)| end - start).sum();
                let own_us = if did.busy_us > 0 { did.busy_us.min(took) } else { kept_us };
                let first_us = did.worked_from_us.or(spans.first().map(|first| first.0));
                times.first_us = first_us.unwrap_or(slice.start_us).clamp(slice.start_us, slice.end_us - 1);
                times.own_us = own_us.max(1);
                match spans.is_empty() {
                    true => times.free_share = own_us as f64 / took as f64,
                    false => times.busy = spans,
                }
            }
        }
        times
    }

    /// From its start to its end.
    pub(super) fn took_us(&self) -> u64 {
        self.end_us - self.start_us
    }

    /// How much of the time from `from_us` to `to_us` it worked.
    pub(super) fn worked_us(&self, from_us: u64, to_us: u64) -> u64 {
        let within = |(start, end): &(u64, u64)| (*end).min(to_us).saturating_sub((*start).max(from_us));
        let busy: u64 = self.busy.iter().map(within).sum();
        (busy as f64 * self.free_share) as u64
    }
}

/// The steps of a series within the run: where each begins and ends, and what came in it by the second.
pub(super) fn rates(series: &Series, length_us: u64) -> impl Iterator<Item = (u64, u64, f64)> {
    let step = series.step_us.max(1);
    series.sums.iter().zip(0u64..).map_while(move |(sum, place)| {
        let start = step.checked_mul(place).filter(|start| *start < length_us)?;
        let end = start.saturating_add(step).min(length_us);
        // By the whole step: that the run ended within the last one does not make it faster.
        Some((start, end, *sum as f64 * 1e6 / step as f64))
    })
}

fn length(run: &Run) -> u64 {
    let record = &run.record;
    let seen = || {
        let nodes = record.nodes.iter().flat_map(|node| [node.start_us, node.end_us]).flatten();
        nodes.chain(record.spans.iter().map(|span| span.end_us)).max().unwrap_or(0)
    };
    let wall_us = if record.wall_us > 0 { record.wall_us } else { seen() };
    wall_us.clamp(1, LONGEST_US)
}

fn workers(run: &Run, length_us: u64, known: impl Fn(usize) -> Option<NodeId>) -> BTreeMap<usize, Lane> {
    let named = run.head.limits.workers.min(MOST_WORKERS);
    let mut workers: BTreeMap<usize, Lane> = (0..named).map(|worker| (worker, Lane::new())).collect();
    for span in run.record.spans.iter().filter(|span| span.worker < MOST_WORKERS) {
        let Some(node) = known(span.node) else { continue };
        let slice = Slice { start_us: span.start_us, end_us: span.end_us, node };
        workers.entry(span.worker).or_default().push(slice);
    }
    for lane in workers.values_mut() {
        *lane = one_at_a_time(std::mem::take(lane), length_us);
    }
    workers
}

/// The slices in the order of time, each after the end of the one before.
fn one_at_a_time(mut lane: Lane, length_us: u64) -> Lane {
    lane.sort_unstable();
    let mut until = 0;
    let cut = lane.into_iter().filter_map(|slice| {
        let start_us = slice.start_us.max(until);
        // A piece of less than a microsecond was still work.
        let end_us = slice.end_us.max(slice.start_us.saturating_add(1)).min(length_us);
        let slice = Slice { start_us, end_us, ..slice };
        (start_us < end_us).then(|| {
            until = end_us;
            slice
        })
    });
    cut.collect()
}

/// The slices in as few lanes as hold them, one at a time in each.
fn packed(mut slices: Vec<Slice>) -> Vec<Lane> {
    slices.sort_unstable();
    let mut lanes: Vec<Lane> = Vec::new();
    for slice in slices {
        let free = |lane: &&mut Lane| lane.last().is_none_or(|last| last.end_us <= slice.start_us);
        match lanes.iter_mut().find(free) {
            Some(lane) => lane.push(slice),
            None => lanes.push(vec![slice]),
        }
    }
    lanes
}

/// Times in order, those that touch as one.
fn merged(mut times: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    times.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (start, end) in times {
        match all.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

fn overlap(slice: &Slice, from_us: u64, to_us: u64) -> u64 {
    slice.end_us.min(to_us).saturating_sub(slice.start_us.max(from_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Span, sample_run};

    #[test]
    fn no_record_brings_a_view_down() {
        let mut run = sample_run::sample();
        for (number, node) in run.record.nodes.iter_mut().enumerate() {
            match number % 4 {
                0 => (node.start_us, node.end_us) = (node.end_us, node.start_us),
                1 => node.end_us = Some(u64::MAX),
                2 => node.node = usize::MAX - number,
                _ => node.counts = [("held_us".to_owned(), u64::MAX)].into(),
            }
        }
        let spans = [(0, 1, 50, 20), (0, 2, 10, u64::MAX), (usize::MAX, 1, 0, 1), (1, usize::MAX, 0, 1)];
        run.record.spans.extend(spans.map(Span::from));
        run.record.fetched = Series { step_us: 0, sums: vec![u64::MAX; 5] };
        let timeline = Timeline::of(&run);
        let lanes = timeline.workers.values().chain(&timeline.network).chain(&timeline.others);
        for lane in lanes {
            assert!(lane.iter().all(|s| s.start_us < s.end_us && s.end_us <= timeline.length_us));
            assert!(lane.windows(2).all(|two| two[0].end_us <= two[1].start_us), "{lane:?}");
        }
        assert_eq!(rates(&run.record.fetched, timeline.length_us).count(), 5);
    }

    #[test]
    fn the_workers_use_adds_up() {
        let timeline = Timeline::of(&sample_run::sample());
        let busy: u64 = timeline.workers.values().flatten().map(Slice::took_us).sum();
        for steps in [1, 7, 100] {
            let step = timeline.length_us as f64 / steps as f64;
            let sum: f64 = timeline.busy_workers(steps).iter().map(|busy| busy * step).sum();
            assert!((sum - busy as f64).abs() < 10.0, "{steps}: {sum} {busy}");
            assert!(timeline.busy_workers(steps).iter().all(|busy| *busy < 4.0 + 1e-6));
        }
        let share = timeline.busy_share(0, timeline.length_us);
        assert!((share * 4.0 * timeline.length_us as f64 - busy as f64).abs() < 10.0);
    }
}
