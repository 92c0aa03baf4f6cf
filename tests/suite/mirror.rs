//! What `cfs-dag mirror` does, by whole commands against scripted and real registries: lists, locks, names
//! that come and go, runs in which something fails, bad networks, and several programs at once.

mod ambiguous;
mod failures;
mod faults;
mod interrupted;
mod kills;
mod limits;
mod listing;
mod lists;
mod locks;
mod many;
mod named_files;
mod prune;
mod real;
mod shop;
mod shown;
mod signed;
mod throttled;
mod together;
mod unchanged;
mod waves;
mod world;

/// Not a test: this program is started again as skopeo, see `support/skopeo.rs`.
#[test]
fn fake_skopeo() {
    support::skopeo::run_if_asked();
}
