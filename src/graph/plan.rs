//! From resolved images and what is stored to a plan. Pure: the same inputs give the same plan.
//!
//! Every node is interned by its key, so that a layer wanted by five images is there once, also when they
//! reach it through differently compressed blobs: then those blobs are its candidates, in the order in which
//! the request names them, and none is read if the layer is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Edge, ImageIx, Key, Kind, Node, NodeId, Plan, PlannedImage, Reason, State, Subject};
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
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The images in the order of the request.
    pub images: Vec<ImageInput>,
    /// What changes the bytes that a repository gets: its algorithm and its EROFS formats, as text.
    pub repository: String,
}

/// What the repository holds, looked up before planning.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Layers whose streams are there and whole.
    pub layers: BTreeSet<(Digest, LayerKind)>,
    /// Layers whose links are there and name something broken.
    pub broken_layers: BTreeSet<(Digest, LayerKind)>,
    /// Configs: whether they carry every reference that is needed.
    pub configs: BTreeMap<Digest, bool>,
    /// Manifests: whether they name the linked config and layers.
    pub manifests: BTreeMap<Digest, bool>,
    /// Filesystem images that are there, by the key of their tree.
    pub trees: BTreeSet<Key>,
    /// Names and the manifests that they point to.
    pub tags: BTreeMap<String, Digest>,
}

/// Makes the plan for `inputs` in a repository that holds `facts`.
pub fn plan(inputs: &Inputs, facts: &Facts) -> Plan {
    let mut builder = Builder { inputs, facts, plan: Plan::default(), interned: HashMap::new() };
    for (index, image) in inputs.images.iter().enumerate() {
        builder.image(ImageIx(index), image);
    }
    builder.plan
}

