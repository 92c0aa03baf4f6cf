//! Everything that can go wrong with one image, or with the place where it goes: one clear line,
//! the right exit code, the rest of the batch unharmed, a clean repository, and no hang (whatever
//! hangs is killed and fails).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    corpus,
    image::{Image, ImageBuilder, Layout, gzip, layout, this_platform},
    mount::Mount,
    oracle,
    pulls::*,
    registry::{Fault, Registry},
    repo::{Running, Scratch, cfs_dag, scratch},
    tar::*,
};

fn base() -> Vec<u8> {
    tar([dir("usr"), file("usr/base", noise(1, 50_000))])
}

fn top() -> Vec<u8> {
    tar([file("usr/top", noise(2, 200_000))])
}

/// An image that is to fail, alone and beside a healthy one that shares its first layer.
struct Broken<'a> {
    reference: &'a str,
    /// Parts of the one line that is said.
    words: Vec<&'a str>,
    /// What must not be linked: the image, and which of its layers.
    image: Option<(&'a Image, Vec<usize>)>,
    flags: Vec<&'a str>,
}

impl<'a> Broken<'a> {
    fn new(reference: &'a str, words: &[&'a str]) -> Self {
        Self { reference, words: words.to_vec(), image: None, flags: Vec::new() }
    }

    fn image(image: &'a Image, without: &[usize], words: &[&'a str]) -> Self {
        Self { image: Some((image, without.to_vec())), ..Self::new(&image.reference, words) }
    }

    fn flags(mut self, flags: &[&'a str]) -> Self {
        self.flags = flags.to_vec();
        self
    }

    /// Pulls it alone into a fresh repository, then with a healthy image into another.
    #[track_caller]
    fn check(&self) {
        let healthy = Healthy::new();
        let alone = scratch();
        self.check_pull(&alone, &[self.reference], 1);
        let batch = scratch();
        self.check_pull(&batch, &[self.reference, &healthy.image.reference], 3);
        healthy.assert_there(&batch.path("repo"));
    }

    #[track_caller]
    fn check_pull(&self, scratch: &Scratch, references: &[&str], code: i32) {
        let repo = scratch.path("repo");
        let mut pull = pull(&repo, references);
        for flag in &self.flags {
            pull = pull.arg(flag);
        }
        let finished = pull.expect_failure(code);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        let words: Vec<&str> = [self.reference].iter().chain(&self.words).copied().collect();
        let finished = finished.says(&words);
        if !finished.stdout.is_empty() {
            let first = &finished.json()["images"][0];
            assert_eq!(first["reference"], self.reference);
            assert_eq!(first["outcome"], "failed");
        }
        if !repo.exists() {
            // Refused before anything was made.
            assert_eq!(code, 1);
            return;
        }
        oracle::assert_clean(&repo);
        if let Some((image, without)) = &self.image {
            assert_absent(&repo, image, without);
        }
        assert_no_leftovers(&repo);
    }
}

/// An image without fault, in a layout of its own.
struct Healthy {
    image: Image,
    _layout: Layout,
}

impl Healthy {
    fn new() -> Self {
        let layout = layout();
        let image = layout.image("healthy").layer(base()).layer(tar([file("usr/mine", "x")])).write();
        Self { image, _layout: layout }
    }

    #[track_caller]
    fn assert_there(&self, repo: &Path) {
        assert_stored(repo, &self.image.reference, &self.image.reference);
        let clean = scratch();
        pull(&clean.path("repo"), &[&self.image.reference]).expect_success();
        assert_same_when_swept(&clean.path("repo"), repo);
    }
}

fn two_layers<'a>(layout: &'a Layout, broken: impl FnOnce(ImageBuilder<'a>) -> ImageBuilder<'a>) -> Image {
    broken(layout.image("broken").layer(base()).layer(top())).write()
}

/// What is said of the second layer of two.
fn second(image: &Image) -> String {
    format!("layer 2 of 2 ({}…)", &image.layers[1].blob[..19])
}

