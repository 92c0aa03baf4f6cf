//! How far resolving has come, on stderr, while there is no plan. Knows a number of
//! images; ignores which they are.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use super::Mode;

/// Fewer images than this are resolved before anyone wonders.
const FEW: usize = 16;

/// The time between two changes of the line.
const FRAME: Duration = Duration::from_millis(100);

/// Counts images as they are resolved: on a terminal in one line that goes away at the end; elsewhere a line
/// for each tenth of them. Nothing for a few.
pub struct ResolveCount {
    mode: Mode,
    asked: usize,
    done: usize,
    shown: Option<Instant>,
}

impl ResolveCount {
    /// Nothing is asked for yet.
    pub fn new(mode: Mode) -> Self {
        Self { mode: mode.resolve(), asked: 0, done: 0, shown: None }
    }

    /// So many more are asked for.
    pub fn asked(&mut self, images: usize) {
        self.asked += images;
    }

    /// One more is resolved, or has failed.
    pub fn one_more(&mut self) {
        self.done += 1;
        let (asked, done, mode) = (self.asked, self.done, self.mode);
        let line = match mode {
            _ if asked < FEW => return,
            Mode::Tty if self.is_time() => format!("\r\x1b[2Kresolving: {done} of {asked} images"),
            Mode::Plain if done * 10 / asked > (done - 1) * 10 / asked => {
                format!("resolving: {done} of {asked} images\n")
            }
            _ => return,
        };
        // Nobody can be told if that fails.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Takes the line away, until there is more to tell.
    pub fn pause(&mut self) {
        if self.shown.take().is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[2K");
        }
    }

    fn is_time(&mut self) -> bool {
        if self.shown.is_some_and(|shown| shown.elapsed() < FRAME) {
            return false;
        }
        self.shown = Some(Instant::now());
        true
    }
}

impl Drop for ResolveCount {
    fn drop(&mut self) {
        self.pause();
    }
}
