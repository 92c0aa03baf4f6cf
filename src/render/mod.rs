//! A plan as text, DOT and JSON. No I/O: every function returns what it drew. Unaware of who prints it.

mod dot;
mod json;
mod marks;
mod outlook;
mod picture;
mod text;
mod totals;
pub mod words;

pub use dot::dot;
pub use json::{EdgeJson, ImageJson, NoPlan, NodeJson, PlanJson, RanJson, SubjectJson, json};
pub use marks::{Marks, Measured};
pub use outlook::{ExpectedTime, Outlook};
pub use picture::{html, svg};
pub use text::{Colour, text};
pub use totals::{LayerCounts, Totals, layer_counts};

#[cfg(test)]
pub(crate) use crate::graph::sample;
