//! What is refused as broken or hostile however much room there is. Knows names, defaults and words; ignores
//! where each of them is crossed.
//!
//! The defaults are far above what real images have (some two million entries, 128 layers, 100
//! GB), and low enough that a small blob that unpacks to very much ends with an error, not with a
//! full disk or without memory.

use std::{fmt, str::FromStr};

/// The largest manifest, index or config that is read, in bytes. Not for the user to choose: registries
/// and skopeo hold the same.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most that a tar may say about one entry in headers of its own (PAX, GNU long names), in bytes:
/// upstream's parser refuses more, also when it reads a stored layer back, so it cannot be raised. With
/// padding and the headers themselves.
pub const MAX_ENTRY_HEADERS: usize = (1 << 20) + (16 << 10);

/// The longest path that Linux takes, in bytes. Deeper trees than such a path can name do not fit the stacks
/// of the threads that build filesystems.
const PATH_MAX: u64 = 4096;

/// A limit that the user may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Layers of an image or artifact.
    Layers,
    /// Bytes of a layer, uncompressed.
    LayerSize,
    /// Entries of a layer, and of all layers of an image together, with the parent directories that are made
    /// for them: a tree takes 1.4 kB of memory for each.
    Entries,
    /// Bytes of paths, link targets and extended attributes, of a layer and of all layers of an image
    /// together; with what an attribute takes besides its name and value.
    Metadata,
    /// Bytes of one path or link target.
    Path,
    /// Bytes after the end of a tar, or in an entry without content: they are stored and
    /// are good for nothing.
    Trailing,
    /// Bytes of the manifests and configs of all images of a run together, in memory; with half a kilobyte
    /// for each layer of each image.
    Documents,
    /// Images that the rules of a list choose from the tags of one registry, which says how many there are.
    Tags,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Layers,
        Self::LayerSize,
        Self::Entries,
        Self::Metadata,
        Self::Path,
        Self::Trailing,
        Self::Documents,
        Self::Tags,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::LayerSize => "layer-size",
            Self::Entries => "entries",
            Self::Metadata => "metadata",
            Self::Path => "path",
            Self::Trailing => "trailing",
            Self::Documents => "documents",
            Self::Tags => "tags",
        }
    }

    /// What is counted, for people.
    pub fn what(self) -> &'static str {
        match self {
            Self::Layers => "layers of an image",
            Self::LayerSize => "bytes of a layer, uncompressed",
            Self::Entries => "entries of an image",
            Self::Metadata => "bytes of paths, link targets and extended attributes of an image",
            Self::Path => "bytes of a path or link target",
            Self::Trailing => "bytes after the end of a tar or in an entry without content",
            Self::Documents => "bytes of manifests and configs of all images together",
            Self::Tags => "images chosen by their tags",
        }
    }

    /// Whether it counts bytes.
    pub fn is_bytes(self) -> bool {
        !matches!(self, Self::Layers | Self::Entries | Self::Tags)
    }

    /// What holds unless the user says otherwise.
    pub fn default_value(self) -> u64 {
        match self {
            Self::Layers => 4096,
            Self::LayerSize => 256 << 30,
            Self::Entries => 4_000_000,
            Self::Metadata => 512 << 20,
            Self::Path => PATH_MAX,
            Self::Trailing => 64 << 20,
            Self::Documents => 512 << 20,
            Self::Tags => 50_000,
        }
    }

    /// The largest value that it may have.
    pub fn most(self) -> u64 {
        if self == Self::Path { PATH_MAX } else { u64::MAX }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|limit| limit.name() == name);
        found.ok_or_else(|| format!("there is no limit {name:?}: there are {}", names()))
    }
}

/// The limits of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits([u64; Limit::ALL.len()]);

impl Default for Limits {
    fn default() -> Self {
        Self(Limit::ALL.map(Limit::default_value))
    }
}

impl Limits {
    /// The same with another value of `limit`, at most [`Limit::most`].
    #[must_use]
    pub fn with(mut self, limit: Limit, value: u64) -> Self {
        self.0[limit as usize] = value.min(limit.most());
        self
    }

    /// The value of `limit`.
    pub fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize]
    }

    /// Refuses `found` if it is more than `limit` allows.
    ///
    /// # Errors
    /// It is.
    pub fn check(&self, limit: Limit, found: u64) -> Result<(), LimitExceeded> {
        let value = self.get(limit);
        if found > value { Err(LimitExceeded { limit, value }) } else { Ok(()) }
    }
}

/// More than a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct LimitExceeded {
    /// The limit.
    pub limit: Limit,
    /// Its value.
    pub value: u64,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, value } = self;
        let (name, what) = (limit.name(), limit.what());
        write!(f, "more than {value} {what}: broken or hostile")?;
        if *value < limit.most() {
            write!(f, "; if it is neither, raise the limit with --limit {name}=N")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exactly_at_a_limit_is_allowed() {
        let limits = Limits::default().with(Limit::Entries, 7);
        assert_eq!(limits.check(Limit::Entries, 7), Ok(()));
        let error = limits.check(Limit::Entries, 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "more than 7 entries of an image: broken or hostile; if it is neither, raise the limit with \
             --limit \
             entries=N"
        );
        assert_eq!(limits.get(Limit::Layers), Limit::Layers.default_value());
    }

    #[test]
    fn names_lead_back_to_limits_and_others_are_told_the_names() {
        for limit in Limit::ALL {
            assert_eq!(limit.name().parse(), Ok(limit));
            assert!(limit.default_value() <= limit.most());
        }
        let error = "depth".parse::<Limit>().unwrap_err();
        assert!(Limit::ALL.iter().all(|limit| error.contains(limit.name())), "{error}");
    }

    #[test]
    fn a_path_is_never_longer_than_what_can_be_built() {
        assert_eq!(Limits::default().with(Limit::Path, 1 << 30).get(Limit::Path), PATH_MAX);
        let error = Limits::default().check(Limit::Path, PATH_MAX + 1).unwrap_err();
        assert!(!error.to_string().contains("--limit"), "{error}");
        let lowered = Limits::default().with(Limit::Path, 100).check(Limit::Path, 101).unwrap_err();
        assert!(lowered.to_string().ends_with("raise the limit with --limit path=N"), "{lowered}");
    }
}
