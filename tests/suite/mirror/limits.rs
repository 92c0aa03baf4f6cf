//! What is asked of registries at once, and who waits for whom, from the registries' own counts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use support::{
    oracle,
    registry::{Fault, Kind, Registry},
};

use super::shop::{Mirror, Shop, Skopeo, until, visible};

/// Waits until so many layers are being sent at once, and lets them go on.
fn let_go_at(registry: &Registry, layers: usize) {
    registry.until(|counts| counts.layers_now() == layers);
    registry.release();
}

#[test]
fn no_more_is_asked_for_at_once_than_allowed() {
    for (flags, most) in [
        (["--downloads=2", "--downloads-per-host=9"], 2),
        (["--downloads=9", "--downloads-per-host=3"], 3),
        (["--downloads=1", "--downloads-per-host=1"], 1),
    ] {
        let shop = Shop::new(1, 2, 10);
        let counts = || shop.registry.counts();
        // The first ones hold their places until all places are taken.
        shop.registry.fault_kind(Kind::Layer, most, Fault::StallAfter(1));
        let mirror = Mirror::of(&shop.references());
        let running = mirror.command().args(flags).start();
        let_go_at(&shop.registry, most);
        running.wait().assert_code(0);
        assert_eq!(counts().most_layers(), most, "{flags:?}");
        let per_host = if most == 2 { 9 } else { most };
        assert!(
            counts().most_blobs() <= per_host && counts().most_requests() <= per_host + most,
            "{flags:?}"
        );
    }
}

#[test]
fn a_registry_in_trouble_gets_less_at_once_and_later_more_again() {
    // skopeo itself asks five times where it is told 429.
    for (status, times) in [(503, 1), (429, 5)] {
        let shop = Shop::new(1, 1, 40);
        let registry = &shop.registry;
        // Three hold their places, and the fourth is turned away.
        registry.fault_kind(Kind::Layer, 3, Fault::StallAfter(1));
        registry.fault_kind(Kind::Layer, times, Fault::at_once(status));
        registry.fault_kind(Kind::Layer, 20, Fault::DelayThen(Duration::ZERO));
        registry.fault_kind(Kind::Layer, 4, Fault::StallAfter(1));
        let mirror = Mirror::of(&shop.references());
        let mut running = mirror.command().arg("--downloads=20").start();
        running.until_it_says(&["blob", "trying again in"]);
        let asked = 3 + times;
        assert_eq!(registry.counts().layers_met().len(), asked, "{status}: nobody takes the place");
        registry.release();
        registry.until(|counts| counts.layers_met().len() >= asked + 8);
        registry.hold();
        let met = registry.counts().layers_met().to_vec();
        assert_eq!(met[asked - 1], 4, "{status}: {met:?}");
        // Two at once, three after two that went well.
        assert!(met[asked..asked + 2].iter().all(|met| *met <= 3), "{status}: {asked} before: {met:?}");
        let_go_at(registry, 4);
        running.wait().assert_code(0);
        assert_eq!(registry.counts().most_layers(), 4);
        assert_eq!(registry.counts().surplus(), []);
    }
}

#[test]
fn bytes_come_no_faster_than_allowed() {
    let shop = Shop::new(1, 1, 4);
    let mirror = Mirror::of(&shop.references());
    let began = Instant::now();
    mirror.command().arg("--limit-rate=200kB").expect_success();
    let taken = began.elapsed().as_secs_f64();
    let bytes: u64 = shop.layers().into_iter().map(|layer| shop.registry.counts().sent(layer).bytes).sum();
    assert!(bytes > 200_000 && taken >= bytes as f64 / 200e3, "{bytes} bytes in {taken} s");
}

/// Whether all images of a shop have their names in the repository of `mirror`.
fn are_visible(mirror: &Mirror, shop: &Shop) -> bool {
    let visible = visible(&mirror.repo());
    shop.references().iter().all(|reference| visible.contains(reference))
}

#[test]
fn a_registry_that_sends_nothing_holds_up_no_other() {
    let (silent, quick) = (Shop::new(1, 1, 6), Shop::new(2, 2, 5));
    silent.registry.fault_kind(Kind::Layer, 6, Fault::StallAfter(0));
    let references = [silent.references(), quick.references()].concat();
    let mirror = Mirror::of(&references);
    let mut running = mirror.command().start();
    until(&mut running, || are_visible(&mirror, &quick));
    assert!(!are_visible(&mirror, &silent));
    silent.registry.release();
    running.wait().assert_code(0);
    assert!(are_visible(&mirror, &silent));
    mirror.assert_as_undisturbed(&references);
}

#[test]
fn a_hundred_images_take_four_processes_at_most() {
    let (shop, skopeo) = (Shop::new(1, 5, 20), Skopeo::new());
    let mirror = Mirror::of(&shop.references());
    let flags = ["--downloads=16", "--downloads-per-host=16"];
    mirror.command().args(flags).env("PATH", skopeo.path()).expect_success();
    assert!((1..=4).contains(&skopeo.pids().len()), "{:?}", skopeo.pids());
    skopeo.assert_none_left();
}

#[test]
fn many_registries_are_served_by_few_processes_though_some_are_silent() {
    // The silent ones come first, with all the images that could be asked for at once.
    let shops: Vec<Shop> = (0..24).map(|seed| Shop::new(seed, 1, if seed == 0 { 70 } else { 4 })).collect();
    let (silent, quick) = shops.split_at(8);
    for (place, shop) in silent.iter().enumerate() {
        let kind = [Kind::Manifest, Kind::Config][place % 2];
        shop.registry.fault_kind_always(kind, Fault::StallAfter(0));
    }
    let references: Vec<String> = shops.iter().flat_map(Shop::references).collect();
    let (mirror, skopeo) = (Mirror::of(&references), Skopeo::new());
    let mut running = mirror.command().env("PATH", skopeo.path()).start();
    let mut most = BTreeSet::new();
    let mut look = || most.insert(skopeo.living());
    until(&mut running, || {
        look();
        quick.iter().all(|shop| shop.registry.counts().requests(Kind::Config) >= 4)
    });
    silent.iter().for_each(|shop| shop.registry.release());
    while running.is_running() {
        look();
    }
    let finished = running.wait().assert_code(0);
    assert!(most.iter().all(|alive| *alive <= 16), "{most:?}");
    assert!(most.iter().any(|alive| *alive > 8), "{most:?}");
    println!("{} processes, at once {most:?}", skopeo.pids().len());
    skopeo.assert_none_left();
    assert!(!finished.stderr.contains("trying again"), "{finished}");
    oracle::assert_clean(&mirror.repo());
    assert!(shops.iter().all(|shop| are_visible(&mirror, shop)));
}
