//! The command line: what can be asked for, and how answers and errors are told. Knows words and exit codes;
//! each verb has a file of its own.

mod admin;
mod allocator;
mod files;
mod generate;
mod history;
mod init;
mod limits;
mod log;
mod mirror;
mod options;
mod panics;
mod parse;
mod plan;
mod pull;
mod request;
mod results;
mod session;

pub use allocator::Allocator;

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::{
    render::words,
    report::diagnosis,
    store::{self, AnyStore, InitOptions},
    types::remedy,
    with_store,
};

/// Exit codes, as in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    SomeFailed = 3,
    WorkNeeded = 4,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed, or fsck found damage
    2  wrong command line, list, plan, lock or output file
    3  some images failed and the others are stored, or --prune was refused
    4  with --dry-run --detailed-exitcode: there is work to do
  130  interrupted: committed work stays, and the next run continues from there";

/// Pulls container images into a composefs repository, as one task graph.
#[derive(Debug, Parser)]
#[command(name = "cfs-dag", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    /// Log decisions and the causes of an error, one a line; RUST_LOG selects more
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(flatten)]
    repo: RepoArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Pull images; creates the repository if nothing is there
    Pull(Box<pull::PullArgs>),
    /// Mirror the images of a list; made to run unattended
    Mirror(Box<mirror::MirrorArgs>),
    /// Show what earlier runs did, why, and how long it took
    Log(log::LogArgs),
    /// Create a repository
    Init(InitArgs),
    /// List images
    Images(admin::ImagesArgs),
    /// Show an image: manifest, config, filesystem
    Inspect(admin::InspectArgs),
    /// Give an image a further name
    Tag(admin::TagArgs),
    /// Remove a name
    Untag(admin::UntagArgs),
    /// Check the whole repository; exit code 1 if something is damaged
    Fsck(admin::FsckArgs),
    /// Remove files that no image uses
    Gc(admin::GcArgs),
    /// Mount an image's filesystem, read-only; needs root
    Mount(admin::MountArgs),
    /// Print completions for a shell
    Completions(generate::CompletionsArgs),
    /// Print manual pages
    Man(generate::ManArgs),
}

/// Which repository; without any of these the system's for root, the user's for all others.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Repository")]
struct RepoArgs {
    /// The repository at PATH [default: the system's for root, else the user's]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::DirPath,
        conflicts_with_all = ["user", "system"])]
    repo: Option<PathBuf>,
    /// The user's repository, ~/.var/lib/composefs
    #[arg(long, global = true, conflicts_with = "system")]
    user: bool,
    /// The system's repository, /sysroot/composefs
    #[arg(long, global = true)]
    system: bool,
    /// Refuse a repository without fs-verity
    #[arg(long, global = true)]
    require_verity: bool,
}

/// How a repository is created.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "New repositories")]
struct InitArgs {
    /// Digest of objects in a new repository: sha512 or sha256 [default: sha512]
    #[arg(long, value_name = "NAME", value_parser = store::parse_algorithm)]
    algorithm: Option<store::Algorithm>,
    /// Create a new repository without fs-verity, for filesystems that lack it
    #[arg(long)]
    insecure: bool,
    /// EROFS formats of a new repository: 0 (that of mkcomposefs), 1, or 2 (older bootc deployments), or
    /// several like 1,2, the first for mounting; not 0 with 1 [default: 1]
    #[arg(long, value_name = "VERSIONS", value_parser = store::parse_formats)]
    erofs_version: Option<store::FormatConfig>,
}

impl InitArgs {
    /// What a repository has to be, if it is there, and will be, if not.
    fn options(&self, repo: &RepoArgs) -> Result<InitOptions, Problem> {
        if repo.require_verity && self.insecure {
            return Err(Problem::usage("--insecure and --require-verity exclude each other"));
        }
        Ok(InitOptions {
            algorithm: self.algorithm,
            formats: self.erofs_version.clone(),
            insecure: self.insecure,
            require_verity: repo.require_verity,
        })
    }
}

