//! Image references as users write them. Knows the transports' grammar; ignores whether the image is there.

use std::{fmt, path::PathBuf, str::FromStr};

use super::registry_name::{fault, has_login, host_of, without_login};
use crate::types::Digest;

/// A way to get at an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A registry: `docker://` or `registry:`.
    Registry,
    /// An OCI layout directory: `oci:`.
    Oci,
    /// An OCI layout in a tar: `oci-archive:`.
    OciArchive,
    /// What `docker save` writes: `docker-archive:`.
    DockerArchive,
    /// A plain directory of blobs: `dir:`.
    Dir,
    /// The images of podman and CRI-O: `containers-storage:`.
    ContainersStorage,
}

/// The transports, as an error lists them.
const KNOWN: &str = "docker://, oci:, oci-archive:, docker-archive:, dir:, containers-storage:";

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The only one.
    Only,
    /// The one of this tag.
    Tag(String),
    /// The one of this digest: of a manifest or of an index.
    Digest(Digest),
}

/// An image reference with its transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    text: String,
    transport: Transport,
    name: String,
}

/// Why a text is not a reference. No message holds what could be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// No transport in front that we know.
    #[error("{0}: does not begin with a transport ({KNOWN}): for an image in a registry write docker://{0}")]
    NoTransport(String),
    /// A URL, perhaps behind a transport.
    #[error("{text}: leave out {scheme}: write docker://{name}{}", without_tls(.scheme))]
    Url {
        /// The whole text.
        text: String,
        /// `http://` or `https://`.
        scheme: &'static str,
        /// What follows it.
        name: String,
    },
    /// A user name or a password in front of the registry.
    #[error("{0}: a reference holds no user name and no password: use skopeo login or --authfile")]
    Login(String),
    /// What no registry can have.
    #[error("{text}: {why}")]
    Name {
        /// The whole text.
        text: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// `docker:` without the slashes.
    #[error("{0}: write docker:// with both slashes")]
    MissingSlashes(String),
    /// Nothing after the transport.
    #[error("{0}: names no image after the transport")]
    Empty(String),
    /// An empty tag.
    #[error("{0}: the tag is empty")]
    EmptyTag(String),
    /// `@sha256:` with something else than a digest.
    #[error("{text}: {cause}")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with the digest.
        cause: crate::types::ParseDigestError,
    },
    /// A line break, a tab or the like, which no name may hold.
    #[error("{0:?}: holds a control character")]
    Control(String),
}

impl Reference {
    /// The transport.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The name of the image in the repository unless the user gives one: the text as written.
    ///
    /// Source: composefs-ctl 0.9.4, `OciCommand::Pull`: "use the image reference as the tag".
    pub fn default_name(&self) -> &str {
        &self.text
    }

    /// The registry, with its port if it has one; `None` for what is on this machine.
    pub fn host(&self) -> Option<&str> {
        (self.transport == Transport::Registry).then(|| host_of(&self.name).unwrap_or("docker.io"))
    }

    /// The digest that the reference is pinned to, if it is.
    pub fn pinned(&self) -> Option<Digest> {
        match self.transport {
            Transport::Registry | Transport::Oci => self.name.rsplit_once('@')?.1.parse().ok(),
            _ => None,
        }
    }

    /// The same image by digest: the tag is dropped, `docker://r/x:v1` becomes `docker://r/x@sha256:…`.
    /// `None` for transports that know no digests.
    pub fn pinned_to(&self, digest: Digest) -> Option<Self> {
        let image = match self.transport {
            Transport::Registry => {
                let image =
                    self.pinned().and(self.name.rsplit_once('@')).map_or(&*self.name, |(image, _)| image);
                untagged(image).to_owned()
            }
            Transport::Oci => super::layout::locate(self).0.to_str()?.to_owned(),
            _ => return None,
        };
        let scheme = &self.text[..self.text.len() - self.name.len()];
        let name = format!("{image}@{digest}");
        Some(Self { text: format!("{scheme}{name}"), transport: self.transport, name })
    }

