//! Runs a graph: readiness, priorities, pools, cancellation, events. Knows nodes and edges; unaware of
//! images, layers and repositories.
//!
//! rayon steals work but knows neither priorities nor cancellation, so what is ready lies in a heap of
//! our own ([`Pool`]), by longest remaining cost; each task of the pool takes the best piece there is,
//! runs it and returns. What is longer than a piece is an [`Actor`]: stepped while it has something to
//! do, woken when it has something to do again, and never waiting on a worker (law 8). Networks are
//! tokio's; the two meet here.

mod actor;
mod cancel;
mod events;
mod pool;
mod priority;
mod run;
#[cfg(test)]
mod tests;

pub use actor::{Actor, CpuTask, Step};
pub use cancel::Cancel;
pub use events::{Event, Observer, Silent, Worked};
pub use pool::Pool;
pub use priority::Priority;
pub use run::{Failure, Graph, Initial, Outcome, Run, Task, Ticket, Work};
