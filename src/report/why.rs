//! Why a node ran or did not, in a run that is kept: the reason, the parts of its key, what was another when
//! it ran last. Knows two runs; ignores how they were found.

use std::fmt::Write as _;

use petgraph::Direction;

use super::{NodeOutcome, Run};
use crate::{
    graph::{ImageIx, Kind, Node, NodeId, Part, Parts, Plan, State, Subject, Value},
    render::words::{printable, size, span},
};

/// More images than this that want the same are only counted.
const OTHERS: usize = 8;

/// What was asked for is not there, or is not clear.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// Nothing has that name.
    #[error(
        "nothing in this run is called {0:?}: give a node (split-1a2b…), a digest, a layer as IMAGE:PLACE, \
         or an image's name"
    )]
    Nothing(String),
}

impl Plan {
    /// The nodes that `text` may mean: a node's name or a prefix of it, an image by name or reference (all
    /// its own nodes and layers), a layer as `IMAGE:PLACE`, or the digits of a digest or key.
    ///
    /// # Errors
    /// Nothing is called so.
    pub fn find(&self, text: &str) -> Result<Vec<NodeId>, NotFound> {
        let image = |text: &str| {
            self.images.iter().position(|image| image.name == text || image.reference == text).map(ImageIx)
        };
        if let Some(ix) = image(text) {
            return Ok(self.of_image(ix));
        }
        if let Some((name, place)) = text.rsplit_once(':')
            && let (Some(ix), Ok(place)) = (image(name), place.parse::<usize>())
            && let Some(layer) = place.checked_sub(1).and_then(|place| self.images[ix.0].layers.get(place))
        {
            return Ok(self.layer(*layer).nodes);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        // Fewer digits mean too much.
        let is_hex = digits.len() >= 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let found: Vec<NodeId> = self
            .graph
            .node_indices()
            .filter(|id| {
                let node = &self.graph[*id];
                let named = text.contains('-') && self.id(*id).starts_with(text);
                named
                    || is_hex
                        && (subject_digits(&node.subject).starts_with(digits)
                            || node.key.hex().starts_with(digits))
            })
            .collect();
        if found.is_empty() { Err(NotFound::Nothing(text.to_owned())) } else { Ok(found) }
    }

    fn of_image(&self, ix: ImageIx) -> Vec<NodeId> {
        let layers = self.images[ix.0].layers.iter().flat_map(|layer| self.layer(*layer).nodes);
        let mut nodes: Vec<NodeId> = layers.collect();
        nodes.extend(self.own_nodes(ix));
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn subject_digits(subject: &Subject) -> String {
    match subject {
        Subject::Blob(digest) | Subject::Layer(digest) | Subject::Document(digest) => {
            digest.to_string().trim_start_matches("sha256:").to_owned()
        }
        Subject::Tree(key) => key.hex(),
        Subject::Name(_) => String::new(),
    }
}

/// Why the nodes that `text` means ran or did not; `before` is the last run before this one.
///
/// # Errors
/// Nothing in the run is called so.
pub fn why(run: &Run, before: Option<&Run>, text: &str) -> Result<String, NotFound> {
    let unresolved = run.head.images.iter().find(|image| image.name == text || image.reference == text);
    if let Some(error) =
        unresolved.filter(|image| image.manifest.is_none()).and_then(|image| image.error.as_ref())
    {
        return Ok(format!("{}\n", printable(error)));
    }
    let mut nodes = run.plan.find(text)?;
    nodes.sort_by_cached_key(|id| {
        let place = place(&run.plan, *id).map_or(usize::MAX, |(place, _)| place);
        (place, run.plan.graph[*id].kind, run.plan.id(*id))
    });
    // Steps of one layer share their reasons and nearly all of their keys: one block tells them all.
    let mut groups: Vec<Vec<NodeId>> = Vec::new();
    for id in nodes {
        let same = |group: &&mut Vec<NodeId>| alike(&run.plan, group[0], id);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(id),
            None => groups.push(vec![id]),
        }
    }
    Ok(groups.iter().map(|group| block(run, before, group)).collect::<Vec<_>>().join("\n"))
}

/// Where the layer of a step stands in the first image that wants it; `None` for what is no step of a layer.
fn place(plan: &Plan, id: NodeId) -> Option<(usize, ImageIx)> {
    if !plan.graph[id].kind.is_of_layer() {
        return None;
    }
    let mut last = id;
    while plan.graph[last].kind != Kind::Finalize {
        let mut next = plan.graph.neighbors_directed(last, Direction::Outgoing);
        last = next.find(|other| plan.graph[*other].kind.is_of_layer())?;
    }
    let ix = *plan.graph[id].wanted_by.first()?;
    Some((plan.images[ix.0].layers.iter().position(|layer| *layer == last)?, ix))
}

/// A node's state and its reason, unless that says the same.
fn state(node: &Node) -> String {
    let (state, reason) = (node.state.name(), node.reason.to_string());
    if state == reason { reason } else { format!("{state}: {reason}") }
}

fn alike(plan: &Plan, a: NodeId, b: NodeId) -> bool {
    let (a, b) = (&plan.graph[a], &plan.graph[b]);
    a.subject == b.subject
        && a.state == b.state
        && a.reason == b.reason
        && a.kind != Kind::Fetch
        && b.kind != Kind::Fetch
}

fn block(run: &Run, before: Option<&Run>, group: &[NodeId]) -> String {
    let plan = &run.plan;
    let first = group[0];
    let node = &plan.graph[first];
    let names: Vec<String> = group.iter().map(|id| plan.id(*id)).collect();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", names.join(" "));
    let mut line = |title: &str, value: &str| {
        let _ = writeln!(out, "  {title:<12} {}", printable(value));
    };
    if let Some((place, ix)) = place(plan, first) {
        let image = &plan.images[ix.0];
        line("step of", &format!("layer {} of {} of {}", place + 1, image.layers.len(), image.name));
    }
    line("state", &state(node));
    for (title, images) in ["for", "and"].iter().zip([&node.wanted_by[..1], &node.wanted_by[1..]]) {
        for ix in images.iter().take(OTHERS) {
            let name = &plan.images[ix.0].name;
            let why = if node.state_for(*ix) == State::Shared { plan.why(first, *ix) } else { String::new() };
            line(title, &if why.is_empty() { name.clone() } else { format!("{name}: {why}") });
        }
        if images.len() > OTHERS {
            line(title, &format!("{} more", images.len() - OTHERS));
        }
    }
    line("in the run", &did(run, group));
    line("key", &node.key.hex());
    for (part, value) in all_parts(&run.head.format, plan.parts(first)) {
        line(&format!("  {}", part.name()), &value.to_string());
    }
    for change in since(run, before, first) {
        line("changed", &change);
    }
    out
}

fn all_parts(format: &str, parts: Parts) -> Parts {
    let format = (Part::Format, Value::Text(format.to_owned()));
    std::iter::once(format).chain(parts).collect()
}

/// What the nodes did in the run.
fn did(run: &Run, group: &[NodeId]) -> String {
    let did: Vec<_> = group.iter().filter_map(|id| run.record.node(*id).map(|did| (*id, did))).collect();
    if did.is_empty() {
        return match run.plan.graph[group[0]].state {
            State::Standby => "not needed: another blob of the layer was good".to_owned(),
            _ => "nothing to do".to_owned(),
        };
    }
    let word = |(id, did): &(NodeId, &super::NodeRecord)| {
        let kind = run.plan.graph[*id].kind;
        let took = std::time::Duration::from_micros(did.took_us());
        match did.outcome {
            NodeOutcome::Finished => {
                let bytes = if did.bytes > 0 { format!(", {}", size(did.bytes)) } else { String::new() };
                format!("{} {}{bytes}", kind.name(), span(took))
            }
            outcome => match &did.error {
                Some(error) => format!("{} {}: {error}", kind.name(), outcome.name()),
                None => format!("{} {}", kind.name(), outcome.name()),
            },
        }
    };
    did.iter().map(word).collect::<Vec<_>>().join("; ")
}

/// What was another in the run before, for the same image and kind of node.
fn since(run: &Run, before: Option<&Run>, id: NodeId) -> Vec<String> {
    let Some(before) = before else { return vec!["no earlier run of this image is kept".to_owned()] };
    let (plan, was) = (&run.plan, &before.plan);
    let node = &plan.graph[id];
    let then = same_place(plan, was, id);
    let Some(then) = then else { return vec!["the run before had nothing of the kind".to_owned()] };
    let mut changes = Vec::new();
    let old: Parts = all_parts(&before.head.format, was.parts(then));
    for (part, value) in all_parts(&run.head.format, plan.parts(id)) {
        match old.iter().find(|(other, _)| *other == part) {
            Some((_, other)) if *other == value => {}
            Some((_, other)) => changes.push(format!("{} was {}", part.name(), changed(other, &value))),
            None => changes.push(format!("{} is new", part.name())),
        }
    }
    let made = before.record.node(then).is_some_and(|did| did.outcome == NodeOutcome::Finished);
    let then = &was.graph[then];
    if changes.is_empty() && node.state == State::Needed && (made || then.state == State::Stored) {
        changes.push(
            "not the key; it was there after the run before, and was gone, damaged or forced now".to_owned(),
        );
    }
    if changes.is_empty() && (node.state, node.reason) != (then.state, then.reason) {
        changes.push(format!("not the key; then it was {}", state(then)));
    }
    if changes.is_empty() {
        changes.push("nothing changed".to_owned());
    }
    changes
}

/// The other value of a part, and for lists only what is not in both.
fn changed(old: &Value, new: &Value) -> String {
    match (old, new) {
        (Value::Digests(old), Value::Digests(new)) => {
            let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
            let gone: Vec<String> = old[same..].iter().map(|digest| digest.short()).collect();
            let gone = if gone.is_empty() { "shorter".to_owned() } else { gone.join(" ") };
            format!("{gone} from layer {} on", same + 1)
        }
        (old, _) => old.to_string(),
    }
}

/// The node of an earlier plan that did for the same image what `id` does: the same work if it was there,
/// else the node of that kind, and for steps of a layer at that place.
fn same_place(plan: &Plan, was: &Plan, id: NodeId) -> Option<NodeId> {
    let node = &plan.graph[id];
    if let Some(same) = was.graph.node_indices().find(|other| was.graph[*other].key == node.key) {
        return Some(same);
    }
    let known = |ix: &ImageIx| {
        let image = &plan.images[ix.0];
        Some((image, ImageIx(was.images.iter().position(|other| other.name == image.name)?)))
    };
    let (image, ix) = node.wanted_by.iter().find_map(known)?;
    let kind = |other: &NodeId| was.graph[*other].kind == node.kind;
    if !node.kind.is_of_layer() {
        return was.own_nodes(ix).into_iter().find(kind);
    }
    let place = image.layers.iter().position(|layer| plan.layer(*layer).nodes.contains(&id))?;
    was.layer(*was.images[ix.0].layers.get(place)?).nodes.into_iter().find(kind)
}
