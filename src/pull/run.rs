//! Runs a plan against a repository. Knows how nodes, images and what was found fit together; the steps are
//! in the files named after them.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use composefs::fsverity::FsVerityHashValue;
use tokio::sync::Semaphore;

use super::{
    context::Context,
    documents::{Config, Manifest},
    ends::{self, ImageEnd},
    fetch::Fetch,
    image::FsBuild,
    layer::{Layer, RESERVE},
    look::{Known, KnownLayer},
    overcommit::Lane,
    pace::Pace,
    rate_limit::RateLimit,
    resolve::Resolution,
    sources::BlobSources,
    tag::Name,
    work::{Job, Jobs},
};
use crate::{
    exec::{self, Cancel, Initial, Observer, Pool, Run},
    graph::{ImageIx, Inputs, Kind, LayerInput, NodeId, Plan, State},
    source::{Patience, Retries},
    store::{Commit, Store, StoreError, StoredDocument, StreamName, Tag},
    types::{Budget, Digest, LayerKind, Limits},
};

/// The least memory with which a run makes progress, in bytes.
pub const MEMORY_MIN: u64 = 2 * RESERVE as u64;

/// How long a run that is interrupted may still finish what is nearly whole.
pub const GRACE: Duration = Duration::from_secs(5);

/// What a run may use.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Cpu threads.
    pub jobs: usize,
    /// Blobs that are transferred at once.
    pub downloads: usize,
    /// Bytes in flight; at least [`MEMORY_MIN`].
    pub memory: u64,
    /// Bytes a second from registries, if that is limited.
    pub limit_rate: Option<u64>,
    /// When a transfer that failed is tried again.
    pub retries: Retries,
    /// How long another program may be at work on a layer without getting on.
    pub patience: Patience,
    /// What is refused as hostile.
    pub limits: Limits,
    /// Whether the first image that fails ends the run. What is visible by then stays.
    pub fail_fast: bool,
}

/// An image that was given up because of another one.
#[derive(Debug, thiserror::Error)]
#[error("not done: another image failed first (--fail-fast)")]
pub struct NotDone;

/// Why a run could not even begin, or was not finished as it should.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The repository.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The system refuses threads.
    #[error(
        "cannot start worker threads: {0}: raise the limits of processes (ulimit -u) and of memory, then \
         run again"
    )]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A defect of this program.
    #[error("a defect in this program, please report it: {0}")]
    Defect(String),
}

/// How a run ended.
#[derive(Default)]
pub struct Ended {
    /// The images in the order of the plan.
    pub images: Vec<ImageEnd>,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// The most bytes that were in flight.
    pub memory_peak: usize,
}

/// Interrupts a run from elsewhere, also before it begins.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Interruptible>);

#[derive(Default)]
struct Interruptible {
    raised: Cancel,
    cut: Cancel,
    run: Mutex<Option<Run>>,
}

impl Interrupt {
    /// Tells the run to end in good order: it starts nothing new, and has [`GRACE`] to
    /// finish what is nearly whole.
    pub fn raise(&self) {
        self.0.raised.raise();
        let run = self.run().clone();
        if let Some(run) = run {
            run.drain();
        }
    }

    /// Tells the run to end now. What is committed stays.
    pub fn cut(&self) {
        self.0.cut.raise();
        self.0.raised.raise();
        let run = self.run().clone();
        if let Some(run) = run {
            run.interrupt();
        }
    }

    /// Cuts the run when its time is over after it was raised.
    async fn cut_in_time(self) {
        self.raised().await;
        tokio::time::sleep(GRACE).await;
        self.cut();
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.0.raised.is_raised()
    }

    /// Ends when it is raised.
    pub async fn raised(&self) {
        self.0.raised.raised().await;
    }

    fn attach(&self, run: &Run) {
        *self.run() = Some(run.clone());
        if self.0.cut.is_raised() {
            run.interrupt();
        } else if self.is_raised() {
            run.drain();
        }
    }

