//! What people and programs are told of a run: progress, result, record. All of it comes from one stream of
//! events and the plan; the engine is never asked.

mod eta;
mod json;
pub mod log;
mod plain;
mod progress;
mod rate;
mod record;
mod screen;
mod stage;
mod summary;
mod tee;
mod tracker;
mod tty;

pub use eta::Eta;
pub use json::Json;
pub use plain::Plain;
pub use progress::{Mode, Progress, View};
pub use record::{NodeOutcome, NodeRecord, Record, Recorder};
pub use screen::{Stderr, Terminal};
pub use stage::{ActiveLayer, ImageStep, News, Stage};
pub use summary::{ImageResult, Outcome, Summary, Totals};
pub use tee::Tee;
pub use tracker::Tracker;
pub use tty::Tty;
