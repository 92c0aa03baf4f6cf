//! The log for diagnosis: who is logged, and where the lines go. Knows `RUST_LOG` and the view that has the
//! terminal; ignores what others log.
//!
//! Lines go to stderr. While a run shows its progress there, they go through its view: above the bars, or as
//! a `message` among JSON lines, so that neither tears the other. Without `RUST_LOG` and `--verbose` nothing
//! is set up, and a line that would be logged costs a look at a static. Credentials are never logged: nobody
//! here has them, they stay with skopeo and in the files that it reads.

use std::{
    io::{self, IsTerminal, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tracing::{Level, debug, enabled, info};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::progress::Shared;
use crate::{
    exec::{Event, Observer},
    graph::{NodeId, Plan},
    render::words::{printable, short},
};

/// The view that has stderr now.
static VIEW: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// Starts logging if `RUST_LOG` says what, or with `verbose` what this program decides. To be called once.
///
/// # Errors
/// `RUST_LOG` is no filter.
pub fn set_up(verbose: bool) -> Result<(), String> {
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let filter = match (wanted, verbose) {
        (Some(wanted), _) => EnvFilter::try_new(&wanted).map_err(|error| {
            format!("RUST_LOG={wanted:?} is no filter, like debug or cfs_dag=info: {error}")
        })?,
        (None, true) => EnvFilter::new("cfs_dag=info"),
        (None, false) => return Ok(()),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Out);
    // Someone else's logging, in a program that has its own, is as good.
    let _ = subscriber.try_init();
    Ok(())
}

/// Lines go through this view as long as it takes them.
pub(super) fn through(view: Weak<Shared>) {
    *lock() = view;
}

fn lock() -> MutexGuard<'static, Weak<Shared>> {
    VIEW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a writer for each line.
struct Out;

impl<'a> MakeWriter<'a> for Out {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// A line that is told when it is complete.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        above(String::from_utf8_lossy(&mem::take(&mut self.0)).trim_end());
    }
}

/// Shows a line for people: above what the view that has stderr shows, or on stderr as it is.
pub fn above(text: &str) {
    let view = lock().upgrade();
    if view.is_none_or(|view| !view.line(text)) {
        on_stderr(text);
    }
}

/// Writes a line where there is no view; what counts there on a terminal is written over.
pub(super) fn on_stderr(text: &str) {
    let cleared = if io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
    // Nobody can be told if stderr is closed.
    let _ = io::stderr().write_all(format!("{cleared}{}\n", printable(text)).as_bytes());
}

/// Logs the events of a run: what begins and ends for `debug`, what goes another way than planned for `info`.
pub struct Logged(Arc<Plan>);

impl Logged {
    /// A listener to the run of `plan`, if anybody wants to read of it.
    pub fn wanted(plan: &Arc<Plan>) -> Option<Arc<dyn Observer>> {
        enabled!(Level::INFO).then(|| Arc::new(Self(plan.clone())) as Arc<dyn Observer>)
    }

    fn name(&self, id: NodeId) -> String {
        match self.0.graph.node_weight(id) {
            Some(node) => format!("{} {}", node.kind.name(), short(&node.subject)),
            None => format!("node {}", id.index()),
        }
    }
}

impl Observer for Logged {
    fn event(&self, event: Event) {
        match event {
            Event::Started(id) => debug!("{} begins", self.name(id)),
            Event::Finished(id) => debug!("{} has ended", self.name(id)),
            Event::Cancelled(id) => debug!("{} is wanted no more", self.name(id)),
            Event::Restarted(id) => info!("{} starts over", self.name(id)),
            Event::Failed(id, error) => info!("{} failed: {error}", self.name(id)),
            // Thousands of them.
            Event::Progress { .. } => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Plain, Progress, progress::testing::Page},
        *,
    };
    use crate::render::sample;

    #[test]
    fn lines_go_through_the_view_while_it_takes_them() {
        let page = Page::default();
        let plan = Arc::new(sample::two_images());
        let progress = Progress::with(Box::new(Plain::new(Box::new(page.clone()))), plan);
        progress.takes_the_log();
        let log = |text: &str| Out.make_writer().write_all(text.as_bytes()).unwrap();
        log("of the\x1b[2J log\n");
        progress.finish();
        log("to stderr\n");
        assert!(page.text().ends_with("\nof the\\u{1b}[2J log\n"), "{}", page.text());
    }

    #[test]
    fn nodes_are_logged_by_their_names() {
        let logged = Logged(Arc::new(sample::two_images()));
        assert_eq!(logged.name(NodeId::new(6)), "split 739a304e183a");
        assert_eq!(logged.name(NodeId::new(13)), "tag webapp:latest");
    }
}