impl RepoArgs {
    fn path(&self) -> Result<PathBuf, Problem> {
        Ok(store::locate(self.repo.as_deref(), self.user, self.system)?)
    }

    fn open(&self) -> Result<AnyStore, Problem> {
        let store = open(&self.path()?)?;
        if self.require_verity {
            store.require_verity()?;
        }
        Ok(store)
    }
}

/// Opens a repository, and says so if that has to wait for a garbage collection.
fn open(path: &Path) -> Result<AnyStore, Problem> {
    match store::locked_by(path).as_deref() {
        None => {}
        Some([]) => say(format_args!("cfs-dag: waiting for a garbage collection to end")),
        Some(holders) => say(format_args!(
            "cfs-dag: waiting for a garbage collection to end: {}",
            store::name_holders(holders)
        )),
    }
    let store = store::open(path)?;
    keep_lock(&store);
    Ok(store)
}

/// Leaves the lock on a repository to the end of this process. Upstream gives it back when the last handle
/// goes, and panics if that fails (a network filesystem); so the last one stays.
fn keep_lock(store: &AnyStore) {
    with_store!(store, store => std::mem::forget(store.upstream().clone()));
}

/// An error and the exit code that goes with it.
struct Problem {
    exit: Exit,
    error: Box<dyn Error>,
}

impl<E: Into<Box<dyn Error>>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

impl Problem {
    fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, error: text.into().into() }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    allocator::set_up();
    panics::set_up();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Help for a closed pipe is nobody's loss.
            let _ = error.print();
            return exit.into();
        }
    };
    if let Err(text) = diagnosis::set_up(cli.verbose) {
        tell(&*Problem::usage(text).error, cli.verbose);
        return Exit::Usage.into();
    }
    limits::set_up();
    let result = match &cli.verb {
        Verb::Pull(args) => pull::run(args, &cli.repo, cli.verbose),
        Verb::Mirror(args) => mirror::run(args, &cli.repo, cli.verbose),
        Verb::Log(args) => log::run(args, &cli.repo),
        Verb::Init(args) => init::run(args, &cli.repo),
        Verb::Images(args) => admin::images(args, &cli.repo),
        Verb::Inspect(args) => admin::inspect(args, &cli.repo),
        Verb::Tag(args) => admin::tag(args, &cli.repo),
        Verb::Untag(args) => admin::untag(args, &cli.repo),
        Verb::Fsck(args) => admin::fsck(args, &cli.repo),
        Verb::Gc(args) => admin::gc(args, &cli.repo),
        Verb::Mount(args) => admin::mount(args, &cli.repo),
        Verb::Completions(args) => generate::completions(args),
        Verb::Man(args) => generate::man(args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(problem) => {
            tell(&*problem.error, cli.verbose);
            problem.exit.into()
        }
    }
}

/// Tells an error on one line, and with `verbose` what caused it, one cause a line.
fn tell(error: &dyn Error, verbose: bool) {
    say(format_args!("cfs-dag: {error}"));
    tell_causes(error, verbose);
}

/// Tells with `verbose` what caused an error, one cause a line.
fn tell_causes(error: &dyn Error, verbose: bool) {
    let mut cause = error.source().filter(|_| verbose);
    while let Some(error) = cause {
        say(format_args!("  caused by: {error}"));
        cause = error.source();
    }
}

/// A line to stderr: errors repeat what lists, images and registries say, and a terminal obeys what it is
/// sent. Nobody can be told if it fails: `eprintln` would panic.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", words::printable(&line.to_string()));
}

/// Prints to stdout. A reader that has gone away is no error; a result that is lost
/// otherwise (a full disk) is.
fn print(text: &str) -> Result<(), Problem> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("the result could not be written to stdout: {error}{}", remedy(&error)).into())
        }
        _ => Ok(()),
    }
}
