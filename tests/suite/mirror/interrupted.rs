//! Mirrors that are told to end: what is done stays, what was being done leaves nothing behind, and the
//! next run goes on from there.

use std::{fs, path::PathBuf};

use support::{
    image::{Image, layout},
    mirrors::*,
    oracle,
    pulls::*,
    registry::{Fault, Kind, Registry},
    repo::{Finished, Invocation, Running, Scratch, cfs_dag, scratch},
    tar::*,
};

/// A mirror of three images: `done`, which is small; and `one` and `two`, each of a layer that comes and one
/// of which the last bytes do not.
struct Held {
    registry: Registry,
    images: Vec<Image>,
    references: Vec<String>,
    scratch: Scratch,
    /// In the environment of all that is started.
    mark: String,
}

const SIZE: usize = 3_000_000;

impl Held {
    fn new() -> Self {
        let (layout, registry, scratch) = (layout(), Registry::start(), scratch());
        let layer =
            |seed: u64, size: usize| tar([dir("usr"), file(format!("usr/{seed}"), noise(seed, size))]);
        let two_layers = |name: &str, seed: u64| {
            layout.image(name).layer(layer(seed, 20_000)).plain().layer(layer(seed + 1, SIZE)).plain().write()
        };
        let images = vec![
            layout.image("done").layer(layer(1, 10_000)).plain().write(),
            two_layers("one", 10),
            two_layers("two", 20),
        ];
        let names = ["done", "one", "two"];
        let references =
            names.iter().zip(&images).map(|(name, image)| serve(&registry, &layout, image, name)).collect();
        fs::create_dir(scratch.path("tmp")).unwrap();
        let mark = format!("CFS_DAG_TEST={}", scratch.path("").display());
        Self { registry, images, references, scratch, mark }
    }

    fn repo(&self) -> PathBuf {
        self.scratch.path("repo")
    }

    /// The blob of a layer that does not come.
    fn large(&self, image: usize) -> &str {
        &self.images[image].layers[1].blob
    }

