//! Panics by which libraries say that the system refuses what they cannot do without, a thread or
//! an open file: told like any other error. Knows how their messages show the cause; leaves
//! defects to be told as ever.
//!
//! Without this the program would not only tell it badly: a runtime that gets one of its threads and not the
//! next one waits for the first for ever.

use std::{panic, process};

use rustix::io::Errno;

use super::{Exit, say};
use crate::types::{errno_in_text, remedy};

/// Has such a panic end the program, wherever it happens. That is as lawful as a kill:
/// what is committed stays.
pub(super) fn set_up() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let Some(errno) = text.and_then(errno_in_text) else { return others(info) };
        let cause = errno.into();
        let remedy = match errno {
            // Of a thread, which is all that anyone here waits for in this way.
            Errno::AGAIN => ": raise the limits of processes (ulimit -u) and of memory, then run again",
            _ => remedy(&cause),
        };
        say(format_args!("cfs-dag: the system refuses what this program cannot do without: {cause}{remedy}"));
        process::exit(Exit::Failed as i32);
    }));
}
