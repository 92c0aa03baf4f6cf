//! Regular expressions of lists. Knows what Go and the `regex` crate read differently;
//! ignores which tags there are.
//!
//! skopeo is written in Go. An expression must choose the same tags in both programs, so one that Go
//! refuses or reads in another way is refused here too. Tags are ASCII: what differs in other
//! characters alone does not count.
//!
//! Source: Go's `regexp/syntax`, parse.go, with the flags of `regexp.Compile` (`syntax.Perl`).

use std::collections::HashMap;

use regex::Regex;
use regex_syntax::ast::{
    self, Ast, ClassSet, ClassSetItem, ClassUnicode, ClassUnicodeKind, ErrorKind, Flag, FlagsItemKind,
    GroupKind, HexLiteralKind, LiteralKind, RepetitionKind, RepetitionRange, Span,
};

/// The expressions of a list; the same text is compiled once, however often aliases repeat it.
#[derive(Default)]
pub(super) struct Expressions(HashMap<String, Regex>);

impl Expressions {
    /// The expression that `text` is.
    ///
    /// # Errors
    /// Why it is refused, on one line, with the place in the expression.
    pub(super) fn compile(&mut self, text: &str) -> Result<Regex, String> {
        if let Some(regex) = self.0.get(text) {
            return Ok(regex.clone());
        }
        let tree = ast::parse::Parser::new().parse(text).map_err(|error| not_an_expression(text, &error))?;
        let reader = Reader { text };
        reader.check(&tree, MAX_REPEAT).map_err(|(span, what)| {
            let place = place(text, span.start.offset);
            format!("{text:?} means something else to Go, and so to skopeo: {what} at {place}")
        })?;
        let regex = Regex::new(text).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("{text:?} is not a regular expression: it is too large")
            }
            // The crate draws a picture over several lines; the last one says what is wrong.
            other => {
                let picture = other.to_string();
                let last = picture.lines().last().unwrap_or_default();
                let last = last.strip_prefix("error: ").unwrap_or(last);
                format!("{text:?} is not a regular expression: {last}")
            }
        })?;
        self.0.insert(text.to_owned(), regex.clone());
        Ok(regex)
    }
}

fn not_an_expression(text: &str, error: &ast::Error) -> String {
    let (what, place) = (error.kind(), place(text, error.span().start.offset));
    let rest = &text[error.span().start.offset..];
    let hint = match what {
        ErrorKind::EscapeUnrecognized if rest.starts_with(r"\Q") => ": put a backslash before each character",
        ErrorKind::EscapeUnrecognized if rest.starts_with(r"\Z") => r": write \z",
        ErrorKind::ClassUnclosed => r": write \[ for a bracket",
        ErrorKind::RepetitionCountUnclosed | ErrorKind::RepetitionCountDecimalEmpty => {
            r": write \{ for a brace"
        }
        _ => "",
    };
    format!("{text:?} is not a regular expression: {what}, at {place}{hint}")
}

/// A place in an expression, for people: the characters are counted from 1.
fn place(text: &str, offset: usize) -> String {
    format!("its character {}", text[..offset].chars().count() + 1)
}

/// More repetitions Go refuses, in one or in several that are nested.
const MAX_REPEAT: u32 = 1000;

/// The one-letter and two-letter categories that both know by the same names, and the only script with ASCII
/// letters. `Cn` and `LC` are unknown to older Go.
const CATEGORIES: [&str; 36] = [
    "C", "Cc", "Cf", "Co", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No",
    "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
    "Latin",
];

