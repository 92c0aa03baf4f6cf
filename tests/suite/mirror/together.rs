//! Several programs at one repository at once: each layer is fetched by one of them, nobody waits for who is
//! gone or has failed, and who waits says for whom.

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{
    image::{Image, Layout, layout},
    mirrors::*,
    oracle,
    pulls::*,
    registry::{Fault, Registry},
    repo::{Invocation, Running, Scratch, cfs_dag, scratch},
    tar::*,
};

/// Three images over one base in a registry, and a repository that is not there yet.
struct Shared {
    registry: Registry,
    _layout: Layout,
    base: Image,
    app: Image,
    lib: Image,
    /// Of `base`, `app` and `lib`.
    references: [String; 3],
    scratch: Scratch,
}

/// The base is larger than what is on top of it, so that it is fetched first.
fn shared() -> Shared {
    let (layout, registry) = (layout(), Registry::start());
    let base = || tar([dir("usr"), file("usr/base", noise(1, 300_000))]);
    let top =
        |name: &str| tar([file(format!("usr/{name}"), noise(name.len() as u64, 40_000)), file("name", name)]);
    let image = |name: &str| layout.image(name).layer(base()).plain().env(&format!("NAME={name}"));
    let base = image("base").write();
    let app = image("app").layer(top("app")).plain().layer(top("more of app")).plain().write();
    let lib = image("lib").layer(top("library")).plain().write();
    let references = [("base", &base), ("app", &app), ("lib", &lib)]
        .map(|(name, image)| serve(&registry, &layout, image, name));
    Shared { registry, _layout: layout, base, app, lib, references, scratch: scratch() }
}

impl Shared {
    fn repo(&self) -> PathBuf {
        self.scratch.path("repo")
    }

    /// The base's blob.
    fn base_blob(&self) -> &str {
        &self.base.layers[0].blob
    }

    /// The next request for the base under this name gets some bytes and then none, until all is released.
    fn hold_base(&self, repository: &str) {
        self.registry.fault(repository, self.base_blob().parse().unwrap(), Fault::StallAfter(100_000));
    }

    /// A mirror of these of the references.
    fn mirror(&self, which: &[usize]) -> Invocation {
        let name: String = which.iter().map(usize::to_string).collect();
        let references: Vec<&String> = which.iter().map(|at| &self.references[*at]).collect();
        mirror(&self.repo(), &list(&self.scratch, &name, &references))
    }

    /// A mirror that fetches the base, which is held, and another one that waits for it.
    #[track_caller]
    fn one_and_who_waits_for_it(&self, one: &[usize], other: &[usize]) -> (Running, Running) {
        self.hold_base("app");
        let mut first = self.mirror(one).start();
        self.until_it_fetches(&mut first, self.base_blob());
        let mut second = self.mirror(other).start();
        until_it_waits_for(&mut second, &first);
        (first, second)
    }

    /// Waits until it asks for a blob.
    #[track_caller]
    fn until_it_fetches(&self, running: &mut Running, blob: &str) {
        until(running, || self.registry.requests_for(blob) > 0);
    }

    /// The blobs of all layers of `app` and `lib`, each once.
    fn layer_blobs(&self) -> Vec<String> {
        let mut blobs: Vec<String> =
            self.app.layers.iter().chain(&self.lib.layers).map(|layer| layer.blob.clone()).collect();
        blobs.sort();
        blobs.dedup();
        blobs
    }

    /// How often each of them was asked for.
    fn requests(&self) -> Vec<usize> {
        self.layer_blobs().iter().map(|blob| self.registry.requests_for(blob)).collect()
    }

    /// Asserts that these images are whole, as upstream has them, and that no more is there.
    #[track_caller]
    fn assert_whole(&self, which: &[usize]) {
        let repo = self.repo();
        let mut expected: Vec<String> = which.iter().map(|at| self.references[*at].clone()).collect();
        expected.sort();
        assert_eq!(names(&repo), expected);
        for reference in expected {
            assert_stored(&repo, &reference, &reference);
        }
        oracle::assert_clean(&repo);
        oracle::gc(&repo);
        oracle::assert_clean(&repo);
        assert_no_leftovers(&repo);
        assert_no_claims(&repo);
    }
}

/// Waits until `waiting` says that it waits for `holder`, and what that is.
#[track_caller]
fn until_it_waits_for(waiting: &mut Running, holder: &Running) {
    let process = format!("process {} (cfs-dag mirror", holder.pid().as_raw_nonzero());
    waiting.until_it_says(&["layer", &process, "waiting"]);
}

