//! Rules: which images a list asks for. Knows tags and patterns; ignores how a registry
//! is asked for its tags.

use std::{fmt, num::NonZeroUsize, path::PathBuf, sync::Arc};

use regex::Regex;

use super::{Constraint, Repository, version::Place};
use crate::source::{Credentials, Platform, Reference, is_tag};

/// One thing that a list asks for.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The line of the list where it stands, from 1.
    pub line: usize,
    /// Which images.
    pub choice: Choice,
    /// The name in the repository that a plain list gives its image.
    pub name: Option<String>,
    /// The platform to take of images for several; `None` leaves it to the caller.
    pub platform: Option<Platform>,
    /// Whether a tag, once mirrored, stands for the same image forever. `false` where the list says nothing.
    pub immutable_tags: bool,
    /// Whether entries that tar readers read differently are read as upstream does.
    pub as_upstream: bool,
    /// What a YAML list says of the registry; all rules of a registry share it.
    pub registry: Option<Arc<Registry>>,
}

/// Which images a rule means.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This one.
    Image(Reference),
    /// Those that a registry has when it is asked.
    Tags {
        /// Where.
        repository: Repository,
        /// Which of its tags.
        pattern: Pattern,
        /// Those in which this matches somewhere are not taken, whatever the pattern says.
        exclude: Option<Regex>,
        /// Only so many of them, the newest.
        newest: Option<NonZeroUsize>,
    },
}

/// Which tags of a repository are meant.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// All.
    All,
    /// Those in which the expression matches somewhere.
    Matching(Regex),
    /// Those that are versions within the constraint.
    Version(Constraint),
}

/// What a list says of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Its host, perhaps with a port, as the list has it.
    pub name: String,
    /// Credentials to use; without any those that `skopeo login` stored.
    pub credentials: Option<Credentials>,
    /// Whether it must prove who it is.
    pub tls_verify: Option<bool>,
    /// A directory of certificates and keys for it.
    pub cert_dir: Option<PathBuf>,
}

impl Rule {
    /// The tags that this rule takes of `tags`, all that a registry lists; none for a
    /// rule that names its image.
    ///
    /// The result is the same whatever the order of `tags`, holds each tag once, and is sorted: first what
    /// is no version, numbers in it by value, then versions (`v1`, `1.2`, `1.2.3-rc.1`), oldest first.
    /// "Newest" are the last ones, so tags that are no versions count only where versions are too few. What
    /// no tag may look like is ignored.
    pub fn choose(&self, tags: &[String]) -> Vec<String> {
        let Choice::Tags { pattern, exclude, newest, .. } = &self.choice else { return Vec::new() };
        let mut chosen: Vec<&String> =
            tags.iter().filter(|tag| is_tag(tag) && pattern.takes(tag, exclude.as_ref())).collect();
        chosen.sort_by_cached_key(|tag| Place::of(tag));
        chosen.dedup();
        let old = newest.map_or(0, |newest| chosen.len().saturating_sub(newest.get()));
        chosen.into_iter().skip(old).cloned().collect()
    }

    /// Whether `reference` could have come from this rule. Which tags were the newest is not known here.
    pub fn covers(&self, reference: &Reference) -> bool {
        match &self.choice {
            Choice::Image(image) => image == reference,
            Choice::Tags { repository, pattern, exclude, .. } => {
                repository.tag_of(reference).is_some_and(|tag| pattern.takes(tag, exclude.as_ref()))
            }
        }
    }
}

impl Pattern {
    fn takes(&self, tag: &str, exclude: Option<&Regex>) -> bool {
        self.matches(tag) && !exclude.is_some_and(|exclude| exclude.is_match(tag))
    }

    fn matches(&self, tag: &str) -> bool {
        match self {
            Self::All => true,
            Self::Matching(regex) => regex.is_match(tag),
            Self::Version(constraint) => constraint.check(tag),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.choice {
            Choice::Image(reference) => write!(f, "{reference}"),
            Choice::Tags { repository, pattern, exclude, newest } => {
                write!(f, "{repository}{pattern}")?;
                exclude.iter().try_for_each(|exclude| write!(f, ", without {exclude}"))?;
                newest.iter().try_for_each(|newest| write!(f, ", newest {newest}"))
            }
        }
    }
}

/// As it follows a repository.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(", all tags"),
            Self::Matching(regex) => write!(f, " by tag {regex}"),
            Self::Version(constraint) => write!(f, " by version {constraint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(pattern: Pattern, newest: usize) -> Rule {
        let repository = "r.example/app".parse().unwrap();
        let choice = Choice::Tags { repository, pattern, exclude: None, newest: NonZeroUsize::new(newest) };
        Rule {
            line: 1,
            choice,
            name: None,
            platform: None,
            immutable_tags: false,
            as_upstream: false,
            registry: None,
        }
    }

    fn matching(text: &str) -> Pattern {
        Pattern::Matching(Regex::new(text).unwrap())
    }

    fn by_version(text: &str) -> Pattern {
        Pattern::Version(text.parse().unwrap())
    }

