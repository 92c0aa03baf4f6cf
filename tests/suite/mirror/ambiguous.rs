//! Images of a list with entries that tar readers read differently, some of which the list accepts.

use cfs_dag::types::AmbiguityKind;
use support::{
    source::host,
    tar::{dir, file, hardlink, noise, tar},
};

use super::world::{World, layer, lines_of};

#[test]
fn list_accepts_ambiguous_entries_for_single_images() {
    let world = World::new();
    let ambiguous = tar([
        dir("usr"),
        file("usr/a", noise(1, 700)),
        hardlink("usr/b", "usr/a").claims_size(700),
        file("usr/c", noise(2, 300)),
        file("usr/d", noise(3, 90)),
    ]);
    for name in ["strict", "lenient"] {
        world.registry.image(name, "v1", &host(), &[&layer(0), &ambiguous]);
    }
    world.images(["good:v1"]);
    let words = ["layer 2", "usr/b: ", AmbiguityKind::SizeWithoutData.text()];
    let list =
        "HOST:\n  images:\n    good: [v1]\n    lenient: {tags: [v1], as-upstream: true}\n    strict: [v1]\n";
    // The layer is split once for both; then it is stored.
    for outcome in ["new", "unchanged"] {
        let finished = world.mirror_of(list).expect_failure(3).says(&words);
        assert_eq!(world.names(), ["good:v1", "lenient:v1"]);
        let [warning] = lines_of(&finished, "warning")[..] else { panic!("{finished}") };
        assert!(warning.contains("lenient:v1: layer 2: usr/b: "), "{finished}");
        assert!(!lines_of(&finished, outcome).is_empty(), "{finished}");
    }
    // Without it the name stays, but the image is not good any more.
    let strict = list.replace(", as-upstream: true", "");
    let finished = world.mirror_of(&strict).arg("--prune").expect_failure(3).says(&words);
    assert_eq!(lines_of(&finished, "failed").len(), 2, "{finished}");
    assert_eq!(world.names(), ["good:v1", "lenient:v1"]);
    // For all of a registry, and for all of a run.
    world.mirror_of(&strict.replace("  images:", "  as-upstream: true\n  images:")).expect_success();
    world.mirror_of(&strict).arg("--as-upstream").expect_success();
    assert_eq!(world.names(), ["good:v1", "lenient:v1", "strict:v1"]);
}

#[test]
fn two_rules_for_one_image_have_to_agree_about_ambiguous_entries() {
    let world = World::new();
    world.images(["app:v1"]);
    let list =
        "HOST:\n  images: {app: [v1]}\n  images-by-tag-regex:\n    app: {regex: ^v, as-upstream: true}\n";
    let finished = world.mirror_of(list).run();
    assert_ne!(finished.code, Some(0), "{finished}");
    finished.says(&["app:v1", "line 2", "another as-upstream: give both the same"]);
}
