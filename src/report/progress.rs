//! Progress on stderr: which way to show it, and the thread that does. Ignores what it looks like.
//!
//! Events come from workers that must not wait, and a terminal may be slow or stopped (Ctrl-S). So an event
//! only goes into a queue, and one thread shows what has gathered, ten times a second. Progress of a node
//! that is queued already is added to it: the queue is never longer than the plan has ends and beginnings.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Json, News, Plain, Stderr, Tracker, Tty, diagnosis};
use crate::{
    exec::{Event, Observer},
    graph::{NodeId, Plan},
};

/// The time between two looks at the queue.
const FRAME: Duration = Duration::from_millis(100);

/// How long the end of a run waits for a stderr that takes nothing.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Bars on a terminal that can move its cursor, else plain lines
    #[default]
    Auto,
    /// Bars, where stderr is such a terminal
    Tty,
    /// Lines for people and logs
    Plain,
    /// One JSON object a line, for programs
    Json,
    /// Nothing
    None,
}

/// One way to show progress. Called from one thread; what it cannot write it drops.
pub trait View: Send {
    /// Nothing has happened yet.
    fn begin(&mut self, seen: &Tracker);
    /// `event` came at `at` and has been applied to `seen`; `news` is what it meant.
    fn event(&mut self, seen: &Tracker, at: Duration, event: &Event, news: &[News]);
    /// A line that is no event: a warning.
    fn line(&mut self, text: &str);
    /// All events up to `now` have been shown; comes about ten times a second.
    fn tick(&mut self, seen: &Tracker, now: Duration);
    /// The run has ended; what should not stay on the screen goes.
    fn end(&mut self, seen: &Tracker, now: Duration);
}

/// Shows the progress of a run. Times count from its start.
pub struct Progress {
    start: Instant,
    shared: Option<Arc<Shared>>,
}

/// What the thread and those who tell it something have in common.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    /// Where a node's progress stands in `items`, until something else happens to it.
    progress: HashMap<NodeId, usize>,
    phase: Phase,
}

enum Item {
    Event(Duration, Event),
    Line(String),
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The run has ended; the thread shows what is left.
    Closing,
    /// Nobody reads the queue any more.
    Gone,
}

impl Mode {
    /// The way that fits this process's stderr: never `Auto`.
    pub fn resolve(self) -> Mode {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.resolve_for(io::stderr().is_terminal() && !dumb)
    }

    fn resolve_for(self, capable_terminal: bool) -> Mode {
        match self {
            Mode::Auto | Mode::Tty if capable_terminal => Mode::Tty,
            Mode::Auto | Mode::Tty => Mode::Plain,
            mode => mode,
        }
    }
}

impl Progress {
    /// Shows the run of `plan` on stderr.
    pub fn start(mode: Mode, plan: Arc<Plan>) -> Self {
        let stderr = || Box::new(io::stderr()) as Box<dyn Write + Send>;
        let view: Box<dyn View> = match mode.resolve() {
            Mode::Tty | Mode::Auto => Box::new(Tty::new(Stderr)),
            Mode::Plain => Box::new(Plain::new(stderr())),
            Mode::Json => Box::new(Json::new(stderr())),
            Mode::None => return Self { start: Instant::now(), shared: None },
        };
        let progress = Self::with(view, plan);
        progress.takes_the_log();
        progress
    }

    /// Lines of the log go through the view from now on.
    pub(super) fn takes_the_log(&self) {
        if let Some(shared) = &self.shared {
            diagnosis::through(Arc::downgrade(shared));
        }
    }

    /// Shows the run of `plan` in `view`. Without a thread (the system gives none) nothing is shown.
    pub fn with(view: Box<dyn View>, plan: Arc<Plan>) -> Self {
        let start = Instant::now();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let spawned =
            thread::Builder::new().name("progress".into()).spawn(move || show(&theirs, view, plan, start));
        Self { start, shared: spawned.is_ok().then_some(shared) }
    }

    /// Shows a line that is no event, above the bars.
    pub fn line(&self, text: impl Into<String>) {
        if let Some(shared) = &self.shared {
            shared.push(Item::Line(text.into()));
        }
    }

    /// Shows what is left and takes the bars away; later events are ignored. To be called before anything
    /// else is written to the terminal. Waits for a stderr that takes nothing no longer than a second.
    pub fn finish(&self) {
        let Some(shared) = &self.shared else { return };
        let mut queue = shared.lock();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Closing;
        }
        shared.changed.notify_all();
        let waited = shared.changed.wait_timeout_while(queue, LAST_WORDS, |queue| queue.phase != Phase::Gone);
        waited.unwrap_or_else(PoisonError::into_inner).0.phase = Phase::Gone;
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        if let Some(shared) = &self.shared {
            shared.push(Item::Event(self.start.elapsed(), event));
        }
    }

    fn noted(&self, _: NodeId, text: &str) {
        self.line(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody will show it.
    fn push(&self, item: Item) -> bool {
        let mut queue = self.lock();
        // A line waits until the bars are gone.
        let open =
            queue.phase == Phase::Open || matches!((&item, queue.phase), (Item::Line(_), Phase::Closing));
        if open {
            queue.push(item);
        }
        open
    }

    /// Shows a line that is no event, if the run goes on.
    pub fn line(&self, text: &str) -> bool {
        self.push(Item::Line(text.to_owned()))
    }
}

impl Queue {
    fn push(&mut self, item: Item) {
        if let Item::Event(_, event) = &item {
            match event {
                Event::Progress { node, bytes: more } => {
                    if self.add_progress(*node, *more) {
                        return;
                    }
                    self.progress.insert(*node, self.items.len());
                }
                other => drop(self.progress.remove(&other.node())),
            }
        }
        self.items.push(item);
    }

    /// Adds to progress that nobody has seen yet; false if there is none of this node.
    fn add_progress(&mut self, node: NodeId, more: u64) -> bool {
        let queued = self.progress.get(&node).and_then(|&place| self.items.get_mut(place));
        let Some(Item::Event(_, Event::Progress { bytes, .. })) = queued else { return false };
        *bytes = bytes.saturating_add(more);
        true
    }

    fn take(&mut self) -> Vec<Item> {
        self.progress.clear();
        std::mem::take(&mut self.items)
    }
}

/// Frees those who wait for the thread, also if a view panics; tells what came too late for it.
struct GoneAtEnd<'a>(&'a Shared);

