//! The node cache: what earlier runs made of which input. Knows files in
//! `<repo>/cfs-dag/nodes/`; ignores what keys mean.
//!
//! A record is a hint. It counts only while its outputs are there, since gc knows nothing of this folder, and
//! deleting the folder costs time, never correctness.

use std::{
    collections::BTreeMap,
    io::Read,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use composefs::fsverity::FsVerityHashValue;
use rustix::fs::{Mode, Stat};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError, beneath,
    scratch::{NODES_DIR as NODES, OWN_DIR},
};

/// Raised when records change in a way that older ones do not have.
const FORMAT: u32 = 1;
/// How long a record is kept whose objects are gone.
const STALE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// No record is longer; what is, was not made by us.
const RECORD_LIMIT: u64 = 1 << 20;

/// What a node made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The kind of node.
    pub kind: String,
    /// The objects that it made.
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// The links under which they can be found, relative to the repository.
    #[serde(default)]
    pub links: Vec<String>,
    /// Counts and sizes by name, for estimates and reports.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub millis: u64,
}

/// An object that a node made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its id in hexadecimal.
    pub id: String,
    /// Its length in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored<R> {
    format: u32,
    key: String,
    #[serde(flatten)]
    record: R,
}

impl<H: FsVerityHashValue> Store<H> {
    /// The record of the node `key` (hexadecimal), if there is one whose objects are all there. Anything
    /// unreadable counts as none. Writes nothing.
    pub fn remembered(&self, key: &str) -> Option<Record> {
        let path = record_path(key)?;
        let file = beneath::file(self.root(), path).ok()?;
        let mut text = Vec::new();
        file.take(RECORD_LIMIT).read_to_end(&mut text).ok()?;
        let stored: Stored<Record> = serde_json::from_slice(&text).ok()?;
        let ours = stored.format == FORMAT && stored.key == key;
        let is_there = |output: &Output| {
            H::from_hex(&output.id).is_ok_and(|id| self.contains(&id, output.size).unwrap_or(false))
        };
        (ours && stored.record.outputs.iter().all(is_there)).then_some(stored.record)
    }

    /// Whether there is a record of the node `key` (hexadecimal), also one whose objects are gone.
    pub fn is_recorded(&self, key: &str) -> bool {
        record_path(key).is_some_and(|path| beneath::stat(self.root(), &path).is_ok())
    }

    /// Remembers what the node `key` made, in the place of any older record. A failure costs a later run some
    /// time and may be ignored.
    ///
    /// # Errors
    /// What the filesystem refuses.
    pub fn remember(&self, key: &str, record: &Record) -> Result<(), StoreError> {
        let fault = |errno| self.fault(NODES, errno);
        let Some(path) = record_path(key) else {
            return Err(StoreError::Refused(format!("{key:?} is no key")));
        };
        let stored = Stored { format: FORMAT, key: key.to_owned(), record };
        let text = serde_json::to_vec(&stored).map_err(|error| self.explain(NODES, error.into()))?;
        for dir in [OWN_DIR, NODES, &path[..NODES.len() + 3]] {
            beneath::make_dir(self.root(), dir).map_err(fault)?;
        }
        let scratch = self.scratch()?;
        let written = scratch.write(Mode::from_raw_mode(0o644), &text);
        let (_, name) = written.map_err(|error| self.explain(NODES, error))?;
        // No sync: a record lost or torn in a crash is no record.
        beneath::replace(scratch.dir(), &name, self.root(), &path).map_err(fault)
    }

    /// Removes the records whose objects are gone, unless they are young: until then a pull can say that
    /// something was made before. Gives their number.
    ///
    /// # Errors
    /// What the filesystem refuses.
    pub fn forget_stale_records(&self) -> Result<u64, StoreError> {
        let fault = |errno| self.fault(NODES, errno);
        let mut removed = 0;
        for dir in beneath::names(self.root(), NODES).map_err(fault)? {
            let dir = format!("{NODES}/{}", dir.to_string_lossy());
            for file in beneath::names(self.root(), &dir).map_err(fault)? {
                let file = file.to_string_lossy();
                let path = format!("{dir}/{file}");
                let young = beneath::stat(self.root(), &path).is_ok_and(|found| is_young(&found));
                let key = file.strip_suffix(".json").unwrap_or(&file);
                let stale = !young && self.remembered(key).is_none();
                if stale && beneath::unlink(self.root(), &path).is_ok() {
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Whether a record was written not long ago.
fn is_young(found: &Stat) -> bool {
    let written = UNIX_EPOCH + Duration::from_secs(u64::try_from(found.st_mtime).unwrap_or(0));
    SystemTime::now().duration_since(written).is_ok_and(|age| age < STALE_KEPT)
}

/// Where a record is; `None` for what is no key.
fn record_path(key: &str) -> Option<String> {
    let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    (key.len() >= 8 && key.bytes().all(is_digit)).then(|| format!("{NODES}/{}/{key}.json", &key[..2]))
}
