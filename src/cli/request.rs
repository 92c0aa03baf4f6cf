//! A request whose images are resolved, on its way to results: plan, then show or run. Knows the order; the
//! work is the library's, and results are told elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use super::{
    Exit, Problem,
    history::History,
    plan::{self, PlanFormat},
    print,
    results::{Results, exit_code},
    session::Session,
};
use crate::{
    exec::Observer,
    graph::{self, Facts, Inputs, Plan, PlannedImage, Selection},
    pull::{self, Ended, Known, Resolution, Task, Unresolved},
    render::{Marks, words::count},
    report::{self, Mode, Outcome, Progress, Recorder, Tee, diagnosis::Logged},
    source::{ErrorKind, SourceError},
    store::{Begun, FsVerityHashValue, Pruned, Store, StoreError, Tag},
    with_store,
};

/// Images that were asked for, and what is wanted of them.
pub(super) struct Request<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) resolution: Resolution,
    /// The plan that has to be run, if one was given.
    pub(super) planned: Option<&'a Plan>,
    /// Where to save the plan, if anywhere.
    pub(super) plan_out: Option<PathBuf>,
    /// The platform that was asked for all images, as text.
    pub(super) platform: Option<String>,
    /// Which images each rule of a list chose.
    pub(super) selections: Vec<Selection>,
    /// Names to take away when all images have succeeded, unless another list has them by then.
    pub(super) untag: Vec<String>,
    /// The list that it is part of; `None` for a pull.
    pub(super) of_list: Option<OfList>,
    /// Whether other images of what was asked for have had their run: then failures alone are one as well, so
    /// that they are in a record.
    pub(super) is_later: bool,
}

/// The list that a request is part of.
pub(super) struct OfList {
    /// What tells it from others.
    pub(super) list: String,
    /// All names that it has so far, each with its image in words where the name does not say it.
    pub(super) names: BTreeMap<String, Option<String>>,
}

