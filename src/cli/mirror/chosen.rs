//! Which images a list asks for: its rules, followed with the tags that are known. Knows rules, names and
//! places in a request; ignores where tags come from and what the images are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    cli::Problem,
    list::{Choice, List, Lock, Repository, Rule},
    pull::{Asked, Unresolved},
    source::{ErrorKind, Platform, Reference, Site, SourceError},
    store::Tag,
};

/// A list, and how its images are reached where it says nothing.
pub(super) struct Chooser<'a> {
    pub(super) list: &'a List,
    /// The list's name for people.
    pub(super) shown: String,
    pub(super) site: Site,
    /// Whether ambiguous entries of all images are read as upstream does.
    pub(super) as_upstream: bool,
}

impl Chooser<'_> {
    /// How the images of `rule` are reached.
    pub(super) fn site(&self, rule: &Rule) -> Site {
        let mut site = self.site.clone();
        if let Some(platform) = &rule.platform {
            site.platform = Some(platform.clone());
        }
        if let Some(registry) = &rule.registry {
            let access = &mut site.access;
            access.tls_verify = registry.tls_verify.unwrap_or(access.tls_verify);
            access.cert_dir = registry.cert_dir.clone().or(access.cert_dir.take());
            access.credentials =
                registry.credentials.clone().map(|credentials| (registry.name.clone(), credentials));
        }
        site
    }

    /// `repository` as `rule` reaches it; tags are the same for all platforms.
    pub(super) fn repository_of(&self, repository: &Repository, rule: &Rule) -> (Repository, Site) {
        (repository.clone(), Site { platform: None, ..self.site(rule) })
    }

    /// The tags that `rule` has in a lock.
    pub(super) fn locked_tags(&self, rule: &Rule, lock: &Lock) -> Vec<String> {
        let Choice::Tags { repository, .. } = &rule.choice else { return Vec::new() };
        let platform = self.site(rule).platform;
        let locked = lock.iter().filter(|(_, on, _)| *on == platform.as_ref());
        let references = locked.filter_map(|(text, ..)| text.parse::<Reference>().ok());
        let covered = references.filter(|reference| rule.covers(reference));
        covered.filter_map(|reference| repository.tag_of(&reference).map(str::to_owned)).collect()
    }
}

/// Images on their way into a request, each but once.
pub(super) struct Choosing<'a> {
    chooser: &'a Chooser<'a>,
    /// By their names.
    placed: HashMap<String, Placed>,
    /// Sites that are alike are one.
    sites: HashMap<Site, Arc<Site>>,
    /// The places of the images that each rule chose, so far.
    pub(super) by_rule: Vec<Vec<u64>>,
    /// The images that were not taken yet, in the order of their places.
    chosen: Vec<(u64, Asked)>,
}

/// An image that has its place.
struct Placed {
    place: u64,
    line: usize,
    /// The reference as the list has it.
    text: String,
    /// What it is for skopeo.
    reference: String,
    platform: Option<Platform>,
    as_upstream: bool,
}

impl Placed {
    /// The image in words, unless `name` says it.
    fn image(&self, name: &str) -> Option<String> {
        match &self.platform {
            Some(platform) => Some(format!("{} on {platform}", self.text)),
            None => Some(self.text.clone()).filter(|text| text != name),
        }
    }
}

/// The place of the image that the rule at `at` chose as number `number`. Places are in the order of the
/// list, whenever tags come; no registry lists so many that the next rule's places would be reached.
pub(super) fn place(at: usize, number: usize) -> u64 {
    ((at as u64) << 32) + number as u64
}

/// The rule of an image at this place.
pub(super) fn rule_of(place: u64) -> usize {
    (place >> 32) as usize
}

impl<'a> Choosing<'a> {
    /// No rule is followed yet.
    pub(super) fn new(chooser: &'a Chooser<'a>) -> Self {
        Self {
            chooser,
            placed: HashMap::new(),
            sites: HashMap::new(),
            by_rule: vec![Vec::new(); chooser.list.rules.len()],
            chosen: Vec::new(),
        }
    }

