//! Which names a mirror of a list has made: `<repo>/cfs-dag/mirrors/`. Knows a small record of each list; ignores
//! what lists are.
//!
//! Only what stands here may lose its tag when a list no longer has it, so a record that cannot be read is never
//! taken for an empty one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Read},
};

use composefs::fsverity::FsVerityHashValue;
use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError, calls,
    scratch::{MIRRORS_DIR, OWN_DIR, make_dir},
};

/// Raised when records change in a way that older programs misread.
const SCHEMA: u32 = 1;
/// No record is longer; what is, was not made by us. A name has 255 bytes at most.
const RECORD_LIMIT: u64 = 64 << 20;
const ENDING: &str = ".json";

#[derive(Serialize, Deserialize)]
struct Record {
    schema: u32,
    list: String,
    names: BTreeSet<String>,
}

impl<H: FsVerityHashValue> Store<H> {
    /// The names that earlier mirrors of `list` have made here; none if there was no such mirror.
    ///
    /// # Errors
    /// A record that cannot be read or is another list's; the system's.
    pub fn mirrored(&self, list: &str) -> Result<BTreeSet<String>, StoreError> {
        let path = record_path(list);
        let Some(record) = self.mirror_record(&path)? else { return Ok(BTreeSet::new()) };
        match record.list == list {
            true => Ok(record.names),
            false => Err(self.refused(&path, &format!("is that of {:?}", record.list))),
        }
    }

    /// The names that mirrors of other lists than `list` have made here, each with one of those lists.
    ///
    /// # Errors
    /// A record that cannot be read; the system's.
    pub fn mirrored_elsewhere(&self, list: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let mut names = BTreeMap::new();
        let entries = match std::fs::read_dir(self.path().join(MIRRORS_DIR)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(self.explain(MIRRORS_DIR, error)),
        };
        for entry in entries {
            let file = entry.map_err(|error| self.explain(MIRRORS_DIR, error))?.file_name();
            let path = format!("{MIRRORS_DIR}/{}", file.to_string_lossy());
            if !path.ends_with(ENDING) || path == record_path(list) {
                continue;
            }
            let Some(record) = self.mirror_record(&path)? else { continue };
            names.extend(record.names.into_iter().map(|name| (name, record.list.clone())));
        }
        Ok(names)
    }

    /// The record at `path`, if there is one.
    fn mirror_record(&self, path: &str) -> Result<Option<Record>, StoreError> {
        let file = match calls::openat(self.root(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.fault(self.path().join(path).display().to_string(), errno)),
        };
        let mut text = Vec::new();
        let read = file.take(RECORD_LIMIT).read_to_end(&mut text);
        read.map_err(|error| self.explain(self.path().join(path).display().to_string(), error))?;
        parse(&text).map(Some).map_err(|why| self.refused(path, &why))
    }

    fn refused(&self, path: &str, why: &str) -> StoreError {
        let shown = self.path().join(path);
        StoreError::Refused(format!(
            "{}: this record of what was mirrored from a list {why}: remove it; names that the list has lost before \
             then keep their tags until you untag them",
            shown.display()
        ))
    }

    /// Records that mirrors of `list` have made `names`, in the place of what was recorded before. Durable when it
    /// returns.
    ///
    /// # Errors
    /// What the filesystem refuses; then the record is as it was.
    pub fn set_mirrored(&self, list: &str, names: &BTreeSet<String>) -> Result<(), StoreError> {
        let fault = |errno| self.fault(MIRRORS_DIR, errno);
        let record = Record { schema: SCHEMA, list: list.to_owned(), names: names.clone() };
        let text = serde_json::to_vec(&record)
            .map_err(|error| StoreError::Io { what: MIRRORS_DIR.into(), cause: error.into() })?;
        self.require_writable()?;
        // A folder that is new has to last, too.
        for (dir, parent) in [(OWN_DIR, "."), (MIRRORS_DIR, OWN_DIR)] {
            if make_dir(self.root(), dir).map_err(fault)? {
                self.sync_dir(parent)?;
            }
        }
        let scratch = self.scratch()?;
        let written = scratch.write(Mode::from_raw_mode(0o600), &text);
        let synced = written.and_then(|(file, name)| file.sync_all().map(|()| name));
        let name = synced.map_err(|error| self.explain(MIRRORS_DIR, error))?;
        fs::renameat(scratch.dir(), &*name, self.root(), record_path(list)).map_err(fault)?;
        self.sync_dir(MIRRORS_DIR)
    }
}

/// The record that `text` holds; or what is wrong with it.
fn parse(text: &[u8]) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let damaged = |error: serde_json::Error| format!("is damaged ({error})");
    match serde_json::from_slice::<Version>(text).map_err(damaged)? {
        Version { schema: SCHEMA } => serde_json::from_slice(text).map_err(damaged),
        Version { schema } => Err(format!("is of version {schema}, and we know {SCHEMA}")),
    }
}

/// Where the record of a list is. Lists are paths and addresses, which make no file names.
fn record_path(list: &str) -> String {
    let hash = blake3::hash(list.as_bytes()).to_hex();
    format!("{MIRRORS_DIR}/{}{ENDING}", &hash[..16])
}
