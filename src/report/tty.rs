//! Progress as bars on a terminal. Knows widths and heights; ignores how the cursor is moved (`screen.rs`).
//!
//! Lines are cut to the terminal's width at the time, so that none wraps, and there are never more
//! than it has rows. A narrow terminal gets fewer things, the most important first; a wide one does
//! not get longer bars for ever.

use std::time::Duration;

use super::{
    ActiveLayer, ImageStep, News, Stage, Terminal, Tracker, View,
    plain::{done, eta_text, failed, short_layer},
    screen::{Screen, cut, cut_front},
};
use crate::{
    exec::Event,
    graph::{ImageIx, Plan},
    render::words::{columns, image_names, printable, size},
};

/// Bars on `T`: one for the whole, a line for each layer and filesystem in work; all vanish at the end.
/// Images that ended stay as lines above.
pub struct Tty<T> {
    screen: Screen<T>,
    /// Lines to be shown above with the next frame.
    above: Vec<String>,
}

impl<T: Terminal> Tty<T> {
    /// Bars on `term`, drawn with the first `tick`.
    pub fn new(term: T) -> Self {
        Self { screen: Screen::new(term), above: Vec::new() }
    }
}

impl<T: Terminal> View for Tty<T> {
    fn begin(&mut self, _: &Tracker) {}

    fn event(&mut self, seen: &Tracker, at: Duration, _: &Event, news: &[News]) {
        let (width, _) = self.screen.size();
        let lines = news.iter().filter_map(|news| match news {
            News::LayerDone(_) => None,
            News::ImageDone(ix) => Some((*ix, done(seen, *ix, at))),
            // Why is told again, and whole, when the bars are gone.
            News::ImageFailed(ix, text) => Some((*ix, failed(seen.plan(), *ix, text))),
        });
        self.above.extend(lines.map(|(ix, end)| image_line(seen.plan(), ix, &end, width)));
    }

    fn line(&mut self, text: &str) {
        self.above.push(printable(text).into_owned());
    }

    fn tick(&mut self, seen: &Tracker, _: Duration) {
        let (width, height) = self.screen.size();
        self.screen.show(&std::mem::take(&mut self.above), frame(seen, width, height));
    }

    fn end(&mut self, _: &Tracker, _: Duration) {
        self.screen.show(&std::mem::take(&mut self.above), Vec::new());
    }
}

