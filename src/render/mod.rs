//! A plan as text, DOT and JSON. No I/O: every function returns what it drew. Unaware of who prints it.

mod dot;
mod json;
mod marks;
mod picture;
mod text;
mod totals;
pub mod words;

pub use dot::dot;
pub use json::{EdgeJson, ImageJson, NodeJson, PlanJson, SubjectJson, json};
pub use marks::{Marks, Measured};
pub use picture::{html, svg};
pub use text::text;
pub use totals::{LayerCounts, Totals, layer_counts};

#[cfg(test)]
pub(crate) mod sample;
