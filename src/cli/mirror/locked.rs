//! The lock of a list, as a file. Knows what is kept and what is refused; ignores how the images are reached.

use std::{
    collections::HashSet,
    io::ErrorKind as IoErrorKind,
    path::{Path, PathBuf},
};

use super::chosen::Chooser;
use crate::{
    cli::{
        Problem,
        files::{Accept, MAX_LIST, ReadError, read_text, write_file},
    },
    list::{Choice, Lock, Rule},
    pull::{Resolution, ResolvedImage, Unresolved},
    source::{ErrorKind, Platform, Reference, SourceError},
    types::Digest,
};

/// A lock and the file where it is kept.
pub(super) struct LockFile {
    path: PathBuf,
    lock: Lock,
}

impl LockFile {
    /// Reads the lock at `path`; unless it is `needed` there may be none.
    pub(super) fn open(path: &Path, needed: bool) -> Result<Self, Problem> {
        let shown = path.display();
        let lock = match read_text(path, Accept::Files, MAX_LIST) {
            Ok(text) => Lock::parse(&text).map_err(|error| Problem::usage(format!("{shown}: {error}")))?,
            Err(ReadError::Io(error)) if error.kind() == IoErrorKind::NotFound && !needed => Lock::default(),
            Err(ReadError::Io(error)) if error.kind() == IoErrorKind::NotFound => {
                return Err(Problem::usage(format!("{shown}: there is no lock: make one without --locked")));
            }
            Err(error) => return Err(Problem::usage(format!("{shown}: {error}"))),
        };
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(super) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Refuses a lock that was made for another list: an image that it does not know, or
    /// one that the list has not.
    pub(super) fn check(&self, chooser: &Chooser<'_>) -> Result<(), Problem> {
        let shown = self.path.display();
        let renew = "renew the lock without --locked";
        let entries: Vec<(Reference, Option<&Platform>)> =
            self.lock.iter().filter_map(|(text, platform, _)| Some((text.parse().ok()?, platform))).collect();
        let mut named = HashSet::new();
        let mut by_tags = Vec::new();
        for rule in &chooser.list.rules {
            let platform = chooser.site(rule).platform;
            let locked = match &rule.choice {
                Choice::Image(reference) => {
                    named.insert((reference, platform.clone()));
                    self.lock.get(reference.default_name(), platform.as_ref()).is_some()
                }
                Choice::Tags { .. } => {
                    let locked = entries
                        .iter()
                        .any(|(reference, on)| *on == platform.as_ref() && rule.covers(reference));
                    by_tags.push((rule, platform));
                    locked
                }
            };
            if !locked {
                let (list, line) = (&chooser.shown, rule.line);
                return Err(Problem::usage(format!(
                    "{list}: line {line}: {rule} is not in the lock {shown}: {renew}"
                )));
            }
        }
        let is_foreign = |(reference, on): &&(Reference, Option<&Platform>)| {
            let covers = |(rule, platform): &(&Rule, Option<Platform>)| {
                *on == platform.as_ref() && rule.covers(reference)
            };
            !named.contains(&(reference, on.cloned())) && !by_tags.iter().any(covers)
        };
        match entries.iter().find(is_foreign) {
            Some((reference, _)) => {
                Err(Problem::usage(format!("{shown}: {reference} is not in {}: {renew}", chooser.shown)))
            }
            None => Ok(()),
        }
    }

    /// Fails images that are not what the lock says: those that cannot be asked for by their digest.
    pub(super) fn refuse_others(&self, resolution: &mut Resolution) {
        let is_locked = |image: &ResolvedImage| {
            let locked = self.lock.get(&image.asked.text, image.asked.site.platform.as_ref());
            locked.is_none_or(|digest| [digest_of(image), image.resolved.manifest_digest].contains(&digest))
        };
        let (locked, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut resolution.images).into_iter().partition(is_locked);
        resolution.images = locked;
        resolution.failed.extend(others.into_iter().map(|image| {
            let (found, shown) = (digest_of(&image), self.path.display());
            let text = format!(
                "is {found} now, which is not what the lock {shown} says: renew the lock without --locked"
            );
            let error = SourceError::new(ErrorKind::Other, text);
            Unresolved { place: image.place, name: image.asked.name, text: image.asked.text, error }
        }));
    }

    /// Writes what all images stand for now, as `new` has it. What `is_unreachable`, an image or a rule,
    /// keeps what it stood for.
    pub(super) fn renew(
        &self,
        new: &Lock,
        is_unreachable: impl Fn(&str) -> bool,
        chooser: &Chooser<'_>,
    ) -> Result<(), Problem> {
        let mut new = new.clone();
        for (text, platform, digest) in self.lock.iter() {
            let Ok(reference) = text.parse::<Reference>() else { continue };
            let by_rule = || {
                let mut rules = chooser.list.rules.iter();
                rules.any(|rule| rule.covers(&reference) && is_unreachable(&rule.to_string()))
            };
            if new.get(text, platform).is_none() && (is_unreachable(text) || by_rule()) {
                new.insert(&reference, platform.cloned(), digest);
            }
        }
        if new == self.lock && self.path.exists() {
            return Ok(());
        }
        write_file(&self.path, "the lock", &new.to_string())
    }
}

/// Adds to `lock` what the images of `resolution` stand for.
pub(super) fn add(lock: &mut Lock, resolution: &Resolution) {
    for image in &resolution.images {
        let Ok(reference) = image.asked.text.parse::<Reference>() else { continue };
        lock.insert(&reference, image.asked.site.platform.clone(), digest_of(image));
    }
}

/// What the image is called where it comes from.
fn digest_of(image: &ResolvedImage) -> Digest {
    image.resolved.original_digest.unwrap_or(image.resolved.manifest_digest)
}
