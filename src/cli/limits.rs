//! Limits of the system for one process: raised where that is allowed, told where they are reached. Knows
//! open files and the size of files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many open files as we may have: a repository alone takes 256 directories. And lets a file
/// that gets too large (`ulimit -f`) be an error of the call that writes it, as a full disk is, where
/// the system would kill us.
pub(super) fn set_up() {
    let limit = getrlimit(Resource::Nofile);
    // Without it a run works too, as long as few images are pulled at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // SAFETY: no handler is installed, and no other thread runs yet. If it is refused,
    // we are killed as before.
    let _ = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
