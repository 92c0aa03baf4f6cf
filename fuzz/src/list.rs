//! Lists, plain and YAML, and locks out of any text. Knows what must hold of what was read; ignores registries.

use cfs_dag::list::{Choice, List, ListError, Lock};

use super::memory;

/// Tags to choose from.
const TAGS: [&str; 12] = [
    "latest",
    "1.10",
    "v1.9",
    "1.9.1",
    "1.9.1-rc.1",
    "2",
    "1.10",
    "20-slim",
    ".bad",
    "a/b",
    "edge",
    "1.10.0",
];

/// Reads a text as a list and as a lock.
pub fn list(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A tree of YAML takes some hundred bytes a node, an expression up to 10 MiB once it is compiled; aliases may stand
    // for 100 000 values, each of them perhaps a rule.
    let limit = (96 << 20) + 1000 * text.len();
    match memory::bounded("a list", limit, || List::parse(text)) {
        Ok(list) => check(text, &list),
        Err(error) => check_place(text, &error),
    }
    match memory::bounded("a lock", (1 << 20) + 100 * text.len(), || Lock::parse(text)) {
        Ok(lock) => {
            let written = lock.to_string();
            assert_eq!(Lock::parse(&written).as_ref(), Ok(&lock), "{written}");
            for (reference, platform, digest) in lock.iter() {
                assert_eq!(lock.get(reference, platform), Some(digest));
            }
        }
        Err(error) => check_place(text, &error),
    }
}

fn check(text: &str, list: &List) {
    assert!(!list.rules.is_empty());
    let tags: Vec<String> = TAGS.map(str::to_owned).into();
    let reversed: Vec<String> = tags.iter().rev().cloned().collect();
    for rule in &list.rules {
        assert!((1..=lines(text)).contains(&rule.line), "line {} of {}", rule.line, lines(text));
        assert!(!rule.to_string().is_empty());
        let chosen = rule.choose(&tags);
        assert_eq!(rule.choose(&reversed), chosen, "the choice depends on the order of the tags");
        match &rule.choice {
            Choice::Image(reference) => {
                assert!(chosen.is_empty() && rule.covers(reference));
                assert_eq!(reference.to_string().parse().as_ref(), Ok(reference));
            }
            Choice::Tags { repository, newest, .. } => {
                assert!(newest.is_none_or(|newest| chosen.len() <= newest.get()));
                for tag in &chosen {
                    let reference = repository.tag(tag);
                    assert!(rule.covers(&reference));
                    assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
                }
            }
        }
    }
}

/// That a message names a place that the text has.
fn check_place(text: &str, error: &ListError) {
    let shown = error.to_string();
    // What is missing at the end may be told to be missing in the line after the last one.
    assert!((1..=lines(text) + 1).contains(&error.line), "{shown}");
    assert!((1..=text.len() + 2).contains(&error.column), "{shown}");
}

/// How many lines an editor shows: the last one may be empty. A carriage return ends one, too, in YAML.
fn lines(text: &str) -> usize {
    1 + text.matches('\n').count() + text.matches('\r').count() - text.matches("\r\n").count()
}
