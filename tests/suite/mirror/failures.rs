//! Runs in which something fails: the rest is done, and it is told what was not.

use std::fs;

use serde_json::Value;
use support::{oracle, registry::Fault};

use super::world::{World, lines_of};

const THREE: &str = "docker://HOST/app:v1\ndocker://HOST/app:v2\ndocker://HOST/gone:v1 web\n";

/// Three images: one is whole, one lacks a layer, one is not there.
fn one_of_three() -> World {
    let world = World::new();
    let [_, second] = world.images(["app:v1", "app:v2"]);
    let path = format!("app/blobs/{}", second.layers[1]);
    world.registry.fault_always(&path, Fault::Status(404, None));
    world
}

#[test]
fn a_failed_image_harms_no_other_and_each_is_told_of() {
    let world = one_of_three();
    let finished = world.mirror_of(THREE).arg("--summary").arg(world.path("summary")).expect_failure(3);
    assert_eq!(world.names(), ["app:v1"]);
    oracle::assert_clean(&world.repo());
    assert_eq!(lines_of(&finished, "new").len(), 1, "{finished}");
    let failed = lines_of(&finished, "failed");
    assert!(failed[0].starts_with(&world.name("app:v2: layer 2 of 2")), "{finished}");
    assert!(failed[1].starts_with("web: ") && failed.len() == 2, "{finished}");
    assert_eq!(finished.stderr.lines().count(), 2, "{finished}");
    let summary: Value = serde_json::from_str(&fs::read_to_string(world.path("summary")).unwrap()).unwrap();
    let outcomes = world.outcomes(&summary);
    let ended: Vec<_> = outcomes.iter().map(|(name, outcome, _)| (&**name, &**outcome)).collect();
    assert_eq!(ended, [("app:v1", "ok"), ("app:v2", "failed"), ("web", "failed")]);
    assert!(outcomes[2].2.starts_with("gone:v1: "), "{outcomes:?}");
    assert_eq!(
        (&summary["totals"]["images_ok"], &summary["totals"]["images_failed"]),
        (&1.into(), &2.into())
    );
    // The next run does what was left, and no more.
    world.registry.heal();
    world.images(["gone:v1"]);
    let finished = world.mirror_of(THREE).expect_success();
    assert_eq!(lines_of(&finished, "new").len(), 2, "{finished}");
    assert_eq!(lines_of(&finished, "unchanged"), ["1 image"]);
    assert_eq!(world.names(), ["app:v1", "app:v2", "web"]);
}

#[test]
fn programs_get_the_same_as_json() {
    let world = one_of_three();
    let finished = world.mirror_of(THREE).arg("--format=json").expect_failure(3);
    let outcomes = world.outcomes(&finished.json());
    let ended: Vec<_> = outcomes.iter().map(|(name, outcome, _)| (&**name, &**outcome)).collect();
    assert_eq!(ended, [("app:v1", "ok"), ("app:v2", "failed"), ("web", "failed")]);
}

#[test]
fn a_mirror_of_which_nothing_comes_fails_as_a_whole() {
    let world = one_of_three();
    let list = "docker://HOST/gone:v1\ndocker://HOST/gone:v2\n";
    let finished = world.mirror_of(list).arg("--summary").arg(world.path("summary")).expect_failure(1);
    assert_eq!(lines_of(&finished, "failed").len(), 2, "{finished}");
    assert!(!world.repo().exists());
    let summary: Value = serde_json::from_str(&fs::read_to_string(world.path("summary")).unwrap()).unwrap();
    assert_eq!(summary["totals"]["images_failed"], 2);
    let finished = world.mirror_of("docker://HOST/app:v2\n").expect_failure(1);
    assert_eq!(lines_of(&finished, "failed").len(), 1, "{finished}");
    assert!(world.names().is_empty());
}

#[test]
fn a_mirror_that_stops_at_the_first_failure_says_what_was_not_done() {
    let world = one_of_three();
    // What cannot be resolved fails before anything is begun.
    let finished = world.mirror_of(THREE).arg("--fail-fast").expect_failure(1);
    let failed = lines_of(&finished, "failed");
    assert_eq!(failed.len(), 3, "{finished}");
    assert!(failed[0].contains("not done: another image failed first (--fail-fast)"), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 2, "only what failed by itself: {finished}");
    finished.says(&["2 images were given up: another one failed first (--fail-fast)"]);
    assert!(!world.repo().exists());
    // What fails later leaves what is done.
    world.mirror_of("docker://HOST/app:v1\n").expect_success();
    let [third] = world.images(["app:v3"]);
    world.registry.fault("app", third.layers[1], Fault::StallAfter(10));
    let list = "docker://HOST/app:v1\ndocker://HOST/app:v2\ndocker://HOST/app:v3\n";
    let finished = world.mirror_of(list).arg("--fail-fast").expect_failure(3);
    assert_eq!(lines_of(&finished, "unchanged"), ["1 image"], "{finished}");
    let finished = finished.says(&[&world.name("app:v2: layer 2 of 2"), "404"]);
    assert_eq!(finished.stderr.lines().count(), 2, "only what failed by itself: {finished}");
    finished.says(&["1 image was given up: another one failed first (--fail-fast)"]);
}
