//! Which names a list has, and which of them a mirror made: `<repo>/cfs-dag/mirrors/`. Knows a small record
//! of each list; ignores what lists are.
//!
//! Only names that a mirror made may lose their tags when a list no longer has them, so a record that cannot
//! be read is never taken for an empty one. A name that was there already, for the same image, was made by
//! other means, unless the record of another list says that its mirror made it; once a mirror moves a name,
//! the name counts as made by mirrors.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
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

/// Raised when records change in a way that older programs misread. Fields that were added: `found` and
/// `images`. A record without them has names of which all were made by mirrors, as far as can be told; an
/// older program, which drops them, goes on as it always did.
const SCHEMA: u32 = 1;
/// No record is longer; what is, was not made by us. A name has 255 bytes at most.
const RECORD_LIMIT: u64 = 64 << 20;
const ENDING: &str = ".json";

#[derive(Serialize, Deserialize)]
struct Record {
    schema: u32,
    list: String,
    /// All names.
    names: BTreeSet<String>,
    /// Those of them that were made by other means.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    found: BTreeSet<String>,
    /// What the list has under those names that say it not themselves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<String, String>,
}

/// The names of a list.
pub type MirroredNames = BTreeMap<String, MirroredName>;

/// What is known of a name that a list has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredName {
    /// Whether a mirror made it, of this list or of another one.
    pub made: bool,
    /// The image that the list has under this name, in words; `None` if the name says it.
    pub image: Option<String>,
}

/// What another list knows of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredElsewhere {
    /// That list; one of them, if several have the name.
    pub list: String,
    /// Whether a mirror made it.
    pub made: bool,
    /// The image that the list has under this name, as in [`MirroredName::image`].
    pub image: Option<String>,
}

