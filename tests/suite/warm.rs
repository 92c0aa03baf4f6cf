//! The second pull: what is stored is neither fetched nor split nor written again, whoever stored it.

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::{
    image::{Image, Layout, layout},
    oracle::{self, Algorithm, DEFAULT_KIND, Formats, RepoKind},
    registry_real::{RealRegistry, real_registry},
    repo::{Invocation, cfs_dag, command, repo_manifest, scratch},
    tar::{dir, file, noise, tar},
};

const BOTH: RepoKind = RepoKind(Algorithm::Sha512, Formats::Both);

/// A layer with files of both kinds; different for each `seed`.
fn small_layer(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file("usr/inline", "x"), file(format!("usr/big-{seed}"), noise(seed, 9000))])
}

fn pull(reference: &str, repo: &Path) -> Invocation {
    let all = ["pull", "--insecure", "--tls-verify=false", "--format=json", "--progress=json"];
    cfs_dag(all).arg(reference).repo(repo)
}

/// Everything outside `cfs-dag/`, with inode numbers and the times at which content and inodes were changed.
fn inodes(repo: &Path) -> Vec<String> {
    let format = "%p %i %T@ %C@ %l\n";
    let find = command("find", [".", "-path", "./cfs-dag", "-prune", "-o", "-printf", format]);
    // Our own folder is an entry of the root, whose times it changes.
    let found = find.in_folder(repo).expect_success().stdout;
    let mut lines: Vec<String> =
        found.lines().filter(|line| !line.starts_with(". ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The result of a pull and the kinds of the steps that it took.
fn pulled(reference: &str, repo: &Path) -> (Value, Vec<String>) {
    let finished = pull(reference, repo).expect_success();
    let events = finished.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let started = events.filter(|event| event["event"] == "started");
    (finished.json(), started.map(|event| event["kind"].as_str().unwrap().to_owned()).collect())
}

/// Pulls what is there already, and asserts that this does nothing at all.
#[track_caller]
fn assert_warm(reference: &str, repo: &Path) {
    let before = inodes(repo);
    let (result, steps) = pulled(reference, repo);
    assert_eq!(steps, [""; 0], "{result:#}");
    let totals = &result["totals"];
    for what in ["bytes_fetched", "bytes_written", "objects_new", "objects_present", "barriers"] {
        assert_eq!(totals[what], 0, "{what}: {result:#}");
    }
    let layers = &result["images"][0]["layers"];
    assert_eq!(layers["stored"], layers["total"], "{result:#}");
    assert_eq!(before, inodes(repo), "something was written");
}

/// One image in a registry, and where.
fn in_registry(layout: &Layout, registry: &RealRegistry) -> (Image, String) {
    let image = layout.image("app").layer(small_layer(1)).layer(small_layer(2)).zstd().write();
    let reference = registry.push(&image.reference, "app:v1");
    registry.forget_requests();
    (image, reference)
}

#[test]
fn a_second_pull_reads_the_documents_and_does_nothing() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (image, reference) = in_registry(&layout, &registry);
    let repo = scratch.path("repo");
    let (first, _) = pulled(&reference, &repo);
    let mut read = registry.blobs_read();
    read.retain(|blob| *blob != image.config);
    read.sort();
    let mut blobs = [&image.layers[0].blob, &image.layers[1].blob];
    blobs.sort();
    assert_eq!(read.iter().collect::<Vec<_>>(), blobs, "each layer once");
    registry.forget_requests();
    assert_warm(&reference, &repo);
    let read = registry.blobs_read();
    assert!(read.iter().all(|blob| *blob == image.config), "{read:?}");
    let (second, _) = pulled(&reference, &repo);
    assert_eq!(first["images"][0]["erofs"], second["images"][0]["erofs"]);
    assert_eq!(second["images"][0]["bytes_fetched"], 0);
}

#[test]
fn what_upstream_pulled_is_not_pulled_again() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (image, reference) = in_registry(&layout, &registry);
    let artifact = layout.artifact("sbom").raw("text/plain", "words".repeat(100)).write();
    for kind in oracle::ALL_KINDS {
        let repo = scratch.path(&kind.to_string());
        oracle::create(&repo, kind);
        let theirs = oracle::upstream_pull(&repo, &reference, &reference).unwrap();
        registry.forget_requests();
        assert_warm(&reference, &repo);
        let read = registry.blobs_read();
        assert!(read.iter().all(|blob| *blob == image.config), "{kind}: {read:?}");
        assert_eq!(oracle::stored(&repo, &reference), theirs);
    }
    let repo = scratch.path("artifact");
    oracle::create(&repo, DEFAULT_KIND);
    oracle::upstream_pull(&repo, &artifact.reference, &artifact.reference).unwrap();
    assert_warm(&artifact.reference, &repo);
}

#[test]
fn upstream_finds_what_we_pulled() {
    let (layout, scratch) = (layout(), scratch());
    let image = layout.image("app").layer(small_layer(1)).layer(small_layer(2)).write();
    let repo = scratch.path("repo");
    pull(&image.reference, &repo).expect_success();
    let ours = oracle::stored(&repo, &image.reference);
    let objects = oracle::objects(&repo);
    let theirs = oracle::upstream_pull(&repo, &image.reference, &image.reference).unwrap();
    assert_eq!(ours, theirs);
    let new: Vec<_> = oracle::objects(&repo).difference(&objects).cloned().collect();
    assert!(new.len() <= 1, "a manifest in another order at most: {new:?}");
    oracle::assert_clean(&repo);
    assert_warm(&image.reference, &repo);
}

#[test]
fn without_our_folder_a_pull_is_only_slower() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (image, reference) = in_registry(&layout, &registry);
    let repo = scratch.path("repo");
    pull(&reference, &repo).expect_success();
    let before = repo_manifest(&repo);
    fs::remove_dir_all(repo.join("cfs-dag")).unwrap();
    registry.forget_requests();
    let (result, steps) = pulled(&reference, &repo);
    assert!(registry.blobs_read().iter().all(|blob| *blob == image.config));
    assert_eq!(result["totals"]["objects_new"], 0);
    assert!(!steps.iter().any(|step| ["fetch", "split", "tag"].contains(&&**step)), "{steps:?}");
    assert_eq!(before, repo_manifest(&repo));
    assert_warm(&reference, &repo);
}

