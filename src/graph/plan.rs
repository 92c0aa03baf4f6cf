//! From resolved images and what is stored to a plan. Pure: the same inputs give the same plan.
//!
//! Every node is interned by its key, so that a layer wanted by five images is there once, also when they
//! reach it through differently compressed blobs: then those blobs are its candidates, in the order in which
//! the request names them, and none is read if the layer is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Edge, ImageIx, Key, Kind, Node, NodeId, Part, Plan, PlannedImage, Reason, Selection, State, Subject,
    key::FORMAT,
    parts::{self, Parts},
};
use crate::types::{Descriptor, Digest, LayerKind};

/// One layer of an image, as its manifest and config name it.
#[derive(Debug, Clone)]
pub struct LayerInput {
    /// What its stream is named after: the `diff_id`, or the blob digest of an artifact's layer.
    pub name: Digest,
    /// How it is stored.
    pub kind: LayerKind,
    /// The blob that this image reaches it through.
    pub blob: Descriptor,
}

/// One resolved image.
#[derive(Debug, Clone)]
pub struct ImageInput {
    /// The name that it will get.
    pub name: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// sha256 of the manifest's bytes as stored, and their number.
    pub manifest: (Digest, u64),
    /// sha256 of the config's bytes, and their number.
    pub config: (Digest, u64),
    /// Bottom first.
    pub layers: Vec<LayerInput>,
    /// Whether it has a filesystem: false for artifacts.
    pub container: bool,
    /// Whether its config names its layers: a container's always, an artifact's if it calls itself a
    /// container's.
    pub config_lists_layers: bool,
    /// The platform that was asked for, if this image has one of its own.
    pub platform: Option<String>,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The images in the order of the request.
    pub images: Vec<ImageInput>,
    /// What changes the bytes that a repository gets: its algorithm and its EROFS formats, as text.
    pub repository: String,
    /// The platform that was asked for, if one was.
    pub platform: Option<String>,
    /// Everything is to be made again, also what is stored.
    pub force: bool,
    /// Which images each rule of a list chose; empty for a pull.
    pub selections: Vec<Selection>,
    /// Names to be taken away after everything else succeeded.
    pub untag: Vec<String>,
}

/// What the repository holds, looked up before planning.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Layers whose streams are there and whole.
    pub layers: BTreeSet<(Digest, LayerKind)>,
    /// Layers that were made before and are not whole now.
    pub broken_layers: BTreeMap<(Digest, LayerKind), Damage>,
    /// Configs, those that name layers (`true`) and others: whether they carry every reference that is needed
    /// there.
    pub configs: BTreeMap<(Digest, bool), bool>,
    /// Manifests: whether they name the linked config and layers.
    pub manifests: BTreeMap<Digest, bool>,
    /// Filesystem images that are there, by the key of their tree.
    pub trees: BTreeSet<Key>,
    /// Names and the manifests that they point to.
    pub tags: BTreeMap<String, Digest>,
    /// What names stood for when they were pulled last, as far as that is remembered.
    pub before: BTreeMap<String, Before>,
}

/// What is wrong with something that was made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Something of it is not there, or cannot be read.
    Missing,
    /// Something of it has another size than it should.
    Size,
}

/// What a name stood for when it was pulled last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// [`FORMAT`] at that time.
    pub format: String,
    /// [`Inputs::repository`] at that time.
    pub repository: String,
    /// The manifest as stored.
    pub manifest: Digest,
    /// The config.
    pub config: Digest,
    /// The filesystem, if there was one.
    pub tree: Option<Key>,
}

/// Makes the plan for `inputs` in a repository that holds `facts`.
pub fn plan(inputs: &Inputs, facts: &Facts) -> Plan {
    let (repository, platform) = (inputs.repository.clone(), inputs.platform.clone());
    let (selections, untag) = (inputs.selections.clone(), inputs.untag.clone());
    let plan = Plan { repository, platform, selections, untag, ..Plan::default() };
    let mut builder = Builder { inputs, facts, plan, interned: HashMap::new() };
    for (index, image) in inputs.images.iter().enumerate() {
        builder.image(ImageIx(index), image);
    }
    builder.plan
}

