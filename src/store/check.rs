//! Checking a repository. Knows upstream's checks and what they leave out; ignores how
//! what is wrong is mended.
//!
//! Where there is fs-verity upstream asks the kernel for the digest of each object, which is as it was when
//! the object was sealed: whether the disk still gives those bytes is found by reading them alone. What is
//! found stays noted (see `doubt`), so that the next pull makes it anew.

use std::{collections::HashSet, io, os::fd::AsFd};

use composefs::fsverity::{FsVerityHashValue, measure_verity_opt};
use composefs_oci::{OciFsckError, OciFsckResult, oci_fsck};
use rustix::io::Errno;

use super::{
    Store, StoreError, Tag, beneath, calls,
    doubt::{PIECE, is_damage, read_to_end},
};

/// What a check has found.
#[derive(Debug)]
pub struct Checked {
    /// By upstream.
    found: OciFsckResult,
    /// Artifacts, by name, of which upstream finds wrong what is not: it takes them for container images.
    excused: HashSet<String>,
    /// Objects that were read to their end.
    read: u64,
    /// Objects that could not be, with the reason.
    unreadable: Vec<(String, io::Error)>,
    /// The next pull knows of it.
    noted: bool,
}

impl Checked {
    /// Whether all is as it should be.
    pub fn is_ok(&self) -> bool {
        let images_ok = self.found.errors().iter().all(|error| self.is_excused(error));
        self.found.repo_result().is_ok() && images_ok && self.unreadable.is_empty()
    }

    /// Whether a finding is about what a container image's config says of its layers, and the image is an
    /// artifact.
    fn is_excused(&self, error: &OciFsckError) -> bool {
        match error {
            OciFsckError::ConfigParseFailed { name, .. } | OciFsckError::LayerRefMissing { name, .. } => {
                self.excused.contains(name)
            }
            _ => false,
        }
    }

    /// What was checked and what is wrong, for people: lines in which names stand as they
    /// are, whatever they contain.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.upstreams_lines();
        let unreadable = self.unreadable.len() as u64;
        if self.read + unreadable > 0 {
            lines.push(format!("contents: {}/{} ok", self.read, self.read + unreadable));
        }
        lines.extend(self.unreadable.iter().map(|(object, error)| format!("  {object}: {error}")));
        if !self.is_ok() {
            let how = if self.noted { "" } else { " with --force" };
            lines.push(format!("to mend: pull the images again{how}: what is damaged is made anew"));
        }
        lines
    }

    /// Upstream's text, cut where its lines end and not where a name has a line break.
    fn upstreams_lines(&self) -> Vec<String> {
        let text = self.upstreams_text();
        let (mut lines, mut rest) = (Vec::new(), &*text);
        let of_repository = self.found.repo_result().errors.iter().map(ToString::to_string);
        for finding in of_repository.chain(self.found.errors().iter().map(ToString::to_string)) {
            let finding = format!("  - {finding}");
            if let Some((before, after)) = rest.split_once(&finding) {
                lines.extend(before.lines().map(str::to_owned));
                lines.push(finding);
                rest = after.strip_prefix('\n').unwrap_or(after);
            }
        }
        lines.extend(rest.lines().map(str::to_owned));
        lines
    }

    /// Upstream's text, without what is excused.
    fn upstreams_text(&self) -> String {
        let (excused, errors): (Vec<_>, Vec<_>) =
            self.found.errors().iter().partition(|error| self.is_excused(error));
        if excused.is_empty() {
            return self.found.to_string();
        }
        // Upstream counts an image as corrupted for any finding, and gives no names with the number.
        let (checked, excused) = (self.found.images_checked(), self.excused.len() as u64);
        let corrupted =
            if errors.is_empty() { 0 } else { self.found.images_corrupted().saturating_sub(excused) };
        let ok = checked.saturating_sub(corrupted);
        let mut text = format!("{}oci images: {ok}/{checked} ok\n", self.found.repo_result());
        if !errors.is_empty() {
            text += &format!("oci errors: {}\n", errors.len());
        }
        text.extend(errors.into_iter().map(|error| format!("  - {error}\n")));
        text
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Checks every object, stream, image and tag, like `cfsctl oci fsck`; reads the whole repository.
    ///
    /// # Errors
    /// A check that could not be made; what it finds is in the result.
    pub fn fsck(&self) -> Result<Checked, StoreError> {
        self.require_all_inside()?;
        let check = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            runtime.block_on(oci_fsck(&self.repo))
        };
        // A thread of its own, because the caller's may be driving a runtime already.
        let result = std::thread::scope(|scope| scope.spawn(check).join());
        let found = match result {
            Ok(result) => result.map_err(|error| StoreError::upstream("checking the repository", &error))?,
            Err(_) => {
                return Err(StoreError::Upstream {
                    what: "checking the repository".into(),
                    detail: "the check panicked".into(),
                });
            }
        };
        let excused = self.excused(&found)?;
        let mut checked = Checked { found, excused, read: 0, unreadable: Vec::new(), noted: false };
        self.read_objects(&mut checked)?;
        checked.noted = self.note_damage(!checked.is_ok());
        Ok(checked)
    }

    /// The artifacts among the images of which something was found, that are whole as we read them.
    fn excused(&self, found: &OciFsckResult) -> Result<HashSet<String>, StoreError> {
        let mut excused = HashSet::new();
        for error in found.errors() {
            let (OciFsckError::ConfigParseFailed { name, .. } | OciFsckError::LayerRefMissing { name, .. }) =
                error
            else {
                continue;
            };
            let Some(manifest) = Tag::new(name).ok().and_then(|tag| self.tagged(&tag).ok()?) else {
                continue;
            };
            if self.artifact(&manifest)?.is_some() && self.lack(&manifest)?.is_none() {
                excused.insert(name.clone());
            }
        }
        Ok(excused)
    }

    /// Reads all objects of which the kernel knows a digest: the others upstream has read.
    fn read_objects(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let mut buffer = vec![0; PIECE];
        for first in 0..=u8::MAX {
            let folder = format!("objects/{first:02x}");
            let fault = |errno| self.fault(folder.clone(), errno);
            let dir = match beneath::dir(self.root(), &*folder) {
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(fault)?,
            };
            for entry in calls::entries(&dir).map_err(fault)? {
                let entry = entry.map_err(fault)?;
                let name = entry.file_name();
                let path = || format!("{folder}/{}", name.to_string_lossy());
                let read = beneath::file(dir.as_fd(), name).map_err(io::Error::from).and_then(|file| {
                    let sealed = !matches!(measure_verity_opt::<H>(&file), Ok(None));
                    if sealed { read_to_end(&file, &mut buffer).map(|()| true) } else { Ok(false) }
                });
                match read {
                    Ok(sealed) => checked.read += u64::from(sealed),
                    Err(error) if is_damage(&error) => checked.unreadable.push((path(), error)),
                    Err(error) => return Err(self.explain(path(), error)),
                }
            }
        }
        checked.unreadable.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(())
    }
}
