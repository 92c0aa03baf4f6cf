//! What became of the images of a request, and how it is told in the end. Knows places, sums and words;
//! ignores how it came about.

use super::{Exit, Problem, files::write_file, options::Format, print, session::Session};
use crate::{
    graph::Plan,
    pull::{Ended, Resolution, Unresolved},
    report::{ImageResult, Mode, Outcome, Record, Summary, Totals},
};

/// What became of the images of a request, or of some of them.
#[derive(Default)]
pub(super) struct Results {
    /// Each with its place in the request.
    images: Vec<(u64, ImageResult)>,
    /// Names that were taken away.
    pub(super) untagged: Vec<String>,
    totals: Totals,
    /// Whether any of it is of a run.
    ran: bool,
    interrupted: bool,
    /// What went wrong besides, after which nothing else was begun.
    pub(super) problem: Option<Problem>,
}

impl Results {
    /// Of images that never came into a plan.
    pub(super) fn unresolved(failed: &[Unresolved]) -> Self {
        let result = |failed: &Unresolved| {
            let error = format!("{}: {}", failed.text, failed.error);
            (failed.place, ImageResult::unresolved(&failed.name, &failed.text, error))
        };
        Self { images: failed.iter().map(result).collect(), ..Self::default() }
    }

    /// Of nothing, since it was interrupted.
    pub(super) fn interrupted() -> Self {
        Self { interrupted: true, ..Self::default() }
    }

    /// Of a run of `plan` for what `resolution` has.
    pub(super) fn of_run(
        plan: &Plan,
        record: &Record,
        resolution: &Resolution,
        ended: &Ended,
        barriers: u64,
    ) -> Self {
        let Summary { mut images, totals, .. } = Summary::new(plan, record);
        for ((result, image), end) in images.iter_mut().zip(&resolution.images).zip(&ended.images) {
            result.original_manifest = image.resolved.original_digest;
            result.artifact = !image.resolved.is_container;
            result.erofs = end.erofs.clone();
            result.ambiguities = end.ambiguities.clone();
            if let Some((line, _)) = &end.failure {
                result.outcome = Outcome::Failed { error: line.clone() };
                result.previous_manifest = None;
            }
        }
        let places = resolution.images.iter().map(|image| image.place);
        let mut results = Self {
            images: places.zip(images).collect(),
            totals: Totals { barriers, ..totals },
            ran: true,
            interrupted: ended.interrupted,
            ..Self::default()
        };
        results.join(Self::unresolved(&resolution.failed));
        results
    }

    /// Adds what became of others.
    pub(super) fn join(&mut self, others: Self) {
        self.images.extend(others.images);
        self.images.sort_by_key(|(place, _)| *place);
        self.untagged.extend(others.untagged);
        self.totals.add(&others.totals);
        self.ran |= others.ran;
        self.interrupted |= others.interrupted;
        self.problem = self.problem.take().or(others.problem);
    }

    /// Whether nothing more is to be begun.
    pub(super) fn are_cut_short(&self) -> bool {
        self.interrupted || self.problem.is_some()
    }

    /// Whether all is as it should be.
    pub(super) fn are_good(&self) -> bool {
        !self.are_cut_short() && self.images.iter().all(|(_, image)| image.outcome == Outcome::Ok)
    }

    /// Whether any of it is of a run.
    pub(super) fn of_a_run(&self) -> bool {
        self.ran
    }

    /// The images, in the order of the request.
    pub(super) fn images(&self) -> impl Iterator<Item = &ImageResult> {
        self.images.iter().map(|(_, image)| image)
    }

    /// As they are told.
    pub(super) fn summary(&self) -> Summary {
        let images = self.images.iter().map(|(_, image)| image.clone()).collect();
        Summary::of(images, self.untagged.clone(), self.totals.clone())
    }

    /// Tells them as was asked for; of a list only what has changed. The reasons of failures have been told.
    ///
    /// # Errors
    /// The problem, or the result cannot be written.
    pub(super) fn tell(self, session: &Session<'_>, of_list: bool) -> Result<Exit, Problem> {
        let (args, summary) = (session.args, self.summary());
        let printed = match args.format {
            Format::Json => print(&summary.json()),
            Format::Text if of_list => print(&summary.brief()),
            Format::Text if self.ran || self.interrupted => print(&summary.text()),
            Format::Text => Ok(()),
        };
        let written = match &args.summary {
            Some(path) => write_file(path, "the summary", &summary.json()),
            None => Ok(()),
        };
        if let Mode::Tty | Mode::Plain = args.progress.resolve()
            && self.ran
        {
            super::say(format_args!("{}", summary.totals_line()));
        }
        // One of them is what the caller gets; the others are told here.
        let mut problems = [self.problem, printed.err(), written.err()].into_iter().flatten();
        if let Some(first) = problems.next() {
            problems.for_each(|other| super::tell(&*other.error, session.verbose));
            return Err(first);
        }
        if self.interrupted {
            super::say(format_args!(
                "cfs-dag: interrupted: what was committed stays; run this again to go on from here"
            ));
            return Ok(Exit::Interrupted);
        }
        Ok(exit_code(summary.totals.images_ok as usize, summary.totals.images_failed as usize))
    }
}

/// The exit code for so many images.
pub(super) fn exit_code(ok: usize, failed: usize) -> Exit {
    match (ok, failed) {
        (_, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::SomeFailed,
    }
}