/// The lines for a terminal of this size.
fn frame(seen: &Tracker, width: usize, height: usize) -> Vec<String> {
    /// More rows than this are a number.
    const MOST_ROWS: usize = 16;
    // One row is left for the cursor, one is the total.
    let room = height.saturating_sub(2).min(MOST_ROWS);
    let steps = seen.image_steps();
    let rows = seen.active().len() + steps.len();
    // And one may be needed for the number.
    let shown = if rows <= room { rows } else { room.saturating_sub(1) };
    let layers = layer_lines(seen, shown, width);
    let mut lines = vec![total_line(seen, width)];
    let steps = steps.iter().map(|step| step_line(seen.plan(), step));
    lines.extend(layers.into_iter().chain(steps).take(shown).map(|line| format!("  {line}")));
    if rows > shown && room > 0 {
        lines.push(format!("  and {} more", rows - shown));
    }
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

/// The most important things first; what does not fit whole is left out.
fn total_line(seen: &Tracker, width: usize) -> String {
    let (fetched, to_fetch) = seen.bytes();
    let (layers_done, layers) = seen.layers();
    let (images_done, _, images) = seen.images();
    let mut parts = vec![
        format!("{:>3}%", percent(seen.fraction())),
        eta_text(seen.eta()),
        format!("{} of {}", size(fetched), size(to_fetch)),
    ];
    // A rate that only falls, once all is here, tells nothing.
    if fetched < to_fetch {
        parts
            .push(seen.bytes_per_second().map_or("--".to_owned(), |rate| format!("{}/s", size(rate as u64))));
    }
    parts.push(format!("layers {layers_done}/{layers}"));
    parts.push(format!("images {images_done}/{images}"));
    // The bar takes what the text may leave at its longest, so that it does not change its width all the
    // time; on 80 columns a short bar is worth more than the number of images.
    const TEXT: usize = 76;
    let mut line = match width {
        74.. => bar(seen.fraction(), width.saturating_sub(TEXT).clamp(10, 40)) + " ",
        _ => String::new(),
    };
    for (place, part) in parts.iter().enumerate() {
        let gap = if place == 0 { "" } else { "  " };
        if place > 0 && line.len() + gap.len() + part.len() >= width {
            break;
        }
        line = line + gap + part;
    }
    line
}

/// An image's line above the bars: how it ended is worth more than the beginning of a long name.
fn image_line(plan: &Plan, ix: ImageIx, end: &str, width: usize) -> String {
    const NAME: usize = 12;
    let free = width.saturating_sub(end.chars().count() + 3).max(NAME);
    cut(&format!("{}: {end}", cut_front(&image_names(plan, &[ix]), free)), width)
}

/// The first `shown` layers in work, with as much of their images' names as there is room for.
fn layer_lines(seen: &Tracker, shown: usize, width: usize) -> Vec<String> {
    const NAME: usize = 8;
    let layers: Vec<_> = seen.active().take(shown).collect();
    let cells: Vec<_> = layers.iter().map(|layer| layer_cells(seen.plan(), layer, width)).collect();
    let lines = columns(&cells, &[3]);
    let used = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    // Two blanks before the line, two before the name, and the last column.
    let free = width.saturating_sub(used + 5);
    let named = lines.into_iter().zip(&layers).map(|(line, layer)| match layer.image {
        Some(ix) if free >= NAME => {
            format!("{line:<used$}  {}", cut_front(&image_names(seen.plan(), &[ix]), free))
        }
        _ => line,
    });
    named.collect()
}

/// Digest, stage, bar, bytes.
fn layer_cells(plan: &Plan, layer: &ActiveLayer, width: usize) -> [String; 4] {
    let part = if layer.size_bytes == 0 { 0.0 } else { layer.bytes as f64 / layer.size_bytes as f64 };
    let (bar, bytes) = match (layer.stage, width) {
        (Stage::Fetching, 74..) => {
            let bar = bar(part, if width < 120 { 12 } else { 24 });
            (bar, format!("{} of {}", size(layer.bytes), size(layer.size_bytes)))
        }
        (Stage::Fetching, _) => (format!("{:>3}%", percent(part)), size(layer.size_bytes)),
        _ => (String::new(), size(layer.size_bytes)),
    };
    [short_layer(plan, layer), layer.stage.name().to_owned(), bar, bytes]
}

fn step_line(plan: &Plan, step: &ImageStep) -> String {
    match step {
        ImageStep::Building(images) => format!("building filesystem of {}", image_names(plan, images)),
        ImageStep::Committing(images) => format!("committing {}", image_names(plan, images)),
    }
}

/// Rounded down: 100 is said only when nothing is left.
fn percent(part: f64) -> u64 {
    // Less than a millionth is what floating point adds or takes.
    (part * 100.0 + 1e-6) as u64
}

/// `[====>   ]` of `width` columns.
fn bar(part: f64, width: usize) -> String {
    let inner = width.saturating_sub(2);
    let full = (inner * percent(part) as usize / 100).min(inner);
    let head = if full < inner { ">" } else { "" };
    format!("[{:<inner$}]", "=".repeat(full) + head)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            progress::testing::show,
            screen::testing::{Fake, Gone},
        },
        *,
    };
    use crate::{
        graph::{NodeId, State},
        render::sample::{self, Sample},
    };

    fn id(index: usize) -> NodeId {
        NodeId::new(index)
    }

    fn half_fetched(view: &mut dyn View, tracker: &mut Tracker) {
        view.begin(tracker);
        show(view, tracker, 0, Event::Started(id(5)));
        for second in 1..=6 {
            show(view, tracker, second * 1000, Event::Progress { node: id(5), bytes: 1_000_000 });
        }
    }

    fn view(columns: u16) -> (Fake, Tty<Fake>, Tracker) {
        let term = Fake::new(columns, 10);
        (term.clone(), Tty::new(term), Tracker::new(Arc::new(sample::two_images())))
    }

    #[test]
    fn bars_on_a_terminal_vanish_at_the_end_and_images_stay() {
        let (term, mut view, mut tracker) = view(100);
        half_fetched(&mut view, &mut tracker);
        let expected = "\
[==========>           ]  48%  eta 0:06  6.00 MB of 12.0 MB  1.00 MB/s  layers 0/1  images 0/2
  739a304e183a  fetching  [=====>    ]  6.00 MB of 12.0 MB  webapp:latest";
        assert_eq!(term.contents(), expected);
        for (node, stage) in [(5, "splitting"), (6, "writing"), (8, "encoding"), (7, "finalizing")] {
            show(&mut view, &mut tracker, 6000, Event::Finished(id(node)));
            assert!(term.contents().contains(&format!("739a304e183a  {stage}")), "{}", term.contents());
        }
        show(&mut view, &mut tracker, 6100, Event::Finished(id(9)));
        show(&mut view, &mut tracker, 6100, Event::Started(id(10)));
        assert!(term.contents().ends_with("\n  building filesystem of webapp:latest"), "{}", term.contents());
        show(&mut view, &mut tracker, 6200, Event::Finished(id(10)));
        show(&mut view, &mut tracker, 6200, Event::Started(id(13)));
        assert!(term.contents().ends_with("\n  committing webapp:latest"), "{}", term.contents());
        assert!(term.contents().contains(" 98%  finishing"), "{}", term.contents());
        show(&mut view, &mut tracker, 6300, Event::Finished(id(13)));
        show(&mut view, &mut tracker, 6400, Event::Failed(id(16), "disk full".into()));
        assert!(term.contents().contains("100%"), "{}", term.contents());
        view.end(&tracker, Duration::from_secs(7));
        let expected = "webapp:latest: done, 6.00 MB fetched, 6.3 s\nnode:latest: failed: disk full";
        assert_eq!(term.contents(), expected);
        assert!(!term.wrapped());
    }

    #[test]
    fn forty_columns_are_enough() {
        let (term, mut view, mut tracker) = view(40);
        half_fetched(&mut view, &mut tracker);
        let expected = " 48%  eta 0:06  6.00 MB of 12.0 MB
  739a304e183a  fetching   50%  12.0 MB";
        assert_eq!(term.contents(), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_and_never_wraps_them() {
        for width in [1, 2, 10, 40, 60, 79, 80, 81, 200] {
            let (term, mut view, mut tracker) = view(width);
            half_fetched(&mut view, &mut tracker);
            show(&mut view, &mut tracker, 6100, Event::Started(id(10)));
            show(&mut view, &mut tracker, 6100, Event::Failed(id(16), "a long story".repeat(20).into()));
            let lines = frame(&tracker, width.into(), 10);
            assert!(lines.iter().all(|line| line.chars().count() < width.into()), "{width}: {lines:?}");
            assert!(!term.wrapped(), "{width}: {}", term.contents());
            assert!(width < 10 || term.contents().lines().count() == 4, "{width}: {}", term.contents());
        }
    }

    #[test]
    fn a_low_terminal_counts_what_it_cannot_show() {
        const NAMES: [&str; 20] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
            "t",
        ];
        let add = |sample: Sample, name| sample.layer(name, State::Needed, &[0], &[((name, 10), &[0])]);
        let plan =
            NAMES.into_iter().fold(Sample::default(), add).image("big:v1", State::Needed, &NAMES).plan();
        let fetches = plan.graph.node_indices().step_by(5).take(20);
        let mut tracker = Tracker::new(Arc::new(plan.clone()));
        fetches.for_each(|fetch| drop(tracker.apply(Duration::ZERO, &Event::Started(fetch))));
        let lines = |height| frame(&tracker, 80, height);
        assert_eq!((lines(50).len(), lines(50)[16].as_str()), (17, "  and 5 more"));
        assert_eq!((lines(5).len(), lines(5)[3].as_str()), (4, "  and 18 more"));
        assert_eq!((lines(2).len(), lines(1).len(), lines(0).len()), (1, 1, 1));
    }

    #[test]
    fn a_resize_is_followed_with_the_next_frame() {
        let (term, mut view, mut tracker) = view(100);
        half_fetched(&mut view, &mut tracker);
        for (columns, rows) in [(50, 10), (33, 3), (7, 1), (120, 20)] {
            term.resize(columns, rows);
            show(&mut view, &mut tracker, 7000, Event::Progress { node: id(5), bytes: 1 });
            assert!(!term.wrapped(), "{columns}: {}", term.contents());
            let expected = frame(&tracker, columns.into(), rows.into());
            assert!(
                term.contents().trim_end().ends_with(expected[expected.len() - 1].trim_end()),
                "{columns}: {}",
                term.contents()
            );
        }
    }

    #[test]
    fn a_closed_terminal_stops_nothing() {
        let mut tracker = Tracker::new(Arc::new(sample::two_images()));
        let mut view = Tty::new(Gone);
        half_fetched(&mut view, &mut tracker);
        view.line("into the void");
        view.end(&tracker, Duration::from_secs(8));
    }
}
