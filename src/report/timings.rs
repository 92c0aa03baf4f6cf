//! A run as one HTML page: who did what when, how busy workers and network were, and which nodes
//! took longest. Knows what stands where; the chart is drawn in `chart.rs`, what happens when the
//! page is used is in `page.js`.
//!
//! The page needs nothing else and loads nothing. Names in it come from registries: every one goes through
//! [`words::escape`](crate::render::words::escape) or, in the data, through [`data::script`].

mod chart;
mod data;
mod lanes;

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt::{self, Write},
};

use super::{
    Run, RunOutcome,
    critical::{CriticalPath, critical_path, node_name, time},
    timeline::Timeline,
};
use crate::{
    graph::{Kind, NodeId},
    render::words::{clip, count, escape, image_names, size},
};

const STYLE: &str = include_str!("timings/page.css");
const SCRIPT: &str = include_str!("timings/page.js");
/// So many nodes stand in the table.
const ROWS: usize = 200;
/// So many images are named.
const IMAGES: usize = 12;
/// So many nodes have details: those that took longest.
const DETAILED: usize = 6000;

/// What every part of the page is drawn from.
struct Page<'a> {
    run: &'a Run,
    timeline: Timeline,
    path: CriticalPath,
    /// The nodes that have details, slowest first, and their places in that order.
    nodes: Vec<NodeId>,
    places: HashMap<NodeId, usize>,
}

/// `run` as an HTML page that needs nothing else; the same run gives the same text.
pub fn timings(run: &Run) -> String {
    let page = Page::new(run);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = page.write(&mut out);
    out
}

impl<'a> Page<'a> {
    fn new(run: &'a Run) -> Self {
        let timeline = Timeline::of(run);
        let mut nodes: Vec<NodeId> =
            run.plan.graph.node_indices().filter(|node| timeline.node(*node).is_some()).collect();
        nodes.sort_by_key(|node| {
            let took = timeline.node(*node).map_or(0, |times| times.own_us);
            (Reverse(took), run.plan.graph[*node].key)
        });
        nodes.truncate(DETAILED);
        let places = nodes.iter().copied().zip(0..).collect();
        Self { run, path: critical_path(run), timeline, nodes, places }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri \
                      'none'; \
                      form-action 'none'";
        let title = self.title();
        writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
        writeln!(out, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">")?;
        writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>")?;
        writeln!(out, "<style>\n{STYLE}</style>\n</head>\n<body>")?;
        self.head(&title, out)?;
        self.toolbar(out)?;
        chart::write(self, out)?;
        self.chain(out)?;
        self.table(out)?;
        writeln!(out, "<aside id=\"details\" aria-live=\"polite\" hidden></aside>")?;
        writeln!(out, "<script type=\"application/json\" id=\"data\">{}</script>", data::json(self))?;
        writeln!(out, "<script>\n{SCRIPT}</script>\n</body>\n</html>")
    }

    fn title(&self) -> String {
        let head = &self.run.head;
        let failed = head.images.iter().filter(|image| image.error.is_some()).count();
        let images = count(head.images.len(), "image", "images");
        let took = time(self.timeline.length_us);
        match head.outcome {
            RunOutcome::Done => format!("{images} in {took}"),
            RunOutcome::Interrupted => format!("{images}, interrupted after {took}"),
            RunOutcome::SomeFailed | RunOutcome::Failed => format!("{images}, {failed} failed, in {took}"),
        }
    }

    fn head(&self, title: &str, out: &mut String) -> fmt::Result {
        let head = &self.run.head;
        writeln!(out, "<header>\n<div class=\"line\"><h1>{title}</h1>")?;
        writeln!(out, "<button id=\"theme\" type=\"button\">Dark</button></div>")?;
        write!(out, "<ul class=\"images\">")?;
        for image in head.images.iter().take(IMAGES) {
            let name = escape(&clip(&image.name, 60));
            match &image.error {
                None => write!(out, "<li>{name}</li>")?,
                Some(error) => {
                    write!(out, "<li class=\"bad\">{name}: {}</li>", escape(&clip(error, 200)))?;
                }
            }
        }
        if head.images.len() > IMAGES {
            write!(out, "<li class=\"more\">and {} more</li>", head.images.len() - IMAGES)?;
        }
        writeln!(out, "</ul>\n<dl class=\"facts\">")?;
        let share = |part: f64| format!("{:.0} %", part * 100.0);
        let facts = [
            ("bounded by", self.path.bound.name().to_owned()),
            ("workers", format!("{}, {} busy", self.timeline.workers.len(), share(self.path.workers_busy))),
            ("network", format!("{} busy", share(self.path.network_busy))),
            ("fetched", size(head.totals.bytes_fetched)),
            ("written", size(head.totals.bytes_written)),
            (
                "layers",
                format!(
                    "{} new, {} shared, {} stored",
                    head.layers.new, head.layers.shared, head.layers.stored
                ),
            ),
        ];
        for (name, value) in facts {
            write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
        }
        writeln!(out, "<div><dt>began</dt><dd>{}</dd></div></dl>\n</header>\n<main>", head.began())
    }

