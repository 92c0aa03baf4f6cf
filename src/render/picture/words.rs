//! Text for pictures. Knows what markup and readers must be spared; ignores where the text stands.

pub(super) use crate::render::words::{clean, clip, span};

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
}