impl Plan {
    /// The layer that `node` is a step of, as the first image that wants the node names it; `None` for nodes
    /// that belong to no layer.
    pub fn layer_of<'a>(&self, inputs: &'a Inputs, node: NodeId) -> Option<&'a LayerInput> {
        let kind = self.graph[node].kind;
        let mut finalize = node;
        // A layer's steps lead to its last one by the first edge of each.
        while self.graph[finalize].kind != Kind::Finalize {
            let mut next = self.graph.neighbors_directed(finalize, petgraph::Direction::Outgoing);
            finalize = next.find(|n| self.graph[*n].kind.is_of_layer())?;
        }
        let image = *self.graph[node].wanted_by.first()?;
        let at = self.images[image.0].layers.iter().enumerate().filter(|(_, layer)| **layer == finalize);
        let mut own = at.map(|(at, _)| &inputs.images[image.0].layers[at]);
        match (kind, &self.graph[node].subject) {
            (Kind::Fetch, Subject::Blob(blob)) => own.find(|layer| layer.blob.digest == *blob),
            _ => own.next(),
        }
    }
}

/// The key under which a layer's last step is remembered in a repository.
pub fn layer_key(repository: &str, layer: &LayerInput) -> Key {
    parts::key(Kind::Finalize, &parts::of_layer(repository, layer.kind, layer.name))
}

/// The key of the filesystem of `layers` (names, bottom first) in a repository.
pub fn tree_key<'a>(repository: &str, layers: impl IntoIterator<Item = &'a Digest>) -> Key {
    parts::key(Kind::Filesystem, &parts::of_tree(repository, layers.into_iter().copied().collect()))
}

struct Builder<'a> {
    inputs: &'a Inputs,
    facts: &'a Facts,
    plan: Plan,
    interned: HashMap<Key, NodeId>,
}

