//! What a node's key is made of, part by part, so that a change can be told by its name. Knows each kind's
//! parts; ignores why they matter.

use std::fmt;

use petgraph::Direction;

use super::{Key, Kind, Node, NodeId, Plan, Subject};
use crate::types::{Digest, LayerKind};

/// One part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The version of what this program makes.
    Format,
    /// What changes the bytes that a repository gets: its algorithm and its EROFS formats.
    Repository,
    /// How a layer is stored.
    Storage,
    /// The layer: its `diff_id`, or the blob digest of an artifact's layer.
    Layer,
    /// The blob as transferred.
    Blob,
    /// The blob's size.
    Size,
    /// The layers of a filesystem, bottom first.
    Layers,
    /// A document's digest.
    Digest,
    /// The filesystem that a config names.
    Filesystem,
    /// The config that a manifest names.
    Config,
    /// The manifest that a name points to.
    Manifest,
    /// The name.
    Name,
}

/// What a part is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number of bytes.
    Bytes(u64),
    /// Content.
    Digest(Digest),
    /// More content, in order.
    Digests(Vec<Digest>),
    /// What another node makes.
    Key(Key),
}

/// The parts of a key, in the order in which it covers them.
pub type Parts = Vec<(Part, Value)>;

impl Part {
    /// Those that may be another when the same name is pulled again. With another of the rest it is other
    /// work: another layer, another name.
    pub const CHANGES: [Self; 5] =
        [Self::Format, Self::Repository, Self::Layers, Self::Digest, Self::Filesystem];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Repository => "repository",
            Self::Storage => "storage",
            Self::Layer => "layer",
            Self::Blob => "blob",
            Self::Size => "size",
            Self::Layers => "layers",
            Self::Digest => "digest",
            Self::Filesystem => "filesystem",
            Self::Config => "config",
            Self::Manifest => "manifest",
            Self::Name => "name",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
            Self::Digests(digests) => {
                let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
                f.write_str(&texts.join(" "))
            }
            Self::Key(key) => f.write_str(&key.hex()),
        }
    }
}

/// The key of `kind` over `parts`.
pub(super) fn key(kind: Kind, parts: &Parts) -> Key {
    let numbers: Vec<[u8; 8]> = parts.iter().map(|(_, value)| number(value).to_le_bytes()).collect();
    let bytes = parts.iter().zip(&numbers).flat_map(|((_, value), number)| match value {
        Value::Text(text) => vec![text.as_bytes()],
        Value::Bytes(_) => vec![number.as_slice()],
        Value::Digest(digest) => vec![digest.as_bytes().as_slice()],
        Value::Digests(digests) => digests.iter().map(|digest| digest.as_bytes().as_slice()).collect(),
        Value::Key(key) => vec![key.as_bytes()],
    });
    Key::new(kind.name(), bytes)
}

fn number(value: &Value) -> u64 {
    if let Value::Bytes(bytes) = value { *bytes } else { 0 }
}

/// Of a step of a layer, but for its fetch.
pub(super) fn of_layer(repository: &str, kind: LayerKind, name: Digest) -> Parts {
    vec![
        (Part::Repository, Value::Text(repository.to_owned())),
        (Part::Storage, Value::Text(kind.name().to_owned())),
        (Part::Layer, Value::Digest(name)),
    ]
}

/// Of the fetch of `blob`, `size` bytes long, for the layer that is split under the key `split`.
pub(super) fn of_fetch(blob: Digest, size: u64, split: Key) -> Parts {
    vec![
        (Part::Blob, Value::Digest(blob)),
        (Part::Size, Value::Bytes(size)),
        (Part::Layer, Value::Key(split)),
    ]
}

/// Of a filesystem.
pub(super) fn of_tree(repository: &str, layers: Vec<Digest>) -> Parts {
    vec![(Part::Repository, Value::Text(repository.to_owned())), (Part::Layers, Value::Digests(layers))]
}

/// Of a config; an artifact's has no filesystem, but may name layers.
pub(super) fn of_config(repository: &str, digest: Digest, tree: Option<Key>, lists_layers: bool) -> Parts {
    let none = if lists_layers { "none, with layers" } else { "" };
    let tree = tree.map_or_else(|| Value::Text(none.to_owned()), Value::Key);
    vec![
        (Part::Repository, Value::Text(repository.to_owned())),
        (Part::Digest, Value::Digest(digest)),
        (Part::Filesystem, tree),
    ]
}

/// Of a manifest.
pub(super) fn of_manifest(digest: Digest, config: Key) -> Parts {
    vec![(Part::Digest, Value::Digest(digest)), (Part::Config, Value::Key(config))]
}

/// Of a name.
pub(super) fn of_tag(name: &str, manifest: Key) -> Parts {
    vec![(Part::Name, Value::Text(name.to_owned())), (Part::Manifest, Value::Key(manifest))]
}

impl Plan {
    /// What the key of `node` covers, as far as the plan says; what every key covers
    /// ([`Part::Format`]) is left out.
    pub fn parts(&self, node: NodeId) -> Parts {
        let Node { kind, subject, layer_kind, cost_bytes, .. } = &self.graph[node];
        let repository = &*self.repository;
        match (kind, subject) {
            (Kind::Fetch, Subject::Blob(blob)) => {
                let split = self.neighbor(node, Direction::Outgoing, Kind::Split);
                split.map(|split| of_fetch(*blob, *cost_bytes, self.graph[split].key))
            }
            (_, Subject::Layer(name)) => layer_kind.map(|kind| of_layer(repository, kind, *name)),
            (Kind::Filesystem, _) => self.tree_layers(node).map(|layers| of_tree(repository, layers)),
            (Kind::Config, Subject::Document(digest)) => {
                let tree = self.neighbor(node, Direction::Incoming, Kind::Filesystem);
                // Only those that name layers come after something else.
                let lists_layers = self.graph.neighbors_directed(node, Direction::Incoming).next().is_some();
                Some(of_config(repository, *digest, tree.map(|tree| self.graph[tree].key), lists_layers))
            }
            (Kind::Manifest, Subject::Document(digest)) => {
                let config = self.neighbor(node, Direction::Incoming, Kind::Config);
                config.map(|config| of_manifest(*digest, self.graph[config].key))
            }
            (Kind::Tag, Subject::Name(name)) => {
                let manifest = self.neighbor(node, Direction::Incoming, Kind::Manifest);
                manifest.map(|manifest| of_tag(name, self.graph[manifest].key))
            }
            _ => None,
        }
        .unwrap_or_default()
    }

    fn neighbor(&self, node: NodeId, direction: Direction, kind: Kind) -> Option<NodeId> {
        let mut all = self.graph.neighbors_directed(node, direction);
        all.find(|other| self.graph[*other].kind == kind)
    }

    fn tree_layers(&self, tree: NodeId) -> Option<Vec<Digest>> {
        let image = self.images.get(self.graph[tree].wanted_by.first()?.0)?;
        let name = |layer: &NodeId| match self.graph[*layer].subject {
            Subject::Layer(name) => Some(name),
            _ => None,
        };
        image.layers.iter().map(name).collect()
    }
}
