//! Repositories and tags as registries allow them. Knows their grammar; ignores what a registry has.

use std::{fmt, str::FromStr};

use crate::{
    source::{Reference, is_explicit_host, is_host, is_path, is_tag, without_login},
    types::Digest,
};

/// All images of one name in a registry: `docker://host/path` without a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

/// Why a text is not a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRepositoryError {
    /// A tag or a digest behind the name.
    #[error("{0:?} holds a tag or a digest: name the image alone")]
    Tagged(String),
    /// Anything else.
    #[error(
        "{0:?} is not the name of an image (expected a registry and a path in lower case, as in \
         quay.io/coreos/etcd)"
    )]
    Malformed(String),
}

impl Repository {
    /// The image of this tag, which must be one: [`Rule::choose`](super::Rule::choose) gives no others.
    pub fn tag(&self, tag: &str) -> Reference {
        Reference::in_registry(format!("{}:{tag}", self.0))
    }

    /// The repository itself, as one asks a registry about it.
    pub fn reference(&self) -> Reference {
        Reference::in_registry(self.0.clone())
    }

    /// The image of this digest.
    pub fn digest(&self, digest: Digest) -> Reference {
        Reference::in_registry(format!("{}@{digest}", self.0))
    }

    /// The tag of `reference`, if it is an image of this repository that has one.
    pub fn tag_of<'a>(&self, reference: &'a Reference) -> Option<&'a str> {
        let name = reference.default_name().strip_prefix("docker://")?;
        name.strip_prefix(&self.0)?.strip_prefix(':').filter(|tag| is_tag(tag))
    }

    /// `host/path`, without the transport.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}", self.0)
    }
}

/// Takes `host/path`; the transport is not part of it.
impl FromStr for Repository {
    type Err = ParseRepositoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        if is_registry(host) && is_path(path) {
            return Ok(Self(text.to_owned()));
        }
        let shown = without_login(text).into_owned();
        Err(match path.split_once([':', '@']) {
            Some((untagged, _)) if is_path(untagged) => ParseRepositoryError::Tagged(shown),
            _ => ParseRepositoryError::Malformed(shown),
        })
    }
}

/// Whether `text` names a registry, perhaps with the first parts of a path: `quay.io`,
/// `localhost:5000/mirror`.
pub(super) fn is_registry(text: &str) -> bool {
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    is_host(host) && path.is_none_or(is_path)
}

/// Whether skopeo would take `text` in front of an image's name for a part of a name on Docker Hub.
pub(super) fn is_on_docker_hub(text: &str) -> bool {
    !is_explicit_host(text.split('/').next().unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_registry_and_a_path() {
        for text in [
            "quay.io/coreos/etcd",
            "localhost:5000/a",
            "[::1]:5000/a",
            "r.example/a__b/c-d.e--f",
            "docker.io/x",
        ] {
            let repository: Repository = text.parse().unwrap();
            assert_eq!(repository.name(), text);
            assert_eq!(repository.to_string(), format!("docker://{text}"));
            let reference = repository.tag("v1");
            assert_eq!(reference, format!("docker://{text}:v1").parse().unwrap());
            assert_eq!(repository.tag_of(&reference), Some("v1"));
            let digest = Digest::of(b"x");
            let pinned = repository.digest(digest);
            assert_eq!(pinned, format!("docker://{text}@{digest}").parse().unwrap());
            assert_eq!(repository.tag_of(&pinned), None);
        }
        for text in [
            "",
            "a",
            "/a",
            "a/",
            "r/A",
            "r//a",
            "docker://r/a",
            "r/a b",
            "-r/a",
            "r/a\n",
            "r:x/a",
            "r/.a",
            "r/é",
        ] {
            let error = text.parse::<Repository>().unwrap_err();
            assert_eq!(error, ParseRepositoryError::Malformed(text.to_owned()), "{text}");
        }
        for text in ["r/a:1", "r:5000/a:1", "r/a@sha256:00", "r/a:"] {
            let error = text.parse::<Repository>().unwrap_err();
            assert_eq!(error, ParseRepositoryError::Tagged(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_longer_name_is_another_repository() {
        let repository: Repository = "r.example/a".parse().unwrap();
        for other in [
            "docker://r.example/a/b:1",
            "docker://r.example/ab:1",
            "docker://r.example/a",
            "oci:r.example/a:1",
        ] {
            assert_eq!(repository.tag_of(&other.parse().unwrap()), None, "{other}");
        }
        let both = format!("docker://r.example/a:1@{}", Digest::of(b"x"));
        assert_eq!(repository.tag_of(&both.parse().unwrap()), None);
    }
}