type Refused = (Span, &'static str);

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    /// Refuses what Go reads differently. `repeats` is how often Go would repeat what is here. The parser
    /// bounds how deep trees are.
    fn check(&self, tree: &Ast, repeats: u32) -> Result<(), Refused> {
        match tree {
            Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => Ok(()),
            Ast::Flags(set) => flags(&set.flags),
            Ast::Literal(literal) => self.literal(literal),
            Ast::Assertion(assertion) => self.assertion(assertion),
            Ast::ClassUnicode(class) => self.unicode(class),
            Ast::ClassBracketed(class) => self.class(class),
            Ast::Repetition(repetition) => self.repetition(repetition, repeats),
            Ast::Group(group) => {
                match &group.kind {
                    GroupKind::CaptureIndex(_) => {}
                    GroupKind::CaptureName { starts_with_p: false, .. } => {
                        return Err((group.span, "(?<name>…), which older Go refuses: write (?P<name>…)"));
                    }
                    GroupKind::CaptureName { name, .. } => {
                        if !name.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                            return Err((name.span, "a group's name of other than letters, digits and _"));
                        }
                    }
                    GroupKind::NonCapturing(set) => flags(set)?,
                }
                self.check(&group.ast, repeats)
            }
            Ast::Alternation(all) => all.asts.iter().try_for_each(|tree| self.check(tree, repeats)),
            Ast::Concat(all) => all.asts.iter().try_for_each(|tree| self.check(tree, repeats)),
        }
    }

    fn literal(&self, literal: &ast::Literal) -> Result<(), Refused> {
        match literal.kind {
            LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
            | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
                Err((literal.span, "\\u or \\U: write \\x{…}"))
            }
            LiteralKind::Octal => Err((literal.span, "an octal number: write \\x{…}")),
            _ => Ok(()),
        }
    }

    fn assertion(&self, assertion: &ast::Assertion) -> Result<(), Refused> {
        use ast::AssertionKind as Kind;
        match assertion.kind {
            Kind::StartLine | Kind::EndLine | Kind::StartText | Kind::EndText => Ok(()),
            Kind::WordBoundary | Kind::NotWordBoundary => Ok(()),
            Kind::WordBoundaryStartAngle | Kind::WordBoundaryEndAngle => Err((
                assertion.span,
                "\\< or \\>, which is a character to Go: write \\b, or leave out the backslash",
            )),
            Kind::WordBoundaryStart
            | Kind::WordBoundaryEnd
            | Kind::WordBoundaryStartHalf
            | Kind::WordBoundaryEndHalf => Err((assertion.span, "\\b with braces: write \\b")),
        }
    }

    fn unicode(&self, class: &ClassUnicode) -> Result<(), Refused> {
        let known = match &class.kind {
            ClassUnicodeKind::OneLetter(letter) => CATEGORIES.contains(&&*letter.to_string()),
            ClassUnicodeKind::Named(name) => CATEGORIES.contains(&name.as_str()),
            ClassUnicodeKind::NamedValue { .. } => false,
        };
        if known { Ok(()) } else { Err((class.span, "a class that Go does not know by this name")) }
    }

    fn class(&self, class: &ast::ClassBracketed) -> Result<(), Refused> {
        let text = &self.text[class.span.start.offset + 1..class.span.end.offset];
        let inner = text.strip_prefix('^').unwrap_or(text);
        // Go takes both for the begin of a range.
        let begins_range = |first: &str| inner.strip_prefix(first).is_some_and(|rest| !rest.starts_with(']'));
        if begins_range("--") || begins_range("]-") {
            return Err((
                class.span,
                "a class that begins with - or ] and a hyphen: put a backslash before it",
            ));
        }
        match &class.kind {
            ClassSet::Item(item) => self.item(item),
            ClassSet::BinaryOp(operation) => Err((
                operation.span,
                "&&, -- or ~~ in a class, which are characters to Go: put a backslash before each",
            )),
        }
    }

    fn item(&self, item: &ClassSetItem) -> Result<(), Refused> {
        match item {
            ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => Ok(()),
            ClassSetItem::Literal(literal) => self.literal(literal),
            ClassSetItem::Range(range) => self.literal(&range.start).and_then(|()| self.literal(&range.end)),
            ClassSetItem::Unicode(class) => self.unicode(class),
            ClassSetItem::Bracketed(class) => {
                Err((class.span, "a class in a class, which is a character to Go: write \\[ for a bracket"))
            }
            ClassSetItem::Union(union) => union.items.iter().try_for_each(|item| self.item(item)),
        }
    }

    fn repetition(&self, repetition: &ast::Repetition, repeats: u32) -> Result<(), Refused> {
        let span = repetition.op.span;
        if let Ast::Repetition(_) = &*repetition.ast {
            return Err((span, "a repetition of a repetition: put the inner one in (?:…)"));
        }
        let RepetitionKind::Range(range) = &repetition.op.kind else {
            return self.check(&repetition.ast, repeats);
        };
        // The crate allows blanks and leading zeros, with which Go takes the braces for characters.
        let written = &self.text[span.start.offset..span.end.offset];
        let (plain, times) = match *range {
            RepetitionRange::Exactly(n) => (format!("{{{n}}}"), n),
            RepetitionRange::AtLeast(n) => (format!("{{{n},}}"), n),
            RepetitionRange::Bounded(n, m) => (format!("{{{n},{m}}}"), m),
        };
        if written.strip_suffix('?').unwrap_or(written) != plain {
            return Err((span, "a repetition with blanks or leading zeros"));
        }
        if times > repeats {
            return Err((span, "more than 1000 repetitions, nested ones multiplied"));
        }
        // What is never there may be what it likes.
        self.check(&repetition.ast, repeats.checked_div(times).unwrap_or(MAX_REPEAT))
    }
}

