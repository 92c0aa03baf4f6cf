//! What can go wrong at a source, and what may be done about it. Knows kinds; ignores which image it was
//! about: the caller names it. Which text is of which kind stands in `texts`.

mod texts;

use crate::types::LimitExceeded;

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The registry wants other credentials (401, 403).
    Unauthorized,
    /// No such image, tag, platform or blob (404).
    NotFound,
    /// It is there, and there is nothing in it that could be stored: an empty index, as the referrers
    /// fall-back of the distribution-spec leaves one under a tag.
    Empty,
    /// A network or a server in trouble (408, 429, 5xx, refused, reset or garbled connections, answers that
    /// end early, names that do not resolve, skopeo gone): trying again may help.
    Transient,
    /// The bytes are all there and not what their name or descriptor says.
    Corrupt,
    /// Nothing came for the length of the stall timeout.
    Stalled,
    /// The installed skopeo cannot do what was asked.
    TooOld,
    /// Something on this machine: a path, a missing program, a read error.
    Local,
    /// Anything else: a signature policy that says no, a certificate that is not
    /// trusted, other statuses (400).
    Other,
}

/// Why an image or a blob could not be had: one line for people, without the image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    kind: ErrorKind,
    throttled: bool,
    message: String,
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, SourceError>;

impl From<LimitExceeded> for SourceError {
    fn from(error: LimitExceeded) -> Self {
        Self::corrupt(error.to_string())
    }
}

impl SourceError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::told_by(kind, message.into(), None)
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient | ErrorKind::Stalled)
    }

    /// Whether the registry asked for less, or cannot take what it gets (429, 503): who tries again should be
    /// slower and fewer. Such an error is retryable.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Whether the registry throttles or is silent: asking for more makes it no better.
    pub fn is_overload(&self) -> bool {
        self.throttled || self.kind == ErrorKind::Stalled
    }

    /// The same error, with a remark after it.
    pub(super) fn followed_by(self, remark: impl std::fmt::Display) -> Self {
        Self { message: format!("{}{remark}", self.message), ..self }
    }

    /// The same error, with what was being done in front: `context: message`.
    ///
    /// Where the two together say that bytes are missing, a wrong digest is no wonder
    /// and trying again may help.
    pub(super) fn within(self, context: impl std::fmt::Display) -> Self {
        let message = format!("{context}: {}", self.message);
        match self.kind {
            ErrorKind::Corrupt if texts::is_short(&message) => Self::new(ErrorKind::Transient, message),
            _ => Self { message, ..self },
        }
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
        let line = texts::one_line(text);
        let kind = texts::kind(&line);
        let message = texts::shortened(&line);
        let message = match texts::meaning(&line) {
            Some(meaning) => format!("{meaning}: {message}"),
            None => message,
        };
        let message = match texts::remedy(kind, &line) {
            Some(remedy) => format!("{message}: {remedy}"),
            None => message,
        };
        Self::told_by(kind, message, Some(&line))
    }

    /// An error of `kind`, of which `text` may say more than the message does.
    fn told_by(kind: ErrorKind, message: String, text: Option<&str>) -> Self {
        let throttled = kind == ErrorKind::Transient && texts::is_throttled(text.unwrap_or(&message));
        Self { kind, throttled, message }
    }
}
