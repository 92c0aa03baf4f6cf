//! Which rows the band of each image has. Knows who draws what several images share and when rows fold;
//! ignores where things stand.
//!
//! A node is drawn once, in the band of the first image that names it; other bands refer to it by a
//! ghost. So no line crosses from band to band, and a band can be drawn without its neighbours.
//! Everything goes by images, their layers and the kinds of nodes, never by a node's number: a plan read
//! back from a file has other numbers.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    graph::{ImageIx, Kind, NodeId, Plan, PlannedLayer, State},
    render::{LayerCounts, Marks, layer_counts},
};

/// More rows than this in a band fold into one: they would not fit on a screen.
pub(super) const BAND_ROWS: usize = 24;

/// More rows than this in all bands together fold every band, so that the picture stays
/// one that can be scrolled.
pub(super) const ALL_ROWS: usize = 200;

/// A layer's candidates beyond these share a cell.
const CANDIDATES: usize = 4;

/// Every image's band, and the nodes in the order in which the bands draw them.
pub(super) struct Bands {
    pub(super) bands: Vec<Band>,
    /// A node's place here is its number in the picture.
    pub(super) order: Vec<NodeId>,
    pub(super) number: HashMap<NodeId, usize>,
}

/// What is drawn for one image.
pub(super) struct Band {
    pub(super) image: ImageIx,
    pub(super) rows: Vec<Row>,
    /// The image's own steps: filesystem, config, manifest, tag.
    pub(super) own: Vec<Slot>,
    pub(super) layers: LayerCounts,
    /// Compressed bytes that are fetched for this image.
    pub(super) fetch_bytes: u64,
    /// How many of the nodes that this band draws are in which class.
    pub(super) classes: BTreeMap<&'static str, usize>,
    /// The numbers of its nodes, in the order of the picture.
    pub(super) nodes: std::ops::Range<usize>,
}

/// One row of a band.
pub(super) struct Row {
    pub(super) what: What,
    pub(super) cells: Vec<Slot>,
    /// Compressed bytes of its layers.
    pub(super) bytes: u64,
}

/// What a row stands for.
pub(super) enum What {
    /// A layer, and its places in the image, from 1.
    Layer { finalize: NodeId, places: Vec<usize> },
    /// Layers that an earlier image draws.
    Ghost { owner: ImageIx, layers: usize },
    /// All layers of an image.
    Folded,
}

/// One cell.
pub(super) struct Slot {
    /// The place of its kind.
    pub(super) column: usize,
    /// The line within the row, from 0.
    pub(super) line: usize,
    pub(super) look: Look,
    pub(super) nodes: Vec<NodeId>,
}

/// How a cell stands for its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// One node.
    One,
    /// Several nodes of one kind, as a sum.
    Sum,
    /// Nodes that another band draws.
    Ghost,
}

/// What decides a node's colour: its outcome if the run did not finish it, its state otherwise.
pub(super) fn class(plan: &Plan, marks: &Marks, id: NodeId) -> &'static str {
    let state = plan.graph[id].state;
    match marks.nodes.get(&id) {
        // What nobody needed is no loss.
        Some(measured) if state == State::Standby && measured.start.is_none() => state.name(),
        Some(measured) if measured.outcome != "finished" => measured.outcome,
        _ => state.name(),
    }
}

/// The bands of `plan`; with `fold`, those that are too long have one row.
pub(super) fn bands(plan: &Plan, marks: &Marks, fold: bool) -> Bands {
    let mut builder = Builder {
        plan,
        layers: plan.layers().into_iter().map(|layer| (layer.finalize, layer)).collect(),
        owner: HashMap::new(),
        out: Bands { bands: Vec::new(), order: Vec::new(), number: HashMap::new() },
    };
    for image in (0..plan.images.len()).map(ImageIx) {
        builder.band(image);
    }
    let mut out = builder.out;
    for band in &mut out.bands {
        for &node in &out.order[band.nodes.clone()] {
            *band.classes.entry(class(plan, marks, node)).or_default() += 1;
        }
    }
    let crowded = out.bands.iter().map(|band| band.rows.len()).sum::<usize>() > ALL_ROWS;
    for band in out.bands.iter_mut().filter(|band| fold && (crowded || band.rows.len() > BAND_ROWS)) {
        band.fold();
    }
    out
}

struct Builder<'a> {
    plan: &'a Plan,
    layers: HashMap<NodeId, PlannedLayer>,
    /// Which image draws a layer.
    owner: HashMap<NodeId, ImageIx>,
    out: Bands,
}

