//! How far a run is. Knows the plan and the events so far; ignores how it is shown, and has no clock.
//!
//! Totals are known from the plan before the first byte: the blobs and layers that are needed. They change only
//! when the run departs from the plan: a candidate that becomes active is added, cancelled work is taken off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::rate::Rate;
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
    images: Vec<ImagePhase>,
    /// The images that end with a tag node.
    tags: BTreeMap<NodeId, Vec<ImageIx>>,
    fetched: u64,
    to_fetch: u64,
    layers_done: usize,
    layers_counted: usize,
    /// From the first fetch on.
    rate: Option<Rate>,
    /// Of the fetches that run now.
    rates: BTreeMap<NodeId, Rate>,
}

/// What an event meant for layers and images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A layer is stored.
    LayerDone(ActiveLayer),
    /// An image has its name.
    ImageDone(ImageIx),
    /// An image will not be there; the text is one line for people. Said once an image.
    ImageFailed(ImageIx, Arc<str>),
}

/// A layer in work, or just done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveLayer {
    /// Its last node.
    pub finalize: NodeId,
    /// The first image that wants it.
    pub image: Option<ImageIx>,
    /// When its first node started.
    pub since: Duration,
    /// Whether a blob of it is being fetched now.
    pub fetching: bool,
    /// Bytes of its present blob that have come.
    pub bytes: u64,
    /// The size of that blob; 0 if not known.
    pub size_bytes: u64,
}

/// How long the fetches will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eta {
    /// Nothing to base it on: too early, or stalled.
    Unknown,
    /// This long, if it goes on as it does.
    Left(Duration),
    /// All is fetched; what remains is work whose length nobody knows.
    Fetched,
}

#[derive(Debug, Clone)]
struct Watched {
    running: bool,
    /// Whether `cost` is in the totals; only for fetches.
    counted: bool,
    cost: u64,
    bytes: u64,
    layer: Option<usize>,
}

#[derive(Debug, Clone)]
struct Layer {
    finalize: NodeId,
    /// The blob that is or was fetched last.
    fetch: Option<NodeId>,
    counted: bool,
    phase: LayerPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerPhase {
    Idle,
    Active(Duration),
    Done,
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
            for id in layer.nodes {
                nodes[id.index()].layer.get_or_insert(ix);
            }
            let counted = plan.graph[layer.finalize].state == State::Needed;
            layers.push(Layer { finalize: layer.finalize, fetch: None, counted, phase: LayerPhase::Idle });
        }
        let mut tags: BTreeMap<NodeId, Vec<ImageIx>> = BTreeMap::new();
        let mut images = Vec::new();
        for (ix, image) in plan.images.iter().enumerate() {
            tags.entry(image.tag).or_default().push(ImageIx(ix));
            let stored = plan.graph[image.tag].state == State::Stored;
            images.push(if stored { ImagePhase::Done } else { ImagePhase::Waiting });
        }
        let to_fetch =
            nodes.iter().filter(|node| node.counted).fold(0, |sum: u64, node| sum.saturating_add(node.cost));
        let layers_counted = layers.iter().filter(|layer| layer.counted).count();
        Self {
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
            rate: None,
            rates: BTreeMap::new(),
        }
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
        let count = |phase| self.images.iter().filter(|&&image| image == phase).count();
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

