//! A plan out of its JSON. Knows what a plan must be to be drawn and compared; trusts nothing that it reads.

use std::collections::{BTreeSet, HashMap};

use petgraph::graph::DiGraph;

use super::{EdgeJson, ImageJson, NodeJson, PlanJson, SCHEMA, SelectionJson, SubjectJson};
use crate::{
    graph::{Edge, ImageIx, Key, Kind, Node, NodeId, Plan, PlannedImage, Reason, Selection, State, Subject},
    types::LayerKind,
};

/// How many times, in all, images may want steps. A name may stand for several images, and be written for
/// many steps: without a limit a small file could take any memory. At this one a plan that has no such
/// names is some 300 MB long.
const MAX_WANTS: usize = 16 << 20;

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// It is no JSON, or lacks a field.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is of a later version.
    #[error("it has format {0}, this program knows {SCHEMA}: use the version of cfs-dag that wrote it")]
    Schema(u32),
    /// A field has a value that it cannot have.
    #[error("invalid {what} {value:?}")]
    Field {
        /// The field's name.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// Its images want too many steps.
    #[error("its images want more than {MAX_WANTS} steps, all together")]
    Wants,
}

fn no_sense(what: &'static str, value: &str) -> NoPlan {
    NoPlan::Field { what, value: value.to_owned() }
}

/// The element of `all` that has this name.
fn named<T: Copy>(
    all: &[T],
    name: impl Fn(T) -> &'static str,
    what: &'static str,
    text: &str,
) -> Result<T, NoPlan> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| no_sense(what, text))
}

impl Plan {
    /// The plan that `text` is the JSON of.
    ///
    /// # Errors
    /// It is not the JSON of a plan.
    pub fn from_json(text: &str) -> Result<Self, NoPlan> {
        Self::try_from(serde_json::from_str::<PlanJson>(text)?)
    }
}

impl TryFrom<PlanJson> for Plan {
    type Error = NoPlan;

    fn try_from(json: PlanJson) -> Result<Self, NoPlan> {
        if json.schema != SCHEMA {
            return Err(NoPlan::Schema(json.schema));
        }
        let mut names: HashMap<&str, Vec<ImageIx>> = HashMap::new();
        for (place, image) in json.images.iter().enumerate() {
            names.entry(&image.name).or_default().push(ImageIx(place));
        }
        let mut graph = DiGraph::default();
        let (mut ids, mut wants) = (HashMap::new(), 0);
        for node in &json.nodes {
            let id = graph.add_node(self::node(node, wanted_by(node, &names, &mut wants)?)?);
            if ids.insert(&*node.node, id).is_some() {
                return Err(no_sense("node", &node.node));
            }
        }
        for edge in &json.edges {
            let [from, to] = [&edge.from, &edge.to].map(|id| find(&ids, "edge", id));
            let (from, to) = (from?, to?);
            // So there are no circles, and no way is longer than there are kinds.
            if graph[from].kind >= graph[to].kind {
                return Err(no_sense("edge", &format!("{} to {}", edge.from, edge.to)));
            }
            graph.update_edge(from, to, edge_kind(edge)?);
        }
        let images = json.images.iter().map(|image| planned(image, &ids)).collect::<Result<_, _>>()?;
        let selections =
            json.selections.iter().map(|json| selection(json, &names)).collect::<Result<_, _>>()?;
        let (repository, platform, untag) = (json.repository, json.platform, json.untag);
        let plan = Self { graph, images, repository, platform, selections, untag };
        plan.check(&json.nodes)?;
        Ok(plan)
    }
}

impl Plan {
    /// That nodes have the names of what they do, that images end with names and are made of layers, and that
    /// layers are not made of too many nodes, all together.
    fn check(&self, nodes: &[NodeJson]) -> Result<(), NoPlan> {
        let misnamed = self.graph.node_indices().zip(nodes).find(|(id, json)| self.id(*id) != json.node);
        if let Some((_, json)) = misnamed {
            return Err(no_sense("node", &json.node));
        }
        let is = |id: NodeId, kind| self.graph[id].kind == kind;
        for image in &self.images {
            if !is(image.tag, Kind::Tag) || !image.layers.iter().all(|layer| is(*layer, Kind::Finalize)) {
                return Err(no_sense("image", &image.name));
            }
        }
        let mut steps = 0;
        for layer in self.images.iter().flat_map(|image| &image.layers).collect::<BTreeSet<_>>() {
            steps += self.layer(*layer).nodes.len();
            if steps > MAX_WANTS {
                return Err(NoPlan::Wants);
            }
        }
        Ok(())
    }
}

