//! `cfs-dag log`: what earlier runs did and why, as a user asks for it.

use std::{fs, path::Path};

use serde_json::Value;
use support::{
    image::{Layout, layout},
    plans::assert_is_plan,
    repo::{Finished, Invocation, cfs_dag, repo_manifest, scratch},
    tar::{dir, file, noise, tar},
};

fn layer(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/file-{seed}"), noise(seed, 20_000))])
}

/// Writes an image of these layers under a tag that may have been another's; gives its reference.
fn image(layout: &Layout, tag: &str, seeds: &[u64]) -> String {
    seeds.iter().fold(layout.image(tag), |image, seed| image.layer(layer(*seed)).plain()).write().reference
}

fn pull(repo: &Path, references: &[&str]) -> Invocation {
    cfs_dag(["pull", "--insecure", "--progress=none"].iter().chain(references)).repo(repo)
}

fn log(repo: &Path, arguments: &[&str]) -> Invocation {
    cfs_dag(["log"].iter().chain(arguments)).repo(repo)
}

/// What `log --why` says of something, in one text.
fn why(repo: &Path, what: &str) -> String {
    log(repo, &["--why", what]).expect_success().stdout
}

/// The object of a file of [`layer`] that only one layer has, as lines of
/// `repo_manifest` before it was there.
fn new_object(repo: &Path, before: &[String]) -> std::path::PathBuf {
    let lines = repo_manifest(repo);
    let new =
        |line: &&String| line.starts_with("objects/") && line.contains(" 20000 ") && !before.contains(line);
    repo.join(lines.iter().find(new).unwrap().split(' ').next().unwrap())
}

#[test]
fn every_run_leaves_a_record_and_twenty_are_kept() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let repo = scratch.path("repo");
    cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    log(&repo, &[]).expect_failure(1).says(&["nothing was pulled into this repository so far"]);
    for _ in 0..22 {
        pull(&repo, &[&reference]).expect_success();
    }
    let list = log(&repo, &["--list"]).expect_success().stdout;
    let numbers: Vec<&str> =
        list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!((numbers.len(), numbers[0], numbers[19]), (20, "22", "3"));
    log(&repo, &["2"]).expect_failure(2).says(&["run 2 is not kept", "up to 22"]);
    let last = log(&repo, &[]).expect_success().stdout;
    assert!(last.starts_with("run 22 ") && last.contains("1 layer: 1 stored"), "{last}");
}

