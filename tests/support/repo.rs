//! Running the built program, and comparing repositories byte for byte.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Seek as _, Write as _},
    os::unix::{
        fs::FileExt as _, fs::PermissionsExt as _, process::CommandExt as _, process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{Once, OnceLock},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::image::sha256;

/// What a command gets before it counts as hung.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Lets what we start end by SIGHUP, also where the tests run under nohup: that it is ignored is inherited.
fn take_hangups() {
    static DONE: Once = Once::new();
    // SAFETY: no handler is installed, so there is none that could do what a handler must not.
    DONE.call_once(|| unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
    });
}

/// Fixes this process's umask at 022, so that modes are comparable; what we start inherits it.
pub fn fix_umask() {
    static FIXED: Once = Once::new();
    FIXED.call_once(|| {
        rustix::process::umask(0o022.into());
    });
}

/// The built `cfs-dag`: beside the folder of the test programs, or beside this one where
/// both have been copied.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let this = std::env::current_exe().unwrap();
        let folders = this.ancestors().skip(1).take(2);
        let found = folders.map(|folder| folder.join("cfs-dag")).find(|file| file.is_file());
        found.expect("cargo builds it for the tests").into_os_string().into_string().expect("a path in UTF-8")
    })
}

/// The built `cfs-dag` with `args`, not started yet.
pub fn cfs_dag<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Invocation {
    command(program(), args)
}

/// Any other program, under the same limits.
pub fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Invocation {
    let mut command = Command::new(program);
    command.args(args);
    Invocation { command, input: String::new(), time_limit: TIME_LIMIT }
}

/// A command that is about to run.
pub struct Invocation {
    command: Command,
    input: String,
    time_limit: Duration,
}

impl Invocation {
    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// `--repo PATH`.
    pub fn repo(self, path: impl AsRef<Path>) -> Self {
        self.arg("--repo").arg(path.as_ref())
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in `folder`.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// What it finds on standard input.
    pub fn input(self, text: &str) -> Self {
        Self { input: text.to_owned(), ..self }
    }

    /// Changes how the process is made: its user, say.
    pub fn changed(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Another limit than two minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Starts it, in a process group of its own.
    pub fn start(mut self) -> Running {
        fix_umask();
        take_hangups();
        // Files, not pipes: nobody has to read along, and a stray grandchild cannot hold us up.
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(self.input.as_bytes()).unwrap();
        stdin.rewind().unwrap();
        self.command
            .stdin(stdin)
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap())
            .process_group(0);
        let shown = format!("{:?}", self.command);
        let child = self.command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let deadline = Instant::now() + self.time_limit;
        Running { child, stdout, stderr, shown, deadline, ended: false, peak_memory: 0 }
    }

    /// Runs it to its end, however that may be.
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Runs it and asserts exit code 0.
    #[track_caller]
    pub fn expect_success(self) -> Finished {
        self.run().assert_code(0)
    }

    /// Runs it and asserts exit code `code`, and that it said something on stderr.
    #[track_caller]
    pub fn expect_failure(self, code: i32) -> Finished {
        let finished = self.run().assert_code(code);
        assert!(!finished.stderr.trim().is_empty(), "{} failed without a word", finished.shown);
        finished
    }
}

/// A command that runs; killed with its whole process group when dropped.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    shown: String,
    deadline: Instant,
    ended: bool,
    peak_memory: u64,
}

