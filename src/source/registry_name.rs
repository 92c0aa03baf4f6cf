//! What registries call images: hosts, paths and tags. Knows their grammar, and what of a name must not be
//! printed; ignores transports.

use std::{borrow::Cow, sync::LazyLock};

use regex::Regex;

/// Whether `text` is a host, perhaps with a port: `quay.io`, `localhost:5000`, `[::1]:5000`.
pub(crate) fn is_host(text: &str) -> bool {
    HOST.is_match(text)
}

/// Whether `text` is a path of a repository: parts in lower case with slashes between them.
pub(crate) fn is_path(text: &str) -> bool {
    PATH.is_match(text)
}

/// Whether `text` may be a tag.
///
/// Source: OCI distribution-spec, "Pulling manifests".
pub(crate) fn is_tag(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(sound) && !text.starts_with(['.', '-'])
}

/// The registry that `name` begins with; without one it is an image of Docker Hub.
///
/// Source: distribution's `reference` package, `splitDockerDomain`: a first part without a dot or a colon
/// belongs to the path, unless it is `localhost`.
pub(crate) fn host_of(name: &str) -> Option<&str> {
    let (host, _) = name.split_once('/')?;
    is_explicit_host(host).then_some(host)
}

/// Whether `text` is taken for a host where it could be a part of a path.
pub(crate) fn is_explicit_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost"
}

/// Why a registry cannot have an image `name`, in words; the digest behind an `@` is not part of it.
pub(super) fn fault(name: &str) -> Option<String> {
    let host = host_of(name);
    if let Some(host) = host.filter(|host| !is_host(host)) {
        return Some(format!(
            "{host:?} is not a host (expected one like quay.io, localhost:5000 or [::1]:5000)"
        ));
    }
    let path = host.map_or(name, |host| &name[host.len() + 1..]);
    let last = path.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match path[last..].find(':') {
        Some(colon) => (&path[..last + colon], Some(&path[last + colon + 1..])),
        None => (path, None),
    };
    match tag {
        Some("") => return Some("the tag is empty".to_owned()),
        Some(tag) if !is_tag(tag) => {
            return Some(format!("{tag:?} is not a tag ({TAG_GRAMMAR})"));
        }
        _ => {}
    }
    if is_path(path) {
        return None;
    }
    let strange = path.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-/".contains(*c)));
    Some(match strange {
        Some(c) => format!("{c:?} cannot be part of the name of an image"),
        None if path.chars().any(|c| c.is_ascii_uppercase()) => {
            format!("{path:?} is not in lower case, as names of images are")
        }
        None => format!("{path:?} is not the name of an image"),
    })
}

/// What a tag may be, in words.
pub(crate) const TAG_GRAMMAR: &str =
    "letters, digits, . _ and -, 128 at most, beginning with a letter, a digit or _";

/// Transports of this machine, whose paths may hold any character.
const LOCAL: [&str; 5] = ["oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:"];

fn is_local(text: &str) -> bool {
    LOCAL.iter().any(|transport| text.starts_with(transport))
}

/// Where the name begins: behind the transport and `http://`, as often as they are there.
fn start_of_name(text: &str) -> usize {
    let mut start = 0;
    while let Some(next) = ["docker:", "registry:", "http:", "https:"]
        .iter()
        .find_map(|scheme| text[start..].strip_prefix(scheme))
        .map(|rest| rest.strip_prefix("//").unwrap_or(rest))
    {
        start = text.len() - next.len();
    }
    start
}

/// Where a user name and a password end in front of a host, if `text` has them: at an `@`
/// without a digest behind it.
fn end_of_login(text: &str) -> Option<usize> {
    let is_digest = |rest: &str| ["sha256:", "sha384:", "sha512:"].iter().any(|name| rest.starts_with(name));
    text.rmatch_indices('@').map(|(at, _)| at).find(|at| !is_digest(&text[at + 1..]))
}

/// Whether a reference holds a user name or a password, as URLs do: `user:password@host/path`.
pub(crate) fn has_login(text: &str) -> bool {
    let name = &text[start_of_name(text)..];
    !is_local(text)
        && end_of_login(name).is_some_and(|at| {
            let (login, rest) = (&name[..at], &name[at + 1..]);
            rest.contains('/') || (login.contains(':') && !login.contains('/'))
        })
}

/// `text` as it may be printed: without what could be a password.
pub(crate) fn without_login(text: &str) -> Cow<'_, str> {
    if is_local(text) {
        return text.into();
    }
    let start = start_of_name(text);
    match end_of_login(&text[start..]) {
        Some(at) => format!("{}***{}", &text[..start], &text[start + at..]).into(),
        None => text.into(),
    }
}

// Source: the grammar in the documentation of distribution/reference, which skopeo checks names with.
static HOST: LazyLock<Regex> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
    constant(&format!(r"^(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$"))
});
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    let part = "[a-z0-9]+(?:(?:[.]|__?|-+)[a-z0-9]+)*";
    constant(&format!("^{part}(?:/{part})*$"))
});

fn constant(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant expression")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_128_characters_at_most() {
        for good in ["1", "_x", "v1.2-rc_1", &"a".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "a:b", "é", "a\n", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        for (text, shown) in [
            ("docker://user:pw@r.example/a:1", "docker://***@r.example/a:1"),
            ("docker://user:p/w@r.example/a:1", "docker://***@r.example/a:1"),
            ("docker://user:p@w@r.example:5000/a", "docker://***@r.example:5000/a"),
            ("docker://http://user:pw@r.example/a", "docker://http://***@r.example/a"),
            ("https://user:pw@r.example/a", "https://***@r.example/a"),
            ("user:pw@r.example/a", "***@r.example/a"),
            ("registry:user:pw@r/a@sha256:00", "registry:***@r/a@sha256:00"),
            ("docker:user:pw@r/a", "docker:***@r/a"),
            ("docker://r.example/a:1@sha256:00", "docker://r.example/a:1@sha256:00"),
            ("oci:/a@b/dir", "oci:/a@b/dir"),
            ("alpine", "alpine"),
        ] {
            assert_eq!(without_login(text), shown);
            assert_eq!(has_login(text), shown.contains("***"), "{text}");
        }
    }
}
