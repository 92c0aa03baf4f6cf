//! Tags as versions, and the one order of tags. Knows which tags are versions; ignores who asks for which.

use std::sync::LazyLock;

use regex::Regex;
use semver::{Prerelease, Version};

/// The version that `tag` stands for: one to three numbers, perhaps with a `v` in front and a prerelease
/// behind. Zeros may lead a number, as dates have them (`22.04`).
///
/// Source: Masterminds/semver 3.5, `NewVersion` as skopeo calls it.
pub(super) fn version(tag: &str) -> Option<Version> {
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        let ids = "[0-9A-Za-z-]+(?:[.][0-9A-Za-z-]+)*";
        let text = format!(r"^v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:-({ids}))?(?:\+{ids})?$");
        Regex::new(&text).expect("a constant expression")
    });
    let parts = VERSION.captures(tag)?;
    let number = |at| parts.get(at).map_or(Some(0), |digits| digits.as_str().parse().ok());
    let mut version = Version::new(number(1)?, number(2)?, number(3)?);
    if let Some(prerelease) = parts.get(4) {
        version.pre = Prerelease::new(prerelease.as_str()).ok()?;
    }
    Some(version)
}

/// A tag's place among others: first the tags that are no versions, in natural order, then the versions,
/// oldest first; versions that are the same (`1.2`, `v1.2.0`) in natural order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(Option<Version>, Vec<Piece>, String);

/// What natural order compares: numbers by value, before all other text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    /// How many digits, leading zeros aside, and which.
    Number(usize, String),
    Text(String),
}

impl Place {
    pub(super) fn of(tag: &str) -> Self {
        let pieces = tag.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
        let piece = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            match bytes.first().is_some_and(u8::is_ascii_digit) {
                true => {
                    Piece::Number(text.trim_start_matches('0').len(), text.trim_start_matches('0').to_owned())
                }
                false => Piece::Text(text.into_owned()),
            }
        };
        Self(version(tag), pieces.map(piece).collect(), tag.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_leniently() {
        for (tag, want) in [
            ("1", "1.0.0"),
            ("v1", "1.0.0"),
            ("1.2", "1.2.0"),
            ("v1.2.3", "1.2.3"),
            ("1.2.3-rc.1", "1.2.3-rc.1"),
            ("1.2.3-rc.1+build.5", "1.2.3-rc.1"),
            ("1.2-alpine-perl", "1.2.0-alpine-perl"),
            ("3.12+x", "3.12.0"),
            ("22.04", "22.4.0"),
            ("20240101", "20240101.0.0"),
            ("18446744073709551615.0.0", "18446744073709551615.0.0"),
        ] {
            assert_eq!(version(tag).unwrap().to_string(), want, "{tag}");
        }
        for tag in [
            "",
            "v",
            "latest",
            "V1",
            "1.2.3.4",
            "1.",
            ".1",
            "1..2",
            "1.x",
            "1.2.3-",
            "1.2.3-a..b",
            "1.2.3-01",
            "1.2.3+",
            "1_2",
            " 1",
            "1\n",
            "18446744073709551616",
            "-1",
            "1.2.3-é",
        ] {
            assert_eq!(version(tag), None, "{tag}");
        }
    }

    #[test]
    fn other_tags_come_before_versions_and_numbers_count_by_value() {
        let order = [
            "1.2.3.9",
            "1.2.3.10",
            "a",
            "build-007",
            "build-7",
            "build-10",
            "build-10a",
            "edge",
            "latest", // no versions
            "0.9",
            "1",
            "1.0.0",
            "v1",
            "1.2.0-alpha",
            "1.2.0-rc.2",
            "1.2.0-rc.10",
            "1.2",
            "1.10",
            "10",
            "20240101",
        ];
        let mut tags = order;
        tags.reverse();
        tags.sort_by_key(|tag| Place::of(tag));
        assert_eq!(tags, order);
    }
}
