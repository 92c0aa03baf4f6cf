//! From references to a repository: resolve, plan, run. The one room that knows all others, and the one place
//! where a kind of node meets the code that does it.
//!
//! [`Resolving`] turns references into manifests and configs, side by side; [`Waiting`] says how long those
//! that have come wait for the others. [`look`] asks the repository what it has of them, `graph::plan` makes
//! the plan, and [`run`] does it: `work.rs` says which file does which kind of node.

mod check;
mod context;
mod documents;
mod encode;
mod ends;
mod entries;
mod fetch;
mod finalize;
mod flow;
mod image;
mod layer;
mod look;
mod overcommit;
mod pace;
mod rate_limit;
mod resolve;
mod run;
mod sources;
mod split;
mod tag;
mod waiting;
mod work;
mod write;

pub use ends::ImageEnd;
pub use look::{Known, look};
pub use resolve::{Asked, GivenUp, Resolution, ResolvedImage, Resolving, Stored, Unresolved};
pub use run::{Ended, GRACE, Interrupt, MEMORY_MIN, NotDone, RunError, Settings, Task, run};
pub use waiting::Waiting;
