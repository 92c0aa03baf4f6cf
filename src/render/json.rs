//! A plan as JSON, for programs and for the record of a run. Knows the field names; ignores who reads them.
//!
//! Fields are only added while `schema` stays the same. There are no times and no host paths other than in
//! references as the user wrote them, so that two plans can be compared with `diff`.

use petgraph::visit::EdgeRef;
use serde::Serialize;

use super::Totals;
use crate::{
    graph::{Edge, ImageIx, Key, Plan, State, Subject},
    types::Digest,
};

/// A whole plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlanJson {
    /// The version of this format: 1.
    pub schema: u32,
    /// The images in the order of the request; `wanted_by` counts them from 0.
    pub images: Vec<ImageJson>,
    /// The steps; a step's place here is its `node`.
    pub nodes: Vec<NodeJson>,
    /// How the steps hang together, sorted by `from`, then `to`.
    pub edges: Vec<EdgeJson>,
    /// The sums.
    pub totals: Totals,
}

/// One image of a plan.
#[derive(Debug, Clone, Serialize)]
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
    pub layers: Vec<usize>,
    /// Its last node.
    pub tag: usize,
}

/// One step of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct NodeJson {
    /// Its number: its place in `nodes`, and its name in edges, events and records of runs.
    pub node: usize,
    /// `fetch`, `split`, `encode`, `write`, `finalize`, `config`, `manifest`, `image` or `tag`.
    pub kind: &'static str,
    /// What it is about.
    pub subject: SubjectJson,
    /// 64 hexadecimal digits over everything that changes its bytes: the same key in two plans is the same work.
    pub key: String,
    /// `needed`, `stored`, `shared` or `standby`.
    pub state: &'static str,
    /// Why it is in that state, in the words of a closed list.
    pub reason: &'static str,
    /// Estimated bytes that pass through it; for a fetch the blob's size. 0 if not known.
    pub cost_bytes: u64,
    /// Whether the number of pieces inside shows only when the bytes are read.
    pub dynamic: bool,
    /// The images that fail if it fails.
    pub wanted_by: Vec<usize>,
}

/// What a step is about; one of these, under the field's name.
#[derive(Debug, Clone, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EdgeJson {
    /// The producer's `node`.
    pub from: usize,
    /// The consumer's `node`.
    pub to: usize,
    /// `needs`: one after the other; `streams`: together; `candidate`: as `streams`, one of several tried in turn.
    pub edge: &'static str,
    /// A candidate's place in the order, from 0; absent for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

/// `plan` as indented JSON with a newline at its end; the same plan gives the same text.
pub fn json(plan: &Plan) -> String {
    let mut text = serde_json::to_string_pretty(&PlanJson::new(plan)).expect("a plan's maps have text keys");
    text.push('\n');
    text
}

impl PlanJson {
    /// `plan` in this form, also as a part of larger documents.
    pub fn new(plan: &Plan) -> Self {
        let mut edges: Vec<_> = plan.graph.edge_references().map(edge_json).collect();
        edges.sort_unstable();
        Self {
            schema: 1,
            images: plan.images.iter().map(image_json).collect(),
            nodes: plan.graph.node_indices().map(|id| node_json(id.index(), &plan.graph[id])).collect(),
            edges,
            totals: Totals::of(plan),
        }
    }
}

impl From<&Subject> for SubjectJson {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Blob(digest) => Self::Blob(*digest),
            Subject::Layer(digest) => Self::Layer(*digest),
            Subject::Document(digest) => Self::Document(*digest),
            Subject::Tree(key) => Self::Tree(Key::hex(key)),
            Subject::Name(name) => Self::Name(name.clone()),
        }
    }
}

fn image_json(image: &crate::graph::PlannedImage) -> ImageJson {
    ImageJson {
        name: image.name.clone(),
        reference: image.reference.clone(),
        manifest: image.manifest,
        config: image.config,
        layers: image.layers.iter().map(|id| id.index()).collect(),
        tag: image.tag.index(),
    }
}

fn node_json(index: usize, node: &crate::graph::Node) -> NodeJson {
    NodeJson {
        node: index,
        kind: node.kind.name(),
        subject: SubjectJson::from(&node.subject),
        key: node.key.hex(),
        state: State::name(node.state),
        reason: node.reason.text(),
        cost_bytes: node.cost_bytes,
        dynamic: node.dynamic,
        wanted_by: node.wanted_by.iter().map(|&ImageIx(ix)| ix).collect(),
    }
}

fn edge_json<'a>(edge: impl EdgeRef<NodeId = crate::graph::NodeId, Weight = Edge> + 'a) -> EdgeJson {
    let (name, rank) = match *edge.weight() {
        Edge::Needs => ("needs", None),
        Edge::Streams => ("streams", None),
        Edge::Candidate { rank } => ("candidate", Some(rank)),
    };
    EdgeJson { from: edge.source().index(), to: edge.target().index(), edge: name, rank }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::render::sample;

    fn parsed(plan: &Plan) -> Value {
        serde_json::from_str(&super::json(plan)).unwrap()
    }

    #[test]
    fn a_node_has_its_documented_fields() {
        let plan = sample::two_images();
        let node = &plan.graph[plan.images[0].layers[1]];
        let expected = json!({
            "node": 9, "kind": "finalize", "subject": {"layer": sample::digest("libs").to_string()},
            "key": node.key.hex(), "state": "needed", "reason": "layer is new", "cost_bytes": 0,
            "dynamic": false, "wanted_by": [0, 1],
        });
        assert_eq!(parsed(&plan)["nodes"][9], expected);
    }

    #[test]
    fn edges_are_sorted_and_name_their_rank() {
        let value = parsed(&sample::two_images());
        assert_eq!(value["edges"][0], json!({"from": 0, "to": 1, "edge": "candidate", "rank": 0}));
        let ends: Vec<_> = value["edges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|edge| (edge["from"].as_u64(), edge["to"].as_u64()))
            .collect();
        assert!(ends.is_sorted());
    }

    #[test]
    fn images_and_totals_are_there() {
        let value = parsed(&sample::two_images());
        assert_eq!(value["images"][1]["name"], "node:latest");
        assert_eq!(value["images"][1]["layers"], json!([4, 9]));
        assert_eq!(value["totals"]["fetch_bytes"], 12_000_000);
        assert_eq!(value["totals"]["layers"], json!({"total": 4, "stored": 2, "shared": 1, "new": 1}));
    }
}
