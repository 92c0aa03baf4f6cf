//! What only a machine of our own can show, which the tests boot: secure repositories on a kernel with
//! fs-verity, what becomes of them when a system call fails, and what a power cut leaves.

#![cfg(target_arch = "x86_64")] // the machine is one

mod cpio;
mod cuts;
mod faults;
mod guest;
mod machine;
mod marks;
mod secure;
mod writelog;

/// Not a test: the machine starts this program again as its first process.
#[test]
fn guest() {
    guest::run_if_asked();
}
