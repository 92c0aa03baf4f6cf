//! Progress as bars on a terminal. Knows widths and heights; ignores how the cursor is moved (indicatif).
//!
//! All lines are one frame, drawn at once and only if it differs from the last: nothing flickers. Lines are cut
//! to the terminal's width at the time, so that none wraps. A terminal that breaks lines when it is made narrower
//! keeps pieces of the last frame above the next: taking them away would, on one that does not break lines, take
//! away what others wrote there (tried).

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::{
    ActiveLayer, Eta, News, Tracker, View,
    plain::{eta_text, failure, short_layer},
};
use crate::{
    exec::Event,
    graph::Plan,
    render::words::{columns, image_names, printable, size},
};

/// Bars on `T`: one for the whole, a line for each active layer; all vanish at the end. Failed images stay as lines
/// above.
pub struct Tty<T> {
    term: T,
    bar: ProgressBar,
    /// What stands there now.
    frame: Vec<String>,
}

impl<T: TermLike + Clone + 'static> Tty<T> {
    /// Bars on `term`, drawn with the first `tick`.
    pub fn new(term: T) -> Self {
        // We draw ten times a second and only what changed: indicatif has nothing to hold back.
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), u8::MAX);
        let bar = ProgressBar::with_draw_target(None, target);
        // A template without any condition is always valid; otherwise indicatif's own look serves.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { term, bar, frame: Vec::new() }
    }
}

impl<T: TermLike + Clone + 'static> View for Tty<T> {
    fn begin(&mut self, _: &Tracker) {}

    fn event(&mut self, seen: &Tracker, _: Duration, _: &Event, news: &[News]) {
        for news in news {
            if let News::ImageFailed(ix, text) = news {
                self.bar.println(failure(seen.plan(), *ix, text));
            }
        }
    }

    fn line(&mut self, text: &str) {
        self.bar.println(printable(text));
    }

    fn tick(&mut self, seen: &Tracker, _: Duration) {
        let (width, height) = (usize::from(self.term.width()), usize::from(self.term.height()));
        let frame = frame(seen, width, height);
        if frame != self.frame {
            self.bar.set_message(frame.join("\n"));
            self.frame = frame;
        }
    }

    fn end(&mut self, _: &Tracker, _: Duration) {
        self.bar.finish_and_clear();
    }
}

/// The lines for a terminal of this size.
fn frame(seen: &Tracker, width: usize, height: usize) -> Vec<String> {
    /// More layers than this are a number.
    const MOST_LAYERS: usize = 16;
    let mut lines = vec![total_line(seen, width)];
    let active = seen.active().len();
    // One row is left for the cursor, one is the total, and one may be needed for the number.
    let room = height.saturating_sub(2).min(MOST_LAYERS);
    let shown = if active <= room { active } else { room.saturating_sub(1) };
    let rows: Vec<_> = seen.active().take(shown).map(|layer| layer_row(seen.plan(), &layer, width)).collect();
    lines.extend(columns(&rows, &[2]).into_iter().map(|line| format!("  {line}")));
    if active > shown && room > 0 {
        lines.push(format!("  and {} more", active - shown));
    }
    // The last column stays free: some terminals go to the next line when it is written.
    let cut = |line: String| console::truncate_str(&line, width.saturating_sub(1), "").into_owned();
    lines.into_iter().map(cut).collect()
}

/// The most important things first, since a narrow terminal cuts the end.
fn total_line(seen: &Tracker, width: usize) -> String {
    let (fetched, to_fetch) = seen.bytes();
    let (layers_done, layers) = seen.layers();
    let (images_done, _, images) = seen.images();
    // A rate that only falls, once all is here, tells nothing.
    let rate = match (seen.eta(), seen.bytes_per_second()) {
        (Eta::Fetched, _) => String::new(),
        (_, Some(rate)) => format!("  {}/s", size(rate as u64)),
        (_, None) => "  --".to_owned(),
    };
    let text = format!(
        "{:>3}%  {}  {} of {}{rate}  layers {layers_done}/{layers}  images {images_done}/{images}",
        percent(fetched, to_fetch),
        eta_text(seen.eta()),
        size(fetched),
        size(to_fetch),
    );
    // The bar takes what the text may leave at its longest, so that it does not change its width all the time; on
    // 80 columns a short bar is worth more than the number of images.
    const TEXT: usize = 76;
    match width {
        74.. => format!("{} {text}", bar(fetched, to_fetch, width.saturating_sub(TEXT).clamp(10, 40))),
        _ => text,
    }
}

/// Bar, digest, bytes, what is done, image.
fn layer_row(plan: &Plan, layer: &ActiveLayer, width: usize) -> [String; 4] {
    let image = layer.image.map(|ix| image_names(plan, &[ix])).unwrap_or_default();
    let stage = match layer.fetching {
        true if width >= 60 => bar(layer.bytes, layer.size_bytes, 12),
        true => format!("{:>3}%", percent(layer.bytes, layer.size_bytes)),
        false => "storing".to_owned(),
    };
    let bytes = match layer.fetching {
        true => format!("{} of {}", size(layer.bytes), size(layer.size_bytes)),
        false => size(layer.bytes),
    };
    [short_layer(plan, layer), stage, bytes, image]
}

