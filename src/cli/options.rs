//! What `pull` and `mirror` can both be told: limits, patience, access, what is shown. Knows words and
//! defaults; ignores what is run with them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, ValueHint};

use super::{InitArgs, Problem, files::Files, parse, plan::PlanFormat};
use crate::{
    pull::{self, Settings},
    report::{self, Mode},
    source::{Access, Options, Patience, Platform, Retries, Site},
    types::{Limit, Limits},
};

/// What a run does, may use and tells.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Draw the graph that would run, and change nothing in the repository [default format: text]
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    pub(super) dry_run: Option<PlanFormat>,
    /// With --dry-run: exit code 4 if there is work to do
    #[arg(long, requires = "dry_run")]
    pub(super) detailed_exitcode: bool,
    /// Make everything again, also what is stored; repairs missing and truncated files
    #[arg(long)]
    pub(super) force: bool,
    /// Accept entries that tar readers read differently and read them as cfsctl does, with a warning
    #[arg(long)]
    pub(super) as_upstream: bool,
    /// Continue with the other images when one fails (the default)
    #[arg(long)]
    keep_going: bool,
    /// Stop at the first image that fails; images that are complete stay
    #[arg(long, conflicts_with = "keep_going")]
    pub(super) fail_fast: bool,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "dry_run")]
    pub(super) format: Format,
    /// Also write the result to FILE, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "dry_run")]
    pub(super) summary: Option<PathBuf>,
    /// Platform to choose from an image index, os/arch[/variant] [default: that of this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<Platform>,
    /// Form of the progress on stderr
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(super) progress: Mode,
    // Headings are for all that follows.
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub(super) init: InitArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// How much a run may use, and how long it waits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// CPU threads, 1 to 1024 [default: one for each core]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Memory for data in flight, at least 18MiB; the tree of one filesystem image comes on top
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse::bytes)]
    memory: u64,
    /// Concurrent downloads
    #[arg(long, value_name = "N", default_value = "6",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    downloads: u16,
    /// Concurrent downloads per registry; reduced while it throttles or fails
    #[arg(long, value_name = "N", default_value = "4",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    downloads_per_host: u16,
    /// Bytes a second from all registries together, on average
    #[arg(long, value_name = "SIZE", value_parser = parse::rate)]
    limit_rate: Option<u64>,
    /// Retries for transient failures: broken connections, 408, 429, 5xx, stalls
    #[arg(long, value_name = "N", default_value = "5",
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    retries: u32,
    /// Pause before the first retry; doubles with each further one, up to a minute
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse::duration)]
    retry_delay: Duration,
    /// Abort a transfer that delivers less than 256 bytes a second for this long; an answer, a first
    /// byte or a whole config may take three times as long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::duration)]
    stall_timeout: Duration,
    /// Limits above which an image is refused: --help lists them
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::limit, long_help = limits_help())]
    limit: Vec<(Limit, u64)>,
}

/// All limits with their defaults.
fn limits_help() -> String {
    let mut help = "Limit above which an image is refused as broken or hostile. A VALUE in bytes may have a \
                    unit \
                    (1GiB). May be given several times:"
        .to_owned();
    for limit in Limit::ALL {
        let value = limit.default_value();
        let text = if limit.is_bytes() { parse::shown_bytes(value) } else { value.to_string() };
        let fixed = if value == limit.most() { ", the maximum" } else { "" };
        help.push_str(&format!("\n{:>12}  {} [default: {text}{fixed}]", limit.name(), limit.what()));
    }
    help
}

/// Access to registries.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
struct AccessArgs {
    /// Credentials for registries, as skopeo login writes them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    authfile: Option<PathBuf>,
    /// Certificates and keys for registries
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cert_dir: Option<PathBuf>,
    /// Require valid certificates of registries; false also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: bool,
    /// Signature policy to enforce; needs a skopeo with proxy protocol 0.2.6
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl RunArgs {
    /// What clap does not check.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.limits.memory < pull::MEMORY_MIN {
            let least = pull::MEMORY_MIN >> 20;
            return Err(Problem::usage(format!("--memory: at least {least}MiB are needed to make progress")));
        }
        Ok(())
    }

    /// The files that all verbs with these options read and write.
    pub(super) fn files(&self) -> Files<'_> {
        let mut files = Files::default();
        files.read("--authfile", self.access.authfile.as_ref());
        files.read("--policy", self.access.policy.as_ref());
        files.write("--summary", self.summary.as_ref());
        files
    }

    /// How registries are reached unless something else is said of one.
    pub(super) fn site(&self) -> Site {
        let AccessArgs { authfile, cert_dir, tls_verify, policy } = &self.access;
        let access = Access {
            authfile: authfile.clone(),
            cert_dir: cert_dir.clone(),
            tls_verify: *tls_verify,
            policy: policy.clone(),
            ..Access::default()
        };
        Site { platform: self.platform.clone(), access }
    }

    pub(super) fn options(&self) -> Options {
        Options {
            patience: self.patience(),
            retries: self.retries(),
            per_host: usize::from(self.limits.downloads_per_host),
            limits: self.refusals(),
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Settings {
            jobs: self.limits.jobs.map_or(cores, usize::from),
            downloads: usize::from(self.limits.downloads),
            memory: self.limits.memory,
            limit_rate: self.limits.limit_rate,
            retries: self.retries(),
            patience: self.patience(),
            limits: self.refusals(),
            fail_fast: self.fail_fast,
        }
    }

    /// The same for the record of the run.
    pub(super) fn limits(&self) -> report::Limits {
        let Settings { jobs, downloads, memory, .. } = self.settings();
        report::Limits { workers: jobs, downloads, memory_bytes: memory }
    }

    /// What is refused as hostile.
    fn refusals(&self) -> Limits {
        self.limits.limit.iter().fold(Limits::default(), |limits, (limit, value)| limits.with(*limit, *value))
    }

    fn patience(&self) -> Patience {
        Patience { stall: self.limits.stall_timeout }
    }

    fn retries(&self) -> Retries {
        Retries { count: self.limits.retries, first_pause: self.limits.retry_delay }
    }
}