    fn toolbar(&self, out: &mut String) -> fmt::Result {
        write!(out, "<div class=\"tools\"><ul class=\"legend\">")?;
        let drawn = |kind: &Kind| self.nodes.iter().any(|node| self.run.plan.graph[*node].kind == *kind);
        for kind in Kind::ALL.into_iter().filter(drawn) {
            // Documents look alike: they are never long.
            let name = match kind {
                Kind::Manifest => continue,
                Kind::Config => "config, manifest",
                other => other.word(),
            };
            write!(out, "<li><i class=\"{}\"></i>{name}</li>", class(kind))?;
        }
        write!(out, "<li><i class=\"mark\"></i>critical path</li></ul>")?;
        write!(out, "<label>at least <select id=\"least\"><option value=\"0\">all</option>")?;
        let longest =
            self.nodes.first().and_then(|node| self.timeline.node(*node)).map_or(0, |times| times.own_us);
        for us in [1_000, 10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|us| *us <= longest) {
            write!(out, "<option value=\"{us}\">{}</option>", short_time(us))?;
        }
        writeln!(
            out,
            "</select></label><span class=\"zoom\" role=\"group\" aria-label=\"zoom\">\
             <button type=\"button\" id=\"out\" aria-label=\"zoom out\">−</button>\
             <button type=\"button\" id=\"fit\">Fit</button>\
             <button type=\"button\" id=\"in\" aria-label=\"zoom in\">+</button></span></div>"
        )
    }

    /// The chain as a table: the same numbers as the text for terminals.
    fn chain(&self, out: &mut String) -> fmt::Result {
        if self.path.links.is_empty() {
            return Ok(());
        }
        writeln!(out, "<section><h2>Critical path</h2><div class=\"wide\"><table id=\"chain\"><thead><tr>")?;
        for name in ["node", "from", "to", "on the chain", "waited", "one second free wins"] {
            write!(out, "<th scope=\"col\">{name}</th>")?;
        }
        writeln!(out, "</tr></thead><tbody>")?;
        for link in &self.path.links {
            self.row_head(link.node, out)?;
            let waited = link.waited_us + link.idle_us;
            for us in [link.from_us, link.to_us, link.to_us - link.from_us, waited, link.win_us] {
                write!(out, "<td>{}</td>", time(us))?;
            }
            writeln!(out, "</tr>")?;
        }
        writeln!(out, "</tbody></table></div></section>")
    }

    fn table(&self, out: &mut String) -> fmt::Result {
        let shown = self.nodes.len().min(ROWS);
        writeln!(
            out,
            "<section><h2>Slowest nodes</h2><div class=\"wide\"><table id=\"slowest\"><thead><tr>"
        )?;
        let columns = [
            ("node", false),
            ("images", false),
            ("alone", true),
            ("took", true),
            ("work", true),
            ("bytes", true),
            ("began", true),
        ];
        for (name, number) in columns {
            let sorted = if name == "alone" { " aria-sort=\"descending\"" } else { "" };
            let class = if number { "" } else { " class=\"text\"" };
            write!(out, "<th scope=\"col\"{class}{sorted}><button type=\"button\">{name}</button></th>")?;
        }
        writeln!(out, "</tr></thead><tbody>")?;
        for node in self.nodes.iter().take(shown) {
            let (Some(times), Some(did)) = (self.timeline.node(*node), self.run.record.node(*node)) else {
                continue;
            };
            self.row_head(*node, out)?;
            let images = image_names(&self.run.plan, &self.run.plan.graph[*node].wanted_by);
            write!(out, "<td class=\"text\">{}</td>", escape(&clip(&images, 40)))?;
            let began = times.start_us;
            for us in [times.own_us, times.took_us(), did.cpu_us] {
                write!(out, "<td data-v=\"{us}\">{}</td>", time(us))?;
            }
            let bytes = if did.bytes == 0 { "-".to_owned() } else { size(did.bytes) };
            write!(
                out,
                "<td data-v=\"{}\">{bytes}</td><td data-v=\"{began}\">{}</td>",
                did.bytes,
                time(began)
            )?;
            writeln!(out, "</tr>")?;
        }
        write!(out, "</tbody></table></div>")?;
        write!(
            out,
            "<p class=\"note\">Alone is how long a node would have taken had nothing held it up: the time \
             in which \
             workers were busy for it, or bytes came.</p>"
        )?;
        if self.nodes.len() > shown {
            write!(out, "<p class=\"note\">{} more nodes were quicker.</p>", self.nodes.len() - shown)?;
        }
        writeln!(out, "</section>\n</main>")
    }

    /// A row's beginning, up to and with the node's name.
    fn row_head(&self, node: NodeId, out: &mut String) -> fmt::Result {
        let kind = class(self.run.plan.graph[node].kind);
        let name = escape(&node_name(&self.run.plan, node));
        write!(out, "<tr{}><th scope=\"row\"><i class=\"{kind}\"></i>{name}</th>", self.data_n(node))
    }

    /// The attribute by which the script knows a node; nothing for nodes without details.
    fn data_n(&self, node: NodeId) -> String {
        self.places.get(&node).map_or_else(String::new, |place| format!(" data-n=\"{place}\""))
    }
}

/// The class of a kind's colour.
fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Fetch => "kf",
        Kind::Split => "ks",
        Kind::Write => "kw",
        Kind::Encode => "ke",
        Kind::Finalize => "kz",
        Kind::Filesystem => "ki",
        Kind::Config => "kc",
        Kind::Manifest => "km",
        Kind::Tag => "kt",
    }
}

/// A round time with no more digits than it has.
fn short_time(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        1_000_000.. => format!("{} s", us as f64 / 1e6),
        1_000.. => format!("{} ms", us as f64 / 1e3),
        us => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests;
