//! Finds opaque markers that come after entries of their own layer and directory. The OCI image
//! specification applies a marker to lower layers only, wherever it is in the tar; upstream removes what
//! the directory has so far.

use std::{
    collections::HashSet,
    ffi::OsStr,
    hash::{BuildHasher, Hasher, RandomState},
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
};

use super::contradiction::shown;
use crate::types::{Ambiguity, AmbiguityKind};

/// The file name that makes a directory opaque, and the prefix of the names that remove
/// one entry of lower layers.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// How many findings are kept: enough to see what is wrong, and a bound for hostile layers.
const KEPT: usize = 16;

/// What an entry does by its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It adds or replaces something.
    Adds,
    /// It removes one name.
    Whiteout,
    /// It removes all that its directory has.
    OpaqueMarker,
}

impl Role {
    /// The role of an entry at `path`, as upstream sees it: by the file name alone.
    pub(super) fn of(path: &Path) -> Self {
        match path.file_name().map(OsStr::as_bytes) {
            Some(OPAQUE_MARKER) => Self::OpaqueMarker,
            Some(name) if is_whiteout(name) => Self::Whiteout,
            _ => Self::Adds,
        }
    }
}

/// Whether `name` is that of a whiteout or opaque marker, which no file can have.
pub(super) fn is_whiteout(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT_PREFIX)
}

/// The directories below which a layer has put entries so far, and the markers that came too late.
///
/// Directories are kept as hashes (some 16 bytes for each, and no more of them than the filesystem has).
/// The hash function has a random key, so that an image cannot choose paths that collide; a collision
/// would only cause a finding.
#[derive(Default)]
pub(super) struct Markers {
    key: RandomState,
    /// If a directory is in it, all directories above are, too.
    touched: HashSet<u64>,
    /// Of the path at hand, from the root downwards; here to be allocated once.
    hashes: Vec<u64>,
    found: Vec<Ambiguity>,
}

impl Markers {
    /// Forgets the entries of the layer before.
    pub(super) fn begin_layer(&mut self) {
        // Not `clear`: it would cost as much for each small layer as for the largest.
        self.touched = HashSet::new();
        self.found.clear();
    }

    /// Notes that the layer has an entry in `directory`.
    pub(super) fn note(&mut self, directory: &Path) {
        self.hash(directory);
        for hash in self.hashes.iter().rev() {
            if !self.touched.insert(*hash) {
                break;
            }
        }
    }

    /// Judges an opaque marker in `directory`.
    pub(super) fn judge(&mut self, directory: &Path) {
        self.hash(directory);
        let is_late = self.hashes.last().is_some_and(|hash| self.touched.contains(hash));
        if !is_late || self.found.len() == KEPT {
            return;
        }
        let finding = Ambiguity { kind: AmbiguityKind::LateOpaqueMarker, path: shown(directory) };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// One finding for each directory, the first few of this layer.
    pub(super) fn found(&self) -> &[Ambiguity] {
        &self.found
    }

    /// The hashes of the root, and of all directories on the way to this one.
    fn hash(&mut self, directory: &Path) {
        let mut hasher = self.key.build_hasher();
        self.hashes.clear();
        self.hashes.push(hasher.finish());
        for component in directory.components() {
            if let Component::Normal(name) = component {
                hasher.write(name.as_bytes());
                hasher.write_u8(b'/');
                self.hashes.push(hasher.finish());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(layers: &[&[&str]]) -> Vec<String> {
        let (mut markers, mut found) = (Markers::default(), Vec::new());
        for layer in layers {
            markers.begin_layer();
            for path in layer.iter().map(Path::new) {
                let parent = path.parent().unwrap();
                match Role::of(path) {
                    Role::Adds => markers.note(parent),
                    Role::Whiteout => {}
                    Role::OpaqueMarker => markers.judge(parent),
                }
            }
            found.extend(markers.found().iter().map(|finding| finding.path.clone()));
        }
        found
    }

    #[test]
    fn marker_is_late_after_an_entry_of_its_layer_below_its_directory() {
        const MARKER: &str = "/usr/d/.wh..wh..opq";
        let cases: [(&[&[&str]], &[&str]); 10] = [
            (&[&["/usr/d/f", MARKER]], &["usr/d"]),
            (&[&["/usr/d/a/b/c", MARKER]], &["usr/d"]),
            (&[&["/usr/d/a", MARKER, MARKER]], &["usr/d"]),
            (&[&["/usr/d/a", MARKER], &["/usr/d/b", MARKER]], &["usr/d", "usr/d"]),
            (&[&["/usr/./d//f", MARKER]], &["usr/d"]),
            (&[&["/f", "/.wh..wh..opq"]], &["/"]),
            // The directory itself, its siblings, what only removes, what comes later, and other layers.
            (&[&["/usr/d", "/usr/dd", "/usr/dd/f", "/usr/f", MARKER]], &[]),
            (&[&["/usr/d/.wh.f", "/usr/d/e/.wh..wh..opq", MARKER]], &[]),
            (&[&["/usr/d", MARKER, "/usr/d/f", "/usr/d/a/f"]], &[]),
            (&[&["/usr/d/f"], &[MARKER]], &[]),
        ];
        for (layers, want) in cases {
            assert_eq!(late(layers), want, "{layers:?}");
        }
    }

    #[test]
    fn only_the_first_late_markers_are_kept() {
        let paths: Vec<String> =
            (0..100).flat_map(|n| [format!("/d{n}/f"), format!("/d{n}/.wh..wh..opq")]).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        assert_eq!(late(&[&paths]), (0..KEPT).map(|n| format!("d{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn path_with_control_characters_is_found_printable() {
        assert_eq!(late(&[&["/a\x1b\n/f", "/a\x1b\n/.wh..wh..opq"]]), ["a\\u{1b}\\n"]);
    }
}
