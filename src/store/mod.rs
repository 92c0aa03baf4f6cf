//! The composefs repository as this program uses it. Knows composefs and its formats; unaware of graphs,
//! networks and schedulers.
//!
//! Everything here is synchronous and callable from any thread, in four groups:
//!
//! - the repository and its paths: `open`, `repository`, `filesystem_needs`, `beneath`, `calls`;
//! - objects: `objects` completes them by `seal`, `staged` lets them wait, a `barrier` makes them
//!   durable, `commit` visible;
//! - what is stored: `layers`, `documents`, `images`, `stream`;
//! - our own folder: `scratch`, `cache`, `runs`, `claims`, `mirrored`, `doubt`, `ambiguities`.

mod admin;
mod ambiguities;
mod barrier;
mod beneath;
mod cache;
mod calls;
mod check;
mod claims;
mod commit;
mod contradiction;
mod documents;
mod doubt;
mod error;
mod filesystem;
mod filesystem_needs;
mod holders;
mod images;
mod known;
pub mod law;
mod layers;
mod links;
mod mirrored;
mod mount;
mod objects;
mod opaque;
mod open;
mod pins;
mod repository;
mod runs;
mod scratch;
mod seal;
mod splitstream;
mod staged;
mod stream;
#[cfg(test)]
mod tests;

pub use admin::{FsImageRow, GcMode, ImageDetails, ImageRow, RowDetails};
pub use cache::{Output, Record};
pub use check::Checked;
pub use claims::{Claim, ClaimGuard, Pulse};
pub use commit::{Commit, DocumentLink, LayerLink, LinkSet, Notify, Outcome};
pub use composefs::{
    erofs::format::{FormatConfig, FormatVersion},
    fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue},
};
pub use composefs_oci::tar::{TarEntry, TarItem};
pub use contradiction::Contradiction;
pub use documents::{Document, FsImages, StoredDocument};
pub use error::StoreError;
pub use filesystem::{Filesystem, FilesystemBuilder, FilesystemError, MadeParents};
pub use holders::{Holder, name_holders};
pub use images::{Image, Outdated, OutdatedImage, StoredImage, TaggedImage};
pub use layers::{Fault, StoredLayer};
pub use links::{Content, StreamName, Tag};
pub use mirrored::{Begun, MirroredElsewhere, MirroredName, MirroredNames, Pruned};
pub use objects::Put;
pub use open::{
    InitOptions, Meta, Target, init, locate, locked_by, open, parse_algorithm, parse_formats, probe,
};
pub use repository::{AnyStore, Store};
pub use runs::RUNS_KEPT;
pub use splitstream::{FinishedStream, StreamWriter};
