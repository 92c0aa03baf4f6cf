//! How each image of a run ended, in words that name the image and the layer. Knows plan and outcome; ignores
//! how results are printed.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use composefs::fsverity::FsVerityHashValue;

use super::{image::FsBuild, layer::Layer};
use crate::{
    exec::{Failure, Outcome},
    graph::{ImageIx, Inputs, Kind, NodeId, Plan},
    store::FormatVersion,
    types::{Digest, LayerAmbiguity, LayerKind},
};

/// How one image ended.
pub struct ImageEnd {
    /// Its EROFS image ids in hexadecimal, by format; empty for artifacts and failed images.
    pub erofs: BTreeMap<String, String>,
    /// Its entries that tar readers read differently and that were read as upstream does; none if it failed.
    pub ambiguities: Vec<LayerAmbiguity>,
    /// Why it failed, if it did: one line for people, and the error itself.
    pub failure: Option<(String, Failure)>,
}

pub(super) fn ends<H: FsVerityHashValue>(
    plan: &Plan,
    inputs: &Inputs,
    outcome: &Outcome,
    layers: &HashMap<(Digest, LayerKind), Arc<Layer<H>>>,
    trees: &HashMap<NodeId, Arc<FsBuild<H>>>,
    formats: &[FormatVersion],
) -> Vec<ImageEnd> {
    let mut ends = Vec::new();
    for (ix, failure) in outcome.goals.iter().enumerate() {
        let ix = ImageIx(ix);
        let failure = failure.as_ref();
        let failure =
            failure.map(|(node, failure)| (line(plan, inputs, ix, *node, failure), failure.clone()));
        let tree = trees.iter().find(|(node, _)| plan.graph[**node].wanted_by.contains(&ix));
        let images = tree.filter(|_| failure.is_none()).and_then(|(_, tree)| tree.images());
        let erofs = images.iter().flat_map(|images| images.by_format(formats)).collect();
        let own = inputs.images[ix.0].layers.iter().enumerate();
        let own = own.filter(|(_, layer)| layer.kind == LayerKind::Tar && failure.is_none());
        let own = own.filter_map(|(at, layer)| Some((at, layers.get(&(layer.name, layer.kind))?)));
        let ambiguities = own.flat_map(|(at, layer)| {
            layer.ambiguities().into_iter().map(move |entry| LayerAmbiguity { layer: at + 1, entry })
        });
        ends.push(ImageEnd { erofs, ambiguities: ambiguities.collect(), failure });
    }
    ends
}

/// `webapp:latest: layer 3 of 7 (sha256:41af…): what is wrong`
fn line(plan: &Plan, inputs: &Inputs, ix: ImageIx, node: NodeId, failure: &Failure) -> String {
    let image = &inputs.images[ix.0];
    let place = match plan.graph[node].kind {
        Kind::Config => "config: ".to_owned(),
        Kind::Manifest => "manifest: ".to_owned(),
        Kind::Filesystem | Kind::Tag => String::new(),
        _ => {
            let position = plan.layer_of(inputs, node).and_then(|layer| {
                let matches = |own: &&crate::graph::LayerInput| own.name == layer.name;
                let own = image.layers.iter().enumerate();
                own.into_iter().find(|(_, own)| matches(own)).map(|(at, own)| (at, own.blob.digest))
            });
            match position {
                Some((at, blob)) => {
                    format!("layer {} of {} (sha256:{}…): ", at + 1, image.layers.len(), blob.short())
                }
                None => String::new(),
            }
        }
    };
    format!("{}: {place}{failure}", image.reference)
}