    fn tags(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_pattern_chooses_tags_in_version_order() {
        let all = tags("latest 1.10 1.9.1 v1.9 edge 1.9.1-rc.1 2 1.10 .bad a/b 20-slim");
        for (pattern, newest, want) in [
            (Pattern::All, 0, "edge latest v1.9 1.9.1-rc.1 1.9.1 1.10 2 20-slim"),
            (Pattern::All, 2, "2 20-slim"),
            (Pattern::All, 7, "latest v1.9 1.9.1-rc.1 1.9.1 1.10 2 20-slim"),
            (Pattern::All, 99, "edge latest v1.9 1.9.1-rc.1 1.9.1 1.10 2 20-slim"),
            (matching("1[.]9"), 0, "v1.9 1.9.1-rc.1 1.9.1"),
            (matching("^1[.]"), 1, "1.10"),
            (matching("e"), 1, "latest"),
            (by_version(">= 1.9.1"), 0, "1.9.1 1.10 2"),
            (by_version(">= 1.9.1"), 2, "1.10 2"),
            (by_version("> 99"), 2, ""),
        ] {
            let rule = rule(pattern, newest);
            assert_eq!(rule.choose(&all), tags(want), "{rule}");
        }
    }

    #[test]
    fn what_is_excluded_does_not_count_among_the_newest() {
        let all = tags("1.0 1.1 1.2-rc.1 1.2 1.3-rc.1 latest latest-rc");
        let candidates = Regex::new("-rc").unwrap();
        for (pattern, newest, want) in [
            (Pattern::All, 0, "latest 1.0 1.1 1.2"),
            (Pattern::All, 2, "1.1 1.2"),
            (matching("^1"), 1, "1.2"),
            (by_version(">= 1.1-0"), 0, "1.1 1.2"),
        ] {
            let mut rule = rule(pattern, newest);
            if let Choice::Tags { exclude, .. } = &mut rule.choice {
                *exclude = Some(candidates.clone());
            }
            assert_eq!(rule.choose(&all), tags(want), "{rule}");
            assert!(rule.to_string().contains(", without -rc"), "{rule}");
            assert!(rule.covers(&"docker://r.example/app:1.2".parse().unwrap()));
            assert!(!rule.covers(&"docker://r.example/app:1.3-rc.1".parse().unwrap()));
        }
    }

    #[test]
    fn a_named_image_needs_no_list_of_tags() {
        let reference: Reference = "docker://r.example/app:v1".parse().unwrap();
        let named = Rule { choice: Choice::Image(reference.clone()), ..rule(Pattern::All, 0) };
        assert!(named.choose(&tags("v1 v2")).is_empty());
        assert!(named.covers(&reference));
        assert!(!named.covers(&"docker://r.example/app:v2".parse().unwrap()));
    }

    #[test]
    fn a_rule_covers_what_it_could_have_chosen() {
        let covers = |pattern, text: &str| rule(pattern, 1).covers(&text.parse().unwrap());
        assert!(covers(Pattern::All, "docker://r.example/app:v1"));
        assert!(covers(matching("^v"), "docker://r.example/app:v1"));
        assert!(covers(by_version("^1"), "docker://r.example/app:v1"));
        assert!(!covers(matching("^w"), "docker://r.example/app:v1"));
        assert!(!covers(by_version("^2"), "docker://r.example/app:v1"));
        for other in ["docker://r.example/app2:v1", "docker://r.example/app", "oci:r.example/app:v1"] {
            assert!(!covers(Pattern::All, other), "{other}");
        }
    }

    #[test]
    fn a_rule_is_named_in_one_short_line() {
        for (rule, want) in [
            (rule(matching(r"^1\.13\."), 0), r"docker://r.example/app by tag ^1\.13\."),
            (rule(by_version(">= 3.12.0"), 3), "docker://r.example/app by version >= 3.12.0, newest 3"),
            (rule(Pattern::All, 0), "docker://r.example/app, all tags"),
            (rule(Pattern::All, 1), "docker://r.example/app, all tags, newest 1"),
        ] {
            assert_eq!(rule.to_string(), want);
        }
    }

    #[test]
    fn no_password_is_printed() {
        let credentials = Credentials { username: "john".to_owned(), password: "hidden".to_owned() };
        let registry = Registry {
            name: String::new(),
            credentials: Some(credentials),
            tls_verify: None,
            cert_dir: None,
        };
        let rule = Rule { registry: Some(Arc::new(registry)), ..rule(Pattern::All, 0) };
        let printed = format!("{rule:?} {rule}");
        assert!(printed.contains("john") && !printed.contains("hidden"), "{printed}");
    }

    proptest! {
        /// The order in which a registry lists its tags does not matter, and the newest
        /// are the last of all chosen.
        #[test]
        fn choosing_does_not_depend_on_order(
            (given, mixed) in proptest::collection::vec("v?[0-2][.][0-2](-[ab])?|[ab][0-2]{1,2}", 0..12)
                .prop_flat_map(|tags| (Just(tags.clone()), Just(tags).prop_shuffle())),
            newest in 1usize..6,
        ) {
            let all = rule(Pattern::All, 0).choose(&given);
            prop_assert_eq!(&rule(Pattern::All, 0).choose(&mixed), &all);
            let few = rule(Pattern::All, newest).choose(&mixed);
            prop_assert_eq!(few.len(), all.len().min(newest));
            prop_assert!(all.ends_with(&few));
            let rule = rule(Pattern::All, newest);
            let covered = few.iter().all(|tag| rule.covers(&format!("docker://r.example/app:{tag}").parse()
                .unwrap()));
            prop_assert!(covered);
        }
    }
}
