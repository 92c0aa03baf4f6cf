//! Whether a plan that was made before is still what would be done. Knows what matters to whoever agreed to
//! it; ignores what became less work meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use petgraph::visit::EdgeRef;

use super::{Edge, ImageIx, Key, Node, NodeId, Plan, PlannedImage, Reason, State, Subject};

/// Something that is not as it was planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved(String);

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Plan {
    /// Whether everything is to be made again.
    pub fn is_forced(&self) -> bool {
        self.graph.node_weights().any(|node| node.reason == Reason::Forced)
    }

    /// Whether there is anything to do.
    pub fn is_work(&self) -> bool {
        !self.untag.is_empty() || self.graph.node_weights().any(|node| node.state == State::Needed)
    }

    /// What keeps `now`, made of the same references, from being this plan: another image behind a reference,
    /// a repository that makes other bytes, work that was stored, a name that somebody else took. Work that
    /// was done meanwhile does not.
    pub fn moved(&self, now: &Plan) -> Option<Moved> {
        if self.repository != now.repository {
            let (then, now) = (&self.repository, &now.repository);
            return Some(Moved(format!("the repository is {now:?}, the plan was made for {then:?}")));
        }
        let images = self.images.iter().zip(&now.images);
        if let Some((then, now)) = images.clone().find(|(then, now)| then.manifest != now.manifest) {
            let (reference, new, old) = (&now.reference, now.manifest, then.manifest);
            return Some(Moved(format!("{reference} is {new} now, the plan has {old}")));
        }
        if self.images.len() != now.images.len() {
            return Some(Moved("the images are not those of the plan".to_owned()));
        }
        let taken = images.into_iter().find(|(then, new)| {
            new.named != then.named
                && now.graph[new.tag].state == State::Needed
                && new.named != Some(new.manifest)
        });
        if let Some((_, image)) = taken {
            return Some(Moved(format!("the name {:?} has been given to another image", image.name)));
        }
        if let Some(edited) = self.edited(now) {
            return Some(edited);
        }
        let planned: HashMap<Key, &Node> = self.graph.node_weights().map(|node| (node.key, node)).collect();
        now.graph.node_weights().filter(|node| node.state == State::Needed).find_map(|node| {
            let then = planned.get(&node.key);
            match then.map(|then| then.state) {
                Some(State::Needed | State::Standby) => None,
                Some(_) => {
                    Some(Moved(format!("{} was stored, and now it is not: {}", about(node), node.reason)))
                }
                None => Some(Moved(format!("{} is not in the plan", about(node)))),
            }
        })
    }
}

impl Plan {
    /// What this plan says of its images that their manifests, which are those of `now`, do not: it was
    /// changed since it was made, by hand perhaps, and would not be what is run.
    fn edited(&self, now: &Plan) -> Option<Moved> {
        for (ix, (then, new)) in self.images.iter().zip(&now.images).enumerate() {
            let (ix, reference) = (ImageIx(ix), &new.reference);
            let (planned, real) = (self.layers_of(then, ix), now.layers_of(new, ix));
            if planned.len() != real.len() {
                let (planned, real) = (planned.len(), real.len());
                return Some(Moved(format!("{reference} has {real} layers, the plan has {planned}")));
            }
            if let Some((at, (planned, real))) =
                planned.iter().zip(&real).enumerate().find(|(_, (planned, real))| planned != real)
            {
                let at = at + 1;
                return Some(Moved(format!("layer {at} of {reference} is {real}, the plan has {planned}")));
            }
            if then.config != new.config {
                return Some(Moved(format!(
                    "{reference} has the config {}, the plan {}",
                    new.config, then.config
                )));
            }
        }
        let real: HashMap<Key, &Node> = now.graph.node_weights().map(|node| (node.key, node)).collect();
        let is_real = |node: &Node| real.get(&node.key).is_some_and(|real| self.work(node) == now.work(real));
        if let Some(node) = self.graph.node_weights().find(|node| !is_real(node)) {
            return Some(Moved(format!("{} in the plan is not what its images ask for", about(node))));
        }
        let ways = |plan: &Plan| -> BTreeSet<(Key, Key, Edge)> {
            let edges = plan.graph.edge_references().filter(|edge| *edge.weight() != Edge::Needs);
            edges
                .map(|edge| (plan.graph[edge.source()].key, plan.graph[edge.target()].key, *edge.weight()))
                .collect()
        };
        (ways(self) != ways(now))
            .then(|| Moved("its steps depend on each other in another way than its images ask for".into()))
    }