    /// Asserts that it was told what became of the images that were asked for: they were
    /// interrupted. And nothing was begun.
    #[track_caller]
    fn assert_told(&self, finished: &Finished, names: &[&str]) {
        let result = finished.json();
        let images = result["images"].as_array().unwrap();
        assert_eq!(images.len(), names.len(), "{finished}");
        for (image, name) in images.iter().zip(names) {
            let (reference, error) = (image["reference"].as_str().unwrap(), image["error"].as_str().unwrap());
            assert!(reference.contains(name), "{finished}");
            assert!(error.ends_with("interrupted: run this again to go on from here"), "{finished}");
        }
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("cfs-dag: interrupted: "), "{finished}");
        assert_eq!(fs::read_to_string(self.scratch.path("summary")).unwrap(), finished.stdout);
        self.assert_gone();
        assert!(!self.repo().exists(), "nothing was begun");
    }

    fn hold(&self, name: &str, image: usize, sent: usize) {
        self.registry.fault(name, self.large(image).parse().unwrap(), Fault::StallAfter(sent));
    }

    fn mirror_of(&self, list: &str) -> Invocation {
        fs::write(self.scratch.path("list"), list).unwrap();
        let (key, value) = self.mark.split_once('=').unwrap();
        mirror_showing("json", &self.repo(), &self.scratch.path("list"))
            .env(key, value)
            .env("TMPDIR", self.scratch.path("tmp"))
    }

    fn mirror(&self) -> Invocation {
        self.mirror_of(&self.references.join("\n"))
    }

    /// The mirror, once `done` and the small layers are there and both large ones have begun.
    fn start(&self) -> Running {
        let mut running = self.mirror().start();
        let tag = self.references[0].replace('%', "%25").replace('/', "%2F");
        let tag = self.repo().join("streams/refs/oci").join(tag);
        until(&mut running, || {
            let begun = [1, 2].iter().all(|image| self.registry.requests_for(self.large(*image)) > 0);
            begun && tag.symlink_metadata().is_ok() && linked_layers(&self.repo()).len() == 3
        });
        running
    }

    /// Asserts that whoever took part has gone and left nothing.
    #[track_caller]
    fn assert_gone(&self) {
        assert_nobody_left(&self.mark);
        let left: Vec<_> = fs::read_dir(self.scratch.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Mirrors again, with nothing in the way, and asserts that nothing is fetched but
    /// `image`s' large layers.
    #[track_caller]
    fn assert_goes_on(&self, missing: &[usize]) {
        self.registry.release();
        self.registry.forget_requests();
        self.mirror().expect_success();
        for (at, image) in self.images.iter().enumerate() {
            for layer in &image.layers {
                let expected = usize::from(layer.size > SIZE as u64 && missing.contains(&at));
                assert_eq!(self.registry.requests_for(&layer.blob), expected, "{at}: {layer:?}");
            }
        }
        let repo = self.repo();
        for reference in &self.references {
            assert_stored(&repo, reference, reference);
        }
        oracle::assert_clean(&repo);
        assert_no_leftovers(&repo);
        assert_no_claims(&repo);
    }
}

#[test]
fn images_that_are_done_stay_and_layers_that_are_done_are_not_fetched_again() {
    let held = Held::new();
    held.hold("one", 1, 1000);
    held.hold("two", 2, 1000);
    let running = held.start();
    running.terminate();
    let finished = running.wait().assert_code(130).says(&["interrupted"]);
    let outcomes = finished.json()["images"].clone();
    let outcomes: Vec<_> =
        outcomes.as_array().unwrap().iter().map(|image| image["outcome"].clone()).collect();
    assert_eq!(outcomes, ["ok", "failed", "failed"]);
    assert_no_leftovers(&held.repo());
    assert_no_claims(&held.repo());
    held.assert_gone();
    assert_eq!(names(&held.repo()), [held.references[0].as_str()]);
    oracle::assert_clean(&held.repo());
    held.assert_goes_on(&[1, 2]);
}

#[test]
fn a_terminal_that_hangs_up_ends_a_mirror_in_good_order() {
    let held = Held::new();
    held.hold("one", 1, 1000);
    held.hold("two", 2, 1000);
    let running = held.start();
    running.hang_up();
    running.wait().assert_code(130).says(&["interrupted"]);
    held.assert_gone();
    let log = cfs_dag(["log"]).repo(held.repo()).expect_success();
    assert!(log.stdout.contains("interrupted"), "{log}");
    held.assert_goes_on(&[1, 2]);
}

#[test]
fn a_second_signal_ends_a_mirror_at_once() {
    let held = Held::new();
    // Nearly whole, so that the first signal lets it go on.
    held.hold("one", 1, SIZE);
    held.hold("two", 2, 1000);
    let mut running = held.start();
    running.interrupt();
    // It has heard of the signal.
    running.until_it_says(&["\"cancelled\""]);
    running.terminate();
    let finished = running.wait().assert_code(130);
    assert_eq!(finished.stdout, "", "it had no time to tell what became of the images");
    held.assert_gone();
    oracle::assert_clean(&held.repo());
    held.assert_goes_on(&[1, 2]);
}

#[test]
fn a_mirror_that_is_told_to_end_while_tags_are_listed_says_so() {
    let held = Held::new();
    held.registry.fault_kind_always(Kind::Tags, Fault::Silence);
    let host = held.registry.host();
    let list = format!("{host}:\n  images:\n    done: []\n    one: []\n");
    let mut running = held.mirror_of(&list).arg("--summary").arg(held.scratch.path("summary")).start();
    for name in ["done", "one"] {
        until(&mut running, || held.registry.requests_for(format!("{name}/tags/list")) > 0);
    }
    assert!(!started_with(&held.mark).is_empty());
    running.terminate();
    held.assert_told(&running.wait().assert_code(130), &["done", "one"]);
}

#[test]
fn a_mirror_that_is_told_to_end_while_images_are_resolved_says_so() {
    for signal in [Running::interrupt, Running::terminate, Running::hang_up] {
        let held = Held::new();
        held.registry.fault_kind_always(Kind::Manifest, Fault::Silence);
        let mut running = held.mirror().arg("--summary").arg(held.scratch.path("summary")).start();
        for name in ["done", "one", "two"] {
            until(&mut running, || held.registry.requests_for(format!("{name}/manifests/v1")) > 0);
        }
        signal(&running);
        held.assert_told(&running.wait().assert_code(130), &["done", "one", "two"]);
    }
}

#[test]
fn a_dry_run_that_is_told_to_end_says_so() {
    let held = Held::new();
    held.registry.fault_kind_always(Kind::Manifest, Fault::Silence);
    let list = held.scratch.path("list");
    fs::write(&list, held.references.join("\n")).unwrap();
    let flags = ["mirror", "--insecure", "--tls-verify=false", "--stall-timeout=1h", "--dry-run"];
    let mut running = cfs_dag(flags).arg(&list).repo(held.repo()).start();
    until(&mut running, || held.registry.requests_for("one/manifests/v1") > 0);
    running.terminate();
    let finished = running.wait().assert_code(130).says(&["interrupted: there is no plan yet"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn what_has_hung_at_many_registries_is_left_at_once() {
    let held = Held::new();
    let registries: Vec<Registry> = (0..6).map(|_| Registry::start()).collect();
    let references: Vec<String> = registries
        .iter()
        .flat_map(|registry| ["a", "b"].map(|name| registry.reference(name, "v1")))
        .collect();
    registries.iter().for_each(|registry| registry.fault_kind_always(Kind::Manifest, Fault::Silence));
    let mut running = held.mirror_of(&references.join("\n")).start();
    for registry in &registries {
        for name in ["a", "b"] {
            until(&mut running, || registry.requests_for(format!("{name}/manifests/v1")) > 0);
        }
    }
    running.terminate();
    running.wait().assert_code(130);
    held.assert_gone();
}
