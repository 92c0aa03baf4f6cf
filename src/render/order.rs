//! In which order a plan is drawn: images, their layers, their nodes. Knows what stands
//! where; ignores how it looks.
//!
//! Numbers of nodes play no part: a plan that was read back from its JSON has others, and is drawn the same.

use std::collections::HashSet;

use petgraph::visit::EdgeRef;

use crate::graph::{Edge, ImageIx, Kind, NodeId, Plan};

/// Every node of a plan once, with the first image that leads to it.
pub(super) struct Order {
    /// The images in the order of the request, without those that have nothing left to show.
    pub(super) images: Vec<OrderedImage>,
    /// What no image leads to. The planner makes no such nodes; a file may hold them.
    pub(super) rest: Vec<NodeId>,
}

/// What stands with an image.
pub(super) struct OrderedImage {
    pub(super) image: ImageIx,
    /// Its layers, bottom first, but for those that an earlier image has.
    pub(super) layers: Vec<OrderedLayer>,
    /// Its other nodes, in the order of their kinds.
    pub(super) own: Vec<NodeId>,
}

/// What stands with a layer.
pub(super) struct OrderedLayer {
    pub(super) finalize: NodeId,
    /// In the order of their kinds, fetches in the order in which they are tried; `finalize` is one of them.
    pub(super) nodes: Vec<NodeId>,
}

impl OrderedImage {
    /// All nodes that stand with it.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.layers.iter().flat_map(|layer| &layer.nodes).chain(&self.own).copied()
    }
}

/// The order in which `plan` is drawn.
pub(super) fn order(plan: &Plan) -> Order {
    let mut seen = HashSet::new();
    let mut images = Vec::new();
    for (ix, planned) in plan.images.iter().enumerate() {
        let image = ImageIx(ix);
        let mut layers = Vec::new();
        for &finalize in &planned.layers {
            if seen.contains(&finalize) {
                continue;
            }
            // A blob under two layers stands in the first.
            let nodes = plan.layer(finalize).nodes.into_iter().filter(|&node| seen.insert(node));
            layers.push(OrderedLayer { finalize, nodes: sorted(plan, nodes) });
        }
        let own = sorted(plan, plan.own_nodes(image).into_iter().filter(|&node| seen.insert(node)));
        if !layers.is_empty() || !own.is_empty() {
            images.push(OrderedImage { image, layers, own });
        }
    }
    let rest = sorted(plan, plan.graph.node_indices().filter(|node| !seen.contains(node)));
    Order { images, rest }
}

/// The edges of `plan`, sorted by the names of their ends; `ids` has the name of each node.
pub(super) fn edges(plan: &Plan, ids: &[String]) -> Vec<(NodeId, NodeId, Edge)> {
    let edges = plan.graph.edge_references();
    let mut edges: Vec<_> = edges.map(|edge| (edge.source(), edge.target(), *edge.weight())).collect();
    edges.sort_unstable_by_key(|(from, to, edge)| (&*ids[from.index()], &*ids[to.index()], *edge));
    edges
}

fn sorted(plan: &Plan, nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = nodes.collect();
    nodes.sort_by_cached_key(|&id| {
        let node = &plan.graph[id];
        let rank = if node.kind == Kind::Fetch { rank(plan, id) } else { 0 };
        (node.kind, rank, node.key)
    });
    nodes
}

/// The place of a fetch among the candidates of its layer.
fn rank(plan: &Plan, fetch: NodeId) -> u32 {
    let ranks = plan.graph.edges(fetch).filter_map(|edge| match edge.weight() {
        Edge::Candidate { rank } => Some(*rank),
        Edge::Needs | Edge::Streams => None,
    });
    ranks.min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn a_shared_layer_stands_with_the_first_image_and_its_blobs_in_their_order() {
        let plan = sample::two_candidates();
        let order = order(&plan);
        let [a, b] = &order.images[..] else { panic!("two images") };
        assert_eq!((a.layers.len(), b.layers.len(), order.rest.len()), (1, 0, 0));
        let kinds: Vec<Kind> = a.nodes().chain(b.nodes()).map(|node| plan.graph[node].kind).collect();
        let own = [Kind::Filesystem, Kind::Config, Kind::Manifest, Kind::Tag];
        let layer = [Kind::Fetch, Kind::Fetch, Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize];
        assert_eq!(kinds, [&layer[..], &own, &own].concat());
        let ranks: Vec<u32> = a.layers[0].nodes[..2].iter().map(|fetch| rank(&plan, *fetch)).collect();
        assert_eq!(ranks, [0, 1]);
    }

    #[test]
    fn a_layer_used_twice_stands_once() {
        let order = order(&sample::twice_the_same_layer());
        assert_eq!((order.images.len(), order.images[0].layers.len()), (1, 1));
    }
}