fn flags(flags: &ast::Flags) -> Result<(), Refused> {
    let unknown = flags.items.iter().find(|item| {
        matches!(item.kind, FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace))
    });
    unknown.map_or(Ok(()), |item| Err((item.span, "one of the flags u, R and x, which Go does not have")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Expressions::default().compile(text).expect_err(text)
    }

    #[test]
    fn what_go_reads_differently_is_refused_with_its_place() {
        for (text, place, part) in [
            ("^[a-z&&[^b]]", 3, "&&, -- or ~~ in a class"),
            ("[a--b]", 2, "&&, -- or ~~ in a class"),
            ("[a~~b]", 2, "&&, -- or ~~ in a class"),
            ("v[a[b]]", 4, "a class in a class"),
            ("[[:foo:]]", 2, "a class in a class"),
            ("[--/]", 1, "begins with - or ]"),
            ("[^]-a]", 1, "begins with - or ]"),
            ("é(?x)a b", 4, "flags u, R and x"),
            ("(?x: a)", 3, "flags u, R and x"),
            ("(?i-u)a", 5, "flags u, R and x"),
            ("(?R)a$", 3, "flags u, R and x"),
            ("(?<name>a)", 1, "write (?P<name>…)"),
            ("(?P<a.b>a)", 5, "a group's name"),
            (r"a\<b", 2, r"\< or \>"),
            (r"a\>", 2, r"\< or \>"),
            (r"\b{start}a", 1, r"\b with braces"),
            (r"\b{end-half}", 1, r"\b with braces"),
            (r"\u0041", 1, r"write \x{…}"),
            (r"[\U00000041]", 2, r"write \x{…}"),
            (r"\p{Letter}", 1, "a class that Go does not know"),
            (r"\p{sc=Greek}", 1, "a class that Go does not know"),
            (r"[\p{alphabetic}]", 2, "a class that Go does not know"),
            ("a**", 3, "a repetition of a repetition"),
            ("a{2}{3}", 5, "a repetition of a repetition"),
            ("a{ 2 }", 2, "blanks or leading zeros"),
            ("a{02}", 2, "blanks or leading zeros"),
            ("a{1001}", 2, "more than 1000 repetitions"),
            ("a{0,1001}", 2, "more than 1000 repetitions"),
            ("(a{101}b){10}", 3, "more than 1000 repetitions"),
        ] {
            let error = error(text);
            assert!(error.contains(part) && error.ends_with(&format!("at its character {place}")), "{error}");
            assert!(error.contains("to skopeo"), "{error}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told_with_its_place() {
        for (text, place, part) in [
            ("a(b", 2, "unclosed group"),
            (r"é\123", 2, "backreferences are not supported"),
            (r"\Qa.b\E", 1, "unrecognized escape sequence"),
            (r"a\Z", 2, "unrecognized escape sequence"),
            (r"a\C", 2, "unrecognized escape sequence"),
            ("a(?=b)", 2, "look-around"),
            (r"(a)\1", 4, "backreferences"),
            ("[[]", 2, "unclosed character class"),
            ("a{x}", 3, "repetition quantifier"),
            ("*a", 1, "repetition operator"),
            ("ab{,2}", 4, "repetition quantifier"),
        ] {
            let error = error(text);
            assert!(error.contains(part) && error.contains(&format!("at its character {place}")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_go_reads_alike_is_taken() {
        for text in [
            "",
            r"^v?\d+\.\d+\.\d+$",
            r"^[\w.-]{0,128}$",
            "(?i)^ALPINE-",
            "(?i:a)(?s-m:.)(?U)a+",
            "(?P<major>[0-9]+)[.]",
            "[[:alpha:][:^digit:]_-]",
            "[]a]",
            "[^]]",
            "[-a]",
            "[a-]",
            "[a-d-z]",
            r"[+\--/\]\[&~|]",
            "[a&b~c]",
            r"\A\x41\x{42}\t\_\%\-\z",
            r"\pN\PL\p{Lu}\P{Nd}\p{Latin}",
            r"\bx\B",
            "(a{10}){100}",
            "(a{999}){0}",
            "a{2,}?b??c*?",
            "a||()",
            "}]",
        ] {
            let taken = Expressions::default().compile(text);
            assert!(taken.is_ok(), "{taken:?}");
        }
    }
}
