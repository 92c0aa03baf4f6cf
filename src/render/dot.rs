//! A plan for Graphviz. Knows DOT and how kinds look; ignores how it is laid out.
//!
//! Images are clusters, their layers clusters inside. A node that several images want stands with the first
//! of them, and the edges cross: in DOT, a node stands in one cluster only.

use std::fmt::{self, Write};

use super::{
    Marks,
    labels::{CRITICAL, Labels, Look},
    list,
    order::{OrderedImage, edges, order},
    words::short,
};
use crate::graph::{Edge, Kind, NodeId, Plan};

/// `plan` as a DOT digraph, with `marks` over it; the same plan gives the same text,
/// however its nodes are numbered.
///
/// Nodes have the names that records and JSON give them. Shapes are kinds, fills are states, a double outline
/// is work that several images want. Solid edges are `Needs`, dashed ones `Streams`, dotted ones `Candidate`
/// with its rank. Bold nodes and edges decide how long the run takes. Tooltips tell why a node is there, who
/// wants it, and what became of it. A note says what the list says.
pub fn dot(plan: &Plan, marks: &Marks) -> String {
    let ids = plan.graph.node_indices().map(|node| plan.id(node)).collect();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = Drawing { labels: Labels::new(plan, marks), ids }.write(&mut out);
    out
}

struct Drawing<'a> {
    labels: Labels<'a>,
    /// The name of each node.
    ids: Vec<String>,
}

impl Drawing<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "digraph plan {{")?;
        writeln!(out, "  rankdir=LR;")?;
        writeln!(out, "  graph [fontname=\"sans-serif\", fontsize=10];")?;
        writeln!(out, "  node [style=filled, fontname=\"sans-serif\", fontsize=10];")?;
        writeln!(out, "  edge [color=\"#606060\", arrowsize=0.7, fontname=\"sans-serif\", fontsize=9];")?;
        self.note(out)?;
        let order = order(self.labels.plan);
        for image in &order.images {
            self.image(image, out)?;
        }
        for &node in &order.rest {
            self.node(node, "  ", out)?;
        }
        for (from, to, edge) in edges(self.labels.plan, &self.ids) {
            self.edge(from, to, edge, out)?;
        }
        writeln!(out, "}}")
    }

    /// What the list says; nothing for a pull.
    fn note(&self, out: &mut String) -> fmt::Result {
        let lines = list::note(self.labels.plan);
        if lines.is_empty() {
            return Ok(());
        }
        // Each line ends to the left.
        let text: String = lines.iter().map(|line| escaped(line) + "\\l").collect();
        writeln!(out, "  \"list\" [label=\"{text}\", shape=note, fillcolor=\"#ffffff\", color=\"#808080\"];")
    }

    fn image(&self, image: &OrderedImage, out: &mut String) -> fmt::Result {
        let plan = self.labels.plan;
        let planned = &plan.images[image.image.0];
        writeln!(out, "  subgraph \"cluster_{}\" {{", self.id(planned.tag))?;
        let name = quoted(&[self.labels.heading(image.image)]);
        writeln!(out, "    label={name}; labeljust=l; color=\"#808080\";")?;
        for layer in &image.layers {
            writeln!(out, "    subgraph \"cluster_{}\" {{", self.id(layer.finalize))?;
            let name = quoted(&[format!("layer {}", short(&plan.graph[layer.finalize].subject))]);
            writeln!(out, "      label={name}; color=\"#c0c0c0\";")?;
            for &node in &layer.nodes {
                self.node(node, "      ", out)?;
            }
            writeln!(out, "    }}")?;
        }
        for &node in &image.own {
            self.node(node, "    ", out)?;
        }
        writeln!(out, "  }}")
    }

    fn node(&self, node: NodeId, indent: &str, out: &mut String) -> fmt::Result {
        let look = self.labels.look(node);
        let colours = look.colours();
        write!(out, "{indent}\"{}\" [label={}", self.id(node), quoted(&self.labels.lines(node)))?;
        write!(out, ", shape={}", shape(self.labels.plan.graph[node].kind))?;
        if look == Look::Standby {
            write!(out, ", style=\"filled,dashed\"")?;
        }
        write!(out, ", fillcolor=\"{}\", fontcolor=\"{}\"", colours.ground, colours.text)?;
        match self.labels.is_critical(node) {
            true => write!(out, ", color=\"{CRITICAL}\", penwidth=3")?,
            false => write!(out, ", color=\"{}\"", colours.line)?,
        }
        if self.labels.wanted_by(node).len() > 1 {
            write!(out, ", peripheries=2")?;
        }
        writeln!(out, ", tooltip={}];", quoted(&self.labels.notes(node)))
    }

    fn edge(&self, from: NodeId, to: NodeId, edge: Edge, out: &mut String) -> fmt::Result {
        let mut look = match edge {
            Edge::Needs => Vec::new(),
            Edge::Streams => vec!["style=dashed".to_owned()],
            Edge::Candidate { rank } => vec!["style=dotted".to_owned(), format!("label=\"{rank}\"")],
        };
        if self.labels.is_on_path(from, to) {
            look.push(format!("color=\"{CRITICAL}\", penwidth=3"));
        }
        write!(out, "  \"{}\" -> \"{}\"", self.id(from), self.id(to))?;
        if !look.is_empty() {
            write!(out, " [{}]", look.join(", "))?;
        }
        writeln!(out, ";")
    }

    fn id(&self, node: NodeId) -> &str {
        &self.ids[node.index()]
    }
}

