//! Which kind of wrong a text tells of. Knows the words of skopeo, of Go and of registries;
//! ignores what is done next.
//!
//! skopeo hands on nothing but a text. Most texts hold the HTTP status in a known phrase, and then it
//! decides. Other texts are told by the words of a table. In front of both, names are taken out: of
//! registries, images, tags, files, and the addresses that Go quotes, so that an image called `unauthorized`
//! is not taken for a refusal.
//!
//! What cannot be told, all of it true of skopeo 1.9.3:
//!
//! - A manifest that is answered with a 4xx and an error body of the distribution-spec gives the
//!   `code` and the message of that body alone. With code `UNKNOWN`, a 408 looks like a 400, and
//!   we take it for the latter.
//! - A manifest that is asked for by digest and ends early, with a `Content-Length` that
//!   says so, is a wrong digest.
//! - `Retry-After` is obeyed on 429, five times at most, and shown in skopeo's log alone, see `skopeo_log`.
//! - Of a blob that is refused, the status is told and not by whom: the registry, or a
//!   store that it redirects to.

use super::ErrorKind;

/// Longest message kept from another program, in characters: an HTML page in an error is not for people.
const LONGEST: usize = 600;

/// White space collapsed, control characters out, the proxy protocol's own words off.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let mut line = words.join(" ");
    for frame in ["proxy request returned error: ", "other error: ", "retryable error: "] {
        if let Some(rest) = line.strip_prefix(frame) {
            line = rest.to_owned();
        }
    }
    if let Some(rest) = line.strip_prefix("failed to invoke method ")
        && let Some((_, cause)) = rest.split_once(": ")
    {
        line = cause.to_owned();
    }
    line
}

/// As much of a line as people want to see.
pub(super) fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}

/// The kind of what a line tells.
pub(super) fn kind(line: &str) -> ErrorKind {
    if is_short(line) {
        return ErrorKind::Transient;
    }
    let text = without_names(line);
    if let Some(status) = status(&text) {
        return kind_of_status(status);
    }
    let hit = TEXTS.iter().find(|(_, marks)| marks.iter().any(|mark| says(&text, mark)));
    match hit {
        Some((kind, _)) => *kind,
        // Go says plainly "EOF" when a server hangs up before its first byte.
        None if text.split(' ').next_back() == Some("eof") => ErrorKind::Transient,
        None => ErrorKind::Other,
    }
}

/// Whether a line says that the registry has too much to do.
pub(super) fn is_throttled(line: &str) -> bool {
    let text = without_names(line);
    match status(&text) {
        Some(status) => matches!(status, 429 | 503),
        None => THROTTLED.iter().any(|mark| says(&text, mark)),
    }
}

/// Whether a line says that fewer bytes came than should have.
///
/// A server can be wrong about the length of its own answer, if it is a proxy that lost the rest. skopeo then
/// sees a wrong digest, and only who knows the size sees more.
pub(super) fn is_short(line: &str) -> bool {
    let numbers = |before: &str, between: &str| {
        let (_, rest) = line.split_once(before)?;
        let (first, rest) = leading_number(rest)?;
        let (second, _) = leading_number(rest.strip_prefix(between)?)?;
        Some((first, second))
    };
    let ends = numbers("ends after ", " of ").is_some_and(|(found, wanted)| found < wanted);
    let counted = numbers("expected ", " bytes in blob, got ").is_some_and(|(wanted, found)| found < wanted);
    ends || counted
}

/// What has happened, where the line says it only to programmers.
pub(super) fn meaning(line: &str) -> Option<&'static str> {
    if line.contains("invalid character '<' looking for beginning of value") {
        return Some("a web page, not a registry");
    }
    if line.contains("gzip: invalid header") {
        return Some(
            "the registry, or a proxy in front of it, marks an answer that is not gzip with \
             Content-Encoding: gzip",
        );
    }
    None
}

/// What to do about it, where we know.
pub(super) fn remedy(kind: ErrorKind, line: &str) -> Option<&'static str> {
    let says = |mark: &str| line.contains(mark);
    if says("server gave HTTP response to HTTPS client")
        || says("first record does not look like a TLS handshake")
    {
        return Some("for a registry without TLS, say --tls-verify=false");
    }
    if says("x509:") {
        return Some("give the registry's CA with --cert-dir, or say --tls-verify=false");
    }
    if says("invalid character '<' looking for beginning of value") {
        return Some("check the registry's name, and whether this network wants a login in a browser first");
    }
    if says("pinging ") && says("status code from registry 400") {
        return Some(
            "if this port speaks TLS, plain HTTP was tried after TLS had failed: check the port, and \
             --cert-dir",
        );
    }
    if kind == ErrorKind::Unauthorized && is_from_store(line) {
        return Some(
            "the address that the registry gave for it has expired, or the store behind the registry \
             refuses it: run \
             this again, then check this machine's clock and the registry's store",
        );
    }
    match kind {
        ErrorKind::Unauthorized => {
            Some("log in with `skopeo login`, or name a file of credentials with --authfile")
        }
        _ => None,
    }
}

/// Whether a 403 is that of a store to which the registry redirects. skopeo does not say where an
/// answer came from; but a blob is asked for with the rights that its manifest was read with, and
/// registries do not answer in XML.
fn is_from_store(line: &str) -> bool {
    let is_blob = line.to_lowercase().contains("fetching blob: ");
    status(&line.to_lowercase()) == Some(403) && (is_blob || line.contains("<?xml"))
}

fn kind_of_status(status: u64) -> ErrorKind {
    match status {
        // 407 is a proxy's 401.
        401 | 403 | 407 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        // 425 is "too early": of TLS, and for once.
        408 | 425 | 429 | 500..600 => ErrorKind::Transient,
        _ => ErrorKind::Other,
    }
}

