//! How far a run is. Knows the plan and the events so far; ignores how it is shown, and has no clock.
//!
//! Totals are known from the plan before the first byte: the blobs and layers that are needed. They
//! change only when the run departs from the plan: a candidate that becomes active is added,
//! cancelled work is taken off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    eta::{Eta, Left, Pace},
    stage::{ActiveLayer, ImageStep, News, Stage},
};
use crate::{
    exec::Event,
    graph::{ImageIx, Kind, NodeId, Plan, State},
};

/// Follows one run of one plan.
#[derive(Debug)]
pub struct Tracker {
    plan: Arc<Plan>,
    nodes: Vec<Watched>,
    layers: Vec<Layer>,
    /// Indexes of layers in work, oldest first.
    active: Vec<usize>,
    images: Vec<Image>,
    /// The images that end with a tag node.
    tags: BTreeMap<NodeId, Vec<ImageIx>>,
    fetched: u64,
    to_fetch: u64,
    layers_done: usize,
    layers_counted: usize,
    /// Tar bytes that have been split.
    split: u64,
    /// Steps of images that run now, oldest first.
    image_steps: Vec<NodeId>,
    /// Filesystems that are still to be built.
    builds_left: usize,
    pace: Pace,
    part: Part,
}

/// How much of the whole is done, from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    done: f64,
    /// The totals that it is a part of.
    of: (u64, usize),
}

#[derive(Debug, Clone)]
struct Watched {
    phase: NodePhase,
    /// Whether `cost` is in the totals; only for fetches.
    counted: bool,
    cost: u64,
    bytes: u64,
    layer: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodePhase {
    Idle,
    Running(Duration),
    Done,
}

#[derive(Debug, Clone)]
struct Layer {
    finalize: NodeId,
    /// Its steps between the fetch and `finalize`.
    steps: Vec<(NodeId, Stage)>,
    /// The blob that is or was fetched last.
    fetch: Option<NodeId>,
    /// When its last byte came.
    fetched: Option<Duration>,
    counted: bool,
    phase: LayerPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerPhase {
    Idle,
    Active(Duration),
    Done,
}

#[derive(Debug, Clone)]
struct Image {
    phase: ImagePhase,
    /// When something was first done for it.
    since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImagePhase {
    Waiting,
    Done,
    Failed,
}

impl Tracker {
    /// Before the first event of a run of `plan`.
    pub fn new(plan: Arc<Plan>) -> Self {
        let mut nodes: Vec<_> = plan.graph.node_weights().map(Watched::new).collect();
        let mut layers = Vec::new();
        for (ix, layer) in plan.layers().into_iter().enumerate() {
            let stage = |&id: &NodeId| Some((id, Stage::of(plan.graph[id].kind)?));
            let mut steps: Vec<_> = layer.nodes.iter().filter_map(stage).collect();
            steps.sort_by_key(|(_, stage)| *stage as u8);
            for id in layer.nodes {
                nodes[id.index()].layer.get_or_insert(ix);
            }
            let counted = plan.graph[layer.finalize].state == State::Needed;
            layers.push(Layer {
                finalize: layer.finalize,
                steps,
                fetch: None,
                fetched: None,
                counted,
                phase: LayerPhase::Idle,
            });
        }
        let mut tags: BTreeMap<NodeId, Vec<ImageIx>> = BTreeMap::new();
        let mut images = Vec::new();
        for (ix, image) in plan.images.iter().enumerate() {
            tags.entry(image.tag).or_default().push(ImageIx(ix));
            let stored = plan.graph[image.tag].state == State::Stored;
            let phase = if stored { ImagePhase::Done } else { ImagePhase::Waiting };
            images.push(Image { phase, since: None });
        }
        let to_fetch =
            nodes.iter().filter(|node| node.counted).fold(0, |sum: u64, node| sum.saturating_add(node.cost));
        let layers_counted = layers.iter().filter(|layer| layer.counted).count();
        let builds = plan.graph.node_weights();
        let builds = builds.filter(|node| node.kind == Kind::Filesystem && node.state == State::Needed);
        let mut tracker = Self {
            builds_left: builds.count(),
            plan,
            nodes,
            layers,
            active: Vec::new(),
            images,
            tags,
            fetched: 0,
            to_fetch,
            layers_done: 0,
            layers_counted,
            split: 0,
            image_steps: Vec::new(),
            pace: Pace::default(),
            part: Part::default(),
        };
        tracker.measure();
        tracker
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes fetched and bytes to fetch in all, those included.
    pub fn bytes(&self) -> (u64, u64) {
        (self.fetched, self.to_fetch)
    }

    /// Layers made and layers to make in all.
    pub fn layers(&self) -> (usize, usize) {
        (self.layers_done, self.layers_counted)
    }

    /// Images done, images failed, and images in all. What the repository had counts as done from the start.
    pub fn images(&self) -> (usize, usize, usize) {
        let count = |phase| self.images.iter().filter(|image| image.phase == phase).count();
        (count(ImagePhase::Done), count(ImagePhase::Failed), self.images.len())
    }

    /// Bytes that have passed through `node` since it started over last.
    pub fn node_bytes(&self, node: NodeId) -> u64 {
        self.nodes.get(node.index()).map_or(0, |node| node.bytes)
    }

    /// The layers in work, oldest first.
    pub fn active(&self) -> impl ExactSizeIterator<Item = ActiveLayer> {
        self.active.iter().map(|&ix| self.layer(ix))
    }

    /// The steps of images in work: each filesystem by itself, and all that is being committed.
    pub fn image_steps(&self) -> Vec<ImageStep> {
        let (mut steps, mut committing) = (Vec::new(), Vec::new());
        for &id in &self.image_steps {
            let node = &self.plan.graph[id];
            match node.kind {
                Kind::Filesystem => steps.push(ImageStep::Building(node.wanted_by.clone())),
                _ => committing.extend(&node.wanted_by),
            }
        }
        committing.sort();
        committing.dedup();
        if !committing.is_empty() {
            steps.push(ImageStep::Committing(committing));
        }
        steps
    }

    /// Bytes fetched for an image so far; what several share counts for the first, as in the result.
    pub fn image_bytes(&self, image: ImageIx) -> u64 {
        let nodes = self.plan.graph.node_weights().zip(&self.nodes);
        let own = nodes
            .filter(|(node, _)| node.kind == Kind::Fetch && node.wanted_by.first() == Some(&image))
            .map(|(_, watched)| watched.bytes);
        own.fold(0, u64::saturating_add)
    }

    /// When something was first done for an image.
    pub fn image_since(&self, image: ImageIx) -> Option<Duration> {
        self.images.get(image.0)?.since
    }

    /// Bytes fetched a second of late, or `None` before there is something to base it on.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.pace.bytes_per_second()
    }

