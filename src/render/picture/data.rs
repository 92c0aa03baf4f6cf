//! What the script of a page needs to know, as compact JSON. Knows field names; ignores how they are shown.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use petgraph::Direction;
use serde::Serialize;

use super::bands::{Bands, class};
use crate::{
    graph::{ImageIx, Key, NodeId, Plan, Subject},
    render::{
        Marks, Measured,
        words::{clean, size, span},
    },
};

/// A plan by tables: what many nodes have in common is there once. Nodes are numbered as the bands draw them.
#[derive(Serialize)]
struct Page<'a> {
    /// Names and references.
    images: Vec<[String; 2]>,
    kinds: Vec<&'a str>,
    /// Class, state and reason.
    states: Vec<(&'a str, &'a str, String)>,
    subjects: Vec<String>,
    /// Lists of images that want a node.
    wanted: Vec<Vec<usize>>,
    nodes: Vec<NodeRow>,
    /// The producers of each node.
    inputs: Vec<Vec<usize>>,
    /// Where the nodes of each image's band begin.
    bands: Vec<usize>,
    critical: Vec<usize>,
    /// What the characters from U+E000 stand for in bands that are not drawn so far.
    repeated: &'a [&'a str],
    measured: BTreeMap<usize, Run<'a>>,
}

/// Kind, state, subject and wanted, as places in their tables; the key's first digits;
/// size in words, if known.
type NodeRow = (usize, usize, usize, usize, String, String);

#[derive(Serialize)]
struct Run<'a> {
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took: Option<String>,
    cpu: String,
    bytes: String,
    counts: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The data of a page, fit to stand in a `script` element.
pub(super) fn data(plan: &Plan, marks: &Marks, bands: &Bands, repeated: &[&str]) -> String {
    let mut kinds = Table::default();
    let mut states = Table::default();
    let mut subjects = Table::default();
    let mut wanted = Table::default();
    let nodes = bands.order.iter().map(|&id| {
        let node = &plan.graph[id];
        let bytes = if node.cost_bytes > 0 { size(node.cost_bytes) } else { String::new() };
        let state = (class(plan, marks, id), node.state.name(), node.reason);
        (
            kinds.place(node.kind.name()),
            states.place(state),
            subjects.place(&node.subject),
            wanted.place(&node.wanted_by),
            node.key.short(),
            bytes,
        )
    });
    let nodes = nodes.collect();
    let numbers = |ids: &mut dyn Iterator<Item = NodeId>| {
        let mut numbers: Vec<usize> = ids.filter_map(|id| bands.number.get(&id).copied()).collect();
        numbers.sort_unstable();
        numbers
    };
    let inputs = |&id: &NodeId| numbers(&mut plan.graph.neighbors_directed(id, Direction::Incoming));
    let measured = marks.nodes.iter().filter_map(|(id, run)| Some((*bands.number.get(id)?, self::run(run))));
    let page = Page {
        images: plan.images.iter().map(|i| [&i.name, &i.reference].map(|text| clean(text).into())).collect(),
        kinds: kinds.rows,
        states: states.rows.into_iter().map(|(class, state, why)| (class, state, why.to_string())).collect(),
        subjects: subjects.rows.into_iter().map(subject).collect(),
        wanted: wanted.rows.into_iter().map(|list| list.iter().map(|&ImageIx(ix)| ix).collect()).collect(),
        nodes,
        inputs: bands.order.iter().map(inputs).collect(),
        bands: bands.bands.iter().map(|band| band.nodes.start).collect(),
        critical: marks.critical.iter().filter_map(|id| bands.number.get(id).copied()).collect(),
        repeated,
        measured: measured.collect(),
    };
    // Tables of text and numbers: there is nothing that could fail.
    let json = serde_json::to_string(&page).unwrap_or_default();
    // A script element ends at `</script` and changes its meaning at `<!--`, also inside JSON.
    json.replace('<', "\\u003c")
}

fn run(run: &Measured) -> Run<'_> {
    Run {
        outcome: run.outcome,
        started: run.start.map(span),
        took: run.took().map(span),
        cpu: span(run.cpu),
        bytes: size(run.bytes),
        counts: run.counts.iter().map(|(name, count)| (clean(name).into(), *count)).collect(),
        error: run.error.as_deref().map(|error| clean(error).into()),
    }
}

/// In full: it is also what is searched.
fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Blob(digest) | Subject::Layer(digest) | Subject::Document(digest) => digest.to_string(),
        Subject::Tree(key) => Key::hex(key),
        Subject::Name(name) => clean(name).into(),
    }
}

/// A list without repetitions, in the order in which it was asked.
struct Table<K> {
    places: HashMap<K, usize>,
    rows: Vec<K>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { places: HashMap::new(), rows: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash> Table<K> {
    fn place(&mut self, row: K) -> usize {
        *self.places.entry(row).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() - 1
        })
    }
}
