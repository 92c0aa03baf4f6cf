//! Watches the system calls of a program, and has one of them fail, or all of a kind. Knows seccomp's user
//! notifications; ignores what the calls are for.
//!
//! The kernel asks us about each call that is watched, whatever thread makes it, before it does it; so the
//! calls of a whole program are counted in one row, and exactly one fails. (`strace -e inject` counts for
//! each thread by itself: its `when=2` fails up to as many calls as there are threads, and the first
//! failure hides the others.)

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{fs::FileExt, process::CommandExt},
    },
    process::Command,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

use super::repo::{Finished, Invocation};

/// A call that was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub call: libc::c_long,
    pub args: [u64; 6],
    /// The thread that made it, by its name.
    pub thread: String,
    /// The paths and open files that it was about, for people.
    pub about: String,
    /// The error that it had by our will.
    pub errno: Option<i32>,
}

/// A kind of call, and what can go wrong with it as its manual page has it.
pub struct Kind {
    pub name: &'static str,
    pub call: libc::c_long,
    /// Which of these calls are meant.
    pub which: fn(&Seen) -> bool,
    pub errors: &'static [i32],
}

impl Kind {
    /// All of these calls.
    pub const fn all(name: &'static str, call: libc::c_long, errors: &'static [i32]) -> Self {
        Self::those(name, call, |_| true, errors)
    }

    /// Those of these calls that are `which`.
    pub const fn those(
        name: &'static str,
        call: libc::c_long,
        which: fn(&Seen) -> bool,
        errors: &'static [i32],
    ) -> Self {
        Self { name, call, which, errors }
    }

    /// How many of `calls` are of this kind.
    pub fn count(&self, calls: &[Seen]) -> usize {
        calls.iter().filter(|seen| self.has(seen)).count()
    }

    fn has(&self, seen: &Seen) -> bool {
        seen.call == self.call && (self.which)(seen)
    }
}

/// Runs a program to its end, and gives all calls but `sendmsg` that it made since `main` began its work, in
/// the order in which the kernel asked.
pub fn watch(program: Invocation) -> (Finished, Vec<Seen>) {
    run(program, Filter::asking_about_all(), |_| None)
}

/// Runs a program to its end and has a call fail with `errno`, without being made: of those of the kind, the
/// one that is number `at`, from 1, since `main` began its work. Gives the call, if it came so far.
pub fn inject(program: Invocation, kind: &'static Kind, at: usize, errno: i32) -> (Finished, Option<Seen>) {
    let (finished, mut failed) = fail(program, kind, errno, move |number| number == at);
    (finished, failed.pop())
}

/// Runs a program to its end and has each call of the kind fail with `errno`, without being made,
/// since `main` began its work.
pub fn inject_always(program: Invocation, kind: &'static Kind, errno: i32) -> Finished {
    fail(program, kind, errno, |_| true).0
}

/// Has those calls fail whose number, from 1, is `due`; gives them.
fn fail(
    program: Invocation,
    kind: &'static Kind,
    errno: i32,
    due: impl Fn(usize) -> bool + Send + 'static,
) -> (Finished, Vec<Seen>) {
    let mut number = 0;
    let (finished, mut seen) = run(program, Filter::asking_about(kind.call), move |seen| {
        if !kind.has(seen) {
            return None;
        }
        number += 1;
        due(number).then_some(errno)
    });
    seen.retain(|seen| seen.errno.is_some());
    (finished, seen)
}

fn run(
    program: Invocation,
    filter: Filter,
    judge: impl FnMut(&Seen) -> Option<i32> + Send + 'static,
) -> (Finished, Vec<Seen>) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let answering = thread::spawn(move || answer(&ours, judge));
    let finished = program.changed(|command| install(command, &filter, theirs)).start().wait();
    (finished, answering.join().unwrap())
}

/// The first thing that `main` does with the system is asking for the limit of open files. What comes before
/// is the dynamic loader's and the standard library's, which nobody can do anything about.
const BEGIN: (libc::c_long, u64) = (libc::SYS_prlimit64, libc::RLIMIT_NOFILE as u64);

/// What is to become of calls before they are made.
struct Filter {
    listed: Vec<libc::c_long>,
    of_listed: libc::c_uint,
    of_others: libc::c_uint,
}

impl Filter {
    /// Asks about these calls, and about the one that tells the beginning, and allows the rest.
    fn asking_about(call: libc::c_long) -> Self {
        let listed = vec![BEGIN.0, call];
        Self { listed, of_listed: libc::SECCOMP_RET_USER_NOTIF, of_others: libc::SECCOMP_RET_ALLOW }
    }

    /// Asks about all but the call that hands us the listener: before we have that nobody would answer.
    fn asking_about_all() -> Self {
        let listed = vec![libc::SYS_sendmsg];
        Self { listed, of_listed: libc::SECCOMP_RET_ALLOW, of_others: libc::SECCOMP_RET_USER_NOTIF }
    }

