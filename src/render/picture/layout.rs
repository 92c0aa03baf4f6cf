//! Where everything stands. Knows columns, heights and the ways of lines; ignores colours and markup.

use std::collections::{BTreeSet, HashMap};

use petgraph::{Direction, visit::EdgeRef};

use super::bands::{Band, Look, Slot, class, column};
use crate::{
    graph::{Edge, Kind, NodeId, Plan},
    render::Marks,
};

/// Width of a whole picture.
pub(super) const WIDTH: i32 = 1280;
/// Where labels begin.
pub(super) const LEFT: i32 = 20;
/// Height of the line with the names of the columns.
pub(super) const COLUMN_NAMES: i32 = 26;
/// Height of a cell.
pub(super) const CELL: i32 = 12;

const ROW: i32 = 30;
/// Height of a row that carries the name of its image, too.
const FOLDED_ROW: i32 = 44;
/// Height of each further line in a row.
const LINE: i32 = 18;
/// The image's own cells have a word below.
const OWN: i32 = 40;
/// In a long band they stay with its first rows, where they are seen.
const OWN_AT_MOST: i32 = 6 * ROW;
/// Left edge and width of each column; what stands between finalize and the rest is for
/// the lines that gather.
const SLOTS: [(i32, i32); 9] =
    [(356, 80), (460, 80), (564, 80), (668, 80), (772, 44), (876, 80), (980, 80), (1084, 80), (1188, 72)];
/// Where the lines of all layers gather.
const TRUNK: i32 = 848;
const BEND: i32 = 7;

/// What the widths of bars show, and what the widest one stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Bytes that are expected to pass through.
    Bytes(u64),
    /// Nanoseconds that it took.
    Time(u64),
}

/// A band with coordinates; its own top is 0.
pub(super) struct Laid {
    pub(super) height: i32,
    pub(super) rows: Vec<LaidRow>,
    pub(super) own: Vec<Cell>,
    /// Lines between a row and the image's own cells, or among these.
    pub(super) lines: Vec<Line>,
}

/// A row with coordinates.
pub(super) struct LaidRow {
    /// The middle of its first line.
    pub(super) middle: i32,
    pub(super) cells: Vec<Cell>,
    /// Lines within the row.
    pub(super) lines: Vec<Line>,
}

/// A cell with coordinates.
pub(super) struct Cell {
    pub(super) look: Look,
    pub(super) nodes: Vec<NodeId>,
    pub(super) column: usize,
    pub(super) x: i32,
    pub(super) middle: i32,
    pub(super) width: i32,
    /// What fills it from the left: classes and widths.
    pub(super) bars: Vec<(&'static str, i32)>,
}

/// A way from cell to cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) from: Vec<NodeId>,
    pub(super) to: Vec<NodeId>,
    pub(super) style: Style,
    pub(super) critical: bool,
    /// SVG path data.
    pub(super) path: String,
}

/// How two cells hang together; a candidate's place in the order is its line in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Style {
    Needs,
    Streams,
    Candidate,
}

/// Left edge and width of a column.
pub(super) fn slot(column: usize) -> (i32, i32) {
    SLOTS[column]
}

/// What `marks` allow to show: times after a run, bytes before.
pub(super) fn scale(plan: &Plan, marks: &Marks) -> Scale {
    let took = marks.nodes.values().filter_map(|measured| measured.took());
    match took.map(|took| took.as_nanos()).max() {
        Some(most) => Scale::Time(u64::try_from(most).unwrap_or(u64::MAX)),
        None => Scale::Bytes(plan.graph.node_weights().map(|node| node.cost_bytes).max().unwrap_or(0)),
    }
}