impl Request<'_> {
    /// Plans and shows the plan.
    pub(super) fn show(mut self, format: PlanFormat) -> Result<Exit, Problem> {
        self.check()?;
        let inputs = self.inputs();
        let (mut facts, mut history) = (Facts::default(), History::default());
        if let Some(store) = self.session.store() {
            facts = with_store!(store, store => pull::look(store, &inputs).map(|(facts, _)| facts))?;
            history = with_store!(store, store => History::of(store));
            history.tell(&mut facts);
        }
        let plan = self.plan(&inputs, &facts)?;
        let args = self.session.args;
        let outlook = history.outlook(&plan, args.settings().jobs, &self.session.path);
        let marks = Marks { critical: outlook.critical.clone(), ..Marks::default() };
        print(&format.draw(&plan, &marks, &outlook, plan::colour()))?;
        self.save(&plan)?;
        Ok(match exit_code(self.resolution.images.len(), self.resolution.failed.len()) {
            Exit::Done if args.detailed_exitcode && plan.is_work() => Exit::WorkNeeded,
            exit => exit,
        })
    }

    /// Plans and runs the plan. Reasons of failures are told, results are not.
    pub(super) fn run(mut self) -> Result<Results, Problem> {
        self.check()?;
        if self.resolution.images.is_empty() && self.untag.is_empty() && !self.is_later {
            // No repository is made for failures.
            return Ok(Results::unresolved(&self.resolution.failed));
        }
        let inputs = self.inputs();
        if self.planned.is_some() && self.session.store().is_none() {
            // Nor for a plan that is refused.
            self.plan(&inputs, &Facts::default())?;
        }
        let store = self.session.make_store()?;
        with_store!(store, store => self.run_in(store, &inputs))
    }

    /// Tells what could not be resolved, or is refused.
    fn check(&mut self) -> Result<(), Problem> {
        if let Some((name, one, other)) = self.resolution.clash() {
            return Err(Problem::usage(format!(
                "{one} and {other} would both be named {name:?}: pull one of them with another --name"
            )));
        }
        if let Some(store) = self.session.store() {
            with_store!(store, store => self.resolution.refuse_ambiguous(store))?;
        }
        tell_failed(self.session, &self.resolution.failed);
        self.stop_if_one_failed();
        Ok(())
    }

    /// With --fail-fast an image that cannot be resolved takes all others with it.
    fn stop_if_one_failed(&mut self) {
        if !self.session.args.fail_fast || self.resolution.failed.is_empty() {
            return;
        }
        let images = std::mem::take(&mut self.resolution.images);
        tell_given_up(images.len());
        let error = SourceError::new(ErrorKind::Other, pull::NotDone.to_string());
        self.resolution.failed.extend(images.iter().map(|image| image.given_up(error.clone())));
    }

    fn inputs(&self) -> Inputs {
        let force = self.session.args.force || self.planned.is_some_and(Plan::is_forced);
        let inputs = self.resolution.inputs(self.session.repository_text(), self.platform.clone());
        Inputs { force, selections: self.selections.clone(), untag: self.untag.clone(), ..inputs }
    }

    /// The plan for what was resolved, if it may be run.
    fn plan(&self, inputs: &Inputs, facts: &Facts) -> Result<Plan, Problem> {
        let plan = graph::plan(inputs, facts);
        let Some(planned) = self.planned else { return Ok(plan) };
        // An image that cannot be resolved has been told of already.
        let moved = planned.moved(&plan).filter(|_| self.resolution.failed.is_empty());
        let why = match (moved, self.resolution.failed.is_empty()) {
            (Some(moved), _) => moved.to_string(),
            (None, false) => "not all of its images can be reached".to_owned(),
            (None, true) => return Ok(plan),
        };
        Err(Problem::from(format!("the plan cannot be run as it is: {why}: make a new one")))
    }

    /// Saves the plan, if that was asked for and it is a plan for all that was asked for.
    fn save(&self, plan: &Plan) -> Result<(), Problem> {
        let Some(path) = &self.plan_out else { return Ok(()) };
        if !self.resolution.failed.is_empty() {
            return Err(Problem::from("the plan is not saved: not all images can be reached"));
        }
        plan::save(plan, path)
    }

    fn run_in<H: FsVerityHashValue>(
        &self,
        store: &Arc<Store<H>>,
        inputs: &Inputs,
    ) -> Result<Results, Problem> {
        let args = self.session.args;
        let (mut facts, known): (Facts, Known<H>) = pull::look(store, inputs)?;
        let mut plan = self.plan(inputs, &facts)?;
        if plan.is_work() {
            // Only for the reasons: with nothing to do there are none.
            History::of(store).tell(&mut facts);
            plan = self.plan(inputs, &facts)?;
        }
        let plan = Arc::new(plan);
        self.save(&plan)?;
        let begun = self.begin(store, &plan)?;
        let (began, barriers) = (SystemTime::now(), store.barriers());
        let needed = plan.graph.node_weights().filter(|node| node.state == graph::State::Needed);
        let layers = needed.filter(|node| node.kind == graph::Kind::Finalize).count();
        tracing::info!("{layers} of {} layers are needed", plan.layers().len());
        let shown = if plan.images.is_empty() { Mode::None } else { args.progress };
        let progress = Arc::new(Progress::start(shown, plan.clone()));
        let recorder = Arc::new(Recorder::new(&plan));
        let observers: [Arc<dyn Observer>; 2] = [recorder.clone(), progress.clone()];
        let observers = observers.into_iter().chain(Logged::wanted(&plan));
        let task = Task { store: store.clone(), resolution: &self.resolution, inputs, plan: &plan, known };
        let ended = pull::run(
            task,
            args.settings(),
            self.session.runtime.handle().clone(),
            Arc::new(Tee::new(observers)),
            &self.session.interrupt,
        );
        progress.finish();
        let record = recorder.record();
        let (ended, failure) = match ended {
            Ok(ended) => (ended, None),
            Err(error) => (Ended::default(), Some(error)),
        };
        let barriers = store.barriers() - barriers;
        let mut results = Results::of_run(&plan, &record, &self.resolution, &ended, barriers);
        self.tell_contested(&begun, &results);
        self.forget_unmade(store, &begun, &plan, &results);
        let untagged = match &failure {
            None if results.are_good() => self.prune(store),
            _ => Ok(Vec::new()),
        };
        let plan = Arc::unwrap_or_clone(plan);
        let end = match &failure {
            Some(error) => report::RunEnd::Broken(error.to_string()),
            None if ended.interrupted => report::RunEnd::Interrupted,
            None => report::RunEnd::Whole,
        };
        let run = report::Run::new(plan, record, &results.summary(), began, args.limits(), end);
        // The record helps to understand the run; the run is as good without it, and one that
        // failed has its own error.
        let kept = run.to_bytes().map_err(Problem::from).and_then(|bytes| Ok(store.keep_run(&bytes)?));
        if let Err(error) = kept.map_err(|error| error.error)
            && failure.is_none()
        {
            super::say(format_args!("cfs-dag: no record of this run was kept: {error}"));
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        self.tell_failures(&ended);
        match untagged {
            Ok(untagged) => results.untagged = untagged,
            // The images are there whatever became of the names that should go.
            Err(error) => results.problem = Some(error.into()),
        }
        Ok(results)
    }

    /// Records the names of the list, and which of them this run makes: those that stand for
    /// another image or for none.
    fn begin<H: FsVerityHashValue>(&self, store: &Store<H>, plan: &Plan) -> Result<Begun, StoreError> {
        let Some(OfList { list, names }) = &self.of_list else { return Ok(Begun::default()) };
        let is_made = |image: &&PlannedImage| image.named != Some(image.manifest);
        let making = plan.images.iter().filter(is_made).map(|image| &*image.name).collect();
        store.begin_mirror(list, names, &making)
    }

    /// Takes back that this run made names which it did not make after all: another program
    /// may, before the next run.
    fn forget_unmade<H: FsVerityHashValue>(
        &self,
        store: &Store<H>,
        begun: &Begun,
        plan: &Plan,
        results: &Results,
    ) {
        let Some(OfList { list, .. }) = &self.of_list else { return };
        let failed = results.images().filter(|image| image.outcome != Outcome::Ok);
        let failed: BTreeSet<&str> = failed.map(|image| &*image.name).collect();
        let is_as_before = |image: &&PlannedImage| {
            let tagged = Tag::new(&image.name).and_then(|tag| store.tagged(&tag));
            tagged.is_ok_and(|now| now == image.named)
        };
        let made_first = plan.images.iter().filter(|image| begun.new.contains(&image.name));
        let unmade: BTreeSet<&str> = made_first
            .filter(|image| failed.contains(&*image.name))
            .filter(is_as_before)
            .map(|image| &*image.name)
            .collect();
        if unmade.is_empty() {
            return;
        }
        let forgotten = store.change_mirrored(list, |record| {
            for (_, known) in record.iter_mut().filter(|(name, _)| unmade.contains(&***name)) {
                known.made = false;
            }
        });
        if let Err(error) = forgotten {
            tracing::warn!("names that were not made are recorded as made: {error}");
        }
    }

    /// Says which lists have names that this run moved, for other images: every run of
    /// either list would move them.
    fn tell_contested(&self, begun: &Begun, results: &Results) {
        let Some(OfList { names, .. }) = &self.of_list else { return };
        let mut by_list: BTreeMap<&str, Vec<(&str, Option<&str>)>> = BTreeMap::new();
        for image in results.images().filter(|image| image.previous_manifest.is_some()) {
            if let Some(other) = begun.elsewhere.get(&image.name)
                && names.get(&image.name) != Some(&other.image)
            {
                by_list.entry(&other.list).or_default().push((&image.name, other.image.as_deref()));
            }
        }
        for (list, moved) in by_list {
            let (name, image) = moved[0];
            let others = match moved.len() - 1 {
                0 => String::new(),
                others => format!(" and {}", count(others, "other name", "other names")),
            };
            let image = image.map_or_else(String::new, |image| format!(" for {image}"));
            super::say(format_args!(
                "cfs-dag: {name}{others} moved, and the list {list} has that name{image}: the lists will \
                 take it from \
                 each other until one of them has another name for it"
            ));
        }
    }

    /// Takes the names away that shall go; gives those that were there.
    fn prune<H: FsVerityHashValue>(&self, store: &Store<H>) -> Result<Vec<String>, StoreError> {
        let Some(OfList { list, .. }) = self.of_list.as_ref().filter(|_| !self.untag.is_empty()) else {
            return Ok(Vec::new());
        };
        let Pruned { untagged, kept } = store.prune(list, &self.untag)?;
        kept.iter().for_each(|(name, list)| tell_not_pruned(name, list));
        Ok(untagged)
    }

    fn tell_failures(&self, ended: &Ended) {
        for (image, end) in self.resolution.images.iter().zip(&ended.images) {
            for ambiguity in end.ambiguities.iter().filter(|_| end.failure.is_none()) {
                let text = &image.asked.text;
                super::say(format_args!("cfs-dag: warning: {text}: {ambiguity}: read as cfsctl does"));
            }
        }
        let failures = ended.images.iter().filter_map(|image| image.failure.as_ref());
        let (given_up, failed): (Vec<_>, Vec<_>) =
            failures.partition(|(_, failure)| failure.0.is::<pull::NotDone>());
        for (line, failure) in failed {
            super::say(format_args!("cfs-dag: {line}"));
            super::tell_causes(&*failure.0, self.session.verbose);
        }
        tell_given_up(given_up.len());
    }
}

/// Says that a dry run was interrupted.
pub(super) fn tell_no_plan() -> Exit {
    super::say(format_args!("cfs-dag: interrupted: there is no plan yet"));
    Exit::Interrupted
}

/// Says that `name` stays because `list` has it, too.
pub(super) fn tell_not_pruned(name: &str, list: &str) {
    super::say(format_args!("cfs-dag: {name} is not pruned: the list {list} has it too"));
}

/// Tells why images could not be resolved.
pub(super) fn tell_failed(session: &Session<'_>, failed: &[Unresolved]) {
    for failed in failed {
        super::tell(&Named { reference: &failed.text, error: &failed.error }, session.verbose);
    }
}

/// An error with the reference that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{reference}: {error}")]
struct Named<'a> {
    reference: &'a str,
    error: &'a SourceError,
}

/// With --fail-fast a long list has one failure and many of these.
fn tell_given_up(images: usize) {
    if images > 0 {
        let images = count(images, "image was", "images were");
        super::say(format_args!("cfs-dag: {images} given up: another one failed first (--fail-fast)"));
    }
}