impl Builder<'_> {
    fn image(&mut self, ix: ImageIx, image: &ImageInput) {
        let layers: Vec<NodeId> = image.layers.iter().map(|layer| self.layer(ix, layer)).collect();
        let config = self.config(ix, image, &layers);
        let manifest = self.manifest(ix, image, config, &layers);
        let tag = self.tag(ix, image, manifest);
        self.plan.images.push(PlannedImage {
            name: image.name.clone(),
            reference: image.reference.clone(),
            manifest: image.manifest.0,
            config: image.config.0,
            layers,
            tag,
            named: self.facts.tags.get(&image.name).copied(),
            platform: image.platform.clone(),
        });
    }

    /// The nodes of a layer; the one that others need is its `Finalize`.
    fn layer(&mut self, ix: ImageIx, layer: &LayerInput) -> NodeId {
        let (state, reason) = self.layer_state(layer);
        let subject = Subject::Layer(layer.name);
        let parts = parts::of_layer(&self.inputs.repository, layer.kind, layer.name);
        let [split, write, encode, finalize] = STEPS.map(|kind| {
            let cost = if kind == Kind::Finalize { 0 } else { layer.blob.size };
            let node = node(kind, &subject, &parts, (state, reason), cost);
            self.intern(ix, Node { dynamic: kind != Kind::Finalize, layer_kind: Some(layer.kind), ..node }).0
        });
        for (from, to, edge) in [
            (split, write, Edge::Streams),
            (split, encode, Edge::Streams),
            (write, encode, Edge::Streams),
            (write, finalize, Edge::Needs),
            (encode, finalize, Edge::Needs),
        ] {
            self.edge(from, to, edge);
        }
        self.fetch(ix, layer, split, state);
        finalize
    }

    fn layer_state(&self, layer: &LayerInput) -> (State, Reason) {
        let name = (layer.name, layer.kind);
        match self.facts.broken_layers.get(&name) {
            _ if self.inputs.force => (State::Needed, Reason::Forced),
            _ if self.facts.layers.contains(&name) => (State::Stored, Reason::Stored),
            Some(Damage::Missing) => (State::Needed, Reason::OutputsMissing),
            Some(Damage::Size) => (State::Needed, Reason::SizeWrong),
            None => (State::Needed, Reason::NotStored),
        }
    }

    /// The blob as one more way to the layer. A fetch belongs to one layer: two layers that claim the same
    /// blob cannot both be right, and each is checked by itself. So are two sizes of one blob.
    fn fetch(&mut self, ix: ImageIx, layer: &LayerInput, split: NodeId, layer_state: State) {
        let (split_key, reason) = (self.plan.graph[split].key, self.plan.graph[split].reason);
        let before = self.plan.graph.neighbors_directed(split, petgraph::Direction::Incoming).count();
        let state = match (layer_state, before) {
            (State::Stored, _) => State::Stored,
            (_, 0) => State::Needed,
            _ => State::Standby,
        };
        let parts = parts::of_fetch(layer.blob.digest, layer.blob.size, split_key);
        let subject = Subject::Blob(layer.blob.digest);
        let fetch = node(Kind::Fetch, &subject, &parts, (state, reason), layer.blob.size);
        let (fetch, new) = self.intern(ix, fetch);
        if new {
            self.plan.graph.add_edge(fetch, split, Edge::Candidate { rank: before as u32 });
        }
    }

    fn config(&mut self, ix: ImageIx, image: &ImageInput, layers: &[NodeId]) -> NodeId {
        let (digest, size) = image.config;
        let tree = image.container.then(|| self.tree(ix, image, layers));
        let tree_key = tree.map(|tree| self.plan.graph[tree].key);
        let lists_layers = image.config_lists_layers;
        let parts = parts::of_config(&self.inputs.repository, digest, tree_key, lists_layers);
        let change = |before: &Before| {
            (before.config != digest)
                .then_some(Part::Digest)
                .or_else(|| self.repository_change(before))
                .or_else(|| (before.tree != tree_key).then_some(Part::Filesystem))
        };
        let why = self.document_state(image, self.facts.configs.get(&(digest, lists_layers)), change);
        let (config, _) = self.intern(ix, node(Kind::Config, &Subject::Document(digest), &parts, why, size));
        if let Some(tree) = tree {
            self.edge(tree, config, Edge::Needs);
            if self.plan.graph[tree].state == State::Stored {
                // A filesystem that is there waits for nobody, but a layer of it may have to be split again,
                // and the config names it.
                for layer in layers {
                    self.edge(*layer, config, Edge::Needs);
                }
            }
        } else if lists_layers {
            for layer in layers {
                self.edge(*layer, config, Edge::Needs);
            }
        }
        config
    }

    fn tree(&mut self, ix: ImageIx, image: &ImageInput, layers: &[NodeId]) -> NodeId {
        let names = image.layers.iter().map(|layer| layer.name).collect();
        let parts = parts::of_tree(&self.inputs.repository, names);
        let key = parts::key(Kind::Filesystem, &parts);
        let change = |before: &Before| {
            let other = before.tree.is_some_and(|tree| tree != key);
            other.then(|| self.repository_change(before).unwrap_or(Part::Layers))
        };
        let why = if self.inputs.force {
            (State::Needed, Reason::Forced)
        } else if self.facts.trees.contains(&key) {
            (State::Stored, Reason::Stored)
        } else if self.facts.before.get(&image.name).is_some_and(|before| before.tree.is_none()) {
            // It was an artifact then.
            (State::Needed, Reason::NotStored)
        } else {
            (State::Needed, self.absent(image, change))
        };
        let (tree, _) = self.intern(ix, node(Kind::Filesystem, &Subject::Tree(key), &parts, why, 0));
        for layer in layers {
            self.edge(*layer, tree, Edge::Needs);
        }
        tree
    }

    fn manifest(&mut self, ix: ImageIx, image: &ImageInput, config: NodeId, layers: &[NodeId]) -> NodeId {
        let (digest, size) = image.manifest;
        let parts = parts::of_manifest(digest, self.plan.graph[config].key);
        let change = |before: &Before| (before.manifest != digest).then_some(Part::Digest);
        let why = self.document_state(image, self.facts.manifests.get(&digest), change);
        let (manifest, _) =
            self.intern(ix, node(Kind::Manifest, &Subject::Document(digest), &parts, why, size));
        self.edge(config, manifest, Edge::Needs);
        if !image.container {
            // An artifact's layers hang on its manifest: its config is often one that all artifacts share.
            // Those of a config that lists them are waited for twice, which costs nothing.
            for layer in layers {
                self.edge(*layer, manifest, Edge::Needs);
            }
        }
        manifest
    }

    fn tag(&mut self, ix: ImageIx, image: &ImageInput, manifest: NodeId) -> NodeId {
        let parts = parts::of_tag(&image.name, self.plan.graph[manifest].key);
        // A name is done only when all before it is: what is missing below has to be linked again.
        let below_is_stored = self.plan.graph[manifest].state == State::Stored && self.layers_stored(image);
        let why = match self.facts.tags.get(&image.name) {
            Some(digest) if *digest != image.manifest.0 => (State::Needed, Reason::TagMoved),
            _ if self.inputs.force => (State::Needed, Reason::Forced),
            Some(_) if below_is_stored => (State::Stored, Reason::Stored),
            Some(_) => (State::Needed, Reason::OutputsMissing),
            None => (State::Needed, Reason::NotStored),
        };
        let subject = Subject::Name(image.name.clone());
        let (tag, _) = self.intern(ix, node(Kind::Tag, &subject, &parts, why, 0));
        self.edge(manifest, tag, Edge::Needs);
        tag
    }

    /// State and reason of a document: `stored` says whether it carries every reference that is needed.
    fn document_state(
        &self,
        image: &ImageInput,
        stored: Option<&bool>,
        change: impl FnOnce(&Before) -> Option<Part>,
    ) -> (State, Reason) {
        match stored {
            _ if self.inputs.force => (State::Needed, Reason::Forced),
            Some(true) => (State::Stored, Reason::Stored),
            Some(false) => (State::Needed, Reason::OutputsMissing),
            None => (State::Needed, self.absent(image, change)),
        }
    }

    /// Why something of `image` is not there: `change` says what is another since it was pulled last.
    fn absent(&self, image: &ImageInput, change: impl FnOnce(&Before) -> Option<Part>) -> Reason {
        match self.facts.before.get(&image.name) {
            Some(before) => change(before).map_or(Reason::OutputsMissing, Reason::KeyChanged),
            None => Reason::NotStored,
        }
    }

    fn repository_change(&self, before: &Before) -> Option<Part> {
        let format = (before.format != FORMAT).then_some(Part::Format);
        format.or_else(|| (before.repository != self.inputs.repository).then_some(Part::Repository))
    }

    fn layers_stored(&self, image: &ImageInput) -> bool {
        image.layers.iter().all(|l| self.facts.layers.contains(&(l.name, l.kind)))
    }

    /// The node of that key, wanted by one more image; and whether it is new.
    fn intern(&mut self, ix: ImageIx, node: Node) -> (NodeId, bool) {
        let graph = &mut self.plan.graph;
        let (id, new) = match self.interned.get(&node.key) {
            Some(id) => (*id, false),
            None => {
                let key = node.key;
                let id = graph.add_node(node);
                self.interned.insert(key, id);
                (id, true)
            }
        };
        if graph[id].wanted_by.last() != Some(&ix) {
            graph[id].wanted_by.push(ix);
        }
        (id, new)
    }

    fn edge(&mut self, from: NodeId, to: NodeId, edge: Edge) {
        self.plan.graph.update_edge(from, to, edge);
    }
}

/// The steps of a layer that have its name.
const STEPS: [Kind; 4] = [Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize];

fn node(kind: Kind, subject: &Subject, parts: &Parts, why: (State, Reason), cost_bytes: u64) -> Node {
    let (state, reason) = why;
    Node {
        kind,
        subject: subject.clone(),
        key: parts::key(kind, parts),
        layer_kind: None,
        state,
        reason,
        cost_bytes,
        dynamic: false,
        wanted_by: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
