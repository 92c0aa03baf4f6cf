//! What a list asks of registries, and the answers in waves: tags become images, images become what can be
//! pulled. Knows who is waited for; ignores what happens to the images.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::chosen::{Chooser, Choosing, place, rule_of};
use crate::{
    cli::{Problem, request::tell_failed, session::Session},
    list::{Choice, Lock},
    pull::{GivenUp, Resolution, Resolving, Unresolved, Waiting},
    render::words::count,
    report::{self, Mode, ResolveCount},
    source::{Answers, ErrorKind, SourceError},
    types::Limit,
};

/// More registries are not named when they are slow.
const TOLD: usize = 3;

/// A list that is being asked for.
pub(super) struct Asking<'a> {
    session: &'a Session<'a>,
    chooser: &'a Chooser<'a>,
    /// Where digests come from instead of registries.
    lock: Option<&'a Lock>,
    listing: Answers<Listing, Vec<String>>,
    choosing: Choosing<'a>,
    resolving: Resolving<'a>,
    /// Rules that could not be followed and images that cannot be named, which have not been handed out.
    failed: Vec<Unresolved>,
    waiting: Waiting,
    /// How many images were chosen from the tags of each registry.
    by_tags: HashMap<String, u64>,
    /// How often images were handed out.
    waves: usize,
    count: ResolveCount,
}

/// A repository whose tags are listed.
struct Listing {
    host: Option<String>,
    /// Those that choose among them, by their places in the list.
    rules: Vec<usize>,
}

