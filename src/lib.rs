//! cfs-dag: a build system for container image pulls.

pub mod exec;
pub mod graph;
pub mod layer;
pub mod render;
pub mod report;
pub mod types;