    /// Follows one of the list's rules; `tags` are those that it chose, if it is not an image itself.
    /// Returns those of its images that cannot be named: which tags there are is the registry's to say, so
    /// one of them harms no other.
    ///
    /// # Errors
    /// Two images would have one name, or the list names an image as none may be named. Then nothing
    /// of the rule is followed.
    pub(super) fn follow(&mut self, at: usize, tags: &[String]) -> Result<Vec<Unresolved>, Problem> {
        let rule = &self.chooser.list.rules[at];
        let references = match &rule.choice {
            Choice::Image(reference) => vec![reference.clone()],
            Choice::Tags { repository, .. } => tags.iter().map(|tag| repository.tag(tag)).collect(),
        };
        let site = self.chooser.site(rule);
        let site = self.sites.entry(site).or_insert_with_key(|site| Arc::new(site.clone())).clone();
        let asked: Vec<Asked> = references
            .into_iter()
            .map(|reference| Asked {
                text: reference.to_string(),
                name: rule.name.clone().unwrap_or_else(|| reference.default_name().to_owned()),
                reference,
                site: site.clone(),
                immutable: rule.immutable_tags,
                as_upstream: self.chooser.as_upstream || rule.as_upstream,
            })
            .collect();
        asked.iter().try_for_each(|asked| self.check(rule, asked))?;
        let mut unnamed = Vec::new();
        for (number, asked) in asked.into_iter().enumerate() {
            let place = place(at, number);
            if let Err(error) = Tag::new(&asked.name) {
                let text = format!("{error}, or have the rule leave this tag out");
                unnamed.push(Unresolved::new(place, &asked, SourceError::new(ErrorKind::Other, text)));
                continue;
            }
            let place = self.place(rule.line, place, asked);
            self.by_rule[at].push(place);
        }
        Ok(unnamed)
    }

    /// The images that were chosen since the last time, with their places.
    pub(super) fn take(&mut self) -> Vec<(u64, Asked)> {
        std::mem::take(&mut self.chosen)
    }

    /// The names of all images so far, each with its image in words where the name does not say it.
    pub(super) fn names(&self) -> BTreeMap<String, Option<String>> {
        let image = |(name, placed): (&String, &Placed)| (name.clone(), placed.image(name));
        self.placed.iter().map(image).collect()
    }

    fn check(&self, rule: &Rule, asked: &Asked) -> Result<(), Problem> {
        let (shown, line, name) = (&self.chooser.shown, rule.line, &asked.name);
        if let Choice::Image(_) = rule.choice {
            Tag::new(name).map_err(|error| Problem::usage(format!("{shown}: line {line}: {error}")))?;
        }
        match self.placed.get(name) {
            Some(first)
                if first.reference != asked.reference.for_skopeo()
                    || first.platform != asked.site.platform =>
            {
                Err(Problem::usage(format!(
                    "{shown}: line {line}: {} would have the name of line {}, {name}: give one of them \
                     another name",
                    asked.text, first.line
                )))
            }
            // Which rule comes first may depend on which registry answers first.
            Some(first) if first.as_upstream != asked.as_upstream => Err(Problem::usage(format!(
                "{shown}: line {line}: {} is the image of line {} with another as-upstream: give both the \
                 same",
                asked.text, first.line
            ))),
            _ => Ok(()),
        }
    }

    /// The place of an image: `place`, unless it has one.
    fn place(&mut self, line: usize, place: u64, asked: Asked) -> u64 {
        if let Some(first) = self.placed.get(&asked.name) {
            let first = first.place;
            // If any rule allows the tag to move, ask for it. What was taken has been asked for.
            if let Ok(waiting) = self.chosen.binary_search_by_key(&first, |(place, _)| *place) {
                self.chosen[waiting].1.immutable &= asked.immutable;
            }
            return first;
        }
        let (reference, platform) = (asked.reference.for_skopeo(), asked.site.platform.clone());
        let as_upstream = asked.as_upstream;
        let placed = Placed { place, line, text: asked.text.clone(), reference, platform, as_upstream };
        self.placed.insert(asked.name.clone(), placed);
        self.chosen.push((place, asked));
        place
    }
}
