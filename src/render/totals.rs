//! What a plan comes to, in numbers. Knows nodes and images; ignores how they are shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::graph::{ImageIx, Kind, NodeId, Plan, State};

/// An image's layers by what has to be done for them; `stored + shared + new` is `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCounts {
    /// All of them; a layer used twice counts twice.
    pub total: u64,
    /// The repository had them.
    pub stored: u64,
    /// An earlier image of the plan, or an earlier layer of the same image, does the work.
    pub shared: u64,
    /// Done for this image.
    pub new: u64,
}

/// Sums over a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Number of nodes by kind and, within, by state; what does not occur is absent.
    pub nodes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Compressed bytes that the run will fetch if every first candidate is good.
    pub fetch_bytes: u64,
    /// Compressed bytes of layers that would be fetched again if each image were pulled alone.
    pub shared_bytes: u64,
    /// Compressed bytes of layers that the repository has, each once. Layers whose blobs the plan
    /// does not know add nothing.
    pub stored_bytes: u64,
    /// The layers of all images.
    pub layers: LayerCounts,
}

impl Totals {
    /// The sums of `plan`.
    pub fn of(plan: &Plan) -> Self {
        let mut totals = Self::default();
        for node in plan.graph.node_weights() {
            *totals.nodes.entry(node.kind.name()).or_default().entry(node.state.name()).or_default() += 1;
            if node.kind == Kind::Fetch && node.state == State::Needed {
                totals.fetch_bytes = totals.fetch_bytes.saturating_add(node.cost_bytes);
            }
        }
        let layers: BTreeMap<_, _> = plan.layers().into_iter().map(|layer| (layer.finalize, layer)).collect();
        let mut stored = BTreeSet::new();
        for ix in (0..plan.images.len()).map(ImageIx) {
            for (id, state) in layer_states(plan, ix) {
                let blob = plan.blob_of(&layers[&id], ix);
                let bytes = blob.map_or(0, |blob| plan.graph[blob].cost_bytes);
                totals.layers.add(state);
                match state {
                    State::Shared => totals.shared_bytes = totals.shared_bytes.saturating_add(bytes),
                    State::Stored if stored.insert(id) => {
                        totals.stored_bytes = totals.stored_bytes.saturating_add(bytes)
                    }
                    State::Stored | State::Needed | State::Standby => {}
                }
            }
        }
        totals
    }
}

impl LayerCounts {
    fn add(&mut self, state: State) {
        self.total += 1;
        match state {
            State::Stored => self.stored += 1,
            State::Shared => self.shared += 1,
            State::Needed | State::Standby => self.new += 1,
        }
    }
}

/// The layers of `image` by what has to be done for them.
pub fn layer_counts(plan: &Plan, image: ImageIx) -> LayerCounts {
    let mut counts = LayerCounts::default();
    for (_, state) in layer_states(plan, image) {
        counts.add(state);
    }
    counts
}

/// The layers of `image`, bottom first, each with its state as this image sees it at this place.
pub(super) fn layer_states(plan: &Plan, image: ImageIx) -> Vec<(NodeId, State)> {
    let Some(planned) = plan.images.get(image.0) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let states = planned.layers.iter().map(|&id| match plan.graph[id].state_for(image) {
        State::Needed if !seen.insert(id) => (id, State::Shared),
        state => (id, state),
    });
    states.collect()
}
