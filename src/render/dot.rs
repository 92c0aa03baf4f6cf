//! A plan for Graphviz. Knows DOT and how kinds and states look; ignores how it is laid out.
//!
//! Nodes are grouped by layer, not by image: an image's layers are also other images' layers, and a node stands
//! in one group only.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use petgraph::visit::EdgeRef;

use super::{text::short, words};
use crate::graph::{Edge, Kind, Node, NodeId, Plan, State};

/// `plan` as a DOT digraph: nodes are `n<index>`, the same plan gives the same text.
///
/// Shapes are kinds, fills are states, a double outline is work that several images want. Solid edges are
/// `Needs`, dashed ones `Streams`, dotted ones `Candidate` with its rank. Tooltips give state and reason.
pub fn dot(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_dot(plan, &mut out);
    out
}

fn write_dot(plan: &Plan, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "digraph plan {{")?;
    writeln!(out, "  rankdir=LR;")?;
    writeln!(out, "  node [style=filled, fontname=\"sans-serif\", fontsize=10];")?;
    writeln!(out, "  edge [color=\"#606060\", arrowsize=0.7];")?;
    let mut grouped = BTreeSet::new();
    for layer in plan.layers() {
        let name = short(&plan.graph[layer.finalize].subject);
        writeln!(out, "  subgraph cluster_n{} {{", layer.finalize.index())?;
        writeln!(
            out,
            "    label={}; color=\"#c0c0c0\"; fontname=\"sans-serif\"; fontsize=10;",
            quoted(&["layer ", &name])
        )?;
        // A blob under two layers stands in the first.
        for id in layer.nodes.into_iter().filter(|&id| grouped.insert(id)) {
            write_node(plan, id, "    ", out)?;
        }
        writeln!(out, "  }}")?;
    }
    for id in plan.graph.node_indices().filter(|id| !grouped.contains(id)) {
        write_node(plan, id, "  ", out)?;
    }
    write_edges(plan, out)?;
    writeln!(out, "}}")
}

fn write_node(plan: &Plan, id: NodeId, indent: &str, out: &mut impl Write) -> fmt::Result {
    let node = &plan.graph[id];
    let subject = short(&node.subject);
    let bytes = words::size(node.cost_bytes);
    let mut label = vec![node.kind.name(), "\n", &subject];
    if node.cost_bytes > 0 {
        label.extend(["\n", &bytes]);
    }
    let images = words::image_names(plan, &node.wanted_by);
    let reason = node.reason.to_string();
    let tooltip = [node.state.name(), ": ", &reason, "\nwanted by ", &images];
    write!(out, "{indent}n{} [label={}, {}", id.index(), quoted(&label), look(node))?;
    if node.wanted_by.len() > 1 {
        write!(out, ", peripheries=2")?;
    }
    writeln!(out, ", tooltip={}];", quoted(&tooltip))
}

fn write_edges(plan: &Plan, out: &mut impl Write) -> fmt::Result {
    // By ends, not by age: the order in which a planner makes edges is no part of the plan.
    let mut edges: Vec<_> =
        plan.graph.edge_references().map(|edge| (edge.source(), edge.target(), *edge.weight())).collect();
    edges.sort_unstable();
    for (from, to, edge) in edges {
        write!(out, "  n{} -> n{}", from.index(), to.index())?;
        match edge {
            Edge::Needs => writeln!(out, ";")?,
            Edge::Streams => writeln!(out, " [style=dashed];")?,
            Edge::Candidate { rank } => writeln!(out, " [style=dotted, label=\"{rank}\", fontsize=9];")?,
        }
    }
    Ok(())
}

/// Shape by kind, colours by state.
fn look(node: &Node) -> String {
    let shape = match node.kind {
        Kind::Fetch => "invhouse",
        Kind::Split => "trapezium",
        Kind::Encode => "box",
        Kind::Write => "cylinder",
        Kind::Finalize => "component",
        Kind::Config | Kind::Manifest => "note",
        Kind::Image => "box3d",
        Kind::Tag => "cds",
    };
    let colours = match node.state {
        State::Needed => "fillcolor=\"#ffe2a8\"",
        State::Shared => "fillcolor=\"#cfe3fa\"",
        State::Stored => "fillcolor=\"#eeeeee\", color=\"#a0a0a0\", fontcolor=\"#707070\"",
        State::Standby => {
            "style=\"filled,dashed\", fillcolor=\"#ffffff\", color=\"#a0a0a0\", fontcolor=\"#707070\""
        }
    };
    format!("shape={shape}, {colours}")
}

