//! `cfs-dag mirror`: the images of a list, kept. Knows the order of things: list, tags, images, run, lock,
//! names; each of them is done elsewhere.

mod asking;
mod chosen;
mod locked;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};

use super::{
    Exit, Problem, RepoArgs,
    files::{self, Accept, Files, MAX_LIST, write_file},
    options::RunArgs,
    plan::PlanFormat,
    request::{OfList, Request, tell_no_plan, tell_not_pruned},
    results::Results,
    session::Session,
};
use crate::{
    graph::{ImageIx, Selection},
    list::{List, Lock, Rule},
    pull::{Resolution, Unresolved},
    render::words::count,
    report::{INTERRUPTED, Outcome, Summary},
    source::{ErrorKind, Reference, SourceError},
    store::{AnyStore, MirroredNames, Tag},
    with_store,
};
use asking::Asking;
use chosen::Chooser;
use locked::LockFile;

/// What is said of an image that was not begun because of a problem that is told besides.
const NOT_DONE: &str = "not done: the mirror ended before";

/// A list and how to keep it.
#[derive(Debug, Args)]
pub(super) struct MirrorArgs {
    /// The list: lines with a reference and perhaps a name, or YAML as for skopeo sync; a file, a pipe, or -
    /// for stdin
    #[arg(value_name = "LIST", value_hint = ValueHint::FilePath)]
    list: PathBuf,
    /// Write the digest that every image of the list has now to FILE, also in a dry run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    lock: Option<PathBuf>,
    /// Mirror exactly the digests of the lock, without asking for tags; refuse a lock of another list
    #[arg(long, requires = "lock")]
    locked: bool,
    /// Write a line with digest and reference for each image stored; in a dry run, for each that would be
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    digestfile: Option<PathBuf>,
    /// Afterwards, untag names that an earlier mirror of this list made and that the list no longer has;
    /// lists from stdin count as one list. Their files stay until gc
    #[arg(long)]
    prune: bool,
    /// Maximum of names that --prune untags: where there are more, none is untagged and the exit code is 3
    /// [default: half of the names of the list's last mirror, at least 10]
    #[arg(long, value_name = "N", requires = "prune")]
    prune_max: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &MirrorArgs, repo: &RepoArgs, verbose: bool) -> Result<Exit, Problem> {
    args.files().check()?;
    let list = args.list()?;
    let lock = args.lock.as_deref().map(|path| LockFile::open(path, args.locked)).transpose()?;
    let chooser = Chooser {
        list: &list,
        shown: args.shown(),
        site: args.run.site(),
        as_upstream: args.run.as_upstream,
    };
    if let Some(lock) = lock.as_ref().filter(|_| args.locked) {
        lock.check(&chooser)?;
    }
    let session = Session::open(&args.run, repo, verbose)?;
    let (followed, renewed) = if args.locked { (lock, None) } else { (None, lock) };
    let mirror = Mirror { args, session: &session, chooser: &chooser, followed, renewed };
    let result = match args.run.dry_run {
        Some(format) => mirror.show(format),
        None => mirror.run(),
    };
    session.close();
    result
}

impl MirrorArgs {
    fn list(&self) -> Result<List, Problem> {
        let fault = |error: &dyn std::fmt::Display| Problem::usage(format!("{}: {error}", self.shown()));
        let text = match self.is_stdin() {
            true => files::text_of(std::io::stdin().lock(), MAX_LIST),
            false => files::read_text(&self.list, Accept::FilesAndPipes, MAX_LIST),
        };
        let text = text.map_err(|error| fault(&error))?;
        List::parse(&text).map_err(|error| fault(&error))
    }