    /// What a registry calls `name`: `host/path:tag` or `host/path@digest`, which the caller has checked.
    pub(crate) fn in_registry(name: String) -> Self {
        Self { text: format!("docker://{name}"), transport: Transport::Registry, name }
    }

    /// For `oci:`: the layout's path, and which of its images, by the text alone. As upstream reads it: the
    /// last colon begins a tag unless a slash follows. See [`layouts`](Self::layouts) for what else it may
    /// mean.
    pub fn layout(&self) -> (PathBuf, Selector) {
        if let Some(digest) = self.pinned()
            && let Some((path, _)) = self.name.rsplit_once('@')
        {
            return (path.into(), Selector::Digest(digest));
        }
        match self.name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path.into(), Selector::Tag(tag.to_owned())),
            _ => (PathBuf::from(&self.name), Selector::Only),
        }
    }

    /// For `oci:`: every reading of the text, the shortest path first: both paths (`/a:b/dir`) and names
    /// (`docker.io/library/app:1.0`) may have colons, and only the disk tells which is which. The rule, which
    /// `locate` of the layouts follows:
    ///
    /// 1. the shortest path that is a layout with an image of the whole rest as its name, as containers/image
    ///    splits;
    /// 2. what [`layout`](Self::layout) says, if that path is a directory;
    /// 3. the longest path that is a layout, for the error to list its names.
    pub fn layouts(&self) -> Vec<(PathBuf, Selector)> {
        let name = &self.name;
        let at_colon = |(at, _)| (PathBuf::from(&name[..at]), Selector::Tag(name[at + 1..].to_owned()));
        let splits = name.match_indices(':').filter(|(at, _)| *at > 0 && at + 1 < name.len());
        splits.map(at_colon).chain([(PathBuf::from(name), Selector::Only)]).collect()
    }

    /// The reference as skopeo wants it.
    pub fn for_skopeo(&self) -> String {
        let name = &self.name;
        match self.transport {
            Transport::Registry => format!("docker://{}", without_tag_if_pinned(name)),
            Transport::Oci => format!("oci:{name}"),
            Transport::OciArchive => format!("oci-archive:{name}"),
            Transport::DockerArchive => format!("docker-archive:{name}"),
            Transport::Dir => format!("dir:{name}"),
            // skopeo wants image ids bare: containers/skopeo issue 2750.
            Transport::ContainersStorage => {
                format!("containers-storage:{}", stored_image(name))
            }
        }
    }

    fn check(&self) -> Result<(), ParseReferenceError> {
        let text = || self.text.clone();
        let is_stored = self.transport == Transport::ContainersStorage;
        if self.name.is_empty() || (is_stored && stored_image(&self.name).is_empty()) {
            return Err(ParseReferenceError::Empty(text()));
        }
        if let Transport::Registry | Transport::Oci = self.transport
            && let Some((_, digest)) = self.name.rsplit_once('@')
            && digest.contains(':')
            && !digest.contains('/')
        {
            digest.parse::<Digest>().map_err(|cause| ParseReferenceError::Digest { text: text(), cause })?;
        }
        if self.transport == Transport::Registry {
            let image = self.pinned().and(self.name.rsplit_once('@')).map_or(&*self.name, |(image, _)| image);
            fault(image).map_or(Ok(()), |why| Err(ParseReferenceError::Name { text: text(), why }))?;
        }
        if self.transport == Transport::Oci {
            let (path, selector) = self.layout();
            if path.as_os_str().is_empty() {
                return Err(ParseReferenceError::Empty(text()));
            }
            if selector == Selector::Tag(String::new()) {
                return Err(ParseReferenceError::EmptyTag(text()));
            }
        }
        Ok(())
    }
}

/// The name or bare id of an image of `containers-storage:`, as skopeo wants it.
fn stored_image(name: &str) -> &str {
    name.trim_start_matches("sha256:")
}

/// `name:tag@digest` without the tag: old skopeo refuses to see both, and the digest decides anyway.
fn without_tag_if_pinned(name: &str) -> String {
    let Some((image, digest)) = name.rsplit_once('@') else { return name.to_owned() };
    format!("{}@{digest}", untagged(image))
}