/// A DOT string of `parts`; a newline in them breaks the line in the picture.
fn quoted(parts: &[&str]) -> String {
    let mut text = String::from("\"");
    for c in parts.iter().flat_map(|part| part.chars()) {
        match c {
            '\n' => text.push_str("\\n"),
            '"' | '\\' => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn two_images_that_share_a_layer_through_two_blobs() {
        let expected = r##"
digraph plan {
  rankdir=LR;
  node [style=filled, fontname="sans-serif", fontsize=10];
  edge [color="#606060", arrowsize=0.7];
  subgraph cluster_n5 {
    label="layer 739a304e183a"; color="#c0c0c0"; fontname="sans-serif"; fontsize=10;
    n0 [label="fetch\n258f6ed2098b\n1.00 kB", shape=invhouse, fillcolor="#ffe2a8", tooltip="needed: layer is needed\nwanted by a:v1"];
    n1 [label="fetch\n97b3ec8ce242\n800 B", shape=invhouse, style="filled,dashed", fillcolor="#ffffff", color="#a0a0a0", fontcolor="#707070", tooltip="standby: another blob is tried first\nwanted by b:v1"];
    n2 [label="split\n739a304e183a", shape=trapezium, fillcolor="#ffe2a8", peripheries=2, tooltip="needed: layer is new\nwanted by a:v1, b:v1"];
    n3 [label="encode\n739a304e183a", shape=box, fillcolor="#ffe2a8", peripheries=2, tooltip="needed: layer is new\nwanted by a:v1, b:v1"];
    n4 [label="write\n739a304e183a", shape=cylinder, fillcolor="#ffe2a8", peripheries=2, tooltip="needed: layer is new\nwanted by a:v1, b:v1"];
    n5 [label="finalize\n739a304e183a", shape=component, fillcolor="#ffe2a8", peripheries=2, tooltip="needed: layer is new\nwanted by a:v1, b:v1"];
  }
  n6 [label="image\n9d33a9ce00b4", shape=box3d, fillcolor="#ffe2a8", tooltip="needed: filesystem is new\nwanted by a:v1"];
  n7 [label="config\n3ba8db4d21a0", shape=note, fillcolor="#ffe2a8", tooltip="needed: document is new\nwanted by a:v1"];
  n8 [label="manifest\ncf31f2185c02", shape=note, fillcolor="#ffe2a8", tooltip="needed: document is new\nwanted by a:v1"];
  n9 [label="tag\na:v1", shape=cds, fillcolor="#ffe2a8", tooltip="needed: name is new\nwanted by a:v1"];
  n10 [label="image\n332f8389778f", shape=box3d, fillcolor="#ffe2a8", tooltip="needed: filesystem is new\nwanted by b:v1"];
  n11 [label="config\nf428f1d7e63a", shape=note, fillcolor="#ffe2a8", tooltip="needed: document is new\nwanted by b:v1"];
  n12 [label="manifest\n70acb423cae0", shape=note, fillcolor="#ffe2a8", tooltip="needed: document is new\nwanted by b:v1"];
  n13 [label="tag\nb:v1", shape=cds, fillcolor="#ffe2a8", tooltip="needed: name is new\nwanted by b:v1"];
  n0 -> n2 [style=dotted, label="0", fontsize=9];
  n1 -> n2 [style=dotted, label="1", fontsize=9];
  n2 -> n3 [style=dashed];
  n2 -> n4 [style=dashed];
  n3 -> n5;
  n4 -> n5;
  n5 -> n6;
  n5 -> n10;
  n6 -> n7;
  n7 -> n8;
  n8 -> n9;
  n10 -> n11;
  n11 -> n12;
  n12 -> n13;
}
"##;
        assert_eq!(dot(&sample::two_candidates()), expected.trim_start());
    }

    #[test]
    fn a_hostile_name_stays_inside_its_quotes() {
        assert_eq!(quoted(&["a\"b\\"]), r#""a\"b\\""#);
    }
}