    fn detach(&self) {
        *self.run() = None;
    }

    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.0.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a run is about.
pub struct Task<'a, H: FsVerityHashValue> {
    /// The repository.
    pub store: Arc<Store<H>>,
    /// The resolved images.
    pub resolution: &'a Resolution,
    /// What the plan was made from.
    pub inputs: &'a Inputs,
    /// The plan.
    pub plan: &'a Plan,
    /// What was found in the repository when the plan was made.
    pub known: Known<H>,
}

/// Runs the plan to its end; blocks.
///
/// # Errors
/// The repository cannot be written, or the links could not be made durable.
pub fn run<H: FsVerityHashValue>(
    task: Task<'_, H>,
    settings: Settings,
    runtime: tokio::runtime::Handle,
    observer: Arc<dyn Observer>,
    interrupt: &Interrupt,
) -> Result<Ended, RunError> {
    let pool = Pool::new(settings.jobs, runtime.clone())?;
    let (plan, inputs) = (task.plan, task.inputs);
    let budget = Budget::new(usize::try_from(settings.memory).unwrap_or(usize::MAX));
    let context = Arc::new(Context {
        commit: Commit::start(&task.store)?,
        builds: Lane::new(budget.clone()),
        windows: Lane::new(budget.clone()),
        budget: budget.clone(),
        downloads: Semaphore::new(settings.downloads.max(1)),
        force: inputs.force,
        limits: settings.limits,
        retries: settings.retries,
        patience: settings.patience,
        rate_limit: settings.limit_rate.map(RateLimit::new),
        hash_first_max: if task.store.may_have_objects() { settings.memory / 4 } else { 0 },
        store: task.store.clone(),
    });
    if plan.graph.node_weights().any(|node| node.state == State::Needed) {
        task.store.try_filesystem()?;
    }
    let built = Builder::new(task).build()?;
    let jobs = Jobs { context: context.clone(), jobs: built.jobs };
    let run = Run::new(scheduled(plan), plan.images.len(), pool, observer, jobs)
        .map_err(|cycle| RunError::Defect(cycle.to_string()))?;
    if settings.fail_fast {
        run.fail_fast(NotDone);
    }
    interrupt.attach(&run);
    let cut = runtime.spawn(interrupt.clone().cut_in_time());
    let outcome = run.go();
    cut.abort();
    interrupt.detach();
    drop(run);
    let ended = Ended {
        images: ends::ends(plan, inputs, &outcome, &built.layers, &built.trees, &context.store.formats()),
        interrupted: outcome.interrupted,
        memory_peak: budget.peak(),
    };
    drop((built.layers, built.trees));
    // In a run that was cut short an image without a failure need not be done.
    let is_whole = !outcome.interrupted && outcome.defect.is_none();
    let is_done = ended.images.iter().map(|image| is_whole && image.failure.is_none());
    let done = plan.images.iter().zip(is_done).filter(|(_, is_done)| *is_done);
    let manifests = done.map(|(image, _)| StreamName::Manifest(image.manifest));
    let linked = context.commit.finish().and_then(|()| context.store.require_still_here(manifests));
    context.store.end_of_writing();
    linked?;
    match outcome.defect {
        Some(defect) => Err(RunError::Defect(defect)),
        None => Ok(ended),
    }
}

/// The plan as the scheduler sees it.
fn scheduled(plan: &Plan) -> exec::Graph {
    plan.graph.map(
        |_, node| exec::Task {
            cost: node.cost_bytes,
            wanted_by: node.wanted_by.iter().map(|image| image.0).collect(),
            initial: match node.state {
                State::Needed | State::Shared => Initial::Needed,
                State::Stored => Initial::Done,
                State::Standby => Initial::Standby,
            },
        },
        |_, edge| *edge,
    )
}

/// Gives every node its job, and everything that jobs share exactly once.
struct Builder<'a, H: FsVerityHashValue> {
    task: Task<'a, H>,
    /// The layers of images that take ambiguous entries as upstream does.
    as_upstream: HashSet<(Digest, LayerKind)>,
    /// Whether the repository has notes about ambiguous layers.
    has_notes: bool,
    layers: HashMap<(Digest, LayerKind), Arc<Layer<H>>>,
    trees: HashMap<NodeId, Arc<FsBuild<H>>>,
    configs: HashMap<NodeId, Arc<Config<H>>>,
    manifests: HashMap<NodeId, Arc<Manifest<H>>>,
    jobs: Vec<Job<H>>,
}

