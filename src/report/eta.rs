//! The time left, by the longest of the ways to the end. Knows how fast things went so far and how much the
//! tracker says is left; ignores how it knows, and has no clock.
//!
//! - **The network**: all bytes that are still to come, at the rate of the whole.
//! - **The workers**: all tar bytes that are still to be split, at the rate of splitting. How many
//!   there will be is known by how much the blobs that are split already have grown; before the first
//!   one, this way says nothing.
//! - **Each fetch**: its own bytes, at the best rate that it has shown. Not at the present one: when a
//!   fetch that was fast crawls, then mostly because our own workers are behind and hold it back, and it
//!   will be as fast again when they have caught up. Where it is the network after all, the rate of the
//!   whole falls, and that tells.
//! - What comes **after the last byte** is added: the time that layers took from there to their end,
//!   and that of building one filesystem, both as seen in this run. One, because the others are
//!   built while bytes still come.
//!
//! Nothing is promised before there is a rate, and nothing while the rate is that of a stall.

use std::{collections::BTreeMap, time::Duration};

use super::recent::Recent;
use crate::graph::NodeId;

/// How long the run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eta {
    /// Nothing to base it on: too early, or stalled.
    Unknown,
    /// This long, if it goes on as it does.
    Left(Duration),
    /// All is fetched; what remains is work whose length nobody knows.
    Finishing,
}

/// How much is left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Of all fetches, in bytes.
    pub fetch_bytes: u64,
    /// Of the fetches that run, in bytes.
    pub fetches: Vec<(NodeId, u64)>,
    /// The size of all blobs of the run, in bytes.
    pub blob_bytes: u64,
    /// Tar bytes that have been split.
    pub split_bytes: u64,
    /// Whether a filesystem is still to be built.
    pub build: bool,
}

/// How fast things went so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// From the first fetch on.
    fetch: Option<Recent>,
    /// Of the fetches that run now.
    fetches: BTreeMap<NodeId, Own>,
    /// From the first tar byte on.
    split: Option<Recent>,
    /// Tar bytes and blob bytes of what has been split to the end.
    grown: (u64, u64),
    /// From a layer's last byte to its end.
    tails: Mean,
    /// Of building a filesystem.
    builds: Mean,
}

#[derive(Debug)]
struct Own {
    rate: Recent,
    best: Option<f64>,
}

#[derive(Debug, Default)]
struct Mean {
    sum: Duration,
    count: u32,
}

impl Pace {
    /// A fetch begins.
    pub fn fetch_begins(&mut self, id: NodeId, now: Duration) {
        self.fetch.get_or_insert_with(|| Recent::new(now));
        self.fetches.insert(id, Own { rate: Recent::new(now), best: None });
    }

    /// Bytes of a fetch came.
    pub fn fetched(&mut self, id: NodeId, bytes: u64) {
        let own = self.fetches.get_mut(&id).map(|own| &mut own.rate);
        self.fetch.iter_mut().chain(own).for_each(|rate| rate.add(bytes));
    }

    /// A fetch will bring no more.
    pub fn fetch_ends(&mut self, id: NodeId) {
        self.fetches.remove(&id);
    }

    /// Tar bytes were split.
    pub fn split(&mut self, bytes: u64, now: Duration) {
        self.split.get_or_insert_with(|| Recent::new(now)).add(bytes);
    }

    /// A blob was split to its end.
    pub fn split_ends(&mut self, tar_bytes: u64, blob_bytes: u64) {
        self.grown = (self.grown.0.saturating_add(tar_bytes), self.grown.1.saturating_add(blob_bytes));
    }

    /// A layer was done so long after its last byte had come.
    pub fn layer_ends(&mut self, after: Duration) {
        self.tails.add(after);
    }

    /// A filesystem was built in this time.
    pub fn build_ends(&mut self, took: Duration) {
        self.builds.add(took);
    }

    /// Lets time pass, so that a stall shows.
    pub fn advance(&mut self, now: Duration) {
        self.fetch.iter_mut().chain(&mut self.split).for_each(|rate| rate.advance(now));
        for own in self.fetches.values_mut() {
            own.rate.advance(now);
            own.best = own.best.into_iter().chain(own.rate.per_second()).reduce(f64::max);
        }
    }

    /// Bytes fetched a second of late, or `None` before there is something to base it on.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.fetch.as_ref()?.per_second()
    }

    /// The time left for `left`.
    pub fn eta(&self, left: &Left) -> Eta {
        let build_s = if left.build { self.builds.seconds() } else { 0.0 };
        let workers_s = self.workers_s(left);
        if left.fetch_bytes == 0 {
            /// Less than this is over before it is read.
            const WORTH_TELLING_S: f64 = 1.0;
            let told = workers_s.filter(|seconds| *seconds >= WORTH_TELLING_S);
            return told.map_or(Eta::Finishing, |seconds| promise(seconds + build_s));
        }
        let Some(rate) = self.bytes_per_second() else { return Eta::Unknown };
        let fetches = left.fetches.iter().filter_map(|(id, bytes)| {
            // One that has just begun is judged by the rate of the whole.
            Some(seconds(*bytes as f64, self.fetches.get(id)?.best?))
        });
        let last_byte_s = fetches.fold(seconds(left.fetch_bytes as f64, rate), f64::max);
        let fetched_s = last_byte_s + self.tails.seconds();
        promise(workers_s.map_or(fetched_s, |workers_s| workers_s.max(fetched_s)) + build_s)
    }

    /// Until all is split.
    fn workers_s(&self, left: &Left) -> Option<f64> {
        let (tar_bytes, blob_bytes) = self.grown;
        let rate = self.split.as_ref()?.per_second()?;
        if blob_bytes == 0 {
            return None;
        }
        let all_bytes = left.blob_bytes as f64 * (tar_bytes as f64 / blob_bytes as f64);
        Some(seconds((all_bytes - left.split_bytes as f64).max(0.0), rate))
    }
}

