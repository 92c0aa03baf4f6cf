//! Law 5: memory is bounded by the budget, not by the input.

use std::fs;

use support::{
    corpus::MEMORY_MIN,
    image::{Layout, layout},
    mirrors,
    registry::Registry,
    repo::{cfs_dag, scratch},
    tar::*,
};

const MIB: u64 = 1 << 20;
/// The program itself: code, threads and their stacks, and what the allocator keeps.
const BESIDE_THE_BUDGET: u64 = 32 * MIB;
/// What one entry of a file tree may take while its EROFS image is made.
const PER_ENTRY: u64 = 1400;

#[test]
fn a_layer_ten_times_larger_than_the_budget_fits_into_it() {
    let budget = MEMORY_MIN as usize;
    let sizes = [3 * budget, budget, budget / 2, budget / 4 + 1, budget / 4, budget / 5];
    let large = (0..).zip(sizes).map(|(n, size)| file(format!("usr/large{n}"), noise(n, size)));
    let middling = (0..40).map(|n| file(format!("usr/middling{n}"), noise(100 + n, 1_000_000)));
    let small = (0..8000).map(|n| file(format!("usr/small{n}"), noise(1000 + n, 3000)));
    // A large one last, too: then the entries of all that is small are there beside it.
    let last = file("usr/last", noise(50, 2 * budget));
    let bytes = tar([dir("usr")].into_iter().chain(large).chain(middling).chain(small).chain([last]));
    assert!(bytes.len() > 10 * budget, "{}", bytes.len());
    let layout = layout();
    layout.image("zstd").layer(bytes.as_slice()).zstd().write();
    layout.image("plain").layer(bytes).plain().write();
    for tag in ["zstd", "plain"] {
        for jobs in ["-j1", "-j8"] {
            let peak = peak_of_pull(&layout, &[tag], jobs);
            assert_within(peak, MEMORY_MIN + BESIDE_THE_BUDGET + 8100 * PER_ENTRY, &format!("{tag} {jobs}"));
        }
    }
}

#[test]
fn a_run_of_inline_bytes_larger_than_the_budget_fits_into_it() {
    // It does not shrink, so the stream is as large.
    let bytes = with_tail(tar([dir("usr"), file("usr/f", "x")]), &noise(1, 3 * MEMORY_MIN as usize));
    let layout = layout();
    layout.image("tail").layer(bytes).gzip().write();
    assert_within(peak_of_pull(&layout, &["tail"], "-j4"), MEMORY_MIN + BESIDE_THE_BUDGET, "tail");
}

#[test]
fn a_tree_takes_no_more_than_its_entries_may() {
    const ENTRIES: u64 = 60_000;
    let dirs = (0..ENTRIES / 100).map(|n| dir(format!("usr/directory-{n:05}")));
    let name = |n: u64| format!("usr/directory-{:05}/a-file-of-some-name-{n:06}", n / 100);
    let files = (0..ENTRIES).map(|n| file(name(n), noise(n % 500, (n % 130) as usize)));
    let layout = layout();
    layout.image("entries").layer(tar([dir("usr")].into_iter().chain(dirs).chain(files))).zstd().write();
    let entries = ENTRIES + ENTRIES / 100;
    let peak = peak_of_pull(&layout, &["entries"], "-j4");
    assert_within(peak, MEMORY_MIN + BESIDE_THE_BUDGET + entries * PER_ENTRY, "entries");
}

#[test]
fn ten_times_the_batch_takes_the_same_memory() {
    let layout = layout();
    let tags: Vec<String> = (0..40).map(|n| format!("image{n}")).collect();
    for (tag, seed) in tags.iter().zip(1..) {
        // Three layers each that no other has: already the small batch is more than the budget.
        let files = |layer: u64| {
            let seeds = (0..4).map(move |n| seed * 100 + layer * 10 + n);
            let file = |seed| file(format!("usr/f{seed}"), noise(seed, 600_000 + seed as usize));
            tar([dir("usr")].into_iter().chain(seeds.map(file)))
        };
        layout.image(tag).layer(files(0)).zstd().layer(files(1)).plain().layer(files(2)).zstd().write();
    }
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let few = peak_of_pull(&layout, &tags[..4], "-j4");
    let many = peak_of_pull(&layout, &tags, "-j4");
    assert_within(few, MEMORY_MIN + BESIDE_THE_BUDGET, "few");
    assert_within(many, few + 8 * MIB, "many");
}