    fn files(&self) -> Files<'_> {
        let mut files = self.run.files();
        files.read("the list", Some(&self.list));
        match self.locked {
            true => files.read("the lock", self.lock.as_ref()),
            false => files.write("--lock", self.lock.as_ref()),
        }
        files.write("--digestfile", self.digestfile.as_ref());
        files
    }

    fn is_stdin(&self) -> bool {
        self.list == Path::new("-")
    }

    /// The list's name for people.
    fn shown(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.list.display().to_string() }
    }

    /// What tells this list from others in a repository: the file's place, however it was named.
    fn identity(&self) -> String {
        let place = std::fs::canonicalize(&self.list).or_else(|_| std::path::absolute(&self.list));
        match place {
            Ok(place) if !self.is_stdin() => place.display().to_string(),
            _ => "-".to_owned(),
        }
    }
}

/// A mirror at work.
struct Mirror<'a> {
    args: &'a MirrorArgs,
    session: &'a Session<'a>,
    chooser: &'a Chooser<'a>,
    /// The lock that says what is mirrored.
    followed: Option<LockFile>,
    /// The lock that is told what was.
    renewed: Option<LockFile>,
}

/// What has come of a list so far.
#[derive(Default)]
struct Sofar {
    /// The names that earlier mirrors of this list had.
    before: MirroredNames,
    digests: Digests,
    locked: Lock,
    /// Images and rules that have failed before there was a plan.
    unreachable: HashSet<String>,
    results: Results,
    /// The names that the list has lost, if they shall go.
    lost: Lost,
}

/// Names that an earlier mirror of a list made, and that it has no more.
#[derive(Default)]
struct Lost {
    names: Vec<String>,
    /// How many names the list had.
    of: usize,
    /// The most that may go at once.
    most: usize,
}

/// Unless the user says otherwise, so many names may go at once however few there are.
const PRUNED_AT_ONCE: usize = 10;