#[test]
fn records_that_lie_are_not_believed() {
    let (layout, scratch) = (layout(), scratch());
    let image = layout.image("app").layer(small_layer(1)).write();
    let other = layout.image("other").layer(small_layer(2)).write();
    let (repo, clean) = (scratch.path("repo"), scratch.path("clean"));
    for reference in [&image.reference, &other.reference] {
        pull(reference, &repo).expect_success();
        pull(reference, &clean).expect_success();
    }
    // Every record says what another one says.
    let files_in = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let records: Vec<_> = files_in(&repo.join("cfs-dag/nodes")).flat_map(|path| files_in(&path)).collect();
    assert!(records.len() >= 2, "{records:?}");
    let contents: Vec<_> = records.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, content) in records.iter().zip(contents.iter().cycle().skip(1)) {
        fs::write(path, content).unwrap();
    }
    for reference in [&image.reference, &other.reference] {
        cfs_dag(["untag", reference]).repo(&repo).expect_success();
        pull(reference, &repo).expect_success();
        assert_eq!(oracle::stored(&repo, reference), oracle::stored(&clean, reference));
    }
    oracle::assert_clean(&repo);
    // And every record is garbage.
    for path in &records {
        fs::write(path, "{\"").unwrap();
    }
    for reference in [&image.reference, &other.reference] {
        cfs_dag(["untag", reference]).repo(&repo).expect_success();
        pull(reference, &repo).expect_success();
    }
    assert_eq!(repo_manifest(&repo), repo_manifest(&clean));
}

#[test]
fn a_second_image_fetches_only_its_own_layers() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (image, reference) = in_registry(&layout, &registry);
    let second = layout.image("second").layer(small_layer(1)).layer(small_layer(3)).write();
    // The same layers as the first image's, but every blob is another one.
    let recompressed =
        layout.image("third").layer(small_layer(1)).plain().layer(small_layer(2)).env("NEW=1").write();
    let repo = scratch.path("repo");
    pull(&reference, &repo).expect_success();
    let second_reference = registry.push(&second.reference, "second:v1");
    registry.forget_requests();
    let (result, _) = pulled(&second_reference, &repo);
    let mut read = registry.blobs_read();
    read.retain(|blob| *blob != second.config);
    assert_eq!(read, [second.layers[1].blob.clone()]);
    let layers = json!({ "total": 2, "stored": 1, "shared": 0, "new": 1 });
    assert_eq!(result["images"][0]["layers"], layers);
    for layer in &recompressed.layers {
        layout.remove_blob(&layer.blob);
    }
    let (result, steps) = pulled(&recompressed.reference, &repo);
    assert_eq!(steps, ["config", "manifest", "tag"], "no blob and no filesystem: {result:#}");
    assert_eq!(result["images"][0]["erofs"], json!({ "v1": oracle::stored(&repo, &reference).erofs_v1 }));
    assert_ne!(image.config, recompressed.config);
    oracle::assert_clean(&repo);
    oracle::assert_gc_removes_nothing(&repo);
}

