//! What people and programs are told of a run: progress, result, record. All of it comes from one stream of
//! events and the plan; the engine is never asked.

pub mod diagnosis;
mod eta;
mod json;
mod overview;
mod plain;
mod progress;
mod rate;
mod rates;
mod record;
mod run;
mod screen;
mod stage;
mod summary;
mod tee;
mod tracker;
mod tty;
mod why;

pub use eta::Eta;
pub use json::Json;
pub use overview::{list, overview};
pub use plain::Plain;
pub use progress::{Mode, Progress, View};
pub use rates::{Rate, Rates};
pub use record::{NodeOutcome, NodeRecord, Record, Recorder, Series, Span};
pub use run::{Head, HeadImage, Limits, NoRun, Run, RunOutcome};
pub use screen::{Stderr, Terminal};
pub use stage::{ActiveLayer, ImageStep, News, Stage};
pub use summary::{ImageResult, Outcome, Summary, Totals};
pub use tee::Tee;
pub use tracker::Tracker;
pub use tty::Tty;
pub use why::{NotFound, why};
