//! The record of a run: what each node did and when, on which worker, and how busy the network was. Knows
//! node numbers; their meaning is in the plan.
//!
//! Its size is bounded, however long a run is: pieces of work of one node that follow each other on one
//! worker are one [`Span`], and when there are too many spans, shorter gaps are ignored; a [`Series`] doubles
//! its steps instead of growing.

mod series;
mod spans;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use series::Series;
pub use spans::Span;

use self::spans::Spans;
use crate::{
    exec::{Event, Observer, Worked},
    graph::{ImageIx, Kind, NodeId, Plan},
    render::Measured,
};

/// What happened in a run. Fields are only added while `schema` stays the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format: 1.
    pub schema: u32,
    /// From the recorder's beginning until this record was taken, in microseconds.
    pub wall_us: u64,
    /// The nodes to which anything happened, by their number in the plan, ascending.
    pub nodes: Vec<NodeRecord>,
    /// What the workers did, by worker, then time.
    pub spans: Vec<Span>,
    /// Compressed bytes that came over time.
    pub fetched: Series,
    /// Bytes of new objects that were written over time.
    pub written: Series,
}

/// What happened to one node. Times count from the recorder's beginning, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number in the plan.
    pub node: usize,
    /// When work on it began; absent if it ended without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_us: Option<u64>,
    /// When it ended; absent if the run ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_us: Option<u64>,
    /// Time that workers spent on it, added up.
    pub cpu_us: u64,
    /// Time in which at least one worker worked for it.
    #[serde(default)]
    pub busy_us: u64,
    /// When a worker first worked for it; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_from_us: Option<u64>,
    /// When a worker last worked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_until_us: Option<u64>,
    /// Bytes that passed through it since it started over last.
    pub bytes: u64,
    /// Bytes that passed through it before it started over: work that was lost.
    #[serde(default)]
    pub lost_bytes: u64,
    /// How often it started over.
    #[serde(default)]
    pub restarts: u32,
    /// What was counted in it, by name: `objects_new`, `objects_present` (by a write), `erofs_bytes` (by an
    /// image), `held_us` (how long a fetch waited for those who take its bytes).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// How it ended.
    pub outcome: NodeOutcome,
    /// Why it failed, one line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a node ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOutcome {
    /// Not at all: the run ended first.
    #[default]
    Unfinished,
    /// Well.
    Finished,
    /// Badly.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

impl NodeOutcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Keeps the record of a run while it goes on.
pub struct Recorder {
    start: Instant,
    kinds: Vec<Kind>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<usize, NodeRecord>,
    spans: Spans,
    fetched: Series,
    written: Series,
}

impl Recorder {
    /// Keeps the record of a run of `plan`; times count from now.
    pub fn new(plan: &Plan) -> Self {
        let kinds = plan.graph.node_weights().map(|node| node.kind).collect();
        Self { start: Instant::now(), kinds, state: Mutex::default() }
    }

    /// What has happened so far.
    pub fn record(&self) -> Record {
        let state = self.lock();
        Record {
            schema: 1,
            wall_us: micros(self.start.elapsed()),
            nodes: state.nodes.values().cloned().collect(),
            spans: state.spans.list(),
            fetched: state.fetched.clone(),
            written: state.written.clone(),
        }
    }

