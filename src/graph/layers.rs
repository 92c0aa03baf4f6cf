//! A plan's layers, read back from its edges. Knows which nodes make a layer; ignores what they do.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::{Direction, visit::EdgeRef};

use super::{Edge, ImageIx, Kind, NodeId, Plan};

/// The nodes that make one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// The layer's last node.
    pub finalize: NodeId,
    /// All its nodes, its blobs and `finalize` too, by id. A blob under two layers is in both.
    pub nodes: Vec<NodeId>,
    /// Its blobs' `Fetch` nodes in the order in which they are tried.
    pub fetches: Vec<NodeId>,
}

impl Plan {
    /// Every layer once, in the order in which the images name them.
    pub fn layers(&self) -> Vec<PlannedLayer> {
        let mut seen = BTreeSet::new();
        let named = self.images.iter().flat_map(|image| &image.layers);
        named.filter(|&&id| seen.insert(id)).map(|&id| self.layer(id)).collect()
    }

    /// The layer that ends with `finalize`.
    pub fn layer(&self, finalize: NodeId) -> PlannedLayer {
        let mut nodes = BTreeSet::from([finalize]);
        // A fetch's rank is the least of its edges': a blob that streams without alternatives is tried first.
        let mut ranks = BTreeMap::new();
        let mut todo = vec![finalize];
        while let Some(consumer) = todo.pop() {
            for edge in self.graph.edges_directed(consumer, Direction::Incoming) {
                let producer = edge.source();
                if self.graph[producer].kind == Kind::Fetch {
                    let rank = match edge.weight() {
                        Edge::Candidate { rank } => *rank,
                        Edge::Needs | Edge::Streams => 0,
                    };
                    let least = ranks.entry(producer).or_insert(rank);
                    *least = rank.min(*least);
                }
                if nodes.insert(producer) {
                    todo.push(producer);
                }
            }
        }
        let mut fetches: Vec<NodeId> = ranks.keys().copied().collect();
        fetches.sort_by_key(|id| (ranks[id], *id));
        PlannedLayer { finalize, nodes: nodes.into_iter().collect(), fetches }
    }

    /// The blob through which `image` reaches `layer`; the first one if it names none itself.
    pub fn blob_of(&self, layer: &PlannedLayer, image: ImageIx) -> Option<NodeId> {
        let own = layer.fetches.iter().find(|&&id| self.graph[id].wanted_by.contains(&image));
        own.or(layer.fetches.first()).copied()
    }

    /// The nodes of `image` that are no part of a layer, by id: documents, filesystem, tag.
    pub fn own_nodes(&self, image: ImageIx) -> Vec<NodeId> {
        let Some(planned) = self.images.get(image.0) else { return Vec::new() };
        let mut nodes = BTreeSet::from([planned.tag]);
        let mut todo = vec![planned.tag];
        while let Some(consumer) = todo.pop() {
            for producer in self.graph.neighbors_directed(consumer, Direction::Incoming) {
                if self.graph[producer].kind != Kind::Finalize && nodes.insert(producer) {
                    todo.push(producer);
                }
            }
        }
        nodes.into_iter().collect()
    }
}