    /// Bytes fetched a second of late, or `None` before there is something to base it on.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.rate.as_ref()?.per_second()
    }

    /// The time until all is fetched: by the rate of the whole, but never less than the slowest active fetch needs.
    pub fn eta(&self) -> Eta {
        /// Whoever is this slow has stalled, and nothing can be said.
        const SLOWEST: f64 = 1.0;
        const LONGEST_S: f64 = 100.0 * 3600.0;
        let remaining = self.to_fetch.saturating_sub(self.fetched);
        if remaining == 0 {
            return Eta::Fetched;
        }
        let Some(rate) = self.bytes_per_second() else { return Eta::Unknown };
        let mut left_s = remaining as f64 / rate.max(f64::MIN_POSITIVE);
        let mut slowest = rate;
        for (id, rate) in &self.rates {
            let node = &self.nodes[id.index()];
            // One that has just begun is judged by the rate of the whole.
            let Some(rate) = rate.per_second() else { continue };
            if node.bytes < node.cost {
                left_s = left_s.max((node.cost - node.bytes) as f64 / rate.max(f64::MIN_POSITIVE));
                slowest = slowest.min(rate);
            }
        }
        match slowest >= SLOWEST && left_s <= LONGEST_S {
            true => Eta::Left(Duration::from_secs_f64(left_s)),
            false => Eta::Unknown,
        }
    }

    /// Lets time pass, so that a stall shows in the rates.
    pub fn advance(&mut self, now: Duration) {
        for rate in self.rate.iter_mut().chain(self.rates.values_mut()) {
            rate.advance(now);
        }
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
            Event::Finished(_) => return self.finish(id),
            Event::Failed(_, text) => {
                self.drop_node(id);
                return self.fail_images(id, text);
            }
            Event::Cancelled(_) => self.drop_node(id),
        }
        Vec::new()
    }

    fn start(&mut self, id: NodeId, now: Duration) {
        if self.nodes[id.index()].running {
            return;
        }
        let fetch = self.is_fetch(id);
        if fetch {
            // Of a fetch that had ended and is tried again, nothing of before counts.
            self.restart(id);
            self.count(id);
            self.rate.get_or_insert_with(|| Rate::new(now));
            self.rates.insert(id, Rate::new(now));
        }
        self.nodes[id.index()].running = true;
        let Some(ix) = self.nodes[id.index()].layer else { return };
        let layer = &mut self.layers[ix];
        if fetch {
            layer.fetch = Some(id);
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
        let fetch = self.is_fetch(id);
        let node = &mut self.nodes[id.index()];
        node.bytes = node.bytes.saturating_add(bytes);
        if !fetch {
            return;
        }
        // More than was planned: the total grows, so that no bar passes its end.
        let excess = node.bytes.saturating_sub(node.cost);
        node.cost = node.cost.saturating_add(excess);
        self.to_fetch = self.to_fetch.saturating_add(excess);
        self.fetched = self.fetched.saturating_add(bytes);
        for rate in self.rate.iter_mut().chain(self.rates.get_mut(&id)) {
            rate.add(bytes);
        }
    }

    fn restart(&mut self, id: NodeId) {
        let planned = self.plan.graph[id].cost_bytes;
        let fetch = self.is_fetch(id);
        let node = &mut self.nodes[id.index()];
        if fetch {
            self.fetched = self.fetched.saturating_sub(node.bytes);
            if node.counted {
                self.to_fetch = self.to_fetch.saturating_sub(node.cost).saturating_add(planned);
            }
            node.cost = planned;
        }
        node.bytes = 0;
    }

    fn finish(&mut self, id: NodeId) -> Vec<News> {
        self.settle(id);
        match self.plan.graph[id].kind {
            Kind::Finalize => self.finish_layer(id).into_iter().collect(),
            Kind::Tag => self.finish_images(id),
            _ => Vec::new(),
        }
    }

    fn finish_layer(&mut self, id: NodeId) -> Option<News> {
        let ix = self.nodes[id.index()].layer?;
        // One that was never in work had nothing to do.
        if !matches!(self.layers[ix].phase, LayerPhase::Active(_)) {
            return None;
        }
        let done = self.layer(ix);
        self.layers[ix].phase = LayerPhase::Done;
        self.active.retain(|&active| active != ix);
        self.layers_done += 1;
        Some(News::LayerDone(done))
    }

    fn finish_images(&mut self, id: NodeId) -> Vec<News> {
        let mut news = Vec::new();
        for &ix in self.tags.get(&id).into_iter().flatten() {
            if self.images[ix.0] == ImagePhase::Waiting {
                self.images[ix.0] = ImagePhase::Done;
                news.push(News::ImageDone(ix));
            }
        }
        news
    }

    fn fail_images(&mut self, id: NodeId, text: &Arc<str>) -> Vec<News> {
        let mut news = Vec::new();
        for &ix in &self.plan.graph[id].wanted_by {
            if let Some(image @ ImagePhase::Waiting) = self.images.get_mut(ix.0) {
                *image = ImagePhase::Failed;
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

    /// A node has ended: what has come of its blob is all that will come.
    fn settle(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        node.running = false;
        if node.counted {
            self.to_fetch = self.to_fetch.saturating_sub(node.cost - node.bytes);
            node.cost = node.bytes;
        }
        self.rates.remove(&id);
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
        ActiveLayer {
            finalize: layer.finalize,
            image: self.plan.graph[layer.finalize].wanted_by.first().copied(),
            since: if let LayerPhase::Active(since) = layer.phase { since } else { Duration::ZERO },
            fetching: fetch.is_some_and(|fetch| fetch.running),
            bytes: fetch.map_or(0, |fetch| fetch.bytes),
            size_bytes: fetch.map_or(0, |fetch| fetch.cost),
        }
    }
}

impl Watched {
    fn new(node: &crate::graph::Node) -> Self {
        let counted = node.kind == Kind::Fetch && node.state == State::Needed;
        Self { running: false, counted, cost: node.cost_bytes, bytes: 0, layer: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    const LIBS: u64 = 12_000_000;

    /// A tracker of two images over a stored and a needed layer; nodes 5 to 9 make the needed one.
    fn tracker() -> Tracker {
        Tracker::new(Arc::new(sample::two_images()))
    }

    fn id(index: usize) -> NodeId {
        NodeId::new(index)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn feed(tracker: &mut Tracker, events: impl IntoIterator<Item = Event>) -> Vec<News> {
        events.into_iter().flat_map(|event| tracker.apply(s(0), &event)).collect()
    }

    fn bytes(node: usize, bytes: u64) -> Event {
        Event::Progress { node: id(node), bytes }
    }

    #[test]
    fn totals_are_known_before_the_first_byte() {
        let tracker = tracker();
        assert_eq!(tracker.bytes(), (0, LIBS));
        assert_eq!(tracker.layers(), (0, 1));
        assert_eq!(tracker.images(), (0, 0, 2));
        assert_eq!(tracker.eta(), Eta::Unknown);
    }

    #[test]
    fn a_layer_and_its_images_are_done() {
        let mut tracker = tracker();
        feed(&mut tracker, [Event::Started(id(5)), bytes(5, LIBS), Event::Finished(id(5))]);
        let active = tracker.active().next().unwrap();
        assert_eq!((active.fetching, active.bytes, active.size_bytes), (false, LIBS, LIBS));
        let news =
            feed(&mut tracker, [Event::Finished(id(9)), Event::Finished(id(13)), Event::Finished(id(17))]);
        assert_eq!(news, [News::LayerDone(active), News::ImageDone(ImageIx(0)), News::ImageDone(ImageIx(1))]);
        assert_eq!((tracker.layers(), tracker.active().len()), ((1, 1), 0));
    }

    #[test]
    fn a_restart_takes_its_bytes_back() {
        let mut tracker = tracker();
        feed(&mut tracker, [Event::Started(id(5)), bytes(5, 5000), Event::Restarted(id(5)), bytes(5, 700)]);
        assert_eq!(tracker.bytes(), (700, LIBS));
        assert_eq!(tracker.node_bytes(id(5)), 700);
    }

    #[test]
    fn a_candidate_that_becomes_active_is_added_and_fails_only_its_own_image_before() {
        let mut tracker = Tracker::new(Arc::new(sample::two_candidates()));
        assert_eq!(tracker.bytes(), (0, 1000));
        feed(&mut tracker, [Event::Started(id(0)), bytes(0, 400)]);
        let news = feed(&mut tracker, [Event::Failed(id(0), "bad digest".into()), Event::Started(id(1))]);
        assert_eq!(news, [News::ImageFailed(ImageIx(0), "bad digest".into())]);
        assert_eq!(tracker.bytes(), (400, 1200));
        assert_eq!(tracker.layers(), (0, 1));
    }

    #[test]
    fn cancelled_work_leaves_the_totals() {
        let mut tracker = tracker();
        feed(&mut tracker, [Event::Started(id(5)), bytes(5, 400)]);
        let news = feed(&mut tracker, [Event::Failed(id(6), "broken tar".into())]);
        assert_eq!(news.len(), 2);
        feed(&mut tracker, [5, 7, 8, 9, 13, 17].map(|node| Event::Cancelled(id(node))));
        assert_eq!((tracker.bytes(), tracker.layers(), tracker.active().len()), ((400, 400), (0, 0), 0));
        assert_eq!(tracker.images(), (0, 2, 2));
    }

    #[test]
    fn stored_nodes_that_end_change_nothing() {
        let mut tracker = tracker();
        assert_eq!(feed(&mut tracker, (0..5).map(|node| Event::Finished(id(node)))), []);
        assert_eq!((tracker.bytes(), tracker.layers()), ((0, LIBS), (0, 1)));
    }

    #[test]
    fn the_eta_never_promises_less_than_the_slowest_fetch_needs() {
        let plan = sample::Sample::default()
            .layer("fast", State::Needed, &[0], &[(("fast.gz", 1_000_000), &[0])])
            .layer("slow", State::Needed, &[0], &[(("slow.gz", 100_000), &[0])])
            .image("a:v1", State::Needed, &["fast", "slow"]);
        let mut tracker = Tracker::new(Arc::new(plan.plan()));
        feed(&mut tracker, [Event::Started(id(0)), Event::Started(id(5))]);
        for second in 1..=10 {
            feed(&mut tracker, [bytes(0, 90_000), bytes(5, 1000)]);
            tracker.advance(s(second));
        }
        // The whole: 190 000 bytes at 91 000 a second. The slow one: 90 000 bytes at 1000 a second.
        let Eta::Left(left) = tracker.eta() else { panic!("{:?}", tracker.eta()) };
        assert_eq!(left.as_secs_f64().round(), 90.0);
    }

    #[test]
    fn nothing_is_promised_during_a_stall() {
        let mut tracker = tracker();
        feed(&mut tracker, [Event::Started(id(5)), bytes(5, 1000)]);
        tracker.advance(s(1));
        assert!(matches!(tracker.eta(), Eta::Left(_)));
        tracker.advance(s(120));
        assert_eq!(tracker.eta(), Eta::Unknown);
    }
}