#[test]
fn a_blob_that_is_not_what_its_descriptor_says() {
    type Make = for<'a> fn(ImageBuilder<'a>) -> ImageBuilder<'a>;
    let broken: [(Make, &str); 6] = [
        (|image| image.wrong_blob_digest(), "the blob has digest sha256:"),
        (|image| image.wrong_size(1), "its descriptor says"),
        (|image| image.wrong_size(-1), "its descriptor says"),
        (|image| image.truncated_blob(), "its descriptor says"),
        (|image| image.missing_blob(), "the layout lacks the blob"),
        (|image| image.wrong_diff_id(), "does not match its diff_id"),
    ];
    for (make, words) in broken {
        let layout = layout();
        let image = two_layers(&layout, make);
        Broken::image(&image, &[1], &[&second(&image), words]).check();
    }
}

#[test]
fn compressed_data_that_is_corrupt_or_ends_early() {
    let layout = layout();
    let whole = gzip(&top());
    let mut flipped = whole.clone();
    flipped[5000] ^= 0xff;
    let mut wrong_sum = whole.clone();
    let sum_at = wrong_sum.len() - 8;
    wrong_sum[sum_at] ^= 1;
    for (ix, blob) in
        [&whole[..whole.len() / 2], &whole[..whole.len() - 4], &flipped, &wrong_sum].into_iter().enumerate()
    {
        let image = layout.image(&format!("broken{ix}")).layer(base()).layer(blob).plain();
        let image = image.claims_diff_id_of(&top()).write();
        Broken::image(&image, &[1], &[&second(&image), "the gzip data"]).check();
    }
}

#[test]
fn archives_that_no_filesystem_comes_out_of() {
    // What is said, and whether one layer is to blame or how they go together.
    let words = [
        ("gnu-sparse", "sparse", true),
        ("pax-sparse", "sparse", true),
        ("unknown-type", "an entry of unknown type", true),
        ("broken-checksum", "the tar is corrupt at byte", true),
        ("cut-in-header", "the tar ends too early", true),
        ("cut-in-content", "the tar ends too early", true),
        ("no-end", "the tar has no end mark", true),
        ("garbage", "the tar is corrupt at byte 0", true),
        ("run-symlink", "/run is a symlink to etc", false),
        ("below-symlink", "lib/foo: lib is a symlink to usr/lib", false),
        ("linked-whiteout", "usr/a: a device 0:0 with several names (usr/a, usr/b)", false),
        ("dot-dot", "..", false),
        ("dangling-hard-link", "usr/link", false),
        ("under-a-file", "usr/before/f", false),
    ];
    let layout = layout();
    let cases = corpus::refused();
    assert_eq!(cases.len(), words.len(), "a new case wants its words");
    for case in cases {
        let (_, words, of_layer) = words.iter().find(|(name, ..)| *name == case.name).unwrap();
        let image = case.write(&layout);
        let layer = format!("layer 1 of 1 ({}…)", &image.layers[0].blob[..19]);
        match of_layer {
            true => Broken::image(&image, &[0], &[&layer, words]).check(),
            // The layer itself is what it says, and may stay until the next gc.
            false => Broken::image(&image, &[], &[words]).check(),
        }
    }
}

#[test]
fn a_config_that_counts_other_layers_than_its_manifest() {
    let layout = layout();
    let image = two_layers(&layout, |image| image.lost_diff_ids(1));
    Broken::image(&image, &[1], &["1 diff_ids", "2 layers"]).check();
}

#[test]
fn documents_that_are_missing_or_changed() {
    let layout = layout();
    let missing = layout.image("no-config").layer(base()).env("A=1").write();
    layout.remove_blob(&missing.config);
    Broken::image(&missing, &[], &["the config"]).check();
    let changed = layout.image("changed-config").layer(base()).env("A=2").write();
    let config = fs::read_to_string(layout.blob(&changed.config)).unwrap().replace("A=2", "A=3");
    fs::write(layout.blob(&changed.config), config).unwrap();
    Broken::image(&changed, &[], &["the config", "digest"]).check();
    Broken::new(&layout.reference("nobody"), &["nobody"]).check();
}

