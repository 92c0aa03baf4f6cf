//! Locks: what every tag of a list stood for. Knows their text; ignores who resolved the tags, and when.
//!
//! One line an image, sorted, so that a lock can be checked in and a change reads as one:
//!
//! ```text
//! # cfs-dag lock 1: what each image of a list stood for
//! sha256:<hex> docker://quay.io/coreos/etcd:latest
//! sha256:<hex> docker://r.example/alpine:3.20 linux/arm64
//! ```

use std::{collections::BTreeMap, fmt};

use super::{
    ListError,
    text::{lines, without_comment, words},
};
use crate::{
    source::{Platform, Reference},
    types::Digest,
};

/// The first line of a lock, up to its version.
const HEAD: &str = "# cfs-dag lock ";
/// The version that is written and read.
const VERSION: &str = "1";

/// What each image stood for, by reference and platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    // By the platform's text, which has an order; empty where there is none, so that it comes first.
    entries: BTreeMap<(String, String), Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    platform: Option<Platform>,
    digest: Digest,
}

impl Lock {
    /// Reads a lock. Lines may be in any order; empty lines and comments are passed over.
    ///
    /// # Errors
    /// It is no lock, or one of another version; a line is malformed, or names an image
    /// that an earlier line names.
    pub fn parse(text: &str) -> Result<Self, ListError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        check_head(lines(text).next().map_or("", |(_, line)| line))?;
        let mut lock = Self::default();
        for (number, line) in lines(text) {
            lock.read(number, without_comment(line))?;
        }
        Ok(lock)
    }

    fn read(&mut self, number: usize, line: &str) -> Result<(), ListError> {
        let error = |column, text: &dyn fmt::Display| Err(ListError::new(number, column, text));
        let mut words = words(line);
        let Some((column, digest)) = words.next() else { return Ok(()) };
        let digest = match digest.parse() {
            Ok(digest) => digest,
            Err(cause) => return error(column, &cause),
        };
        let Some((at, text)) = words.next() else {
            return error(
                column + line.trim().chars().count(),
                &"the reference is missing behind the digest",
            );
        };
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            Err(cause) => return error(at, &cause),
        };
        let platform = match words.next().map(|(column, text)| (column, text.parse())) {
            None => None,
            Some((_, Ok(platform))) => Some(platform),
            Some((column, Err(cause))) => return error(column, &cause),
        };
        if let Some((column, word)) = words.next() {
            return error(
                column,
                &format!("{word:?} is too much: a line holds a digest, a reference and perhaps a platform"),
            );
        }
        if self.get(text, platform.as_ref()).is_some() {
            return error(at, &format!("{text} is there twice: remove one of the lines"));
        }
        self.insert(&reference, platform, digest);
        Ok(())
    }

    /// What `reference` stood for on `platform`; both as they were when they were inserted.
    pub fn get(&self, reference: &str, platform: Option<&Platform>) -> Option<Digest> {
        self.entries.get(&key(reference, platform)).map(|entry| entry.digest)
    }

    /// Notes what `reference` stands for on `platform`, in place of what it stood for.
    ///
    /// `false`, and nothing is noted, if the reference holds white space: no line could hold it,
    /// and no list can name it.
    pub fn insert(&mut self, reference: &Reference, platform: Option<Platform>, digest: Digest) -> bool {
        let text = reference.default_name();
        // A `#` is a comment's only after white space, so it does no harm.
        if text.contains(char::is_whitespace) {
            return false;
        }
        self.entries.insert(key(text, platform.as_ref()), Entry { platform, digest });
        true
    }

    /// All entries, sorted by reference, then platform.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Platform>, Digest)> {
        self.entries
            .iter()
            .map(|((reference, _), entry)| (reference.as_str(), entry.platform.as_ref(), entry.digest))
    }
}

fn key(reference: &str, platform: Option<&Platform>) -> (String, String) {
    (reference.to_owned(), platform.map(Platform::to_string).unwrap_or_default())
}

fn check_head(line: &str) -> Result<(), ListError> {
    let Some(rest) = line.strip_prefix(HEAD) else {
        let text = format!(
            "this is not a lock: its first line is not \"{HEAD}{VERSION}\": remove the file to begin anew"
        );
        return Err(ListError::new(1, 1, text));
    };
    let version = rest.split([':', ' ']).next().unwrap_or_default();
    if version == VERSION {
        return Ok(());
    }
    let text = format!(
        "a lock of version {version:?}, and this program reads {VERSION}: use the program that wrote it"
    );
    Err(ListError::new(1, HEAD.len() + 1, text))
}