    fn note(&self, at: Duration, event: Event) {
        let at_us = micros(at);
        let id = event.node().index();
        let mut state = self.lock();
        if let Event::Progress { bytes, .. } = event {
            match self.kinds.get(id) {
                Some(Kind::Fetch) => state.fetched.add(at_us, bytes),
                Some(Kind::Write) => state.written.add(at_us, bytes),
                _ => {}
            }
        }
        let node = state.node(id);
        match event {
            Event::Started(_) => {
                // A candidate whose bytes are wanted once more starts again after its end;
                // mostly that was told before.
                if node.end_us.is_some() && node.bytes > 0 {
                    node.restart();
                }
                node.start_us.get_or_insert(at_us);
                (node.end_us, node.outcome) = (None, NodeOutcome::Unfinished);
            }
            Event::Progress { bytes, .. } => node.bytes = node.bytes.saturating_add(bytes),
            Event::Restarted(_) => node.restart(),
            Event::Finished(_) => node.end(at_us, NodeOutcome::Finished),
            Event::Cancelled(_) => node.end(at_us, NodeOutcome::Cancelled),
            Event::Failed(_, error) => {
                node.end(at_us, NodeOutcome::Failed);
                node.error = Some(error.to_string());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&mut self, id: usize) -> &mut NodeRecord {
        self.nodes.entry(id).or_insert_with(|| NodeRecord { node: id, ..NodeRecord::default() })
    }
}

impl Observer for Recorder {
    fn event(&self, event: Event) {
        self.note(self.start.elapsed(), event);
    }

    fn worked(&self, worked: Worked) {
        let since = |moment: Instant| micros(moment.saturating_duration_since(self.start));
        let (start_us, end_us) = (since(worked.start), since(worked.end));
        let mut state = self.lock();
        state.node(worked.node.index()).worked(start_us, end_us);
        let span = Span { worker: worked.worker, node: worked.node.index(), start_us, end_us };
        state.spans.add(span);
    }

    fn counted(&self, node: NodeId, what: &'static str, number: u64) {
        let mut state = self.lock();
        let count = state.node(node.index()).counts.entry(what.to_owned()).or_default();
        *count = count.saturating_add(number);
    }
}

impl NodeRecord {
    /// Notes a piece of work; pieces come about in the order of their ends.
    fn worked(&mut self, start_us: u64, end_us: u64) {
        self.cpu_us += end_us - start_us;
        let until_us = self.worked_until_us.unwrap_or(0);
        self.busy_us += end_us.saturating_sub(start_us.max(until_us));
        self.worked_until_us = Some(end_us.max(until_us));
        self.worked_from_us = Some(self.worked_from_us.map_or(start_us, |from| from.min(start_us)));
    }

    fn restart(&mut self) {
        self.lost_bytes = self.lost_bytes.saturating_add(self.bytes);
        self.bytes = 0;
        self.restarts += 1;
    }

    fn end(&mut self, at_us: u64, outcome: NodeOutcome) {
        self.end_us = Some(at_us);
        self.outcome = outcome;
    }

    /// The same, as it is drawn over a plan.
    fn measured(&self) -> Measured {
        Measured {
            outcome: self.outcome.name(),
            start: self.start_us.map(Duration::from_micros),
            end: self.end_us.map(Duration::from_micros),
            cpu: Duration::from_micros(self.cpu_us),
            bytes: self.bytes,
            counts: self.counts.clone(),
            error: self.error.clone(),
        }
    }

    /// How long it took from its start to its end; 0 if it has not both.
    pub fn took_us(&self) -> u64 {
        self.start_us.zip(self.end_us).map_or(0, |(start, end)| end.saturating_sub(start))
    }

    /// A count by its name; 0 if nothing was counted.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

impl Record {
    /// What happened to `node`, if anything did.
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        let place = self.nodes.binary_search_by_key(&node.index(), |record| record.node);
        place.ok().and_then(|place| self.nodes.get(place))
    }

    /// What all nodes did, as it is drawn over a plan.
    pub fn measured(&self) -> BTreeMap<NodeId, Measured> {
        self.nodes.iter().map(|node| (NodeId::new(node.node), node.measured())).collect()
    }

    /// The first failure of a node that `image` wants, one line for people.
    pub fn first_failure(&self, plan: &Plan, image: ImageIx) -> Option<&str> {
        let wanted = |record: &&NodeRecord| {
            let node = plan.graph.node_weight(NodeId::new(record.node));
            record.outcome == NodeOutcome::Failed && node.is_some_and(|node| node.wanted_by.contains(&image))
        };
        let first = self.nodes.iter().filter(wanted).min_by_key(|record| (record.end_us, record.node))?;
        first.error.as_deref()
    }

    /// The same with other node numbers: `numbers` has the new one of each old one. What
    /// has none is left out.
    pub fn renumbered(mut self, numbers: &[Option<usize>]) -> Self {
        let number = |node: usize| numbers.get(node).copied().flatten();
        self.nodes = self
            .nodes
            .into_iter()
            .filter_map(|record| Some(NodeRecord { node: number(record.node)?, ..record }))
            .collect();
        self.nodes.sort_by_key(|record| record.node);
        self.spans = self
            .spans
            .into_iter()
            .filter_map(|span| Some(Span { node: number(span.node)?, ..span }))
            .collect();
        self
    }
}

/// A time in whole microseconds; half a million years are enough.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    fn recorded(events: impl IntoIterator<Item = (u64, Event)>) -> Record {
        let recorder = Recorder::new(&sample::two_images());
        events.into_iter().for_each(|(at_ms, event)| recorder.note(Duration::from_millis(at_ms), event));
        Record { wall_us: 0, ..recorder.record() }
    }

