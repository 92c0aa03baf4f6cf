//! Notes about layers that were taken although tar readers read them differently, in
//! `<repo>/cfs-dag/ambiguous/`.
//!
//! A stored layer does not tell that it is ambiguous: its stream would have to be read again. So a
//! pull that takes one with `--as-upstream` leaves a note, and a later pull without that option
//! refuses the layer as it would have when splitting it. Without the folder such a layer is believed,
//! like all others that are stored.

use std::io::Read;

use composefs::fsverity::FsVerityHashValue;
use rustix::{fs::Mode, io::Errno};

use super::{
    Store, StoreError, StreamName, beneath,
    scratch::{AMBIGUOUS_DIR, OWN_DIR},
};
use crate::types::{Ambiguity, Digest};

/// More entries of one layer are not noted.
const MAX_NOTED: usize = 64;
/// No note is larger, in bytes.
const NOTE_LIMIT: u64 = 1 << 20;

impl<H: FsVerityHashValue> Store<H> {
    /// Whether there may be notes at all.
    pub fn has_ambiguous_layers(&self) -> bool {
        !matches!(beneath::stat(self.root(), AMBIGUOUS_DIR), Err(Errno::NOENT))
    }

    /// The ambiguous entries of a layer that was taken with `--as-upstream`; none for other layers.
    ///
    /// # Errors
    /// A note that cannot be read: without it nothing is known of the layer.
    pub fn ambiguities(&self, diff_id: &Digest) -> Result<Vec<Ambiguity>, StoreError> {
        let path = note_path(diff_id);
        let file = match beneath::file(self.root(), &*path) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened.map_err(|errno| self.fault(path.clone(), errno))?,
        };
        let mut text = Vec::new();
        file.take(NOTE_LIMIT).read_to_end(&mut text).map_err(|error| self.explain(path.clone(), error))?;
        serde_json::from_slice(&text).map_err(|error| {
            StoreError::Refused(format!(
                "{}/{path} cannot be read as a note about an ambiguous layer ({error}): a later version may \
                 have written \
                 it: use that version, or untag the images of the layer and collect garbage",
                self.path().display()
            ))
        })
    }

    /// Adds to what is noted about a layer. Must be called before the layer's link is asked for: the barrier
    /// before that makes the note durable, too.
    ///
    /// # Errors
    /// What the filesystem refuses.
    pub fn note_ambiguities(&self, diff_id: &Digest, found: &[Ambiguity]) -> Result<(), StoreError> {
        let mut noted = self.ambiguities(diff_id)?;
        let before = noted.len();
        for ambiguity in found {
            if noted.len() < MAX_NOTED && !noted.contains(ambiguity) {
                noted.push(ambiguity.clone());
            }
        }
        if noted.len() == before {
            return Ok(());
        }
        let fault = |errno| self.fault(AMBIGUOUS_DIR, errno);
        let explain = |error| self.explain(AMBIGUOUS_DIR, error);
        for dir in [OWN_DIR, AMBIGUOUS_DIR] {
            beneath::make_dir(self.root(), dir).map_err(fault)?;
        }
        let text = serde_json::to_vec(&noted).map_err(|error| explain(error.into()))?;
        let scratch = self.scratch()?;
        let (_, name) = scratch.write(Mode::from_raw_mode(0o644), &text).map_err(explain)?;
        beneath::replace(scratch.dir(), &name, self.root(), &note_path(diff_id)).map_err(fault)
    }

    /// Removes the notes about layers that are not linked any more.
    pub(super) fn forget_ambiguities(&self) -> Result<(), StoreError> {
        let fault = |errno| self.fault(AMBIGUOUS_DIR, errno);
        for name in beneath::names(self.root(), AMBIGUOUS_DIR).map_err(fault)? {
            let name = name.to_string_lossy();
            let Ok(diff_id) = name.parse::<Digest>() else { continue };
            if self.linked(&StreamName::Layer(diff_id))?.is_none() {
                beneath::unlink(self.root(), &note_path(&diff_id)).map_err(fault)?;
            }
        }
        Ok(())
    }
}

fn note_path(diff_id: &Digest) -> String {
    format!("{AMBIGUOUS_DIR}/{diff_id}")
}
