//! Whole commands on temporary directories: one program, a module for each subject, so that what
//! they share is linked once.
//!
//! Apart are `vm`, which boots a small machine, and `fuzz`, which plays the fuzzers' inputs again.

mod architecture;
mod cli;
mod documents;
mod durability;
mod failures;
#[cfg(target_arch = "x86_64")] // by the names of its system calls
mod faults;
mod field;
mod generated;
mod graphs;
mod hostile;
mod interrupt;
mod kill;
mod log;
mod memory;
mod mending;
mod mermaid;
mod mirror;
mod mixed_use;
mod pictures;
mod plans;
mod poisoning;
mod pull_hostile;
mod same_as_upstream;
mod scheduling;
mod source;
mod source_errors;
mod source_layout;
mod source_protocol;
mod support_registry;
mod support_selftest;
mod terminal;
mod timings;
mod transports;
mod unprivileged;
mod warm;

/// Not a test by itself: this program is started again as skopeo, see `support/skopeo.rs`.
#[test]
fn fake_skopeo() {
    support::skopeo::run_if_asked();
}
