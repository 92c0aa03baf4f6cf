//! What the tests of whole commands share: archives, images, repositories, and upstream as the judge.
#![allow(dead_code)] // every test binary uses a part

pub mod corpus;
pub mod image;
pub mod oracle;
pub mod real;
pub mod registry_real;
pub mod repo;
pub mod tar;
pub mod tree;
