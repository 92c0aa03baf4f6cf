//! A plan for Mermaid. Knows its flowcharts and their limits; ignores how they are laid out.
//!
//! Mermaid refuses what is too large for it, with the settings that a reader's page has; so a large
//! plan is drawn with one node for a layer, a larger one with one for an image, and the largest
//! with its first images only.
//!
//! What several images want is a group of its own, beside the images. It cannot stand with the
//! first of them, as in DOT: then images have edges to images, and Mermaid's layout (dagre) fails
//! from six images on one base on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    Marks,
    labels::{self, CRITICAL, Labels, Look},
    list,
    order::{Order, OrderedImage, OrderedLayer, order},
    words::{short, size},
};
use crate::graph::{Edge, Kind, NodeId, Plan};

/// How many edges Mermaid takes, as long as nobody sets `maxEdges`.
const EDGES: usize = 500;
/// How many characters it takes, as long as nobody sets `maxTextSize`. It is no error if there are more,
/// only a picture that says so.
const CHARACTERS: usize = 50_000;

/// `plan` as a Mermaid flowchart, with `marks` over it; the same plan gives the same text,
/// however its nodes are numbered.
///
/// Images are subgraphs, and so is what several images want, with the layers as subgraphs inside. Colours
/// are states; work that several images want has its sides doubled, too. `-->` is `Needs`, `-.->` is
/// `Streams`, `-.-o` is `Candidate` (with its rank unless it is tried first), `==>` is the chain that
/// decides how long the run takes. A plan that would be too large is folded; a comment says how. A note
/// says what the list says.
pub fn mermaid(plan: &Plan, marks: &Marks) -> String {
    let (labels, order) = (Labels::new(plan, marks), order(plan));
    let mut detail = Detail::Steps;
    loop {
        let chart = Chart::draw(&labels, &order, detail);
        match (chart, detail) {
            (Some(text), _) => return text,
            (None, Detail::Steps) => detail = Detail::Layers,
            (None, Detail::Layers) => detail = Detail::Images(order.images.len()),
            (None, Detail::Images(number)) => detail = Detail::Images(number / 2),
        }
    }
}

/// What one node of the chart stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Steps,
    /// Layers whole; the other steps of images each by itself.
    Layers,
    /// So many images whole, and all others together.
    Images(usize),
}

/// How two nodes of the chart hang together. Of several edges between them, the last in this order is drawn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arrow {
    Candidate(u32),
    Streams,
    Needs,
    Critical,
}

/// What stands in one frame.
#[derive(Default)]
struct Group<'a> {
    id: String,
    name: String,
    layers: Vec<&'a OrderedLayer>,
    nodes: Vec<NodeId>,
}

struct Chart<'a> {
    labels: &'a Labels<'a>,
    out: String,
    /// The names of the chart's nodes.
    ids: Vec<String>,
    /// For each node of the plan, its place among `ids`.
    place_of: Vec<usize>,
    critical: Vec<usize>,
    used: BTreeSet<Look>,
}

impl<'a> Chart<'a> {
    /// The chart; `None` if it is too large.
    fn draw(labels: &'a Labels<'a>, order: &Order, detail: Detail) -> Option<String> {
        let place_of = vec![0; labels.plan.graph.node_count()];
        let (ids, critical, used) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut chart = Self { labels, out: "flowchart LR\n".to_owned(), ids, place_of, critical, used };
        match detail {
            Detail::Steps => {}
            Detail::Layers => chart.out += "%% folded: one node for a layer, not for each of its steps\n",
            Detail::Images(_) => chart.out += "%% folded: one node for an image, not for each of its steps\n",
        }
        let note = list::note(labels.plan);
        if !note.is_empty() {
            chart.line(format_args!("  list[\"{}\"]:::list", escaped(&note)));
            chart.line(format_args!("  classDef list fill:#ffffff,color:#1f2328,stroke:#808080"));
        }
        match detail {
            Detail::Images(number) => chart.whole_images(order, number)?,
            Detail::Steps | Detail::Layers => chart.images(order, detail)?,
        }
        chart.edges()?;
        chart.classes();
        (chart.out.len() <= CHARACTERS).then_some(chart.out)
    }

