//! What `cfs-dag mirror` does, by whole commands against scripted and real registries: lists, locks, names that come and
//! go, runs in which something fails, and several programs at once.

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod interrupted;
mod lists;
mod locks;
mod many;
mod prune;
mod real;
mod shown;
mod together;
mod unchanged;
mod world;