/// Rounded down: 100 is said only when nothing is left.
fn percent(done: u64, all: u64) -> u64 {
    if all == 0 { 100 } else { (u128::from(done) * 100 / u128::from(all)) as u64 }
}

/// `[====>   ]` of `width` columns.
fn bar(done: u64, all: u64, width: usize) -> String {
    let inner = width.saturating_sub(2);
    let full = inner * percent(done, all).min(100) as usize / 100;
    let head = if full < inner { ">" } else { "" };
    format!("[{:<inner$}]", "=".repeat(full) + head)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicU16, Ordering},
        },
    };

    use indicatif::InMemoryTerm;

    use super::{super::progress::testing::show, *};
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

    #[test]
    fn bars_on_a_terminal_vanish_at_the_end() {
        let term = InMemoryTerm::new(10, 100);
        let (mut view, mut tracker) = (Tty::new(term.clone()), Tracker::new(Arc::new(sample::two_images())));
        half_fetched(&mut view, &mut tracker);
        let expected = "\
[===========>          ]  50%  eta 0:06  6.00 MB of 12.0 MB  1.00 MB/s  layers 0/1  images 0/2
  739a304e183a  [=====>    ]  6.00 MB of 12.0 MB  webapp:latest";
        assert_eq!(term.contents(), expected);
        show(&mut view, &mut tracker, 6000, Event::Finished(id(5)));
        assert!(term.contents().contains("739a304e183a  storing"), "{}", term.contents());
        show(&mut view, &mut tracker, 6100, Event::Failed(id(12), "disk full".into()));
        view.end(&tracker, Duration::from_secs(7));
        assert_eq!(term.contents(), "webapp:latest: failed: disk full");
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_and_never_wraps_them() {
        for width in [1, 2, 10, 40, 60, 79, 80, 81, 200] {
            let mut tracker = Tracker::new(Arc::new(sample::two_images()));
            let term = InMemoryTerm::new(10, width);
            let mut view = Tty::new(term.clone());
            half_fetched(&mut view, &mut tracker);
            let lines = frame(&tracker, width.into(), 10);
            assert!(lines.iter().all(|line| line.chars().count() < width.into()), "{width}: {lines:?}");
            assert!(width < 10 || term.contents().lines().count() == 2, "{width}: {}", term.contents());
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
        let fetches = plan.graph.node_indices().step_by(5);
        let mut tracker = Tracker::new(Arc::new(plan.clone()));
        fetches.for_each(|fetch| drop(tracker.apply(Duration::ZERO, &Event::Started(fetch))));
        let lines = |height| frame(&tracker, 80, height);
        assert_eq!((lines(50).len(), lines(50)[16].as_str()), (17, "  and 5 more"));
        assert_eq!((lines(5).len(), lines(5)[3].as_str()), (4, "  and 18 more"));
        assert_eq!((lines(2).len(), lines(1).len(), lines(0).len()), (1, 1, 1));
    }

    /// A terminal whose width changes, and that is closed when it is 0.
    #[derive(Debug, Clone)]
    struct Shrinking(InMemoryTerm, Arc<AtomicU16>);

    impl Shrinking {
        fn open(&self) -> io::Result<&InMemoryTerm> {
            match self.1.load(Ordering::SeqCst) {
                0 => Err(io::ErrorKind::BrokenPipe.into()),
                _ => Ok(&self.0),
            }
        }
    }

    impl TermLike for Shrinking {
        fn width(&self) -> u16 {
            self.1.load(Ordering::SeqCst)
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.open()?.move_cursor_up(n)
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.open()?.move_cursor_down(n)
        }
        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.open()?.move_cursor_right(n)
        }
        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            self.open()?.move_cursor_left(n)
        }
        fn write_line(&self, s: &str) -> io::Result<()> {
            self.open()?.write_line(s)
        }
        fn write_str(&self, s: &str) -> io::Result<()> {
            self.open()?.write_str(s)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.open()?.clear_line()
        }
        fn flush(&self) -> io::Result<()> {
            self.open()?.flush()
        }
    }

    #[test]
    fn a_resized_and_then_closed_terminal_stops_nothing() {
        let term = Shrinking(InMemoryTerm::new(20, 100), Arc::new(AtomicU16::new(100)));
        let (mut view, mut tracker) = (Tty::new(term.clone()), Tracker::new(Arc::new(sample::two_images())));
        half_fetched(&mut view, &mut tracker);
        for width in [50, 33, 7, 120, 0] {
            term.1.store(width, Ordering::SeqCst);
            show(&mut view, &mut tracker, 7000, Event::Progress { node: id(5), bytes: 1 });
        }
        view.line("into the void");
        view.end(&tracker, Duration::from_secs(8));
    }
}
