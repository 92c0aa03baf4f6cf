//! What stands in a node and beside it. Knows a plan's words and a run's numbers; ignores the
//! language of the picture.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use super::{
    Marks, Measured,
    words::{clip, count, short, size, span},
};
use crate::graph::{ImageIx, Kind, NodeId, Plan, State};

/// The longest name that a picture shows whole, in characters.
const NAME: usize = 80;
/// How many images are named of those that want a node: with a thousand over forty layers,
/// all would fill gigabytes.
const NAMED: usize = 20;

/// How a node looks; of several in one place, the first of them in this order says how the place looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Look {
    Failed,
    Cancelled,
    Needed,
    Shared,
    Stored,
    Standby,
}

/// What a look is drawn with. Text has a contrast of 4.5 or more against its ground,
/// whatever lies around the node.
pub(super) struct Colours {
    pub(super) ground: &'static str,
    pub(super) text: &'static str,
    pub(super) line: &'static str,
}

/// The outline of nodes and edges that decide how long the run takes; told from light and from dark.
pub(super) const CRITICAL: &str = "#d9480f";

impl Look {
    /// The word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Needed => State::Needed.name(),
            Self::Shared => State::Shared.name(),
            Self::Stored => State::Stored.name(),
            Self::Standby => State::Standby.name(),
        }
    }

    pub(super) fn colours(self) -> Colours {
        let (ground, text, line) = match self {
            Self::Failed => ("#f9c9c4", "#5f1410", "#b3261e"),
            Self::Cancelled => ("#d9d9d9", "#4a4a4a", "#8a8a8a"),
            Self::Needed => ("#ffe2a8", "#1f2328", "#8a6d1f"),
            Self::Shared => ("#cfe3fa", "#1f2328", "#4a79b0"),
            Self::Stored => ("#eeeeee", "#5c5c5c", "#a0a0a0"),
            Self::Standby => ("#ffffff", "#5c5c5c", "#a0a0a0"),
        };
        Colours { ground, text, line }
    }
}

/// The words of a plan and of what is drawn over it.
pub(super) struct Labels<'a> {
    pub(super) plan: &'a Plan,
    marks: &'a Marks,
    critical: HashSet<NodeId>,
    path: HashSet<(NodeId, NodeId)>,
    /// For each image, the first one with its name: a request may name an image twice,
    /// and JSON has names only.
    namesakes: Vec<ImageIx>,
}

impl<'a> Labels<'a> {
    pub(super) fn new(plan: &'a Plan, marks: &'a Marks) -> Self {
        let mut first = HashMap::new();
        let images = plan.images.iter().enumerate();
        let namesakes = images.map(|(ix, image)| *first.entry(&*image.name).or_insert(ImageIx(ix))).collect();
        let critical = marks.critical.iter().copied().collect();
        let path = marks.critical.windows(2).map(|pair| (pair[0], pair[1])).collect();
        Self { plan, marks, critical, path, namesakes }
    }

    /// Whether the node is one that decides how long the run takes.
    pub(super) fn is_critical(&self, node: NodeId) -> bool {
        self.critical.contains(&node)
    }

    /// Whether an edge leads from one such node to the next.
    pub(super) fn is_on_path(&self, from: NodeId, to: NodeId) -> bool {
        self.path.contains(&(from, to))
    }

    /// How the node looks by itself; that several images want it is for the caller to show.
    pub(super) fn look(&self, node: NodeId) -> Look {
        let state = self.plan.graph[node].state;
        let ended = self.marks.nodes.get(&node).map(|measured| (measured.outcome, measured.start));
        match (ended, state) {
            (Some(("failed", _)), _) => Look::Failed,
            // What nobody needed is no loss.
            (Some(("cancelled" | "unfinished", None)), State::Standby) => Look::Standby,
            (Some(("cancelled" | "unfinished", _)), _) => Look::Cancelled,
            (_, State::Needed) => Look::Needed,
            (_, State::Shared) => Look::Shared,
            (_, State::Stored) => Look::Stored,
            (_, State::Standby) => Look::Standby,
        }
    }

    /// The images that want the node, one of each name, in the order of the request.
    pub(super) fn wanted_by(&self, node: NodeId) -> BTreeSet<ImageIx> {
        let images = self.plan.graph[node].wanted_by.iter();
        images.filter_map(|image| self.namesakes.get(image.0)).copied().collect()
    }

    /// The name of an image, for people.
    pub(super) fn image(&self, image: ImageIx) -> String {
        self.plan.images.get(image.0).map_or_else(String::new, |image| clip(&image.name, NAME))
    }

    /// The name of an image and its platform, if it has one of its own.
    pub(super) fn heading(&self, image: ImageIx) -> String {
        let platform = self.plan.images.get(image.0).and_then(|image| image.platform.as_ref());
        let platform = platform.map_or_else(String::new, |platform| format!(", {}", clip(platform, NAME)));
        self.image(image) + &platform
    }

    /// What stands in the node: kind, subject, size, and what was measured.
    pub(super) fn lines(&self, id: NodeId) -> Vec<String> {
        let node = &self.plan.graph[id];
        let mut lines = vec![node.kind.name().to_owned(), clip(&short(&node.subject), NAME)];
        if node.cost_bytes > 0 {
            lines.push(size(node.cost_bytes));
        }
        lines.extend(self.marks.nodes.get(&id).and_then(measured));
        lines
    }

