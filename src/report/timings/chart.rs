//! The chart: lanes over time, and under them how busy workers and network were. Knows SVG and where lanes
//! stand; ignores how a run came about.
//!
//! Places on the time axis are per cent, so that the chart is as wide as its page and zooming
//! is a matter of one width.

use std::fmt::{self, Write};

use super::{Page, class, lanes::thinned, short_time};
use crate::{
    render::words::{escape, size},
    report::{
        Series,
        critical::node_name,
        timeline::{self, Lane, Slice},
    },
};

/// A lane's height with the space under it, and its bars', in pixels.
const LANE: usize = 22;
/// The space over a group of lanes.
const GAP: usize = 14;
/// The height of the time axis.
const AXIS: usize = 24;
/// The height of a chart of use.
const AREA: usize = 56;
/// More lanes of one group are not drawn.
const LANES: usize = 64;
/// Bars on all lanes together.
const BARS: usize = 12_000;
/// Narrower bars than this part of the whole have no room for a name at any zoom.
const NAMED: u64 = 400;
/// Points of a chart of use.
const POINTS: usize = 400;

/// A group of lanes under one title.
struct Group<'a> {
    title: &'static str,
    /// Label and content.
    lanes: Vec<(String, &'a Lane)>,
}

/// A chart of use.
struct Area {
    id: &'static str,
    title: &'static str,
    top: String,
    class: &'static str,
    /// Place and height, both from 0 to 1.
    points: Vec<(f64, f64)>,
}

pub(super) fn write(page: &Page, out: &mut String) -> fmt::Result {
    let (groups, areas) = (groups(page), areas(page));
    let lanes: usize = groups.iter().map(|group| group.lanes.len()).sum();
    let pixels = (BARS / lanes.max(1)).clamp(256, 2048);
    let (mut labels, mut plot) = (String::new(), String::new());
    let mut y = AXIS;
    chain_lane(page, &mut labels, &mut plot, y)?;
    y += LANE + GAP;
    for group in &groups {
        writeln!(plot, "<g class=\"group\" data-group=\"{}\">", group.title)?;
        for (label, lane) in &group.lanes {
            writeln!(labels, "<text x=\"0\" y=\"{}\">{label}</text>", y + 12)?;
            writeln!(plot, "<g class=\"lane\" transform=\"translate(0 {y})\">")?;
            bars(page, &thinned(lane, page.timeline.length_us, pixels), &mut plot)?;
            marks(page, lane, &mut plot)?;
            writeln!(plot, "</g>")?;
            y += LANE;
        }
        writeln!(plot, "</g>")?;
        y += GAP;
    }
    for area in &areas {
        area.write(&mut labels, &mut plot, y)?;
        y += AREA + GAP;
    }
    let height = y;
    writeln!(out, "<div class=\"chart\" id=\"chart\">")?;
    writeln!(
        out,
        "<svg class=\"labels\" width=\"104\" height=\"{height}\" aria-hidden=\"true\">\n{labels}</svg>"
    )?;
    writeln!(
        out,
        "<div class=\"scroll\" id=\"scroll\"><svg id=\"plot\" height=\"{height}\" tabindex=\"0\" \
         role=\"group\""
    )?;
    writeln!(out, " aria-label=\"what was done when: arrow keys go from bar to bar\">")?;
    ticks(page, height, out)?;
    writeln!(
        out,
        "{plot}<line id=\"cursor\" y1=\"{AXIS}\" y2=\"{height}\" visibility=\"hidden\"/></svg></div></div>"
    )
}

fn groups<'a>(page: &'a Page<'a>) -> Vec<Group<'a>> {
    let timeline = &page.timeline;
    let workers = timeline.workers.iter().map(|(worker, lane)| (format!("worker {worker}"), lane));
    fn numbered<'a>(lanes: &'a [Lane], word: &str) -> Vec<(String, &'a Lane)> {
        let label =
            |number: usize| if lanes.len() > 1 { format!("{word} {number}") } else { word.to_owned() };
        lanes.iter().zip(1..).map(|(lane, number)| (label(number), lane)).collect()
    }
    let mut groups = vec![
        Group { title: "workers", lanes: workers.collect() },
        Group { title: "network", lanes: numbered(&timeline.network, "transfer") },
        Group { title: "barrier", lanes: numbered(&timeline.others, "barrier") },
    ];
    groups.retain(|group| !group.lanes.is_empty());
    groups.iter_mut().for_each(|group| group.lanes.truncate(LANES));
    groups
}

