//! The node cache: what earlier runs made of which input. Knows files in `<repo>/cfs-dag/nodes/`; ignores what
//! keys mean.
//!
//! A record is a hint. It counts only while its outputs are there, since gc knows nothing of this folder, and
//! deleting the folder costs time, never correctness.

use std::{collections::BTreeMap, fs::File, io::Read, time::Duration};

use composefs::fsverity::FsVerityHashValue;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError, calls,
    scratch::{NODES_DIR as NODES, OWN_DIR, make_dir},
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
        let file =
            calls::openat(self.root(), &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = Vec::new();
        File::from(file).take(RECORD_LIMIT).read_to_end(&mut text).ok()?;
        let stored: Stored<Record> = serde_json::from_slice(&text).ok()?;
        let ours = stored.format == FORMAT && stored.key == key;
        let is_there = |output: &Output| {
            H::from_hex(&output.id).is_ok_and(|id| self.contains(&id, output.size).unwrap_or(false))
        };
        (ours && stored.record.outputs.iter().all(is_there)).then_some(stored.record)
    }

    /// Whether there is a record of the node `key` (hexadecimal), also one whose objects are gone.
    pub fn is_recorded(&self, key: &str) -> bool {
        let found = record_path(key).map(|path| fs::statat(self.root(), path, AtFlags::empty()));
        found.is_some_and(|found| found.is_ok())
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
        let text = serde_json::to_vec(&stored)
            .map_err(|error| StoreError::Io { what: NODES.into(), cause: error.into() })?;
        for dir in [OWN_DIR, NODES, &path[..NODES.len() + 3]] {
            make_dir(self.root(), dir).map_err(fault)?;
        }
        let scratch = self.scratch()?;
        let written = scratch.write(Mode::from_raw_mode(0o644), &text);
        let (_, name) = written.map_err(|error| self.explain(NODES, error))?;
        // No sync: a record lost or torn in a crash is no record.
        fs::renameat(scratch.dir(), &*name, self.root(), path).map_err(fault)
    }

    /// Removes the records whose objects are gone, unless they are young: until then a pull can say that something was
    /// made before. Gives their number.
    ///
    /// # Errors
    /// What the filesystem refuses.
    pub fn forget_stale_records(&self) -> Result<u64, StoreError> {
        let io_fault = |cause| StoreError::Io { what: NODES.into(), cause };
        let mut removed = 0;
        let dirs = match std::fs::read_dir(self.path().join(NODES)) {
            Ok(dirs) => dirs,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(io_fault(error)),
        };
        for dir in dirs {
            for file in std::fs::read_dir(dir.map_err(io_fault)?.path()).map_err(io_fault)? {
                let path = file.map_err(io_fault)?.path();
                let key = path.file_stem().unwrap_or_default().to_string_lossy();
                let age = path.metadata().and_then(|found| found.modified()).map(|time| time.elapsed());
                let young = age.is_ok_and(|age| age.is_ok_and(|age| age < STALE_KEPT));
                if !young && self.remembered(&key).is_none() && std::fs::remove_file(&path).is_ok() {
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Where a record is; `None` for what is no key.
fn record_path(key: &str) -> Option<String> {
    let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    (key.len() >= 8 && key.bytes().all(is_digit)).then(|| format!("{NODES}/{}/{key}.json", &key[..2]))
}