    /// What is told beside the node: why it is there, who wants it, what became of it.
    pub(super) fn notes(&self, id: NodeId) -> Vec<String> {
        let node = &self.plan.graph[id];
        let images = self.wanted_by(id);
        let mut names: Vec<String> = images.iter().take(NAMED).map(|&image| self.image(image)).collect();
        if images.len() > NAMED {
            names.push(format!("{} more", images.len() - NAMED));
        }
        let mut notes = vec![
            format!("{}: {}", node.state.name(), node.reason),
            format!("wanted by {}", names.join(", ")),
        ];
        if self.is_critical(id) {
            notes.push("decides how long it takes".to_owned());
        }
        if let Some(measure) = self.marks.nodes.get(&id) {
            notes.extend(measured(measure));
            notes.extend(measure.error.as_ref().map(|error| clip(error, 4 * NAME)));
        }
        notes
    }

    /// How long these nodes took together, from the first start to the last end, as far as that was measured.
    pub(super) fn took(&self, nodes: &[NodeId]) -> Option<String> {
        let all = || nodes.iter().filter_map(|node| self.marks.nodes.get(node));
        let start = all().filter_map(|measure| measure.start).min()?;
        let end = all().filter_map(|measure| measure.end).max()?;
        Some(span(end.saturating_sub(start)))
    }

    /// The bytes that the fetches among `nodes` transfer if every first candidate is good.
    pub(super) fn fetched(&self, nodes: &[NodeId]) -> u64 {
        let needed = nodes
            .iter()
            .map(|&node| &self.plan.graph[node])
            .filter(|node| node.kind == Kind::Fetch && matches!(node.state, State::Needed | State::Shared));
        needed.fold(0, |sum, node| sum.saturating_add(node.cost_bytes))
    }
}

/// How a node ended unless well, how long it took, what passed through it and what was counted.
fn measured(measure: &Measured) -> Option<String> {
    let mut parts = Vec::new();
    if measure.outcome != "finished" {
        parts.push(measure.outcome.to_owned());
    }
    let took = measure.start.zip(measure.end).map(|(start, end)| end.saturating_sub(start));
    parts.extend(took.map(span));
    if measure.bytes > 0 {
        parts.push(size(measure.bytes));
    }
    parts.extend(measure.counts.iter().map(|(name, value)| counted(name, *value)));
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A count in words; the end of its name is its unit.
fn counted(name: &str, value: u64) -> String {
    let words = |name: &str| clip(&name.replace('_', " "), NAME);
    if let Some(name) = name.strip_suffix("_us") {
        format!("{} {}", words(name), span(Duration::from_micros(value)))
    } else if let Some(name) = name.strip_suffix("_bytes") {
        format!("{} {}", words(name), size(value))
    } else {
        format!("{value} {}", words(name))
    }
}

/// So many layers, in words.
pub(super) fn layers(number: usize) -> String {
    count(number, "layer", "layers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    fn measure(outcome: &'static str, start: Option<u64>, end: Option<u64>) -> Measured {
        let ms = |time: Option<u64>| time.map(Duration::from_millis);
        let (start, end) = (ms(start), ms(end));
        let counts = [("objects_new", 7), ("held_us", 2_000_000), ("erofs_bytes", 4096)];
        Measured {
            outcome,
            start,
            end,
            cpu: Duration::ZERO,
            bytes: 1000,
            counts: counts.map(|(name, value)| (name.to_owned(), value)).into(),
            error: (outcome == "failed").then(|| "no route\nto host".to_owned()),
        }
    }

    #[test]
    fn a_run_shows_in_the_nodes() {
        let plan = sample::two_candidates();
        let node = |place: usize| NodeId::new(place);
        let marks = Marks {
            critical: vec![node(0), node(2)],
            nodes: [
                (node(0), measure("failed", Some(5), Some(1205))),
                (node(1), measure("cancelled", None, Some(9))),
                (node(2), measure("unfinished", Some(5), None)),
                (node(3), measure("finished", Some(0), Some(1))),
            ]
            .into(),
        };
        let labels = Labels::new(&plan, &marks);
        let looks: Vec<Look> = (0..5).map(|place| labels.look(node(place))).collect();
        assert_eq!(looks, [Look::Failed, Look::Standby, Look::Cancelled, Look::Needed, Look::Needed]);
        let numbers = "failed, 1.20 s, 1.00 kB, erofs 4.10 kB, held 2.00 s, 7 objects new";
        assert_eq!(labels.lines(node(0))[2..], ["1.00 kB", numbers]);
        let notes = labels.notes(node(0));
        let expected = ["needed: not stored", "wanted by a:v1", "decides how long it takes", numbers];
        assert_eq!(notes[..4], expected);
        assert_eq!(notes[4], "no route to host");
        assert!(labels.is_on_path(node(0), node(2)) && !labels.is_on_path(node(2), node(3)));
    }

    #[test]
    fn an_image_asked_for_twice_wants_a_node_once() {
        let mut plan = sample::two_images();
        plan.images[1].name = plan.images[0].name.clone();
        let marks = Marks::default();
        let labels = Labels::new(&plan, &marks);
        assert_eq!(labels.wanted_by(plan.images[0].layers[0]).len(), 1);
    }
}
