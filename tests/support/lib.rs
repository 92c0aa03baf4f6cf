//! What the tests share: archives, images, repositories, registries, and upstream as the judge. A crate of
//! its own, so that it is built once, not in each test program.

use std::path::Path;

pub mod browser;
pub mod corpus;
pub mod fuse;
pub mod image;
pub mod inject;
pub mod layout;
pub mod mirrors;
pub mod moments;
pub mod mount;
pub mod odd_tar;
pub mod oracle;
pub mod plans;
pub mod pulls;
pub mod random;
pub mod real;
pub mod registry;
pub mod registry_real;
pub mod repo;
pub mod sample_run;
pub mod skopeo;
pub mod source;
pub mod tar;
pub mod tree;
pub mod users;

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