/// The whole text, with a line break at the end.
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}{VERSION}: what each image of a list stood for")?;
        for (reference, platform, digest) in self.iter() {
            write!(f, "{digest} {reference}")?;
            platform.iter().try_for_each(|platform| write!(f, " {platform}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_lock_is_sorted_whatever_the_order_of_its_making() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let arm: Platform = "linux/arm64".parse().unwrap();
        let mut lock = Lock::default();
        assert!(lock.insert(&reference("docker://r.example/b:1"), None, a));
        assert!(lock.insert(&reference("docker://r.example/a:1"), Some(arm.clone()), a));
        assert!(lock.insert(&reference("docker://r.example/a:1"), None, a));
        assert!(lock.insert(&reference("docker://r.example/a:1"), None, b));
        let text = format!(
            "# cfs-dag lock 1: what each image of a list stood for\n\
             {b} docker://r.example/a:1\n\
             {a} docker://r.example/a:1 linux/arm64\n\
             {a} docker://r.example/b:1\n"
        );
        assert_eq!(lock.to_string(), text);
        assert_eq!(Lock::parse(&text).unwrap(), lock);
        assert_eq!(Lock::parse(&text.replace('\n', "\r\n")).unwrap(), lock);
        assert_eq!(lock.get("docker://r.example/a:1", None), Some(b));
        assert_eq!(lock.get("docker://r.example/a:1", Some(&arm)), Some(a));
        assert_eq!(lock.get("docker://r.example/b:1", Some(&arm)), None);
    }

    #[test]
    fn what_a_line_cannot_hold_is_not_noted() {
        let mut lock = Lock::default();
        assert!(!lock.insert(&reference("oci:some dir:v1"), None, Digest::of(b"")));
        assert_eq!(lock, Lock::default());
    }

    #[test]
    fn what_is_no_lock_says_so() {
        let digest = Digest::of(b"");
        let head = "# cfs-dag lock 1\n";
        for (text, place, part) in [
            (String::new(), (1, 1), "not a lock"),
            (format!("{digest} docker://a\n"), (1, 1), "not a lock"),
            ("# cfs-dag lock 2: other\n".to_owned(), (1, 16), "version \"2\""),
            ("# cfs-dag lock 11\n".to_owned(), (1, 16), "version \"11\""),
            (format!("{head}\n sha256:00 docker://a"), (3, 2), "not a digest"),
            (format!("{head}<<<<<<< ours"), (2, 1), "not a digest"),
            (format!("{head}{digest}"), (2, 72), "reference is missing"),
            (format!("{head}{digest} alpine"), (2, 73), "docker://alpine"),
            (format!("{head}{digest} dir:a linux"), (2, 79), "not a platform"),
            (format!("{head}{digest} dir:a linux/arm64 x"), (2, 91), "\"x\" is too much"),
            (
                format!("{head}{digest} dir:a\n{digest} dir:b\n{digest} dir:a"),
                (4, 73),
                "dir:a is there twice",
            ),
        ] {
            let error = Lock::parse(&text).unwrap_err();
            assert_eq!((error.line, error.column), place, "{error}");
            assert!(error.text.contains(part) && !error.text.contains('\n'), "{error}");
        }
    }

    proptest! {
        /// What is written reads back as the same, and no text makes reading panic.
        #[test]
        fn a_lock_reads_back(
            entries in proptest::collection::vec(("[a-c#]{1,3}", 0usize..3, any::<[u8; 32]>()), 0..8),
            noise in r"# cfs-dag lock 1\n(sha256:[0-9a-f]{62,65}|dir:|docker://[a@]|[ #:/\n]|\PC){0,8}|\PC{0,60}",
        ) {
            let mut lock = Lock::default();
            for (name, platform, digest) in entries {
                let platform = [None, Some("linux/arm64"), Some("linux/amd64")][platform];
                lock.insert(&reference(&format!("dir:{name}")), platform.map(|p| p.parse().unwrap()),
                    digest.into());
            }
            prop_assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
            if let Ok(lock) = Lock::parse(&noise) {
                prop_assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
            }
        }
    }
}