/// What stands before an HTTP status: of containers/image old and new, and of the docker/distribution in it.
const BEFORE_STATUS: &[&str] = &[
    "invalid status code from registry ",
    "unexpected http status: ",
    "unexpected http status code: ",
    "statuscode: ",
    "error parsing http ",
];

/// The status of an answer that was an error, if the text has it.
fn status(text: &str) -> Option<u64> {
    let after = |phrase: &&str| leading_number(text.split_once(*phrase)?.1);
    BEFORE_STATUS
        .iter()
        .filter_map(after)
        .map(|(status, _)| status)
        .find(|status| (400..600).contains(status))
}

/// Texts without a status, in lower case: of containers/image, of Go's net, net/http and crypto/tls, and of
/// registries (distribution-spec, error codes; docker/distribution's messages for them).
///
/// The first row that matches decides, so the particular stands before the general.
const TEXTS: &[(ErrorKind, &[&str])] = &[
    (
        ErrorKind::Other,
        &[
            "rejected by policy",
            "signature was required",
            "signatures were accepted",
            "x509:",
            "server gave http response to https client",
        ],
    ),
    (ErrorKind::NotFound, &["no such file or directory"]),
    (
        ErrorKind::Local,
        &[
            "no space left on device",
            "too many open files",
            "cannot allocate memory",
            "executable file not found",
        ],
    ),
    (ErrorKind::Transient, &["toomanyrequests", "too many requests"]),
    (
        ErrorKind::Corrupt,
        &[
            "corrupted blob",
            "bytes in blob, got",
            "blob size mismatch",
            "digest mismatch",
            "does not match provided manifest digest",
            "does not match the digest",
            "digest did not match",
            "invalid checksum digest",
        ],
    ),
    (
        ErrorKind::Unauthorized,
        &[
            "unauthorized",
            "authentication required",
            "invalid username/password",
            "no basic auth credentials",
            "denied:",
            "access denied",
            "resource is denied",
            "forbidden",
        ],
    ),
    (
        ErrorKind::Transient,
        &[
            "service unavailable",
            "unavailable:",
            "bad gateway",
            "gateway timeout",
            "gateway time-out",
            "internal server error",
            "request timeout",
        ],
    ),
    (ErrorKind::Local, &["permission denied"]),
    (
        ErrorKind::NotFound,
        &[
            "manifest unknown",
            "manifest_unknown",
            "name unknown",
            "name_unknown",
            "blob unknown",
            "blob_unknown",
            "not known to registry",
            "not found",
            "no image found in manifest list",
            "no image found in image index",
            "does not exist",
            "no descriptor found",
        ],
    ),
    (
        ErrorKind::Transient,
        &[
            "connection refused",
            "connection reset",
            "connection abort",
            "connection timed out",
            "client connection lost",
            "transport connection broken",
            "use of closed network connection",
            "broken pipe",
            "no such host",
            "server misbehaving",
            "temporary failure in name resolution",
            "i/o timeout",
            "tls handshake timeout",
            "bad record mac",
            "no route to host",
            "network is unreachable",
            "network is down",
            "unexpected eof",
            "unexpected end of json input",
            "malformed http",
            "malformed chunked encoding",
            "invalid byte in chunk length",
            "stream error:",
            "deadline exceeded",
            "client.timeout",
            "timeout awaiting response headers",
            "server closed idle connection",
            "goaway",
            // Said when the ping of the API failed and something answers at the one of 2013. What was wrong
            // with the ping is not said, and registries that have only the old one are gone.
            "talk to a v1 container registry",
            "talk to a v1 docker registry",
        ],
    ),
];

/// A registry that asks for less, where no status says so.
const THROTTLED: &[&str] = &[
    "toomanyrequests",
    "too many requests",
    "service unavailable",
    "unavailable:",
    "rate limit",
    "rate exceeded",
];

/// Whether `mark` stands in the text by itself, and not as part of a longer name.
fn says(text: &str, mark: &str) -> bool {
    let joins = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.match_indices(mark).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + mark.len()..].chars().next();
        !before.is_some_and(joins) && (mark.ends_with(':') || !after.is_some_and(|c| c != '.' && joins(c)))
    })
}

/// Words with a slash that are no name.
const SLASHED: &[&str] = &["i/o", "username/password"];

/// What stands before a name that need not have a slash: a tag, a host.
const BEFORE_NAME: &[[&str; 2]] =
    &[["reading", "manifest"], ["container", "registry"], ["docker", "registry"], ["tcp:", "lookup"]];

/// The text in lower case without what others have named: what is quoted, paths, addresses and digests, and
/// the tags and hosts of skopeo's own sentences.
fn without_names(line: &str) -> String {
    let text = without_quotes(&line.to_lowercase());
    let words: Vec<&str> = text.split(' ').collect();
    let is_name = |ix: usize| {
        let word = words[ix];
        let is_slashed = word.contains('/') && !SLASHED.contains(&word.trim_end_matches([':', ',', '.']));
        let is_named = ix >= 2 && BEFORE_NAME.iter().any(|before| words[ix - 2..ix] == *before);
        is_slashed || is_named || word.contains("sha256:")
    };
    let kept: Vec<&str> = (0..words.len()).filter(|ix| !is_name(*ix)).map(|ix| words[ix]).collect();
    kept.join(" ")
}

/// The text without what stands between two double quotes.
fn without_quotes(text: &str) -> String {
    let mut parts = text.split('"');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    while let Some(inside) = parts.next() {
        match parts.next() {
            Some(outside) => kept.push_str(outside),
            // Nobody closes it: it is no quotation.
            None => kept.push_str(inside),
        }
    }
    kept
}

/// The decimal number that a text begins with, and the rest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests;
