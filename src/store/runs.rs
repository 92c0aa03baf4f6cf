//! Records of runs as numbered files in `<repo>/cfs-dag/runs/`. Knows names and how many are kept;
//! ignores what is in them.

use std::{ffi::CStr, fs::File, io};

use composefs::fsverity::FsVerityHashValue;
use rustix::{fs::Mode, io::Errno};

use super::{
    Store, StoreError, beneath,
    scratch::{OWN_DIR, RUNS_DIR, Scratch},
    seal::lacks_call,
};

/// How many records are kept.
pub const RUNS_KEPT: usize = 20;
const ENDING: &str = ".run.zst";
/// How often another run may take the number that we want.
const ATTEMPTS: usize = 100;

impl<H: FsVerityHashValue> Store<H> {
    /// The numbers of the runs of which there are records, oldest first. A folder that
    /// cannot be read has none.
    pub fn runs(&self) -> Vec<u64> {
        self.list_runs().unwrap_or_default()
    }

    /// The same for who has to know.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list_runs(&self) -> Result<Vec<u64>, StoreError> {
        let fault = |errno| self.fault(RUNS_DIR, errno);
        let names = beneath::names(self.root(), RUNS_DIR).map_err(fault)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The record of the run `number`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open_run(&self, number: u64) -> io::Result<File> {
        Ok(beneath::file(self.root(), path(number))?)
    }

    /// Keeps the record of a run under the next number, and forgets those that are too old. Gives the number.
    ///
    /// # Errors
    /// What the filesystem refuses; the repository is as good without.
    pub fn keep_run(&self, record: &[u8]) -> Result<u64, StoreError> {
        let fault = |errno| self.fault(RUNS_DIR, errno);
        for dir in [OWN_DIR, RUNS_DIR] {
            beneath::make_dir(self.root(), dir).map_err(fault)?;
        }
        let scratch = self.scratch()?;
        // Errors of registries may hold what is not for everyone, hence the mode. No sync: a record lost or
        // torn in a crash is no record.
        let written = scratch.write(Mode::from_raw_mode(0o600), record);
        let (_, name) = written.map_err(|error| self.explain(RUNS_DIR, error))?;
        for _ in 0..ATTEMPTS {
            let Some(number) = self.runs().last().copied().unwrap_or(0).checked_add(1) else { break };
            if self.keep_run_as(number, &scratch, &name).map_err(fault)? {
                return Ok(number);
            }
        }
        Err(fault(Errno::EXIST))
    }

    /// Keeps the record called `name` in `scratch` as the run `number`; false if that
    /// number was given before.
    pub(super) fn keep_run_as(&self, number: u64, scratch: &Scratch, name: &str) -> Result<bool, Errno> {
        match beneath::link(scratch.dir(), name, self.root(), &path(number)) {
            Err(Errno::EXIST) => return Ok(false),
            // Without hard links two runs that end at the same moment may leave one record.
            Err(errno) if lacks_call(errno) => match beneath::stat(self.root(), &path(number)) {
                Ok(_) => return Ok(false),
                Err(Errno::NOENT) => beneath::replace(scratch.dir(), name, self.root(), &path(number))?,
                Err(errno) => return Err(errno),
            },
            linked => linked?,
        }
        let runs = self.runs();
        // So many have come since we looked that ours, or that of another run with this
        // number, is forgotten already.
        let is_late = runs.last().is_some_and(|last| last - number.min(*last) >= RUNS_KEPT as u64);
        for old in &runs[..runs.len().saturating_sub(RUNS_KEPT)] {
            // Somebody else may have forgotten it by now.
            let _ = beneath::unlink(self.root(), &path(*old));
        }
        if is_late {
            let _ = beneath::unlink(self.root(), &path(number));
        }
        Ok(!is_late)
    }
}

/// The number of a record by its name; others may put other names here.
fn number(name: &CStr) -> Option<u64> {
    let name = name.to_str().ok()?;
    let number = name.strip_suffix(ENDING)?.parse().ok()?;
    path(number).ends_with(&format!("/{name}")).then_some(number)
}

/// Padded, so that a listing is in order.
fn path(number: u64) -> String {
    format!("{RUNS_DIR}/{number:06}{ENDING}")
}
