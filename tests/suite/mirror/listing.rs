//! Lists of tags that do not end, or are too long: they fail their own rule, once.

use support::registry::{Fault, Kind};

use super::world::{World, lines_of};

const LIST: &str = "HOST:\n  images-by-tag-regex: {app: ^v}\n  images: {lib: [v1]}\n";

fn world() -> World {
    let world = World::new();
    world.images(["app:v1", "lib:v1"]);
    world
}

/// A page of tags that names itself as the next one.
fn endless(tags: &str) -> Fault {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Fault::Answer {
        status: 200,
        headers: vec![
            header("Content-Type", "application/json"),
            header("Link", "</v2/app/tags/list?last=v1>; rel=\"next\""),
        ],
        body: format!(r#"{{"name":"app","tags":[{tags}]}}"#).into_bytes(),
    }
}

/// Asserts that the rule fails in these words, was tried once, and takes nothing with it.
#[track_caller]
fn assert_rule_fails(world: &World, stall: &str, words: &[&str]) {
    let finished = world.mirror_of(LIST).args([stall, "--retries=2"]).expect_failure(3).says(words);
    let failed = lines_of(&finished, "failed");
    assert!(failed.len() == 1 && failed[0].contains("app"), "{finished}");
    assert_eq!(lines_of(&finished, "new").len(), 1, "{finished}");
    assert!(!finished.stderr.contains("tried"), "{finished}");
    assert_eq!(
        world.registry.requests_for("GET app/tags/list"),
        world.registry.counts().requests(Kind::Tags)
    );
}

#[test]
fn tags_without_end_fail_their_rule_and_are_not_listed_again() {
    let world = world();
    world.registry.fault_kind_always(Kind::Tags, endless("\"v1\""));
    assert_rule_fails(
        &world,
        "--stall-timeout=2s",
        &["app", "page after page", "name the tags that are wanted"],
    );
}

#[test]
fn tags_that_take_too_much_memory_fail_their_rule() {
    let world = world();
    // A string of Go takes many times what it takes here.
    let page = vec!["\"v\""; 1 << 20].join(",");
    world.registry.fault_kind_always(Kind::Tags, endless(&page));
    assert_rule_fails(&world, "--stall-timeout=1h", &["app", "more than 512 MiB of memory", "name the tags"]);
}

#[test]
fn a_registry_that_goes_silent_on_a_later_page_is_asked_again() {
    let world = world();
    world.registry.fault_kind(Kind::Tags, 1, endless("\"v1\""));
    world.registry.fault_kind(Kind::Tags, 1, Fault::Silence);
    world.mirror_of(LIST).args(["--stall-timeout=2s", "--retries=1"]).expect_success();
    assert_eq!(world.names(), ["app:v1", "lib:v1"]);
}
