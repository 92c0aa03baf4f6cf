//! The record of a run: what each node did and when. Knows node numbers; their meaning is in the plan.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::json::millis;
use crate::{
    exec::{Event, Observer},
    graph::{ImageIx, NodeId, Plan},
};

/// What happened in a run. Fields are only added while `schema` stays the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format: 1.
    pub schema: u32,
    /// From the recorder's beginning until this record was taken.
    pub wall_ms: u64,
    /// The nodes to which anything happened, by their number in the plan, ascending.
    pub nodes: Vec<NodeRecord>,
}

/// What happened to one node. Times count from the recorder's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number in the plan.
    pub node: usize,
    /// When work on it began; absent if it ended without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// When it ended; absent if the run ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u64>,
    /// Bytes that passed through it since it started over last.
    pub bytes: u64,
    /// Bytes that passed through it before it started over: work that was lost.
    #[serde(default)]
    pub lost_bytes: u64,
    /// How often it started over.
    #[serde(default)]
    pub restarts: u32,
    /// How it ended.
    pub outcome: NodeOutcome,
    /// Why it failed, one line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOutcome {
    /// Not at all: the run ended first.
    Unfinished,
    /// Well.
    Finished,
    /// Badly.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

/// Keeps the record of a run while it goes on.
pub struct Recorder {
    start: Instant,
    nodes: Mutex<BTreeMap<usize, NodeRecord>>,
}

impl Recorder {
    /// Times count from now.
    pub fn new() -> Self {
        Self { start: Instant::now(), nodes: Mutex::default() }
    }

    /// What has happened so far.
    pub fn record(&self) -> Record {
        let nodes = self.lock().values().cloned().collect();
        Record { schema: 1, wall_ms: millis(self.start.elapsed()), nodes }
    }

    fn note(&self, at: Duration, event: Event) {
        let at_ms = millis(at);
        let id = event.node().index();
        let mut nodes = self.lock();
        let node = nodes.entry(id).or_insert_with(|| NodeRecord::new(id));
        match event {
            Event::Started(_) => {
                // A candidate whose bytes are wanted once more starts again after its end.
                if node.end_ms.is_some() {
                    node.restart();
                }
                node.start_ms.get_or_insert(at_ms);
                (node.end_ms, node.outcome) = (None, NodeOutcome::Unfinished);
            }
            Event::Progress { bytes, .. } => node.bytes = node.bytes.saturating_add(bytes),
            Event::Restarted(_) => node.restart(),
            Event::Finished(_) => node.end(at_ms, NodeOutcome::Finished),
            Event::Cancelled(_) => node.end(at_ms, NodeOutcome::Cancelled),
            Event::Failed(_, error) => {
                node.end(at_ms, NodeOutcome::Failed);
                node.error = Some(error.to_string());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, NodeRecord>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Recorder {
    fn event(&self, event: Event) {
        self.note(self.start.elapsed(), event);
    }
}

impl NodeRecord {
    fn new(node: usize) -> Self {
        Self {
            node,
            start_ms: None,
            end_ms: None,
            bytes: 0,
            lost_bytes: 0,
            restarts: 0,
            outcome: NodeOutcome::Unfinished,
            error: None,
        }
    }

    fn restart(&mut self) {
        self.lost_bytes = self.lost_bytes.saturating_add(self.bytes);
        self.bytes = 0;
        self.restarts += 1;
    }

    fn end(&mut self, at_ms: u64, outcome: NodeOutcome) {
        self.end_ms = Some(at_ms);
        self.outcome = outcome;
    }
}

impl Record {
    /// What happened to `node`, if anything did.
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        let place = self.nodes.binary_search_by_key(&node.index(), |record| record.node);
        place.ok().and_then(|place| self.nodes.get(place))
    }

    /// The first failure of a node that `image` wants, one line for people.
    pub fn first_failure(&self, plan: &Plan, image: ImageIx) -> Option<&str> {
        let wanted = |record: &&NodeRecord| {
            let node = plan.graph.node_weight(NodeId::new(record.node));
            record.outcome == NodeOutcome::Failed && node.is_some_and(|node| node.wanted_by.contains(&image))
        };
        let first = self.nodes.iter().filter(wanted).min_by_key(|record| (record.end_ms, record.node))?;
        first.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(events: impl IntoIterator<Item = (u64, Event)>) -> Record {
        let recorder = Recorder::new();
        events.into_iter().for_each(|(at_ms, event)| recorder.note(Duration::from_millis(at_ms), event));
        Record { wall_ms: 0, ..recorder.record() }
    }

    #[test]
    fn a_record_survives_its_file() {
        let id = NodeId::new;
        let record = recorded([
            (1, Event::Started(id(7))),
            (2, Event::Progress { node: id(7), bytes: 100 }),
            (3, Event::Restarted(id(7))),
            (4, Event::Progress { node: id(7), bytes: 30 }),
            (9, Event::Failed(id(7), "gone".into())),
            (9, Event::Cancelled(id(3))),
            (9, Event::Started(id(4))),
        ]);
        let text = serde_json::to_string(&record).unwrap();
        let expected = concat!(
            r#"{"schema":1,"wall_ms":0,"nodes":["#,
            r#"{"node":3,"end_ms":9,"bytes":0,"lost_bytes":0,"restarts":0,"outcome":"cancelled"},"#,
            r#"{"node":4,"start_ms":9,"bytes":0,"lost_bytes":0,"restarts":0,"outcome":"unfinished"},"#,
            r#"{"node":7,"start_ms":1,"end_ms":9,"bytes":30,"lost_bytes":100,"restarts":1,"#,
            r#""outcome":"failed","error":"gone"}]}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!(record.node(id(4)).unwrap().start_ms, Some(9));
        assert_eq!(record.node(id(5)), None);
    }
}