    #[test]
    fn a_record_survives_its_file() {
        let id = NodeId::new;
        let record = recorded([
            (1, Event::Started(id(5))),
            (2, Event::Progress { node: id(5), bytes: 100 }),
            (3, Event::Restarted(id(5))),
            (4, Event::Progress { node: id(5), bytes: 30 }),
            (9, Event::Failed(id(5), "gone".into())),
            (9, Event::Cancelled(id(3))),
            (9, Event::Started(id(4))),
        ]);
        let text = serde_json::to_string(&record).unwrap();
        let expected = concat!(
            r#"{"schema":1,"wall_us":0,"nodes":["#,
            r#"{"node":3,"end_us":9000,"cpu_us":0,"busy_us":0,"bytes":0,"lost_bytes":0,"restarts":0,"outcome":"cancelled"},"#,
            r#"{"node":4,"start_us":9000,"cpu_us":0,"busy_us":0,"bytes":0,"lost_bytes":0,"restarts":0,"outcome":"unfinished"},"#,
            r#"{"node":5,"start_us":1000,"end_us":9000,"cpu_us":0,"busy_us":0,"bytes":30,"lost_bytes":100,"restarts":1,"#,
            r#""outcome":"failed","error":"gone"}],"spans":[],"#,
            r#""fetched":{"step_us":16384,"sums":[130]},"written":{"step_us":16384,"sums":[]}}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!(record.node(id(4)).unwrap().start_us, Some(9000));
        assert_eq!(record.node(id(6)), None);
    }

    #[test]
    fn work_is_kept_by_worker_and_counts_by_name() {
        let recorder = Recorder::new(&sample::two_images());
        let at = |us: u64| recorder.start + Duration::from_micros(us);
        for (worker, start, end) in [(1, 0, 50), (0, 10, 70), (1, 60, 100)] {
            let worked = Worked { node: NodeId::new(6), worker, start: at(start), end: at(end) };
            recorder.worked(worked);
        }
        recorder.counted(NodeId::new(6), "objects_new", 3);
        recorder.counted(NodeId::new(6), "objects_new", 4);
        let record = recorder.record();
        let node = record.node(NodeId::new(6)).unwrap();
        assert_eq!((node.cpu_us, node.count("objects_new"), node.count("none")), (150, 7, 0));
        assert_eq!((node.busy_us, node.worked_from_us, node.worked_until_us), (100, Some(0), Some(100)));
        let spans: Vec<_> =
            record.spans.iter().map(|span| (span.worker, span.start_us, span.end_us)).collect();
        assert_eq!(spans, [(0, 10, 70), (1, 0, 100)]);
    }

    #[test]
    fn nodes_can_be_renumbered() {
        let id = NodeId::new;
        let record = recorded([(1, Event::Started(id(3))), (2, Event::Started(id(4)))]);
        let mut numbers = vec![None; 5];
        (numbers[3], numbers[4]) = (Some(9), Some(2));
        let nodes: Vec<_> =
            record.renumbered(&numbers).nodes.iter().map(|node| (node.node, node.start_us)).collect();
        assert_eq!(nodes, [(2, Some(2000)), (9, Some(1000))]);
    }
}
