//! What can go wrong at a source, and which kind of wrong it is. Knows the texts of skopeo and of registries;
//! ignores which image they were about: the caller names it.

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The registry wants other credentials (401, 403).
    Unauthorized,
    /// No such image, tag, platform or blob.
    NotFound,
    /// A network or a server in trouble (429, 5xx, refused or reset connections, names that do not resolve,
    /// skopeo gone): trying again may help.
    Transient,
    /// The bytes are not what their name or descriptor says.
    Corrupt,
    /// Nothing came for the length of the stall timeout.
    Stalled,
    /// The installed skopeo cannot do what was asked.
    TooOld,
    /// Something on this machine: a path, a missing program, a read error.
    Local,
    /// Anything else.
    Other,
}

/// Why an image or a blob could not be had: one line for people, without the image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    kind: ErrorKind,
    message: String,
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, SourceError>;

impl SourceError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient | ErrorKind::Stalled)
    }

    /// The same error, with what was being done in front: `context: message`.
    pub(super) fn within(self, context: impl std::fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }

    pub(super) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub(super) fn local(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Local, message)
    }

    /// What skopeo said, on one line, with its kind told from the text and a remedy where we know one.
    pub(super) fn from_skopeo(text: &str) -> Self {
        let message = condense(text);
        let kind = classify(&message);
        match remedy(kind, &message) {
            Some(remedy) => Self::new(kind, format!("{message}: {remedy}")),
            None => Self::new(kind, message),
        }
    }
}

/// Longest message kept from another program, in characters: an HTML page in an error is not for people.
const LONGEST: usize = 600;

/// One line of `text`: white space collapsed, control characters out, the proxy protocol's own words off.
fn condense(text: &str) -> String {
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
    if let Some((cut, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// Texts of containers/image, of Go's net and http packages, and of registries (distribution-spec, error codes).
///
/// The first row that matches decides, so the particular stands before the general.
const TEXTS: &[(ErrorKind, &[&str])] = &[
    (
        ErrorKind::Transient,
        &["toomanyrequests", "too many requests", "status: 429", "registry 429", "tls handshake timeout"],
    ),
    (
        ErrorKind::Corrupt,
        &[
            "corrupted blob",
            "bytes in blob, got",
            "blob size mismatch",
            "digest mismatch",
            "does not match provided manifest digest",
            "does not match the digest",
            "invalid checksum digest",
        ],
    ),
    (
        ErrorKind::Unauthorized,
        &[
            "unauthorized",
            "authentication required",
            "invalid username/password",
            "denied:",
            "access denied",
            "access to the resource is denied",
            "forbidden",
            "status code from registry 401",
            "status code from registry 403",
        ],
    ),
    (
        ErrorKind::Transient,
        &[
            "http status: 5",
            "status code from registry 5",
            "service unavailable",
            "bad gateway",
            "gateway timeout",
            "internal server error",
        ],
    ),
    (ErrorKind::Local, &["permission denied", "no space left on device", "too many open files"]),
    (
        ErrorKind::NotFound,
        &[
            "manifest unknown",
            "manifest_unknown",
            "name unknown",
            "name_unknown",
            "blob unknown",
            "blob_unknown",
            "not found",
            "status code from registry 404",
            "no image found in manifest list",
            "no image found in image index",
            "no such file or directory",
            "does not exist",
            "no descriptor found",
        ],
    ),
    (
        ErrorKind::Transient,
        &[
            "connection refused",
            "connection reset",
            "broken pipe",
            "no such host",
            "server misbehaving",
            "temporary failure in name resolution",
            "i/o timeout",
            "no route to host",
            "network is unreachable",
            "unexpected eof",
            "deadline exceeded",
            "client.timeout",
            "server closed idle connection",
            "goaway",
        ],
    ),
];

fn classify(message: &str) -> ErrorKind {
    let text = message.to_lowercase();
    let hit = TEXTS.iter().find(|(_, marks)| marks.iter().any(|mark| text.contains(mark)));
    match hit {
        Some((kind, _)) => *kind,
        // Go says plainly "EOF" when a server hangs up before its first byte.
        None if text.ends_with(": eof") => ErrorKind::Transient,
        None => ErrorKind::Other,
    }
}

fn remedy(kind: ErrorKind, message: &str) -> Option<&'static str> {
    if message.contains("server gave HTTP response to HTTPS client") {
        return Some("for a registry without TLS, say --tls-verify=false");
    }
    if message.contains("x509:") {
        return Some("give the registry's CA with --cert-dir, or say --tls-verify=false");
    }
    match kind {
        ErrorKind::Unauthorized => {
            Some("log in with `skopeo login`, or name a file of credentials with --authfile")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skopeos_texts_are_told_apart() {
        use ErrorKind::*;
        for (text, kind) in [
            ("reading manifest latest in r:5000/x: manifest unknown: manifest unknown", NotFound),
            (
                "reading manifest v9 in docker.io/library/x: errors:\ndenied: access\nunauthorized: no",
                Unauthorized,
            ),
            ("fetching blob: invalid status code from registry 404 (Not Found)", NotFound),
            ("reading blob sha256:00: fetching blob: toomanyrequests: rate exceeded", Transient),
            ("fetching blob: received unexpected HTTP status: 502 Bad Gateway", Transient),
            (
                "pinging container registry 127.0.0.1:1: Get \"…\": dial tcp 127.0.0.1:1: connect: connection refused",
                Transient,
            ),
            ("dial tcp: lookup nowhere.invalid: no such host", Transient),
            ("Get \"https://r/v2/\": net/http: TLS handshake timeout", Transient),
            ("Get \"https://r/v2/\": EOF", Transient),
            ("Get \"https://r/v2/\": x509: certificate signed by unknown authority", Other),
            ("corrupted blob, expecting sha256:00", Corrupt),
            ("expected 12 bytes in blob, got 13", Corrupt),
            ("open /nowhere/manifest.json: no such file or directory", NotFound),
            ("open /nowhere/manifest.json: permission denied", Local),
            ("reading manifest sha256:42900429: something new", Other),
        ] {
            assert_eq!(SourceError::from_skopeo(text).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_message_is_one_line_without_the_protocols_own_words() {
        let error = SourceError::from_skopeo(
            "failed to invoke method OpenImage: errors:\n\tdenied: no\n\tunauthorized: no\n",
        );
        assert_eq!(
            error.to_string(),
            "errors: denied: no unauthorized: no: log in with `skopeo login`, or name a file of credentials with --authfile"
        );
        let page = format!("<html>{}", "x ".repeat(10_000));
        assert!(SourceError::from_skopeo(&page).to_string().chars().count() <= LONGEST + 1);
    }

    #[test]
    fn a_remedy_is_named_where_one_is_known() {
        let plain = SourceError::from_skopeo("http: server gave HTTP response to HTTPS client");
        assert!(plain.to_string().ends_with("say --tls-verify=false"), "{plain}");
        let unknown_ca = SourceError::from_skopeo("x509: certificate signed by unknown authority");
        assert!(unknown_ca.to_string().contains("--cert-dir"), "{unknown_ca}");
    }
}
