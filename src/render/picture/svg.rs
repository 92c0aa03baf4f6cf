//! Bands as SVG. Knows markup; ignores why a band has the rows that it has.

use std::fmt::{self, Write};

use super::{
    bands::{Band, Bands, Look, Row, What, bands, class},
    layout::{CELL, COLUMN_NAMES, Cell, LEFT, Laid, LaidRow, Layout, Line, Scale, Style, WIDTH, scale, slot},
    palette,
};
use crate::{
    graph::{Kind, NodeId, Plan, State},
    render::{
        LayerCounts, Marks, Totals, list,
        words::{clip, count, escape, short, size, span},
    },
};

const HEAD: i32 = 84;
const NAME: i32 = 34;
const GAP: i32 = 14;
const LEGEND: i32 = 44;
/// From one line of a note to the next.
const LINE: i32 = 16;

/// `plan` as one SVG image that follows the reader's light or dark; the same plan gives the same text.
///
/// Every image is a band, every layer that it is the first to want a row, every kind of step a column. Widths
/// are bytes, or times where `marks` has any. Bands of many layers have one row of sums.
pub fn svg(plan: &Plan, marks: &Marks) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_svg(plan, marks, &mut out);
    out
}

fn write_svg(plan: &Plan, marks: &Marks, out: &mut String) -> fmt::Result {
    let bands = bands(plan, marks, true);
    let layout = Layout::new(plan, marks);
    let pen = Pen { plan, marks, bands: &bands, layout: &layout, titles: true };
    let (note, head) = note(plan);
    let (mut body, mut y) = (String::new(), head + COLUMN_NAMES);
    for band in &bands.bands {
        let laid = layout.band(band);
        let name = if band.is_folded() { 0 } else { NAME };
        let height = name + laid.height + 8;
        write!(body, "<g transform=\"translate(0 {y})\">")?;
        write!(
            body,
            "<rect class=\"card\" x=\"8.5\" y=\".5\" width=\"{}\" height=\"{height}\" rx=\"8\"/>",
            WIDTH - 17
        )?;
        if name > 0 {
            pen.heading(band, &mut body)?;
        }
        write!(body, "<g transform=\"translate(0 {})\">", name + 4)?;
        pen.band(band, &laid, &mut body)?;
        writeln!(body, "</g></g>")?;
        y += height + if band.is_folded() { 6 } else { GAP };
    }
    let height = y + LEGEND;
    let (title, lead) = headline(plan, marks);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}; {lead}\">"
    )?;
    writeln!(out, "<style>\n{}</style>", palette::standalone())?;
    writeln!(out, "<rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>")?;
    writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"40\">{title}</text>")?;
    writeln!(out, "<text class=\"lead\" x=\"{LEFT}\" y=\"63\">{lead}</text>")?;
    out.push_str(&note);
    writeln!(out, "<g transform=\"translate(0 {head})\">{}</g>", column_names())?;
    out.push_str(&body);
    writeln!(out, "<g transform=\"translate(0 {})\">{}</g>", y + 4, legend(plan, marks))?;
    writeln!(out, "</svg>")
}

/// What the list says, as markup; and where the bands begin below it.
fn note(plan: &Plan) -> (String, i32) {
    let (mut out, mut y) = (String::new(), HEAD);
    for line in list::note(plan) {
        out += &format!("<text class=\"ink\" x=\"{LEFT}\" y=\"{y}\">{}</text>\n", escape(&line));
        y += LINE;
    }
    (out, y)
}

