//! Law 2 to the letter: nothing gets a name before it is durable, and what is stored is left alone.
//!
//! Pulls go through the library here, so that a journal can see every step of the store.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use cfs_dag::{
    graph::{self, State},
    pull::{self, Asked, Interrupt, Resolving, Settings, Stored, Task},
    report::{Recorder, Summary},
    source::{Options, Patience, Retries, Sources},
    store::{
        self, FsVerityHashValue, Store,
        law::{Before, Journal, Op, breaches},
    },
    with_store,
};
use support::{
    corpus,
    image::{Image, layout},
    oracle::{self, ALL_KINDS, DEFAULT_KIND, RepoKind},
    repo::{fix_umask, scratch},
    tar::*,
};

#[test]
fn a_cold_pull_links_nothing_before_its_barrier() {
    let (layout, scratch) = (layout(), scratch());
    let images: Vec<Image> = corpus::accepted().iter().map(|case| case.write(&layout)).collect();
    let images: Vec<&Image> = images.iter().collect();
    for (n, jobs) in [1, 2, 8].into_iter().enumerate() {
        let repo = new_repo(&scratch.path(&n.to_string()), DEFAULT_KIND);
        let seen = Pull { jobs, ..Pull::of(&repo, &images) }.run();
        assert_lawful(&seen);
        assert!(seen.tags_linked() == images.len() && seen.barriers() > 0);
        oracle::assert_clean(&repo);
    }
}

#[test]
fn a_pull_costs_a_barrier_for_a_layer_and_one_for_the_image_at_most() {
    let (layout, scratch) = (layout(), scratch());
    let layers = (0..5).map(|n| tar([dir("usr"), file(format!("usr/f{n}"), noise(n, 100_000))]));
    let image = layers.fold(layout.image("app"), |image, layer| image.layer(layer)).write();
    let repo = new_repo(&scratch.path("repo"), DEFAULT_KIND);
    let seen = Pull::of(&repo, &[&image]).run();
    assert_lawful(&seen);
    assert!((1..=6).contains(&seen.barriers()), "{} barriers", seen.barriers());
}

#[test]
fn a_second_image_that_shares_layers_is_as_lawful() {
    let (layout, scratch) = (layout(), scratch());
    let base = tar([dir("usr"), file("usr/base", noise(1, 50_000)), file("usr/common", noise(2, 5000))]);
    let first = layout.image("first").layer(base.as_slice()).write();
    let top = tar([file("usr/top", noise(3, 60_000)), file("usr/common-too", noise(2, 5000))]);
    let second = layout.image("second").layer(base).zstd().layer(top).write();
    let repo = new_repo(&scratch.path("repo"), DEFAULT_KIND);
    assert_lawful(&Pull::of(&repo, &[&first]).run());
    let before = things_in(&repo);
    let seen = Pull::of(&repo, &[&second]).run();
    assert_lawful(&seen);
    assert!(seen.barriers() > 0);
    let after = things_in(&repo);
    let replaced: Vec<_> = before
        .iter()
        .filter(|(_, thing)| !thing.is_dir)
        .filter(|(path, t)| after.get(*path) != Some(*t))
        .collect();
    assert!(replaced.is_empty(), "{replaced:?}");
    oracle::assert_clean(&repo);
}

#[test]
fn another_config_over_stored_layers_is_as_lawful() {
    let (layout, scratch) = (layout(), scratch());
    let base = tar([dir("usr"), file("usr/base", noise(1, 50_000))]);
    let first = layout.image("first").layer(base.as_slice()).write();
    let second = layout.image("second").layer(base).env("A=b").write();
    let repo = new_repo(&scratch.path("repo"), DEFAULT_KIND);
    assert_lawful(&Pull::of(&repo, &[&first]).run());
    let seen = Pull::of(&repo, &[&second]).run();
    assert_lawful(&seen);
    assert_eq!((seen.barriers(), seen.tags_linked()), (1, 1));
}

#[test]
fn a_warm_pull_has_no_barrier_and_changes_nothing() {
    let (layout, scratch) = (layout(), scratch());
    let images: Vec<Image> = corpus::accepted().iter().map(|case| case.write(&layout)).collect();
    let images: Vec<&Image> = images.iter().collect();
    for kind in ALL_KINDS {
        let repo = new_repo(&scratch.path(&kind.to_string()), kind);
        assert_lawful(&Pull::of(&repo, &images).run());
        assert_untouched_by_a_pull(&repo, &images);
    }
}

