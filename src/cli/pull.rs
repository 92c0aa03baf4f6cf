//! `cfs-dag pull`: refuse early, resolve, plan, show or run, report. Knows the order and the words; the work is
//! the library's.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum, ValueHint};
use tokio::runtime::Runtime;

use super::{
    Exit, InitArgs, Problem, RepoArgs,
    history::History,
    parse,
    plan::{self, PlanFormat},
    print,
};
use crate::{
    exec::Observer,
    graph::{self, Facts, Inputs, Plan},
    pull::{self, Asked, Ended, Interrupt, Known, Resolution, Settings, Task},
    render::Marks,
    report::{self, ImageResult, Mode, Outcome, Progress, Record, Recorder, Summary, Tee, diagnosis::Logged},
    source::{Access, Options, Platform, Reference, Sources},
    store::{self, AnyStore, FsVerityHashValue, Meta, Store, Tag, Target},
    with_store,
};

/// Images and how to get them.
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// oci:PATH[:TAG], docker://NAME, docker-archive:PATH, oci-archive:PATH, dir:PATH, containers-storage:NAME
    #[arg(required_unless_present = "plan", conflicts_with = "plan", value_name = "IMAGE")]
    images: Vec<String>,
    /// The image's name in the repository, instead of the reference; for one image
    #[arg(long, value_name = "NAME", conflicts_with = "plan")]
    name: Option<String>,
    /// Draw the graph that would run, and change nothing
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    dry_run: Option<PlanFormat>,
    /// With --dry-run: exit with 4 if there is work to do, with 0 if there is none
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Save the plan for --plan
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plan_out: Option<PathBuf>,
    /// Run exactly this plan, or refuse if an image or the repository is not what it was made for
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plan: Option<PathBuf>,
    /// Make everything again, also what is stored
    #[arg(long, conflicts_with = "plan")]
    force: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "dry_run")]
    format: Format,
    /// The platform to choose from an image index: os/arch[/variant]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "plan")]
    platform: Option<Platform>,
    /// Cpu threads [default: one for each core]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Blobs to transfer at once
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u16).range(1..=256))]
    downloads: u16,
    /// Memory for data in flight
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse::bytes)]
    memory: u64,
    /// Cut a transfer that delivers nothing for so long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::duration)]
    stall_timeout: Duration,
    /// How to show progress on stderr
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    progress: Mode,
    // Last, because a heading is for all that follows.
    #[command(flatten)]
    init: InitArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// Access to registries.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
struct AccessArgs {
    /// Credentials, as skopeo login writes them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    authfile: Option<PathBuf>,
    /// Certificates and keys for the registry
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cert_dir: Option<PathBuf>,
    /// Whether registries must prove who they are; false also allows plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: bool,
    /// The signature policy to enforce
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

pub(super) fn run(args: &PullArgs, repo: &RepoArgs, verbose: bool) -> Result<Exit, Problem> {
    let planned = args.plan.as_deref().map(plan::read).transpose()?;
    let asked = args.asked(planned.as_ref())?;
    args.check()?;
    let path = repo.path()?;
    let target = store::probe(&path, &args.init.options())?;
    let store = match &target {
        Target::Existing(_) => Some(store::open(&path)?),
        Target::ToCreate => None,
    };
    if let Some(store) = store.as_ref().filter(|_| args.dry_run.is_none()) {
        with_store!(store, store => store.require_writable())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interrupt = Interrupt::default();
    watch_signals(&runtime, interrupt.clone());
    let sources = Sources::new(args.options(planned.as_ref())?);
    let resolution = runtime.block_on(async {
        tokio::select! {
            biased;
            // A registry that is silent would hold us up for as long as it likes.
            () = interrupt.raised() => None,
            resolution = pull::resolve(asked, &sources, usize::from(args.downloads)) => Some(resolution),
        }
    });
    let puller =
        Puller { args, planned: planned.as_ref(), runtime: &runtime, interrupt: &interrupt, verbose };
    let result = match resolution {
        Some(resolution) => puller.go(resolution, &path, store, repository_text(&target, args)),
        None => Ok(Exit::Interrupted),
    };
    runtime.block_on(sources.close());
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What changes the bytes that this repository gets.
fn repository_text(target: &Target, args: &PullArgs) -> String {
    let options = args.init.options();
    let (algorithm, formats) = match target {
        Target::Existing(Meta { algorithm, formats, .. }) => (*algorithm, formats.clone()),
        Target::ToCreate => (options.algorithm(), options.formats()),
    };
    let formats: Vec<String> = formats.versions().map(|version| (version as u8).to_string()).collect();
    format!("{algorithm} erofs {}", formats.join(","))
}

/// The first SIGINT or SIGTERM ends the run in good order, the second at once.
fn watch_signals(runtime: &Runtime, interrupt: Interrupt) {
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = int.recv() => (),
                _ = term.recv() => (),
            }
            if interrupt.is_raised() {
                std::process::exit(Exit::Interrupted as i32);
            }
            interrupt.raise();
        }
    });
}

