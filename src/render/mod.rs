//! A plan as text, DOT, Mermaid and JSON. No I/O: every function returns what it drew. Unaware of who prints it.

mod dot;
mod json;
mod labels;
mod marks;
mod mermaid;
mod order;
#[cfg(test)]
mod schema;
mod text;
mod totals;
pub mod words;

pub use dot::dot;
pub use json::{EdgeJson, ImageJson, NoPlan, NodeJson, PlanJson, SubjectJson, json, numbers};
pub use marks::{Marks, Measured};
pub use mermaid::mermaid;
pub use text::text;
pub use totals::{LayerCounts, Totals, layer_counts};

#[cfg(test)]
pub(crate) use crate::graph::sample;
