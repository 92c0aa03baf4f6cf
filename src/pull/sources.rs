//! The places that have a blob, and which of them is next. Knows what failed where;
//! ignores how a blob is fetched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source::{Source, SourceError};

/// The places that have a blob, in the order of the request; each is tried until one delivers.
pub(super) struct BlobSources {
    sources: Vec<Arc<dyn Source>>,
    state: Mutex<State>,
}

struct State {
    at: usize,
    /// BlobSources that will not deliver, ever.
    dead: Vec<bool>,
    /// The registries that were in trouble since the last pause.
    troubled: Vec<Option<String>>,
}

/// What to do after a place has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Turn to the next place.
    Now,
    /// Turn to it after a pause: every registry that has the blob is in trouble.
    Later,
    /// Give up.
    Never,
}

impl BlobSources {
    pub(super) fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        let state = State { at: 0, dead: vec![false; sources.len()], troubled: Vec::new() };
        Self { sources, state: Mutex::new(state) }
    }

    /// The place in turn.
    pub(super) fn current(&self) -> Option<Arc<dyn Source>> {
        let state = self.state();
        self.sources.get(state.at).filter(|_| !state.dead[state.at]).cloned()
    }

    /// Whether there is another one than the current one.
    pub(super) fn has_next(&self) -> bool {
        self.others(&self.state()).next().is_some()
    }

    /// Gives up the current one for good: it delivered something else.
    pub(super) fn turn_to_next(&self) {
        let mut state = self.state();
        let next = self.others(&state).next();
        let at = state.at;
        state.dead.iter_mut().skip(at).take(1).for_each(|dead| *dead = true);
        state.at = next.unwrap_or(at);
    }

    /// Turns away from the current one, which failed with `error`.
    ///
    /// What may pass is no reason to ask the same registry again at once under another image's name.
    pub(super) fn failed(&self, error: &SourceError) -> Next {
        if !error.is_retryable() {
            let more = self.has_next();
            self.turn_to_next();
            return if more { Next::Now } else { Next::Never };
        }
        let mut state = self.state();
        let host = self.host(state.at);
        state.troubled.push(host);
        let elsewhere = self.others(&state).find(|other| !state.troubled.contains(&self.host(*other)));
        match elsewhere {
            Some(other) => {
                state.at = other;
                Next::Now
            }
            None => {
                let next = self.others(&state).next();
                state.at = next.unwrap_or(state.at);
                state.troubled.clear();
                Next::Later
            }
        }
    }

    /// The other places that may deliver, from the one after the current one.
    fn others<'a>(&self, state: &'a State) -> impl Iterator<Item = usize> + use<'a> {
        let count = state.dead.len();
        (1..count).map(move |step| (state.at + step) % count).filter(|place| !state.dead[*place])
    }

    fn host(&self, place: usize) -> Option<String> {
        self.sources.get(place)?.host().name().map(str::to_owned)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{ErrorKind, Options, Site, Sources};

    fn places(references: &[&str]) -> BlobSources {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _runtime = runtime.enter();
        let sources = Sources::new(Options::default());
        let open = |text: &&str| sources.open(&text.parse().unwrap(), &Site::default());
        BlobSources::new(references.iter().map(open).collect())
    }

    fn error(kind: ErrorKind) -> SourceError {
        SourceError::new(kind, "no")
    }

    fn at(places: &BlobSources) -> Option<String> {
        places.current().map(|source| source.describe())
    }

    #[test]
    fn a_place_that_does_not_have_it_is_not_asked_again() {
        let places = places(&["docker://a.x/1", "docker://a.x/2"]);
        assert_eq!(places.failed(&error(ErrorKind::NotFound)), Next::Now);
        assert_eq!(at(&places).as_deref(), Some("docker://a.x/2"));
        assert!(!places.has_next());
        assert_eq!(places.failed(&error(ErrorKind::Transient)), Next::Later);
        assert_eq!(at(&places).as_deref(), Some("docker://a.x/2"));
        assert_eq!(places.failed(&error(ErrorKind::NotFound)), Next::Never);
        assert_eq!(at(&places), None);
    }

    #[test]
    fn a_registry_in_trouble_is_not_asked_at_once_under_another_name() {
        let places = places(&["docker://a.x/1", "docker://a.x/2", "docker://b.x/1"]);
        assert_eq!(places.failed(&error(ErrorKind::Transient)), Next::Now);
        assert_eq!(at(&places).as_deref(), Some("docker://b.x/1"));
        assert_eq!(places.failed(&error(ErrorKind::Stalled)), Next::Later);
        assert_eq!(at(&places).as_deref(), Some("docker://a.x/1"));
        assert_eq!(places.failed(&error(ErrorKind::Transient)), Next::Now);
        assert_eq!(at(&places).as_deref(), Some("docker://b.x/1"));
    }

    #[test]
    fn one_place_alone_is_tried_again_later() {
        let places = places(&["docker://a.x/1"]);
        for _ in 0..3 {
            assert_eq!(places.failed(&error(ErrorKind::Transient)), Next::Later);
            assert_eq!(at(&places).as_deref(), Some("docker://a.x/1"));
        }
        assert_eq!(places.failed(&error(ErrorKind::Unauthorized)), Next::Never);
    }

    #[test]
    fn a_place_that_lied_is_dead_also_when_others_are_in_trouble() {
        let places = places(&["docker://a.x/1", "docker://a.x/2"]);
        places.turn_to_next();
        assert_eq!(at(&places).as_deref(), Some("docker://a.x/2"));
        assert_eq!(places.failed(&error(ErrorKind::Transient)), Next::Later);
        assert_eq!(at(&places).as_deref(), Some("docker://a.x/2"));
    }
}
