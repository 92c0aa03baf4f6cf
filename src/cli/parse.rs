//! Sizes and durations as people write them. Knows units; ignores what is measured.

use std::time::Duration;

use crate::types::Limit;

/// Bytes from a number with an optional unit: `256MiB`, `256M` (the same), `1g`, `1048576`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("{unit:?} is no unit of size (use KiB, MiB or GiB)")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| format!("{text:?} is no size, like 256MiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// The same number of bytes as [`bytes`] reads it, in the largest unit that divides it.
pub(super) fn shown_bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fits.map_or(bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A limit and its value, `entries=1000000` or `trailing=1GiB`.
pub(super) fn limit(text: &str) -> Result<(Limit, u64), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("NAME=VALUE is expected, like {}=1000", Limit::Entries.name()));
    };
    let limit: Limit = name.parse()?;
    let value = match limit.is_bytes() {
        true => bytes(value)?,
        false => value.parse().map_err(|_| format!("{value:?} is no number"))?,
    };
    if value > limit.most() {
        return Err(format!("{name} may not be more than {}", limit.most()));
    }
    Ok((limit, value))
}

/// A number of bytes a second: a size, `/s` allowed, and not nothing.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match bytes(text.trim_end_matches("/s"))? {
        0 => Err("at that rate nothing would ever come".to_owned()),
        rate => Ok(rate),
    }
}

/// A duration from seconds with an optional unit: `60`, `60s`, `2m`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration, like 60s or 2m"))?;
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        unit => return Err(format!("{unit:?} is no unit of time (use ms, s, m or h)")),
    };
    match number.checked_mul(millis) {
        Some(0) => Err("a duration of nothing would cut every transfer".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(format!("{text:?} is too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, want) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1 << 10),
            ("256MiB", 256 << 20),
            ("256m", 256 << 20),
            ("2GB", 2 << 30),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for bad in ["", "MiB", "1x", "-1", "1.5M", "99999999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_read() {
        for text in ["0", "513", "1KiB", "64MiB", "256GiB", "1025"] {
            assert_eq!(shown_bytes(bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn limits_have_names_and_values() {
        assert_eq!(limit("entries=5"), Ok((Limit::Entries, 5)));
        assert_eq!(limit("trailing=1GiB"), Ok((Limit::Trailing, 1 << 30)));
        for bad in ["", "entries", "entries=1k", "entries=-1", "depth=5", "path=1MiB", "=5"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, want) in [("60", 60_000), ("60s", 60_000), ("2m", 120_000), ("500ms", 500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(want)), "{text}");
        }
        for bad in ["", "s", "0", "1d", "-3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
