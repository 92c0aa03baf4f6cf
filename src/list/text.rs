//! Plain lists: a reference a line, a name behind it. Knows lines, words and comments; ignores what a name may be.

use super::{Choice, ListError, Rule};

/// The rules of a plain list.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, ListError> {
    text.lines().zip(1..).filter_map(|(line, number)| rule(number, line).transpose()).collect()
}

fn rule(number: usize, line: &str) -> Result<Option<Rule>, ListError> {
    let mut words = words(without_comment(line));
    let Some((column, reference)) = words.next() else { return Ok(None) };
    let reference = reference.parse().map_err(|cause| ListError::new(number, column, cause))?;
    let name = words.next().map(|(_, name)| name.to_owned());
    if let Some((column, word)) = words.next() {
        let text = format!("{word:?} is too much: a line holds a reference and perhaps a name for it");
        return Err(ListError::new(number, column, text));
    }
    Ok(Some(Rule {
        line: number,
        choice: Choice::Image(reference),
        name,
        platform: None,
        immutable_tags: false,
        registry: None,
    }))
}

/// The line without its comment, which begins with a `#` at the line's start or after white space, as in YAML.
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
    fn what_is_wrong_is_told_with_its_place() {
        for (text, place, part) in [
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
            assert!(error.text.contains(part), "{error}");
        }
    }
}
