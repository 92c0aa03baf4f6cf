//! Runs a graph: readiness, priorities, pools, cancellation, events. Knows nodes and edges; unaware of images,
//! layers and repositories.

mod events;

pub use events::{Event, Observer, Silent};
