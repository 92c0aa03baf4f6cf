//! Who holds a lock, in words for people. Knows `/proc`; ignores what locks are for.
//!
//! Best effort, and for messages alone: nothing is decided by what is found here. Processes of other
//! pid namespaces are not shown, and a lock outlives the process that took it where a child has
//! inherited the open file.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::Read,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{fstat, major, minor},
    io::Errno,
    process::{Pid, test_kill_process},
};

/// How many holders are named on one line.
const NAMED: usize = 3;
/// What is read of a process's arguments, in bytes; they can have megabytes.
const ARGUMENTS_LIMIT: u64 = 4096;
/// The most characters that a holder's description has: it is written by others.
const WHAT_LIMIT: usize = 80;

/// Who holds a lock. Shown as `process 1234 (cfs-dag pull)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, as whoever told it sees it; `None` where it is not known.
    pub pid: Option<u32>,
    /// Its name and what it does, in a few words and fit for a terminal; may be empty.
    pub what: String,
}

impl Holder {
    pub(super) fn new(pid: Option<u32>, what: &str) -> Self {
        let fit = |c: char| if c.is_control() { '?' } else { c };
        Self { pid, what: what.chars().take(WHAT_LIMIT).map(fit).collect() }
    }

    /// The process `pid`, which took a lock.
    fn of_process(pid: u32) -> Self {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if number.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            return Self::new(Some(pid), "it has ended, one that it started has not");
        }
        let read = |file: &str| {
            let mut text = Vec::new();
            let file = File::open(format!("/proc/{pid}/{file}"));
            // Another user's process may be hidden: then its number has to do.
            let _ = file.and_then(|file| file.take(ARGUMENTS_LIMIT).read_to_end(&mut text));
            text
        };
        let mut what = command(read("cmdline").split(|byte| *byte == 0));
        if what.is_empty() {
            what = String::from_utf8_lossy(&read("comm")).trim().to_owned();
        }
        Self::new(Some(pid), &what)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("another process")?,
        }
        if self.what.is_empty() { Ok(()) } else { write!(f, " ({})", self.what) }
    }
}

/// `holders` on one line: the first three, and how many more there are.
pub fn name_holders(holders: &[Holder]) -> String {
    let mut line = holders.iter().take(NAMED).map(Holder::to_string).collect::<Vec<_>>().join(", ");
    if holders.len() > NAMED {
        line.push_str(&format!(" and {} more", holders.len() - NAMED));
    }
    line
}

/// Who holds a lock on `file`, each process once; empty if it cannot be told.
pub(super) fn holders(file: BorrowedFd<'_>) -> Vec<Holder> {
    let Ok(stat) = fstat(file) else { return Vec::new() };
    let mut devices = vec![(major(stat.st_dev), minor(stat.st_dev))];
    devices.extend(mounted_device(file));
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    pids_in(&locks, &devices, stat.st_ino).into_iter().map(Holder::of_process).collect()
}

/// The device that the kernel's list of locks has for `file`: on btrfs, `stat` gives
/// that of a subvolume instead.
fn mounted_device(file: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut fields =
        mounts.lines().map(|line| line.split(' ')).find(|fields| fields.clone().next() == Some(mount))?;
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Who holds an flock on the inode, as `/proc/locks` has it (proc_locks(5)); not who waits for one.
fn pids_in(locks: &str, devices: &[(u32, u32)], inode: u64) -> BTreeSet<u32> {
    let holder = |line: &str| {
        // A waiting one has an arrow in the place of the kind.
        let [_, "FLOCK", _, _, pid, file] = line.split_ascii_whitespace().take(6).collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let mut parts = file.split(':');
        let mut device = || u32::from_str_radix(parts.next()?, 16).ok();
        let device = (device()?, device()?);
        let same = devices.contains(&device) && parts.next()?.parse() == Ok(inode);
        // The owner of an inherited lock may have no number in this pid namespace.
        pid.parse().ok().filter(|pid| same && *pid > 0)
    };
    locks.lines().filter_map(holder).collect()
}

/// A program and its verb, `cfsctl gc`, of its arguments: paths and references are nobody's business.
pub(super) fn command<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> String {
    let program = arguments.next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut is_value = false;
    let verb = arguments.find(|argument| {
        // The one option with a value that stands before the verb, in our command line and in cfsctl's.
        let skipped = std::mem::replace(&mut is_value, *argument == b"--repo");
        let is_word = argument.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'-');
        !skipped && is_word && argument.first().is_some_and(u8::is_ascii_lowercase)
    });
    let words = [program, verb.unwrap_or_default()].map(String::from_utf8_lossy);
    words.join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: FLOCK  ADVISORY  WRITE 8462 fe:0a:5702171 0 EOF
1: -> FLOCK  ADVISORY  READ 77 fe:0a:5702171 0 EOF
2: FLOCK  ADVISORY  READ 12 fe:0a:99 0 EOF
3: FLOCK  ADVISORY  READ 11 fe:0a:99 0 EOF
4: FLOCK  ADVISORY  READ 11 fe:0a:99 0 EOF
5: FLOCK  ADVISORY  READ 0 fe:0a:99 0 EOF
6: POSIX  ADVISORY  WRITE 13 fe:0a:99 0 EOF
7: FLOCK  ADVISORY  READ 14 fe:0b:99 0 EOF
8: OFDLCK ADVISORY  READ -1 fe:0a:99 0 EOF
9: FLOCK  ADVISORY
10: FLOCK  ADVISORY  READ x fe:zz:99 0 EOF
";

    #[test]
    fn holders_are_found_in_the_kernels_list_and_those_who_wait_are_not() {
        let found = |device, inode| pids_in(LOCKS, &[device], inode).into_iter().collect::<Vec<_>>();
        assert_eq!(found((0xfe, 0x0a), 5_702_171), [8462]);
        assert_eq!(found((0xfe, 0x0a), 99), [11, 12]);
        assert_eq!(found((0xfe, 0x0b), 99), [14]);
        assert_eq!(found((0xfe, 0x0b), 5_702_171), [0; 0]);
    }

    #[test]
    fn a_command_is_told_by_its_name_and_verb_alone() {
        let told = |line: &str| command(line.split(' ').map(str::as_bytes));
        assert_eq!(told("/usr/bin/cfsctl --repo=/x gc"), "cfsctl gc");
        assert_eq!(told("cfs-dag --repo here pull secret"), "cfs-dag pull");
        assert_eq!(told("cfs-dag --verbose --repo /a mirror list"), "cfs-dag mirror");
        assert_eq!(told("/usr/libexec/daemon --port 80 /etc/x"), "daemon");
        assert_eq!(command([].into_iter()), "");
    }

    #[test]
    fn a_holder_is_named_as_far_as_it_is_known() {
        let text = |pid, what| Holder::new(pid, what).to_string();
        assert_eq!(text(Some(7), "cfs-dag mirror, for 2 min"), "process 7 (cfs-dag mirror, for 2 min)");
        assert_eq!(text(Some(7), ""), "process 7");
        assert_eq!(text(None, ""), "another process");
        assert_eq!(text(None, "evil\x1b[2J\n"), "another process (evil?[2J?)");
        let many: Vec<Holder> = (1..=5).map(|pid| Holder::new(Some(pid), "")).collect();
        assert_eq!(name_holders(&many), "process 1, process 2, process 3 and 2 more");
        assert_eq!(name_holders(&many[..1]), "process 1");
    }
}