struct Built<H: FsVerityHashValue> {
    jobs: Vec<Job<H>>,
    layers: HashMap<(Digest, LayerKind), Arc<Layer<H>>>,
    trees: HashMap<NodeId, Arc<FsBuild<H>>>,
}

impl<'a, H: FsVerityHashValue> Builder<'a, H> {
    fn new(task: Task<'a, H>) -> Self {
        let jobs = task.plan.graph.node_indices().map(|_| Job::Stored).collect();
        let images = task.inputs.images.iter().zip(&task.resolution.images);
        let lenient = images.filter(|(_, image)| image.asked.as_upstream);
        let as_upstream =
            lenient.flat_map(|(input, _)| &input.layers).map(|layer| (layer.name, layer.kind)).collect();
        let has_notes = task.store.has_ambiguous_layers();
        let (layers, trees) = (HashMap::new(), HashMap::new());
        let (configs, manifests) = (HashMap::new(), HashMap::new());
        Self { task, as_upstream, has_notes, layers, trees, configs, manifests, jobs }
    }

    fn build(mut self) -> Result<Built<H>, StoreError> {
        let users = self.tree_users();
        for image in &self.task.inputs.images {
            for layer in &image.layers {
                self.layer(layer, users.get(&layer.name).copied().unwrap_or(0))?;
            }
        }
        for ix in 0..self.task.plan.images.len() {
            self.image(ImageIx(ix))?;
        }
        let nodes: Vec<NodeId> = self.task.plan.graph.node_indices().collect();
        for node in nodes {
            self.layer_job(node);
        }
        Ok(Built { jobs: self.jobs, layers: self.layers, trees: self.trees })
    }

    /// For each layer, how many filesystems are to be built from it.
    fn tree_users(&self) -> HashMap<Digest, usize> {
        let plan = self.task.plan;
        let mut users = HashMap::new();
        let trees =
            plan.graph.node_weights().filter(|n| n.kind == Kind::Filesystem && n.state == State::Needed);
        for first in trees.filter_map(|tree| tree.wanted_by.first()) {
            // A layer that an image has twice is used twice.
            for layer in &self.task.inputs.images[first.0].layers {
                *users.entry(layer.name).or_insert(0) += 1;
            }
        }
        users
    }

    fn layer(&mut self, input: &LayerInput, tree_users: usize) -> Result<(), StoreError> {
        let name = (input.name, input.kind);
        let known = self.task.known.layers.get(&name);
        let missing = KnownLayer::missing(input.name);
        let known = known.unwrap_or(&missing);
        let as_upstream = self.as_upstream.contains(&name);
        if let Entry::Vacant(vacant) = self.layers.entry(name) {
            let noted = match self.has_notes && known.stream.is_some() && input.kind == LayerKind::Tar {
                true => self.task.store.ambiguities(&input.name)?,
                false => Vec::new(),
            };
            let layer = Layer::new(input.name, input.kind, known, tree_users);
            vacant.insert(Arc::new(layer.reading(as_upstream, noted)));
        }
        Ok(())
    }

    fn layers_of(&self, image: ImageIx) -> Vec<Arc<Layer<H>>> {
        let layers = self.task.inputs.images[image.0].layers.iter();
        layers.filter_map(|layer| self.layers.get(&(layer.name, layer.kind)).cloned()).collect()
    }

    fn image(&mut self, ix: ImageIx) -> Result<(), StoreError> {
        let plan = self.task.plan;
        let tag = plan.images[ix.0].tag;
        let producers = |node, kind| {
            let mut all = plan.graph.neighbors_directed(node, petgraph::Direction::Incoming);
            all.find(|producer| plan.graph[*producer].kind == kind)
        };
        let Some(manifest) = producers(tag, Kind::Manifest) else { return Ok(()) };
        let Some(config) = producers(manifest, Kind::Config) else { return Ok(()) };
        let tree = producers(config, Kind::Filesystem);
        let tree = tree.map(|node| self.tree(node, ix));
        let config = self.config(config, ix, tree);
        let manifest = self.manifest(manifest, ix, config);
        if plan.graph[tag].state != State::Stored {
            let tag_name = Tag::new(&plan.images[ix.0].name)?;
            let as_upstream = self.task.resolution.images[ix.0].asked.as_upstream;
            self.jobs[tag.index()] = Job::Tag(Arc::new(Name { tag: tag_name, manifest, as_upstream }));
        }
        Ok(())
    }

