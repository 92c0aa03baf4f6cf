//! A plan as JSON, for programs, for `diff` and for the record of a run. Knows the field
//! names; ignores who reads them.
//!
//! Fields are only added while `schema` stays the same. There are no times and no host paths other than in
//! references as the user wrote them. A node is named by what it does, not by its place, and every node,
//! edge and image is one line, so that two plans can be compared with `diff`. `graphs/plan.schema.json`
//! says the same to machines.

mod parse;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use petgraph::visit::EdgeRef;
use serde::{Deserialize, Serialize};

use super::{Marks, Measured, Totals};
use crate::{
    graph::{Edge, Node, NodeId, Plan, PlannedImage, Selection, Subject},
    types::Digest,
};

pub use parse::NoPlan;

/// The version of this format.
const SCHEMA: u32 = 1;

/// A whole plan, as it is read back; [`json`] writes the same, and the sums.
#[derive(Debug, Clone, Deserialize)]
pub struct PlanJson {
    /// The version of this format: 1.
    pub schema: u32,
    /// What changes the bytes that the repository gets: its algorithm and EROFS formats.
    pub repository: String,
    /// The platform that was asked for; absent if none was.
    #[serde(default)]
    pub platform: Option<String>,
    /// The names that will be taken away after everything else succeeded; absent if there are none.
    #[serde(default)]
    pub untag: Vec<String>,
    /// Which images each rule of a list chose; absent from plans of pulls.
    #[serde(default)]
    pub selections: Vec<SelectionJson>,
    /// The images in the order of the request: the first that wants a node does its work.
    pub images: Vec<ImageJson>,
    /// The steps, sorted by `node`.
    pub nodes: Vec<NodeJson>,
    /// How the steps hang together, sorted by `from`, then `to`.
    pub edges: Vec<EdgeJson>,
}

/// One image of a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageJson {
    /// The name that it will get in the repository.
    pub name: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// Digest of the manifest as stored.
    pub manifest: Digest,
    /// Digest of the config.
    pub config: Digest,
    /// Its layers' `finalize` nodes, bottom first; a layer used twice is there twice.
    pub layers: Vec<String>,
    /// Its last node.
    pub tag: String,
    /// Digest of the manifest that its name points to before the run; absent if the name is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Digest>,
    /// The platform that was asked for, where the image has one of its own; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Which images one rule of a list chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectionJson {
    /// The rule as the user wrote it.
    pub rule: String,
    /// The names of the images, in the order of the request.
    pub images: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeJson {
    /// Its name: the kind and the first 16 digits of the key. The same work has the same name in every plan,
    /// and in events and records of runs.
    pub node: String,
    /// `fetch`, `split`, `write`, `encode`, `finalize`, `image`, `config`, `manifest` or `tag`.
    pub kind: Cow<'static, str>,
    /// What it is about.
    pub subject: SubjectJson,
    /// How a layer is stored: `tar`, `artifact tar` or `raw`; absent for fetches and
    /// what is no step of a layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Cow<'static, str>>,
    /// 64 hexadecimal digits over everything that changes its bytes: the same key in two
    /// plans is the same work.
    pub key: String,
    /// `needed`, `stored`, `shared` or `standby`.
    pub state: Cow<'static, str>,
    /// Why it is in that state: `stored`, `not stored`, `tag moved`, `outputs missing`, `size wrong`,
    /// `forced` or `key changed (PART)`.
    pub reason: String,
    /// Estimated bytes that pass through it; for a fetch the blob's size. 0 if not known.
    pub cost_bytes: u64,
    /// Whether the number of pieces inside shows only when the bytes are read.
    pub dynamic: bool,
    /// The names of the images that fail if it fails, in the order of the request.
    pub wanted_by: Vec<String>,
    /// What it did, in a graph as it ran; absent from plans, and if it did nothing.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub ran: Option<RanJson>,
}

/// What a step did in a run.
#[derive(Debug, Clone, Serialize)]
pub struct RanJson {
    /// `finished`, `failed`, `cancelled` or `unfinished`.
    pub outcome: &'static str,
    /// When it began, in microseconds from the beginning of the run; absent if it ended without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_us: Option<u64>,
    /// When it ended; absent if the run ended first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_us: Option<u64>,
    /// Cpu time that workers spent on it.
    pub cpu_us: u64,
    /// Bytes that passed through it.
    pub bytes: u64,
    /// What was counted in it, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// Whether it is on the chain that decided how long the run took.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub critical: bool,
    /// Why it failed, one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a step is about; one of these, under the field's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectJson {
    /// A blob as transferred.
    Blob(Digest),
    /// A layer by its `diff_id`, or the blob digest of an artifact's layer.
    Layer(Digest),
    /// A config or manifest.
    Document(Digest),
    /// A filesystem, by the key of its ordered layers.
    Tree(String),
    /// A name in the repository.
    Name(String),
}