/// What a mirror knows when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// The names that this mirror is the first one to make.
    pub new: BTreeSet<String>,
    /// The names that other lists have.
    pub elsewhere: BTreeMap<String, MirroredElsewhere>,
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
    /// The names that earlier mirrors of `list` had; none if there was no such mirror.
    ///
    /// # Errors
    /// A record that cannot be read or is another list's; the system's.
    pub fn mirrored(&self, list: &str) -> Result<MirroredNames, StoreError> {
        let path = record_path(list);
        let Some(record) = self.mirror_record(&path)? else { return Ok(MirroredNames::new()) };
        match record.list == list {
            true => Ok(record.into_names().collect()),
            false => Err(self.refused(&path, &format!("is that of {:?}", record.list))),
        }
    }

    /// The names that mirrors of other lists than `list` had.
    ///
    /// # Errors
    /// A record that cannot be read; the system's.
    pub fn mirrored_elsewhere(&self, list: &str) -> Result<BTreeMap<String, MirroredElsewhere>, StoreError> {
        let mut names: BTreeMap<String, MirroredElsewhere> = BTreeMap::new();
        let files =
            beneath::names(self.root(), MIRRORS_DIR).map_err(|errno| self.fault(MIRRORS_DIR, errno))?;
        for file in files {
            let path = format!("{MIRRORS_DIR}/{}", file.to_string_lossy());
            if !path.ends_with(ENDING) || path == record_path(list) {
                continue;
            }
            let Some(record) = self.mirror_record(&path)? else { continue };
            let other = record.list.clone();
            for (name, MirroredName { made, image }) in record.into_names() {
                match names.entry(name) {
                    Entry::Occupied(known) => known.into_mut().made |= made,
                    Entry::Vacant(free) => {
                        free.insert(MirroredElsewhere { list: other.clone(), made, image });
                    }
                }
            }
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
            "{}: this record of what was mirrored from a list {why}: remove it; names that the list has \
             lost before \
             then keep their tags until you untag them",
            shown.display()
        ))
    }

    /// Records, before a mirror of `list` makes the names `making`, that the list has all of `names`, each
    /// with its image as in [`MirroredName::image`]. So no name is ever here that a mirror made and no list
    /// has. Durable when it returns.
    ///
    /// # Errors
    /// As [`mirrored`](Self::mirrored), and what the filesystem refuses; then the record is as it was.
    pub fn begin_mirror(
        &self,
        list: &str,
        names: &BTreeMap<String, Option<String>>,
        making: &BTreeSet<&str>,
    ) -> Result<Begun, StoreError> {
        let _alone = self.lock_records()?;
        let elsewhere = self.mirrored_elsewhere(list)?;
        let mut new = BTreeSet::new();
        let before = self.mirrored(list)?;
        let mut record = before.clone();
        for (name, image) in names {
            let known = record.entry(name.clone()).or_insert(MirroredName { made: false, image: None });
            known.image.clone_from(image);
            if !known.made && making.contains(&**name) {
                new.insert(name.clone());
            }
            known.made |= making.contains(&**name) || elsewhere.get(name).is_some_and(|other| other.made);
        }
        if record != before {
            self.set_mirrored(list, &record)?;
        }
        Ok(Begun { new, elsewhere })
    }

    /// Changes what is recorded of `list`, as it is when no other program changes it.
    /// Durable when it returns.
    ///
    /// # Errors
    /// As [`mirrored`](Self::mirrored), and what the filesystem refuses; then the record is as it was.
    pub fn change_mirrored(
        &self,
        list: &str,
        change: impl FnOnce(&mut MirroredNames),
    ) -> Result<(), StoreError> {
        let _alone = self.lock_records()?;
        let before = self.mirrored(list)?;
        let mut names = before.clone();
        change(&mut names);
        if names == before { Ok(()) } else { self.set_mirrored(list, &names) }
    }

    /// Takes away those of `names`, which `list` has lost, that no other list has by now.
    /// Durable when it returns.
    ///
    /// # Errors
    /// A record that cannot be read, or a repository that cannot be written; some names may be gone then.
    pub fn prune(&self, list: &str, names: &[String]) -> Result<Pruned, StoreError> {
        let _alone = self.lock_records()?;
        let elsewhere = self.mirrored_elsewhere(list)?;
        let (kept, lost): (Vec<_>, Vec<_>) = names.iter().partition(|name| elsewhere.contains_key(*name));
        let untagged = self.untag_all(lost.into_iter().map(String::as_str))?;
        let kept = kept.into_iter().map(|name| (name.clone(), elsewhere[name].list.clone())).collect();
        Ok(Pruned { untagged, kept })
    }

    /// Keeps all other programs from the records until it is dropped. Who adds a name does so before making
    /// its tag, so what a record does not have now is nobody's.
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

    /// Records that `list` has `names`, in the place of what was recorded before.
    fn set_mirrored(&self, list: &str, names: &MirroredNames) -> Result<(), StoreError> {
        let fault = |errno| self.fault(MIRRORS_DIR, errno);
        let record = Record::new(list, names);
        let text = serde_json::to_vec(&record).map_err(|error| self.explain(MIRRORS_DIR, error.into()))?;
        if text.len() as u64 > RECORD_LIMIT {
            let (shown, count) = (self.path().display(), names.len());
            return Err(StoreError::Refused(format!(
                "{shown}: {count} names were mirrored from {list}, more than a record can have: split the \
                 list"
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

impl Record {
    fn new(list: &str, names: &MirroredNames) -> Self {
        let image = |(name, known): (&String, &MirroredName)| Some((name.clone(), known.image.clone()?));
        Self {
            schema: SCHEMA,
            list: list.to_owned(),
            names: names.keys().cloned().collect(),
            found: names.iter().filter(|(_, known)| !known.made).map(|(name, _)| name.clone()).collect(),
            images: names.iter().filter_map(image).collect(),
        }
    }

    fn into_names(mut self) -> impl Iterator<Item = (String, MirroredName)> {
        self.names.into_iter().map(move |name| {
            let known = MirroredName { made: !self.found.contains(&name), image: self.images.remove(&name) };
            (name, known)
        })
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
