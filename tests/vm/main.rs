//! What only a kernel with fs-verity can show, in a small machine that the tests boot: secure repositories.

#[path = "../support/mod.rs"]
mod support;

mod cpio;
mod guest;
mod machine;
mod secure;

/// Not a test: the machine starts this program again as its first process.
#[test]
fn guest() {
    guest::run_if_asked();
}
