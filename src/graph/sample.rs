//! Small plans for tests, made by hand. Knows the shape that the planner gives; ignores how it decides.

use std::collections::BTreeMap;

use super::{Edge, ImageIx, Key, Kind, Node, NodeId, Plan, PlannedImage, Reason, Selection, State, Subject};
use crate::types::{Digest, LayerKind};

/// A digest by a word.
pub(crate) fn digest(word: &str) -> Digest {
    Digest::of(word.as_bytes())
}

/// A plan under construction; layers are named by words.
#[derive(Default)]
pub(crate) struct Sample {
    plan: Plan,
    layers: BTreeMap<&'static str, NodeId>,
}

/// A layer's blob: a word for its digest, and its size in bytes.
pub(crate) type Blob = (&'static str, u64);

impl Sample {
    /// A layer that has to be made for `images` from the first of `blobs`, or one that is stored; each blob
    /// is wanted by the images beside it.
    pub(crate) fn layer(
        mut self,
        name: &'static str,
        state: State,
        images: &[usize],
        blobs: &[(Blob, &[usize])],
    ) -> Self {
        let reason = reason(state);
        let subject = Subject::Layer(digest(name));
        let fetches: Vec<_> = blobs
            .iter()
            .zip(0..)
            .map(|((blob, images), rank)| self.fetch(*blob, state, rank, images))
            .collect();
        let split = self.node(Kind::Split, subject.clone(), state, reason, images);
        let encode = self.node(Kind::Encode, subject.clone(), state, reason, images);
        let write = self.node(Kind::Write, subject.clone(), state, reason, images);
        let finalize = self.node(Kind::Finalize, subject, state, reason, images);
        for (fetch, rank) in fetches.into_iter().zip(0..) {
            self.plan.graph.add_edge(fetch, split, Edge::Candidate { rank });
        }
        for (from, to, edge) in [
            (split, encode, Edge::Streams),
            (split, write, Edge::Streams),
            (write, encode, Edge::Streams),
            (encode, finalize, Edge::Needs),
            (write, finalize, Edge::Needs),
        ] {
            self.plan.graph.add_edge(from, to, edge);
        }
        self.layers.insert(name, finalize);
        self
    }

    /// The next image, over `layers`, bottom first.
    pub(crate) fn image(mut self, name: &str, state: State, layers: &[&str]) -> Self {
        let ix = self.plan.images.len();
        let layers: Vec<_> = layers.iter().map(|&layer| self.layers[layer]).collect();
        let (manifest, config) = (digest(&format!("{name} manifest")), digest(&format!("{name} config")));
        let reason = reason(state);
        let key = Key::new("tree", [name.as_bytes()]);
        let image = self.node(Kind::Filesystem, Subject::Tree(key), state, reason, &[ix]);
        let config_node = self.node(Kind::Config, Subject::Document(config), state, reason, &[ix]);
        let manifest_node = self.node(Kind::Manifest, Subject::Document(manifest), state, reason, &[ix]);
        let tag = self.node(Kind::Tag, Subject::Name(name.to_owned()), state, reason, &[ix]);
        for &layer in &layers {
            self.plan.graph.update_edge(layer, image, Edge::Needs);
        }
        for (from, to) in [(image, config_node), (config_node, manifest_node), (manifest_node, tag)] {
            self.plan.graph.add_edge(from, to, Edge::Needs);
        }
        let reference = format!("docker://registry.example/{name}");
        self.plan.images.push(PlannedImage {
            name: name.to_owned(),
            reference,
            manifest,
            config,
            layers,
            tag,
            named: None,
            platform: None,
        });
        self
    }

    /// The plan.
    pub(crate) fn plan(self) -> Plan {
        self.plan
    }

    fn fetch(&mut self, (name, bytes): Blob, layer: State, rank: u32, images: &[usize]) -> NodeId {
        let reason = reason(layer);
        let state = match (layer, rank) {
            (State::Stored, _) => State::Stored,
            (_, 0) => layer,
            (..) => State::Standby,
        };
        let id = self.node(Kind::Fetch, Subject::Blob(digest(name)), state, reason, images);
        self.plan.graph[id].cost_bytes = bytes;
        id
    }

    fn node(
        &mut self,
        kind: Kind,
        subject: Subject,
        state: State,
        reason: Reason,
        images: &[usize],
    ) -> NodeId {
        let text = format!("{subject:?}");
        let of_layer = kind.is_of_layer() && kind != Kind::Fetch;
        self.plan.graph.add_node(Node {
            layer_kind: of_layer.then_some(LayerKind::Tar),
            kind,
            subject,
            key: Key::new(kind.name(), [text.as_bytes()]),
            state,
            reason,
            cost_bytes: 0,
            dynamic: matches!(kind, Kind::Split | Kind::Encode | Kind::Write),
            wanted_by: images.iter().copied().map(ImageIx).collect(),
        })
    }
}

fn reason(state: State) -> Reason {
    if state == State::Stored { Reason::Stored } else { Reason::NotStored }
}

/// Two new images over a stored layer `base` and a new one, `libs`, which both reach by the same blob.
pub(crate) fn two_images() -> Plan {
    Sample::default()
        .layer("base", State::Stored, &[0, 1], &[(("base.gz", 31_200_000), &[0, 1])])
        .layer("libs", State::Needed, &[0, 1], &[(("libs.gz", 12_000_000), &[0, 1])])
        .image("webapp:latest", State::Needed, &["base", "libs"])
        .image("node:latest", State::Needed, &["base", "libs"])
        .plan()
}

/// One image that has the new layer `empty` twice.
pub(crate) fn twice_the_same_layer() -> Plan {
    Sample::default()
        .layer("empty", State::Needed, &[0], &[(("empty.gz", 32), &[0])])
        .image("odd:v1", State::Needed, &["empty", "empty"])
        .plan()
}

/// Two images that reach one new layer by different blobs: the first by gzip, the second by zstd.
pub(crate) fn two_candidates() -> Plan {
    Sample::default()
        .layer("libs", State::Needed, &[0, 1], &[(("libs.gz", 1000), &[0]), (("libs.zst", 800), &[1])])
        .image("a:v1", State::Needed, &["libs"])
        .image("b:v1", State::Needed, &["libs"])
        .plan()
}

/// The same as a list asks for it, the second image for a platform of its own; one rule chose
/// nothing, and a name goes.
pub(crate) fn of_a_list() -> Plan {
    let mut plan = two_images();
    plan.images[1].platform = Some("linux/arm64".to_owned());
    let rule = |rule: &str, images: &[usize]| Selection {
        rule: rule.to_owned(),
        images: images.iter().copied().map(ImageIx).collect(),
    };
    plan.selections =
        vec![rule("registry.example/*:latest", &[0, 1]), rule("registry.example/gone:<b>\n", &[])];
    plan.untag = vec!["webapp:\"old\" & so".to_owned()];
    plan
}