/// An image in a scripted registry, whose second layer goes wrong as `fault` says, each time it is asked for.
fn from_registry(registry: &Registry, fault: Fault) -> Image {
    let layout = layout();
    let mut image = two_layers(&layout, |image| image.plain());
    image.reference = serve(registry, &layout, &image, "app");
    registry.fault_always(&format!("app/blobs/{}", image.layers[1].blob), fault);
    image
}

#[test]
fn a_registry_that_refuses_a_blob() {
    for (status, words) in [(401, "skopeo login"), (403, "403"), (404, "404"), (500, "500")] {
        let registry = Registry::start();
        let image = from_registry(&registry, Fault::Status(status, None));
        Broken::image(&image, &[1], &[&second(&image), words]).check();
    }
}

#[test]
fn a_registry_that_sends_something_else() {
    let size = top().len();
    for (fault, words) in [
        (Fault::CutAfter(0), "EOF"),
        (Fault::CutAfter(size / 2), "the blob ends after"),
        (Fault::Bytes(top()[..size / 2].to_vec()), "the blob ends after"),
        // The first to see it may be the tar parser, or skopeo at the end.
        (Fault::Bytes(noise(9, size)), "corrupt"),
        (Fault::Longer(noise(9, 500_000)), "goes on after"),
        (Fault::ChunkedAndLonger(noise(9, 500_000)), "goes on after"),
    ] {
        let registry = Registry::start();
        let image = from_registry(&registry, fault);
        Broken::image(&image, &[1], &[&second(&image), words]).check();
    }
}

#[test]
fn a_registry_that_stops_sending_is_cut_off() {
    // Before its first byte a blob may take three times as long.
    for (fault, limit) in
        [(Fault::StallAfter(100_000), "1s"), (Fault::StallAfter(0), "3s"), (Fault::Silence, "3s")]
    {
        let registry = Registry::start();
        let image = from_registry(&registry, fault);
        Broken::image(&image, &[1], &[&second(&image), limit]).flags(&["--stall-timeout=1s"]).check();
    }
}

#[test]
fn a_registry_that_has_no_manifest_for_us() {
    for (fault, words) in [
        (Fault::Status(401, None), "skopeo login"),
        (Fault::Status(404, None), "manifest unknown"),
        (Fault::Status(500, None), "500"),
        (Fault::CutAfter(10), "EOF"),
        (Fault::Bytes(b"<html>".to_vec()), "skopeo cannot read the image"),
        (Fault::Silence, "3s"),
    ] {
        let registry = Registry::start();
        registry.image("app", "v1", "amd64", &[&base()]);
        registry.fault_always("app/manifests/v1", fault);
        let reference = registry.reference("app", "v1");
        Broken::new(&reference, &[words]).flags(&["--stall-timeout=1s"]).check();
    }
}

#[test]
fn a_registry_that_is_not_there() {
    let registry = Registry::start();
    let reference = registry.reference("app", "v1");
    drop(registry);
    Broken::new(&reference, &["connection refused"]).check();
}

#[test]
fn skopeo_is_missing() {
    let healthy = Healthy::new();
    let nowhere = scratch();
    fs::create_dir(nowhere.path("bin")).unwrap();
    let repo = nowhere.path("repo");
    let reference = "docker://127.0.0.1:1/app:v1";
    let run = |references: &[&str]| pull(&repo, references).env("PATH", nowhere.path("bin"));
    run(&[reference]).expect_failure(1).says(&[reference, "skopeo is not installed", "install it"]);
    assert!(!repo.exists());
    run(&[reference, &healthy.image.reference])
        .expect_failure(3)
        .says(&[reference, "skopeo is not installed"]);
    healthy.assert_there(&repo);
    // And who needs no skopeo is not bothered.
    run(&[&healthy.image.reference]).expect_success();
}

