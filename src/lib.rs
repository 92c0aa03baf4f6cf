//! cfs-dag: a build system for container image pulls.
//!
//! A pull compiles the images of a request into one graph of steps, runs it on a work-stealing scheduler, and
//! leaves a composefs repository as upstream's own pull would have left it. Each blob, layer and filesystem
//! appears once, runs once, and is remembered, however many images want it. [`source`] resolves references to
//! manifests and configs, [`pull::look()`] asks the repository what it has of them, [`graph::plan()`] makes
//! the plan, [`pull::run()`] runs it on [`exec`], and [`render`] and [`report`] show it.
//!
//! ```text
//! cli ─▶ pull ─▶ graph   exec   source   layer   store ─▶ types
//! cli ─▶ list ─▶ references of source
//! render, report ─▶ graph and the events of exec
//! ```
//!
//! How it works, which laws it keeps, all imports between the rooms, and a glossary are in
//! [ARCHITECTURE.md](../../../ARCHITECTURE.md).

pub mod cli;
pub mod exec;
pub mod graph;
pub mod layer;
pub mod list;
pub mod pull;
pub mod render;
pub mod report;
pub mod source;
pub mod store;
pub mod types;

// Unit tests share files with the tests of whole commands, which know this crate by its name.
#[cfg(test)]
extern crate self as cfs_dag;
