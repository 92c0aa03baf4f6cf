//! How far resolving has come, on stderr, before there is a plan. Knows a number of images; ignores which they are.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::Mode;
use crate::render::words::printable;

/// Fewer images than this are resolved before anyone wonders.
const FEW: usize = 16;

/// The time between two changes of the line.
const FRAME: Duration = Duration::from_millis(100);

/// Counts images as they are resolved: on a terminal in one line that goes away at the end; elsewhere a line for
/// each tenth of them. Nothing for a few.
pub struct Resolving {
    of: usize,
    mode: Mode,
    done: AtomicUsize,
    shown: Mutex<Option<Instant>>,
}

impl Resolving {
    /// Nothing is resolved yet of so many.
    pub fn of(of: usize, mode: Mode) -> Self {
        let mode = if of < FEW { Mode::None } else { mode.resolve() };
        Self { of, mode, done: AtomicUsize::new(0), shown: Mutex::new(None) }
    }

    /// One more is resolved, or has failed.
    pub fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let line = match self.mode {
            Mode::Tty if self.is_time() => format!("\r\x1b[2Kresolving: {done} of {} images", self.of),
            Mode::Plain if done * 10 / self.of > (done - 1) * 10 / self.of => {
                format!("resolving: {done} of {} images\n", self.of)
            }
            _ => return,
        };
        // Nobody can be told if that fails.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn is_time(&self) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some_and(|shown| shown.elapsed() < FRAME) {
            return false;
        }
        *shown = Some(Instant::now());
        true
    }
}

/// Shows a line for people while images are resolved, above the line that counts them.
pub fn above(text: &str) {
    let cleared = if io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
    let _ = io::stderr().write_all(format!("{cleared}{}\n", printable(text)).as_bytes());
}

impl Drop for Resolving {
    fn drop(&mut self) {
        if self.mode == Mode::Tty {
            let _ = io::stderr().write_all(b"\r\x1b[2K");
        }
    }
}