fn find(ids: &HashMap<&str, NodeId>, what: &'static str, id: &str) -> Result<NodeId, NoPlan> {
    ids.get(id).copied().ok_or_else(|| no_sense(what, id))
}

/// The images that want a step; counted to the `wants` of others.
fn wanted_by(
    json: &NodeJson,
    images: &HashMap<&str, Vec<ImageIx>>,
    wants: &mut usize,
) -> Result<Vec<ImageIx>, NoPlan> {
    let mut wanted_by = Vec::new();
    for name in &json.wanted_by {
        let images = images.get(&**name).ok_or_else(|| no_sense("wanted_by", name))?;
        *wants += images.len();
        if *wants > MAX_WANTS {
            return Err(NoPlan::Wants);
        }
        wanted_by.extend(images);
    }
    wanted_by.sort_unstable();
    wanted_by.dedup();
    if wanted_by.is_empty() {
        return Err(no_sense("wanted_by", ""));
    }
    Ok(wanted_by)
}

fn node(json: &NodeJson, wanted_by: Vec<ImageIx>) -> Result<Node, NoPlan> {
    let storage = json.storage.as_deref();
    let layer_kind =
        storage.map(|text| named(&LayerKind::ALL, LayerKind::name, "storage", text)).transpose()?;
    Ok(Node {
        kind: named(&Kind::ALL, Kind::name, "kind", &json.kind)?,
        subject: subject(&json.subject)?,
        key: Key::from_hex(&json.key).ok_or_else(|| no_sense("key", &json.key))?,
        layer_kind,
        state: named(&State::ALL, State::name, "state", &json.state)?,
        reason: Reason::parse(&json.reason).ok_or_else(|| no_sense("reason", &json.reason))?,
        cost_bytes: json.cost_bytes,
        dynamic: json.dynamic,
        wanted_by,
    })
}

fn subject(json: &SubjectJson) -> Result<Subject, NoPlan> {
    Ok(match json {
        SubjectJson::Blob(digest) => Subject::Blob(*digest),
        SubjectJson::Layer(digest) => Subject::Layer(*digest),
        SubjectJson::Document(digest) => Subject::Document(*digest),
        SubjectJson::Tree(key) => Subject::Tree(Key::from_hex(key).ok_or_else(|| no_sense("tree", key))?),
        SubjectJson::Name(name) => Subject::Name(name.clone()),
    })
}

fn edge_kind(json: &EdgeJson) -> Result<Edge, NoPlan> {
    match (&*json.edge, json.rank) {
        ("needs", None) => Ok(Edge::Needs),
        ("streams", None) => Ok(Edge::Streams),
        ("candidate", Some(rank)) => Ok(Edge::Candidate { rank }),
        (other, _) => Err(no_sense("edge", other)),
    }
}

/// A rule's images by their names; of several with one name the first.
fn selection(json: &SelectionJson, images: &HashMap<&str, Vec<ImageIx>>) -> Result<Selection, NoPlan> {
    let first = |name: &String| images.get(&**name).and_then(|images| images.first()).copied();
    let images = json.images.iter().map(|name| first(name).ok_or_else(|| no_sense("selections", name)));
    Ok(Selection { rule: json.rule.clone(), images: images.collect::<Result<_, _>>()? })
}