#[test]
fn a_tag_moves_with_its_registry() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (old, reference) = in_registry(&layout, &registry);
    let repo = scratch.path("repo");
    pull(&reference, &repo).expect_success();
    let new = layout.image("new").layer(small_layer(1)).layer(small_layer(2)).env("NEW=1").write();
    registry.push(&new.reference, "app:v1");
    registry.forget_requests();
    let (_, steps) = pulled(&reference, &repo);
    assert_eq!(oracle::stored(&repo, &reference).manifest_digest, new.manifest);
    assert!(registry.blobs_read().iter().all(|blob| *blob == new.config), "the same layers in other blobs");
    assert_eq!(steps, ["config", "manifest", "tag"]);
    // Back again, and under one more name: nothing but the name is to do.
    registry.push(&old.reference, "app:v1");
    let (_, steps) = pulled(&reference, &repo);
    assert_eq!(steps, ["tag"]);
    assert_eq!(oracle::stored(&repo, &reference).manifest_digest, old.manifest);
    let named = pull(&reference, &repo).arg("--name=mine").expect_success();
    assert_eq!(named.json()["images"][0]["layers"]["stored"], 2);
    assert_eq!(oracle::stored(&repo, "mine"), oracle::stored(&repo, &reference));
    oracle::assert_clean(&repo);
}

#[test]
fn what_was_untagged_and_not_collected_needs_only_its_tag() {
    let (layout, registry, scratch) = (layout(), real_registry(), scratch());
    let (image, reference) = in_registry(&layout, &registry);
    let repo = scratch.path("repo");
    pull(&reference, &repo).expect_success();
    let before = repo_manifest(&repo);
    cfs_dag(["untag", &reference]).repo(&repo).expect_success();
    registry.forget_requests();
    pulled(&reference, &repo);
    assert!(registry.blobs_read().iter().all(|blob| *blob == image.config));
    assert_eq!(before, repo_manifest(&repo));
}

/// Upstream pulled into a repository that wanted V1 alone; now it wants V2 as well.
#[test]
fn a_config_without_a_reference_that_the_repository_needs_is_completed() {
    let (layout, scratch) = (layout(), scratch());
    let build = |tag: &str| layout.image(tag).layer(small_layer(1));
    // Two manifests with one config: the blobs differ, the image does not.
    let (one, two) = (build("one").write(), build("two").zstd().write());
    assert!(one.config == two.config && one.manifest != two.manifest);
    let (repo, wanted) = (scratch.path("repo"), scratch.path("wanted"));
    oracle::create(&repo, DEFAULT_KIND);
    oracle::create(&wanted, BOTH);
    for image in [&one, &two] {
        oracle::upstream_pull(&repo, &image.reference, &image.reference).unwrap();
    }
    assert_eq!(oracle::stored(&repo, &one.reference).erofs_v2, None);
    // Upstream writes documents twice, and leaves the first ones behind.
    oracle::gc(&repo);
    fs::copy(wanted.join("meta.json"), repo.join("meta.json")).unwrap();
    layout.remove_blob(&one.layers[0].blob);
    let (_, steps) = pulled(&one.reference, &repo);
    assert!(!steps.contains(&"fetch".to_owned()), "{steps:?}");
    let expected = oracle::upstream_pull(&wanted, &two.reference, &two.reference).unwrap();
    for image in [&one, &two] {
        let stored = oracle::stored(&repo, &image.reference);
        assert_eq!(stored.manifest_digest, image.manifest);
        assert_eq!(stored.config_stream, expected.config_stream, "the other tag is completed too");
        assert_eq!((&stored.erofs_v1, &stored.erofs_v2), (&expected.erofs_v1, &expected.erofs_v2));
    }
    oracle::assert_clean(&repo);
    // The documents that were replaced go, and nothing else.
    assert_eq!(oracle::gc(&repo).objects_removed, 3, "a config and two manifests");
    oracle::assert_clean(&repo);
    assert_warm(&one.reference, &repo);
    assert_warm(&two.reference, &repo);
}
