//! YAML lists, as `skopeo sync --src yaml` reads them and a little more. Knows their keys;
//! ignores YAML's own rules.
//!
//! Source: skopeo-sync(1), "YAML file content". Ours are `newest`, `exclude`, `platform`, `immutable-tags`
//! and `as-upstream`, of a registry or of one image, whose value is a mapping then:
//! `nginx: {regex: '^1\.', newest: 3}`. What skopeo warns of and passes over is an error here: a mirror that
//! lacks images without a word is found out too late. Passed over are keys that cannot be registries and are
//! a place for anchors by custom: `x-defaults`, `.defaults`.

use std::{num::NonZeroUsize, sync::Arc};

use regex::Regex;

use super::{
    Choice, ListError, Pattern, Registry, Repository, Rule,
    expression::Expressions,
    repository::{is_on_docker_hub, is_registry},
    tree::{self, Key, Node},
};
use crate::{
    source::{Credentials, Platform, TAG_GRAMMAR, is_tag, without_login},
    types::Digest,
};

/// The rules of a YAML list.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, ListError> {
    let root = tree::read(text)?;
    let Some(registries) = root.entries() else {
        return Err(root.error("a list begins with the name of a registry, as in quay.io:"));
    };
    let mut expressions = Expressions::default();
    let mut rules = Vec::new();
    for (name, node) in registries.iter().filter(|(name, _)| !is_for_anchors(&name.text)) {
        rules.extend(registry(name, node, &mut expressions)?);
    }
    Ok(rules)
}

/// Whether a key is there for the anchors in its value alone. To skopeo it is a registry without images.
fn is_for_anchors(key: &str) -> bool {
    key.starts_with('.') || (key.starts_with("x-") && is_on_docker_hub(key))
}

/// What chooses the tags of the images of a section.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Tags,
    Regex,
    Semver,
}

/// What can be said of a registry and of one of its images.
#[derive(Clone, Default)]
struct Settings {
    newest: Option<NonZeroUsize>,
    exclude: Option<Regex>,
    platform: Option<Platform>,
    immutable_tags: Option<bool>,
    as_upstream: Option<bool>,
}

/// One choice, before the registry's settings are known: they may come later in the file.
struct Pick {
    line: usize,
    choice: Choice,
    settings: Settings,
}

const REGISTRY_KEYS: &str = "images, images-by-tag-regex, images-by-semver, credentials, tls-verify, \
                             cert-dir, newest, \
                             exclude, platform, immutable-tags, as-upstream";

fn registry(name: &Key, node: &Node, expressions: &mut Expressions) -> Result<Vec<Rule>, ListError> {
    let shown = without_login(&name.text);
    if shown != *name.text {
        let text = format!("{shown:?} is not a registry: a user and a password go under credentials");
        return Err(name.error(text));
    }
    if !is_registry(&name.text) {
        let text = format!("{shown:?} is not a registry (expected a host, as in quay.io or localhost:5000)");
        return Err(name.error(text));
    }
    if is_on_docker_hub(&name.text) {
        let text = format!(
            "{shown:?} is not a registry: skopeo would ask Docker Hub for docker.io/{shown}/…: write \
             docker.io/{shown} \
             if that is meant, or the host with its domain or port, as in {shown}:443"
        );
        return Err(name.error(text));
    }
    let mut about =
        Registry { name: name.text.to_string(), credentials: None, tls_verify: None, cert_dir: None };
    let mut settings = Settings::default();
    let mut picks = Vec::new();
    for (key, node) in entries(name, node)? {
        match &*key.text {
            "images" => picks.extend(images(name, key, node, By::Tags, expressions)?),
            "images-by-tag-regex" => picks.extend(images(name, key, node, By::Regex, expressions)?),
            "images-by-semver" => picks.extend(images(name, key, node, By::Semver, expressions)?),
            "credentials" => about.credentials = credentials(key, node)?,
            // As in skopeo: as if the key were not there.
            "tls-verify" | "cert-dir" if node.is_null() => {}
            "tls-verify" => about.tls_verify = Some(boolean(key, node)?),
            "cert-dir" => about.cert_dir = Some(text(key, node)?.into()),
            _ if settings.read(key, node, expressions)? => {}
            _ => return Err(key.unknown(REGISTRY_KEYS)),
        }
    }
    if picks.is_empty() {
        let text = format!("the registry {} has no images in this list: name some, or remove it", name.text);
        return Err(name.error(text));
    }
    let about = Arc::new(about);
    Ok(picks.into_iter().map(|pick| pick.rule(&settings, &about)).collect())
}

