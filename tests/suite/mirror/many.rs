//! A list that is long.

use std::{fmt::Write, time::Instant};

use support::{registry::Kind, source::host};

use super::world::{World, layer};

const IMAGES: usize = 1000;

/// A list of a thousand images over thirty layers.
fn thousand(world: &World) -> String {
    let layers: Vec<Vec<u8>> = (0..30).map(layer).collect();
    let mut list = String::new();
    for number in 0..IMAGES {
        let places = [number % 10, 10 + number / 10 % 10, 20 + number / 100];
        let own = places.map(|place| &*layers[place]);
        let (repository, tag) = (format!("app{}", number / 100), format!("v{}", number % 100));
        world.registry.image(&repository, &tag, &host(), &own);
        writeln!(list, "docker://HOST/{repository}:{tag}").unwrap();
    }
    list
}

#[test]
fn a_thousand_images_are_planned_and_mirrored_and_warm_nothing_but_manifests_is_asked_for() {
    let world = World::new();
    let began = Instant::now();
    let list = world.list(&thousand(&world));
    println!("made: {:?}", began.elapsed());
    let timed = |what: &str, flags: &[&str]| {
        let began = Instant::now();
        let finished = world.mirror(&list).args(flags).expect_success();
        println!("{what}: {:?}", began.elapsed());
        finished
    };
    let plan = timed("planned", &["--dry-run=json"]).json();
    assert_eq!(plan["images"].as_array().unwrap().len(), IMAGES);
    assert_eq!(plan["totals"]["layers"]["new"], 30);
    assert!(!world.repo().exists());
    world.registry.forget_requests();
    timed("cold", &[]);
    let counts = world.registry.counts();
    assert_eq!((counts.requests(Kind::Layer), counts.surplus()), (30, Vec::new()));
    world.registry.forget_requests();
    assert_eq!(timed("warm", &[]).stdout, format!("unchanged {IMAGES} images\n"));
    let counts = world.registry.counts();
    assert_eq!(counts.requests(Kind::Manifest), IMAGES);
    assert_eq!(counts.requests(Kind::Config) + counts.requests(Kind::Layer), 0);
}