    fn tree(&mut self, node: NodeId, ix: ImageIx) -> Arc<FsBuild<H>> {
        if let Some(tree) = self.trees.get(&node) {
            return tree.clone();
        }
        let key = self.task.plan.graph[node].key;
        let known = self.task.known.trees.get(&key).cloned();
        let tree = Arc::new(FsBuild::new(key, self.layers_of(ix), known));
        self.jobs[node.index()] = Job::Image(tree.clone());
        self.trees.insert(node, tree.clone());
        tree
    }

    fn config(&mut self, node: NodeId, ix: ImageIx, tree: Option<Arc<FsBuild<H>>>) -> Arc<Config<H>> {
        if let Some(config) = self.configs.get(&node) {
            return config.clone();
        }
        let resolved = &self.task.resolution.images[ix.0].resolved;
        let document = (resolved.config_digest, resolved.config.clone());
        let stored = self.task.known.configs.get(&document.0).cloned().unwrap_or(StoredDocument::Missing);
        let done = self.task.plan.graph[node].state == State::Stored;
        let layers = if resolved.config_lists_layers { self.layers_of(ix) } else { Vec::new() };
        let config = Arc::new(Config::new(document, layers, tree, stored, done));
        self.jobs[node.index()] = Job::Config(config.clone());
        self.configs.insert(node, config.clone());
        config
    }

    fn manifest(&mut self, node: NodeId, ix: ImageIx, config: Arc<Config<H>>) -> Arc<Manifest<H>> {
        if let Some(manifest) = self.manifests.get(&node) {
            return manifest.clone();
        }
        let resolved = &self.task.resolution.images[ix.0].resolved;
        let document = (resolved.manifest_digest, resolved.manifest.clone());
        let stored = self.task.known.manifests.get(&document.0).cloned().unwrap_or(StoredDocument::Missing);
        let done = self.task.plan.graph[node].state == State::Stored;
        let manifest = Arc::new(Manifest::new(document, self.layers_of(ix), config, stored, done));
        self.jobs[node.index()] = Job::Manifest(manifest.clone());
        self.manifests.insert(node, manifest.clone());
        manifest
    }

    /// The job of a node that belongs to a layer, found through the images that want it.
    fn layer_job(&mut self, node: NodeId) {
        let graph = &self.task.plan.graph;
        let (kind, state) = (graph[node].kind, graph[node].state);
        if state == State::Stored {
            return;
        }
        let Some(input) = self.layer_input(node) else { return };
        let Some(layer) = self.layers.get(&(input.name, input.kind)).cloned() else { return };
        self.jobs[node.index()] = match kind {
            Kind::Fetch => {
                let images = graph[node].wanted_by.iter();
                let sources = images.map(|ix| self.task.resolution.images[ix.0].source.clone()).collect();
                let places = Arc::new(BlobSources::new(sources));
                let pace = Pace::default();
                Job::Fetch(Arc::new(Fetch { layer, blob: input.blob, places, pace }))
            }
            Kind::Split => Job::Split(layer),
            Kind::Write => {
                // A layer has one such node, so nobody has set it before.
                let _ = layer.write_node.set(node);
                Job::Write(layer)
            }
            Kind::Encode => Job::Encode(layer),
            Kind::Finalize => Job::Finalize(layer, graph[node].key),
            Kind::Config | Kind::Manifest | Kind::Filesystem | Kind::Tag => return,
        };
    }

    fn layer_input(&self, node: NodeId) -> Option<LayerInput> {
        self.task.plan.layer_of(self.task.inputs, node).cloned()
    }
}
