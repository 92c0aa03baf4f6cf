//! A plan as text, pictures and data. No I/O: every function returns what it drew. Unaware of who prints it.

mod dot;
mod json;
mod labels;
mod list;
mod marks;
mod mermaid;
mod order;
mod outlook;
mod picture;
#[cfg(test)]
mod schema;
mod text;
mod totals;
pub mod words;

pub use dot::dot;
pub use json::{EdgeJson, ImageJson, NoPlan, NodeJson, PlanJson, RanJson, SelectionJson, SubjectJson, json};
pub use marks::{Marks, Measured};
pub use mermaid::mermaid;
pub use outlook::{ExpectedTime, Outlook};
pub use picture::{html, svg};
pub use text::{Colour, text};
pub use totals::{LayerCounts, Totals, layer_counts};

#[cfg(test)]
pub(crate) use crate::graph::sample;