impl Plan {
    /// The layer that `node` is a step of, as the first image that wants the node names it; `None` for nodes that
    /// belong to no layer.
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

/// The key of the filesystem of `layers` (names, bottom first) in a repository.
pub fn tree_key<'a>(repository: &'a str, layers: impl IntoIterator<Item = &'a Digest>) -> Key {
    let layers = layers.into_iter().map(|l| l.as_bytes().as_slice());
    Key::new("image", [repository.as_bytes()].into_iter().chain(layers))
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
        });
    }

    /// The nodes of a layer; the one that others need is its `Finalize`.
    fn layer(&mut self, ix: ImageIx, layer: &LayerInput) -> NodeId {
        let name = (layer.name, layer.kind);
        let (state, reason) = if self.facts.layers.contains(&name) {
            (State::Stored, Reason::LayerStored)
        } else if self.facts.broken_layers.contains(&name) {
            (State::Needed, Reason::LayerBroken)
        } else {
            (State::Needed, Reason::LayerMissing)
        };
        let kind = format!("{:?}", layer.kind);
        let key = |step: &str| {
            Key::new(step, [self.inputs.repository.as_bytes(), kind.as_bytes(), layer.name.as_bytes()])
        };
        let steps = [Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize].map(|k| (k, key(k.name())));
        let subject = Subject::Layer(layer.name);
        let [split, write, encode, finalize] = steps.map(|(kind, key)| {
            let cost = if kind == Kind::Finalize { 0 } else { layer.blob.size };
            let node =
                Node { dynamic: kind != Kind::Finalize, ..node(kind, &subject, key, state, reason, cost) };
            self.intern(ix, node).0
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

    /// The blob as one more way to the layer. A fetch belongs to one layer: two layers that claim the same blob
    /// cannot both be right, and each is checked by itself. So are two sizes of one blob.
    fn fetch(&mut self, ix: ImageIx, layer: &LayerInput, split: NodeId, layer_state: State) {
        let split_key = self.plan.graph[split].key;
        let size = layer.blob.size.to_le_bytes();
        let key = Key::new("fetch", [layer.blob.digest.as_bytes().as_slice(), &size, split_key.as_bytes()]);
        let before = self.plan.graph.neighbors_directed(split, petgraph::Direction::Incoming).count();
        let (state, reason) = match (layer_state, before) {
            (State::Stored, _) => (State::Stored, Reason::BlobNotRead),
            (_, 0) => (State::Needed, Reason::BlobNeeded),
            _ => (State::Standby, Reason::BlobAlternative),
        };
        let subject = Subject::Blob(layer.blob.digest);
        let (fetch, new) = self.intern(ix, node(Kind::Fetch, &subject, key, state, reason, layer.blob.size));
        if new {
            self.plan.graph.add_edge(fetch, split, Edge::Candidate { rank: before as u32 });
        }
    }

    fn config(&mut self, ix: ImageIx, image: &ImageInput, layers: &[NodeId]) -> NodeId {
        let (digest, size) = image.config;
        let tree = image.container.then(|| self.tree(ix, image, layers));
        let tree_key = tree.map(|tree| self.plan.graph[tree].key);
        let tree_key = tree_key.as_ref().map_or(&[][..], Key::as_bytes);
        let key = Key::new("config", [self.inputs.repository.as_bytes(), digest.as_bytes(), tree_key]);
        let (state, reason) = document(self.facts.configs.get(&digest));
        let subject = Subject::Document(digest);
        let (config, _) = self.intern(ix, node(Kind::Config, &subject, key, state, reason, size));
        if let Some(tree) = tree {
            self.edge(tree, config, Edge::Needs);
            if self.plan.graph[tree].state == State::Stored {
                // A filesystem that is there waits for nobody, but a layer of it may have to be split again, and
                // the config names it.
                for layer in layers {
                    self.edge(*layer, config, Edge::Needs);
                }
            }
        }
        config
    }

    fn tree(&mut self, ix: ImageIx, image: &ImageInput, layers: &[NodeId]) -> NodeId {
        let key = tree_key(&self.inputs.repository, image.layers.iter().map(|l| &l.name));
        let (state, reason) = if self.facts.trees.contains(&key) {
            (State::Stored, Reason::TreeStored)
        } else {
            (State::Needed, Reason::TreeMissing)
        };
        let (tree, _) = self.intern(ix, node(Kind::Image, &Subject::Tree(key), key, state, reason, 0));
        for layer in layers {
            self.edge(*layer, tree, Edge::Needs);
        }
        tree
    }

    fn manifest(&mut self, ix: ImageIx, image: &ImageInput, config: NodeId, layers: &[NodeId]) -> NodeId {
        let (digest, size) = image.manifest;
        let config_key = self.plan.graph[config].key;
        let key = Key::new("manifest", [digest.as_bytes().as_slice(), config_key.as_bytes()]);
        let (state, reason) = document(self.facts.manifests.get(&digest));
        let subject = Subject::Document(digest);
        let (manifest, _) = self.intern(ix, node(Kind::Manifest, &subject, key, state, reason, size));
        self.edge(config, manifest, Edge::Needs);
        if !image.container {
            // An artifact's layers hang on its manifest: its config is often one that all artifacts share.
            for layer in layers {
                self.edge(*layer, manifest, Edge::Needs);
            }
        }
        manifest
    }

    fn tag(&mut self, ix: ImageIx, image: &ImageInput, manifest: NodeId) -> NodeId {
        let manifest_key = self.plan.graph[manifest].key;
        let key = Key::new("tag", [image.name.as_bytes(), manifest_key.as_bytes()]);
        // A name is done only when all before it is: what is missing below has to be linked again.
        let below_is_stored = self.plan.graph[manifest].state == State::Stored && self.layers_stored(image);
        let (state, reason) = match self.facts.tags.get(&image.name) {
            Some(digest) if *digest == image.manifest.0 && below_is_stored => {
                (State::Stored, Reason::NameStored)
            }
            Some(digest) if *digest == image.manifest.0 => (State::Needed, Reason::NameStored),
            Some(_) => (State::Needed, Reason::NameMoves),
            None => (State::Needed, Reason::NameMissing),
        };
        let subject = Subject::Name(image.name.clone());
        let (tag, _) = self.intern(ix, node(Kind::Tag, &subject, key, state, reason, 0));
        self.edge(manifest, tag, Edge::Needs);
        tag
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

fn node(kind: Kind, subject: &Subject, key: Key, state: State, reason: Reason, cost_bytes: u64) -> Node {
    let subject = subject.clone();
    Node { kind, subject, key, state, reason, cost_bytes, dynamic: false, wanted_by: Vec::new() }
}

fn document(fact: Option<&bool>) -> (State, Reason) {
    match fact {
        Some(true) => (State::Stored, Reason::DocumentStored),
        Some(false) => (State::Needed, Reason::DocumentOutdated),
        None => (State::Needed, Reason::DocumentMissing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn layer(name: &str, blob: &str, size: u64) -> LayerInput {
        let blob = Descriptor { media_type: String::new(), digest: digest(blob), size };
        LayerInput { name: digest(name), kind: LayerKind::Tar, blob }
    }

    fn image(name: &str, layers: Vec<LayerInput>) -> ImageInput {
        ImageInput {
            name: name.into(),
            reference: format!("oci:{name}"),
            manifest: (digest(&format!("manifest {name}")), 10),
            config: (digest(&format!("config {name}")), 20),
            layers,
            container: true,
        }
    }

    fn inputs(images: Vec<ImageInput>) -> Inputs {
        Inputs { images, repository: "sha512 v1".into() }
    }

    fn of(plan: &Plan, kind: Kind) -> Vec<&Node> {
        plan.graph.node_weights().filter(|n| n.kind == kind).collect()
    }

    #[test]
    fn a_layer_that_five_images_want_is_there_once() {
        let images = (0..5).map(|i| image(&format!("i{i}"), vec![layer("base", "blob", 7)])).collect();
        let plan = plan(&inputs(images), &Facts::default());
        for kind in [Kind::Fetch, Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize, Kind::Image] {
            assert_eq!(of(&plan, kind).len(), 1, "{kind:?}");
            assert_eq!(of(&plan, kind)[0].wanted_by, (0..5).map(ImageIx).collect::<Vec<_>>());
        }
        assert_eq!((of(&plan, Kind::Config).len(), of(&plan, Kind::Tag).len()), (5, 5));
        assert!(plan.graph.node_count() <= 10 + 5 * 5);
    }

    #[test]
    fn differently_compressed_blobs_are_candidates_of_one_layer() {
        let images = vec![
            image("a", vec![layer("base", "gzip", 7)]),
            image("b", vec![layer("base", "zstd", 5)]),
            image("c", vec![layer("base", "gzip", 7)]),
        ];
        let plan = plan(&inputs(images), &Facts::default());
        let fetches = of(&plan, Kind::Fetch);
        let got: Vec<_> = fetches.iter().map(|n| (n.state, n.wanted_by.clone())).collect();
        assert_eq!(
            got,
            vec![(State::Needed, vec![ImageIx(0), ImageIx(2)]), (State::Standby, vec![ImageIx(1)])]
        );
        let ranks: Vec<Edge> =
            plan.graph.edge_weights().copied().filter(|e| matches!(e, Edge::Candidate { .. })).collect();
        assert_eq!(ranks, vec![Edge::Candidate { rank: 0 }, Edge::Candidate { rank: 1 }]);
    }

    #[test]
    fn what_is_stored_is_not_done_again() {
        let request = inputs(vec![image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3)])]);
        let mut facts = Facts::default();
        facts.layers.insert((digest("base"), LayerKind::Tar));
        let half = plan(&request, &facts);
        let needed = |plan: &Plan| plan.graph.node_weights().filter(|n| n.state == State::Needed).count();
        assert_eq!(needed(&half), 5 + 4, "one layer, the filesystem, config, manifest and tag");
        facts.layers.insert((digest("top"), LayerKind::Tar));
        facts.trees.insert(tree_key("sha512 v1", [&digest("base"), &digest("top")]));
        facts.configs.insert(request.images[0].config.0, true);
        facts.manifests.insert(request.images[0].manifest.0, true);
        facts.tags.insert("a".into(), request.images[0].manifest.0);
        assert_eq!(needed(&plan(&request, &facts)), 0);
        facts.tags.insert("a".into(), digest("another"));
        let moved = plan(&request, &facts);
        assert_eq!((needed(&moved), of(&moved, Kind::Tag)[0].reason), (1, Reason::NameMoves));
    }

    #[test]
    fn a_config_waits_for_its_layers_also_when_the_filesystem_is_there() {
        let request = inputs(vec![image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3)])]);
        let mut facts = Facts::default();
        facts.layers.insert((digest("base"), LayerKind::Tar));
        facts.broken_layers.insert((digest("top"), LayerKind::Tar));
        facts.trees.insert(tree_key("sha512 v1", [&digest("base"), &digest("top")]));
        facts.configs.insert(request.images[0].config.0, false);
        let plan = plan(&request, &facts);
        let is = |node: NodeId, kind| plan.graph[node].kind == kind;
        let config = plan.graph.node_indices().find(|node| is(*node, Kind::Config)).unwrap();
        let before = plan.graph.neighbors_directed(config, petgraph::Direction::Incoming);
        assert_eq!(before.filter(|node| is(*node, Kind::Finalize)).count(), 2);
    }

    #[test]
    fn a_key_covers_what_changes_bytes_and_nothing_else() {
        let one = inputs(vec![image("a", vec![layer("base", "gzip", 7)])]);
        let mut renamed = one.clone();
        renamed.images[0].name = "b".into();
        renamed.images[0].reference = "docker://elsewhere".into();
        let mut other_repository = one.clone();
        other_repository.repository = "sha256 v1".into();
        let key = |inputs: &Inputs, kind| of(&plan(inputs, &Facts::default()), kind)[0].key;
        for kind in [Kind::Fetch, Kind::Split, Kind::Finalize, Kind::Image, Kind::Config, Kind::Manifest] {
            assert_eq!(key(&one, kind), key(&renamed, kind), "{kind:?}");
            assert_ne!(key(&one, kind), key(&other_repository, kind), "{kind:?}");
        }
        assert_ne!(key(&one, Kind::Tag), key(&renamed, Kind::Tag));
    }

    #[test]
    fn a_layer_that_occurs_twice_in_an_image_is_one_layer() {
        let plan =
            plan(&inputs(vec![image("a", vec![layer("x", "x", 1), layer("x", "x", 1)])]), &Facts::default());
        assert_eq!(of(&plan, Kind::Split).len(), 1);
        assert_eq!(plan.images[0].layers.len(), 2);
        assert_ne!(tree_key("", [&digest("x")]), tree_key("", [&digest("x"), &digest("x")]));
    }
}