#[test]
fn skopeo_is_not_what_it_says() {
    let scratch = scratch();
    let bin = scratch.path("bin");
    fs::create_dir(&bin).unwrap();
    let reference = "docker://127.0.0.1:1/app:v1";
    for script in ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nkill -9 $$\n", "#!/bin/sh\necho hello >&0; exit 0\n"] {
        fs::write(bin.join("skopeo"), script).unwrap();
        fs::set_permissions(bin.join("skopeo"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let finished = pull(&scratch.path("repo"), &[reference]).env("PATH", path).expect_failure(1);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        finished.says(&[reference, "skopeo"]);
        assert!(!scratch.path("repo").exists());
    }
}

/// The running children of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: String = children.collect::<Vec<_>>().join(" ");
    pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Waits until `done`; the command's own time limit ends it if that never comes.
#[track_caller]
fn wait_until(running: &mut Running, mut done: impl FnMut(&Running) -> bool) {
    while !done(running) {
        assert!(running.is_running(), "it ended before it got there: {}", running.stderr());
        std::thread::yield_now();
    }
}

/// Whether so many bytes have come, by its progress.
fn has_fetched(running: &Running, at_least: u64) -> bool {
    let fetched = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["fetched_bytes"].as_u64()
    };
    running.stderr().lines().filter_map(fetched).any(|fetched| fetched >= at_least)
}

#[test]
fn skopeo_dies_in_the_middle_of_a_transfer() {
    let healthy = Healthy::new();
    let registry = Registry::start();
    let layout = layout();
    let large = tar([file("usr/large", noise(4, 2_000_000))]);
    let mut image = layout.image("large").layer(base()).layer(large).plain().write();
    image.reference = serve(&registry, &layout, &image, "app");
    let blob = image.layers[1].blob.parse().unwrap();
    registry.fault("app", blob, Fault::StallAfter(1_500_000));
    let scratch = scratch();
    let repo = scratch.path("repo");
    let mut running = pull_showing("json", &repo, &[&image.reference, &healthy.image.reference]).start();
    wait_until(&mut running, |running| has_fetched(running, 1_000_000));
    let skopeos = children(running.pid());
    assert!(!skopeos.is_empty());
    for skopeo in skopeos {
        kill_process(skopeo, Signal::KILL).unwrap();
    }
    let finished = running.wait().assert_code(3);
    finished.says(&["cfs-dag: ", &image.reference, &second(&image), "1500000 of", "skopeo"]);
    assert_absent(&repo, &image, &[1]);
    oracle::assert_clean(&repo);
    healthy.assert_there(&repo);
}

#[test]
fn a_disk_that_is_full() {
    let scratch = scratch();
    let disk = scratch.path("disk");
    fs::create_dir(&disk).unwrap();
    let Some(mount) = Mount::new(disk.clone(), &["-t", "tmpfs", "-o", "size=6m", "none"]) else { return };
    let repo = disk.join("repo");
    let layout = layout();
    let small = layout.image("small").layer(base()).write();
    let files = (0..100).map(|n| file(format!("usr/f{n}"), noise(n, 100_000)));
    let many = layout.image("many").layer(base()).layer(tar(files)).write();
    let large = tar([file("usr/large", noise(5, 9_000_000))]);
    let large = layout.image("large").layer(base()).layer(large).write();
    pull(&repo, &[&small.reference]).expect_success();
    for big in [&many, &large] {
        for jobs in ["1", "8"] {
            let finished = pull(&repo, &[&big.reference]).arg("-j").arg(jobs).expect_failure(1);
            assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
            finished.says(&[&big.reference, &second(big), "no space left", "free some"]);
            assert_absent(&repo, big, &[1]);
            oracle::assert_clean(&repo);
            assert_stored(&repo, &small.reference, &small.reference);
            oracle::gc(&repo);
        }
    }
    // With room enough the same pull goes through, over whatever is left.
    pull(&repo, &[&many.reference]).expect_failure(1);
    mount.change("remount,size=60m");
    let finished = pull(&repo, &[&many.reference, &small.reference, &large.reference]);
    finished.expect_success();
    assert_stored(&repo, &many.reference, &many.reference);
    let clean = scratch.path("clean");
    pull(&clean, &[&many.reference, &small.reference, &large.reference]).expect_success();
    assert_same_when_swept(&clean, &repo);
    oracle::assert_clean(&repo);
}

