//! What `--dry-run` says of small plans.

use std::time::Duration;

use super::*;
use crate::{
    graph::{Facts, ImageInput, Inputs, LayerInput, forecast, plan},
    render::{ExpectedTime, sample},
    report::Rates,
    types::{Descriptor, LayerKind},
};

fn drawn(plan: &Plan) -> String {
    let critical = forecast(plan, &Rates::default().costs(plan, 2)).chain;
    text(plan, &Marks::default(), &Outlook { critical, ..Outlook::default() }, Colour::Off)
}

#[test]
fn two_images_that_share_a_layer() {
    let expected = "\
2 images, 4 layers: 2 stored, 1 shared, 1 to fetch
12.0 MB to fetch; saved: 12.0 MB by sharing, 31.2 MB by the cache

webapp:latest  (docker://registry.example/webapp:latest)
○  1  cae662172fd4  31.2 MB  stored, also for node:latest
●  2  739a304e183a  12.0 MB  not stored, also for node:latest
     ● fetch ⇢ ● split ⇢ ● write ⇢ ● encode → ● finalize
     ● filesystem → ● config → ● manifest → ● tag  not stored

node:latest  (docker://registry.example/node:latest)
○  1  cae662172fd4  31.2 MB  stored, also for webapp:latest
◍  2  739a304e183a  12.0 MB  shared with webapp:latest
     ● filesystem → ● config → ● manifest → ● tag  not stored

critical path  no record yet of how fast this machine is
     fetch 739a304e183a ⇢ split ⇢ write → finalize → filesystem → config
     → manifest → tag node:latest

● needed   ◍ shared   ○ stored   ◌ standby
";
    assert_eq!(drawn(&sample::two_images()), expected);
}

#[test]
fn a_list_is_told_first() {
    let drawn = drawn(&sample::of_a_list());
    let expected = "\
untagged after everything else succeeded: 1 name
     webapp:\"old\" & so
rule registry.example/*:latest: 2 images
     webapp:latest
     node:latest
rule registry.example/gone:<b> : no images

2 images, 4 layers: 2 stored, 1 shared, 1 to fetch
";
    assert!(drawn.starts_with(expected), "{drawn}");
    assert!(
        drawn.contains("\nnode:latest  (docker://registry.example/node:latest)  linux/arm64\n"),
        "{drawn}"
    );
}

#[test]
fn an_image_that_uses_a_layer_twice_fetches_it_once() {
    let expected = "\
1 image, 2 layers: 0 stored, 1 shared, 1 to fetch
32 B to fetch; saved: 32 B by sharing, 0 B by the cache

odd:v1  (docker://registry.example/odd:v1)
●  1  2e1cfa82b035     32 B  not stored
     ● fetch ⇢ ● split ⇢ ● write ⇢ ● encode → ● finalize
◍  2  2e1cfa82b035     32 B  shared with layer 1
     ● filesystem → ● config → ● manifest → ● tag  not stored

critical path  no record yet of how fast this machine is
     fetch 2e1cfa82b035 ⇢ split ⇢ write → finalize → filesystem → config
     → manifest → tag odd:v1

● needed   ◍ shared   ○ stored   ◌ standby
";
    assert_eq!(drawn(&sample::twice_the_same_layer()), expected);
}

#[test]
fn the_planner_makes_what_is_drawn_here() {
    let layer = |blob: &str, size| LayerInput {
        name: sample::digest("libs"),
        kind: LayerKind::Tar,
        blob: Descriptor { media_type: String::new(), digest: sample::digest(blob), size },
    };
    let image = |name: &str, layer| ImageInput {
        name: name.into(),
        reference: name.into(),
        manifest: (sample::digest(&format!("{name} manifest")), 500),
        config: (sample::digest(&format!("{name} config")), 700),
        layers: vec![layer],
        container: true,
        config_lists_layers: true,
        platform: None,
    };
    let images = vec![image("a:v1", layer("libs.gz", 1000)), image("b:v1", layer("libs.zst", 800))];
    let expected = "\
2 images, 2 layers: 0 stored, 1 shared, 1 to fetch
1.00 kB to fetch; saved: 800 B by sharing, 0 B by the cache

a:v1
●  1  739a304e183a  1.00 kB  not stored, also for b:v1
     ● fetch ⇢ ● split ⇢ ● write ⇢ ● encode → ● finalize
     ◌ fetch 97b3ec8ce242 800 B, if that fails
     ● filesystem → ● config → ● manifest → ● tag  not stored

b:v1
◍  1  739a304e183a    800 B  shared with a:v1
     ◍ filesystem                     shared with a:v1
     → ● config → ● manifest → ● tag  not stored

critical path  no record yet of how fast this machine is
     fetch 739a304e183a ⇢ split ⇢ encode → finalize → filesystem → config
     → manifest → tag b:v1

● needed   ◍ shared   ○ stored   ◌ standby
";
    assert_eq!(drawn(&plan(&Inputs { images, ..Inputs::default() }, &Facts::default())), expected);
}

#[test]
fn an_outlook_is_told() {
    let plan = sample::two_images();
    let outlook = |bound| Outlook {
        critical: vec![plan.images[0].tag],
        time: Some(ExpectedTime {
            whole: Duration::from_secs(75),
            bound,
            chain: Duration::from_secs(12),
            runs: 3,
        }),
        disk_bytes: Some(30_000_000),
        free_bytes: Some(42_000_000_000),
    };
    let drawn = |bound| text(&plan, &Marks::default(), &outlook(bound), Colour::Off);
    let cpu = drawn(Bound::Cpu);
    assert!(cpu.contains("\nabout 30.0 MB more on disk, 42.0 GB free\n"), "{cpu}");
    assert!(
        cpu.contains("\ncritical path  about 12.0 s of 75.0 s, which the cpus decide, by 3 earlier runs\n"),
        "{cpu}"
    );
    assert!(drawn(Bound::Chain).contains("about 75.0 s, by 3 earlier runs"), "{cpu}");
}

#[test]
fn after_a_run_nodes_have_times_and_ends() {
    let plan = sample::two_images();
    let libs = &plan.layer(plan.images[0].layers[1]);
    let did = |outcome, ms| Measured {
        outcome,
        start: Some(Duration::ZERO),
        end: Some(Duration::from_millis(ms)),
        cpu: Duration::ZERO,
        bytes: 0,
        counts: BTreeMap::new(),
        error: None,
    };
    let mut marks = Marks::default();
    marks.nodes.insert(libs.fetches[0], did("finished", 1234));
    marks.nodes.insert(libs.finalize, did("failed", 5));
    let text = text(&plan, &marks, &Outlook::default(), Colour::Off);
    assert!(text.contains("● fetch 1.23 s ⇢ ● split"), "{text}");
    assert!(text.contains("→ ✗ finalize 5.00 ms"), "{text}");
}

#[test]
fn colour_changes_nothing_but_colours() {
    let plan = sample::two_images();
    let drawn = |colour| text(&plan, &Marks::default(), &Outlook::default(), colour);
    let painted = drawn(Colour::On);
    assert_ne!(painted, drawn(Colour::Off));
    let plain = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m"]
        .iter()
        .fold(painted, |text, code| text.replace(code, ""));
    assert_eq!(plain, drawn(Colour::Off));
}

#[test]
fn nothing_asked_nothing_to_do() {
    let expected = "0 images, 0 layers: 0 stored, 0 shared, 0 to fetch\n\
                    0 B to fetch; saved: 0 B by sharing, 0 B by the cache\n";
    assert_eq!(drawn(&Plan::default()), expected);
}
