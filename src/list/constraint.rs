//! Version constraints as skopeo's lists write them. Knows the rules of
//! Masterminds/semver; ignores registries.
//!
//! Source: Masterminds/semver 3.5, constraints.go. Its corners are kept, since a list must mean here what it
//! means to skopeo: `^*` holds for 0.0.0 alone, and `~0.0.0` for everything.

use std::{fmt, str::FromStr, sync::LazyLock};

use regex::{Captures, Regex};
use semver::{Prerelease, Version};

use super::version::version;

/// Comparisons joined by "and" (a comma or white space) and "or" (`||`): `>= 1.2, < 3 || ^4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    text: String,
    groups: Vec<Group>,
}

/// Why a text is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConstraintError {
    /// Not the grammar.
    #[error(
        "{0:?} is not a version constraint (expected comparisons, as in \">= 1.2, < 3\", \"~1.2\", \"^2 || \
         4.x\" or \"1.2 - 1.4\")"
    )]
    Malformed(String),
    /// More than upstream takes.
    #[error("the version constraint is too long ({MAX_BYTES} bytes and {MAX_GROUPS} alternatives at most)")]
    TooLong,
}

/// Upstream's limits: longer constraints it does not take.
const MAX_BYTES: usize = 512;
const MAX_GROUPS: usize = 32;

/// Terms that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    terms: Vec<Term>,
    /// Whether some term names a prerelease; otherwise no prerelease passes.
    prereleases: bool,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    operator: Operator,
    /// Numbers that are not given are 0.
    version: Version,
    given: Given,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Tilde,
    Caret,
}

/// Which numbers of a version are written; the others are absent or wildcards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    None,
    Major,
    MajorMinor,
    All,
}

impl Constraint {
    /// Whether `tag` is a version and meets the constraint.
    pub fn check(&self, tag: &str) -> bool {
        version(tag).is_some_and(|version| self.groups.iter().any(|group| group.holds(&version)))
    }
}

impl Group {
    fn holds(&self, version: &Version) -> bool {
        (version.pre.is_empty() || self.prereleases) && self.terms.iter().all(|term| term.holds(version))
    }
}

impl Term {
    fn holds(&self, v: &Version) -> bool {
        let c = &self.version;
        let minors = (v.major, v.minor).cmp(&(c.major, c.minor));
        match (self.operator, self.given) {
            (Operator::Equal, Given::All) => v == c,
            (Operator::Equal | Operator::Tilde, _) => self.tilde(v),
            (Operator::NotEqual, Given::Major) => v.major != c.major,
            // A prerelease that differs makes it another version, although the patch does not count.
            (Operator::NotEqual, Given::MajorMinor) => minors.is_ne() || v.pre != c.pre,
            (Operator::NotEqual, _) => v != c,
            // A range is passed as a whole: 11.1 is not > 11, 12 is.
            (Operator::Greater, Given::Major) => v.major > c.major,
            (Operator::Greater, Given::MajorMinor) => minors.is_gt(),
            (Operator::Greater, _) => v > c,
            (Operator::GreaterOrEqual, _) => v >= c,
            (Operator::Less, _) => v < c,
            (Operator::LessOrEqual, Given::Major) => v.major <= c.major,
            (Operator::LessOrEqual, Given::All) => v <= c,
            (Operator::LessOrEqual, _) => minors.is_le(),
            (Operator::Caret, _) => self.caret(v),
        }
    }

    /// From the version on, within its minor version, or within its major one where no minor is given.
    fn tilde(&self, v: &Version) -> bool {
        let c = &self.version;
        let zero = (c.major, c.minor, c.patch) == (0, 0, 0);
        let anything = zero && matches!(self.given, Given::None | Given::All);
        let within = v.major == c.major && (self.given == Given::Major || v.minor == c.minor);
        v >= c && (anything || within)
    }

