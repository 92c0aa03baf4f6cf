//! From resolved images and what is stored to a plan. Pure: the same inputs give the same plan.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Plan};
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
    pub layers: BTreeSet<Digest>,
    /// Layers whose links are there and name something broken.
    pub broken_layers: BTreeSet<Digest>,
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
pub fn plan(_inputs: &Inputs, _facts: &Facts) -> Plan {
    todo!()
}
