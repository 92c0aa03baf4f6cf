//! A plan as text, for `--dry-run`. Knows what people ask first: what is fetched, what is
//! not, why; and 80 columns.

mod paint;

use std::collections::BTreeMap;

use petgraph::Direction;

use super::{
    Marks, Measured, Outlook, Totals, list,
    totals::layer_states,
    words::{count, image_names, printable, short, size, span},
};
use crate::graph::{Bound, Edge, ImageIx, Kind, NodeId, Plan, PlannedImage, PlannedLayer, State, Subject};

pub use paint::Colour;

/// What a line is not longer than, unless a name is.
const WIDTH: usize = 80;
/// How much of a line the names of other images may take.
const OTHERS: usize = 36;
/// Where chains begin.
const INDENT: &str = "     ";

/// `plan` as text: what its list says, a headline, every image with its layers and their nodes as a drawn
/// chain, the critical path. Ends with a newline; the same input gives the same text.
///
/// Work that several images want is shown under the first of them; the others refer to it.
pub fn text(plan: &Plan, marks: &Marks, outlook: &Outlook, colour: Colour) -> String {
    let layers = plan.layers().into_iter().map(|layer| (layer.finalize, layer)).collect();
    let page = Page { plan, marks, colour, layers };
    let mut out = page.list();
    out += &headline(plan, outlook);
    for ix in (0..plan.images.len()).map(ImageIx) {
        out.push('\n');
        page.image(ix, &mut out);
    }
    let critical = if marks.critical.is_empty() { &outlook.critical } else { &marks.critical };
    if !critical.is_empty() {
        out.push('\n');
        page.critical(critical, outlook, &mut out);
    }
    if !plan.images.is_empty() {
        out += &format!("\n{}\n", page.legend());
    }
    out
}

fn headline(plan: &Plan, outlook: &Outlook) -> String {
    let totals = Totals::of(plan);
    let layers = totals.layers;
    let mut out = format!(
        "{}, {}: {} stored, {} shared, {} to fetch\n",
        count(plan.images.len(), "image", "images"),
        count(layers.total as usize, "layer", "layers"),
        layers.stored,
        layers.shared,
        layers.new
    );
    out += &format!(
        "{} to fetch; saved: {} by sharing, {} by the cache\n",
        size(totals.fetch_bytes),
        size(totals.shared_bytes),
        size(totals.stored_bytes)
    );
    let disk = outlook.disk_bytes.map(|bytes| format!("about {} more on disk", size(bytes)));
    let free = outlook.free_bytes.map(|bytes| format!("{} free", size(bytes)));
    let space: Vec<String> = disk.into_iter().chain(free).collect();
    if !space.is_empty() {
        out += &format!("{}\n", space.join(", "));
    }
    out
}

struct Page<'a> {
    plan: &'a Plan,
    marks: &'a Marks,
    colour: Colour,
    layers: BTreeMap<NodeId, PlannedLayer>,
}