impl Drop for GoneAtEnd<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.phase = Phase::Gone;
        for item in queue.take() {
            if let Item::Line(text) = item {
                diagnosis::on_stderr(&text);
            }
        }
        self.0.changed.notify_all();
    }
}

/// The thread: shows the queue until the run has ended.
fn show(shared: &Shared, mut view: Box<dyn View>, plan: Arc<Plan>, start: Instant) {
    let _gone = GoneAtEnd(shared);
    let mut tracker = Tracker::new(plan);
    view.begin(&tracker);
    loop {
        let queue = shared.lock();
        // Nobody wakes this thread for events: it is the time that makes frames.
        let waited = shared.changed.wait_timeout_while(queue, FRAME, |queue| queue.phase == Phase::Open);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (items, phase) = (queue.take(), queue.phase);
        drop(queue);
        for item in items {
            match item {
                Item::Event(at, event) => {
                    let news = tracker.apply(at, &event);
                    view.event(&tracker, at, &event, &news);
                }
                Item::Line(text) => view.line(&text),
            }
        }
        let now = start.elapsed();
        tracker.advance(now);
        match phase {
            Phase::Open => view.tick(&tracker, now),
            Phase::Closing | Phase::Gone => return view.end(&tracker, now),
        }
    }
}

/// Writes whole lines, and nothing more after the first failure: progress that cannot be shown (a closed
/// pipe, a full disk) is no reason to stop a pull.
pub(super) struct Lines(Option<Box<dyn Write + Send>>);

impl Lines {
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self(Some(out))
    }

    pub fn write(&mut self, line: &str) {
        let Some(out) = &mut self.0 else { return };
        // One call a line, so that lines of other writers do not come in between.
        let written = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
        if written.is_err() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::{
        io,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::{super::Tracker, View};
    use crate::exec::Event;

    /// A writer whose text can be read while others hold it.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Page {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Shows one event that comes at `at_ms`.
    pub(crate) fn show(view: &mut dyn View, tracker: &mut Tracker, at_ms: u64, event: Event) {
        let at = Duration::from_millis(at_ms);
        let news = tracker.apply(at, &event);
        view.event(tracker, at, &event, &news);
        tracker.advance(at);
        view.tick(tracker, at);
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::Page, *};
    use crate::render::sample;

    #[test]
    fn auto_fits_the_terminal() {
        assert_eq!(Mode::Auto.resolve_for(true), Mode::Tty);
        assert_eq!(Mode::Auto.resolve_for(false), Mode::Plain);
        assert_eq!(Mode::Tty.resolve_for(false), Mode::Plain);
        assert_eq!(Mode::Json.resolve_for(true), Mode::Json);
    }

    #[test]
    fn everything_said_before_the_end_is_shown() {
        let page = Page::default();
        let progress =
            Progress::with(Box::new(Plain::new(Box::new(page.clone()))), Arc::new(sample::two_images()));
        for node in [5, 9] {
            progress.event(Event::Started(NodeId::new(node)));
            progress.event(Event::Finished(NodeId::new(node)));
        }
        progress.line("a warning");
        progress.finish();
        progress.line("too late");
        let text = page.text();
        assert!(text.contains("layer 739a304e183a"), "{text}");
        assert!(text.ends_with("a warning\n"), "{text}");
    }

    #[test]
    fn progress_gathers_while_nobody_looks() {
        let node = NodeId::new(5);
        let mut queue = Queue::default();
        let mut push = |event| queue.push(Item::Event(Duration::ZERO, event));
        push(Event::Started(node));
        for _ in 0..1000 {
            push(Event::Progress { node, bytes: 7 });
        }
        push(Event::Restarted(node));
        push(Event::Progress { node, bytes: 1 });
        let bytes = queue.items.iter().map(|item| match item {
            Item::Event(_, Event::Progress { bytes, .. }) => *bytes,
            _ => 0,
        });
        assert_eq!(bytes.collect::<Vec<_>>(), [0, 7000, 0, 1]);
    }

    #[test]
    fn a_stderr_that_takes_nothing_does_not_hold_the_run() {
        struct Stuck(Arc<Mutex<()>>);
        impl Write for Stuck {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                let _stopped = self.0.lock();
                Ok(data.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let stopped = gate.lock().unwrap();
        let view = Plain::new(Box::new(Stuck(gate.clone())));
        let progress = Progress::with(Box::new(view), Arc::new(sample::two_images()));
        progress.event(Event::Started(NodeId::new(5)));
        progress.finish();
        drop(stopped);
    }

    #[test]
    fn a_closed_stderr_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lines = Lines::new(Box::new(Closed));
        lines.write("lost");
        lines.write("not even tried");
    }
}
