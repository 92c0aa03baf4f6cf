//! `cfs-dag log`: what earlier runs did and why. Knows which view was asked for; the views are the library's.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};

use super::{Exit, Problem, RepoArgs, files::write_file, history::heads, plan::PlanFormat, print};
use crate::{
    render::{Colour, Outlook, words},
    report::{self, Head, HeadImage, Run},
    store::{AnyStore, FsVerityHashValue, RUNS_KEPT, Store},
    with_store,
};

/// Without a flag: what ran, what was stored already, how long, bytes in and out.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// The run, by its number [default: the last one]
    run: Option<u64>,
    #[command(flatten)]
    view: ViewArgs,
}

/// What to show of a run.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct ViewArgs {
    /// List the runs that are kept
    #[arg(long, conflicts_with = "run")]
    list: bool,
    /// Why something ran or did not: an image's name, a layer as IMAGE:POSITION or by its digest, or a node
    #[arg(long, value_name = "WHAT")]
    why: Option<String>,
    /// The chain of nodes that determined the duration, and what one second less on each would have saved
    #[arg(long)]
    critical_path: bool,
    /// Write a page with a chart of nodes, CPU and network use [default file: cfs-dag-timings-RUN.html]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
        value_hint = ValueHint::FilePath)]
    timings: Option<Option<PathBuf>>,
    /// Write trace events for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    trace: Option<PathBuf>,
    /// Draw the graph as it ran; the file's ending selects the format: txt, dot, mmd, json, svg or html
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    graph: Option<PathBuf>,
    /// Everything that is kept of the run, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LogArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let store = repo.open()?;
    let runs = with_store!(&store, store => store.list_runs())?;
    if args.view.list {
        print(&report::list(&with_store!(&store, store => heads(store))))?;
        return Ok(Exit::Done);
    }
    let number = choose(args.run, &runs)?;
    let run = with_store!(&store, store => open(store, number))?;
    let view = &args.view;
    if let Some(what) = &view.why {
        let before = earlier(&store, number, &run, what);
        print(&report::why(&run, before.as_ref(), what).map_err(|error| Problem::usage(error.to_string()))?)?;
    } else if let Some(path) = &view.graph {
        let Some(format) = PlanFormat::of_file(path) else {
            let endings = "txt, dot, mmd, json, svg or html";
            return Err(Problem::usage(format!(
                "{}: a file's name has to end with {endings}",
                path.display()
            )));
        };
        save(path, &format.draw(&run.plan, &run.marks(), &Outlook::default(), Colour::Off))?;
    } else if view.critical_path {
        print(&report::critical_path(&run).text(&run))?;
    } else if let Some(path) = &view.timings {
        let usual = || PathBuf::from(format!("cfs-dag-timings-{number}.html"));
        save(&path.clone().unwrap_or_else(usual), &report::timings(&run))?;
    } else if let Some(path) = &view.trace {
        save(path, &report::trace(&run))?;
    } else if view.json {
        print(&run.json(number)?)?;
    } else {
        print(&report::overview(number, &run))?;
    }
    Ok(Exit::Done)
}

/// The run that is meant.
fn choose(asked: Option<u64>, runs: &[u64]) -> Result<u64, Problem> {
    let last = runs.last().copied();
    match asked {
        Some(number) if runs.contains(&number) => Ok(number),
        Some(number) => Err(Problem::usage(match last {
            Some(last) => format!("run {number} is not kept: the last {RUNS_KEPT} are, up to {last}"),
            None => format!("run {number} is not kept: nothing was pulled into this repository so far"),
        })),
        None => last.ok_or_else(|| Problem::from("nothing was pulled into this repository so far")),
    }
}

fn open<H: FsVerityHashValue>(store: &Store<H>, number: u64) -> Result<Run, Problem> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Problem::from(format!(
            "the record of run {number} cannot be read: {error}: see `log --list` for the others"
        ))
    };
    let file = store.open_run(number).map_err(|error| unreadable(&error))?;
    Run::read(file).map_err(|error| unreadable(&error))
}

/// The last run before `number` that had one of the images which `what` is about.
fn earlier(store: &AnyStore, number: u64, run: &Run, what: &str) -> Option<Run> {
    let nodes = run.plan.find(what).ok()?;
    let images = nodes.iter().flat_map(|id| &run.plan.graph[*id].wanted_by);
    let names: HashSet<&str> = images.map(|ix| &*run.plan.images[ix.0].name).collect();
    let planned = |image: &HeadImage| image.manifest.is_some() && names.contains(&*image.name);
    let same = |head: &Head| head.images.iter().any(planned);
    let heads = with_store!(store, store => heads(store));
    let (number, _) = heads.into_iter().find(|(other, head)| *other < number && same(head))?;
    with_store!(store, store => open(store, number)).ok()
}

/// Saves a view, and says where.
fn save(path: &Path, text: &str) -> Result<(), Problem> {
    write_file(path, "the view", text)?;
    print(&format!("{}\n", words::printable(&path.display().to_string())))
}
