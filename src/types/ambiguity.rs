//! Entries that tar readers, or programs that apply layers, read differently: the closed list of kinds, and
//! how one of them is told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way in which an entry of a layer is read differently by different programs.
///
/// cfsctl accepts all of these. Whichever way such an entry is read, some program sees other files, so an
/// image that has one is refused unless `--as-upstream` asks for cfsctl's reading.
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
    /// A NUL byte in a path, link target or attribute name: others refuse it, or end the name there.
    NulInName,
    /// One zero block before further entries: cfsctl goes on, others stop there or fail.
    LoneZeroBlock,
    /// Two `mtime` records: cfsctl takes the seconds of one and the nanoseconds of the other.
    RepeatedTime,
    /// A time that is not a number of seconds with a decimal fraction, or is beyond 63 bits: each
    /// reader takes another one.
    OddTime,
    /// A global header between an extended header and its entry: cfsctl loses the
    /// extended header, others do not.
    LostExtendedHeader,
    /// A GNU long name and a PAX name that differ: cfsctl and GNU tar take the PAX one,
    /// Go and Python the GNU one.
    ConflictingNames,
    /// Name bytes where a GNU header has none: Go and Python take them for a prefix,
    /// cfsctl and GNU tar do not.
    GnuPrefix,
    /// A star header whose prefix is full: cfsctl takes the times behind it for a part
    /// of the name, Go does not.
    StarPrefix,
    /// A number of a header that is neither octal nor base-256 of at most 63 bits: each
    /// reader takes another one.
    OddNumber,
    /// Bytes of a PAX header that are not a record: cfsctl ignores them and all records
    /// behind, others do not.
    MalformedRecord,
    /// An owner or group above 32 bits: cfsctl keeps the lower 32 bits, so that 4294967296 becomes root.
    OwnerOutOfRange,
    /// A symbolic link without a target: cfsctl stores one that no system can have, others
    /// take another target or fail.
    EmptyTarget,
    /// A whiteout of no name, of `.` or of `..`: cfsctl ignores it, others remove the directory or fail.
    OddWhiteout,
}

/// An ambiguous entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ambiguity {
    /// In which way it is ambiguous.
    pub kind: AmbiguityKind,
    /// The entry's path as cfsctl reads it, printable.
    pub path: String,
}

/// An ambiguous entry of one of an image's layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerAmbiguity {
    /// The layer's position in the image, from 1.
    pub layer: usize,
    /// The entry.
    #[serde(flatten)]
    pub entry: Ambiguity,
}

impl AmbiguityKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::SizeWithoutData,
        Self::FileNamedAsDirectory,
        Self::LateOpaqueMarker,
        Self::UstarVersion,
        Self::UnknownSparseForm,
        Self::NulInName,
        Self::LoneZeroBlock,
        Self::RepeatedTime,
        Self::OddTime,
        Self::LostExtendedHeader,
        Self::ConflictingNames,
        Self::GnuPrefix,
        Self::StarPrefix,
        Self::OddNumber,
        Self::MalformedRecord,
        Self::OwnerOutOfRange,
        Self::EmptyTarget,
        Self::OddWhiteout,
    ];

    /// What it is and how readings differ, to be read after the entry's path.
    pub fn text(self) -> &'static str {
        match self {
            Self::SizeWithoutData => {
                "an entry without data that has a size: cfsctl skips so many bytes, other readers do not"
            }
            Self::FileNamedAsDirectory => {
                "a regular file by its type and a directory by its name: a file for cfsctl, a directory for \
                 other readers"
            }
            Self::LateOpaqueMarker => {
                "an opaque marker after entries of the same layer: cfsctl removes them, other programs keep \
                 them"
            }
            Self::UstarVersion => {
                "a ustar header of an unknown version: cfsctl ignores its name prefix, other readers do not"
            }
            Self::UnknownSparseForm => {
                "a sparse file of an unknown form: cfsctl stores its map as content, other readers do not"
            }
            Self::NulInName => {
                "a NUL byte in its path, link target or attribute name: other readers refuse it or end the \
                 name there"
            }
            Self::LoneZeroBlock => {
                "a zero block before it: cfsctl continues after the block, other readers stop there or fail"
            }
            Self::RepeatedTime => {
                "two mtime records: cfsctl takes the seconds of the last and the fraction of the first, \
                 other readers \
                 take the last"
            }
            Self::OddTime => "a time that is not a plain number: each reader takes another time",
            Self::LostExtendedHeader => {
                "an extended header that a global header follows: cfsctl ignores it, other readers do not"
            }
            Self::ConflictingNames => {
                "a GNU long name and a PAX name that differ: cfsctl takes the PAX name, other readers the \
                 GNU name"
            }
            Self::GnuPrefix => "a name prefix in a GNU header: cfsctl ignores it, other readers do not",
            Self::StarPrefix => {
                "a star header with a full name prefix: cfsctl takes the times behind it for a part of the \
                 name, other \
                 readers do not"
            }
            Self::OddNumber => {
                "a number in its header that is neither octal nor base-256: each reader takes another number"
            }
            Self::MalformedRecord => {
                "a PAX header with bytes that are not a record: cfsctl ignores what follows them, other \
                 readers do not"
            }
            Self::OwnerOutOfRange => {
                "an owner or group above 4294967295: cfsctl keeps the lower 32 bits, other readers refuse \
                 it or keep all"
            }
            Self::EmptyTarget => {
                "a symbolic link without a target: cfsctl stores it, other readers refuse it or take \
                 another target"
            }
            Self::OddWhiteout => {
                "a whiteout that names no file: cfsctl ignores it, other programs remove the directory or \
                 refuse it"
            }
        }
    }
}

impl Ambiguity {
    /// Why an image with this entry is refused, with what to do.
    pub fn refusal(&self) -> String {
        format!("{self} (--as-upstream reads the image as cfsctl does)")
    }
}

impl fmt::Display for LayerAmbiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}: {}", self.layer, self.entry)
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.kind.text())
    }
}