/// Draws bands, one after the other.
pub(super) struct Layout<'a> {
    plan: &'a Plan,
    marks: &'a Marks,
    scale: Scale,
    critical: HashMap<NodeId, usize>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(plan: &'a Plan, marks: &'a Marks) -> Self {
        let critical = marks.critical.iter().copied().zip(0..).collect();
        Self { plan, marks, scale: scale(plan, marks), critical }
    }

    /// Whether a node of the critical path is drawn here.
    pub(super) fn is_critical(&self, cell: &Cell) -> bool {
        cell.look != Look::Ghost && cell.nodes.iter().any(|node| self.critical.contains_key(node))
    }

    pub(super) fn band(&self, band: &Band) -> Laid {
        let row_height = if band.is_folded() { FOLDED_ROW } else { ROW };
        let mut top = 0;
        let mut rows = Vec::new();
        for row in &band.rows {
            let lines = row.cells.iter().map(|cell| cell.line as i32 + 1).max().unwrap_or(1);
            let middle = top + row_height / 2;
            let cells: Vec<Cell> = row.cells.iter().map(|cell| self.cell(cell, middle)).collect();
            let (mut within, critical) = self.lines(&cells, &cells);
            within.extend(critical);
            top += row_height + LINE * (lines - 1);
            rows.push(LaidRow { middle, cells, lines: within });
        }
        let own_lines = band.own.iter().map(|cell| cell.line as i32 + 1).max().unwrap_or(1);
        let height = top.max(OWN + LINE * (own_lines - 1));
        // In the middle, at the height of a row, so that one line at least is straight.
        let middle = (top / 2).min(OWN_AT_MOST);
        let fits = |row: &&LaidRow| row.middle + OWN / 2 + LINE * (own_lines - 1) <= height;
        let nearest = rows.iter().filter(fits).min_by_key(|row| (row.middle - middle).abs());
        let middle = nearest.map_or(height.min(OWN) / 2, |row| row.middle);
        let own: Vec<Cell> = band.own.iter().map(|cell| self.cell(cell, middle)).collect();
        let (mut lines, mut critical) = self.lines(&own, &own);
        for row in &rows {
            let (plain, bold) = self.lines(&row.cells, &own);
            lines.extend(plain);
            critical.extend(bold);
        }
        lines.extend(critical);
        Laid { height, rows, own, lines }
    }

    fn cell(&self, cell: &Slot, middle: i32) -> Cell {
        let (x, width) = SLOTS[cell.column];
        let middle = middle + LINE * cell.line as i32;
        // A ghost is a small ring at the end of its column: what it stands for is drawn elsewhere.
        let ring = cell.look == Look::Ghost && cell.column == column(Kind::Finalize);
        let (x, width) = if ring { (x + width - CELL, CELL) } else { (x, width) };
        let bars = match (cell.look, &cell.nodes[..]) {
            (Look::One, [node]) => self.bar(*node, width),
            (Look::Sum, nodes) => self.shares(nodes, width),
            _ => Vec::new(),
        };
        Cell { look: cell.look, nodes: cell.nodes.clone(), column: cell.column, x, middle, width, bars }
    }

    fn bar(&self, node: NodeId, width: i32) -> Vec<(&'static str, i32)> {
        let (value, full) = match self.scale {
            Scale::Bytes(full) => (self.plan.graph[node].cost_bytes, full),
            Scale::Time(full) => {
                let took = self.marks.nodes.get(&node).and_then(|measured| measured.took());
                (took.map_or(0, |took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)), full)
            }
        };
        match value {
            0 => Vec::new(),
            value => vec![(class(self.plan, self.marks, node), share(value, full, width))],
        }
    }

    /// The classes of several nodes, each as wide as its share; what went wrong comes first.
    fn shares(&self, nodes: &[NodeId], width: i32) -> Vec<(&'static str, i32)> {
        let mut shares = Vec::new();
        let classes: Vec<_> = nodes.iter().map(|&node| class(self.plan, self.marks, node)).collect();
        let mut names: Vec<_> = classes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        names.sort_by_key(|name| (*name != "failed", *name == "stored", *name));
        let (mut count, mut used) = (0, 0);
        for name in names {
            count += classes.iter().filter(|class| **class == name).count();
            let end = share(count as u64, nodes.len() as u64, width);
            if end > used {
                shares.push((name, end - used));
                used = end;
            }
        }
        shares
    }

    /// The lines from `from` to `to`, each pair of cells once and in their order: plain ones, and critical
    /// ones, which are drawn last to lie on top.
    fn lines(&self, from: &[Cell], to: &[Cell]) -> (Vec<Line>, Vec<Line>) {
        let at: HashMap<NodeId, usize> =
            from.iter().zip(0..).flat_map(|(cell, ix)| cell.nodes.iter().map(move |&id| (id, ix))).collect();
        let mut found: BTreeSet<(usize, usize, Style, bool)> = BTreeSet::new();
        for (target, cell) in to.iter().enumerate().filter(|(_, cell)| cell.look != Look::Ghost) {
            for &node in &cell.nodes {
                for edge in self.plan.graph.edges_directed(node, Direction::Incoming) {
                    let Some(&source) = at.get(&edge.source()) else { continue };
                    found.insert((source, target, style(*edge.weight()), self.follows(edge.source(), node)));
                }
            }
        }
        let lines = found.iter().filter(|(from, to, style, critical)| {
            // Of two between the same cells the critical one is drawn.
            *critical || !found.contains(&(*from, *to, *style, true))
        });
        let lines = lines.map(|&(source, target, style, critical)| {
            let (from, to) = (&from[source], &to[target]);
            let first = to.column <= column(Kind::Filesystem);
            let path = path(from, to, first);
            Line { from: from.nodes.clone(), to: to.nodes.clone(), style, critical, path }
        });
        lines.partition(|line| !line.critical)
    }

    /// Whether `to` comes right after `from` on the critical path.
    fn follows(&self, from: NodeId, to: NodeId) -> bool {
        let at = |node| self.critical.get(&node);
        matches!((at(from), at(to)), (Some(from), Some(to)) if from + 1 == *to)
    }
}