#[test]
fn a_run_is_told_in_numbers_that_are_right() {
    let (scratch, layout) = (scratch(), layout());
    let (a, b) = (image(&layout, "a", &[1, 2]), image(&layout, "b", &[1, 3]));
    let repo = scratch.path("repo");
    let result = pull(&repo, &[&a, &b]).arg("--format=json").expect_success().json();
    let run = log(&repo, &["--json"]).expect_success().json();
    assert_eq!((&run["run"], &run["head"]["outcome"]), (&Value::from(1), &Value::from("done")));
    assert_eq!(run["head"]["totals"], result["totals"]);
    assert_eq!(run["head"]["layers"], serde_json::json!({"total": 4, "stored": 0, "shared": 1, "new": 3}));
    assert_eq!(run["head"]["images"][1]["name"], b.as_str());
    let nodes = run["plan"]["nodes"].as_array().unwrap();
    let of_kind =
        |record: &&Value, kind: &str| nodes[record["node"].as_u64().unwrap() as usize]["kind"] == kind;
    let records = run["record"]["nodes"].as_array().unwrap();
    let bytes = |kind| -> u64 {
        records
            .iter()
            .filter(|record| of_kind(record, kind))
            .map(|record| record["bytes"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(result["totals"]["bytes_fetched"], bytes("fetch"));
    assert_eq!(result["totals"]["bytes_written"], bytes("write"));
    assert!(records.iter().all(|record| record["outcome"] == "finished"), "{records:#?}");
    let spans = run["record"]["spans"].as_array().unwrap();
    assert!(spans.iter().any(|span| of_kind(&&serde_json::json!({"node": span[1]}), "split")), "{spans:?}");
    let text = log(&repo, &[]).expect_success().stdout;
    assert!(text.contains("2 images: 2 done, 0 failed\n4 layers: 0 stored, 1 shared, 3 to make\n"), "{text}");
}

#[test]
fn why_tells_what_is_stored_shared_new_and_moved() {
    let (scratch, layout) = (scratch(), layout());
    let (a, b) = (image(&layout, "a", &[1]), image(&layout, "b", &[1, 2]));
    let repo = scratch.path("repo");
    pull(&repo, &[&a, &b]).expect_success();
    let first = why(&repo, &format!("{a}:1"));
    assert!(first.contains("needed: not stored"), "{first}");
    assert!(first.contains(&format!("{b}: shared with {a}")), "{first}");
    assert!(first.contains("no earlier run of this image is kept"), "{first}");

    pull(&repo, &[&a, &b]).expect_success();
    let again = why(&repo, &b);
    assert!(again.contains("state        stored\n") && !again.contains("state        needed"), "{again}");
    assert!(again.contains("not the key; then it was needed: not stored"), "{again}");

    image(&layout, "b", &[1, 3]);
    let dry = pull(&repo, &[&b]).arg("--dry-run").expect_success().stdout;
    for words in ["filesystem", "key changed (layers)", "key changed (digest)", "tag moved"] {
        assert!(dry.contains(words), "{words}: {dry}");
    }
    pull(&repo, &[&b]).expect_success();
    let moved = why(&repo, &b);
    assert!(moved.contains("needed: tag moved") && moved.contains("needed: key changed (layers)"), "{moved}");
    assert!(moved.contains("from layer 2 on"), "{moved}");
    assert!(moved.contains("state        stored\n"), "the base: {moved}");
    let base = why(&repo, &format!("{b}:1"));
    assert!(base.contains("nothing changed"), "{base}");
}

#[test]
fn why_tells_that_what_was_made_before_was_collected() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let repo = scratch.path("repo");
    pull(&repo, &[&reference]).expect_success();
    cfs_dag(["untag", &reference]).repo(&repo).expect_success();
    cfs_dag(["gc"]).repo(&repo).expect_success();
    pull(&repo, &[&reference]).expect_success();
    let text = why(&repo, &reference);
    assert!(text.contains("step of      layer 1 of 1"), "{text}");
    assert_eq!(text.matches("state        needed: outputs missing").count(), 5, "{text}");
    assert_eq!(text.matches("state        needed: not stored").count(), 1, "the name itself: {text}");
    assert!(text.contains("it was there after the run before"), "{text}");
}

#[test]
fn why_tells_what_was_damaged_or_forced() {
    let (scratch, layout) = (scratch(), layout());
    let (keep, gone) = (image(&layout, "keep", &[1]), image(&layout, "gone", &[2]));
    let repo = scratch.path("repo");
    pull(&repo, &[&keep]).expect_success();
    let before = repo_manifest(&repo);
    pull(&repo, &[&gone]).expect_success();
    let object = new_object(&repo, &before);
    // What a tag reaches is believed: without one, objects are looked at.
    cfs_dag(["untag", &gone]).repo(&repo).expect_success();
    fs::remove_file(&object).unwrap();
    pull(&repo, &[&gone]).expect_success();
    let missing = why(&repo, &format!("{gone}:1"));
    assert!(missing.contains("needed: outputs missing"), "{missing}");

    cfs_dag(["untag", &gone]).repo(&repo).expect_success();
    fs::write(&object, "short").unwrap();
    pull(&repo, &[&gone]).expect_success();
    let size = why(&repo, &format!("{gone}:1"));
    assert!(size.contains("needed: size wrong"), "{size}");

    pull(&repo, &[&gone]).arg("--force").expect_success();
    let forced = why(&repo, &gone);
    assert!(forced.contains("needed: forced") && !forced.contains("state        stored"), "{forced}");
}

#[test]
fn why_finds_nodes_layers_and_images_by_their_names() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let repo = scratch.path("repo");
    pull(&repo, &[&reference]).expect_success();
    let run = log(&repo, &["--json"]).expect_success().json();
    let node = run["plan"]["nodes"].as_array().unwrap().iter().find(|node| node["kind"] == "split").unwrap();
    let (id, key) = (node["node"].as_str().unwrap(), node["key"].as_str().unwrap());
    let layer = node["subject"]["layer"].as_str().unwrap();
    for name in [id, &id[..id.len() - 4], key, &key[..8], layer, &layer["sha256:".len()..][..12]] {
        let text = why(&repo, name);
        assert!(text.contains(id) && text.contains(key), "{name}: {text}");
    }
    let nothing = log(&repo, &["--why", "frobnicate"]).expect_failure(2);
    nothing.says(&["nothing in this run is called \"frobnicate\""]);
}

#[test]
fn the_graph_as_it_ran_can_be_drawn_in_every_format() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let repo = scratch.path("repo");
    pull(&repo, &[&reference]).expect_success();
    let draw = |name: &str| -> String {
        let file = scratch.path(name);
        log(&repo, &["--graph", file.to_str().unwrap()]).expect_success();
        fs::read_to_string(file).unwrap()
    };
    for (name, words) in [
        ("run.txt", "● fetch"),
        ("run.dot", "penwidth"),
        ("run.mmd", "flowchart"),
        ("run.svg", "<svg"),
        ("run.html", "<!doctype html>"),
    ] {
        let drawn = draw(name);
        assert!(drawn.to_lowercase().contains(words), "{name}: {drawn}");
        assert!(drawn.contains(" ms") || drawn.contains(" µs"), "{name} has no times: {drawn}");
    }
    let json = draw("run.json");
    assert_is_plan("run", &json);
    let json: Value = serde_json::from_str(&json).unwrap();
    let ran = json["nodes"].as_array().unwrap().iter().map(|node| &node["ran"]["outcome"]);
    assert!(ran.clone().all(|outcome| outcome == "finished"), "{:?}", ran.collect::<Vec<_>>());
    assert!(json["nodes"].as_array().unwrap().iter().any(|node| node["ran"]["critical"] == true));
    log(&repo, &["--graph", "run.png"]).expect_failure(2).says(&["txt, dot, mmd, json, svg or html"]);
}

