//! What `cfs-dag mirror` does, by whole commands against a scripted registry: lists, locks, names that come and go, and
//! runs in which something fails.

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod lists;
mod locks;
mod many;
mod prune;
mod shown;
mod unchanged;
mod world;
