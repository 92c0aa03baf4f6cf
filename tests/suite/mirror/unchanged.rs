//! What a mirror costs when hardly anything has changed, by the registry's own counts.

use std::fs;

use support::{oracle, registry::Kind, repo::repo_manifest};

use super::world::World;

const LIST: &str = "docker://HOST/app:v1\ndocker://HOST/app:v2\n";

impl World {
    /// The number of requests of all kinds since they were forgotten, tokens aside.
    fn asked(&self) -> [usize; 5] {
        let counts = self.registry.counts();
        [Kind::Ping, Kind::Tags, Kind::Manifest, Kind::Config, Kind::Layer].map(|kind| counts.requests(kind))
    }
}

#[test]
fn a_tag_that_has_not_moved_costs_its_manifest_and_no_more() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(LIST).expect_success();
    world.registry.forget_requests();
    assert_eq!(world.mirror_of(LIST).expect_success().stdout, "unchanged 2 images\n");
    assert_eq!(world.asked(), [2, 0, 2, 0, 0]);
}

#[test]
fn with_tokens_it_costs_a_token_too() {
    let world = World::new();
    world.images(["app:v1"]);
    world.registry.require_token();
    let list = world.list("docker://HOST/app:v1\n");
    world.mirror(&list).expect_success();
    world.registry.forget_requests();
    world.mirror(&list).expect_success();
    assert_eq!(world.asked(), [1, 0, 1, 0, 0]);
    assert_eq!(world.registry.counts().requests(Kind::Token), 1);
}

#[test]
fn a_tag_that_has_moved_costs_what_is_new() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(LIST).expect_success();
    let moved = world.image("app:v2", 1);
    world.registry.forget_requests();
    let finished = world.mirror_of(LIST).expect_success();
    assert!(
        finished.stdout.starts_with("moved") && finished.stdout.ends_with("unchanged 1 image\n"),
        "{finished}"
    );
    assert_eq!(world.asked()[1..], [0, 2, 1, 1]);
    assert_eq!(world.registry.requests_for(moved.layers[1]), 1);
    assert_eq!(world.digest("app:v2"), moved.manifest.to_string());
}

#[test]
fn a_tag_that_never_moves_is_not_asked_for_again() {
    let world = World::new();
    let [first, _] = world.images(["app:v1", "app:v2"]);
    let list = "HOST:\n  immutable-tags: true\n  images: {app: [v1, v2]}\n";
    world.mirror_of(list).expect_success();
    world.image("app:v1", 1);
    world.registry.forget_requests();
    assert_eq!(world.mirror_of(list).expect_success().stdout, "unchanged 2 images\n");
    assert_eq!(world.registry.requests(), [""; 0]);
    assert_eq!(world.digest("app:v1"), first.manifest.to_string());
    // The list of tags may have grown.
    world.images(["app:v3"]);
    world.registry.forget_requests();
    world.mirror_of("HOST:\n  immutable-tags: true\n  images:\n    app:\n").expect_success();
    let counts = world.registry.counts();
    assert_eq!((counts.requests(Kind::Tags), counts.requests(Kind::Manifest)), (1, 1));
    assert_eq!(counts.requests_to("app/manifests/v3"), 1);
    // Who says nothing of it wants to see it move.
    world.mirror_of("docker://HOST/app:v1\n").expect_success();
    assert_ne!(world.digest("app:v1"), first.manifest.to_string());
}

#[test]
fn a_tag_that_never_moves_is_asked_for_when_its_image_is_damaged() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    let list = "HOST:\n  immutable-tags: true\n  images: {app: [v1, v2]}\n";
    world.mirror_of(list).expect_success();
    let whole = repo_manifest(&world.repo());
    let link = whole.iter().find(|line| line.starts_with("streams/oci-config-")).unwrap();
    fs::remove_file(world.repo().join(link.split(' ').next().unwrap())).unwrap();
    world.registry.forget_requests();
    world.mirror_of(list).expect_success();
    assert_eq!(repo_manifest(&world.repo()), whole);
    oracle::assert_clean(&world.repo());
    assert_eq!(world.registry.counts().requests(Kind::Manifest), 1, "only for the damaged one");
}