/// An edge from producer to consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EdgeJson {
    /// The producer's `node`.
    pub from: String,
    /// The consumer's `node`.
    pub to: String,
    /// `needs`: one after the other; `streams`: together; `candidate`: as `streams`, one
    /// of several tried in turn.
    pub edge: Cow<'static, str>,
    /// A candidate's place in the order, from 0; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

/// `plan` as JSON with a newline at its end; the same plan gives the same text. Of the marks only what was
/// measured is drawn: a plan does not change with estimates.
pub fn json(plan: &Plan, marks: &Marks) -> String {
    let ids: Vec<String> = plan.graph.node_indices().map(|node| plan.id(node)).collect();
    let mut nodes: Vec<NodeId> = plan.graph.node_indices().collect();
    nodes.sort_unstable_by_key(|node| &ids[node.index()]);
    let mut edges: Vec<_> = plan.graph.edge_references().map(|edge| edge_json(&ids, edge)).collect();
    edges.sort_unstable();
    let mut fields = vec![("schema", text(&SCHEMA)), ("repository", text(&plan.repository))];
    fields.extend(plan.platform.as_ref().map(|platform| ("platform", text(platform))));
    if !plan.untag.is_empty() {
        fields.push(("untag", lines(plan.untag.iter().map(text))));
    }
    if !plan.selections.is_empty() {
        let selections = plan.selections.iter().map(|selection| text(&selection_json(plan, selection)));
        fields.push(("selections", lines(selections)));
    }
    fields.push(("images", lines(plan.images.iter().map(|image| text(&image_json(&ids, image))))));
    let nodes = node_lines(plan, marks, &ids, &nodes);
    fields.push(("nodes", lines(nodes.into_iter())));
    fields.push(("edges", lines(edges.iter().map(text))));
    fields.push(("totals", text(&Totals::of(plan))));
    let fields: Vec<String> =
        fields.into_iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

fn node_lines(plan: &Plan, marks: &Marks, ids: &[String], nodes: &[NodeId]) -> Vec<String> {
    let critical: BTreeSet<NodeId> = marks.critical.iter().copied().collect();
    let line = |&id: &NodeId| {
        let mut json = node_json(plan, ids[id.index()].clone(), &plan.graph[id]);
        json.ran = marks.nodes.get(&id).map(|did| ran_json(did, critical.contains(&id)));
        text(&json)
    };
    nodes.iter().map(line).collect()
}

fn ran_json(did: &Measured, critical: bool) -> RanJson {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    RanJson {
        outcome: did.outcome,
        start_us: did.start.map(micros),
        end_us: did.end.map(micros),
        cpu_us: micros(did.cpu),
        bytes: did.bytes,
        counts: did.counts.clone(),
        critical,
        error: did.error.clone(),
    }
}

/// A value of ours on one line: such values have text keys only, so there is always something to write.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An array with one element a line.
fn lines(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.map(|element| format!("\n    {element}")).collect();
    if elements.is_empty() { "[]".to_owned() } else { format!("[{}\n  ]", elements.join(",")) }
}

impl From<&Subject> for SubjectJson {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Blob(digest) => Self::Blob(*digest),
            Subject::Layer(digest) => Self::Layer(*digest),
            Subject::Document(digest) => Self::Document(*digest),
            Subject::Tree(key) => Self::Tree(key.hex()),
            Subject::Name(name) => Self::Name(name.clone()),
        }
    }
}

fn image_json(ids: &[String], image: &PlannedImage) -> ImageJson {
    ImageJson {
        name: image.name.clone(),
        reference: image.reference.clone(),
        manifest: image.manifest,
        config: image.config,
        layers: image.layers.iter().map(|layer| ids[layer.index()].clone()).collect(),
        tag: ids[image.tag.index()].clone(),
        named: image.named,
        platform: image.platform.clone(),
    }
}

