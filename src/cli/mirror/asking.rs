//! What a list asks of registries, and the answers in waves: tags become images, images become what can be pulled. Knows
//! who is waited for, and how long; ignores what happens to the images.

use std::collections::{BTreeMap, HashMap};

use super::chosen::{Chooser, Choosing};
use crate::{
    cli::{Problem, session::Session},
    list::{Choice, Lock},
    pull::{Resolution, Resolving, Unresolved, Wave},
    render::words::count,
    report::{self, INTERRUPTED, Mode},
    source::{Answers, ErrorKind, SourceError},
};

/// More registries are not named when they are slow.
const NAMED: usize = 3;

/// A list that is being asked for.
pub(super) struct Asking<'a> {
    session: &'a Session<'a>,
    chooser: &'a Chooser<'a>,
    /// Where digests come from instead of registries.
    lock: Option<&'a Lock>,
    listing: Answers<Listing, Vec<String>>,
    /// Rules that can be followed, by their places in the list, with the tags that they chose.
    ready: BTreeMap<usize, Result<Vec<String>, SourceError>>,
    choosing: Choosing<'a>,
    resolving: Resolving<'a>,
    /// Rules that could not be followed, and have not been told of.
    failed: Vec<Unresolved>,
    wave: Wave,
    waves: usize,
    progress: report::Resolving,
}

/// A repository whose tags are listed.
struct Listing {
    host: Option<String>,
    /// Those that choose among them.
    rules: Vec<usize>,
}

impl<'a> Asking<'a> {
    /// Asks registries for the tags that rules choose from, each repository once; with a lock nobody is asked.
    pub(super) fn new(session: &'a Session<'a>, chooser: &'a Chooser<'a>, lock: Option<&'a Lock>) -> Self {
        let mut asking = Self {
            session,
            chooser,
            lock,
            listing: Answers::default(),
            ready: BTreeMap::new(),
            choosing: Choosing::new(chooser),
            resolving: session.resolving(),
            failed: Vec::new(),
            wave: Wave::new(session.args.options().patience),
            waves: 0,
            progress: report::Resolving::new(session.args.progress),
        };
        let mut repositories: Vec<(_, Vec<usize>)> = Vec::new();
        let mut known = HashMap::new();
        for (at, rule) in chooser.list.rules.iter().enumerate() {
            match (&rule.choice, lock) {
                (Choice::Image(_), _) => drop(asking.ready.insert(at, Ok(Vec::new()))),
                (Choice::Tags { .. }, Some(lock)) => {
                    asking.ready.insert(at, Ok(chooser.locked_tags(rule, lock)));
                }
                (Choice::Tags { repository, .. }, None) => {
                    let wanted = chooser.repository_of(repository, rule);
                    let of = *known.entry(wanted.clone()).or_insert(repositories.len());
                    if of == repositories.len() {
                        repositories.push((wanted, Vec::new()));
                    }
                    repositories[of].1.push(at);
                }
            }
        }
        let _in_runtime = session.runtime.enter();
        for ((repository, site), rules) in repositories {
            let reference = repository.reference();
            let host = reference.host().map(str::to_owned);
            asking.wave.owes(host.as_deref());
            asking.listing.ask(Listing { host, rules }, session.sources.tags(reference, site));
        }
        asking
    }