/// `host:5000/path` of `host:5000/path:tag`.
fn untagged(image: &str) -> &str {
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    image[name..].find(':').map_or(image, |colon| &image[..name + colon])
}

/// What to do for a registry that has only the one without TLS.
fn without_tls(scheme: &str) -> &'static str {
    if scheme == "http://" { ", and --tls-verify=false for a registry without TLS" } else { "" }
}

/// The error for `text`, if its `name` is a URL.
fn url(text: &str, name: &str) -> Option<ParseReferenceError> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| name.starts_with(scheme))?;
    let name = without_login(&name[scheme.len()..]).trim_start_matches("***@").to_owned();
    Some(ParseReferenceError::Url { text: without_login(text).into_owned(), scheme, name })
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || without_login(text).into_owned();
        if text.chars().any(char::is_control) {
            return Err(ParseReferenceError::Control(shown()));
        }
        let no_transport = || match url(text, text) {
            Some(url) => url,
            None if has_login(text) => ParseReferenceError::Login(shown()),
            None => ParseReferenceError::NoTransport(shown()),
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(no_transport)?;
        let transport = match scheme {
            "docker" | "registry" => Transport::Registry,
            "oci" => Transport::Oci,
            "oci-archive" => Transport::OciArchive,
            "docker-archive" => Transport::DockerArchive,
            "dir" => Transport::Dir,
            "containers-storage" => Transport::ContainersStorage,
            _ => return Err(no_transport()),
        };
        let name = match scheme {
            "docker" => {
                rest.strip_prefix("//").ok_or_else(|| ParseReferenceError::MissingSlashes(shown()))?
            }
            _ => rest,
        };
        if transport == Transport::Registry {
            if let Some(url) = url(text, name) {
                return Err(url);
            }
            if has_login(text) {
                return Err(ParseReferenceError::Login(shown()));
            }
        }
        let reference = Self { text: text.to_owned(), transport, name: name.to_owned() };
        reference.check()?;
        Ok(reference)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn every_transport_reaches_skopeo_in_its_own_words() {
        for (text, skopeo) in [
            ("docker://quay.io/app:v1", "docker://quay.io/app:v1"),
            ("registry:quay.io/app", "docker://quay.io/app"),
            ("docker-archive:a.tar", "docker-archive:a.tar"),
            ("oci-archive:a.tar:v1", "oci-archive:a.tar:v1"),
            ("dir:some/where", "dir:some/where"),
            ("containers-storage:sha256:00ff", "containers-storage:00ff"),
        ] {
            assert_eq!(parse(text).for_skopeo(), skopeo);
            assert_eq!(parse(text).default_name(), text);
        }
        let both = format!("docker://h:5000/app:v1@{DIGEST}");
        assert_eq!(parse(&both).for_skopeo(), format!("docker://h:5000/app@{DIGEST}"));
        assert_eq!(parse(&both).pinned().unwrap().to_string(), DIGEST);
        assert_eq!(
            parse(&format!("docker://h:5000/app@{DIGEST}")).for_skopeo(),
            format!("docker://h:5000/app@{DIGEST}")
        );
    }

    #[test]
    fn a_layout_reference_is_a_path_and_a_selector() {
        let tag = |t: &str| Selector::Tag(t.to_owned());
        for (text, path, selector) in [
            ("oci:dir", "dir", Selector::Only),
            ("oci:dir:v1", "dir", tag("v1")),
            ("oci:/a:b/dir", "/a:b/dir", Selector::Only),
            ("oci:/a:b/dir:v1", "/a:b/dir", tag("v1")),
            ("oci:/a@b/dir", "/a@b/dir", Selector::Only),
        ] {
            assert_eq!(parse(text).layout(), (path.into(), selector), "{text}");
        }
        let (path, selector) = parse(&format!("oci:dir@{DIGEST}")).layout();
        assert_eq!((path, selector), ("dir".into(), Selector::Digest(DIGEST.parse().unwrap())));
    }

    #[test]
    fn a_pinned_reference_drops_its_tag_and_keeps_its_transport() {
        let other = format!("sha256:{}", "0".repeat(64));
        for (text, pinned) in [
            ("docker://r/x:v1", "docker://r/x"),
            ("docker://r/x", "docker://r/x"),
            ("docker://r:5000/x/y", "docker://r:5000/x/y"),
            ("registry:r:5000/x:v1", "registry:r:5000/x"),
            (&format!("docker://r/x:v1@{other}"), "docker://r/x"),
            ("oci:dir:v1", "oci:dir"),
            ("oci:/a:b/dir", "oci:/a:b/dir"),
            ("oci:/a@b/dir:v1", "oci:/a@b/dir"),
            (&format!("oci:dir@{other}"), "oci:dir"),
        ] {
            let reference = parse(text).pinned_to(DIGEST.parse().unwrap()).unwrap();
            assert_eq!(reference.to_string(), format!("{pinned}@{DIGEST}"), "{text}");
            assert_eq!(reference, parse(&reference.to_string()));
            assert_eq!(reference.pinned().unwrap().to_string(), DIGEST);
        }
        for text in ["dir:x", "oci-archive:a.tar:v1", "docker-archive:a.tar", "containers-storage:x:v1"] {
            assert_eq!(parse(text).pinned_to(DIGEST.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_says_what_would_be() {
        for (text, part) in [
            ("alpine", "docker://alpine"),
            ("alpine:3", "docker://alpine:3"),
            ("quay.io/app:v1", "docker://quay.io/app:v1"),
            ("127.0.0.1:5000/app", "docker://127.0.0.1:5000/app"),
            ("ostree:abc", "a transport (docker://, oci:, oci-archive:"),
            ("docker:quay.io/app", "both slashes"),
            ("docker://", "names no image"),
            ("oci:", "names no image"),
            ("containers-storage:sha256:", "names no image"),
            ("oci::v1", "names no image"),
            ("oci:dir:", "the tag is empty"),
            ("oci:dir@sha256:00", "not a digest"),
            ("docker://app@sha512:00", "sha512"),
            ("dir:a\nb", "control character"),
            (
                "docker://http://r.example/a",
                "leave out http://: write docker://r.example/a, and --tls-verify=false",
            ),
            ("docker://https://r.example/a", "leave out https://: write docker://r.example/a"),
            ("https://r.example/a", "leave out https://: write docker://r.example/a"),
            (
                "http://me:secret@r.example/a",
                "***@r.example/a: leave out http://: write docker://r.example/a, and",
            ),
            ("docker://me:secret@r.example/a", "docker://***@r.example/a: a reference holds no user name"),
            ("me:secret@r.example/a", "***@r.example/a: a reference holds no user name"),
            ("docker://me:secret@\n", "control character"),
            ("docker://quay.io/App:v1", "\"App\" is not in lower case"),
            ("docker://quay.io/app:", "the tag is empty"),
            ("docker://quay.io/app:a:b", "\"a:b\" is not a tag"),
            ("docker://quay.io/app#1", "'#' cannot be part of"),
            ("docker://quay.io/a b", "' ' cannot be part of"),
            ("docker://quay.io/app:v1@x", "\"v1@x\" is not a tag"),
            ("docker://quay.io//app", "\"/app\" is not the name of an image"),
            ("docker://quay.io/", "\"\" is not the name of an image"),
            ("docker://[::1/app", "\"[::1\" is not a host"),
            ("docker://-r.io/app", "\"-r.io\" is not a host"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_registry_may_be_an_address() {
        for (text, host) in [
            ("docker://[::1]:5000/app:v1", "[::1]:5000"),
            ("docker://[2001:db8::1]/app", "[2001:db8::1]"),
            ("docker://127.0.0.1:5000/app:v1", "127.0.0.1:5000"),
            ("docker://localhost/app", "localhost"),
            ("docker://library/app", "docker.io"),
        ] {
            assert_eq!(parse(text).host(), Some(host));
            assert_eq!(parse(text).for_skopeo(), text);
        }
    }
}