#[test]
fn a_repository_that_is_read_only() {
    let healthy = Healthy::new();
    let registry = Registry::start();
    let layout = layout();
    let other = two_layers(&layout, |image| image);
    let other = serve(&registry, &layout, &other, "app");
    let scratch = scratch();
    let (repo, read_only) = (scratch.path("repo"), scratch.path("read-only"));
    pull(&repo, &[&healthy.image.reference]).expect_success();
    fs::create_dir(&read_only).unwrap();
    let Some(mount) = Mount::new(read_only.clone(), &["--bind", repo.to_str().unwrap()]) else { return };
    mount.change("remount,bind,ro");
    let before = support::repo::repo_manifest(&repo);
    for reference in [&*healthy.image.reference, &other] {
        let finished = pull(&read_only, &[reference]).expect_failure(1);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        finished.says(&[read_only.to_str().unwrap(), "read-only", "choose another repository"]);
    }
    // A repository that does not exist yet can not be made there either.
    pull(&read_only.join("new"), &[&other]).expect_failure(1).says(&["read-only"]);
    assert_eq!(registry.requests_for("app"), 0);
    support::repo::assert_same_lines("repository", &before, &support::repo::repo_manifest(&repo));
    // What is there can be looked at.
    cfs_dag(["images"]).repo(&read_only).expect_success();
    cfs_dag(["fsck"]).repo(&read_only).expect_success();
    let plan = cfs_dag(["pull", "--tls-verify=false", "--dry-run", &other]).repo(&read_only).expect_success();
    assert!(plan.stdout.contains(&other));
}

#[test]
fn a_repository_with_features_that_we_do_not_know() {
    let healthy = Healthy::new();
    let registry = Registry::start();
    let layout = layout();
    let other = two_layers(&layout, |image| image);
    let other = serve(&registry, &layout, &other, "app");
    // May it be read, and may it be written.
    for (kind, readable, writable) in
        [("incompatible", false, false), ("read-only-compatible", true, false), ("compatible", true, true)]
    {
        let scratch = scratch();
        let repo = scratch.path("repo");
        pull(&repo, &[&healthy.image.reference]).expect_success();
        let path = repo.join("meta.json");
        let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        meta["features"][kind] = serde_json::json!(["time-travel"]);
        fs::write(&path, meta.to_string()).unwrap();
        let before = support::repo::repo_manifest(&repo);
        let requests = registry.requests_for("app");
        if !writable {
            let finished = pull(&repo, &[&other]).expect_failure(1);
            assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
            finished.says(&[repo.to_str().unwrap(), "time-travel", "use a newer cfs-dag"]);
            cfs_dag(["gc"]).repo(&repo).expect_failure(1);
            assert_eq!(registry.requests_for("app"), requests, "{kind}: refused before any fetch");
            support::repo::assert_same_lines(kind, &before, &support::repo::repo_manifest(&repo));
        } else {
            pull(&repo, &[&other]).expect_success();
        }
        cfs_dag(["images"]).repo(&repo).run().assert_code(if readable { 0 } else { 1 });
    }
}

/// An image of three layers at a registry that sends two of them and stops in the third.
struct Stopped {
    registry: Registry,
    image: Image,
    scratch: Scratch,
}