impl<'a> Asking<'a> {
    /// Asks registries for images, and for the tags that rules choose from, each repository once; with a lock
    /// nobody is asked for tags.
    ///
    /// # Errors
    /// The list asks for what cannot be.
    pub(super) fn new(
        session: &'a Session<'a>,
        chooser: &'a Chooser<'a>,
        lock: Option<&'a Lock>,
    ) -> Result<Self, Problem> {
        let mut asking = Self {
            session,
            chooser,
            lock,
            listing: Answers::default(),
            choosing: Choosing::new(chooser),
            resolving: session.resolving(),
            failed: Vec::new(),
            waiting: Waiting::new(session.args.options().patience),
            by_tags: HashMap::new(),
            waves: 0,
            count: ResolveCount::new(session.args.progress),
        };
        let _in_runtime = session.runtime.enter();
        let mut repositories: Vec<(_, Vec<usize>)> = Vec::new();
        let mut known = HashMap::new();
        for (at, rule) in chooser.list.rules.iter().enumerate() {
            match (&rule.choice, lock) {
                (Choice::Image(_), _) => drop(asking.choosing.follow(at, &[])?),
                (Choice::Tags { .. }, Some(lock)) => {
                    asking.follow(at, Ok(chooser.locked_tags(rule, lock)))?;
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
        for ((repository, site), rules) in repositories {
            let reference = repository.reference();
            let host = reference.host().map(str::to_owned);
            asking.waiting.owes(host.as_deref());
            asking.listing.ask(Listing { host, rules }, session.sources.tags(reference, site));
        }
        asking.ask();
        Ok(asking)
    }

    /// Waits for the next images that can go on, with all that failed until now: for all that is left, or,
    /// unless `all` is wanted, until a few registries hold up the others.
    ///
    /// # Errors
    /// The list asks for what cannot be, and nothing has been handed out yet. Later that
    /// is a failure of its rule.
    pub(super) async fn wave(&mut self, all: bool) -> Result<Resolution, Problem> {
        self.waiting.begin();
        while !self.is_complete() {
            let ends = self.waiting.ends().filter(|_| !all);
            let over = async {
                match ends {
                    Some(ends) => tokio::time::sleep_until(ends).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((listing, tags)) = self.listing.next() => {
                    for at in &listing.rules {
                        let choose = |tags: &Vec<String>| self.chooser.list.rules[*at].choose(tags);
                        let chosen = tags.as_ref().map(choose).map_err(SourceError::clone);
                        let host = listing.host.as_deref().unwrap_or_default();
                        let chosen = chosen.and_then(|tags| self.within_limit(host, tags));
                        self.follow(*at, chosen)?;
                    }
                    self.ask();
                    self.waiting.heard_of(listing.host.as_deref(), false);
                }
                Some((host, is_image)) = self.resolving.next() => {
                    self.waiting.heard_of(host.as_deref(), is_image);
                    self.count.one_more();
                }
                () = over => break,
            }
        }
        self.count.pause();
        self.tell_who_is_late();
        Ok(self.take())
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_complete(&self) -> bool {
        self.listing.is_empty() && self.resolving.is_complete()
    }

    /// Whether this is not the only wave.
    pub(super) fn is_in_waves(&self) -> bool {
        self.waves > 1 || !self.is_complete()
    }

    /// The places of the images that each rule chose, so far.
    pub(super) fn by_rule(&self) -> &[Vec<u64>] {
        &self.choosing.by_rule
    }

    /// The names of all images so far, each with its image in words where the name does not say it.
    pub(super) fn names(&self) -> BTreeMap<String, Option<String>> {
        self.choosing.names()
    }

    /// What is still waited for, in words for people: images and rules.
    pub(super) fn late(&self) -> HashSet<String> {
        let rules = self.listing.unanswered().flat_map(|listing| &listing.rules);
        let rules = rules.map(|at| self.chooser.list.rules[*at].to_string());
        rules.chain(self.resolving.late().map(|(_, asked)| asked.text.clone())).collect()
    }

    /// Gives up what has not been handed out: what is here or still waited for fails with `error`, what has
    /// failed by itself is told.
    pub(super) fn give_up(&mut self, error: &SourceError) -> Vec<Unresolved> {
        self.count.pause();
        let GivenUp { mut failed, others } = self.resolving.give_up(error);
        failed.append(&mut self.failed);
        tell_failed(self.session, &failed);
        failed.extend(others);
        let rules = self.listing.unanswered().flat_map(|listing| &listing.rules);
        failed.extend(rules.map(|at| self.unfollowed(*at, error.clone())));
        failed
    }

    fn take(&mut self) -> Resolution {
        self.waves += 1;
        let mut here = self.resolving.take();
        here.failed.retain(|failed| !self.is_passed_over(failed));
        here.failed.append(&mut self.failed);
        here
    }

    /// Whether there is nothing to store of an image that a rule chose by its tag: registries list tags of
    /// empty indexes, which signing leaves, among the others, and no list can know them. One that the list
    /// names itself fails. The name stays one of the list's, so that what it stood for before is not pruned.
    fn is_passed_over(&self, failed: &Unresolved) -> bool {
        let rule = &self.chooser.list.rules[rule_of(failed.place)];
        let is_passed_over =
            failed.error.kind() == ErrorKind::Empty && matches!(rule.choice, Choice::Tags { .. });
        if is_passed_over {
            tracing::info!("passed over: {}: {}", failed.text, failed.error);
        }
        is_passed_over
    }

    /// Follows a rule with the tags that it chose.
    fn follow(&mut self, at: usize, tags: Result<Vec<String>, SourceError>) -> Result<(), Problem> {
        let tags = tags.and_then(|tags| if tags.is_empty() { Err(nothing_chosen()) } else { Ok(tags) });
        let error = match tags {
            Err(error) => error,
            Ok(tags) => match self.choosing.follow(at, &tags) {
                Ok(unnamed) => {
                    self.failed.extend(unnamed);
                    return Ok(());
                }
                Err(problem) if self.waves == 0 => return Err(problem),
                Err(problem) => SourceError::new(ErrorKind::Other, problem.error.to_string()),
            },
        };
        self.failed.push(self.unfollowed(at, error));
        Ok(())
    }

    /// Refuses a rule's tags where its registry has more in the run than it may.
    fn within_limit(&mut self, host: &str, tags: Vec<String>) -> Result<Vec<String>, SourceError> {
        let then = self.by_tags.get(host).unwrap_or(&0) + tags.len() as u64;
        let allowed = self.session.args.options().limits.check(Limit::Tags, then);
        allowed.map_err(|error| SourceError::new(ErrorKind::Other, error.to_string()))?;
        self.by_tags.insert(host.to_owned(), then);
        Ok(tags)
    }

    /// Asks for the images that were chosen.
    fn ask(&mut self) {
        let mut chosen = self.choosing.take();
        if let Some(lock) = self.lock {
            for (_, asked) in &mut chosen {
                let digest = lock.get(&asked.text, asked.site.platform.as_ref());
                if let Some(pinned) = digest.and_then(|digest| asked.reference.pinned_to(digest)) {
                    asked.reference = pinned;
                }
            }
        }
        self.count.asked(chosen.len());
        self.resolving.ask(chosen, |host| self.waiting.owes(host));
    }

    fn unfollowed(&self, at: usize, error: SourceError) -> Unresolved {
        let text = self.chooser.list.rules[at].to_string();
        Unresolved { place: place(at, 0), name: text.clone(), text, error }
    }

    fn tell_who_is_late(&self) {
        if self.is_complete() || self.session.args.progress == Mode::None {
            return;
        }
        let owing: Vec<&str> = self.waiting.owing().collect();
        let more = owing.len().saturating_sub(TOLD);
        let mut names = owing[..owing.len() - more].join(", ");
        if more > 0 {
            names = format!("{names} and {}", count(more, "other", "others"));
        }
        report::above(&format!("cfs-dag: not all has come yet from {names}: what has goes ahead"));
    }
}

fn nothing_chosen() -> SourceError {
    SourceError::new(
        ErrorKind::NotFound,
        "the registry has no tag that fits: correct the list, or take this out of it",
    )
}
