//! Entries that contradict what is there, in words.

use std::path::Path;

/// `path` as people read it: without the slash that is not the tar's, and on one line whatever its name is.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.trim_start_matches('/') {
        "" => "/".to_owned(),
        text => {
            let mut clean = String::with_capacity(text.len());
            for c in text.chars() {
                match c.is_control() {
                    true => clean.extend(c.escape_debug()),
                    false => clean.push(c),
                }
            }
            clean
        }
    }
}