    fn images(&mut self, order: &Order, detail: Detail) -> Option<()> {
        let plan = self.labels.plan;
        let is_shared = |node: NodeId| self.labels.wanted_by(node).len() > 1;
        let mut shared =
            Group { id: "shared".to_owned(), name: "several images".to_owned(), ..Group::default() };
        let mut groups = Vec::new();
        for image in &order.images {
            let mut own = Group {
                id: format!("of_{}", id(plan, plan.images[image.image.0].tag)),
                name: format!("image {}", self.labels.heading(image.image)),
                ..Group::default()
            };
            for layer in &image.layers {
                if is_shared(layer.finalize) { &mut shared } else { &mut own }.layers.push(layer);
            }
            for &node in &image.own {
                if is_shared(node) { &mut shared } else { &mut own }.nodes.push(node);
            }
            groups.push(own);
        }
        for group in std::iter::once(shared).chain(groups) {
            self.group(&group, detail)?;
        }
        order.rest.iter().for_each(|&node| self.step("  ", node));
        Some(())
    }

    fn group(&mut self, group: &Group, detail: Detail) -> Option<()> {
        // An empty one would be drawn as a node.
        if group.layers.is_empty() && group.nodes.is_empty() {
            return Some(());
        }
        self.line(format_args!(
            "  subgraph {}[\"{}\"]",
            group.id,
            escaped(std::slice::from_ref(&group.name))
        ));
        for layer in &group.layers {
            self.layer(layer, detail);
            // Before half a million lines are drawn in vain.
            if self.out.len() > CHARACTERS {
                return None;
            }
        }
        for &node in &group.nodes {
            self.step("    ", node);
        }
        self.line(format_args!("  end"));
        Some(())
    }

    fn layer(&mut self, layer: &OrderedLayer, detail: Detail) {
        let plan = self.labels.plan;
        let name = format!("layer {}", short(&plan.graph[layer.finalize].subject));
        if detail == Detail::Layers {
            let lines = self.sums(vec![name], &layer.nodes);
            return self.node("    ", id(plan, layer.finalize), &lines, &layer.nodes);
        }
        self.line(format_args!("    subgraph of_{}[\"{}\"]", id(plan, layer.finalize), escaped(&[name])));
        for &node in &layer.nodes {
            self.step("      ", node);
        }
        self.line(format_args!("    end"));
    }

    fn whole_images(&mut self, order: &Order, number: usize) -> Option<()> {
        let plan = self.labels.plan;
        let (shown, hidden) = order.images.split_at(number);
        for image in shown {
            let planned = &plan.images[image.image.0];
            let nodes: Vec<NodeId> = image.nodes().collect();
            let name = format!("image {}", self.labels.heading(image.image));
            let lines = self.sums(vec![name, labels::layers(planned.layers.len())], &nodes);
            self.node("  ", id(plan, planned.tag), &lines, &nodes);
            if self.out.len() > CHARACTERS {
                return None;
            }
        }
        let hidden_nodes = hidden.iter().flat_map(OrderedImage::nodes);
        let nodes: Vec<NodeId> = hidden_nodes.chain(order.rest.iter().copied()).collect();
        if !nodes.is_empty() {
            let lines = self.sums(vec![format!("{} more", hidden.len())], &nodes);
            self.node("  ", "others".to_owned(), &lines, &nodes);
        }
        Some(())
    }

    fn step(&mut self, indent: &str, node: NodeId) {
        self.node(indent, id(self.labels.plan, node), &self.labels.lines(node), &[node]);
    }

    /// Adds to `lines` what the nodes come to together.
    fn sums(&self, mut lines: Vec<String>, nodes: &[NodeId]) -> Vec<String> {
        let bytes = self.labels.fetched(nodes);
        lines.extend((bytes > 0).then(|| size(bytes)));
        lines.extend(self.labels.took(nodes));
        lines
    }