    /// Waits for the next images that can go on, with all that failed until now: for all that is left, or, unless `all`
    /// is wanted, until a few registries hold up the others.
    ///
    /// # Errors
    /// The list asks for what cannot be, and nothing has been handed out yet. Later that is a failure of its rule.
    pub(super) async fn wave(&mut self, all: bool) -> Result<Resolution, Problem> {
        self.wave.begin(!self.ready.is_empty());
        loop {
            if self.listing.is_empty() {
                self.follow()?;
            }
            if self.is_complete() {
                break;
            }
            let is_something_here = !self.ready.is_empty() || self.resolving.has_images();
            tokio::select! {
                Some((listing, tags)) = self.listing.next() => {
                    self.wave.heard_of(listing.host.as_deref());
                    for at in listing.rules {
                        let choose = |tags: &Vec<String>| self.chooser.list.rules[at].choose(tags);
                        self.ready.insert(at, tags.as_ref().map(choose).map_err(SourceError::clone));
                    }
                }
                Some(host) = self.resolving.next() => {
                    self.wave.heard_of(host.as_deref());
                    self.progress.one_more();
                }
                () = tokio::time::sleep_until(self.wave.ends()), if is_something_here && !all => {
                    if self.ready.is_empty() {
                        break;
                    }
                    // These may still be quick.
                    self.follow()?;
                    self.wave.begin(self.resolving.has_images());
                }
            }
        }
        self.waves += 1;
        self.progress.pause();
        self.tell_who_is_late();
        let mut wave = self.resolving.take();
        wave.failed.append(&mut self.failed);
        Ok(wave)
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_complete(&self) -> bool {
        self.listing.is_empty() && self.ready.is_empty() && self.resolving.is_complete()
    }

    /// The places of the images that each rule chose, so far.
    pub(super) fn by_rule(&self) -> &[Vec<usize>] {
        &self.choosing.by_rule
    }

    /// The names of all images so far.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.choosing.names()
    }

    /// What has not been handed out, in words for people: images and rules.
    pub(super) fn late(&self) -> Vec<Unresolved> {
        let error = SourceError::new(ErrorKind::Other, INTERRUPTED);
        let listed = self.listing.unanswered().flat_map(|listing| &listing.rules);
        let rules = listed.chain(self.ready.keys()).map(|at| self.unfollowed(*at, error.clone()));
        rules.chain(self.resolving.late(&error)).collect()
    }

    /// Asks for the images of all rules that are ready, in the order of the list.
    fn follow(&mut self) -> Result<(), Problem> {
        for (at, tags) in std::mem::take(&mut self.ready) {
            let is_empty = tags.as_ref().is_ok_and(Vec::is_empty);
            let is_image = matches!(self.chooser.list.rules[at].choice, Choice::Image(_));
            let tags = if is_empty && !is_image { Err(nothing_chosen()) } else { tags };
            let followed = match tags {
                Ok(tags) => self.choosing.follow(at, &tags),
                Err(error) => {
                    self.failed.push(self.unfollowed(at, error));
                    continue;
                }
            };
            match followed {
                Err(problem) if self.waves == 0 => return Err(problem),
                Err(problem) => {
                    let error = SourceError::new(ErrorKind::Other, problem.error.to_string());
                    self.failed.push(self.unfollowed(at, error));
                }
                Ok(()) => {}
            }
        }
        let mut chosen = self.choosing.take();
        if let Some(lock) = self.lock {
            for (_, asked) in &mut chosen {
                let digest = lock.get(&asked.text, asked.site.platform.as_ref());
                if let Some(pinned) = digest.and_then(|digest| asked.reference.pinned_to(digest)) {
                    asked.reference = pinned;
                }
            }
        }
        self.progress.asked(chosen.len());
        self.resolving.ask(chosen, |host| self.wave.owes(host));
        Ok(())
    }

    fn unfollowed(&self, at: usize, error: SourceError) -> Unresolved {
        let text = self.chooser.list.rules[at].to_string();
        Unresolved { place: usize::MAX, name: text.clone(), text, error }
    }

    fn tell_who_is_late(&self) {
        if self.is_complete() || self.session.args.progress == Mode::None {
            return;
        }
        let owing: Vec<&str> = self.wave.owing().collect();
        let more = owing.len().saturating_sub(NAMED);
        let mut names = owing[..owing.len() - more].join(", ");
        if more > 0 {
            names = format!("{names} and {}", count(more, "other", "others"));
        }
        let from = if names.is_empty() { String::new() } else { format!(" from {names}") };
        report::above(&format!("not everything has come yet{from}: the rest goes ahead"));
    }
}

fn nothing_chosen() -> SourceError {
    SourceError::new(
        ErrorKind::NotFound,
        "the registry has no tag that fits: correct the list, or take this out of it",
    )
}
