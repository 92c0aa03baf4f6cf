//! Which names a mirror of a list has made: `<repo>/cfs-dag/mirrors/`. Knows a small record of each list; ignores
//! what lists are.
//!
//! Only what stands here may lose its tag when a list no longer has it, so a record that cannot be read is never
//! taken for an empty one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    os::fd::OwnedFd,
};

use composefs::fsverity::FsVerityHashValue;
use rustix::{fs::Mode, io::Errno};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError, beneath, calls,
    scratch::{MIRRORS_DIR, OWN_DIR},
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

/// What became of names that a list has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Those that are gone now.
    pub untagged: Vec<String>,
    /// Those that stay, each with another list that has it.
    pub kept: Vec<(String, String)>,
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
        let files =
            beneath::names(self.root(), MIRRORS_DIR).map_err(|errno| self.fault(MIRRORS_DIR, errno))?;
        for file in files {
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
        let file = match beneath::file(self.root(), path) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.fault(path, errno)),
        };
        let mut text = Vec::new();
        let read = file.take(RECORD_LIMIT).read_to_end(&mut text);
        read.map_err(|error| self.explain(path, error))?;
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

    /// Changes the names that mirrors of `list` have made, as they are recorded when nobody else changes any. Durable
    /// when it returns.
    ///
    /// # Errors
    /// As [`mirrored`](Self::mirrored), and what the filesystem refuses; then the record is as it was.
    pub fn change_mirrored(
        &self,
        list: &str,
        change: impl FnOnce(&mut BTreeSet<String>),
    ) -> Result<(), StoreError> {
        let _alone = self.lock_records()?;
        let mut names = self.mirrored(list)?;
        change(&mut names);
        self.set_mirrored(list, &names)
    }

    /// Takes away those of `names`, which `list` has lost, that no other list has by now. Durable when it returns.
    ///
    /// # Errors
    /// A record that cannot be read, or a repository that cannot be written; some names may be gone then.
    pub fn prune(&self, list: &str, names: &[String]) -> Result<Pruned, StoreError> {
        let _alone = self.lock_records()?;
        let elsewhere = self.mirrored_elsewhere(list)?;
        let (kept, lost): (Vec<_>, Vec<_>) = names.iter().partition(|name| elsewhere.contains_key(*name));
        let untagged = self.untag_all(lost.into_iter().map(String::as_str))?;
        let kept = kept.into_iter().map(|name| (name.clone(), elsewhere[name].clone())).collect();
        Ok(Pruned { untagged, kept })
    }

    /// Keeps all other programs from the records until it is dropped. Who adds a name does so before making its tag, so
    /// what a record does not have now is nobody's.
    fn lock_records(&self) -> Result<OwnedFd, StoreError> {
        let fault = |errno| self.fault(MIRRORS_DIR, errno);
        self.require_writable()?;
        // A folder that is new has to last, too.
        for (dir, parent) in [(OWN_DIR, "."), (MIRRORS_DIR, OWN_DIR)] {
            if beneath::make_dir(self.root(), dir).map_err(fault)? {
                self.sync_dir(parent)?;
            }
        }
        let dir = beneath::dir(self.root(), MIRRORS_DIR).map_err(fault)?;
        let shown = self.path().display();
        let waiting = || tracing::warn!("{shown}: waiting for another mirror, which changes its record");
        calls::lock(&dir, waiting).map_err(fault)?;
        Ok(dir)
    }

    /// Records that mirrors of `list` have made `names`, in the place of what was recorded before.
    fn set_mirrored(&self, list: &str, names: &BTreeSet<String>) -> Result<(), StoreError> {
        let fault = |errno| self.fault(MIRRORS_DIR, errno);
        let record = Record { schema: SCHEMA, list: list.to_owned(), names: names.clone() };
        let text = serde_json::to_vec(&record).map_err(|error| self.explain(MIRRORS_DIR, error.into()))?;
        if text.len() as u64 > RECORD_LIMIT {
            let (shown, count) = (self.path().display(), names.len());
            return Err(StoreError::Refused(format!(
                "{shown}: {count} names were mirrored from {list}, more than a record can have: split the list"
            )));
        }
        let scratch = self.scratch()?;
        let written = scratch.write(Mode::from_raw_mode(0o600), &text);
        let synced = written.and_then(|(file, name)| file.sync_all().map(|()| name));
        let name = synced.map_err(|error| self.explain(MIRRORS_DIR, error))?;
        beneath::replace(scratch.dir(), &name, self.root(), &record_path(list)).map_err(fault)?;
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