impl Mean {
    fn add(&mut self, time: Duration) {
        self.sum = self.sum.saturating_add(time);
        self.count = self.count.saturating_add(1);
    }

    /// Zero before the first one.
    fn seconds(&self) -> f64 {
        self.sum.as_secs_f64() / f64::from(self.count.max(1))
    }
}

fn seconds(bytes: f64, rate: f64) -> f64 {
    /// Whoever is this slow has stalled.
    const SLOWEST: f64 = 1.0;
    if bytes > 0.0 && rate < SLOWEST { f64::INFINITY } else { bytes / rate.max(f64::MIN_POSITIVE) }
}

fn promise(seconds: f64) -> Eta {
    /// Beyond this it is no promise but a stall.
    const LONGEST_S: f64 = 100.0 * 3600.0;
    if seconds <= LONGEST_S { Eta::Left(Duration::from_secs_f64(seconds)) } else { Eta::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> NodeId {
        NodeId::new(1)
    }
    fn two() -> NodeId {
        NodeId::new(2)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Two fetches over `from..to` seconds, with these bytes a second each.
    fn fetch(pace: &mut Pace, from: u64, to: u64, first: u64, second: u64) {
        for at in from..to {
            pace.fetched(one(), first);
            pace.fetched(two(), second);
            pace.advance(s(at + 1));
        }
    }

    fn two_fetches() -> Pace {
        let mut pace = Pace::default();
        pace.fetch_begins(one(), s(0));
        pace.fetch_begins(two(), s(0));
        pace
    }

    #[track_caller]
    fn assert_about(eta: Eta, seconds: f64) {
        let Eta::Left(left) = eta else { panic!("{eta:?}, not {seconds} s") };
        assert!((left.as_secs_f64() - seconds).abs() < 0.05 * seconds, "{left:?}, not {seconds} s");
    }

    #[test]
    fn nothing_is_promised_before_there_is_a_rate() {
        let left = Left { fetch_bytes: 1000, ..Left::default() };
        assert_eq!(Pace::default().eta(&left), Eta::Unknown);
        assert_eq!(two_fetches().eta(&left), Eta::Unknown);
    }

    #[test]
    fn never_less_than_the_slowest_fetch_needs() {
        let mut pace = two_fetches();
        fetch(&mut pace, 0, 10, 90_000, 1000);
        let left = Left {
            fetch_bytes: 190_000,
            fetches: vec![(one(), 100_000), (two(), 90_000)],
            ..Left::default()
        };
        assert_about(pace.eta(&left), 90.0);
    }

    #[test]
    fn a_fetch_that_is_held_back_does_not_look_slow() {
        let mut pace = two_fetches();
        fetch(&mut pace, 0, 10, 50_000, 50_000);
        // The workers are busy with the other layer.
        fetch(&mut pace, 10, 60, 50_000, 10);
        let left = Left {
            fetch_bytes: 200_000,
            fetches: vec![(one(), 100_000), (two(), 100_000)],
            ..Left::default()
        };
        assert_about(pace.eta(&left), 4.0);
    }

    #[test]
    fn a_fetch_alone_that_becomes_slow_looks_slow() {
        let mut pace = two_fetches();
        fetch(&mut pace, 0, 10, 50_000, 0);
        pace.fetch_ends(two());
        fetch(&mut pace, 10, 60, 100, 0);
        let left = Left { fetch_bytes: 100_000, fetches: vec![(one(), 100_000)], ..Left::default() };
        assert_about(pace.eta(&left), 1000.0);
    }

    #[test]
    fn workers_that_are_slower_than_the_network_set_the_pace() {
        let mut pace = two_fetches();
        for second in 1..=10 {
            pace.split(40_000, s(0));
            fetch(&mut pace, second - 1, second, 50_000, 50_000);
        }
        let left =
            Left { fetch_bytes: 100_000, blob_bytes: 1_100_000, split_bytes: 400_000, ..Left::default() };
        assert_about(pace.eta(&left), 1.0);
        // Now it is known that tars are twice as large as their blobs.
        pace.split_ends(200_000, 100_000);
        assert_about(pace.eta(&left), 45.0);
        let all_here = Left { fetch_bytes: 0, ..left };
        assert_about(pace.eta(&all_here), 45.0);
    }

    #[test]
    fn what_comes_after_the_last_byte_is_added() {
        let mut pace = two_fetches();
        fetch(&mut pace, 0, 10, 50_000, 50_000);
        pace.layer_ends(s(1));
        pace.layer_ends(s(3));
        pace.build_ends(s(5));
        let left = Left { fetch_bytes: 1_000_000, ..Left::default() };
        assert_about(pace.eta(&left), 12.0);
        assert_about(pace.eta(&Left { build: true, ..left }), 17.0);
    }

    #[test]
    fn with_all_fetched_and_no_basis_it_only_says_so() {
        assert_eq!(two_fetches().eta(&Left { build: true, ..Left::default() }), Eta::Finishing);
    }

    #[test]
    fn nothing_is_promised_during_a_stall() {
        let mut pace = two_fetches();
        fetch(&mut pace, 0, 10, 50_000, 50_000);
        pace.advance(s(130));
        assert_eq!(pace.eta(&Left { fetch_bytes: 1, ..Left::default() }), Eta::Unknown);
    }
}