fn images(
    registry: &Key,
    section: &Key,
    node: &Node,
    by: By,
    expressions: &mut Expressions,
) -> Result<Vec<Pick>, ListError> {
    let mut picks = Vec::new();
    for (name, node) in entries(section, node)? {
        let repository = format!("{}/{}", registry.text, name.text);
        let repository: Repository = repository.parse().map_err(|cause| name.error(cause))?;
        let (chosen, settings) = chosen(node, by, expressions)?;
        let choices = match by {
            By::Tags => tags(name, chosen, settings.exclude.as_ref(), &repository)?,
            By::Regex => vec![(name.line, matching(regex(name, chosen, expressions)?, repository))],
            By::Semver => vec![(name.line, matching(constraint(name, chosen)?, repository))],
        };
        let pick = |(line, choice)| Pick { line, choice, settings: settings.clone() };
        picks.extend(choices.into_iter().map(pick));
    }
    Ok(picks)
}

/// What is said of an image: what chooses its tags, and its own settings if it is a mapping.
fn chosen<'a>(
    node: &'a Node,
    by: By,
    expressions: &mut Expressions,
) -> Result<(Option<&'a Node>, Settings), ListError> {
    let mut settings = Settings::default();
    let entries = match node.entries() {
        Some(entries) if !node.is_null() => entries,
        _ => return Ok((Some(node), settings)),
    };
    let mut chosen = None;
    for (key, node) in entries {
        if *key.text == *by.key() {
            chosen = Some(node);
        } else if !settings.read(key, node, expressions)? {
            return Err(
                key.unknown(&format!("{}, newest, exclude, platform, immutable-tags, as-upstream", by.key()))
            );
        }
    }
    let newest = entries.iter().find(|(key, _)| &*key.text == "newest");
    match (newest, chosen.and_then(Node::items)) {
        (Some((key, _)), Some([_, ..])) => {
            Err(key.error("newest chooses none of tags that are named: remove one of both"))
        }
        _ => Ok((chosen, settings)),
    }
}

/// The images of tags and digests that are listed, without the tags that the image's own `exclude` matches,
/// or all tags where none is listed. What a registry excludes does not hold for tags that are named.
fn tags(
    name: &Key,
    node: Option<&Node>,
    exclude: Option<&Regex>,
    repository: &Repository,
) -> Result<Vec<(usize, Choice)>, ListError> {
    let wrong = |node: &Node| {
        node.error(format!("the tags of {} must be a list, as in [\"1.0\", latest]", name.text))
    };
    let items = node.map_or(Ok(Default::default()), |node| node.items().ok_or_else(|| wrong(node)))?;
    if items.is_empty() {
        return Ok(vec![(name.line, matching(Pattern::All, repository.clone()))]);
    }
    let image = |node: &Node| {
        let text = node.text().ok_or_else(|| node.error("a tag must be a text"))?;
        let reference = if is_tag(text) {
            repository.tag(text)
        } else if text.contains(':') {
            repository.digest(text.parse::<Digest>().map_err(|cause| node.error(cause))?)
        } else {
            return Err(node.error(format!("{text:?} is not a tag ({TAG_GRAMMAR})")));
        };
        let excluded = is_tag(text) && exclude.is_some_and(|exclude| exclude.is_match(text));
        Ok((!excluded).then(|| (node.line(), Choice::Image(reference))))
    };
    let images: Vec<_> = items.iter().filter_map(|node| image(node).transpose()).collect::<Result<_, _>>()?;
    match (images.is_empty(), node) {
        (true, Some(node)) => Err(node.error(format!("exclude leaves none of the tags of {}", name.text))),
        _ => Ok(images),
    }
}

fn matching(pattern: Pattern, repository: Repository) -> Choice {
    Choice::Tags { repository, pattern, exclude: None, newest: None }
}

