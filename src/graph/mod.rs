//! The task graph as plain data: what would be done, in what order, and why. No I/O; unaware of how anything
//! is done.

mod key;
mod layers;
mod plan;

pub use key::Key;
pub use layers::PlannedLayer;
pub use plan::{Facts, ImageInput, Inputs, LayerInput, plan, tree_key};

use petgraph::graph::DiGraph;

use crate::types::Digest;
pub use crate::types::{Edge, NodeId};

/// Names one of a plan's images, in the order of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageIx(pub usize);

/// What kind of step a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Transfers one blob and verifies its digest and size.
    Fetch,
    /// Inflates a blob, verifies the `diff_id` and cuts the tar into pieces.
    Split,
    /// Encodes a layer's stream from inline bytes and object ids.
    Encode,
    /// Hashes and stores a layer's external files.
    Write,
    /// Completes a layer's stream and stores it.
    Finalize,
    /// Stores an image's config.
    Config,
    /// Stores an image's manifest.
    Manifest,
    /// Builds an image's filesystem (EROFS).
    Image,
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

/// Why a node is in its state. The list is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The repository has the layer's stream and all that it names.
    LayerStored,
    /// The repository has no such layer.
    LayerMissing,
    /// The layer's link is there, but what it names is not whole.
    LayerBroken,
    /// The layer is stored, so its blob is not read.
    BlobNotRead,
    /// The blob is the first way to a layer that is needed.
    BlobNeeded,
    /// Another blob of the same layer is tried first.
    BlobAlternative,
    /// The repository has the document, and it names what it should.
    DocumentStored,
    /// The repository has no such document.
    DocumentMissing,
    /// The document is there, but lacks a reference that this repository needs.
    DocumentOutdated,
    /// The repository has this filesystem image.
    TreeStored,
    /// The repository has no filesystem image of these layers.
    TreeMissing,
    /// The name points to this image already.
    NameStored,
    /// The name is new.
    NameMissing,
    /// The name points to another image, and moves.
    NameMoves,
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
}

/// Everything that will be done for a request: each step once, however many images want it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Steps and how they hang together.
    pub graph: DiGraph<Node, Edge>,
    /// The images in the order of the request.
    pub images: Vec<PlannedImage>,
}

impl Kind {
    /// Whether it is a step of a layer.
    pub fn is_of_layer(self) -> bool {
        matches!(self, Kind::Fetch | Kind::Split | Kind::Write | Kind::Encode | Kind::Finalize)
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
            Kind::Image => "image",
            Kind::Tag => "tag",
        }
    }
}

impl State {
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

impl Reason {
    /// The words for it, as pictures and records use them.
    pub fn text(self) -> &'static str {
        match self {
            Reason::LayerStored => "layer is stored",
            Reason::LayerMissing => "layer is new",
            Reason::LayerBroken => "stored layer is not whole",
            Reason::BlobNotRead => "layer is stored",
            Reason::BlobNeeded => "layer is needed",
            Reason::BlobAlternative => "another blob is tried first",
            Reason::DocumentStored => "document is stored",
            Reason::DocumentMissing => "document is new",
            Reason::DocumentOutdated => "stored document lacks a reference",
            Reason::TreeStored => "filesystem is stored",
            Reason::TreeMissing => "filesystem is new",
            Reason::NameStored => "name is set",
            Reason::NameMissing => "name is new",
            Reason::NameMoves => "name moves",
        }
    }
}
