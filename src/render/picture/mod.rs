//! A plan as a picture: standalone SVG, and a page of HTML that answers questions. Knows what they share;
//! ignores how they are printed.
//!
//! Each image is a band, each layer that it is the first to want a row, each kind of node a column.
//! [`bands`] decides what is drawn, [`layout`] where, [`svg`] writes it, and [`html`] puts it on a page with
//! [`data`] for its script.

mod bands;
mod data;
mod html;
mod layout;
mod palette;
mod svg;

#[cfg(test)]
mod tests;

pub use html::html;
pub use svg::svg;
