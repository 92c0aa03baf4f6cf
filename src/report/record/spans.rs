//! What workers did, as a bounded list of spans. Knows workers, nodes and times by number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Gaps up to this many microseconds between two pieces of the same node are no gaps.
const GAP_US: u64 = 250;
/// With more spans than this, short ones are merged. One a worker always stays.
const MOST: usize = 1 << 14;
/// The shortest time within which all that a worker did may become one span.
const SLOT_US: u64 = 1 << 10;

/// A time in which a worker worked for one node; in JSON `[worker, node, start_us, end_us]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(usize, usize, u64, u64)", into = "(usize, usize, u64, u64)")]
pub struct Span {
    /// The worker's number, from 0.
    pub worker: usize,
    /// The node's number in the plan.
    pub node: usize,
    /// When it began, in microseconds from the recorder's beginning.
    pub start_us: u64,
    /// When it ended.
    pub end_us: u64,
}

impl From<(usize, usize, u64, u64)> for Span {
    fn from((worker, node, start_us, end_us): (usize, usize, u64, u64)) -> Self {
        Self { worker, node, start_us, end_us }
    }
}

impl From<Span> for (usize, usize, u64, u64) {
    fn from(span: Span) -> Self {
        (span.worker, span.node, span.start_us, span.end_us)
    }
}

/// Spans in the making.
pub(super) struct Spans {
    /// By worker, each in the order of time.
    workers: Vec<Vec<Span>>,
    count: usize,
    slot_us: u64,
}

impl Default for Spans {
    fn default() -> Self {
        Self { workers: Vec::new(), count: 0, slot_us: SLOT_US }
    }
}

impl Spans {
    /// Adds a piece; those of one worker come in the order of time.
    pub(super) fn add(&mut self, span: Span) {
        if self.workers.len() <= span.worker {
            self.workers.resize_with(span.worker + 1, Vec::new);
        }
        let spans = &mut self.workers[span.worker];
        let before = spans.len();
        append(spans, span);
        self.count += spans.len() - before;
        if self.count > MOST {
            self.thin_out();
        }
    }

    /// Of what begins within one slot of time only the busiest node stays, with the time of all; slots grow
    /// until half of the room is free.
    fn thin_out(&mut self) {
        loop {
            for spans in &mut self.workers {
                let slots = spans.chunk_by(|a, b| a.start_us / self.slot_us == b.start_us / self.slot_us);
                *spans = slots.filter_map(busiest).collect();
            }
            self.count = self.workers.iter().map(Vec::len).sum();
            if self.count <= (MOST / 2).max(self.workers.len()) {
                return;
            }
            self.slot_us = self.slot_us.saturating_mul(2);
        }
    }

    /// All spans by worker, then time.
    pub(super) fn list(&self) -> Vec<Span> {
        self.workers.concat()
    }
}

fn busiest(slot: &[Span]) -> Option<Span> {
    let mut by_node: BTreeMap<usize, u64> = BTreeMap::new();
    for span in slot {
        *by_node.entry(span.node).or_default() += span.end_us - span.start_us;
    }
    let (node, _) = by_node.iter().max_by_key(|(_, time)| **time)?;
    let first = slot.first()?;
    Some(Span { node: *node, end_us: first.start_us + by_node.values().sum::<u64>(), ..*first })
}

fn append(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.node == span.node && span.start_us.saturating_sub(last.end_us) <= GAP_US => {
            last.end_us = span.end_us.max(last.end_us);
        }
        _ => spans.push(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_a_row_are_one_span() {
        let mut spans = Spans::default();
        for (node, start_us, end_us) in
            [(1, 0, 100), (1, 110, 200), (2, 210, 300), (1, 300, 400), (1, 9000, 9001)]
        {
            spans.add(Span { worker: 0, node, start_us, end_us });
        }
        let list: Vec<_> = spans.list().iter().map(|span| (span.node, span.start_us, span.end_us)).collect();
        assert_eq!(list, [(1, 0, 200), (2, 210, 300), (1, 300, 400), (1, 9000, 9001)]);
    }

    #[test]
    fn no_run_is_long_enough_to_fill_memory() {
        let mut spans = Spans::default();
        for piece in 0..1_000_000_u64 {
            let (worker, node) = ((piece % 3) as usize, (piece / 3 % 5) as usize);
            spans.add(Span { worker, node, start_us: piece * 400, end_us: piece * 400 + 390 });
        }
        let list = spans.list();
        assert!((100..=MOST).contains(&list.len()), "{}", list.len());
        assert!(list.is_sorted_by_key(|span| (span.worker, span.start_us)));
        assert!(
            list.windows(2).all(|two| two[0].worker != two[1].worker || two[0].end_us <= two[1].start_us)
        );
        let busy: u64 = list.iter().map(|span| span.end_us - span.start_us).sum();
        assert!((380_000_000..=400_000_000).contains(&busy), "{busy}");
    }
}