    /// What a step is and for which images, whatever is left to do of it.
    fn work<'a>(&'a self, node: &'a Node) -> impl PartialEq {
        // By their names, as in its file.
        let images = node.wanted_by.iter().map(|ix| self.images.get(ix.0).map(|image| &image.name));
        let Node { kind, subject, layer_kind, cost_bytes, dynamic, .. } = node;
        (kind, subject, layer_kind, cost_bytes, dynamic, images.collect::<BTreeSet<_>>())
    }

    /// An image's layers as the plan has them, bottom first.
    fn layers_of(&self, image: &PlannedImage, ix: ImageIx) -> Vec<PlannedBlob> {
        let layer = |finalize: &NodeId| {
            let blob = self.blob_of(&self.layer(*finalize), ix);
            let blob = blob.map(|blob| (about(&self.graph[blob]), self.graph[blob].cost_bytes));
            PlannedBlob { layer: about(&self.graph[*finalize]), blob }
        };
        image.layers.iter().map(layer).collect()
    }
}

/// A layer and how it comes.
#[derive(PartialEq, Eq)]
struct PlannedBlob {
    layer: String,
    /// The blob, and its size in bytes.
    blob: Option<(String, u64)>,
}

impl fmt::Display for PlannedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.layer)?;
        match &self.blob {
            Some((blob, size)) => write!(f, " ({blob}, {size} bytes)"),
            None => f.write_str(" (no blob)"),
        }
    }
}

fn about(node: &Node) -> String {
    match &node.subject {
        Subject::Blob(digest) => format!("the blob {digest}"),
        Subject::Layer(digest) => format!("the layer {digest}"),
        Subject::Document(digest) => format!("the {} {digest}", node.kind.name()),
        Subject::Tree(key) => format!("the filesystem {}", key.short()),
        Subject::Name(name) => format!("the name {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Damage, Facts, ImageInput, Inputs, LayerInput, plan, sample::digest},
        types::{Descriptor, LayerKind},
    };

    fn inputs() -> Inputs {
        let blob = Descriptor { media_type: String::new(), digest: digest("blob"), size: 7 };
        let image = ImageInput {
            name: "a".into(),
            reference: "oci:a".into(),
            manifest: (digest("manifest"), 1),
            config: (digest("config"), 1),
            layers: vec![LayerInput { name: digest("layer"), kind: LayerKind::Tar, blob }],
            container: true,
            config_lists_layers: true,
            platform: None,
        };
        Inputs { images: vec![image], repository: "sha512".into(), ..Inputs::default() }
    }

    #[test]
    fn what_was_done_meanwhile_is_no_matter() {
        let then = plan(&inputs(), &Facts::default());
        let mut facts = Facts::default();
        assert_eq!(then.moved(&plan(&inputs(), &facts)), None);
        facts.layers.insert((digest("layer"), LayerKind::Tar));
        facts.configs.insert((digest("config"), true), false);
        assert_eq!(then.moved(&plan(&inputs(), &facts)), None);
        assert!(then.is_work() && !then.is_forced());
    }

    #[test]
    fn a_name_that_goes_is_work() {
        let mut facts = Facts::default();
        facts.layers.insert((digest("layer"), LayerKind::Tar));
        facts.configs.insert((digest("config"), true), true);
        facts.manifests.insert(digest("manifest"), true);
        facts.tags.insert("a".into(), digest("manifest"));
        facts.trees.insert(crate::graph::tree_key("sha512", [&digest("layer")]));
        assert!(!plan(&inputs(), &facts).is_work());
        let untag = vec!["old".to_owned()];
        assert!(plan(&Inputs { untag, ..inputs() }, &facts).is_work());
    }

    #[test]
    fn everything_else_matters() {
        let mut stored = Facts::default();
        stored.layers.insert((digest("layer"), LayerKind::Tar));
        let then = plan(&inputs(), &stored);
        let says = |now: &Plan, words: &str| {
            let moved = then.moved(now).map(|moved| moved.to_string()).unwrap_or_default();
            assert!(moved.contains(words), "{moved:?}");
        };
        let mut damaged = Facts::default();
        damaged.broken_layers.insert((digest("layer"), LayerKind::Tar), Damage::Size);
        says(&plan(&inputs(), &damaged), "was stored, and now it is not: size wrong");
        let mut taken = stored.clone();
        taken.tags.insert("a".into(), digest("another"));
        says(&plan(&inputs(), &taken), "the name \"a\" has been given to another image");
        assert_eq!(
            plan(&inputs(), &taken).moved(&plan(&inputs(), &taken)),
            None,
            "it was so when it was planned"
        );
        let mut again = taken.clone();
        again.tags.insert("a".into(), digest("a third"));
        let moved = plan(&inputs(), &taken).moved(&plan(&inputs(), &again)).unwrap().to_string();
        assert!(moved.contains("has been given to another image"), "{moved}");
        let mut retagged = inputs();
        retagged.images[0].manifest.0 = digest("newer");
        says(&plan(&retagged, &stored), "oci:a is sha256:");
        let other = Inputs { repository: "sha256".into(), ..inputs() };
        says(&plan(&other, &stored), "the repository is \"sha256\"");
    }
}