/// Manifests and configs are as large as registries want them to be, and a list has many.
#[test]
fn documents_are_in_memory_once_in_every_kind_of_run() {
    const IMAGES: u64 = 14;
    const CONFIG: u64 = 3_900_000;
    let limit = IMAGES * (CONFIG + 10_000);
    let layout = layout();
    let tags: Vec<String> = (0..IMAGES).map(|n| format!("image{n}")).collect();
    for tag in &tags {
        let files = tar([dir("usr"), file("usr/f", tag.clone())]);
        layout.image(tag).layer(files).env(&format!("{tag}={}", "x".repeat(CONFIG as usize))).write();
    }
    let (scratch, registry) = (scratch(), Registry::start());
    registry.serve_layout("app", &layout.path());
    let references: Vec<String> = tags.iter().map(|tag| layout.reference(tag)).collect();
    let list = mirrors::list(&scratch, "list", &references.iter().collect::<Vec<_>>());
    let never_moving = scratch.path("never-moving");
    let text = format!("{}:\n  immutable-tags: true\n  images:\n    app: []\n", registry.host());
    fs::write(&never_moving, text).unwrap();
    let [plan, lock] = ["plan", "lock"].map(|name| scratch.path(name).display().to_string());
    let run = |what: &str, arguments: &[&str]| {
        let (memory, documents) = (format!("--memory={MEMORY_MIN}"), format!("--limit=documents={limit}"));
        let settings = [&*memory, &*documents, "--insecure", "--tls-verify=false", "--progress=none"];
        let command = cfs_dag(arguments.iter().copied().chain(settings)).repo(scratch.path("repo"));
        let peak = command.expect_success().peak_memory;
        assert!(peak > limit, "{what}: its memory was not seen");
        // Each of those that are resolved at once has its documents a second time for a moment.
        assert_within(peak, limit + MEMORY_MIN + BESIDE_THE_BUDGET + 8 * MIB, what);
    };
    let list = list.display().to_string();
    let never_moving = never_moving.display().to_string();
    let pull: Vec<&str> = ["pull"].into_iter().chain(references.iter().map(String::as_str)).collect();
    let pull_with = |flags: &[&'static str]| [&pull[..], flags].concat();
    run("dry run of a cold pull", &pull_with(&["--dry-run=json"]));
    run("cold pull", &pull);
    run("warm pull", &pull);
    run("dry run", &[&pull[..], &["--dry-run", "--plan-out", plan.as_str()]].concat());
    run("pull of a plan", &["pull", "--plan", &plan]);
    run("forced pull", &pull_with(&["--force"]));
    run("mirror", &["mirror", &list, "--lock", &lock]);
    run("dry run of a mirror", &["mirror", &list, "--dry-run"]);
    run("locked mirror", &["mirror", &list, "--lock", &lock, "--locked"]);
    run("mirror from a registry", &["mirror", &never_moving]);
    run("mirror of tags that are not asked for", &["mirror", &never_moving]);
    // Everything is outdated when its layer is gone.
    let streams = fs::read_dir(scratch.path("repo").join("streams")).unwrap();
    for link in streams.map(|entry| entry.unwrap()) {
        if link.file_name().to_string_lossy().starts_with("oci-layer-") {
            fs::remove_file(link.path()).unwrap();
        }
    }
    run("pull of damaged images", &pull);
}

/// The most memory that a pull of these images had, in bytes.
fn peak_of_pull(layout: &Layout, tags: &[&str], jobs: &str) -> u64 {
    let scratch = scratch();
    let references = tags.iter().map(|tag| layout.reference(tag));
    let memory = format!("--memory={MEMORY_MIN}");
    let settings = ["pull", "--insecure", "--progress=none", jobs, &memory].map(str::to_owned);
    let finished =
        cfs_dag(settings.into_iter().chain(references)).repo(scratch.path("repo")).expect_success();
    assert!(finished.peak_memory > MIB, "its memory was not seen");
    finished.peak_memory
}

#[track_caller]
fn assert_within(peak: u64, limit: u64, what: &str) {
    eprintln!("{what}: {} of {} MiB", peak / MIB, limit / MIB);
    assert!(peak <= limit, "{what}: {} MiB, more than {} MiB", peak / MIB, limit / MIB);
}