    /// How much of the whole is done, from 0 to 1, as of the last `advance`. Falls only when work is added; 1
    /// means that nothing is left, so that no bar looks finished while something goes on.
    pub fn fraction(&self) -> f64 {
        self.part.done
    }

    /// The time left.
    pub fn eta(&self) -> Eta {
        let running = self.active.iter().filter_map(|&ix| self.layers[ix].fetch).filter_map(|id| {
            let node = &self.nodes[id.index()];
            node.is_running().then(|| (id, node.cost.saturating_sub(node.bytes)))
        });
        self.pace.eta(&Left {
            fetch_bytes: self.to_fetch.saturating_sub(self.fetched),
            fetches: running.collect(),
            blob_bytes: self.to_fetch,
            split_bytes: self.split,
            build: self.builds_left > 0,
        })
    }

    /// Lets time pass, so that a stall shows in the rates.
    pub fn advance(&mut self, now: Duration) {
        self.pace.advance(now);
        self.measure();
    }

    /// Bytes are nearly all of it, and what comes after them takes time too.
    fn measure(&mut self) {
        const BYTES: f64 = 96.0;
        const LAYERS: f64 = 2.0;
        const IMAGES: f64 = 2.0;
        let (done, failed, images) = self.images();
        let parts = [
            (BYTES, self.fetched as f64, self.to_fetch as f64),
            (LAYERS, self.layers_done as f64, self.layers_counted as f64),
            (IMAGES, (done + failed) as f64, images as f64),
        ];
        let (mut sum, mut weights) = (0.0, 0.0);
        for (weight, done, all) in parts.into_iter().filter(|(_, _, all)| *all > 0.0) {
            sum += weight * (done / all).min(1.0);
            weights += weight;
        }
        // Nothing to do is done.
        let done = if weights > 0.0 { sum / weights } else { 1.0 };
        let of = (self.to_fetch, self.layers_counted);
        let added = of.0 > self.part.of.0 || of.1 > self.part.of.1;
        self.part = Part { done: if added { done } else { done.max(self.part.done) }, of };
    }

