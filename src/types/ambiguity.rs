//! Entries that tar readers, or programs that apply layers, read differently: the closed list of kinds, and how one of
//! them is told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way in which an entry of a layer is read differently by different programs.
///
/// cfsctl accepts all of these. Whichever way such an entry is read, some program sees other files, so an image that has
/// one is refused unless `--as-upstream` asks for cfsctl's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AmbiguityKind {
    /// A link, directory, device or fifo with a size: cfsctl skips that many bytes, others skip none.
    SizeWithoutData,
    /// A regular file whose name ends in `/`: a directory for all but cfsctl.
    FileNamedAsDirectory,
    /// An opaque marker after entries of the same layer in its directory: cfsctl removes them, others do not.
    LateOpaqueMarker,
    /// A ustar header with a version other than `00`: cfsctl ignores its name prefix, others do not.
    UstarVersion,
    /// `GNU.sparse.*` records of an unknown form: cfsctl takes the map for content.
    UnknownSparseForm,
    /// A NUL byte in a path or link target: others refuse it, or end the name there.
    NulInName,
    /// One zero block before further entries: cfsctl goes on, others stop there or fail.
    LoneZeroBlock,
    /// Two `mtime` records: cfsctl takes the seconds of one and the nanoseconds of the other.
    RepeatedTime,
}

/// An ambiguous entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ambiguity {
    /// In which way it is ambiguous.
    pub kind: AmbiguityKind,
    /// The entry's path as cfsctl reads it, printable.
    pub path: String,
}

impl AmbiguityKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::SizeWithoutData,
        Self::FileNamedAsDirectory,
        Self::LateOpaqueMarker,
        Self::UstarVersion,
        Self::UnknownSparseForm,
        Self::NulInName,
        Self::LoneZeroBlock,
        Self::RepeatedTime,
    ];

    /// What it is and how readings differ, to be read after the entry's path.
    pub fn text(self) -> &'static str {
        match self {
            Self::SizeWithoutData => {
                "an entry without data that has a size: cfsctl skips so many bytes, other readers do not"
            }
            Self::FileNamedAsDirectory => {
                "a regular file by its type and a directory by its name: a file for cfsctl, a directory for other readers"
            }
            Self::LateOpaqueMarker => {
                "an opaque marker after entries of the same layer: cfsctl removes them, other programs keep them"
            }
            Self::UstarVersion => {
                "a ustar header of an unknown version: cfsctl ignores its name prefix, other readers do not"
            }
            Self::UnknownSparseForm => {
                "a sparse file of an unknown form: cfsctl stores its map as content, other readers do not"
            }
            Self::NulInName => {
                "a NUL byte in its path or link target: other readers refuse it or end the name there"
            }
            Self::LoneZeroBlock => {
                "a zero block before it: cfsctl continues after the block, other readers stop there or fail"
            }
            Self::RepeatedTime => {
                "two mtime records: cfsctl takes the seconds of the last and the fraction of the first, other readers \
                 take the last"
            }
        }
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.kind.text())
    }
}