impl Running {
    /// Waits for the end.
    ///
    /// # Panics
    /// When the time limit is reached, with what was said so far; nothing of the process group survives.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        loop {
            if let Some(status) = self.poll() {
                return self.finish(status);
            }
            if Instant::now() > self.deadline {
                self.signal(Signal::KILL);
                let status = self.child.wait().unwrap();
                let finished = self.finish(status);
                panic!("{finished}\nhung: killed at its time limit");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Comes back as soon as one line of stderr has all of `words`.
    ///
    /// # Panics
    /// When it ends without, or the time limit is reached.
    #[track_caller]
    pub fn until_it_says(&mut self, words: &[&str]) {
        let fits = |line: &str| words.iter().all(|word| line.contains(word));
        while !self.stderr().lines().any(fits) {
            assert!(
                self.is_running() && Instant::now() < self.deadline,
                "no {words:?} in:\n{}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asserts that it runs, within its time limit.
    #[track_caller]
    pub fn assert_goes_on(&mut self) {
        let goes_on = self.is_running() && Instant::now() < self.deadline;
        assert!(goes_on, "{} has ended or hangs:\n{}", self.shown, self.stderr());
    }

    /// Kills the process group as a crash would (SIGKILL) and waits.
    pub fn kill(mut self) -> Finished {
        self.signal(Signal::KILL);
        let status = self.child.wait().unwrap();
        self.finish(status)
    }

    /// Sends SIGINT to the program alone.
    pub fn interrupt(&self) {
        rustix::process::kill_process(self.pid(), Signal::INT).unwrap();
    }

    /// Sends SIGTERM to the program alone.
    pub fn terminate(&self) {
        rustix::process::kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Sends SIGHUP to the program alone.
    pub fn hang_up(&self) {
        rustix::process::kill_process(self.pid(), Signal::HUP).unwrap();
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has written to stderr until now.
    pub fn stderr(&self) -> String {
        read_all(&self.stderr)
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        self.note_peak_memory();
        self.child.try_wait().unwrap()
    }

    /// The kernel keeps the peak, so nothing between two looks is lost but what comes after the last.
    /// `ru_maxrss` will not do: it begins with the memory of the process that forked, which is us.
    fn note_peak_memory(&mut self) {
        let proc = Path::new("/proc").join(self.pid().as_raw_nonzero().to_string());
        // The kernel lets us go on a moment before the program has memory of its own.
        let is_ours = fs::read_link(proc.join("exe")).ok() == fs::read_link("/proc/self/exe").ok();
        if is_ours {
            return;
        }
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        // A zombie has none.
        self.peak_memory = self.peak_memory.max(kib.unwrap_or(0) << 10);
    }

    fn signal(&self, signal: Signal) {
        // Gone already is fine.
        let _ = kill_process_group(self.pid(), signal);
    }

    fn finish(&mut self, status: ExitStatus) -> Finished {
        self.ended = true;
        let (stdout, stderr) = (read_all(&self.stdout), read_all(&self.stderr));
        Finished {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            peak_memory: self.peak_memory,
            shown: self.shown.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn read_all(file: &File) -> String {
    // By position: the child writes through the same file offset.
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code, if no signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// The most memory that it had at once, in bytes, as far as it was seen every few milliseconds.
    pub peak_memory: u64,
    shown: String,
}

impl Finished {
    /// Asserts the exit code.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert!(self.code == Some(code), "{self}\nexpected exit code {code}");
        self
    }

    /// Asserts that one line of stderr has all of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let fits = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(self.stderr.lines().any(fits), "{self}\nexpected one line with {words:?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{self}\nno JSON: {error}"))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, signal, stdout, stderr, shown, .. } = self;
        write!(
            f,
            "{shown}\nexit code {code:?}, signal {signal:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---"
        )
    }
}

/// Everything below `path` but `cfs-dag/`, one line each, sorted: path, type, mode, link
/// target or size and sha256.
pub fn repo_manifest(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    describe_folder(path, Path::new(""), &mut lines);
    lines.sort();
    lines
}

fn describe_folder(root: &Path, below: &Path, lines: &mut Vec<String>) {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let name = below.join(entry.unwrap().file_name());
        if name == Path::new("cfs-dag") {
            continue;
        }
        lines.push(format!("{} {}", name.display(), describe(&root.join(&name))));
        if root.join(&name).symlink_metadata().unwrap().is_dir() {
            describe_folder(root, &name, lines);
        }
    }
}

fn describe(path: &Path) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let mode = metadata.permissions().mode() & 0o7777;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        format!("link -> {}", fs::read_link(path).unwrap().display())
    } else if kind.is_dir() {
        format!("dir {mode:04o}")
    } else if kind.is_file() {
        format!("file {mode:04o} {} {}", metadata.len(), sha256(&fs::read(path).unwrap()))
    } else {
        format!("{kind:?} {mode:04o}")
    }
}

/// Asserts that two repositories are the same outside of `cfs-dag/`.
#[track_caller]
pub fn assert_same_repo(expected: &Path, actual: &Path) {
    assert_same_lines("repository", &repo_manifest(expected), &repo_manifest(actual));
}

/// Asserts that two sorted lists are the same; if not, shows what each has alone (at most 40 lines).
#[track_caller]
pub fn assert_same_lines(what: &str, expected: &[String], actual: &[String]) {
    let difference = difference(expected, actual);
    if !difference.is_empty() {
        let shown: Vec<&str> = difference.iter().take(40).map(String::as_str).collect();
        let more = difference.len().saturating_sub(40);
        panic!(
            "{what}: {} lines differ (- expected, + found)\n{}\n({more} more)",
            difference.len(),
            shown.join("\n")
        );
    }
}

/// The lines that only one of two lists has: `- expected`, `+ found`, in the order of their text.
pub fn difference(expected: &[String], actual: &[String]) -> Vec<String> {
    let mut balance: BTreeMap<&str, i64> = BTreeMap::new();
    for (lines, weight) in [(expected, -1), (actual, 1)] {
        for line in lines {
            *balance.entry(line).or_default() += weight;
        }
    }
    let sign = |(line, balance): (&str, i64)| match balance {
        0 => None,
        ..0 => Some(format!("- {line}")),
        _ => Some(format!("+ {line}")),
    };
    balance.into_iter().filter_map(sign).collect()
}

/// A folder for repositories that do not exist yet; gone with the value.
pub fn scratch() -> Scratch {
    Scratch(tempfile::tempdir().unwrap())
}

/// See [`scratch`].
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