impl Stopped {
    fn new() -> Self {
        let (layout, registry) = (layout(), Registry::start());
        let image =
            layout.image("app").layer(base()).layer(top()).layer(tar([file("usr/third", noise(3, 600_000))]));
        let mut image = image.plain().write();
        image.reference = serve(&registry, &layout, &image, "app");
        registry.fault("app", image.layers[2].blob.parse().unwrap(), Fault::StallAfter(300_000));
        Self { registry, image, scratch: scratch() }
    }

    fn repo(&self) -> PathBuf {
        self.scratch.path("repo")
    }

    /// A pull that has committed two layers and hangs in the third.
    fn start(&self) -> Running {
        let mut running = pull(&self.repo(), &[&self.image.reference]).start();
        wait_until(&mut running, |_| linked_layers(&self.repo()).len() == 2);
        self.registry.wait_for(&self.image.layers[2].blob);
        running
    }

    /// Pulls again, and asserts that only the third layer was asked for.
    fn resume(&self) {
        oracle::assert_clean(&self.repo());
        let asked = || self.image.layers.iter().map(|layer| self.registry.requests_for(&layer.blob));
        let before: Vec<usize> = asked().collect();
        pull(&self.repo(), &[&self.image.reference]).expect_success();
        let again: Vec<usize> = asked().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(again, [0, 0, 1]);
        let clean = self.scratch.path("clean");
        pull(&clean, &[&self.image.reference]).expect_success();
        assert_same_when_swept(&clean, &self.repo());
        oracle::assert_clean(&self.repo());
        assert_no_leftovers(&self.repo());
    }
}

#[test]
fn an_interrupted_pull_keeps_what_was_committed() {
    let stopped = Stopped::new();
    let running = stopped.start();
    running.interrupt();
    let finished = running.wait().assert_code(130).says(&["interrupted", "run this again"]);
    assert_eq!(finished.json()["images"][0]["outcome"], "failed");
    assert_absent(&stopped.repo(), &stopped.image, &[2]);
    assert_no_leftovers(&stopped.repo());
    stopped.resume();
}

#[test]
fn a_second_interrupt_does_no_harm() {
    let stopped = Stopped::new();
    let running = stopped.start();
    running.interrupt();
    running.interrupt();
    running.wait().assert_code(130);
    stopped.resume();
}

#[test]
fn a_pull_that_still_looks_for_its_images_can_be_interrupted() {
    let registry = Registry::start();
    registry.fault_always("", Fault::Silence);
    let scratch = scratch();
    let reference = registry.reference("app", "v1");
    // Far below the time after which the silence would end by itself.
    let limit = std::time::Duration::from_secs(40);
    let running =
        pull(&scratch.path("repo"), &[&reference]).arg("--stall-timeout=1h").time_limit(limit).start();
    registry.wait_for("GET ");
    running.interrupt();
    running.wait().assert_code(130);
    assert!(!scratch.path("repo").exists());
}

#[test]
fn a_batch_of_several_kinds_of_failure_tells_each_in_its_own_line() {
    let (one, two) = (layout(), layout());
    let first = two_layers(&one, |image| image.wrong_diff_id());
    let second_image =
        two.image("run").layer(tar([symlink("run", "etc")])).platform(&this_platform()).write();
    let healthy = Healthy::new();
    let gone = two.reference("gone");
    let scratch = scratch();
    let repo = scratch.path("repo");
    let request = [&*first.reference, &healthy.image.reference, &second_image.reference, &gone];
    let finished = pull(&repo, &request).expect_failure(3);
    assert_eq!(finished.stderr.lines().count(), 3, "{finished}");
    let finished =
        finished.says(&[&first.reference, "diff_id"]).says(&[&second_image.reference, "/run"]).says(&[&gone]);
    let outcomes: Vec<_> =
        finished.json()["images"].as_array().unwrap().iter().map(|image| image["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "ok", "failed", "failed"]);
    healthy.assert_there(&repo);
}
