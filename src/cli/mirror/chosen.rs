//! What a list asks for right now: its rules, and the tags that registries have. Knows rules and places in a request;
//! ignores what the images are.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cli::Problem,
    list::{Choice, List, Lock, Repository, Rule},
    pull::{Asked, Unresolved},
    source::{ErrorKind, Reference, Site, SourceError, Sources},
    store::Tag,
};

/// A list, and how its images are reached where it says nothing.
pub(super) struct Chooser<'a> {
    pub(super) list: &'a List,
    /// The list's name for people.
    pub(super) shown: String,
    pub(super) site: Site,
}

/// What a list asks for.
pub(super) struct Chosen {
    /// Each image once.
    pub(super) asked: Vec<Asked>,
    /// The places in `asked` that each rule chose.
    pub(super) by_rule: Vec<Vec<usize>>,
    /// Rules that could not be followed.
    pub(super) failed: Vec<Unresolved>,
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
    fn repository_of(&self, repository: &Repository, rule: &Rule) -> Place {
        (repository.clone(), Site { platform: None, ..self.site(rule) })
    }

    /// Asks registries for their tags, each repository once.
    pub(super) async fn ask(&self, sources: &Sources) -> Result<Chosen, Problem> {
        let mut tags = Tags::default();
        for rule in &self.list.rules {
            if let Choice::Tags { repository, .. } = &rule.choice {
                tags.want(self.repository_of(repository, rule));
            }
        }
        let tags = tags.ask(sources).await;
        self.follow(|repository, rule| match tags.get(&self.repository_of(repository, rule)) {
            Some(Ok(tags)) => Ok(rule.choose(tags)),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(Vec::new()),
        })
    }

    /// Takes tags from a lock instead; its digests are what is asked for.
    pub(super) fn follow_lock(&self, lock: &Lock) -> Result<Chosen, Problem> {
        let mut chosen = self.follow(|repository, rule| {
            let platform = self.site(rule).platform;
            let locked = lock.iter().filter(|(_, on, _)| *on == platform.as_ref());
            let references = locked.filter_map(|(text, ..)| text.parse::<Reference>().ok());
            let covered = references.filter(|reference| rule.covers(reference));
            Ok(covered.filter_map(|reference| repository.tag_of(&reference).map(str::to_owned)).collect())
        })?;
        for asked in &mut chosen.asked {
            let digest = lock.get(&asked.text, asked.site.platform.as_ref());
            if let Some(pinned) = digest.and_then(|digest| asked.reference.pinned_to(digest)) {
                asked.reference = pinned;
            }
        }
        Ok(chosen)
    }

    /// Follows all rules; `tags` says which tags a rule chooses.
    fn follow(
        &self,
        tags: impl Fn(&Repository, &Rule) -> Result<Vec<String>, SourceError>,
    ) -> Result<Chosen, Problem> {
        let mut following =
            Following { chooser: self, places: HashMap::new(), sites: HashMap::new(), asked: Vec::new() };
        let (mut by_rule, mut failed) = (Vec::new(), Vec::new());
        for rule in &self.list.rules {
            let references = match &rule.choice {
                Choice::Image(reference) => Ok(vec![reference.clone()]),
                Choice::Tags { repository, .. } => tags(repository, rule).and_then(|tags| {
                    let tags: Vec<Reference> = tags.iter().map(|tag| repository.tag(tag)).collect();
                    if tags.is_empty() { Err(nothing_chosen()) } else { Ok(tags) }
                }),
            };
            let mut places = Vec::new();
            match references {
                Ok(references) => {
                    for reference in references {
                        places.push(following.place(rule, reference)?);
                    }
                }
                Err(error) => {
                    let (name, text) = (rule.to_string(), rule.to_string());
                    failed.push(Unresolved { place: usize::MAX, name, text, error });
                }
            }
            by_rule.push(places);
        }
        Ok(Chosen { asked: following.asked, by_rule, failed })
    }
}

fn nothing_chosen() -> SourceError {
    SourceError::new(
        ErrorKind::NotFound,
        "the registry has no tag that fits: correct the list, or take this out of it",
    )
}

/// Images on their way into a request, each but once.
struct Following<'a> {
    chooser: &'a Chooser<'a>,
    /// Where a name's image is, and the line that named it.
    places: HashMap<String, (usize, usize)>,
    /// Sites that are alike are one.
    sites: HashMap<Site, Arc<Site>>,
    asked: Vec<Asked>,
}

impl Following<'_> {
    /// The place of the image that `rule` asks for.
    fn place(&mut self, rule: &Rule, reference: Reference) -> Result<usize, Problem> {
        let shown = &self.chooser.shown;
        let text = reference.to_string();
        let name = rule.name.clone().unwrap_or_else(|| reference.default_name().to_owned());
        Tag::new(&name).map_err(|error| Problem::usage(format!("{shown}: line {}: {error}", rule.line)))?;
        let site = self.chooser.site(rule);
        let site = self.sites.entry(site).or_insert_with_key(|site| Arc::new(site.clone())).clone();
        let new = Asked { reference, text, name, site, immutable: rule.immutable_tags };
        let Some((place, line)) = self.places.get(&new.name).copied() else {
            self.places.insert(new.name.clone(), (self.asked.len(), rule.line));
            self.asked.push(new);
            return Ok(self.asked.len() - 1);
        };
        let first = &mut self.asked[place];
        if first.reference.for_skopeo() != new.reference.for_skopeo()
            || first.site.platform != new.site.platform
        {
            return Err(Problem::usage(format!(
                "{shown}: line {}: {} would have the name of line {line}, {}: give one of them another name",
                rule.line, new.text, new.name
            )));
        }
        // Who wants to see a tag move wants to see it, whoever else does not.
        first.immutable &= new.immutable;
        Ok(place)
    }
}

/// A repository and how it is reached.
type Place = (Repository, Site);

/// The tags of repositories.
#[derive(Default)]
struct Tags(Vec<Place>);

impl Tags {
    fn want(&mut self, place: Place) {
        if !self.0.contains(&place) {
            self.0.push(place);
        }
    }

    async fn ask(self, sources: &Sources) -> HashMap<Place, Result<Vec<String>, SourceError>> {
        let wanted = self.0.iter().map(|(repository, site)| (repository.reference(), site.clone()));
        let listed = sources.tags_all(wanted.collect()).await;
        self.0.into_iter().zip(listed).collect()
    }
}
