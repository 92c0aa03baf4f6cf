//! Pulls that end before their end: what is nearly whole is finished, the rest is given up, the repository is
//! clean, and the next pull goes on from there.

use std::time::Duration;

use support::{
    image::layout,
    oracle,
    pulls::*,
    registry::{Fault, Kind, Registry},
    repo::{Finished, Running, Scratch, cfs_dag, command, program, scratch},
    tar::*,
};

/// A layer of a little more than this.
const SIZE: usize = 6_000_000;

fn large(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/{seed}"), noise(seed, SIZE))])
}

/// A pull of three images. `app` and `lib` share a layer of which the last bytes do not come until they
/// are released; `app` has one more, of which nothing comes; `other` lacks the last bytes of its only
/// layer, and they never come.
struct Halted {
    released: Registry,
    never: Registry,
    references: Vec<String>,
    /// The blobs of the shared layer, of the one that does not begin, and of the one that is cut.
    blobs: [String; 3],
    shared_diff_id: String,
    scratch: Scratch,
}

impl Halted {
    fn new() -> Self {
        let (layout, released, never) = (layout(), Registry::start(), Registry::start());
        let app = layout.image("app").layer(large(1)).plain().layer(large(2)).plain().write();
        let lib = layout.image("lib").layer(large(1)).plain().write();
        let other = layout.image("other").layer(large(3)).plain().write();
        let references = vec![
            serve(&released, &layout, &app, "app"),
            serve(&released, &layout, &lib, "lib"),
            serve(&never, &layout, &other, "other"),
        ];
        let blobs = [&app.layers[0], &app.layers[1], &other.layers[0]].map(|layer| layer.blob.clone());
        let [shared, silent, cut] = blobs.each_ref().map(|blob| blob.parse().unwrap());
        released.fault("app", shared, Fault::StallAfter(SIZE));
        released.fault("app", silent, Fault::StallAfter(0));
        never.fault("other", cut, Fault::StallAfter(SIZE));
        let shared_diff_id = app.layers[0].diff_id.clone();
        Self { released, never, references, blobs, shared_diff_id, scratch: scratch() }
    }

    fn pull(&self) -> support::repo::Invocation {
        let references: Vec<&str> = self.references.iter().map(|reference| &**reference).collect();
        // Far below the times after which the silence would end by itself, and what stalls would
        // be no more nearly whole.
        let limit = Duration::from_secs(60);
        pull_showing("json", &self.scratch.path("repo"), &references)
            .arg("--stall-timeout=1h")
            .time_limit(limit)
    }

    /// The pull, once both large layers are nearly there.
    fn start(&self) -> Running {
        let mut running = self.pull().start();
        self.released.wait_for(&self.blobs[1]);
        until(&mut running, |events| {
            let came =
                |event: &serde_json::Value| event["bytes"].as_u64().is_some_and(|bytes| bytes > 5_000_000);
            let fetches =
                events.iter().filter(|event| came(event)).filter_map(|event| event["node"].as_str());
            let fetches = fetches.filter(|node| node.starts_with("fetch-"));
            fetches.collect::<std::collections::BTreeSet<_>>().len() == 2
        });
        running
    }

    fn requests(&self) -> [usize; 3] {
        let requests = |blob| self.released.requests_for(blob) + self.never.requests_for(blob);
        self.blobs.each_ref().map(requests)
    }

    /// Pulls again, with nothing in the way; gives how often each blob was asked for.
    fn resume(&self) -> [usize; 3] {
        let before = self.requests();
        self.pull().expect_success();
        oracle::assert_clean(&self.scratch.path("repo"));
        let after = self.requests();
        [0, 1, 2].map(|place| after[place] - before[place])
    }
}

/// Waits until the events of a run are such; the command's own time limit ends it if that never comes.
#[track_caller]
fn until(running: &mut Running, mut such: impl FnMut(&[serde_json::Value]) -> bool) {
    loop {
        let said = running.stderr();
        // The last line may be half written.
        let events: Vec<_> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if such(&events) {
            return;
        }
        assert!(running.is_running(), "it ended before it got there: {said}");
        std::thread::yield_now();
    }
}

/// Waits until something was given up: the run has heard of the signal.
fn until_something_is_given_up(running: &mut Running) {
    until(running, |events| events.iter().any(|event| event["event"] == "cancelled"));
}