impl Page<'_> {
    /// What the list says; nothing for a pull.
    fn list(&self) -> String {
        let mut out = String::new();
        for entry in list::entries(self.plan) {
            out += &format!("{}\n", self.colour.strong(&entry.title()));
            for line in entry.lines(WIDTH - INDENT.len()) {
                out += &format!("{INDENT}{line}\n");
            }
        }
        if out.is_empty() { out } else { out + "\n" }
    }

    fn image(&self, ix: ImageIx, out: &mut String) {
        let image = &self.plan.images[ix.0];
        *out += &format!("{}\n", self.colour.strong(&heading(image)));
        let mut first: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (place, (id, state)) in (1..).zip(layer_states(self.plan, ix)) {
            let again = *first.entry(id).or_insert(place);
            let why = match state {
                State::Shared if again != place => format!("shared with layer {again}"),
                _ => self.plan.why(id, ix),
            };
            self.layer(ix, id, place, state, &why, out);
        }
        let own = self.own_chain(ix);
        for line in self.chain_lines(&own, ix) {
            *out += &format!("{line}\n");
        }
    }

    /// A line about the layer; if there is something to do, its nodes as a chain below.
    fn layer(&self, ix: ImageIx, id: NodeId, place: usize, state: State, why: &str, out: &mut String) {
        let layer = &self.layers[&id];
        let blob = self.plan.blob_of(layer, ix);
        let bytes = blob.map_or_else(String::new, |blob| size(self.plan.graph[blob].cost_bytes));
        let others = match state {
            State::Needed | State::Stored => self.others(id, ix),
            _ => String::new(),
        };
        let glyph = self.glyph(state);
        let digest = short(&self.plan.graph[id].subject);
        let line = format!("{place:>3}  {digest}  {bytes:>7}  {}{others}", printable(why));
        let line = if state == State::Needed { line } else { self.colour.quiet(&line) };
        *out += &format!("{glyph}{line}\n");
        if state != State::Needed {
            return;
        }
        let steps = [Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize];
        let of_kind = |kind| layer.nodes.iter().copied().find(|node| self.plan.graph[*node].kind == kind);
        let chain = layer.fetches.first().copied().into_iter().chain(steps.into_iter().filter_map(of_kind));
        *out += &format!("{INDENT}{}\n", self.chain(&chain.collect::<Vec<_>>()));
        for standby in layer.fetches.iter().skip(1) {
            let node = &self.plan.graph[*standby];
            let words = format!("{} {}, if that fails", short(&node.subject), size(node.cost_bytes));
            *out += &format!("{INDENT}{} fetch {}\n", self.glyph(node.state), self.colour.quiet(&words));
        }
    }

    /// The other images that want a layer.
    fn others(&self, id: NodeId, ix: ImageIx) -> String {
        let all = self.plan.graph[id].wanted_by.iter().copied();
        let others: Vec<_> = all.filter(|&other| other != ix).collect();
        let names = format!(", also for {}", image_names(self.plan, &others));
        match others.len() {
            0 => String::new(),
            1 => names,
            _ if names.chars().count() <= OTHERS => names,
            many => format!(", also for {many} images"),
        }
    }

    /// The nodes of an image after its layers.
    fn own_chain(&self, ix: ImageIx) -> Vec<NodeId> {
        let mut own = self.plan.own_nodes(ix);
        own.sort_by_key(|id| (self.plan.graph[*id].kind, self.plan.graph[*id].key));
        own
    }

    /// A chain with its reasons: a line for each run of nodes that share one.
    fn chain_lines(&self, chain: &[NodeId], ix: ImageIx) -> Vec<String> {
        let whys: Vec<(NodeId, String)> = chain.iter().map(|id| (*id, self.plan.why(*id, ix))).collect();
        let runs: Vec<&[(NodeId, String)]> = whys.chunk_by(|a, b| a.1 == b.1).collect();
        let nodes = |run: &[(NodeId, String)]| run.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let texts: Vec<(String, usize)> =
            runs.iter().map(|run| self.chain_for(&nodes(run), Some(ix))).collect();
        let arrow = |place: usize| if place > 0 { "→ " } else { "" };
        let widths = texts.iter().enumerate().map(|(place, (_, width))| width + arrow(place).chars().count());
        let width = widths.max().unwrap_or(0);
        let lines = runs.iter().zip(texts).enumerate().map(|(place, (run, (text, own)))| {
            let blanks = " ".repeat(width - own - arrow(place).chars().count());
            let why = printable(&run[0].1).into_owned();
            let quiet = run.iter().all(|(id, _)| self.plan.graph[*id].state_for(ix) != State::Needed);
            let why = if quiet { self.colour.quiet(&why) } else { why };
            format!("{INDENT}{}{text}{blanks}  {why}", arrow(place))
        });
        lines.collect()
    }

    fn chain(&self, chain: &[NodeId]) -> String {
        self.chain_for(chain, None).0
    }

    /// Nodes with their states and the edges between them, and how many columns that takes.
    fn chain_for(&self, chain: &[NodeId], ix: Option<ImageIx>) -> (String, usize) {
        let (mut text, mut width) = (String::new(), 0);
        for (place, id) in chain.iter().enumerate() {
            if let Some(before) = place.checked_sub(1).map(|before| chain[before]) {
                text += &format!(" {} ", self.arrow(before, *id));
                width += 3;
            }
            let node = &self.plan.graph[*id];
            let state = ix.map_or(node.state, |ix| node.state_for(ix));
            let name = format!("{}{}", node.kind.word(), self.took(*id));
            text += &format!("{} {}", self.glyph_of(*id, state), self.in_state(&name, state));
            width += 2 + name.chars().count();
        }
        (text, width)
    }

    fn arrow(&self, from: NodeId, to: NodeId) -> &'static str {
        let edge = self.plan.graph.find_edge(from, to).and_then(|edge| self.plan.graph.edge_weight(edge));
        match edge {
            Some(Edge::Streams | Edge::Candidate { .. }) => "⇢",
            Some(Edge::Needs) | None => "→",
        }
    }

    /// How long a node took, after a run.
    fn took(&self, id: NodeId) -> String {
        let took = self.marks.nodes.get(&id).and_then(Measured::took);
        took.map_or_else(String::new, |took| format!(" {}", span(took)))
    }

    fn glyph_of(&self, id: NodeId, state: State) -> String {
        match self.marks.nodes.get(&id).map(|node| node.outcome) {
            Some("failed") => self.colour.bad("✗"),
            Some("cancelled" | "unfinished") => self.colour.bad("–"),
            _ => self.glyph(state),
        }
    }

    fn glyph(&self, state: State) -> String {
        match state {
            State::Needed => self.colour.accent("●"),
            State::Shared => self.colour.quiet("◍"),
            State::Stored => self.colour.quiet("○"),
            State::Standby => self.colour.quiet("◌"),
        }
    }

    fn in_state(&self, text: &str, state: State) -> String {
        if state == State::Needed { text.to_owned() } else { self.colour.quiet(text) }
    }

    fn legend(&self) -> String {
        let states =
            State::ALL.map(|state| format!("{} {}", self.glyph(state), self.colour.quiet(state.name())));
        states.join("   ")
    }

    /// The critical chain by layer and image, wrapped.
    fn critical(&self, chain: &[NodeId], outlook: &Outlook, out: &mut String) {
        let about = match &outlook.time {
            Some(time) => {
                let (whole, chain) = (span(time.whole), span(time.chain));
                let runs = count(time.runs, "earlier run", "earlier runs");
                match time.bound {
                    Bound::Chain => format!("about {whole}, by {runs}"),
                    Bound::Cpu => format!("about {chain} of {whole}, which the cpus decide, by {runs}"),
                    Bound::Network => {
                        format!("about {chain} of {whole}, which the network decides, by {runs}")
                    }
                }
            }
            None if self.marks.nodes.is_empty() => "no record yet of how fast this machine is".to_owned(),
            None => "as it was".to_owned(),
        };
        *out += &format!("{}  {about}\n", self.colour.strong("critical path"));
        let (mut line, mut width) = (INDENT.to_owned(), INDENT.len());
        let mut before: Option<NodeId> = None;
        for id in chain {
            let arrow = before.map_or("", |before| self.arrow(before, *id));
            let name = self.name_after(before, *id);
            let piece = if arrow.is_empty() { name } else { format!(" {arrow} {name}") };
            if width + piece.chars().count() > WIDTH && before.is_some() {
                *out += &format!("{}\n", line.trim_end());
                (line, width) = (INDENT.to_owned(), INDENT.len());
            }
            let piece = if width == INDENT.len() { piece.trim_start().to_owned() } else { piece };
            width += piece.chars().count();
            line += &piece;
            before = Some(*id);
        }
        *out += &format!("{line}\n");
    }

    /// A node's kind, with what it is about where that changes along a chain.
    fn name_after(&self, before: Option<NodeId>, id: NodeId) -> String {
        let node = &self.plan.graph[id];
        let same = before.is_some_and(|before| {
            let producer = &self.plan.graph[before];
            producer.kind.is_of_layer() == node.kind.is_of_layer() && node.kind != Kind::Fetch
        });
        match (node.kind, &node.subject) {
            (Kind::Tag, Subject::Name(name)) => format!("tag {}", printable(name)),
            (kind, _) if kind.is_of_layer() && !same => format!("{} {}", kind.name(), self.layer_name(id)),
            (kind, _) => kind.word().to_owned(),
        }
    }

    /// The layer that a step belongs to, in a few digits.
    fn layer_name(&self, id: NodeId) -> String {
        if self.plan.graph[id].kind != Kind::Fetch {
            return short(&self.plan.graph[id].subject);
        }
        let split = self.plan.graph.neighbors_directed(id, Direction::Outgoing).next();
        short(&self.plan.graph[split.unwrap_or(id)].subject)
    }
}

fn heading(image: &PlannedImage) -> String {
    let (name, reference) = (printable(&image.name), printable(&image.reference));
    let heading = if name == reference { name.into_owned() } else { format!("{name}  ({reference})") };
    match &image.platform {
        Some(platform) => format!("{heading}  {}", printable(platform)),
        None => heading,
    }
}

#[cfg(test)]
mod tests;
