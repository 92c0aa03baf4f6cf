//! Which images a list asks for: its rules, followed with the tags that are known. Knows rules, names and places in a
//! request; ignores where tags come from and what the images are.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cli::Problem,
    list::{Choice, List, Lock, Repository, Rule},
    pull::Asked,
    source::{Platform, Reference, Site},
    store::Tag,
};

/// A list, and how its images are reached where it says nothing.
pub(super) struct Chooser<'a> {
    pub(super) list: &'a List,
    /// The list's name for people.
    pub(super) shown: String,
    pub(super) site: Site,
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
    named: HashMap<String, Named>,
    /// Sites that are alike are one.
    sites: HashMap<Site, Arc<Site>>,
    /// The places of the images that each rule chose, so far.
    pub(super) by_rule: Vec<Vec<usize>>,
    /// The images that were not taken yet.
    chosen: Vec<(usize, Asked)>,
}

/// An image that has its place.
struct Named {
    place: usize,
    line: usize,
    /// What it is for skopeo.
    reference: String,
    platform: Option<Platform>,
}

impl<'a> Choosing<'a> {
    /// No rule is followed yet.
    pub(super) fn new(chooser: &'a Chooser<'a>) -> Self {
        Self {
            chooser,
            named: HashMap::new(),
            sites: HashMap::new(),
            by_rule: vec![Vec::new(); chooser.list.rules.len()],
            chosen: Vec::new(),
        }
    }

    /// Follows one of the list's rules; `tags` are those that it chose, if it is not an image itself.
    ///
    /// # Errors
    /// Two images would have one name, or one has a name that none may have.
    pub(super) fn follow(&mut self, at: usize, tags: &[String]) -> Result<(), Problem> {
        let rule = &self.chooser.list.rules[at];
        let references = match &rule.choice {
            Choice::Image(reference) => vec![reference.clone()],
            Choice::Tags { repository, .. } => tags.iter().map(|tag| repository.tag(tag)).collect(),
        };
        for reference in references {
            let place = self.place(rule, reference)?;
            self.by_rule[at].push(place);
        }
        Ok(())
    }

    /// The images that were chosen since the last time, with their places.
    pub(super) fn take(&mut self) -> Vec<(usize, Asked)> {
        std::mem::take(&mut self.chosen)
    }

    /// The names of all images so far.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.named.keys()
    }

    /// The place of the image that `rule` asks for.
    fn place(&mut self, rule: &Rule, reference: Reference) -> Result<usize, Problem> {
        let shown = &self.chooser.shown;
        let text = reference.to_string();
        let name = rule.name.clone().unwrap_or_else(|| reference.default_name().to_owned());
        Tag::new(&name).map_err(|error| Problem::usage(format!("{shown}: line {}: {error}", rule.line)))?;
        let site = self.chooser.site(rule);
        let site = self.sites.entry(site).or_insert_with_key(|site| Arc::new(site.clone())).clone();
        let place = self.named.len();
        let Some(first) = self.named.get(&name) else {
            let (skopeo, platform) = (reference.for_skopeo(), site.platform.clone());
            self.named.insert(name.clone(), Named { place, line: rule.line, reference: skopeo, platform });
            self.chosen.push((place, Asked { reference, text, name, site, immutable: rule.immutable_tags }));
            return Ok(place);
        };
        if first.reference != reference.for_skopeo() || first.platform != site.platform {
            return Err(Problem::usage(format!(
                "{shown}: line {}: {text} would have the name of line {}, {name}: give one of them another name",
                rule.line, first.line
            )));
        }
        // Who wants to see a tag move wants to see it, whoever else does not. What was taken has been asked for.
        let taken = place - self.chosen.len();
        if let Some(at) = first.place.checked_sub(taken) {
            self.chosen[at].1.immutable &= rule.immutable_tags;
        }
        Ok(first.place)
    }
}