impl Mirror<'_> {
    /// Shows the plan for all that can be resolved.
    fn show(&self, format: PlanFormat) -> Result<Exit, Problem> {
        let mut asking = self.asking()?;
        let mut sofar = Sofar { before: self.names_before()?, ..Sofar::default() };
        let Some(wave) = self.session.wait(asking.wave(true)) else { return Ok(tell_no_plan()) };
        let exit = self.request(wave?, &asking, &mut sofar)?.show(format)?;
        self.write_digests(&sofar.digests, None)?;
        Ok(sofar.lost.tell_kept(exit))
    }

    /// Runs wave after wave: what has come goes ahead while slow registries take their time.
    fn run(&self) -> Result<Exit, Problem> {
        let mut asking = self.asking()?;
        let mut sofar = Sofar { before: self.names_before()?, ..Sofar::default() };
        loop {
            // With --fail-fast nothing begins before all is known to be there.
            let Some(wave) = self.session.wait(asking.wave(self.args.run.fail_fast)) else {
                sofar.results.join(Results::interrupted());
                break;
            };
            let results = self.run_wave(wave?, &asking, &mut sofar);
            sofar.results.join(results);
            if asking.is_complete() || sofar.results.are_cut_short() {
                break;
            }
        }
        let Sofar { before, digests, mut results, lost, .. } = sofar;
        if !results.of_a_run()
            && let Some(problem) = results.problem.take()
        {
            return Err(problem);
        }
        let is_begun = results.of_a_run() || !results.are_cut_short();
        let why = if results.problem.is_some() { NOT_DONE } else { INTERRUPTED };
        let late = asking.give_up(&SourceError::new(ErrorKind::Other, why));
        results.join(Results::unresolved(&late));
        let summary = results.summary();
        let told = results.tell(self.session, true);
        // Interrupted before that, it is unknown what is here.
        let written = if is_begun { self.write_digests(&digests, Some(&summary)) } else { Ok(()) };
        let exit = told?;
        written?;
        let exit = lost.tell_kept(exit);
        if self.args.prune
            && exit == Exit::Done
            && let Some(store) = self.session.store()
        {
            // What another mirror of this list has added meanwhile is that one's.
            let names = asking.names();
            self.change_record(store, |record| {
                record.retain(|name, _| names.contains_key(name) || !before.contains_key(name));
            })?;
        }
        Ok(exit)
    }

    fn asking(&self) -> Result<Asking<'_>, Problem> {
        Asking::new(self.session, self.chooser, self.followed.as_ref().map(LockFile::lock))
    }

    /// What became of a wave; with a problem nothing of it was done.
    fn run_wave(&self, wave: Resolution, asking: &Asking<'_>, sofar: &mut Sofar) -> Results {
        let error = SourceError::new(ErrorKind::Other, NOT_DONE);
        let given_up: Vec<Unresolved> =
            wave.images.iter().map(|image| image.given_up(error.clone())).collect();
        let ran = self.request(wave, asking, sofar).and_then(Request::run);
        ran.unwrap_or_else(|problem| {
            let mut results = Results::unresolved(&given_up);
            results.problem = Some(problem);
            results
        })
    }

    /// What is to be done for a wave; the lock is renewed on the way.
    fn request(
        &self,
        mut wave: Resolution,
        asking: &Asking<'_>,
        sofar: &mut Sofar,
    ) -> Result<Request<'_>, Problem> {
        if let Some(lock) = &self.followed {
            lock.refuse_others(&mut wave);
        }
        sofar.digests.add(&wave);
        sofar.unreachable.extend(wave.failed.iter().map(|failed| failed.text.clone()));
        if let Some(lock) = &self.renewed {
            locked::add(&mut sofar.locked, &wave);
            let late = asking.late();
            let is_unreachable = |text: &str| sofar.unreachable.contains(text) || late.contains(text);
            lock.renew(&sofar.locked, is_unreachable, self.chooser)?;
        }
        if asking.is_complete() {
            sofar.lost = self.lost(sofar, &asking.names())?;
        }
        let is_whole = wave.failed.is_empty() && sofar.results.are_good();
        let mut selections = self.selections(&wave, asking.by_rule());
        if asking.is_in_waves() {
            // What a rule chose may be in another one.
            selections.retain(|selection| !selection.images.is_empty());
        }
        Ok(Request {
            session: self.session,
            selections,
            untag: if is_whole && !sofar.lost.is_too_much() { sofar.lost.names.clone() } else { Vec::new() },
            of_list: Some(OfList { list: self.args.identity(), names: asking.names() }),
            resolution: wave,
            planned: None,
            plan_out: None,
            platform: self.args.run.platform.as_ref().map(|platform| platform.to_string()),
            is_later: sofar.results.of_a_run(),
        })
    }

    /// The names that earlier mirrors of this list had.
    fn names_before(&self) -> Result<MirroredNames, Problem> {
        match self.session.store() {
            Some(store) => Ok(with_store!(store, store => store.mirrored(&self.args.identity()))?),
            None => Ok(MirroredNames::new()),
        }
    }

    /// The names that shall go: mirrors made them, the list has lost them, they are still there, and no other
    /// list has them. What a rule that failed could have chosen is not lost.
    fn lost(&self, sofar: &Sofar, names: &BTreeMap<String, Option<String>>) -> Result<Lost, Problem> {
        let Some(store) = self.session.store().filter(|_| self.args.prune) else {
            return Ok(Lost::default());
        };
        let failed: Vec<&Rule> = self
            .chooser
            .list
            .rules
            .iter()
            .filter(|rule| sofar.unreachable.contains(&rule.to_string()))
            .collect();
        let is_unknown = |name: &str| {
            let reference = name.parse::<Reference>();
            reference.is_ok_and(|reference| failed.iter().any(|rule| rule.covers(&reference)))
        };
        let elsewhere = with_store!(store, store => store.mirrored_elsewhere(&self.args.identity()))?;
        // A tag that is damaged is there.
        let is_here = |name: &&String| {
            let tagged = |tag: Tag| with_store!(store, store => store.tagged(&tag));
            Tag::existing(name).is_ok_and(|tag| !matches!(tagged(tag), Ok(None)))
        };
        let made = sofar.before.iter().filter(|(_, known)| known.made).map(|(name, _)| name);
        let (kept, lost): (Vec<_>, Vec<_>) = made
            .filter(|name| !names.contains_key(*name) && !is_unknown(name))
            .filter(is_here)
            .partition(|name| elsewhere.contains_key(*name));
        kept.into_iter().for_each(|name| tell_not_pruned(name, &elsewhere[name].list));
        let of = sofar.before.len();
        let most = self.args.prune_max.unwrap_or(PRUNED_AT_ONCE.max(of / 2));
        Ok(Lost { names: lost.into_iter().cloned().collect(), of, most })
    }

    /// Changes what is recorded of the names of this list.
    fn change_record(
        &self,
        store: &AnyStore,
        change: impl FnOnce(&mut MirroredNames),
    ) -> Result<(), Problem> {
        Ok(with_store!(store, store => store.change_mirrored(&self.args.identity(), change))?)
    }

    /// What each rule chose, of those images that could be resolved.
    fn selections(&self, resolution: &Resolution, by_rule: &[Vec<u64>]) -> Vec<Selection> {
        let place_of: HashMap<u64, ImageIx> =
            resolution.images.iter().enumerate().map(|(ix, image)| (image.place, ImageIx(ix))).collect();
        let rules = self.chooser.list.rules.iter().zip(by_rule);
        rules
            .map(|(rule, places)| Selection {
                rule: rule.to_string(),
                images: places.iter().filter_map(|place| place_of.get(place).copied()).collect(),
            })
            .collect()
    }

    fn write_digests(&self, digests: &Digests, summary: Option<&Summary>) -> Result<(), Problem> {
        match &self.args.digestfile {
            Some(path) => write_file(path, "the digests", &digests.text(summary)),
            None => Ok(()),
        }
    }
}

