//! Plain lists: a reference a line, a name behind it. Knows lines, words and comments, and
//! which names no list may give.

use std::iter;

use super::{Choice, ListError, MAX_RULES, Rule};
use crate::{
    source::{Reference, has_login, without_login},
    types::looks_like_digest,
};

/// The rules of a plain list.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, ListError> {
    let mut rules = Vec::new();
    for (number, line) in lines(text) {
        let Some(rule) = rule(number, line)? else { continue };
        if rules.len() == MAX_RULES {
            return Err(ListError::new(number, 1, format!("more than {MAX_RULES} images: split the list")));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(number: usize, line: &str) -> Result<Option<Rule>, ListError> {
    check_white_space(number, line)?;
    let mut words = words(without_comment(line));
    let Some((column, reference)) = words.next() else { return Ok(None) };
    let reference = reference.parse().map_err(|cause| ListError::new(number, column, cause))?;
    let name = words.next();
    if let Some((column, name)) = name {
        check_name(name).map_err(|why| ListError::new(number, column, why))?;
    }
    if let Some((column, word)) = words.next() {
        let word = without_login(word);
        let text = format!("{word:?} is too much: a line holds a reference and perhaps a name for it");
        return Err(ListError::new(number, column, text));
    }
    Ok(Some(Rule {
        line: number,
        choice: Choice::Image(reference),
        name: name.map(|(_, name)| name.to_owned()),
        platform: None,
        immutable_tags: false,
        as_upstream: false,
        registry: None,
    }))
}

/// Refuses a name that is not one; what else cannot be stored as a name is found by the repository.
fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with('@') {
        return Err(format!("the name {name:?} starts with @, which marks digests: choose another"));
    }
    if name.parse::<Reference>().is_ok() || has_login(name) {
        let shown = without_login(name);
        return Err(format!("{shown:?} is a second reference: a line holds one, and perhaps a name for it"));
    }
    if looks_like_digest(name) {
        return Err(format!("the name {name:?} looks like a digest: choose another"));
    }
    Ok(())
}

/// Refuses characters that look like the end of a line, or like a blank, and are neither here: the line would
/// be another one than what an editor shows.
fn check_white_space(number: usize, line: &str) -> Result<(), ListError> {
    let ends_line = |c: char| matches!(c, '\x0b' | '\x0c' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let strange = |c: char| c.is_whitespace() && !matches!(c, ' ' | '\t');
    let rest = without_comment(line).len();
    let found = line.char_indices().find(|(at, c)| ends_line(*c) || (*at < rest && strange(*c)));
    let Some((at, c)) = found else { return Ok(()) };
    let what =
        if ends_line(c) { "does not end a line: use a line feed" } else { "is not a blank: use a space" };
    let text = format!("the character U+{:04X} {what}", u32::from(c));
    Err(ListError::new(number, line[..at].chars().count() + 1, text))
}

/// The lines of a text with their numbers, from 1. A line feed ends one, a carriage
/// return, or both, as in YAML.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = Some(text);
    let lines = iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let after = &text[end..];
        rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
        Some(&text[..end])
    });
    (1..).zip(lines)
}

/// The line without its comment, which begins with a `#` at the line's start or after
/// white space, as in YAML.
pub(super) fn without_comment(line: &str) -> &str {
    let begins = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').find(|(at, _)| begins(*at));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// The words of a line, each with the column where it begins, from 1.
pub(super) fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 1;
    let spans = line.split(char::is_whitespace).map(move |word| {
        let column = next;
        next += word.chars().count() + 1;
        (column, word)
    });
    spans.filter(|(_, word)| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_reference_and_perhaps_a_name() {
        let text =
            "# what we run\r\n\r\ndocker://r.example:5000/a:v1\r\n\toci:some/dir:v2  app:v2 # ours\n#end";
        let rules = parse(text).unwrap();
        let seen: Vec<_> = rules.iter().map(|r| (r.line, r.to_string(), r.name.as_deref())).collect();
        let first = (3, "docker://r.example:5000/a:v1".to_owned(), None);
        assert_eq!(seen, [first, (4, "oci:some/dir:v2".to_owned(), Some("app:v2"))]);
    }

    #[test]
    fn a_comment_begins_after_white_space_only() {
        for (line, rest) in
            [("# x", ""), ("a # x", "a "), ("a#b #c", "a#b "), ("a#b", "a#b"), ("é\u{a0}#", "é\u{a0}")]
        {
            assert_eq!(without_comment(line), rest, "{line}");
        }
    }

    #[test]
    fn a_line_ends_with_a_line_feed_or_a_carriage_return() {
        for text in ["dir:a\ndir:b", "dir:a\rdir:b", "dir:a\r\ndir:b\r\n", "dir:a\rdir:b\n\r"] {
            let rules = parse(text).unwrap();
            let seen: Vec<_> = rules.iter().map(|rule| (rule.line, rule.to_string())).collect();
            assert_eq!(seen, [(1, "dir:a".to_owned()), (2, "dir:b".to_owned())], "{text:?}");
        }
        assert_eq!(parse("dir:a web@prod").unwrap()[0].name.as_deref(), Some("web@prod"));
        // A no-break space in a comment harms nothing.
        assert_eq!(parse("dir:a # 10\u{a0}MB").unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, place, part) in [
            ("dir:a\u{2028}dir:b", (1, 6), "U+2028 does not end a line"),
            ("# x\u{2029}dir:b\ndir:c", (1, 4), "U+2029 does not end a line"),
            ("\ndir:a\u{85}dir:b", (2, 6), "U+0085 does not end a line"),
            ("dir:a\u{a0}web", (1, 6), "U+00A0 is not a blank"),
            ("\rdir:a dir:b", (2, 7), "\"dir:b\" is a second reference"),
            ("docker://r.io/a me:secret@r.io/b", (1, 17), "\"***@r.io/b\" is a second reference"),
            ("docker://r.io/a b me:secret@r.io/b", (1, 19), "\"***@r.io/b\" is too much"),
            ("docker://me:secret@r.io/a", (1, 1), "docker://***@r.io/a: a reference holds no user"),
            ("dir:x\n  docker://r.io/App", (2, 3), "\"App\" is not in lower case"),
            ("docker://r.io/a:", (1, 1), "the tag is empty"),
            ("docker://r.io/a#b", (1, 1), "'#' cannot be part"),
            ("docker://http://r.io/a", (1, 1), "leave out http://"),
            ("dir:x @web", (1, 7), "starts with @"),
            ("dir:x sha256:00ff", (1, 7), "looks like a digest"),
            ("\n\n  alpine:3", (3, 3), "docker://alpine:3"),
            ("docker://a b  c", (1, 15), "\"c\" is too much"),
            ("oci:é x y z", (1, 9), "\"y\""),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.column), place, "{error}");
            assert!(
                error.to_string().starts_with(&format!("line {}, column {}: ", place.0, place.1)),
                "{error}"
            );
            assert!(error.text.contains(part) && !error.text.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_list_of_too_many_lines_is_refused_before_all_of_them_are_kept() {
        let error = parse(&"dir:a\n".repeat(MAX_RULES + 5)).unwrap_err();
        assert_eq!(
            (error.line, error.text.contains("more than 1000000 images")),
            (MAX_RULES + 1, true),
            "{error}"
        );
    }
}