fn style(edge: Edge) -> Style {
    match edge {
        Edge::Needs => Style::Needs,
        Edge::Streams => Style::Streams,
        Edge::Candidate { .. } => Style::Candidate,
    }
}

/// The part of `width` that is `value` of `full`; at least what can be seen.
pub(super) fn share(value: u64, full: u64, width: i32) -> i32 {
    const LEAST: i32 = 3;
    let part = (value as f64 / full.max(1) as f64 * f64::from(width)).round() as i32;
    part.clamp(LEAST.min(width), width)
}

/// The way from one cell to another: straight to the next column, above or below what stands between, and
/// along the trunk from a layer to the image's own steps. `first`: nothing stands between the trunk and `to`.
fn path(from: &Cell, to: &Cell, first: bool) -> String {
    let (x, y, tx, ty) = (from.x + from.width, from.middle, to.x, to.middle);
    let finalize = column(Kind::Finalize);
    if from.column <= finalize && to.column > finalize {
        return trunk((x, y), (tx, ty), first);
    }
    if to.column == from.column + 1 {
        return match y == ty {
            true => format!("M{x} {y}H{tx}"),
            false => format!("M{x} {y}C{} {y} {} {ty} {tx} {ty}", x + 14, tx - 14),
        };
    }
    // Alternately above and below, so that neighbours' ways do not cover each other.
    let side = if from.column % 2 == 1 { -1 } else { 1 };
    let (near, far) = (side * 3, side * 16);
    format!("M{x} {}C{} {} {} {} {tx} {}", y + near, x + 12, y + far, tx - 12, y + far, ty + near)
}

fn trunk((x, y): (i32, i32), (tx, ty): (i32, i32), first: bool) -> String {
    // Past other cells the way is above them, and comes down before its end.
    let (level, end) = match first {
        true => (ty, format!("H{tx}")),
        false => (ty - 15, format!("H{}Q{} {} {tx} {}", tx - 12, tx - 4, ty - 15, ty - 3)),
    };
    let rise = level - y;
    if rise == 0 {
        return format!("M{x} {y}{end}");
    }
    let bend = BEND.min(rise.abs() / 2) * rise.signum();
    let (before, after) = (TRUNK - bend.abs(), TRUNK + bend.abs());
    format!(
        "M{x} {y}H{before}Q{TRUNK} {y} {TRUNK} {}V{}Q{TRUNK} {level} {after} {level}{end}",
        y + bend,
        level - bend
    )
}