#[test]
fn two_mirrors_of_one_list_fetch_each_layer_once() {
    let shared = shared();
    shared.hold_base("lib");
    let (first, second) = shared.one_and_who_waits_for_it(&[1, 2], &[1, 2]);
    shared.registry.release();
    first.wait().assert_code(0);
    second.wait().assert_code(0);
    assert_eq!(shared.requests(), [1; 4]);
    shared.assert_whole(&[1, 2]);
}

#[test]
fn two_lists_that_overlap_share_the_work() {
    let shared = shared();
    let (first, second) = shared.one_and_who_waits_for_it(&[1], &[2]);
    shared.registry.release();
    first.wait().assert_code(0);
    second.wait().assert_code(0);
    assert_eq!(shared.requests(), [1; 4]);
    shared.assert_whole(&[1, 2]);
}

#[test]
fn mirrors_that_begin_together_where_nothing_is_yet_fetch_each_layer_once() {
    for _ in 0..4 {
        let shared = shared();
        let lists: [&[usize]; 3] = [&[1, 2], &[2, 1], &[1, 2]];
        // All lists are written before the first program reads one.
        let mirrors: Vec<Invocation> = lists.iter().map(|which| shared.mirror(which)).collect();
        let running: Vec<Running> = mirrors.into_iter().map(Invocation::start).collect();
        for running in running {
            running.wait().assert_code(0);
        }
        assert_eq!(shared.requests(), [1; 4]);
        shared.assert_whole(&[1, 2]);
    }
}

#[test]
fn a_layer_whose_holder_was_killed_is_fetched_by_who_waited() {
    let shared = shared();
    let (first, second) = shared.one_and_who_waits_for_it(&[1], &[1]);
    first.kill();
    second.wait().assert_code(0);
    assert_eq!(shared.registry.requests_for(shared.base_blob()), 2);
    shared.assert_whole(&[1]);
}

#[test]
fn a_layer_whose_holder_does_not_get_on_is_fetched_by_who_waited() {
    let shared = shared();
    shared.mirror(&[0]).expect_success();
    // As a stopped process has it.
    let claims = shared.repo().join("cfs-dag/claims");
    let claim = fs::File::create(claims.join(format!("oci-layer-{}", shared.app.layers[1].diff_id))).unwrap();
    claim.lock().unwrap();
    let reference = &shared.app.reference;
    let waited = cfs_dag(["pull", "--progress=plain", "--stall-timeout=100ms", reference])
        .repo(shared.repo())
        .expect_success();
    waited.says(&["is at work on it: waiting for that"]).says(&["is making no progress; fetching it here"]);
    assert_stored(&shared.repo(), reference, reference);
    oracle::assert_clean(&shared.repo());
}

#[test]
fn a_layer_whose_holder_has_failed_is_fetched_by_who_waited() {
    let shared = shared();
    let blob = format!("app/blobs/{}", shared.base_blob());
    // Silent until it is released; then the connection is closed, which is worth another
    // try, and that says no.
    shared.registry.fault_next(&blob, Fault::Silence);
    shared.registry.fault_next(&blob, Fault::Status(404, None));
    // What goes on must not keep the holder's claims in use.
    let other = Registry::start();
    let (layout, other_scratch) = (layout(), scratch());
    let image = layout.image("slow").layer(tar([dir("usr"), file("slow", noise(7, 50_000))])).plain().write();
    let slow = serve(&other, &layout, &image, "slow");
    other.fault("slow", image.layers[0].blob.parse().unwrap(), Fault::StallAfter(100));
    let both = list(&other_scratch, "both", &[&shared.references[1], &slow]);

    let mut first = mirror(&shared.repo(), &both).start();
    shared.until_it_fetches(&mut first, shared.base_blob());
    until(&mut first, || other.requests_for(&image.layers[0].blob) > 0);
    let mut second = shared.mirror(&[2]).start();
    until_it_waits_for(&mut second, &first);
    shared.registry.release();
    // While the first still runs.
    second.wait().assert_code(0);
    other.release();
    let first = first.wait().assert_code(3).says(&[&shared.references[1]]);
    assert!(first.stderr.contains("404") || first.stderr.contains("unknown"), "{first}");
    assert_stored(&shared.repo(), &slow, &slow);
    oracle::assert_clean(&shared.repo());
    assert_no_claims(&shared.repo());
}

#[test]
fn a_layer_that_is_made_again_is_in_nobodys_way_who_has_it() {
    let shared = shared();
    shared.mirror(&[1]).expect_success();
    shared.registry.forget_requests();
    shared.hold_base("app");
    let mut first = shared.mirror(&[1]).arg("--force").start();
    shared.until_it_fetches(&mut first, shared.base_blob());
    let mut second = shared.mirror(&[1]).arg("--force").start();
    until_it_waits_for(&mut second, &first);
    // Who does not insist takes what is there, and waits for nobody.
    shared.mirror(&[1, 2]).expect_success();
    assert_eq!(shared.registry.requests_for(shared.base_blob()), 1);
    shared.registry.release();
    first.wait().assert_code(0);
    second.wait().assert_code(0);
    assert_eq!(
        shared.registry.requests_for(shared.base_blob()),
        2,
        "each that insists, and one after the other"
    );
    shared.assert_whole(&[1, 2]);
}

