//! Names out of images, as errors show them.

/// `text` on one line: control characters are escaped as in Rust.
pub fn escape_controls(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_control_characters_alone() {
        assert_eq!(escape_controls("a\nb\u{1b}\"ä\\"), "a\\nb\\u{1b}\"ä\\");
    }
}