    /// From the version on, as long as the first number that is not 0 stays the same.
    fn caret(&self, v: &Version) -> bool {
        let c = &self.version;
        let within = if c.major > 0 || self.given == Given::Major {
            v.major == c.major
        } else if c.minor > 0 || self.given == Given::MajorMinor {
            (v.major, v.minor) == (c.major, c.minor)
        } else {
            (v.major, v.minor, v.patch) == (c.major, c.minor, c.patch)
        };
        v >= c && within
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ranges = RANGE.replace_all(text, ">= $from, <= $to ");
        let groups: Vec<&str> = ranges.split("||").collect();
        if text.len() > MAX_BYTES || groups.len() > MAX_GROUPS {
            return Err(ParseConstraintError::TooLong);
        }
        let groups: Option<Vec<Group>> = groups.into_iter().map(group).collect();
        let groups = groups.ok_or_else(|| ParseConstraintError::Malformed(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), groups })
    }
}

/// What upstream takes for white space.
const SPACE: [char; 5] = [' ', '\t', '\n', '\r', '\x0c'];

fn group(text: &str) -> Option<Group> {
    let mut rest = text.trim_start_matches(SPACE);
    let mut terms = Vec::new();
    loop {
        let (term, after) = term(rest)?;
        terms.push(term);
        let next = after.trim_start_matches(SPACE);
        if next.is_empty() {
            break;
        }
        rest = match next.strip_prefix(',') {
            Some(next) => next.trim_start_matches(SPACE),
            None if next.len() < after.len() => next,
            None => return None,
        };
    }
    let prereleases = terms.iter().any(|term| !term.version.pre.is_empty());
    Some(Group { terms, prereleases })
}

/// The term that `text` begins with, and what follows it.
fn term(text: &str) -> Option<(Term, &str)> {
    let parts = TERM.captures(text)?;
    let operator = match parts.name("operator")?.as_str() {
        "" | "=" => Operator::Equal,
        "!=" => Operator::NotEqual,
        ">" => Operator::Greater,
        ">=" | "=>" => Operator::GreaterOrEqual,
        "<" => Operator::Less,
        "<=" | "=<" => Operator::LessOrEqual,
        "~" | "~>" => Operator::Tilde,
        "^" => Operator::Caret,
        _ => return None,
    };
    let (version, given) = numbers(&parts)?;
    Some((Term { operator, version, given }, &text[parts.get(0)?.end()..]))
}

/// The numbers up to the first wildcard; what comes after that does not count, a prerelease does.
fn numbers(parts: &Captures<'_>) -> Option<(Version, Given)> {
    let mut numbers = [0; 3];
    let mut count = 0;
    for name in ["major", "minor", "patch"] {
        match parts.name(name).map(|number| number.as_str()) {
            None | Some("x" | "X" | "*") => break,
            Some(digits) => numbers[count] = digits.parse().ok()?,
        }
        count += 1;
    }
    let mut version = Version::new(numbers[0], numbers[1], numbers[2]);
    if let Some(prerelease) = parts.name("prerelease") {
        version.pre = Prerelease::new(prerelease.as_str()).ok()?;
    }
    let given = [Given::None, Given::Major, Given::MajorMinor, Given::All][count];
    Some((version, given))
}

const NUMBER: &str = "[0-9]+|[xX*]";
const IDENTIFIERS: &str = "[0-9A-Za-z-]+(?:[.][0-9A-Za-z-]+)*";

static TERM: LazyLock<Regex> = LazyLock::new(|| {
    constant(&format!(
        r"^(?<operator>!=|>=|=>|<=|=<|~>|[=><~^]|)[ \t\n\r\x0c]*v?(?<major>{NUMBER})(?:[.](?<minor>{NUMBER}))?(?:[.](?<patch>{NUMBER}))?(?:-(?<prerelease>{IDENTIFIERS}))?(?:[+]{IDENTIFIERS})?"
    ))
});

/// `1.2 - 1.4.5`; the hyphen of a prerelease has no white space around it.
static RANGE: LazyLock<Regex> = LazyLock::new(|| {
    let number = format!("(?:{NUMBER})");
    let version = format!("v?{number}(?:[.]{number}){{0,2}}(?:-{IDENTIFIERS})?(?:[+]{IDENTIFIERS})?");
    constant(&format!(
        r"[ \t\n\r\x0c]*(?<from>{version})[ \t\n\r\x0c]+-[ \t\n\r\x0c]+(?<to>{version})[ \t\n\r\x0c]*"
    ))
});

fn constant(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant expression")
}

#[cfg(test)]
mod tests;
