//! Text for pictures. Knows what markup and readers must be spared; ignores where the text stands.

use std::{borrow::Cow, time::Duration};

use crate::render::words::printable;

/// `text` without what could reorder or hide its neighbours: names come from registries, and a browser obeys
/// directions of writing also across elements. Characters for private use have no meaning between strangers.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let hides = |c: char| {
        matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            | '\u{fffe}' | '\u{ffff}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e0fff}')
    };
    let text = printable(text);
    if !text.chars().any(hides) {
        return text;
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match hides(c) {
            true => clean.extend(c.escape_unicode()),
            false => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// `text` as content or attribute of XML and HTML.
pub(super) fn escape(text: &str) -> String {
    let text = clean(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `text`, cleaned, in at most `length` characters; the middle gives way, since names differ at both ends.
pub(super) fn clip(text: &str, length: usize) -> String {
    let text: Vec<char> = clean(text).chars().collect();
    if text.len() <= length {
        return text.into_iter().collect();
    }
    let end = length.saturating_sub(1) / 2;
    let begin = length.saturating_sub(1) - end;
    text[..begin].iter().chain(&['…']).chain(&text[text.len() - end..]).collect()
}

/// A span of time with about three digits: `950 µs`, `12.3 ms`, `1.23 s`, `2 m 05 s`.
pub(super) fn span(time: Duration) -> String {
    let micros = time.as_micros();
    let (value, unit) = match micros {
        0..1_000 => return format!("{micros} µs"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        1_000_000..99_950_000 => (micros as f64 / 1e6, "s"),
        _ => {
            let seconds = (micros + 500_000) / 1_000_000;
            return format!("{} m {:02} s", seconds / 60, seconds % 60);
        }
    };
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_only_text() {
        let name = "</script><img src=x onerror='a()'>&\"\u{202e}evil\u{0}\n";
        assert_eq!(
            escape(name),
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;\\u{202e}evil\\u{0} "
        );
    }

    #[test]
    fn a_long_name_keeps_both_its_ends() {
        assert_eq!(clip("quay.example/team/app:v12", 13), "quay.e…pp:v12");
        assert_eq!(clip("größe:v1", 8), "größe:v1");
    }

    #[test]
    fn spans_have_three_digits() {
        let micros = [0, 950, 12_345, 999_000, 1_234_567, 99_940_000, 99_960_000, 3_725_000_000];
        let texts = micros.map(|micros| span(Duration::from_micros(micros)));
        assert_eq!(
            texts,
            ["0 µs", "950 µs", "12.3 ms", "999 ms", "1.23 s", "99.9 s", "1 m 40 s", "62 m 05 s"]
        );
    }
}