    /// Takes one event that came at `now`. Events of nodes that the plan does not have are ignored.
    pub fn apply(&mut self, now: Duration, event: &Event) -> Vec<News> {
        let id = event.node();
        if id.index() >= self.nodes.len() {
            return Vec::new();
        }
        match event {
            Event::Started(_) => self.start(id, now),
            Event::Progress { bytes, .. } => self.progress(id, *bytes, now),
            Event::Restarted(_) => self.restart(id),
            Event::Finished(_) => return self.finish(id, now),
            Event::Failed(_, text) => {
                self.drop_node(id);
                return self.fail_images(id, text);
            }
            Event::Cancelled(_) => self.drop_node(id),
        }
        Vec::new()
    }

    fn start(&mut self, id: NodeId, now: Duration) {
        if self.nodes[id.index()].is_running() {
            return;
        }
        let fetch = self.is_fetch(id);
        if fetch {
            // Of a fetch that had ended and is tried again, nothing of before counts.
            self.restart(id);
            self.count(id);
            self.pace.fetch_begins(id, now);
        }
        self.nodes[id.index()].phase = NodePhase::Running(now);
        for ix in &self.plan.graph[id].wanted_by {
            if let Some(image) = self.images.get_mut(ix.0) {
                image.since.get_or_insert(now);
            }
        }
        let Some(ix) = self.nodes[id.index()].layer else {
            self.image_steps.push(id);
            return;
        };
        let layer = &mut self.layers[ix];
        if fetch {
            (layer.fetch, layer.fetched) = (Some(id), None);
        }
        if layer.phase == LayerPhase::Idle {
            layer.phase = LayerPhase::Active(now);
            self.layers_counted += usize::from(!layer.counted);
            layer.counted = true;
            self.active.push(ix);
        }
    }

    fn progress(&mut self, id: NodeId, bytes: u64, now: Duration) {
        // An engine that forgets to say `Started` still gets its bar.
        self.start(id, now);
        let kind = self.plan.graph[id].kind;
        let node = &mut self.nodes[id.index()];
        node.bytes = node.bytes.saturating_add(bytes);
        if kind == Kind::Split {
            self.split = self.split.saturating_add(bytes);
            self.pace.split(bytes, now);
        }
        if kind != Kind::Fetch {
            return;
        }
        // More than was planned: the total grows, so that no bar passes its end.
        let excess = node.bytes.saturating_sub(node.cost);
        node.cost = node.cost.saturating_add(excess);
        self.to_fetch = self.to_fetch.saturating_add(excess);
        self.fetched = self.fetched.saturating_add(bytes);
        self.pace.fetched(id, bytes);
    }

    fn restart(&mut self, id: NodeId) {
        let planned = self.plan.graph[id].cost_bytes;
        let kind = self.plan.graph[id].kind;
        let node = &mut self.nodes[id.index()];
        if kind == Kind::Split {
            self.split = self.split.saturating_sub(node.bytes);
        }
        if kind == Kind::Fetch {
            self.fetched = self.fetched.saturating_sub(node.bytes);
            if node.counted {
                self.to_fetch = self.to_fetch.saturating_sub(node.cost).saturating_add(planned);
            }
            node.cost = planned;
        }
        node.bytes = 0;
    }

    fn finish(&mut self, id: NodeId, now: Duration) -> Vec<News> {
        let began = self.settle(id);
        self.nodes[id.index()].phase = NodePhase::Done;
        let layer = self.nodes[id.index()].layer;
        match self.plan.graph[id].kind {
            Kind::Fetch => {
                if let Some(ix) = layer {
                    self.layers[ix].fetched = Some(now);
                }
                Vec::new()
            }
            Kind::Split => {
                if let Some(blob) = layer.and_then(|ix| self.layers[ix].fetch) {
                    self.pace.split_ends(self.nodes[id.index()].bytes, self.nodes[blob.index()].bytes);
                }
                Vec::new()
            }
            Kind::Finalize => self.finish_layer(id, now).into_iter().collect(),
            Kind::Filesystem => {
                if let Some(began) = began {
                    self.pace.build_ends(now.saturating_sub(began));
                }
                Vec::new()
            }
            Kind::Tag => self.finish_images(id),
            Kind::Encode | Kind::Write | Kind::Config | Kind::Manifest => Vec::new(),
        }
    }