fn planned(json: &ImageJson, ids: &HashMap<&str, NodeId>) -> Result<PlannedImage, NoPlan> {
    Ok(PlannedImage {
        name: json.name.clone(),
        reference: json.reference.clone(),
        manifest: json.manifest,
        config: json.config,
        layers: json.layers.iter().map(|id| find(ids, "layers", id)).collect::<Result<_, _>>()?,
        tag: find(ids, "tag", &json.tag)?,
        named: json.named,
        platform: json.platform.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Colour, Marks, Outlook, dot, json, sample, text};

    #[test]
    fn a_plan_survives_its_file_and_looks_the_same() {
        for plan in [
            sample::two_images(),
            sample::twice_the_same_layer(),
            sample::two_candidates(),
            sample::of_a_list(),
        ] {
            let written = json(&plan, &Marks::default());
            let read = Plan::from_json(&written).unwrap();
            assert_eq!(json(&read, &Marks::default()), written);
            assert_eq!((&read.selections, &read.untag), (&plan.selections, &plan.untag));
            let text = |plan| text(plan, &Marks::default(), &Outlook::default(), Colour::Off);
            assert_eq!(text(&read), text(&plan));
            assert_eq!(dot(&read, &Marks::default()), dot(&plan, &Marks::default()));
        }
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let good = json(&sample::of_a_list(), &Marks::default());
        assert!(Plan::from_json(&good).is_ok());
        for (old, new, words) in [
            ("\"schema\": 1", "\"schema\": 2", "format 2"),
            ("\"kind\":\"tag\"", "\"kind\":\"dance\"", "kind \"dance\""),
            ("\"state\":\"needed\"", "\"state\":\"\"", "state"),
            ("\"reason\":\"not stored\"", "\"reason\":\"because\"", "reason \"because\""),
            ("\"edge\":\"needs\"", "\"edge\":\"wants\"", "edge \"wants\""),
            ("\"key\":\"", "\"key\":\"x", "key"),
            ("\"from\":\"", "\"from\":\"x", "edge \"x"),
            ("\"tag\":\"tag", "\"tag\":\"x", "tag \"x"),
            ("\"wanted_by\":[\"", "\"wanted_by\":[\"x", "wanted_by \"x"),
            ("\"images\": ", "\"pictures\": ", "images"),
            ("*:latest\",\"images\":[\"", "*:latest\",\"images\":[\"x", "selections \"x"),
        ] {
            let broken = good.replacen(old, new, 1);
            assert_ne!(broken, good, "{old}");
            let error = Plan::from_json(&broken).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_name_of_many_images_in_many_steps_is_refused_before_it_takes_memory() {
        let mut plan: serde_json::Value =
            serde_json::from_str(&json(&sample::of_a_list(), &Marks::default())).unwrap();
        let image = plan["images"][0].clone();
        plan["images"] = vec![image.clone(); 3000].into();
        let nodes = plan["nodes"].as_array_mut().unwrap();
        for node in &mut *nodes {
            node["wanted_by"] = vec![image["name"].clone(); 2].into();
        }
        assert!(2 * 3000 * nodes.len() < MAX_WANTS);
        plan["selections"] = serde_json::json!([]);
        Plan::from_json(&plan.to_string()).unwrap();
        plan["nodes"][0]["wanted_by"] = vec![image["name"].clone(); MAX_WANTS / 3000].into();
        assert!(matches!(Plan::from_json(&plan.to_string()), Err(NoPlan::Wants)));
    }

    /// A plan of these nodes and edges, each as kind and number.
    fn of_nodes(nodes: &[(Kind, usize)], edges: &[[(Kind, usize); 2]]) -> Result<Plan, NoPlan> {
        let mut plan = sample::of_a_list();
        let ids: HashMap<_, _> = nodes
            .iter()
            .map(|&(kind, number)| {
                let key = crate::graph::tree_key(&format!("{kind:?}{number}"), []);
                let subject = Subject::Name(number.to_string());
                let like = plan.graph.node_weights().next().expect("a sample has nodes").clone();
                ((kind, number), plan.graph.add_node(Node { kind, key, subject, ..like }))
            })
            .collect();
        for [from, to] in edges {
            plan.graph.add_edge(ids[from], ids[to], Edge::Needs);
        }
        let layers = nodes.iter().filter(|node| node.0 == Kind::Finalize).map(|node| ids[node]);
        plan.images[0].layers.extend(layers);
        Plan::from_json(&json(&plan, &Marks::default()))
    }

    #[test]
    fn steps_lead_to_later_kinds_alone() {
        let nodes: Vec<_> = (0..3).map(|number| (Kind::Finalize, number)).collect();
        let split = (Kind::Split, 0);
        let all: Vec<_> = nodes.iter().copied().chain([split]).collect();
        of_nodes(&all, &[[split, nodes[0]], [split, nodes[1]]]).unwrap();
        for edge in [[nodes[0], nodes[1]], [nodes[0], split], [nodes[0], nodes[0]]] {
            let error = of_nodes(&all, &[edge]).unwrap_err().to_string();
            assert!(error.contains("edge \"finalize-"), "{error}");
        }
    }

    #[test]
    fn layers_that_share_too_many_steps_are_refused() {
        let split = (Kind::Split, 0);
        let (fetches, ends): (Vec<_>, Vec<_>) =
            (0..4200).map(|number| ((Kind::Fetch, number), (Kind::Finalize, number))).unzip();
        let edges: Vec<_> =
            fetches.iter().map(|fetch| [*fetch, split]).chain(ends.iter().map(|end| [split, *end])).collect();
        let nodes: Vec<_> = fetches.into_iter().chain(ends).chain([split]).collect();
        assert!(matches!(of_nodes(&nodes, &edges), Err(NoPlan::Wants)));
    }
}