fn regex(name: &Key, node: Option<&Node>, expressions: &mut Expressions) -> Result<Pattern, ListError> {
    let node =
        node.ok_or_else(|| name.error(format!("{} needs an expression for its tags: add regex", name.text)))?;
    expressions.compile(text(name, node)?).map(Pattern::Matching).map_err(|cause| node.error(cause))
}

fn constraint(name: &Key, node: Option<&Node>) -> Result<Pattern, ListError> {
    let node =
        node.ok_or_else(|| name.error(format!("{} needs a constraint for its tags: add semver", name.text)))?;
    let constraint = text(name, node)?.parse().map_err(|cause| node.error(cause))?;
    Ok(Pattern::Version(constraint))
}

/// `None` where nothing or empty texts are written, as skopeo has it. No message repeats a value:
/// it could be the password.
fn credentials(section: &Key, node: &Node) -> Result<Option<Credentials>, ListError> {
    let (mut username, mut password) = (None, None);
    for (key, node) in entries(section, node)? {
        match &*key.text {
            "username" => username = Some(text(key, node)?),
            "password" => password = Some(text(key, node)?),
            _ => return Err(key.error("this key is not known here (known are username, password)")),
        }
    }
    match (username, password) {
        (None, None) | (Some(""), Some("")) => Ok(None),
        (Some(username), Some(password)) => {
            Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }))
        }
        _ => Err(section.error("credentials need both username and password")),
    }
}

fn entries<'a>(key: &Key, node: &'a Node) -> Result<&'a [(Key, Node)], ListError> {
    node.entries().ok_or_else(|| node.error(format!("what stands under {} must be a mapping", key.text)))
}

fn text<'a>(key: &Key, node: &'a Node) -> Result<&'a str, ListError> {
    node.text().ok_or_else(|| match node.is_null() {
        true => key.error(format!("nothing stands under {}, where a text must be", key.text)),
        false => node.error(format!("what stands under {} must be a text", key.text)),
    })
}

/// A boolean, spelled as skopeo's YAML library accepts it (YAML 1.1).
fn boolean(key: &Key, node: &Node) -> Result<bool, ListError> {
    match node.text() {
        Some("true" | "True" | "TRUE" | "y" | "Y" | "yes" | "on") => Ok(true),
        Some("false" | "False" | "FALSE" | "n" | "N" | "no" | "off") => Ok(false),
        _ => Err(node.error(format!("{} must be true or false", key.text))),
    }
}

impl By {
    fn key(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::Regex => "regex",
            Self::Semver => "semver",
        }
    }
}

impl Settings {
    /// Whether `key` is one of the settings; it has taken the value then.
    fn read(&mut self, key: &Key, node: &Node, expressions: &mut Expressions) -> Result<bool, ListError> {
        match &*key.text {
            "newest" => {
                let number = node.text().and_then(|text| text.parse().ok());
                self.newest =
                    Some(number.ok_or_else(|| node.error("newest must be a number of tags, 1 or more"))?);
            }
            "exclude" => {
                let compiled = expressions.compile(text(key, node)?).map_err(|cause| node.error(cause))?;
                self.exclude = Some(compiled);
            }
            "platform" => self.platform = Some(text(key, node)?.parse().map_err(|cause| node.error(cause))?),
            "immutable-tags" => self.immutable_tags = Some(boolean(key, node)?),
            "as-upstream" => self.as_upstream = Some(boolean(key, node)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Pick {
    /// The rule of this choice: what is said of the image wins over what is said of its registry.
    fn rule(self, registry: &Settings, about: &Arc<Registry>) -> Rule {
        let Self { line, mut choice, settings } = self;
        if let Choice::Tags { newest, exclude, .. } = &mut choice {
            *newest = settings.newest.or(registry.newest);
            *exclude = settings.exclude.or_else(|| registry.exclude.clone());
        }
        Rule {
            line,
            choice,
            name: None,
            platform: settings.platform.or_else(|| registry.platform.clone()),
            immutable_tags: settings.immutable_tags.or(registry.immutable_tags).unwrap_or(false),
            as_upstream: settings.as_upstream.or(registry.as_upstream).unwrap_or(false),
            registry: Some(about.clone()),
        }
    }
}