/// What a picture says first, as markup: what it is of, and what that comes to.
pub(super) fn headline(plan: &Plan, marks: &Marks) -> (String, String) {
    let totals = Totals::of(plan);
    let images = count(plan.images.len(), "image", "images");
    let with = |outcome| marks.nodes.values().filter(|measured| measured.outcome == outcome).count();
    let end = marks.nodes.values().filter_map(|measured| measured.end).max();
    let title = match (marks.nodes.is_empty(), end, with("failed")) {
        (true, ..) => format!("{images}, {} to fetch", size(totals.fetch_bytes)),
        (false, Some(end), 0) => format!("{images} in {}", span(end)),
        (false, _, 0) => images,
        (false, _, failed) => format!("{images}, {} failed", count(failed, "step", "steps")),
    };
    let mut parts = vec![layers(totals.layers)];
    for (bytes, word) in [(totals.shared_bytes, "shared"), (totals.stored_bytes, "stored")] {
        if bytes > 0 {
            parts.push(format!("{} {word}", size(bytes)));
        }
    }
    let outcomes = ["finished", "failed", "cancelled", "unfinished"].map(|outcome| (outcome, with(outcome)));
    let told = outcomes.iter().filter(|(_, number)| *number > 0);
    let told: Vec<_> = told.map(|(outcome, number)| format!("{number} {outcome}")).collect();
    if !told.is_empty() {
        parts.push(format!("steps: {}", told.join(", ")));
    }
    (title, parts.join(" \u{a0}·\u{a0} "))
}

fn layers(layers: LayerCounts) -> String {
    let total = count(usize::try_from(layers.total).unwrap_or(usize::MAX), "layer", "layers");
    let parts = [(layers.new, "new"), (layers.shared, "shared"), (layers.stored, "stored")];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    let parts: Vec<_> = parts.map(|(number, word)| format!("{number} {word}")).collect();
    if parts.is_empty() { total } else { format!("{total}: {}", parts.join(", ")) }
}

/// What an image's band comes to, as markup.
pub(super) fn sums(band: &Band, marks: &Marks) -> String {
    let mut text = layers(band.layers);
    if band.fetch_bytes > 0 {
        let word = if marks.nodes.is_empty() { "to fetch" } else { "of blobs" };
        text += &format!(" \u{a0}·\u{a0} {} {word}", size(band.fetch_bytes));
    }
    text
}

/// The names of the columns.
pub(super) fn column_names() -> String {
    let names = Kind::ALL.iter().zip(0..).map(|(kind, column)| {
        let (x, _) = slot(column);
        format!("<text x=\"{x}\" y=\"16\">{}</text>", kind.name())
    });
    names.collect()
}

/// What colours, outlines, lines and widths mean.
pub(super) fn legend(plan: &Plan, marks: &Marks) -> String {
    let mut out = String::new();
    let mut x = LEFT;
    let mut item = |sample: String, words: &str| {
        let wide = 16 + 6 * words.chars().count() as i32;
        out +=
            &format!("<g transform=\"translate({x} 0)\">{sample}<text x=\"32\" y=\"20\">{words}</text></g>");
        x += 32 + wide;
    };
    let cell = |class: &str, more: &str| {
        format!(
            "<g class=\"n {class}\">{more}<rect class=\"t\" x=\".5\" y=\"10\" width=\"24\" height=\"{CELL}\" \
             rx=\"3\"/><rect class=\"f {class}\" x=\".5\" y=\"10\" width=\"12\" height=\"{CELL}\" \
             rx=\"3\"/></g>"
        )
    };
    item(cell("needed", ""), "needed");
    let twice = "<rect class=\"o\" x=\"-2.5\" y=\"7\" width=\"30\" height=\"18\" rx=\"5\"/>";
    item(cell("needed", twice), "for several images");
    item(cell("stored", ""), "stored");
    item(cell("standby", ""), "standby");
    if !marks.nodes.is_empty() {
        item(cell("failed", ""), "failed");
        item(cell("cancelled", ""), "cancelled");
    }
    if !marks.critical.is_empty() {
        item(cell("needed critical", ""), "decides the time");
    }
    for (style, words) in [("needs", "needs"), ("streams", "streams"), ("candidate", "one of several")] {
        item(format!("<path class=\"e {style}\" d=\"M0 16H25\"/>"), words);
    }
    let full = match scale(plan, marks) {
        Scale::Bytes(full) => format!("widths are bytes, full {}", size(full)),
        Scale::Time(full) => {
            format!("widths are times, full {}", span(std::time::Duration::from_nanos(full)))
        }
    };
    out + &format!("<text class=\"end\" x=\"{}\" y=\"20\">{full}</text>", WIDTH - LEFT)
}