impl PullArgs {
    fn asked(&self, planned: Option<&Plan>) -> Result<Vec<Asked>, Problem> {
        if self.name.is_some() && self.images.len() > 1 {
            return Err(Problem::usage("--name is for a single image: pull the others by themselves"));
        }
        let ask = |(text, name): (&String, Option<&String>)| {
            let reference: Reference = text.parse().map_err(|error| Problem::usage(format!("{error}")))?;
            let name = name.map_or_else(|| reference.default_name().to_owned(), String::clone);
            Tag::new(&name).map_err(|error| Problem::usage(error.to_string()))?;
            Ok(Asked { reference, text: text.clone(), name })
        };
        match planned {
            Some(plan) => {
                plan.images.iter().map(|image| ask((&image.reference, Some(&image.name)))).collect()
            }
            None => self.images.iter().map(|text| ask((text, self.name.as_ref()))).collect(),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        if self.memory < pull::MEMORY_MIN {
            let least = pull::MEMORY_MIN >> 20;
            return Err(Problem::usage(format!("--memory: at least {least}MiB are needed to make progress")));
        }
        Ok(())
    }

    /// The platform that is asked for, if one is.
    fn platform(&self, planned: Option<&Plan>) -> Result<Option<Platform>, Problem> {
        match planned.and_then(|plan| plan.platform.as_deref()) {
            Some(text) => Ok(Some(text.parse().map_err(|error| Problem::usage(format!("{text}: {error}")))?)),
            None => Ok(self.platform.clone()),
        }
    }

    fn options(&self, planned: Option<&Plan>) -> Result<Options, Problem> {
        let access = Access {
            authfile: self.access.authfile.clone(),
            cert_dir: self.access.cert_dir.clone(),
            tls_verify: self.access.tls_verify,
            policy: self.access.policy.clone(),
            ..Access::default()
        };
        Ok(Options { platform: self.platform(planned)?, access, stall_timeout: self.stall_timeout })
    }

    fn settings(&self) -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Settings {
            jobs: self.jobs.map_or(cores, usize::from),
            downloads: usize::from(self.downloads),
            memory: self.memory,
            fail_fast: false,
        }
    }
}

/// What goes on after the references are resolved.
struct Puller<'a> {
    args: &'a PullArgs,
    /// The plan that has to be run, if one was given.
    planned: Option<&'a Plan>,
    runtime: &'a Runtime,
    interrupt: &'a Interrupt,
    verbose: bool,
}

