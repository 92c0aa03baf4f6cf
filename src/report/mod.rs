//! What people and programs are told of a run: progress, result, record. All of it comes from one stream of
//! events and the plan; the engine is never asked.

mod count;
mod critical;
pub mod diagnosis;
mod eta;
mod json;
mod overview;
mod plain;
mod progress;
mod rates;
mod recent;
mod record;
mod run;
#[cfg(test)]
#[path = "../../tests/support/sample_run.rs"]
mod sample_run;
mod screen;
mod stage;
mod summary;
mod tee;
mod timeline;
mod timings;
mod trace;
mod tracker;
mod tty;
mod why;

pub use count::ResolveCount;
pub use critical::{CriticalPath, Link, Wait, critical_nodes, critical_path};
pub use diagnosis::above;
pub use eta::Eta;
pub use json::Json;
pub use overview::{list, overview};
pub use plain::Plain;
pub use progress::{Mode, Progress, View};
pub use rates::{Rate, Rates};
pub use record::{NodeOutcome, NodeRecord, Record, Recorder, Series, Span};
pub use run::{Head, HeadImage, Limits, NoRun, Run, RunEnd, RunOutcome};
pub use screen::{Stderr, Terminal};
pub use stage::{ActiveLayer, ImageStep, News, Stage};
pub use summary::{INTERRUPTED, ImageResult, Outcome, Summary, Totals};
pub use tee::Tee;
pub use timings::timings;
pub use trace::trace;
pub use tracker::Tracker;
pub use tty::Tty;
pub use why::{NotFound, why};