impl Builder<'_> {
    fn band(&mut self, image: ImageIx) {
        let first = self.out.order.len();
        let rows = self.rows(image);
        let own = self.own(image);
        let nodes = first..self.out.order.len();
        let fetched = self.out.order[nodes.clone()].iter().map(|&id| &self.plan.graph[id]);
        let fetched = fetched.filter(|node| node.kind == Kind::Fetch && node.state == State::Needed);
        let fetch_bytes = fetched.fold(0u64, |sum, node| sum.saturating_add(node.cost_bytes));
        let layers = layer_counts(self.plan, image);
        self.out.bands.push(Band { image, rows, own, layers, fetch_bytes, classes: BTreeMap::new(), nodes });
    }

    fn rows(&mut self, image: ImageIx) -> Vec<Row> {
        let plan = self.plan;
        let mut rows: Vec<Row> = Vec::new();
        let (mut own, mut ghosts) = (HashMap::new(), HashMap::new());
        let mut seen = HashSet::new();
        for (place, &finalize) in (1..).zip(&plan.images[image.0].layers) {
            let owner = *self.owner.entry(finalize).or_insert(image);
            if owner != image && !seen.insert(finalize) {
                continue;
            }
            let layer = &self.layers[&finalize];
            let bytes = plan.blob_of(layer, image).map_or(0, |blob| plan.graph[blob].cost_bytes);
            if owner == image {
                let at = *own.entry(finalize).or_insert(rows.len());
                if let Some(Row { what: What::Layer { places, .. }, .. }) = rows.get_mut(at) {
                    places.push(place);
                    continue;
                }
                let cells = self.layer_cells(finalize);
                rows.push(Row { what: What::Layer { finalize, places: vec![place] }, cells, bytes });
            } else {
                let at = *ghosts.entry(owner).or_insert(rows.len());
                if at == rows.len() {
                    let column = column(Kind::Finalize);
                    let cell = Slot { column, line: 0, look: Look::Ghost, nodes: Vec::new() };
                    rows.push(Row { what: What::Ghost { owner, layers: 0 }, cells: vec![cell], bytes: 0 });
                }
                let row = &mut rows[at];
                if let What::Ghost { layers, .. } = &mut row.what {
                    *layers += 1;
                }
                row.cells[0].nodes.push(finalize);
                row.bytes = row.bytes.saturating_add(bytes);
            }
        }
        rows
    }

    /// The cells of a layer that nobody has drawn so far.
    fn layer_cells(&mut self, finalize: NodeId) -> Vec<Slot> {
        let layer = &self.layers[&finalize];
        let fetches = layer.fetches.clone();
        let others = layer.nodes.iter().copied().filter(|&id| self.plan.graph[id].kind != Kind::Fetch);
        let others = self.by_column(others.collect());
        let mut cells: Vec<Slot> = Vec::new();
        for node in fetches.into_iter().chain(others) {
            // A blob that is under two layers stands in the first.
            if !self.draw(node) {
                continue;
            }
            let column = column(self.plan.graph[node].kind);
            let line = cells.iter().filter(|cell| cell.column == column).count();
            match cells.last_mut() {
                Some(last) if last.column == column && line == CANDIDATES => {
                    last.look = Look::Sum;
                    last.nodes.push(node);
                }
                _ => cells.push(Slot { column, line, look: Look::One, nodes: vec![node] }),
            }
        }
        cells
    }

    fn own(&mut self, image: ImageIx) -> Vec<Slot> {
        let mut cells: Vec<Slot> = Vec::new();
        for node in self.by_column(self.plan.own_nodes(image)) {
            let look = if self.draw(node) { Look::One } else { Look::Ghost };
            let column = column(self.plan.graph[node].kind);
            let line = cells.iter().filter(|cell| cell.column == column).count();
            cells.push(Slot { column, line, look, nodes: vec![node] });
        }
        cells
    }

    /// By column, then by content: a node's number says nothing.
    fn by_column(&self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        nodes.sort_by_key(|&id| (column(self.plan.graph[id].kind), self.plan.graph[id].key));
        nodes
    }

    /// Gives `node` its number; whether it had none.
    fn draw(&mut self, node: NodeId) -> bool {
        let next = self.out.order.len();
        let number = *self.out.number.entry(node).or_insert(next);
        if number == next {
            self.out.order.push(node);
        }
        number == next
    }
}

impl Band {
    /// One row instead of all.
    fn fold(&mut self) {
        let mut cells: BTreeMap<usize, Slot> = BTreeMap::new();
        let mut bytes = 0u64;
        let mut ghosts = Vec::new();
        for row in self.rows.drain(..) {
            bytes = bytes.saturating_add(row.bytes);
            for mut cell in row.cells {
                if cell.look == Look::Ghost {
                    ghosts.append(&mut cell.nodes);
                    continue;
                }
                let nodes = Vec::new();
                let column = cell.column;
                let sum = cells.entry(column).or_insert(Slot { column, line: 0, look: Look::Sum, nodes });
                sum.nodes.append(&mut cell.nodes);
            }
        }
        // With own layers, the cell of those stands for all: their lines to the filesystem are the same.
        if cells.is_empty() && !ghosts.is_empty() {
            let column = column(Kind::Finalize);
            cells.insert(column, Slot { column, line: 0, look: Look::Ghost, nodes: ghosts });
        }
        self.rows = vec![Row { what: What::Folded, cells: cells.into_values().collect(), bytes }];
    }

    /// Whether its layers are one row with sums.
    pub(super) fn is_folded(&self) -> bool {
        matches!(self.rows[..], [Row { what: What::Folded, .. }])
    }
}

/// The column of `kind`: they are in the order of the kinds.
pub(super) fn column(kind: Kind) -> usize {
    kind as usize
}
