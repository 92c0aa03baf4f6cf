//! Numbers and names as people read them. Knows units and widths; ignores what is measured.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use crate::graph::{ImageIx, Plan, Subject};

/// `bytes` with three digits and a decimal unit (`999 B`, `1.00 kB`, `31.2 MB`), as registries show sizes.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // Not 1000.0: 999.5 would be rounded to four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A time left or gone by as `m:ss` or `h:mm:ss`, rounded up to whole seconds.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `text` on one line and without control characters: names and errors come from registries, and a terminal
/// obeys what it is sent.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => clean.push(' '),
            c if c.is_control() => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// [`printable`] text, and without what could reorder or hide its neighbours: a viewer obeys directions of
/// writing also across labels. Characters for private use have no meaning between strangers.
pub fn clean(text: &str) -> Cow<'_, str> {
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
pub fn escape(text: &str) -> String {
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
pub fn clip(text: &str, length: usize) -> String {
    let text: Vec<char> = clean(text).chars().collect();
    if text.len() <= length {
        return text.into_iter().collect();
    }
    let end = length.saturating_sub(1) / 2;
    let begin = length.saturating_sub(1) - end;
    text[..begin].iter().chain(&['…']).chain(&text[text.len() - end..]).collect()
}

/// A span of time with about three digits: `950 µs`, `12.3 ms`, `1.23 s`, `2 m 05 s`.
pub fn span(time: Duration) -> String {
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

/// A subject in at most a few characters; names in full.
pub fn short(subject: &Subject) -> String {
    match subject {
        Subject::Blob(digest) | Subject::Layer(digest) | Subject::Document(digest) => digest.short(),
        Subject::Tree(key) => key.short(),
        Subject::Name(name) => printable(name).into_owned(),
    }
}

/// The names of `images`, at most three of them, and how many more there are.
pub fn image_names(plan: &Plan, images: &[ImageIx]) -> String {
    const SHOWN: usize = 3;
    let names = images.iter().filter_map(|ix| plan.images.get(ix.0)).map(|image| printable(&image.name));
    let mut list = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if images.len() > SHOWN {
        // Writing to a String cannot fail.
        let _ = write!(list, " and {} more", images.len() - SHOWN);
    }
    list
}

/// `one` or `many` after its number.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Rows as lines with aligned columns, two blanks between; the columns in `right` are aligned to the right.
/// A line has no trailing blanks.
pub fn columns<const N: usize>(rows: &[[String; N]], right: &[usize]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.iter().map(|row| aligned(row, &widths, right)).collect()
}

fn aligned(row: &[String], widths: &[usize], right: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, &width)) in row.iter().zip(widths).enumerate() {
        // A column that is empty in all rows takes no place.
        if width == 0 {
            continue;
        }
        if !line.is_empty() || column > 0 {
            line.push_str("  ");
        }
        // Writing to a String cannot fail.
        let _ = match right.contains(&column) {
            true => write!(line, "{cell:>width$}"),
            false => write!(line, "{cell:<width$}"),
        };
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 999, 1000, 1004, 9_995, 12_345, 999_499, 999_500, 31_200_000, u64::MAX];
        let texts = sizes.map(size);
        let expected = [
            "0 B", "999 B", "1.00 kB", "1.00 kB", "10.0 kB", "12.3 kB", "999 kB", "1.00 MB", "31.2 MB",
            "18.4 EB",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn clocks_round_up() {
        let texts = [0, 1, 59_001, 60_000, 3_600_000].map(|ms| clock(Duration::from_millis(ms)));
        assert_eq!(texts, ["0:00", "0:01", "1:00", "1:00", "1:00:00"]);
    }

    #[test]
    fn a_hostile_name_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb c");
        assert_eq!(printable("größe:v1"), "größe:v1");
    }

    #[test]
    fn empty_columns_vanish() {
        let rows = [["a", "", "1"], ["bbb", "", "22"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows, &[2]), ["a     1", "bbb  22"]);
    }

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
        assert_eq!(clip("registry.example/app:v12", 13), "regist…pp:v12");
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
