//! cfs-dag: a build system for container image pulls.

pub mod cli;
pub mod exec;
pub mod graph;
pub mod layer;
pub mod pull;
pub mod render;
pub mod report;
pub mod source;
pub mod store;
pub mod types;