#[test]
fn where_the_time_went_is_told_in_three_ways() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let repo = scratch.path("repo");
    pull(&repo, &[&reference]).expect_success();
    let chain = log(&repo, &["--critical-path"]).expect_success().stdout;
    assert!(chain.contains("bounded by") && chain.contains("1 S FREE WINS"), "{chain}");
    assert!(chain.lines().all(|line| line.chars().count() <= 80 || line.contains(&reference)), "{chain}");
    let page = scratch.path("timings.html");
    let saved = log(&repo, &[&format!("--timings={}", page.display())]).expect_success();
    assert_eq!(saved.stdout, format!("{}\n", page.display()));
    assert!(fs::read_to_string(&page).unwrap().contains("worker 0"));
    let here = scratch.path("here");
    fs::create_dir(&here).unwrap();
    log(&repo, &["--timings"]).in_folder(&here).expect_success();
    assert!(here.join("cfs-dag-timings-1.html").exists());
    let trace = scratch.path("trace.json");
    log(&repo, &["--trace", trace.to_str().unwrap()]).expect_success();
    let trace: Value = serde_json::from_str(&fs::read_to_string(trace).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|event| event["ph"] == "X"));
}

#[test]
fn a_failed_run_is_kept_with_its_reason() {
    let (scratch, layout) = (scratch(), layout());
    let good = image(&layout, "good", &[1]);
    let bad = layout.image("bad").layer(layer(2)).gzip().write();
    let blob = layout.blob(&bad.layers[0].blob);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let repo = scratch.path("repo");
    pull(&repo, &[&good, &bad.reference]).expect_failure(3);
    let told = |finished: Finished, words: &[&str]| {
        for word in words {
            assert!(finished.stdout.contains(word), "{word}: {finished}");
        }
    };
    let words = ["some failed", "2 images: 1 done, 1 failed", "layer 1 of 1"];
    told(log(&repo, &[]).expect_success(), &words);
    told(log(&repo, &["--why", &bad.reference]).expect_success(), &["fetch failed", "cancelled"]);
    // An image that cannot even be resolved is in the record, too.
    pull(&repo, &[&good, &layout.reference("nowhere")]).expect_failure(3);
    told(log(&repo, &[]).expect_success(), &["nowhere: failed", "no tag"]);
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_harms_nothing() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let repo = scratch.path("repo");
    pull(&repo, &[&reference]).expect_success();
    fs::write(repo.join("cfs-dag/runs/000002.run.zst"), "no record").unwrap();
    fs::write(repo.join("cfs-dag/runs/notes.txt"), "not ours").unwrap();
    log(&repo, &[]).expect_failure(1).says(&["the record of run 2 cannot be read"]);
    assert_eq!(log(&repo, &["--list"]).expect_success().stdout.lines().count(), 2);
    pull(&repo, &[&reference]).expect_success();
    assert!(log(&repo, &[]).expect_success().stdout.starts_with("run 3 "));
}
