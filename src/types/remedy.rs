//! Failures of the system: which one it was, and what to do about it. Knows errno values;
//! ignores what was being done.

use std::io;

use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

/// What whoever sees this failure can do, as the end of a sentence that begins with `: `;
/// empty if nobody can say.
pub fn remedy(cause: &io::Error) -> &'static str {
    match Errno::from_io_error(cause) {
        Some(Errno::MFILE) => ": raise the limit of open files (ulimit -n), then run again",
        Some(Errno::NFILE) => ": the whole system has too many: close some programs, then run again",
        Some(Errno::NOSPC) => ": free some, then run again",
        Some(Errno::DQUOT) => ": raise it or free some space, then run again",
        Some(Errno::IO) => ": check the disk and the system's log, then run again",
        Some(Errno::FBIG) if getrlimit(Resource::Fsize).current.is_some() => {
            ": raise the limit of a file's size (ulimit -f), then run again"
        }
        Some(Errno::FBIG) => ": this filesystem takes no file of this size: choose another",
        Some(Errno::PERM) => {
            ": something here is immutable or append-only (see lsattr), or a sandbox forbids the call: \
             allow it, then run \
             again"
        }
        Some(Errno::XDEV) => {
            ": these are on different filesystems or mounts: put both on one, then run again"
        }
        Some(Errno::NOMEM) => ": memory is short: end some programs, or allow this one more, then run again",
        _ => "",
    }
}

/// The failure at the end of an error's text, where it is not to be had otherwise: `… (os error 11)`, or
/// `Os { code: 11, …` as `unwrap` shows it.
pub fn errno_in_text(text: &str) -> Option<Errno> {
    let code = |before: &str| {
        let rest = &text[text.rfind(before)? + before.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    let code = code("(os error ").or_else(|| code("Os { code: "))?;
    Errno::from_io_error(&io::Error::from_raw_os_error(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_found_in_words() {
        for (text, errno) in [
            (
                "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
                Some(Errno::AGAIN),
            ),
            ("failed to create UnixStream: Os { code: 24, kind: Uncategorized }", Some(Errno::MFILE)),
            ("index out of bounds: the len is 3 but the index is 7", None),
            ("called `Option::unwrap()` on a `None` value", None),
            ("(os error )", None),
            ("(os error 99999999999)", None),
        ] {
            assert_eq!(errno_in_text(text), errno, "{text}");
        }
    }
}