    /// A node of the chart for these of the plan.
    fn node(&mut self, indent: &str, id: String, lines: &[String], nodes: &[NodeId]) {
        let look = nodes.iter().map(|&node| self.look(node)).min().unwrap_or(Look::Standby);
        let place = self.ids.len();
        for node in nodes {
            self.place_of[node.index()] = place;
        }
        if nodes.iter().any(|&node| self.labels.is_critical(node)) {
            self.critical.push(place);
        }
        self.used.insert(look);
        let kind = |kind| matches!(nodes, [only] if self.labels.plan.graph[*only].kind == kind);
        let (open, close) = match look {
            Look::Shared => ("[[", "]]"),
            _ if kind(Kind::Write) => ("[(", ")]"),
            _ if kind(Kind::Tag) => ("([", "])"),
            _ => ("[", "]"),
        };
        self.line(format_args!("{indent}{id}{open}\"{}\"{close}:::{}", escaped(lines), look.name()));
        self.ids.push(id);
    }

    /// How a node looks; what has to be done for several images has a look of its own.
    fn look(&self, node: NodeId) -> Look {
        match self.labels.look(node) {
            Look::Needed if self.labels.wanted_by(node).len() > 1 => Look::Shared,
            look => look,
        }
    }

    /// All edges; `None` if there are too many.
    fn edges(&mut self) -> Option<()> {
        let graph = &self.labels.plan.graph;
        let mut arrows: BTreeMap<(usize, usize), Arrow> = BTreeMap::new();
        for edge in graph.edge_indices() {
            let (Some((from, to)), Some(weight)) = (graph.edge_endpoints(edge), graph.edge_weight(edge))
            else {
                continue;
            };
            let ends = (self.place_of[from.index()], self.place_of[to.index()]);
            if ends.0 == ends.1 {
                continue;
            }
            let arrow = match weight {
                _ if self.labels.is_on_path(from, to) => Arrow::Critical,
                Edge::Needs => Arrow::Needs,
                Edge::Streams => Arrow::Streams,
                Edge::Candidate { rank } => Arrow::Candidate(*rank),
            };
            let strongest = arrows.entry(ends).or_insert(arrow);
            *strongest = arrow.max(*strongest);
            if arrows.len() > EDGES {
                return None;
            }
        }
        for ((from, to), arrow) in arrows {
            let arrow = match arrow {
                Arrow::Candidate(0) => "-.-o".to_owned(),
                Arrow::Candidate(rank) => format!("-.-o|\"{rank}\"|"),
                Arrow::Streams => "-.->".to_owned(),
                Arrow::Needs => "-->".to_owned(),
                Arrow::Critical => "==>".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(self.out, "  {} {arrow} {}", self.ids[from], self.ids[to]);
        }
        Some(())
    }

    /// The colours, all of them ours: a page in the dark has others.
    fn classes(&mut self) {
        for look in std::mem::take(&mut self.used) {
            let (name, colours) = (look.name(), look.colours());
            let dashed = if look == Look::Standby { ",stroke-dasharray:4 3" } else { "" };
            self.line(format_args!(
                "  classDef {name} fill:{},color:{},stroke:{}{dashed}",
                colours.ground, colours.text, colours.line
            ));
        }
        if !self.critical.is_empty() {
            let ids: Vec<&str> = self.critical.iter().map(|&place| &*self.ids[place]).collect();
            let line = format!("  class {} critical", ids.join(","));
            self.line(format_args!("  classDef critical stroke:{CRITICAL},stroke-width:3px"));
            self.line(format_args!("{line}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{line}");
    }
}

/// The node's name, in letters that mean nothing to Mermaid.
fn id(plan: &Plan, node: NodeId) -> String {
    plan.id(node).replace('-', "_")
}

/// A label of these lines. Everything goes by number that Mermaid, its Markdown (`1. a`, `- a`,
/// `_a_`, addresses) or HTML could understand; a colon too, since with one `style` in a name costs
/// the last semicolon of its line.
fn escaped(lines: &[String]) -> String {
    let mut out = String::new();
    for (place, line) in lines.iter().enumerate() {
        if place > 0 {
            out.push_str("<br/>");
        }
        let mut before = None;
        for (at, c) in line.char_indices() {
            let after = &line[at + c.len_utf8()..];
            let between =
                |is: fn(char) -> bool| before.is_some_and(is) && after.chars().next().is_some_and(is);
            let plain = match c {
                '.' => between(|c| c.is_ascii_digit()),
                ' ' | '-' | '/' | ',' => between(|c| c.is_ascii_alphanumeric()),
                c => c.is_ascii_alphanumeric(),
            };
            match plain {
                true => out.push(c),
                // Writing to a String cannot fail.
                false => drop(write!(out, "#{};", u32::from(c))),
            }
            if means_more(c, after) {
                out.push_str(JOINER);
            }
            before = Some(c);
        }
    }
    out
}

/// A word joiner: nobody sees it.
const JOINER: &str = "#8288;";

/// Whether Mermaid would still understand something here after it has read the numbers: `$$` as a formula,
/// `fa:fa-…` as an icon, and the letters by which it remembers numbers itself.
fn means_more(c: char, after: &str) -> bool {
    matches!(c, '$' | 'ﬂ' | '¶') || (c == ':' && after.starts_with("fa-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::State,
        render::{
            json,
            sample::{self, Sample},
        },
    };

    #[test]
    fn two_images_that_share_a_layer_through_two_blobs() {
        let expected = r##"
flowchart LR
  subgraph shared["several images"]
    subgraph of_finalize_879bc967bc4e99db["layer 739a304e183a"]
      fetch_b6f6307f95bfe264["fetch<br/>258f6ed2098b<br/>1.00 kB"]:::needed
      fetch_6213b996b4418b2d["fetch<br/>97b3ec8ce242<br/>800 B"]:::standby
      split_5510746d3aee1a6b[["split<br/>739a304e183a"]]:::shared
      write_420d4f9f5ebdb4a8[["write<br/>739a304e183a"]]:::shared
      encode_ecebae567f19937c[["encode<br/>739a304e183a"]]:::shared
      finalize_879bc967bc4e99db[["finalize<br/>739a304e183a"]]:::shared
    end
  end
  subgraph of_tag_ee2cc0bfcd852355["image a#58;v1"]
    image_bbaf2c9c67e633e9["image<br/>9d33a9ce00b4"]:::needed
    config_daefef5a16878bbb["config<br/>3ba8db4d21a0"]:::needed
    manifest_461a37b759de2833["manifest<br/>cf31f2185c02"]:::needed
    tag_ee2cc0bfcd852355(["tag<br/>a#58;v1"]):::needed
  end
  subgraph of_tag_1e9002730c30ae7c["image b#58;v1"]
    image_d865dc2842930514["image<br/>332f8389778f"]:::needed
    config_7ce160de2477fe63["config<br/>f428f1d7e63a"]:::needed
    manifest_cd465dbe2ac0b7d8["manifest<br/>70acb423cae0"]:::needed
    tag_1e9002730c30ae7c(["tag<br/>b#58;v1"]):::needed
  end
  fetch_b6f6307f95bfe264 ==> split_5510746d3aee1a6b
  fetch_6213b996b4418b2d -.-o|"1"| split_5510746d3aee1a6b
  split_5510746d3aee1a6b -.-> write_420d4f9f5ebdb4a8
  split_5510746d3aee1a6b ==> encode_ecebae567f19937c
  write_420d4f9f5ebdb4a8 -.-> encode_ecebae567f19937c
  write_420d4f9f5ebdb4a8 --> finalize_879bc967bc4e99db
  encode_ecebae567f19937c ==> finalize_879bc967bc4e99db
  finalize_879bc967bc4e99db ==> image_bbaf2c9c67e633e9
  finalize_879bc967bc4e99db --> image_d865dc2842930514
  image_bbaf2c9c67e633e9 --> config_daefef5a16878bbb
  config_daefef5a16878bbb --> manifest_461a37b759de2833
  manifest_461a37b759de2833 --> tag_ee2cc0bfcd852355
  image_d865dc2842930514 --> config_7ce160de2477fe63
  config_7ce160de2477fe63 --> manifest_cd465dbe2ac0b7d8
  manifest_cd465dbe2ac0b7d8 --> tag_1e9002730c30ae7c
  classDef needed fill:#ffe2a8,color:#1f2328,stroke:#8a6d1f
  classDef shared fill:#cfe3fa,color:#1f2328,stroke:#4a79b0
  classDef standby fill:#ffffff,color:#5c5c5c,stroke:#a0a0a0,stroke-dasharray:4 3
  classDef critical stroke:#d9480f,stroke-width:3px
  class fetch_b6f6307f95bfe264,split_5510746d3aee1a6b,encode_ecebae567f19937c,finalize_879bc967bc4e99db,image_bbaf2c9c67e633e9 critical
"##;
        let plan = sample::two_candidates();
        let marks = Marks { critical: [0, 2, 3, 5, 6].map(NodeId::new).into(), ..Marks::default() };
        assert_eq!(mermaid(&plan, &marks), expected.trim_start());
    }

    #[test]
    fn a_plan_read_back_is_drawn_the_same() {
        for plan in [sample::two_images(), sample::two_candidates(), sample::of_a_list()] {
            let read = Plan::from_json(&json(&plan, &Marks::default())).unwrap();
            assert_eq!(mermaid(&read, &Marks::default()), mermaid(&plan, &Marks::default()));
        }
    }

    #[test]
    fn a_list_is_a_note_and_never_too_large() {
        let mut plan = sample::of_a_list();
        let drawn = mermaid(&plan, &Marks::default());
        let note =
            "  list[\"untagged after everything else succeeded#58;#32;1 name#59;#32;webapp#58;#34;old#34;";
        assert!(drawn.lines().any(|line| line.starts_with(note)), "{drawn}");
        assert!(drawn.contains("[\"image node#58;latest#44;#32;linux/arm64\"]"), "{drawn}");
        let hostile = "\u{10fffd}".repeat(200);
        plan.selections.iter_mut().for_each(|selection| selection.rule = hostile.clone());
        plan.selections = plan.selections.iter().cycle().take(5000).cloned().collect();
        plan.untag = vec![hostile; 5000];
        assert!(mermaid(&plan, &Marks::default()).contains("  list[\""));
    }

    #[test]
    fn a_hostile_name_is_only_text() {
        let of = |name: &str| escaped(&[name.to_owned()]);
        assert_eq!(of("a:v1"), "a#58;v1");
        assert_eq!(of("\"]\n%%{a"), "#34;#93;#10;#37;#37;#123;a");
        assert_eq!(of("1. a - b 1.5 s"), "1#46;#32;a#32;#45;#32;b 1.5 s");
        assert_eq!(of("größe $$"), "gr#246;#223;e#32;#36;#8288;#36;#8288;");
    }

    #[test]
    fn a_large_plan_is_folded() {
        let names: Vec<&'static str> = (0..200).map(|n| &*format!("layer {n}").leak()).collect();
        let with = |layers: usize, images: usize| {
            let mut sample = Sample::default();
            for name in &names[..layers] {
                sample = sample.layer(name, State::Needed, &[0], &[((name, 1000), &[0])]);
            }
            let images = (0..images).map(|image| format!("image-{image}:v1"));
            images.fold(sample, |sample, name| sample.image(&name, State::Needed, &names[..layers])).plan()
        };
        let drawn = |plan: &Plan| mermaid(plan, &Marks::default());
        let whole = |text: &str| text.matches("[\"layer ").count();
        let [steps, layers, images, many] =
            [with(20, 2), with(200, 1), with(200, 4), with(5, 3000)].map(|p| drawn(&p));
        assert!(!steps.contains("%%") && steps.contains("fetch_"));
        assert!(layers.contains("%% folded: one node for a layer") && whole(&layers) == 200, "{layers}");
        assert!(
            images.contains("%% folded: one node for an image") && images.matches("-->").count() == 3,
            "{images}"
        );
        assert!(many.contains("[\"image image-0#58;v1<br/>5 layers<br/>5.00 kB\"]"), "{many}");
        assert!(many.contains(" more\"]") && many.len() <= CHARACTERS, "{many}");
    }
}