fn selection_json(plan: &Plan, selection: &Selection) -> SelectionJson {
    let images = selection.images.iter().filter_map(|image| plan.images.get(image.0));
    SelectionJson { rule: selection.rule.clone(), images: images.map(|image| image.name.clone()).collect() }
}

fn node_json(plan: &Plan, id: String, node: &Node) -> NodeJson {
    // The same image may be asked for twice, under one name.
    let mut wanted_by: Vec<String> = Vec::new();
    for image in &node.wanted_by {
        let name = &plan.images[image.0].name;
        if wanted_by.last() != Some(name) {
            wanted_by.push(name.clone());
        }
    }
    NodeJson {
        node: id,
        kind: node.kind.name().into(),
        subject: SubjectJson::from(&node.subject),
        storage: node.layer_kind.map(|kind| kind.name().into()),
        key: node.key.hex(),
        state: node.state.name().into(),
        reason: node.reason.to_string(),
        cost_bytes: node.cost_bytes,
        dynamic: node.dynamic,
        wanted_by,
        ran: None,
    }
}

fn edge_json<'a>(ids: &[String], edge: impl EdgeRef<NodeId = NodeId, Weight = Edge> + 'a) -> EdgeJson {
    let (name, rank) = match *edge.weight() {
        Edge::Needs => ("needs", None),
        Edge::Streams => ("streams", None),
        Edge::Candidate { rank } => ("candidate", Some(rank)),
    };
    let [from, to] = [edge.source(), edge.target()].map(|node| ids[node.index()].clone());
    EdgeJson { from, to, edge: name.into(), rank }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::render::sample;

    fn parsed(plan: &Plan) -> Value {
        serde_json::from_str(&super::json(plan, &Marks::default())).unwrap()
    }

    #[test]
    fn a_node_has_its_documented_fields() {
        let plan = sample::two_images();
        let id = plan.images[0].layers[1];
        let expected = json!({
            "node": plan.id(id), "kind": "finalize", "subject": {"layer": sample::digest("libs").to_string()},
            "storage": "tar", "key": plan.graph[id].key.hex(), "state": "needed", "reason": "not stored",
            "cost_bytes": 0, "dynamic": false, "wanted_by": ["webapp:latest", "node:latest"],
        });
        let value = parsed(&plan);
        let nodes = value["nodes"].as_array().unwrap();
        assert_eq!(nodes.iter().find(|node| node["node"] == plan.id(id)), Some(&expected));
    }

    #[test]
    fn everything_is_sorted_and_on_a_line_of_its_own() {
        let plan = sample::two_candidates();
        let text = super::json(&plan, &Marks::default());
        let value = parsed(&plan);
        let ids: Vec<_> =
            value["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str()).collect();
        let ends =
            |edge: &Value| (edge["from"].as_str().map(str::to_owned), edge["to"].as_str().map(str::to_owned));
        let edges: Vec<_> = value["edges"].as_array().unwrap().iter().map(ends).collect();
        assert!(ids.is_sorted() && edges.is_sorted());
        assert_eq!(text.matches("\"rank\":1").count(), 1);
        assert_eq!(text.matches("\n    {").count(), 2 + ids.len() + edges.len());
    }

    #[test]
    fn what_a_list_says_is_there_and_absent_from_pulls() {
        let value = parsed(&sample::of_a_list());
        assert_eq!(value["untag"], json!(["webapp:\"old\" & so"]));
        let chosen = json!({"rule": "registry.example/*:latest", "images": ["webapp:latest", "node:latest"]});
        assert_eq!(value["selections"][0], chosen);
        assert_eq!(value["images"][1]["platform"], "linux/arm64");
        assert_eq!(value["images"][0].get("platform"), None);
        let pull = parsed(&sample::two_images());
        assert!(pull.get("untag").is_none() && pull.get("selections").is_none());
    }

    #[test]
    fn images_and_totals_are_there() {
        let plan = sample::two_images();
        let value = parsed(&plan);
        assert_eq!(value["images"][1]["name"], "node:latest");
        let layers = plan.images[1].layers.iter().map(|layer| plan.id(*layer));
        assert_eq!(value["images"][1]["layers"], json!(layers.collect::<Vec<_>>()));
        assert_eq!(value["totals"]["fetch_bytes"], 12_000_000);
        assert_eq!(value["totals"]["layers"], json!({"total": 4, "stored": 2, "shared": 1, "new": 1}));
    }
}