    fn finish_layer(&mut self, id: NodeId, now: Duration) -> Option<News> {
        let ix = self.nodes[id.index()].layer?;
        // One that was never in work had nothing to do.
        if !matches!(self.layers[ix].phase, LayerPhase::Active(_)) {
            return None;
        }
        let done = self.layer(ix);
        if let Some(fetched) = self.layers[ix].fetched {
            self.pace.layer_ends(now.saturating_sub(fetched));
        }
        self.layers[ix].phase = LayerPhase::Done;
        self.active.retain(|&active| active != ix);
        self.layers_done += 1;
        Some(News::LayerDone(done))
    }

    fn finish_images(&mut self, id: NodeId) -> Vec<News> {
        let mut news = Vec::new();
        for &ix in self.tags.get(&id).into_iter().flatten() {
            if self.images[ix.0].phase == ImagePhase::Waiting {
                self.images[ix.0].phase = ImagePhase::Done;
                news.push(News::ImageDone(ix));
            }
        }
        news
    }

    fn fail_images(&mut self, id: NodeId, text: &Arc<str>) -> Vec<News> {
        let mut news = Vec::new();
        for &ix in &self.plan.graph[id].wanted_by {
            let image = self.images.get_mut(ix.0);
            if let Some(image) = image.filter(|image| image.phase == ImagePhase::Waiting) {
                image.phase = ImagePhase::Failed;
                news.push(News::ImageFailed(ix, text.clone()));
            }
        }
        news
    }

    /// A node will do nothing more, and it is not done.
    fn drop_node(&mut self, id: NodeId) {
        self.settle(id);
        let Some(ix) = self.nodes[id.index()].layer else { return };
        let layer = &mut self.layers[ix];
        // Without one blob, the layer may have another.
        if self.plan.graph[id].kind == Kind::Fetch || layer.phase == LayerPhase::Done {
            return;
        }
        layer.phase = LayerPhase::Idle;
        self.layers_counted -= usize::from(layer.counted);
        layer.counted = false;
        self.active.retain(|&active| active != ix);
    }

    /// A node has ended: what has come of its blob is all that will come. Gives when it began.
    fn settle(&mut self, id: NodeId) -> Option<Duration> {
        let planned = &self.plan.graph[id];
        let node = &mut self.nodes[id.index()];
        let began = match std::mem::replace(&mut node.phase, NodePhase::Idle) {
            NodePhase::Running(began) => Some(began),
            NodePhase::Idle | NodePhase::Done => None,
        };
        if planned.kind == Kind::Filesystem && planned.state == State::Needed {
            self.builds_left = self.builds_left.saturating_sub(1);
        }
        if node.counted {
            self.to_fetch = self.to_fetch.saturating_sub(node.cost - node.bytes);
            node.cost = node.bytes;
        }
        self.pace.fetch_ends(id);
        self.image_steps.retain(|&step| step != id);
        began
    }

    /// Takes a fetch into the totals that was not planned as needed.
    fn count(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if !node.counted {
            node.counted = true;
            self.to_fetch = self.to_fetch.saturating_add(node.cost);
        }
    }

    fn is_fetch(&self, id: NodeId) -> bool {
        self.plan.graph[id].kind == Kind::Fetch
    }

    fn layer(&self, ix: usize) -> ActiveLayer {
        let layer = &self.layers[ix];
        let fetch = layer.fetch.map(|id| &self.nodes[id.index()]);
        let fetching = fetch.filter(|fetch| fetch.is_running()).map(|_| Stage::Fetching);
        let next = layer.steps.iter().find(|(id, _)| self.nodes[id.index()].phase != NodePhase::Done);
        let next = next.map_or(Stage::Finalizing, |(_, stage)| *stage);
        ActiveLayer {
            finalize: layer.finalize,
            image: self.plan.graph[layer.finalize].wanted_by.first().copied(),
            since: if let LayerPhase::Active(since) = layer.phase { since } else { Duration::ZERO },
            stage: fetching.unwrap_or(next),
            bytes: fetch.map_or(0, |fetch| fetch.bytes),
            size_bytes: fetch.map_or(0, |fetch| fetch.cost),
        }
    }
}

impl Watched {
    fn new(node: &crate::graph::Node) -> Self {
        let counted = node.kind == Kind::Fetch && node.state == State::Needed;
        Self { phase: NodePhase::Idle, counted, cost: node.cost_bytes, bytes: 0, layer: None }
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, NodePhase::Running(_))
    }
}

#[cfg(test)]
mod tests;
