//! What shall be mirrored: lists, their rules, and locks. Knows texts and tags; ignores
//! registries, files and pulls.
//!
//! A [`List`] is text or YAML and holds [`Rule`]s: images by name, or tags that a pattern chooses of what a
//! registry has. A [`Lock`] keeps what every tag stood for.

mod constraint;
mod error;
mod expression;
mod lock;
mod repository;
mod rule;
mod text;
mod tree;
mod version;
mod yaml;

pub use constraint::{Constraint, ParseConstraintError};
pub use error::ListError;
pub use lock::Lock;
pub use repository::{ParseRepositoryError, Repository};
pub use rule::{Choice, Pattern, Registry, Rule};

/// The rules of a list, in the order of the file; at least one.
#[derive(Debug, Clone)]
pub struct List {
    /// The rules.
    pub rules: Vec<Rule>,
}

impl List {
    /// Reads a list: plain text or YAML.
    ///
    /// It is YAML if its first line that is neither empty nor a comment begins with `---`, `{`, `%` or
    /// a quote, or holds a colon that white space or the line's end follows.
    /// `docker://host:5000/x name` has no such colon.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place; also where the list names no image.
    pub fn parse(text: &str) -> Result<Self, ListError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let rules = if is_yaml(text) { yaml::parse(text)? } else { text::parse(text)? };
        match rules.is_empty() {
            true => Err(ListError::new(1, 1, "the list names no image")),
            false => Ok(Self { rules }),
        }
    }
}

/// More images no plain list names. With YAML's bound on values it keeps what a list takes in memory below a
/// few hundred MB: a rule takes some 300 bytes, and could stand in a line of 6.
const MAX_RULES: usize = 1_000_000;

fn is_yaml(text: &str) -> bool {
    let mut lines = text::lines(text).map(|(_, line)| text::without_comment(line).trim());
    let Some(first) = lines.find(|line| !line.is_empty()) else { return false };
    let is_reference = |transport: &str| {
        let rest = first.strip_prefix(transport);
        rest.is_some_and(|rest| rest.starts_with(|c: char| !c.is_whitespace()))
    };
    if !first.ends_with(':') && TRANSPORTS.iter().any(|transport| is_reference(transport)) {
        return false;
    }
    let has_key = first.ends_with(':') || first.contains(": ") || first.contains(":\t");
    first.starts_with("---") || first.starts_with(['{', '%', '"', '\'']) || has_key
}

/// What a reference may begin with: no key of a YAML list does, with anything behind it.
const TRANSPORTS: [&str; 6] =
    ["docker://", "oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:"];

#[cfg(test)]
mod tests;