impl Lost {
    /// A registry that lists only some of its tags must not cost the others their names.
    fn is_too_much(&self) -> bool {
        self.names.len() > self.most
    }

    /// Says that they stay, if they do because something failed or because they are too
    /// many; gives the exit code.
    fn tell_kept(&self, exit: Exit) -> Exit {
        let lost = self.names.len();
        match exit {
            Exit::Done | Exit::WorkNeeded if self.is_too_much() => {
                let (of, most) = (self.of, self.most);
                super::say(format_args!(
                    "cfs-dag: not pruned: the list has lost {lost} of {of} names, and {most} may go at \
                     once: see that \
                     its registries list all their tags, or allow it with --prune-max={lost}"
                ));
                Exit::SomeFailed
            }
            Exit::Failed | Exit::SomeFailed if lost > 0 => {
                let names =
                    count(lost, "name that the list has lost stays", "names that the list has lost stay");
                super::say(format_args!("cfs-dag: not pruned: {names} until all of its images can be had"));
                exit
            }
            _ => exit,
        }
    }
}

/// The lines of a file of digests, with the places and names of the images in the repository.
#[derive(Default)]
struct Digests(Vec<(u64, String, String)>);

impl Digests {
    fn add(&mut self, resolution: &Resolution) {
        self.0.extend(resolution.images.iter().map(|image| {
            let line = format!("{} {}\n", image.resolved.manifest_digest, image.asked.text);
            (image.place, image.asked.name.clone(), line)
        }));
        self.0.sort_by_key(|(place, ..)| *place);
    }

    /// All of them, or with a summary those that came to be in the repository.
    fn text(&self, summary: Option<&Summary>) -> String {
        let here: Option<HashSet<&str>> = summary.map(|summary| {
            let done = summary.images.iter().filter(|image| image.outcome == Outcome::Ok);
            done.map(|image| image.name.as_str()).collect()
        });
        let is_here = |name: &str| here.as_ref().is_none_or(|here| here.contains(name));
        self.0.iter().filter(|(_, name, _)| is_here(name)).map(|(.., line)| line.as_str()).collect()
    }
}