fn shape(kind: Kind) -> &'static str {
    match kind {
        Kind::Fetch => "invhouse",
        Kind::Split => "trapezium",
        Kind::Encode => "box",
        Kind::Write => "cylinder",
        Kind::Finalize => "component",
        Kind::Config | Kind::Manifest => "note",
        Kind::Filesystem => "box3d",
        Kind::Tag => "cds",
    }
}

/// A DOT string of these lines. Graphviz reads backslashes and entities of HTML in it a second time.
fn quoted(lines: &[String]) -> String {
    let mut text = String::from("\"");
    for (place, line) in lines.iter().enumerate() {
        if place > 0 {
            text.push_str("\\n");
        }
        text += &escaped(line);
    }
    text.push('"');
    text
}

fn escaped(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '&' => text.push_str("&amp;"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::render::{Measured, json, sample};

    #[test]
    fn a_list_is_a_note() {
        let drawn = dot(&sample::of_a_list(), &Marks::default());
        let note = r##"  "list" [label="untagged after everything else succeeded: 1 name; webapp:\"old\" &amp; so\lrule registry.example/*:latest: 2 images; webapp:latest, node:latest\lrule registry.example/gone:<b> : no images\l", shape=note, fillcolor="#ffffff", color="#808080"];"##;
        assert!(drawn.lines().any(|line| line == note), "{drawn}");
        assert!(drawn.contains(r#"label="node:latest, linux/arm64"; labeljust=l"#), "{drawn}");
    }

    #[test]
    fn two_images_that_share_a_layer_through_two_blobs() {
        let expected = r##"
digraph plan {
  rankdir=LR;
  graph [fontname="sans-serif", fontsize=10];
  node [style=filled, fontname="sans-serif", fontsize=10];
  edge [color="#606060", arrowsize=0.7, fontname="sans-serif", fontsize=9];
  subgraph "cluster_tag-ee2cc0bfcd852355" {
    label="a:v1"; labeljust=l; color="#808080";
    subgraph "cluster_finalize-879bc967bc4e99db" {
      label="layer 739a304e183a"; color="#c0c0c0";
      "fetch-b6f6307f95bfe264" [label="fetch\n258f6ed2098b\n1.00 kB", shape=invhouse, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by a:v1"];
      "fetch-6213b996b4418b2d" [label="fetch\n97b3ec8ce242\n800 B", shape=invhouse, style="filled,dashed", fillcolor="#ffffff", fontcolor="#5c5c5c", color="#a0a0a0", tooltip="standby: not stored\nwanted by b:v1"];
      "split-5510746d3aee1a6b" [label="split\n739a304e183a", shape=trapezium, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", peripheries=2, tooltip="needed: not stored\nwanted by a:v1, b:v1"];
      "write-420d4f9f5ebdb4a8" [label="write\n739a304e183a", shape=cylinder, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", peripheries=2, tooltip="needed: not stored\nwanted by a:v1, b:v1"];
      "encode-ecebae567f19937c" [label="encode\n739a304e183a", shape=box, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", peripheries=2, tooltip="needed: not stored\nwanted by a:v1, b:v1"];
      "finalize-879bc967bc4e99db" [label="finalize\n739a304e183a", shape=component, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", peripheries=2, tooltip="needed: not stored\nwanted by a:v1, b:v1"];
    }
    "image-bbaf2c9c67e633e9" [label="image\n9d33a9ce00b4", shape=box3d, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by a:v1"];
    "config-daefef5a16878bbb" [label="config\n3ba8db4d21a0", shape=note, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by a:v1"];
    "manifest-461a37b759de2833" [label="manifest\ncf31f2185c02", shape=note, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by a:v1"];
    "tag-ee2cc0bfcd852355" [label="tag\na:v1", shape=cds, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by a:v1"];
  }
  subgraph "cluster_tag-1e9002730c30ae7c" {
    label="b:v1"; labeljust=l; color="#808080";
    "image-d865dc2842930514" [label="image\n332f8389778f", shape=box3d, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by b:v1"];
    "config-7ce160de2477fe63" [label="config\nf428f1d7e63a", shape=note, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by b:v1"];
    "manifest-cd465dbe2ac0b7d8" [label="manifest\n70acb423cae0", shape=note, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by b:v1"];
    "tag-1e9002730c30ae7c" [label="tag\nb:v1", shape=cds, fillcolor="#ffe2a8", fontcolor="#1f2328", color="#8a6d1f", tooltip="needed: not stored\nwanted by b:v1"];
  }
  "config-7ce160de2477fe63" -> "manifest-cd465dbe2ac0b7d8";
  "config-daefef5a16878bbb" -> "manifest-461a37b759de2833";
  "encode-ecebae567f19937c" -> "finalize-879bc967bc4e99db";
  "fetch-6213b996b4418b2d" -> "split-5510746d3aee1a6b" [style=dotted, label="1"];
  "fetch-b6f6307f95bfe264" -> "split-5510746d3aee1a6b" [style=dotted, label="0"];
  "finalize-879bc967bc4e99db" -> "image-bbaf2c9c67e633e9";
  "finalize-879bc967bc4e99db" -> "image-d865dc2842930514";
  "image-bbaf2c9c67e633e9" -> "config-daefef5a16878bbb";
  "image-d865dc2842930514" -> "config-7ce160de2477fe63";
  "manifest-461a37b759de2833" -> "tag-ee2cc0bfcd852355";
  "manifest-cd465dbe2ac0b7d8" -> "tag-1e9002730c30ae7c";
  "split-5510746d3aee1a6b" -> "encode-ecebae567f19937c" [style=dashed];
  "split-5510746d3aee1a6b" -> "write-420d4f9f5ebdb4a8" [style=dashed];
  "write-420d4f9f5ebdb4a8" -> "encode-ecebae567f19937c" [style=dashed];
  "write-420d4f9f5ebdb4a8" -> "finalize-879bc967bc4e99db";
}
"##;
        assert_eq!(dot(&sample::two_candidates(), &Marks::default()), expected.trim_start());
    }

    #[test]
    fn a_plan_read_back_is_drawn_the_same() {
        for plan in [sample::two_images(), sample::twice_the_same_layer(), sample::two_candidates()] {
            let read = Plan::from_json(&json(&plan, &Marks::default())).unwrap();
            let ids = |plan: &Plan| plan.graph.node_indices().map(|node| plan.id(node)).collect::<Vec<_>>();
            assert_ne!(ids(&read), ids(&plan), "the numbers differ, or this shows nothing");
            assert_eq!(dot(&read, &Marks::default()), dot(&plan, &Marks::default()));
        }
    }

    #[test]
    fn what_decides_is_bold_and_what_failed_is_red() {
        let plan = sample::two_candidates();
        let [fetch, split] = [0, 2].map(NodeId::new);
        let measured = Measured {
            outcome: "failed",
            start: Some(Duration::ZERO),
            end: Some(Duration::from_millis(1_200)),
            cpu: Duration::ZERO,
            bytes: 0,
            counts: BTreeMap::new(),
            error: Some("connection \"reset\"".into()),
        };
        let marks = Marks { critical: vec![fetch, split], nodes: BTreeMap::from([(fetch, measured)]) };
        let drawn = dot(&plan, &marks);
        let line = |begin: String| drawn.lines().find(|line| line.trim_start().starts_with(&begin)).unwrap();
        let node = line(format!("\"{}\" [", plan.id(fetch)));
        for part in ["failed, 1.20 s", "#f9c9c4", "penwidth=3", "connection \\\"reset\\\""] {
            assert!(node.contains(part), "{node}");
        }
        assert!(line(format!("\"{}\" -> \"{}\"", plan.id(fetch), plan.id(split))).contains("penwidth=3"));
        assert_eq!(drawn.matches("penwidth").count(), 3);
    }

    #[test]
    fn a_hostile_name_stays_inside_its_quotes() {
        let mut plan = sample::two_candidates();
        plan.images[0].name = "a\"];}\\\n<b>&lt;\u{202e}\u{0}\\".into();
        let drawn = dot(&plan, &Marks::default());
        let label = r#"label="a\"];}\\ <b>&amp;lt;\\u{202e}\\u{0}\\";"#;
        assert!(drawn.contains(label), "{drawn}");
    }
}