/// Writes bands.
pub(super) struct Pen<'a> {
    pub(super) plan: &'a Plan,
    pub(super) marks: &'a Marks,
    pub(super) bands: &'a Bands,
    pub(super) layout: &'a Layout<'a>,
    /// Whether cells carry titles; a page has its own words for them.
    pub(super) titles: bool,
}

impl Pen<'_> {
    fn heading(&self, band: &Band, out: &mut String) -> fmt::Result {
        let image = &self.plan.images[band.image.0];
        let name = clip(&image.name, 60);
        // About as wide as the bold name is drawn; the tspan follows it wherever that ends.
        write!(out, "<text class=\"name\" x=\"{LEFT}\" y=\"24\">{}", escape(&name))?;
        if image.reference != image.name {
            write!(out, "<tspan dx=\"10\" class=\"soft\">{}</tspan>", escape(&clip(&image.reference, 60)))?;
        }
        if let Some(platform) = &image.platform {
            write!(out, "<tspan dx=\"10\" class=\"soft\">{}</tspan>", escape(&clip(platform, 30)))?;
        }
        write!(
            out,
            "</text><text class=\"end\" x=\"{}\" y=\"24\">{}</text>",
            WIDTH - LEFT,
            sums(band, self.marks)
        )
    }

    /// A band's rows, lines and cells; its top is 0.
    pub(super) fn band(&self, band: &Band, laid: &Laid, out: &mut String) -> fmt::Result {
        // Lines first: cells lie on top of them.
        for line in &laid.lines {
            self.line(line, true, out)?;
        }
        for (row, at) in band.rows.iter().zip(&laid.rows) {
            out.write_str("<g class=\"row\">")?;
            self.label(band, row, at, out)?;
            for line in &at.lines {
                self.line(line, false, out)?;
            }
            for cell in &at.cells {
                self.cell(cell, "", out)?;
            }
            out.write_str("</g>")?;
        }
        for cell in &laid.own {
            let alone = laid.own.iter().filter(|own| own.column == cell.column).count() == 1;
            let word = if alone { self.own_word(cell) } else { String::new() };
            self.cell(cell, &word, out)?;
        }
        Ok(())
    }

    /// A row's words, left of its cells.
    fn label(&self, band: &Band, row: &Row, at: &LaidRow, out: &mut String) -> fmt::Result {
        let y = at.middle + 4;
        match &row.what {
            What::Layer { finalize, places } => {
                let first = places.first().copied().unwrap_or_default();
                write!(out, "<text class=\"end\" x=\"{}\" y=\"{y}\">{first}</text>", LEFT + 18)?;
                let digest = escape(&clip(&short(&self.plan.graph[*finalize].subject), 12));
                write!(out, "<text class=\"mono ink\" x=\"{}\" y=\"{y}\">{digest}</text>", LEFT + 30)?;
                write!(out, "<text class=\"end\" x=\"{}\" y=\"{y}\">{}</text>", LEFT + 176, size(row.bytes))?;
                let (words, wrong) = self.layer_words(row, *finalize, places);
                let class = if wrong { " class=\"wrong\"" } else { "" };
                write!(
                    out,
                    "<text{class} x=\"{}\" y=\"{y}\">{}</text>",
                    LEFT + 188,
                    escape(&clip(&words, 22))
                )?;
                let images = self.plan.graph[*finalize].wanted_by.len();
                if images > 1 {
                    let quiet = self.plan.graph[*finalize].state == State::Stored;
                    badge(slot(0).0 - 9, at.middle, images, quiet, out)?;
                }
            }
            What::Ghost { owner, layers } => {
                let words = count(*layers, "layer", "layers");
                write!(out, "<text x=\"{}\" y=\"{y}\">{words}</text>", LEFT + 30)?;
                write!(out, "<text class=\"end\" x=\"{}\" y=\"{y}\">{}</text>", LEFT + 176, size(row.bytes))?;
                let name = clip(&self.plan.images[owner.0].name, 60);
                // What is stored is nobody's work.
                let cells = row.cells.iter().flat_map(|cell| &cell.nodes);
                let stored = cells.clone().all(|node| self.plan.graph[*node].state == State::Stored);
                let word = if stored { "stored, also for" } else { "shared with" };
                write!(out, "<text x=\"{}\" y=\"{y}\">{word} {}</text>", LEFT + 188, escape(&name))?;
            }
            What::Folded => {
                let name = clip(&self.plan.images[band.image.0].name, 44);
                write!(out, "<text class=\"name\" x=\"{LEFT}\" y=\"{}\">{}</text>", y - 8, escape(&name))?;
                write!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", y + 8, sums(band, self.marks))?;
            }
        }
        Ok(())
    }

    /// What became of a layer, or why it is there; and whether that is bad news.
    fn layer_words(&self, row: &Row, finalize: NodeId, places: &[usize]) -> (String, bool) {
        let nodes = row.cells.iter().flat_map(|cell| &cell.nodes);
        let measured: Vec<_> = nodes.filter_map(|node| self.marks.nodes.get(node)).collect();
        // What came to an end is made, whatever became of the blobs that were tried for it.
        let made = self.marks.nodes.get(&finalize).is_some_and(|last| last.outcome == "finished");
        for outcome in ["failed", "cancelled", "unfinished"] {
            if !made && measured.iter().any(|measured| measured.outcome == outcome) {
                return (outcome.to_owned(), outcome == "failed");
            }
        }
        let start = measured.iter().filter_map(|measured| measured.start).min();
        let end = measured.iter().filter_map(|measured| measured.end).max();
        let words = match (start, end, places) {
            (Some(start), Some(end), _) => format!("in {}", span(end.saturating_sub(start))),
            (_, _, [_]) => self.plan.graph[finalize].reason.to_string(),
            (_, _, [_, again]) => format!("also layer {again}"),
            (_, _, places) => format!("also {} more layers", places.len().saturating_sub(1)),
        };
        (words, false)
    }

    /// A cell with the markup of the word that belongs to it.
    fn cell(&self, cell: &Cell, word: &str, out: &mut String) -> fmt::Result {
        let [first, ..] = cell.nodes[..] else { return Ok(()) };
        let node = &self.plan.graph[first];
        let class = match cell.look {
            Look::One => class(self.plan, self.marks, first),
            Look::Sum => "sum",
            Look::Ghost => "ghost",
        };
        write!(out, "<g class=\"n {class}")?;
        if self.layout.is_critical(cell) {
            out.write_str(" critical")?;
        }
        self.numbers(cell, out)?;
        if self.titles {
            write!(out, "<title>{}</title>", self.title(cell))?;
        }
        let (x, y, width) = (cell.x, cell.middle - CELL / 2, cell.width);
        let round = if width == CELL { CELL / 2 } else { 3 };
        if cell.look == Look::One && node.wanted_by.len() > 1 {
            write!(
                out,
                "<rect class=\"o\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"5.5\"/>",
                x - 3,
                y - 3,
                width + 6,
                CELL + 6
            )?;
        }
        write!(
            out,
            "<rect class=\"t\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{CELL}\" rx=\"{round}\"/>"
        )?;
        let mut bar = x;
        for (class, width) in &cell.bars {
            write!(
                out,
                "<rect class=\"f {class}\" x=\"{bar}\" y=\"{y}\" width=\"{width}\" height=\"{CELL}\" \
                 rx=\"{}\"/>",
                round.min(width / 2)
            )?;
            bar += width;
        }
        write!(out, "{word}</g>")
    }

    /// Closes a cell's tag: with its node's number, or with those that it stands for.
    fn numbers(&self, cell: &Cell, out: &mut String) -> fmt::Result {
        match (self.titles, cell.look, &cell.nodes[..]) {
            (true, ..) => out.write_str("\">"),
            (false, Look::One, [node]) => write!(out, "\" data-n=\"{}\">", self.number(*node)),
            (false, ..) => write!(out, "\" data-g=\"{}\">", self.list(&cell.nodes)),
        }
    }

    fn number(&self, node: NodeId) -> usize {
        // Every node of a cell has been drawn by some band.
        self.bands.number.get(&node).copied().unwrap_or_default()
    }

    fn list(&self, nodes: &[NodeId]) -> String {
        nodes.iter().map(|&node| self.number(node).to_string()).collect::<Vec<_>>().join(" ")
    }

    /// A cell in words, as markup.
    fn title(&self, cell: &Cell) -> String {
        let [first, ..] = cell.nodes[..] else { return String::new() };
        let node = &self.plan.graph[first];
        let kind = node.kind.name();
        match (cell.look, cell.nodes.len()) {
            (Look::One, _) | (Look::Ghost, 1) => {
                let mut text =
                    format!("{kind} {}\n{}: {}", short(&node.subject), node.state.name(), node.reason);
                if node.cost_bytes > 0 {
                    text += &format!("\n{}", size(node.cost_bytes));
                }
                if let Some(measured) = self.marks.nodes.get(&first) {
                    text += &format!("\n{}", measured.outcome);
                    if let Some(took) = measured.took() {
                        text += &format!(" in {}", span(took));
                    }
                    if let Some(error) = &measured.error {
                        text += &format!(": {error}");
                    }
                }
                let images = crate::render::words::image_names(self.plan, &node.wanted_by);
                let lines = text.lines().map(escape).collect::<Vec<_>>().join("\n");
                format!("{lines}\nfor {}", escape(&images))
            }
            (look, number) => {
                let mut of: Vec<(&str, usize)> = Vec::new();
                for &node in &cell.nodes {
                    let class = class(self.plan, self.marks, node);
                    match of.iter_mut().find(|(name, _)| *name == class) {
                        Some((_, count)) => *count += 1,
                        None => of.push((class, 1)),
                    }
                }
                of.sort_unstable();
                let parts: Vec<_> = of.iter().map(|(name, count)| format!("{count} {name}")).collect();
                let drawn =
                    if look == Look::Ghost { ", drawn with the image that they are shared with" } else { "" };
                format!("{number} {kind}: {}{drawn}", parts.join(", "))
            }
        }
    }

    fn line(&self, line: &Line, ends: bool, out: &mut String) -> fmt::Result {
        let style = match line.style {
            Style::Needs => "needs",
            Style::Streams => "streams",
            Style::Candidate => "candidate",
        };
        let critical = if line.critical { " critical" } else { "" };
        write!(out, "<path class=\"e {style}{critical}\"")?;
        if ends && !self.titles {
            write!(out, " data-a=\"{}\" data-b=\"{}\"", self.list(&line.from), self.list(&line.to))?;
        }
        write!(out, " d=\"{}\"/>", line.path)
    }

    /// Below one of an image's own cells: what it is about, or with whom it is shared.
    fn own_word(&self, cell: &Cell) -> String {
        let [node] = cell.nodes[..] else { return String::new() };
        let node = &self.plan.graph[node];
        let owner = node.wanted_by.first().and_then(|owner| self.plan.images.get(owner.0));
        let (class, word) = match (cell.look, node.kind, owner) {
            (Look::Ghost, _, Some(owner)) => ("small", format!("with {}", clip(&owner.name, 10))),
            (_, Kind::Tag, _) => match self.marks.nodes.get(&cell.nodes[0]) {
                Some(did) => ("small", did.took().map_or_else(|| did.outcome.to_owned(), span)),
                None => ("small", clip(&node.reason.to_string(), 13)),
            },
            _ => ("mono", short(&node.subject)),
        };
        let (x, y) = (cell.x, cell.middle + CELL + 8);
        format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", escape(&word))
    }
}

/// How many images want it; it ends at `end`.
fn badge(end: i32, middle: i32, images: usize, quiet: bool, out: &mut String) -> fmt::Result {
    let wide = 14 + 6 * images.to_string().len() as i32;
    let quiet = if quiet { " quiet" } else { "" };
    write!(
        out,
        "<g class=\"badge{quiet}\"><rect x=\"{}\" y=\"{}\" width=\"{wide}\" height=\"16\" rx=\"8\"/>\
         <text x=\"{}\" y=\"{}\">×{images}</text></g>",
        end - wide,
        middle - 8,
        end - wide / 2,
        middle + 4
    )
}
