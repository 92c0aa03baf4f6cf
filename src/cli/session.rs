//! What a verb that talks to registries needs around it: the repository as it is found, signals, a runtime
//! and the sources. Knows when each begins and ends; ignores what is asked of them.

use std::{cell::OnceCell, future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio::runtime::Runtime;

use super::{Exit, Problem, RepoArgs, options::RunArgs, request::tell_failed, results::Results};
use crate::{
    pull::{self, Asked, GivenUp, Interrupt, Resolution, Stored},
    report::{self, INTERRUPTED, Mode},
    source::{ErrorKind, SourceError, Sources},
    store::{self, AnyStore, InitOptions, Meta, Target},
    types::remedy,
    with_store,
};

/// A verb at work.
pub(super) struct Session<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) verbose: bool,
    pub(super) path: PathBuf,
    store: OnceCell<AnyStore>,
    target: Target,
    options: InitOptions,
    pub(super) runtime: Runtime,
    pub(super) interrupt: Interrupt,
    pub(super) sources: Sources,
}

impl<'a> Session<'a> {
    /// Refuses what cannot work before anything is asked of anyone.
    pub(super) fn open(args: &'a RunArgs, repo: &RepoArgs, verbose: bool) -> Result<Self, Problem> {
        args.check()?;
        let path = repo.path()?;
        let options = args.init.options(repo)?;
        let target = store::probe(&path, &options)?;
        let store = match &target {
            Target::Existing(_) => OnceCell::from(repo.open()?),
            Target::ToCreate => OnceCell::new(),
        };
        if let Some(store) = store.get().filter(|_| args.dry_run.is_none()) {
            with_store!(store, store => store.require_writable().and_then(|()| store.require_suitable()))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot begin: {error}{}", remedy(&error)))?;
        let interrupt = Interrupt::default();
        watch_signals(&runtime, interrupt.clone());
        let shown = args.progress != Mode::None;
        let tell = move |text: &str| {
            if shown {
                report::above(text);
            }
        };
        let sources = Sources::new(args.options()).telling(Arc::new(tell));
        Ok(Self { args, verbose, path, store, target, options, runtime, interrupt, sources })
    }

    /// Waits for something; `None` if a signal came first. A registry that is silent would hold us up
    /// for as long as it likes.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.interrupt.raised() => None,
                done = future => Some(done),
            }
        })
    }

    /// The repository, if there is one.
    pub(super) fn store(&self) -> Option<&AnyStore> {
        self.store.get()
    }

    /// The repository; a new one if there is none.
    pub(super) fn make_store(&self) -> Result<&AnyStore, Problem> {
        if let Some(store) = self.store() {
            return Ok(store);
        }
        let (store, _) = store::init(&self.path, &self.options)?;
        super::keep_lock(&store);
        Ok(self.store.get_or_init(|| store))
    }

    /// Resolves what is asked for; if a signal comes first, what became of it.
    pub(super) fn resolve(&self, asked: Vec<Asked>) -> Result<Resolution, Box<Results>> {
        let mut progress = report::ResolveCount::new(self.args.progress);
        progress.asked(asked.len());
        let mut resolving = self.resolving();
        let resolution = self.wait(async {
            resolving.ask((0..).zip(asked).collect(), |_| ());
            while resolving.next().await.is_some() {
                progress.one_more();
            }
            resolving.take()
        });
        progress.pause();
        resolution.ok_or_else(|| {
            let GivenUp { failed, others } =
                resolving.give_up(&SourceError::new(ErrorKind::Other, INTERRUPTED));
            tell_failed(self, &failed);
            let mut results = Results::interrupted();
            results.join(Results::unresolved(&failed));
            results.join(Results::unresolved(&others));
            Box::new(results)
        })
    }

    /// Nothing is asked for yet.
    pub(super) fn resolving(&self) -> pull::Resolving<'_> {
        // What is made again is asked for again.
        let known = self.store().filter(|_| !self.args.force);
        pull::Resolving::new(&self.sources, Arc::new(Stored::of(known)))
    }

    /// What changes the bytes that this repository gets.
    pub(super) fn repository_text(&self) -> String {
        let (algorithm, formats) = match &self.target {
            Target::Existing(Meta { algorithm, formats, .. }) => (*algorithm, formats.clone()),
            Target::ToCreate => (self.options.algorithm(), self.options.formats()),
        };
        let formats: Vec<String> = formats.versions().map(|version| (version as u8).to_string()).collect();
        format!("{algorithm} erofs {}", formats.join(","))
    }

    /// Ends what was begun; everything that came from the sources is gone by now.
    pub(super) fn close(self) {
        if let Some(store) = self.store() {
            // A worker on its way out may hold the repository for longer than this process lives.
            with_store!(store, store => store.end_of_writing());
        }
        self.runtime.block_on(self.sources.close());
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// The first SIGINT, SIGTERM or SIGHUP ends the run in good order, the second at once.
fn watch_signals(runtime: &Runtime, interrupt: Interrupt) {
    let outlives_terminal = is_hangup_ignored();
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let mut hangup = (!outlives_terminal).then(|| signal(SignalKind::hangup()).ok()).flatten();
        let mut hung_up = async move || match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        };
        loop {
            tokio::select! {
                _ = int.recv() => (),
                _ = term.recv() => (),
                _ = hung_up() => (),
            }
            if interrupt.is_raised() {
                std::process::exit(Exit::Interrupted as i32);
            }
            interrupt.raise();
        }
    });
}

/// Whether this process was started with SIGHUP ignored, as nohup(1) does it.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // SIGHUP is number 1, the first bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