fn outcomes(finished: &Finished) -> Vec<String> {
    let images = finished.json()["images"].as_array().unwrap().clone();
    images.iter().map(|image| image["outcome"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn after_a_sigterm_what_is_nearly_whole_is_finished_and_what_stalls_is_cut() {
    let halted = Halted::new();
    let mut running = halted.start();
    running.terminate();
    until_something_is_given_up(&mut running);
    halted.released.release();
    let finished = running.wait().assert_code(130).says(&["interrupted", "run this again"]);
    let repo = halted.scratch.path("repo");
    assert_eq!(outcomes(&finished), ["failed", "ok", "failed"]);
    assert_eq!(linked_layers(&repo), [halted.shared_diff_id.as_str()]);
    assert_no_leftovers(&repo);
    oracle::assert_clean(&repo);
    assert_eq!(halted.resume(), [0, 1, 1]);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let halted = Halted::new();
    let mut running = halted.start();
    running.terminate();
    until_something_is_given_up(&mut running);
    running.interrupt();
    let finished = running.wait().assert_code(130);
    assert_eq!(finished.stdout, "", "it had no time to tell what became of the images");
    oracle::assert_clean(&halted.scratch.path("repo"));
    assert_eq!(halted.resume(), [1, 1, 1]);
}

#[test]
fn a_pull_of_which_nothing_has_come_ends_when_it_is_interrupted() {
    let registry = Registry::start();
    let layout = layout();
    let image = layout.image("app").layer(large(1)).plain().write();
    let reference = serve(&registry, &layout, &image, "app");
    registry.fault("app", image.layers[0].blob.parse().unwrap(), Fault::Silence);
    let scratch = scratch();
    let repo = scratch.path("repo");
    // Far below the time after which the silence would end by itself.
    let pull = pull(&repo, &[&reference]).arg("--stall-timeout=1h").time_limit(Duration::from_secs(60));
    let running = pull.start();
    registry.wait_for(&image.layers[0].blob);
    running.interrupt();
    running.wait().assert_code(130);
    assert_no_leftovers(&repo);
    oracle::assert_clean(&repo);
}

/// A registry with one image of which nothing comes, not even its manifest.
fn silent() -> (Registry, String, support::image::Layout) {
    let (registry, layout) = (Registry::start(), layout());
    let image = layout.image("app").layer(large(1)).plain().write();
    let reference = serve(&registry, &layout, &image, "app");
    registry.fault_kind_always(Kind::Manifest, Fault::Silence);
    (registry, reference, layout)
}

#[test]
fn a_pull_that_is_told_to_end_while_it_resolves_says_so() {
    for signal in [Running::interrupt, Running::terminate, Running::hang_up] {
        for format in ["json", "text"] {
            let (registry, reference, _layout) = silent();
            let (scratch, limit) = (scratch(), Duration::from_secs(60));
            let flags =
                ["pull", "--insecure", "--tls-verify=false", "--stall-timeout=1h", "--format", format];
            let (repo, summary) = (scratch.path("repo"), scratch.path("summary"));
            let pull = cfs_dag(flags).arg(&reference).arg("--summary").arg(&summary).repo(&repo);
            let running = pull.time_limit(limit).start();
            registry.wait_for("app/manifests");
            signal(&running);
            let finished = running.wait().assert_code(130).says(&["cfs-dag: interrupted", "run this again"]);
            assert!(finished.stdout.contains(&reference), "{finished}");
            assert!(finished.stdout.contains("interrupted: run this again"), "{finished}");
            let written: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(&summary).unwrap()).unwrap();
            assert_eq!(written["images"][0]["outcome"], "failed");
            assert!(!repo.exists(), "nothing was begun");
        }
    }
}

#[test]
fn a_terminal_that_hangs_up_ends_a_pull_as_sigterm_does() {
    let halted = Halted::new();
    let mut running = halted.start();
    running.hang_up();
    until_something_is_given_up(&mut running);
    halted.released.release();
    let finished = running.wait().assert_code(130).says(&["interrupted", "run this again"]);
    assert_eq!(outcomes(&finished), ["failed", "ok", "failed"]);
    let log = cfs_dag(["log"]).repo(halted.scratch.path("repo")).expect_success();
    assert!(log.stdout.contains("interrupted"), "{log}");
}

#[test]
fn a_pull_under_nohup_outlives_its_terminal() {
    let (registry, reference, _layout) = silent();
    let scratch = scratch();
    let pull =
        command("nohup", [program(), "pull", "--insecure", "--tls-verify=false", "--stall-timeout=1h"]);
    let running = pull.arg(&reference).repo(scratch.path("repo")).time_limit(Duration::from_secs(60)).start();
    registry.wait_for("app/manifests");
    running.hang_up();
    registry.heal();
    registry.release();
    running.wait().assert_code(0);
}

#[test]
fn the_first_image_that_fails_ends_a_pull_that_is_to_fail_fast() {
    let (layout, registry, scratch) = (layout(), Registry::start(), scratch());
    let bad = layout.image("bad").layer(large(1)).plain().wrong_diff_id().write();
    let other = layout.image("other").layer(large(2)).plain().write();
    let other_reference = serve(&registry, &layout, &other, "other");
    // It would never end by itself.
    registry.fault("other", other.layers[0].blob.parse().unwrap(), Fault::StallAfter(SIZE));
    let repo = scratch.path("repo");
    let pull = pull(&repo, &[&bad.reference, &other_reference]).arg("--fail-fast").arg("--stall-timeout=1h");
    let finished = pull.expect_failure(1);
    let errors = finished.json()["images"].as_array().unwrap().clone();
    let errors: Vec<&str> = errors.iter().map(|image| image["error"].as_str().unwrap()).collect();
    assert!(errors[0].contains("does not match its diff_id"), "{errors:?}");
    assert_eq!(errors[1], format!("{other_reference}: not done: another image failed first (--fail-fast)"));
    assert_no_leftovers(&repo);
    oracle::assert_clean(&repo);
}
