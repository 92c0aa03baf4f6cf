//! What holds of every input, one function a format. Knows the public interface of cfs-dag; ignores where inputs come
//! from: libFuzzer calls these functions through `targets/`, the ordinary tests through `tests/fuzz/`.
//!
//! A function returns if all is well and panics if not. None of them may depend on anything but its input.

mod documents;
mod filesystem;
mod inflate;
mod input;
mod list;
mod memory;
mod naive;
mod node_record;
mod plan;
mod reference;
mod run_record;
mod split;
mod store;
mod stream;

pub use self::{
    documents::documents,
    filesystem::filesystem,
    inflate::inflate,
    list::list,
    node_record::node_record,
    plan::plan,
    reference::reference,
    run_record::run_record,
    split::split,
    stream::{is_whole_stream, stream},
};

/// A function of this crate.
pub type Target = fn(&[u8]);

/// All of them, by the names of their binaries and folders.
pub const TARGETS: [(&str, Target); 10] = [
    ("documents", documents),
    ("filesystem", filesystem),
    ("inflate", inflate),
    ("list", list),
    ("node_record", node_record),
    ("plan", plan),
    ("reference", reference),
    ("run_record", run_record),
    ("split", split),
    ("stream", stream),
];