    /// The same in the kernel's language.
    fn program(&self) -> Vec<libc::sock_filter> {
        let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let jump_if_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let done = libc::BPF_RET | libc::BPF_K;
        let step =
            |code: u32, jt: usize, k: u32| libc::sock_filter { code: code as u16, jt: jt as u8, jf: 0, k };
        let mut program = vec![step(load_number, 0, 0)];
        for (ix, call) in self.listed.iter().enumerate() {
            program.push(step(jump_if_equal, self.listed.len() - ix, *call as u32));
        }
        program.push(step(done, 0, self.of_others));
        program.push(step(done, 0, self.of_listed));
        program
    }
}

/// Has the program run behind `filter`, from its start on.
fn install(command: &mut Command, filter: &Filter, socket: OwnedFd) {
    let program = filter.program();
    let install = move || {
        let filter =
            libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
        // SAFETY: system calls with plain numbers, and a filter that lives until they return.
        let listener = unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            let listener =
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter);
            if listener < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(listener as i32)
        };
        send(socket.as_fd(), listener.as_fd())
    };
    // SAFETY: between fork and exec it makes system calls and nothing else.
    unsafe {
        command.pre_exec(install);
    }
}

fn send(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    message.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(b"!")], &mut message, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut message, RecvFlags::CMSG_CLOEXEC).ok()?;
    message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Answers the kernel's questions until the program and all that it started have ended. `judge` says
/// which calls are to fail.
fn answer(socket: &OwnedFd, mut judge: impl FnMut(&Seen) -> Option<i32>) -> Vec<Seen> {
    let mut calls = Vec::new();
    // None: it could not be started, which its starter tells.
    let Some(listener) = receive(socket) else { return calls };
    let mut begun = false;
    while let Some(question) = next_question(&listener) {
        let is_begin = (libc::c_long::from(question.data.nr), question.data.args[1]) == BEGIN;
        let mut errno = None;
        if begun {
            let mut seen = describe(&question);
            errno = judge(&seen);
            seen.errno = errno;
            calls.push(seen);
        }
        begun |= is_begin;
        reply(&listener, question.id, errno);
    }
    calls
}

fn next_question(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN)];
        let polled = poll(&mut waiting, None);
        if polled.is_ok() && !waiting[0].revents().contains(PollFlags::IN) {
            // Nobody is left who could ask.
            return None;
        }
        // SAFETY: all zeroes are a valid value, and what the kernel wants to find.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills in a structure of this type.
        let received =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question) };
        // It fails if who asked was killed meanwhile.
        if received == 0 {
            return Some(question);
        }
    }
}

fn reply(listener: &OwnedFd, id: u64, errno: Option<i32>) {
    let mut reply = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match errno {
        Some(errno) => reply.error = -errno,
        None => reply.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    }
    // SAFETY: the kernel reads a structure of this type. It fails if who asked was killed meanwhile.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
}

fn describe(question: &libc::seccomp_notif) -> Seen {
    let (thread, args) = (question.pid, question.data.args);
    let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    let call = libc::c_long::from(question.data.nr);
    let fd = |at: usize| match args[at] as i32 {
        libc::AT_FDCWD => String::new(),
        fd => match fs::read_link(format!("/proc/{thread}/fd/{fd}")) {
            Ok(path) => path.display().to_string(),
            Err(_) => format!("fd {fd}"),
        },
    };
    let path = |at: usize| text_at(thread, args[at]);
    let about = match call {
        #[cfg(target_arch = "x86_64")] // others have openat alone
        libc::SYS_open => path(0),
        libc::SYS_openat | libc::SYS_openat2 | libc::SYS_mkdirat | libc::SYS_unlinkat => {
            format!("{} {}", fd(0), path(1))
        }
        libc::SYS_readlinkat | libc::SYS_statx | libc::SYS_newfstatat | libc::SYS_faccessat => {
            format!("{} {}", fd(0), path(1))
        }
        libc::SYS_linkat | libc::SYS_renameat | libc::SYS_renameat2 => {
            format!("{} {} to {} {}", fd(0), path(1), fd(2), path(3))
        }
        libc::SYS_symlinkat => format!("{} {} to {}", fd(1), path(2), path(0)),
        libc::SYS_mmap | libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_brk => {
            format!("{} bytes", args[1])
        }
        libc::SYS_clone3 | libc::SYS_getrandom | libc::SYS_pipe2 | libc::SYS_futex => String::new(),
        libc::SYS_fcntl | libc::SYS_ioctl => format!("{} {:#x}", fd(0), args[1]),
        libc::SYS_epoll_ctl => format!("{} {}", fd(0), fd(2)),
        _ => fd(0),
    };
    Seen { call, args, thread: name.trim_end().to_owned(), about: about.trim().to_owned(), errno: None }
}

/// The text at an address of another process; as much as is there.
fn text_at(process: u32, address: u64) -> String {
    let Ok(memory) = fs::File::open(format!("/proc/{process}/mem")) else { return String::new() };
    let mut bytes = [0; 512];
    // Not over the end of a page, after which there may be nothing.
    let len = bytes.len().min(4096 - (address % 4096) as usize);
    let read = memory.read_at(&mut bytes[..len], address).unwrap_or(0);
    let end = bytes[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
