//! What several test programs share: tiny images, a scripted registry. Know nothing of cfs-dag itself.

// Each test program uses its own part.
#![allow(dead_code)]

pub mod layout;
pub mod registry;
pub mod skopeo;
pub mod source;
