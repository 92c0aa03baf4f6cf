//! Inputs as registries, build tools and users really send them, rebuilt from public bug
//! reports. By whole commands.

mod compression;
mod documents;
mod layers;
mod readers;
mod system;
mod trees;