impl Puller<'_> {
    fn go(
        &self,
        resolution: Resolution,
        path: &std::path::Path,
        store: Option<AnyStore>,
        repository: String,
    ) -> Result<Exit, Problem> {
        if let Some((name, one, other)) = resolution.clash() {
            return Err(Problem::usage(format!(
                "{one} and {other} would both be named {name:?}: pull one of them with another --name"
            )));
        }
        for failed in &resolution.failed {
            super::tell(&Named { reference: &failed.asked.text, error: &failed.error }, self.verbose);
        }
        let inputs = self.inputs(&resolution, repository)?;
        if let Some(format) = self.args.dry_run {
            return self.show(format, &resolution, &inputs, path, store.as_ref());
        }
        if resolution.images.is_empty() {
            return self.nothing_resolved(&resolution);
        }
        let store = match store {
            Some(store) => store,
            None => {
                if self.planned.is_some() {
                    // A plan that is refused makes no repository.
                    self.plan(&resolution, &inputs, &Facts::default())?;
                }
                store::init(path, &self.args.init.options())?.0
            }
        };
        with_store!(&store, store => self.pull(store, &resolution, &inputs))
    }

    /// Programs get the result that they asked for also when there is nothing but failures; no repository is made.
    fn nothing_resolved(&self, resolution: &Resolution) -> Result<Exit, Problem> {
        if self.args.format == Format::Json {
            let mut summary = Summary::new(&Plan::default(), &Record::default());
            complete(&mut summary, resolution, &Ended::default(), 0);
            print(&summary.json())?;
        }
        Ok(Exit::Failed)
    }

    fn inputs(&self, resolution: &Resolution, repository: String) -> Result<Inputs, Problem> {
        let platform = self.args.platform(self.planned)?.map(|platform| platform.to_string());
        let force = self.args.force || self.planned.is_some_and(Plan::is_forced);
        Ok(Inputs { platform, force, ..resolution.inputs(repository) })
    }

    /// The plan for what was resolved, if it may be run.
    fn plan(&self, resolution: &Resolution, inputs: &Inputs, facts: &Facts) -> Result<Plan, Problem> {
        let plan = graph::plan(inputs, facts);
        if let Some(planned) = self.planned {
            // An image that cannot be resolved has been told of already.
            let moved = planned.moved(&plan).filter(|_| resolution.failed.is_empty());
            let why = match (moved, resolution.failed.is_empty()) {
                (Some(moved), _) => moved.to_string(),
                (None, false) => "not all of its images can be reached".to_owned(),
                (None, true) => return Ok(plan),
            };
            return Err(Problem::from(format!("the plan cannot be run as it is: {why}: make a new one")));
        }
        Ok(plan)
    }

    fn show(
        &self,
        format: PlanFormat,
        resolution: &Resolution,
        inputs: &Inputs,
        path: &std::path::Path,
        store: Option<&AnyStore>,
    ) -> Result<Exit, Problem> {
        let (mut facts, mut history) = (Facts::default(), History::default());
        if let Some(store) = store {
            facts = with_store!(store, store => pull::look(store, inputs).map(|(facts, _)| facts))?;
            history = with_store!(store, store => History::of(store));
            history.tell(&mut facts);
        }
        let plan = self.plan(resolution, inputs, &facts)?;
        self.save(&plan, resolution)?;
        let outlook = history.outlook(&plan, self.args.settings().jobs, path);
        let marks = Marks { critical: outlook.critical.clone(), ..Marks::default() };
        print(&format.draw(&plan, &marks, &outlook, plan::colour()))?;
        Ok(match exit_code(resolution.images.len(), resolution.failed.len()) {
            Exit::Done if self.args.detailed_exitcode && plan.is_work() => Exit::WorkNeeded,
            exit => exit,
        })
    }

    /// Saves the plan, if that was asked for and it is a plan for all that was asked for.
    fn save(&self, plan: &Plan, resolution: &Resolution) -> Result<(), Problem> {
        let Some(path) = &self.args.plan_out else { return Ok(()) };
        if !resolution.failed.is_empty() {
            return Err(Problem::from("the plan is not saved: not all images can be reached"));
        }
        plan::save(plan, path)
    }

    fn pull<H: FsVerityHashValue>(
        &self,
        store: &Arc<Store<H>>,
        resolution: &Resolution,
        inputs: &Inputs,
    ) -> Result<Exit, Problem> {
        let (mut facts, known): (Facts, Known<H>) = pull::look(store, inputs)?;
        let mut plan = self.plan(resolution, inputs, &facts)?;
        if plan.is_work() {
            // Only for the reasons: with nothing to do there are none.
            History::of(store).tell(&mut facts);
            plan = self.plan(resolution, inputs, &facts)?;
        }
        let plan = Arc::new(plan);
        self.save(&plan, resolution)?;
        let began = SystemTime::now();
        let needed = plan.graph.node_weights().filter(|node| node.state == graph::State::Needed);
        let layers = needed.filter(|node| node.kind == graph::Kind::Finalize).count();
        tracing::info!("{layers} of {} layers are needed", plan.layers().len());
        let progress = Arc::new(Progress::start(self.args.progress, plan.clone()));
        let recorder = Arc::new(Recorder::new(&plan));
        let observers: [Arc<dyn Observer>; 2] = [recorder.clone(), progress.clone()];
        let observers = observers.into_iter().chain(Logged::wanted(&plan));
        let task = Task { store: store.clone(), resolution, inputs, plan: &plan, known };
        let ended = pull::run(
            task,
            self.args.settings(),
            self.runtime.handle().clone(),
            Arc::new(Tee::new(observers)),
            self.interrupt,
        );
        progress.finish();
        let record = recorder.record();
        let mut summary = Summary::new(&plan, &record);
        let (ended, failure) = match ended {
            Ok(ended) => (ended, None),
            Err(error) => (Ended::default(), Some(error)),
        };
        complete(&mut summary, resolution, &ended, store.barriers());
        let plan = Arc::unwrap_or_clone(plan);
        let end = match &failure {
            Some(error) => report::RunEnd::Broken(error.to_string()),
            None if ended.interrupted => report::RunEnd::Interrupted,
            None => report::RunEnd::Whole,
        };
        let run = report::Run::new(plan, record, &summary, began, self.limits(), end);
        // The record helps to understand the run; the run is as good without it.
        if let Err(error) =
            run.to_bytes().map_err(Problem::from).and_then(|bytes| Ok(store.keep_run(&bytes)?))
        {
            super::say(format_args!("cfs-dag: no record of this run was kept: {}", error.error));
        }
        match failure {
            Some(error) => Err(error.into()),
            None => self.report(&summary, &ended),
        }
    }

    fn limits(&self) -> report::Limits {
        let Settings { jobs, downloads, memory, .. } = self.args.settings();
        report::Limits { workers: jobs, downloads, memory_bytes: memory }
    }

    fn report(&self, summary: &Summary, ended: &Ended) -> Result<Exit, Problem> {
        for (line, failure) in ended.images.iter().filter_map(|image| image.failure.as_ref()) {
            super::say(format_args!("cfs-dag: {line}"));
            super::tell_causes(&*failure.0, self.verbose);
        }
        match self.args.format {
            Format::Json => print(&summary.json()),
            Format::Text => print(&summary.text()),
        }?;
        if let Mode::Tty | Mode::Plain = self.args.progress.resolve() {
            super::say(format_args!("{}", summary.totals_line()));
        }
        if ended.interrupted {
            super::say(format_args!(
                "cfs-dag: interrupted: what was committed stays; pull again to go on from here"
            ));
            return Ok(Exit::Interrupted);
        }
        let (ok, failed) = (summary.totals.images_ok, summary.totals.images_failed);
        Ok(exit_code(ok as usize, failed as usize))
    }
}

/// An error with the reference that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{reference}: {error}")]
struct Named<'a> {
    reference: &'a str,
    error: &'a crate::source::SourceError,
}

fn exit_code(ok: usize, failed: usize) -> Exit {
    match (ok, failed) {
        (_, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::SomeFailed,
    }
}

/// Fills in what events do not tell.
fn complete(summary: &mut Summary, resolution: &Resolution, ended: &Ended, barriers: u64) {
    for ((result, image), end) in summary.images.iter_mut().zip(&resolution.images).zip(&ended.images) {
        result.original_manifest = image.resolved.original_digest;
        result.erofs = end.erofs.clone();
        if let Some((line, _)) = &end.failure {
            result.outcome = Outcome::Failed { error: line.clone() };
        }
    }
    for failed in &resolution.failed {
        let error = format!("{}: {}", failed.asked.text, failed.error);
        let result = ImageResult::unresolved(&failed.asked.name, &failed.asked.text, error);
        summary.insert(failed.place, result);
    }
    summary.totals.barriers = barriers;
    summary.add_up();
}
