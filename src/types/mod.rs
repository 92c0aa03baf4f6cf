//! The plain types that all rooms share: digests, descriptors, limits, counted memory. Know nothing of
//! graphs, networks or repositories.

mod ambiguity;
mod artifact;
mod descriptor;
mod digest;
mod escape;
mod limits;
mod memory;
mod remedy;
mod step;

pub use ambiguity::{Ambiguity, AmbiguityKind, LayerAmbiguity};
pub use artifact::{IMAGE_CONFIG, is_container_image, lists_layers};
pub use descriptor::{Descriptor, LayerKind};
pub use digest::{Digest, ParseDigestError, Sha256, looks_like_digest};
pub use escape::escape_controls;
pub use limits::{Limit, LimitExceeded, Limits, MAX_DOCUMENT, MAX_ENTRY_HEADERS};
pub use memory::{Account, Budget, Buffer, Hold, Slice, Wake};
pub use remedy::{errno_in_text, remedy};
pub use step::{Edge, NodeId};
