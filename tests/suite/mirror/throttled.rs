//! Registries that throttle or are silent for good: they cost the patience of a few images and not of all.
//! Told by the registry's own counts.

use support::{
    registry::{Fault, Kind},
    repo::Finished,
    source::host,
};

use super::world::{World, layer, lines_of};

/// As often does skopeo itself ask where it is told 429.
const REPEATS: usize = 5;

/// After so many images in a row a registry is given up.
const IN_A_ROW: usize = 3;

const IMAGES: usize = 12;

/// A registry of images that have nothing in common, with those of other registries neither.
fn world() -> World {
    let world = World::new();
    for number in 0..IMAGES {
        world.registry.image("app", &format!("v{number}"), &host(), &[&layer(number as u64 + 1)]);
    }
    world
}

fn list() -> String {
    (0..IMAGES).map(|number| format!("docker://HOST/app:v{number}\n")).collect()
}

/// How many images failed, and how many of them without being asked for.
fn failed(world: &World, finished: &Finished) -> (usize, usize) {
    let failed = lines_of(finished, "failed");
    let name = world.registry.host();
    let not_asked = failed.iter().filter(|line| {
        line.contains(&format!("not asked for: {name} has failed 3 images in a row"))
            && line.contains("throttling")
    });
    (failed.len(), not_asked.count())
}

#[test]
fn after_three_throttled_images_in_a_row_the_others_fail_at_once() {
    for (kind, tries) in [(Kind::Manifest, 2), (Kind::Layer, 1), (Kind::Tags, 2)] {
        let (world, elsewhere) = (world(), World::new());
        elsewhere.images(["lib:v1"]);
        world.registry.fault_kind_always(kind, Fault::at_once(429));
        let list = match kind {
            Kind::Tags => {
                let rules: String = (0..IMAGES).map(|number| format!("    app{number}: ^v\n")).collect();
                format!(
                    "HOST:\n  images-by-tag-regex:\n{rules}{}:\n  images: {{lib: [v1]}}\n",
                    elsewhere.registry.host()
                )
            }
            _ => list() + &elsewhere.name("lib:v1\n"),
        };
        let flags =
            [format!("--retries={}", tries - 1), "--downloads-per-host=1".into(), "--downloads=1".into()];
        let finished = world.mirror_of(&list).args(flags).expect_failure(3);
        assert_eq!(failed(&world, &finished), (IMAGES, IMAGES - IN_A_ROW), "{kind:?}: {finished}");
        let counts = world.registry.counts();
        assert_eq!(counts.requests(kind), IN_A_ROW * tries * REPEATS, "{kind:?}: {finished}");
        assert_eq!(lines_of(&finished, "new").len(), 1, "the other registry's image: {finished}");
    }
}

#[test]
fn after_three_silent_images_in_a_row_the_others_fail_at_once() {
    let world = world();
    world.registry.fault_kind_always(Kind::Manifest, Fault::Silence);
    let flags = ["--retries=0", "--downloads-per-host=1", "--stall-timeout=700ms"];
    let finished = world.mirror_of(&list()).args(flags).expect_failure(1);
    assert_eq!(failed(&world, &finished), (IMAGES, IMAGES - IN_A_ROW), "{finished}");
    // A busy machine may take all the time before the first request.
    assert!(world.registry.counts().requests(Kind::Manifest) <= IN_A_ROW, "{finished}");
    finished.says(&["skopeo took longer than", "the registry is down, silent, or makes skopeo wait"]);
}

#[test]
fn two_throttled_images_harm_no_other() {
    let world = world();
    for number in [0, 1] {
        world.registry.fault_always(&format!("app/manifests/v{number}"), Fault::at_once(429));
    }
    let finished = world.mirror_of(&list()).args(["--retries=0", "--downloads-per-host=1"]).expect_failure(3);
    assert_eq!(failed(&world, &finished), (2, 0), "{finished}");
    assert_eq!(lines_of(&finished, "new").len(), IMAGES - 2, "{finished}");
}

#[test]
fn a_retry_after_that_is_longer_than_the_patience_is_said() {
    let wait = || Fault::Status(429, Some(("Retry-After".into(), "300".into())));
    for kind in [Kind::Ping, Kind::Manifest, Kind::Layer, Kind::Tags] {
        let world = World::new();
        world.images(["app:v1"]);
        world.registry.fault_kind_always(kind, wait());
        let list = match kind {
            Kind::Tags => "HOST:\n  images-by-tag-regex: {app: ^v}\n",
            _ => "docker://HOST/app:v1\n",
        };
        // An answer may take three times as long; on a busy machine the start of skopeo is a part of it.
        let flags = ["--retries=0", "--stall-timeout=2s"];
        let finished = world.mirror_of(list).args(flags).expect_failure(1);
        let words = [
            "too many requests (429)",
            "asks to wait 300s (Retry-After), longer than the 6s that an answer may take",
        ];
        finished.says(&words);
    }
}