/// The chain by itself: its parts tile the run, and a line is waiting.
fn chain_lane(page: &Page, labels: &mut String, plot: &mut String, y: usize) -> fmt::Result {
    writeln!(labels, "<text x=\"0\" y=\"{}\" class=\"strong\">critical path</text>", y + 12)?;
    writeln!(
        plot,
        "<g class=\"group\" data-group=\"critical\"><g class=\"lane\" transform=\"translate(0 {y})\">"
    )?;
    for link in page.path.links.iter().filter(|link| link.waited_us > 0) {
        let from = percent(page, link.from_us - link.waited_us);
        let to = percent(page, link.from_us);
        writeln!(plot, "<line class=\"wait\" x1=\"{from}%\" x2=\"{to}%\" y1=\"8\" y2=\"8\"/>")?;
    }
    let parts = page.path.links.iter().filter(|link| link.from_us < link.to_us);
    let parts: Lane =
        parts.map(|link| Slice { start_us: link.from_us, end_us: link.to_us, node: link.node }).collect();
    bars(page, &parts, plot)?;
    writeln!(plot, "</g></g>")
}

fn bars(page: &Page, lane: &Lane, out: &mut String) -> fmt::Result {
    for slice in lane {
        let kind = page.run.plan.graph[slice.node].kind;
        let (x, width) = (percent(page, slice.start_us), percent(page, slice.took_us()));
        let (class, n) = (class(kind), page.data_n(slice.node));
        if slice.took_us() < page.timeline.length_us / NAMED {
            writeln!(out, "<rect class=\"{class}\" x=\"{x}%\" width=\"{width}%\"{n}/>")?;
            continue;
        }
        // An inner picture cuts off what has no room.
        let name = node_name(&page.run.plan, slice.node);
        writeln!(
            out,
            "<svg x=\"{x}%\" width=\"{width}%\" height=\"16\"><rect class=\"{class}\" width=\"100%\"{n}/>\
             <text class=\"{class}\" x=\"5\" y=\"12\">{}</text></svg>",
            escape(&name)
        )?;
    }
    Ok(())
}

/// Lines under what was done of the chain while it was its turn.
fn marks(page: &Page, lane: &Lane, out: &mut String) -> fmt::Result {
    for link in &page.path.links {
        let within = lane.iter().filter(|slice| slice.node == link.node);
        let parts = within.map(|slice| (slice.start_us.max(link.from_us), slice.end_us.min(link.to_us)));
        let parts: Vec<_> = parts.filter(|(from, to)| from < to).collect();
        // One line from the first to the last: gaps between pieces are no news here.
        let (Some((from, _)), Some((_, to))) = (parts.first(), parts.last()) else { continue };
        let (x, width) = (percent(page, *from), percent(page, to - from));
        writeln!(out, "<rect class=\"mark\" x=\"{x}%\" y=\"17\" width=\"{width}%\"/>")?;
    }
    Ok(())
}

/// The time axis for the whole width; the script draws a finer one when zoomed.
fn ticks(page: &Page, height: usize, out: &mut String) -> fmt::Result {
    let length = page.timeline.length_us;
    let step = round_step(length / 8);
    writeln!(out, "<g id=\"ticks\" data-height=\"{height}\">")?;
    for at in (0..=length / step).map(|tick| tick * step) {
        let x = percent(page, at);
        writeln!(out, "<line x1=\"{x}%\" x2=\"{x}%\" y1=\"{AXIS}\" y2=\"{height}\"/>")?;
        writeln!(out, "<text x=\"{x}%\" dx=\"3\" y=\"14\">{}</text>", short_time(at))?;
    }
    writeln!(out, "</g>")
}

