//! What earlier runs in a repository tell a new one: how fast this machine is, what names stood for. Knows
//! heads of records; a record that cannot be read tells nothing.

use std::{collections::BTreeMap, path::Path};

use crate::{
    graph::{Before, Facts, Plan, State, forecast},
    render::{ExpectedTime, Outlook},
    report::{Head, Rates},
    store::{FsVerityHashValue, Store},
};

/// More runs than this say nothing new about a machine.
const RUNS: usize = 8;

/// What earlier runs tell.
#[derive(Default)]
pub(super) struct History {
    /// Newest first.
    heads: Vec<Head>,
}

impl History {
    /// What the runs kept in a repository tell.
    pub(super) fn of<H: FsVerityHashValue>(store: &Store<H>) -> Self {
        Self { heads: heads(store).into_iter().map(|(_, head)| head).collect() }
    }

    /// Tells `facts` what the names of a request stood for when they were pulled last.
    pub(super) fn tell(&self, facts: &mut Facts) {
        let mut before: BTreeMap<String, Before> = BTreeMap::new();
        for head in &self.heads {
            for (name, was) in head.stood_for() {
                before.entry(name).or_insert(was);
            }
        }
        facts.before = before;
    }

    /// What is to be expected of a run of `plan` with so many workers into the repository at `path`.
    pub(super) fn outlook(&self, plan: &Plan, workers: usize, path: &Path) -> Outlook {
        let (rates, runs) = self.rates(plan);
        let forecast = forecast(plan, &rates.costs(plan, workers));
        let time = (runs > 0 && plan.is_work()).then(|| {
            let [whole, chain] = [forecast.time(), forecast.chain_time].map(duration);
            ExpectedTime { whole, bound: forecast.bound(), chain, runs }
        });
        Outlook {
            critical: forecast.chain,
            time,
            disk_bytes: plan.is_work().then(|| rates.disk_bytes(plan)),
            free_bytes: free_bytes(path),
        }
    }

    /// The rates of the latest runs that read from the same places, or from any if there
    /// are none, and their number.
    fn rates(&self, plan: &Plan) -> (Rates, usize) {
        let needed = plan.images.iter().filter(|image| plan.graph[image.tag].state != State::Stored);
        let wanted: Vec<&str> = needed.map(|image| place(&image.reference)).collect();
        let measured = || self.heads.iter().filter(|head| !head.rates.is_empty());
        let from_there =
            |head: &&Head| head.images.iter().any(|image| wanted.contains(&place(&image.reference)));
        let mut heads: Vec<&Head> = measured().filter(from_there).take(RUNS).collect();
        if heads.is_empty() {
            heads = measured().take(RUNS).collect();
        }
        let mut rates = Rates::default();
        heads.iter().for_each(|head| rates.add(&head.rates));
        (rates, heads.len())
    }
}

/// The runs that are kept, with their numbers, newest first.
pub(super) fn heads<H: FsVerityHashValue>(store: &Store<H>) -> Vec<(u64, Head)> {
    let head = |number| Some((number, Head::read(store.open_run(number).ok()?).ok()?));
    store.runs().into_iter().rev().filter_map(head).collect()
}

/// Where an image comes from, as far as it matters for speed: the registry, or the kind of local place.
fn place(reference: &str) -> &str {
    match reference.strip_prefix("docker://") {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => reference.split(':').next().unwrap_or(reference),
    }
}

/// Seconds as a duration; what is no time is none.
fn duration(seconds: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Bytes that are free where `path` is or will be.
fn free_bytes(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let found = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok())?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