#[test]
fn what_upstream_stores_before_we_fetch_it_is_not_fetched_again() {
    let shared = shared();
    let library = &shared.lib.layers[1].blob;
    let blobs = [shared.base_blob(), library];
    // Whichever of the two is fetched first does not come; one at a time, so the other one is not asked for.
    ["app", "lib"].into_iter().for_each(|repository| shared.hold_base(repository));
    shared.registry.fault("lib", library.parse().unwrap(), Fault::StallAfter(100));
    let mut running = shared.mirror(&[1, 2]).arg("--downloads=1").start();
    let requests = || blobs.map(|blob| shared.registry.requests_for(blob));
    until(&mut running, || requests() != [0, 0]);
    let before = requests();
    assert_eq!(before.iter().sum::<usize>(), 1, "one at a time");
    shared.registry.heal();
    // It fetches all of it, what we are at work on too: that it cannot see.
    oracle::upstream_pull(&shared.repo(), &shared.references[2], "theirs").unwrap();
    assert!(running.is_running());
    shared.registry.release();
    running.wait().assert_code(0);
    assert_eq!(requests(), before.map(|ours| ours + 1), "upstream, and us what we had begun");
    cfs_dag(["untag", "theirs"]).repo(shared.repo()).expect_success();
    shared.assert_whole(&[1, 2]);
}

#[test]
fn upstream_pulls_the_image_that_a_mirror_is_at_work_on() {
    let shared = shared();
    shared.hold_base("app");
    let mut running = shared.mirror(&[1]).start();
    shared.until_it_fetches(&mut running, shared.base_blob());
    oracle::upstream_pull(&shared.repo(), &shared.references[1], &shared.references[1]).unwrap();
    let theirs = oracle::stored(&shared.repo(), &shared.references[1]);
    assert!(running.is_running());
    shared.registry.release();
    running.wait().assert_code(0);
    assert_eq!(oracle::stored(&shared.repo(), &shared.references[1]), theirs);
    shared.assert_whole(&[1]);
}

#[test]
fn a_gc_during_a_mirror_waits_for_it_and_says_so() {
    let shared = shared();
    shared.mirror(&[0]).expect_success();
    cfs_dag(["untag", &shared.references[0]]).repo(shared.repo()).expect_success();
    // What the mirror takes for stored is garbage until its images are tagged.
    let top = &shared.app.layers[1].blob;
    shared.registry.fault("app", top.parse().unwrap(), Fault::StallAfter(100));
    let mut running = shared.mirror(&[1]).start();
    shared.until_it_fetches(&mut running, top);
    let mut gc = cfs_dag(["gc"]).repo(shared.repo()).start();
    let process = format!("process {} (cfs-dag mirror", running.pid().as_raw_nonzero());
    gc.until_it_says(&["in use by", &process, "waiting"]);
    shared.registry.release();
    running.wait().assert_code(0);
    gc.wait().assert_code(0);
    assert_eq!(shared.registry.requests_for(shared.base_blob()), 1, "it was there");
    shared.assert_whole(&[1]);
}

#[test]
fn a_mirror_during_a_gc_waits_for_it_and_asks_nobody_before() {
    let shared = shared();
    shared.mirror(&[1]).expect_success();
    shared.registry.forget_requests();
    // As a gc has it.
    let collector = fs::File::open(shared.repo()).unwrap();
    collector.lock().unwrap();
    let mut running = shared.mirror(&[1, 2]).start();
    running.until_it_says(&["waiting for a garbage collection", &format!("process {}", std::process::id())]);
    assert_eq!(shared.registry.requests(), [""; 0]);
    drop(collector);
    running.wait().assert_code(0);
    shared.assert_whole(&[1, 2]);
}

#[test]
fn a_mirror_that_waits_for_another_ends_when_it_is_told_to() {
    let shared = shared();
    let (first, second) = shared.one_and_who_waits_for_it(&[1], &[2]);
    second.terminate();
    second.wait().assert_code(130);
    assert_eq!(shared.registry.requests_for(shared.base_blob()), 1);
    assert!(Path::new(&shared.repo()).join("cfs-dag/claims").read_dir().unwrap().next().is_some());
    shared.registry.release();
    first.wait().assert_code(0);
    shared.assert_whole(&[1]);
}