/// The least of 1, 2, 5, 10, 20, … microseconds that is not under `least`.
fn round_step(least: u64) -> u64 {
    let mut step: u64 = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if step >= least {
            break;
        }
        // Round steps in a row are 1, 2, 5, 10: each from the power of ten before.
        step = match factor {
            5 => step.saturating_mul(5) / 2,
            _ => step.saturating_mul(2),
        };
    }
    step.max(1)
}

/// A place on the time axis in per cent.
fn percent(page: &Page, us: u64) -> String {
    let text = format!("{:.3}", us as f64 * 100.0 / page.timeline.length_us as f64);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}

fn areas(page: &Page) -> Vec<Area> {
    let timeline = &page.timeline;
    let workers = timeline.workers.len().max(1) as f64;
    let steps = POINTS.min(usize::try_from(timeline.length_us).unwrap_or(POINTS));
    let busy = timeline.busy_workers(steps);
    let place = |step: usize| step as f64 / steps as f64;
    let cpu = busy.iter().enumerate().flat_map(|(step, busy)| {
        let height = (busy / workers).min(1.0);
        [(place(step), height), (place(step + 1), height)]
    });
    let cpu = Area {
        id: "cpu",
        title: "busy workers",
        top: format!("{}", timeline.workers.len()),
        class: "cpu",
        points: cpu.collect(),
    };
    let record = &page.run.record;
    [
        Some(cpu),
        flow(page, "network", "network", "net", &record.fetched),
        flow(page, "disk", "new objects", "disk", &record.written),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Bytes by the second over time; nothing if there were none.
fn flow(
    page: &Page,
    id: &'static str,
    title: &'static str,
    class: &'static str,
    series: &Series,
) -> Option<Area> {
    let length_us = page.timeline.length_us;
    let steps: Vec<(u64, u64, f64)> = timeline::rates(series, length_us).collect();
    // The finest steps are shorter than a buffer takes: several together show the rate,
    // each alone the buffers.
    let together = (steps.len() * 2).div_ceil(POINTS).max(4);
    let rate = |steps: &[(u64, u64, f64)]| steps.iter().map(|step| step.2).sum::<f64>() / steps.len() as f64;
    let most = steps.chunks(together).map(rate).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let points = steps.chunks(together).flat_map(|steps| {
        let (from, to) = (steps.first().map_or(0, |step| step.0), steps.last().map_or(0, |step| step.1));
        let height = rate(steps) / most;
        [from, to].map(|us| (us as f64 / length_us as f64, height))
    });
    let top = format!("{}/s", size(most as u64));
    Some(Area { id, title, top, class, points: points.collect() })
}

impl Area {
    fn write(&self, labels: &mut String, plot: &mut String, y: usize) -> fmt::Result {
        let Self { id, title, top, class, .. } = self;
        writeln!(labels, "<text x=\"0\" y=\"{}\">{title}</text>", y + 10)?;
        writeln!(labels, "<text x=\"0\" y=\"{}\" class=\"top\">{top}</text>", y + 24)?;
        let mut line = String::new();
        for (x, height) in &self.points {
            write!(line, "{:.1} {:.1} ", x * 1000.0, (1.0 - height) * AREA as f64)?;
        }
        let end = self.points.last().map_or(0.0, |point| point.0 * 1000.0);
        writeln!(
            plot,
            "<svg class=\"area {class}\" id=\"{id}\" y=\"{y}\" width=\"100%\" height=\"{AREA}\" viewBox=\"0 \
             0 1000 {AREA}\" \
             preserveAspectRatio=\"none\"><rect class=\"field\" width=\"1000\" height=\"{AREA}\"/>\
             <path d=\"M0 {AREA} L{line}{end:.1} {AREA}Z\"/></svg>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let steps = [0, 1, 3, 7, 11, 60_000, 915_000, 2_100_000].map(round_step);
        assert_eq!(steps, [1, 1, 5, 10, 20, 100_000, 1_000_000, 5_000_000]);
        assert!(round_step(u64::MAX) >= 1);
    }
}