#[test]
fn a_warm_pull_after_upstream_has_no_barrier_and_changes_nothing() {
    let (layout, scratch) = (layout(), scratch());
    let images: Vec<Image> = corpus::accepted().iter().map(|case| case.write(&layout)).collect();
    for kind in ALL_KINDS {
        let repo = scratch.path(&kind.to_string());
        oracle::create(&repo, kind);
        for image in &images {
            oracle::upstream_pull(&repo, &image.reference, &image.reference).unwrap();
        }
        assert_untouched_by_a_pull(&repo, &images.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_warm_pull_reads_no_blob() {
    let (layout, scratch) = (layout(), scratch());
    let layers = [noise(1, 50_000), noise(2, 20)].map(|content| tar([dir("usr"), file("usr/f", content)]));
    let [below, above] = layers;
    let image = layout.image("app").layer(below).layer(above).zstd().write();
    let (ours, theirs) = (new_repo(&scratch.path("ours"), DEFAULT_KIND), scratch.path("theirs"));
    Pull::of(&ours, &[&image]).run();
    oracle::create(&theirs, DEFAULT_KIND);
    oracle::upstream_pull(&theirs, &image.reference, &image.reference).unwrap();
    for layer in &image.layers {
        layout.remove_blob(&layer.blob);
    }
    for repo in [ours, theirs] {
        assert_untouched_by_a_pull(&repo, &[&image]);
    }
}

#[test]
fn a_pull_into_a_repository_filled_by_upstream_is_as_lawful() {
    let (layout, scratch) = (layout(), scratch());
    let base = tar([dir("usr"), file("usr/base", noise(1, 50_000)), file("usr/common", noise(2, 5000))]);
    let first = layout.image("first").layer(base.as_slice()).write();
    let top = tar([file("usr/top", noise(3, 60_000)), file("usr/common-too", noise(2, 5000))]);
    let second = layout.image("second").layer(base).zstd().layer(top).write();
    for kind in ALL_KINDS {
        let repo = scratch.path(&kind.to_string());
        oracle::create(&repo, kind);
        let theirs = oracle::upstream_pull(&repo, &first.reference, "first").unwrap();
        let seen = Pull::of(&repo, &[&second]).run();
        assert_lawful(&seen);
        assert!(seen.barriers() > 0);
        oracle::assert_clean(&repo);
        assert_eq!(oracle::stored(&repo, "first"), theirs, "{kind}");
        oracle::gc(&repo);
        oracle::assert_clean(&repo);
    }
}

#[test]
fn objects_without_names_are_not_taken_to_be_durable() {
    // As a killed pull leaves them: complete, perhaps, but no syncfs has begun after that.
    let (layout, scratch) = (layout(), scratch());
    let image = layout.image("app").layer(tar([dir("usr"), file("usr/f", noise(1, 50_000))])).write();
    let repo = new_repo(&scratch.path("repo"), DEFAULT_KIND);
    Pull::of(&repo, &[&image]).run();
    let objects = oracle::objects(&repo);
    for folder in ["streams", "images", "cfs-dag"] {
        fs::remove_dir_all(repo.join(folder)).unwrap();
    }
    for folder in ["streams", "images"] {
        fs::create_dir(repo.join(folder)).unwrap();
    }
    let seen = Pull::of(&repo, &[&image]).run();
    assert_lawful(&seen);
    assert!(seen.barriers() > 0);
    assert_eq!(oracle::objects(&repo), objects);
    assert_eq!(seen.objects_new, 0);
    oracle::assert_clean(&repo);
}

#[test]
fn the_check_of_the_law_finds_each_breach() {
    let (layout, scratch) = (layout(), scratch());
    let layers = [tar([dir("usr"), file("usr/f", noise(1, 50_000))]), tar([file("usr/g", noise(2, 500))])];
    let image = layers.into_iter().fold(layout.image("app"), |image, layer| image.layer(layer)).write();
    let repo = new_repo(&scratch.path("repo"), DEFAULT_KIND);
    let ops = Pull::of(&repo, &[&image]).run().ops;
    let found = |ops: Vec<Op>| {
        let store = store::open(&repo).unwrap();
        with_store!(&store, store => breaches(store, Before::default(), &ops).unwrap())
    };
    assert_eq!(found(ops.clone()), [""; 0]);
    let without = |gone: fn(&Op) -> bool| ops.iter().filter(|op| !gone(op)).cloned().collect::<Vec<_>>();
    assert!(!found(without(|op| *op == Op::SyncEnd)).is_empty(), "no sync");
    assert!(!found(without(|op| matches!(op, Op::DirSynced(_)))).is_empty(), "no fsync of a directory");
    // Each object, one at a time: a barrier that it came too late for does not count.
    let completed = ops.iter().enumerate().filter(|(_, op)| matches!(op, Op::Complete(_)));
    let last_barrier = ops.iter().rposition(|op| *op == Op::SyncBegin).unwrap();
    for (at, op) in completed {
        let mut late = ops.clone();
        late.insert(last_barrier + 1, op.clone());
        late.remove(at);
        assert!(!found(late).is_empty(), "{op:?} after the last barrier began");
    }
    // Each link but the tag, after the tag.
    let links: Vec<usize> = (0..ops.len()).filter(|&at| matches!(ops[at], Op::Linked { .. })).collect();
    for &at in &links[..links.len() - 1] {
        let mut late = ops.clone();
        let link = late.remove(at);
        late.insert(*links.last().unwrap(), link.clone());
        assert!(!found(late).is_empty(), "{link:?} after the tag");
    }
}

/// A pull of `images` into `repo`, each named by its reference.
struct Pull<'a> {
    repo: &'a Path,
    images: &'a [&'a Image],
    jobs: usize,
}

/// What was seen of a pull.
struct Seen {
    ops: Vec<Op>,
    breaches: Vec<String>,
    objects_new: u64,
    objects_present: u64,
    /// Steps that were to be done, by their kinds.
    needed: Vec<graph::Kind>,
}

impl Seen {
    fn barriers(&self) -> usize {
        self.ops.iter().filter(|op| **op == Op::Barrier).count()
    }

    fn tags_linked(&self) -> usize {
        let is_tag =
            |op: &&Op| matches!(op, Op::Linked { path, .. } if path.starts_with("streams/refs/oci/"));
        self.ops.iter().filter(is_tag).count()
    }
}

impl<'a> Pull<'a> {
    fn of(repo: &'a Path, images: &'a [&'a Image]) -> Self {
        Self { repo, images, jobs: 4 }
    }

    /// Runs it as the program does, and lets go of the repository.
    #[track_caller]
    fn run(self) -> Seen {
        fix_umask();
        let store = store::open(self.repo).unwrap();
        with_store!(&store, store => self.run_in(store))
    }

    #[track_caller]
    fn run_in<H: FsVerityHashValue>(&self, store: &Arc<Store<H>>) -> Seen {
        let journal = Arc::new(Journal::default());
        store.set_recorder(journal.clone());
        let before = Before::of(store).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let sources = Sources::new(Options::default());
        let resolution = runtime.block_on(async {
            let mut resolving = Resolving::new(&sources, Arc::new(Stored::of(None)));
            resolving.ask((0..).zip(self.asked()).collect(), |_| ());
            while resolving.next().await.is_some() {}
            resolving.take()
        });
        assert!(resolution.failed.is_empty());
        let inputs = resolution.inputs("the tests'".to_owned(), None);
        let (facts, known) = pull::look(store, &inputs).unwrap();
        let plan = graph::plan(&inputs, &facts);
        let task =
            Task { store: store.clone(), resolution: &resolution, inputs: &inputs, plan: &plan, known };
        let settings = Settings {
            jobs: self.jobs,
            downloads: 6,
            memory: 64 << 20,
            limit_rate: None,
            retries: Retries::default(),
            patience: Patience::default(),
            limits: Default::default(),
            fail_fast: false,
        };
        let handle = runtime.handle().clone();
        let recorder = Arc::new(Recorder::new(&plan));
        let ended = pull::run(task, settings, handle, recorder.clone(), &Interrupt::default()).unwrap();
        runtime.block_on(sources.close());
        for image in &ended.images {
            assert!(image.failure.is_none(), "{:?}", image.failure.as_ref().map(|(line, _)| line));
        }
        let ops = journal.ops();
        let totals = Summary::new(&plan, &recorder.record()).totals;
        Seen {
            breaches: breaches(store, before, &ops).unwrap(),
            ops,
            objects_new: totals.objects_new,
            objects_present: totals.objects_present,
            needed: plan.graph.node_weights().filter(|n| n.state == State::Needed).map(|n| n.kind).collect(),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        let ask = |image: &&Image| Asked {
            reference: image.reference.parse().unwrap(),
            text: image.reference.clone(),
            name: image.reference.clone(),
            site: Arc::default(),
            immutable: false,
            as_upstream: false,
        };
        self.images.iter().map(ask).collect()
    }
}

fn new_repo(path: &Path, kind: RepoKind) -> PathBuf {
    oracle::create(path, kind);
    path.to_owned()
}

#[track_caller]
fn assert_lawful(seen: &Seen) {
    assert!(seen.breaches.is_empty(), "{:#?}", seen.breaches);
}

/// Asserts that pulling `images`, which are all there, has nothing to do and does nothing but make sure that
/// their links are durable, whoever made them.
#[track_caller]
fn assert_untouched_by_a_pull(repo: &Path, images: &[&Image]) {
    let before = things_in(repo);
    let seen = Pull::of(repo, images).run();
    assert!(seen.needed.is_empty(), "to be done: {:?}", seen.needed);
    let links = ["images", "streams", "streams/refs/oci"].map(|dir| Op::DirSynced(dir.into()));
    assert_eq!(seen.ops, links);
    assert_eq!((seen.objects_new, seen.objects_present), (0, 0));
    let after = things_in(repo);
    let changed: Vec<_> = before.iter().filter(|(path, thing)| after.get(*path) != Some(*thing)).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{changed:?}");
}

/// What tells whether a file, link or directory was written, replaced or given another mode.
#[derive(Debug, PartialEq, Eq)]
struct Thing {
    is_dir: bool,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Everything outside of `cfs-dag/`.
fn things_in(repo: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut things = BTreeMap::new();
    let mut folders = vec![repo.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path == repo.join("cfs-dag") {
                continue;
            }
            let m = path.symlink_metadata().unwrap();
            if m.is_dir() {
                folders.push(path.clone());
            }
            let modified = (m.mtime(), m.mtime_nsec());
            let thing =
                Thing { is_dir: m.is_dir(), inode: m.ino(), modified, changed: (m.ctime(), m.ctime_nsec()) };
            things.insert(path, thing);
        }
    }
    things
}
