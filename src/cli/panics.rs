//! Panics of libraries that cannot create a thread or open a file become one-line errors; other panics stay
//! as they are.
//!
//! Without this a runtime that gets one of its threads and not the next one would wait for the first one
//! for ever.

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
        say(format_args!("cfs-dag: cannot create a thread or open a file: {cause}{remedy}"));
        process::exit(Exit::Failed as i32);
    }));
}
