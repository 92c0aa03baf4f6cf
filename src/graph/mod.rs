//! The task graph as plain data: what would be done, in what order, and why. No I/O; unaware of how anything
//! is done.

mod compare;
mod forecast;
mod key;
mod layers;
mod parts;
mod plan;
mod reason;
#[cfg(test)]
pub(crate) mod sample;

pub use compare::Moved;
pub use forecast::{Bound, Costs, Forecast, forecast};
pub use key::{FORMAT, Key};
pub use layers::PlannedLayer;
pub use parts::{Part, Parts, Value};
pub use plan::{Before, Damage, Facts, ImageInput, Inputs, LayerInput, layer_key, plan, tree_key};
pub use reason::Reason;

use petgraph::graph::DiGraph;

use crate::types::{Digest, LayerKind};
pub use crate::types::{Edge, NodeId};

/// Names one of a plan's images, in the order of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageIx(pub usize);

/// What kind of step a node is, in the order in which an image passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Transfers one blob and verifies its digest and size.
    Fetch,
    /// Inflates a blob, verifies the `diff_id` and cuts the tar into pieces.
    Split,
    /// Hashes and stores a layer's external files.
    Write,
    /// Encodes a layer's stream from inline bytes and object ids.
    Encode,
    /// Completes a layer's stream and stores it.
    Finalize,
    /// Builds an image's filesystem (EROFS); `image` in formats and node names.
    Filesystem,
    /// Stores an image's config.
    Config,
    /// Stores an image's manifest.
    Manifest,
    /// Makes an image visible under its name: the barrier, the links, the tag.
    Tag,
}

/// What a node is about; with the kind it identifies the node for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A blob as transferred.
    Blob(Digest),
    /// A layer, by what its stream is named after: its `diff_id`, or the blob digest of an artifact's layer.
    Layer(Digest),
    /// A config or manifest, by its digest.
    Document(Digest),
    /// A filesystem, by the key of its ordered layers.
    Tree(Key),
    /// A name in the repository.
    Name(String),
}

/// What has to be done for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing: its outputs are there.
    Stored,
    /// Nothing more: another image of this plan has it done.
    Shared,
    /// Its work.
    Needed,
    /// Nothing, unless a candidate before it fails.
    Standby,
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub struct Node {
    /// What kind of step.
    pub kind: Kind,
    /// What it is about.
    pub subject: Subject,
    /// Covers everything that changes its bytes, and nothing that does not (law 7).
    pub key: Key,
    /// For the steps of a layer other than its fetches: how it is stored.
    pub layer_kind: Option<LayerKind>,
    /// What has to be done, as the first image that wants it sees it.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Estimated work in bytes that pass through, for priorities and progress; 0 if not known.
    pub cost_bytes: u64,
    /// Whether the number of pieces inside is known only when the bytes are read.
    pub dynamic: bool,
    /// The images that fail if this node fails, in order.
    pub wanted_by: Vec<ImageIx>,
}

/// An image as the plan sees it.
#[derive(Debug, Clone)]
pub struct PlannedImage {
    /// The name that it will get.
    pub name: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// sha256 of the manifest's bytes as stored.
    pub manifest: Digest,
    /// sha256 of the config's bytes.
    pub config: Digest,
    /// Its layers' `Finalize` nodes, bottom first; a layer used twice is there twice.
    pub layers: Vec<NodeId>,
    /// Its last node.
    pub tag: NodeId,
    /// The manifest that its name points to before the run, if it does.
    pub named: Option<Digest>,
    /// The platform that was asked for, if this image has one of its own.
    pub platform: Option<String>,
}

/// Which images one rule of a list chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The rule as the user wrote it.
    pub rule: String,
    /// The images, in the order of the plan; none if nothing matches.
    pub images: Vec<ImageIx>,
}

/// Everything that will be done for a request: each step once, however many images want it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Steps and how they hang together.
    pub graph: DiGraph<Node, Edge>,
    /// The images in the order of the request.
    pub images: Vec<PlannedImage>,
    /// What changes the bytes that the repository gets, as in [`Inputs`]; a part of most keys.
    pub repository: String,
    /// The platform that was asked for, if one was.
    pub platform: Option<String>,
    /// Which images each rule of a list chose; empty for a pull.
    pub selections: Vec<Selection>,
    /// Names that will be taken away after everything else succeeded.
    pub untag: Vec<String>,
}

impl Kind {
    /// All of them, in the order in which an image passes through them.
    pub const ALL: [Self; 9] = [
        Self::Fetch,
        Self::Split,
        Self::Write,
        Self::Encode,
        Self::Finalize,
        Self::Filesystem,
        Self::Config,
        Self::Manifest,
        Self::Tag,
    ];

    /// Whether it is a step of a layer.
    pub fn is_of_layer(self) -> bool {
        matches!(self, Kind::Fetch | Kind::Split | Kind::Write | Kind::Encode | Kind::Finalize)
    }

    /// What people call it: an image is to them what they asked for, and this step makes its filesystem.
    pub fn word(self) -> &'static str {
        if self == Kind::Filesystem { "filesystem" } else { self.name() }
    }

    /// The word for it, as pictures and records use it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fetch => "fetch",
            Kind::Split => "split",
            Kind::Encode => "encode",
            Kind::Write => "write",
            Kind::Finalize => "finalize",
            Kind::Config => "config",
            Kind::Manifest => "manifest",
            Kind::Filesystem => "image",
            Kind::Tag => "tag",
        }
    }
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Needed, Self::Shared, Self::Stored, Self::Standby];

    /// The word for it, as pictures and records use it.
    pub fn name(self) -> &'static str {
        match self {
            State::Stored => "stored",
            State::Shared => "shared",
            State::Needed => "needed",
            State::Standby => "standby",
        }
    }
}

impl Plan {
    /// The node's name for people, programs and records: its kind and the first 16 digits of its key. The
    /// same work has the same name in every plan.
    pub fn id(&self, node: NodeId) -> String {
        let node = &self.graph[node];
        format!("{}-{}", node.kind.name(), &node.key.hex()[..16])
    }
}
