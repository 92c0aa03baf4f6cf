//! Pulls that are killed at many moments: the next pull ends where an undisturbed one ends, and does not
//! fetch again what was committed.

use std::{fs, path::Path};

use support::{
    image::{Image, Layout, layout},
    moments::{Strike, count, moments, prepare, strike},
    oracle,
    pulls::*,
    registry_real::real_registry,
    repo::{Running, Scratch, assert_same_lines, scratch},
    tar::*,
};

/// Many small files, and one that is large.
fn files(seed: u64, count: u64, large: usize) -> Vec<u8> {
    let name = |n: u64| format!("usr/{seed}-{n}");
    let small = (0..count).map(|n| file(name(n), noise(seed * 1000 + n, 30 + 97 * n as usize)));
    tar([dir("usr")].into_iter().chain(small).chain([file(name(count), noise(seed, large))]))
}

/// Three images that share layers, one of them through another compression.
struct Batch {
    layout: Layout,
    images: [Image; 3],
}

impl Batch {
    fn new() -> Self {
        let layout = layout();
        let base = files(1, 40, 1_500_000);
        let image = |tag, top: Vec<u8>| layout.image(tag).layer(base.as_slice()).layer(top).write();
        let images = [
            image("one", files(2, 30, 200_000)),
            image("two", files(3, 30, 2_500_000)),
            layout.image("three").layer(base.as_slice()).zstd().layer(files(4, 10, 80)).write(),
        ];
        Self { layout, images }
    }

    fn references(&self) -> [&str; 3] {
        self.images.each_ref().map(|image| &*image.reference)
    }

    fn start(&self, repo: &Path, jobs: &str) -> Running {
        pull(repo, &self.references()).arg("-j").arg(jobs).start()
    }

    /// What an undisturbed pull leaves, and how many events it has.
    fn clean(&self) -> (Vec<String>, usize) {
        let scratch = scratch();
        let repo = scratch.path("repo");
        prepare(&repo);
        let (events, finished) = count(&repo, || self.start(&repo, "2"));
        finished.assert_code(0);
        assert!(events > 100, "{events} events: inotify missed something");
        (swept(&repo), events)
    }

    /// Pulls while the blobs of all layers that are linked now are out of reach.
    #[track_caller]
    fn resume(&self, repo: &Path) {
        let committed = linked_layers(repo);
        let layers = self.images.iter().flat_map(|image| &image.layers);
        let hidden: Vec<_> = layers
            .filter(|layer| committed.contains(&layer.diff_id))
            .map(|layer| self.layout.blob(&layer.blob))
            .filter(|blob| fs::rename(blob, blob.with_extension("hidden")).is_ok())
            .collect();
        let finished = pull(repo, &self.references()).run();
        for blob in hidden {
            fs::rename(blob.with_extension("hidden"), blob).unwrap();
        }
        finished.assert_code(0);
    }
}

/// Asserts that `repo` is what an undisturbed pull leaves.
#[track_caller]
fn assert_as_clean(clean: &[String], repo: &Path) {
    oracle::assert_clean(repo);
    assert_no_leftovers(repo);
    assert_same_lines("repository after gc", clean, &swept(repo));
    oracle::assert_clean(repo);
}

#[test]
fn a_pull_that_was_killed_at_any_moment_goes_on_from_there() {
    let batch = Batch::new();
    let (clean, events) = batch.clean();
    let mut cut_short = 0;
    for (round, at) in moments(1, 16, events).into_iter().enumerate() {
        let scratch = scratch();
        let repo = scratch.path("repo");
        prepare(&repo);
        let jobs = ["1", "2", "8"][round % 3];
        let killed = strike(Strike::Kill, &repo, at, || batch.start(&repo, jobs));
        cut_short += usize::from(killed.code.is_none());
        println!("killed at event {at} of {events}, {} layers linked", linked_layers(&repo).len());
        // Even now nothing is visible that is not whole.
        oracle::assert_clean(&repo);
        batch.resume(&repo);
        assert_as_clean(&clean, &repo);
    }
    assert!(cut_short >= 16, "only {cut_short} of 32 pulls were killed before their end");
}

#[test]
fn a_pull_that_is_killed_again_and_again_gets_there_in_the_end() {
    let batch = Batch::new();
    let (clean, events) = batch.clean();
    for seed in 2..5 {
        let scratch = scratch();
        let repo = scratch.path("repo");
        prepare(&repo);
        for at in moments(seed, 4, events) {
            strike(Strike::Kill, &repo, at, || batch.start(&repo, "2"));
            oracle::assert_clean(&repo);
        }
        batch.resume(&repo);
        assert_as_clean(&clean, &repo);
    }
}

#[test]
fn a_gc_between_kill_and_resumption_costs_work_and_nothing_else() {
    let batch = Batch::new();
    let (clean, events) = batch.clean();
    for at in moments(5, 4, events) {
        let scratch = scratch();
        let repo = scratch.path("repo");
        prepare(&repo);
        strike(Strike::Kill, &repo, at, || batch.start(&repo, "8"));
        oracle::gc(&repo);
        oracle::assert_clean(&repo);
        batch.resume(&repo);
        assert_as_clean(&clean, &repo);
    }
}

#[test]
fn a_pull_that_was_interrupted_at_any_moment_goes_on_from_there() {
    let batch = Batch::new();
    let (clean, events) = batch.clean();
    let mut interrupted = 0;
    for at in moments(6, 5, events) {
        let scratch = scratch();
        let repo = scratch.path("repo");
        prepare(&repo);
        let finished = strike(Strike::Interrupt, &repo, at, || batch.start(&repo, "2"));
        match finished.code {
            Some(0) => {}
            Some(130) => interrupted += 1,
            _ => panic!("{finished}"),
        }
        oracle::assert_clean(&repo);
        assert_no_leftovers(&repo);
        batch.resume(&repo);
        assert_as_clean(&clean, &repo);
    }
    assert!(interrupted > 0, "all were faster");
}

#[test]
fn a_killed_pull_from_a_registry_asks_only_for_what_is_missing() {
    let batch = Batch::new();
    let registry = real_registry();
    let references = [0, 1, 2]
        .map(|ix| registry.push(batch.references()[ix], &format!("{}:v1", ["one", "two", "three"][ix])));
    let references = references.each_ref().map(String::as_str);
    let start = |repo: &Path| pull(repo, &references).start();
    let fresh = |scratch: &Scratch, name: &str| {
        let repo = scratch.path(name);
        prepare(&repo);
        repo
    };
    let scratch = scratch();
    let repo = fresh(&scratch, "clean");
    let (events, finished) = count(&repo, || start(&repo));
    finished.assert_code(0);
    let clean = swept(&repo);
    for (round, at) in moments(7, 3, events).into_iter().enumerate() {
        let repo = fresh(&scratch, &round.to_string());
        strike(Strike::Kill, &repo, at, || start(&repo));
        let committed = linked_layers(&repo);
        registry.forget_requests();
        start(&repo).wait().assert_code(0);
        let read = registry.blobs_read();
        let layers = batch.images.iter().flat_map(|image| &image.layers);
        for layer in layers.filter(|layer| committed.contains(&layer.diff_id)) {
            assert!(!read.contains(&layer.blob), "{} was committed and fetched again", layer.blob);
        }
        assert_as_clean(&clean, &repo);
    }
}
