//! A mirror over bad networks: what may pass is tried again until the mirror is whole, what may not is asked
//! for once and fails its image alone, and nothing corrupt is ever stored.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use support::{
    image::layout,
    oracle,
    pulls::{assert_no_leftovers, linked_layers},
    registry::{Fault, Kind, Mix},
    repo::Finished,
    skopeo::{FakeSkopeo, Trouble, is_alive},
};

use super::shop::{Mirror, Shop, Skopeo, failures, files, until, visible};

const KINDS: [Kind; 6] = [Kind::Ping, Kind::Token, Kind::Tags, Kind::Manifest, Kind::Config, Kind::Layer];

/// What may pass, and how often it has to come before we hear of it: skopeo itself asks five times where it
/// is told 429, but for a token.
fn passing(kind: Kind) -> Vec<(Fault, usize)> {
    let repeats = if kind == Kind::Token { 1 } else { 5 };
    let mut faults = vec![
        (Fault::at_once(429), 2 * repeats),
        (Fault::at_once(500), 2),
        (Fault::at_once(502), 1),
        (Fault::at_once(503), 2),
        (Fault::at_once(504), 1),
        (Fault::Reset, 2),
        (Fault::Raw(b"220 mail.example ESMTP\r\n".into()), 1),
    ];
    if kind != Kind::Manifest {
        // There the text of an error does not tell it from a 400.
        faults.push((Fault::at_once(408), 2));
    }
    if kind != Kind::Ping {
        // Nobody reads what a ping answers.
        let short = [Fault::CutAfter(0), Fault::CutAfter(30), Fault::ResetAfter(30), Fault::ShortHonest(30)];
        faults.extend(short.map(|fault| (fault, 1)));
    }
    faults
}

/// A registry for each fault, each with one image, and the list of all.
struct Street {
    shops: Vec<(String, usize, Shop)>,
    mirror: Mirror,
    kind: Kind,
}

impl Street {
    /// The next requests of `kind` go wrong, as often as `faults` say.
    fn new(kind: Kind, faults: Vec<(Fault, usize)>) -> Self {
        let open = |(seed, (fault, count)): (usize, (Fault, usize))| {
            let shop = Shop::new(seed, 1, 1);
            if kind == Kind::Token {
                shop.registry.require_token();
            }
            let shown = format!("{kind:?} {count} x {fault:?}");
            shop.registry.fault_kind(kind, count, fault);
            (shown, count, shop)
        };
        let shops: Vec<_> = faults.into_iter().enumerate().map(open).collect();
        let line = |(_, _, shop): &(String, usize, Shop)| match kind {
            Kind::Tags => {
                format!("{}:\n  images-by-tag-regex:\n    team0/app: ^v\n", shop.registry.host())
            }
            _ => format!("{}\n", shop.references()[0]),
        };
        let mirror = Mirror::of_list(&shops.iter().map(line).collect::<String>());
        Self { shops, mirror, kind }
    }

    /// Asserts that all faults were met, and that the repository is as if there had been none.
    #[track_caller]
    fn assert_whole(&self, finished: &Finished) {
        let failed: Vec<_> = failures(finished).into_iter().filter_map(|(_, error)| error).collect();
        assert!(finished.code == Some(0) && failed.is_empty(), "{finished}");
        for (shown, count, shop) in &self.shops {
            assert_eq!(shop.registry.counts().faults(self.kind), *count, "{shown}");
        }
        oracle::assert_clean(&self.mirror.repo());
        assert_no_leftovers(&self.mirror.repo());
        let references: Vec<String> =
            self.shops.iter().map(|(.., shop)| shop.references()[0].clone()).collect();
        self.mirror.assert_as_undisturbed(&references);
    }
}

#[test]
fn what_may_pass_is_tried_again_until_the_mirror_is_whole() {
    for kind in KINDS {
        let street = Street::new(kind, passing(kind));
        let finished = street.mirror.command().arg("--retries=5").run();
        for (shown, _, shop) in &street.shops {
            assert_eq!(shop.registry.counts().surplus(), [], "{shown}");
        }
        street.assert_whole(&finished);
    }
}

#[test]
fn what_goes_silent_is_cut_and_asked_again() {
    for kind in KINDS {
        let mut faults = vec![(Fault::Silence, 1)];
        if kind != Kind::Ping {
            faults.push((Fault::StallAfter(30), 1));
        }
        let street = Street::new(kind, faults);
        // An answer may take three times as long.
        let finished = street.mirror.command().arg("--stall-timeout=700ms").arg("--retries=5").run();
        street.assert_whole(&finished);
    }
}

/// An image that fails for good, beside one of the same registry and one of another.
fn check_failure(kind: Kind, fault: Fault, asked: usize) {
    let (shop, elsewhere) = (Shop::new(1, 1, 2), Shop::new(2, 1, 1));
    let (registry, shelf) = (&shop.registry, &shop.shelves[0]);
    let (victim, shown) = (&shelf.images[0], format!("{kind:?}, {fault:?}"));
    let takes_all = matches!(kind, Kind::Ping | Kind::Token);
    let path = match kind {
        Kind::Ping => String::new(),
        Kind::Token => "/token".to_owned(),
        Kind::Manifest => format!("{}/manifests/v0", shelf.repository),
        Kind::Config => shelf.blob(&victim.config),
        _ => shelf.blob(&victim.layers[2].blob),
    };
    if kind == Kind::Token {
        registry.require_token();
    }
    registry.fault_always(&path, fault);
    let lost = if takes_all { 2 } else { 1 };
    let references = [shop.references(), elsewhere.references()].concat();
    let mirror = Mirror::of(&references);
    let finished = mirror.command().expect_failure(3).says(&[&references[0]]);
    let failed: Vec<_> = failures(&finished).into_iter().filter(|(_, error)| error.is_some()).collect();
    let failed: Vec<_> = failed.into_iter().map(|(reference, _)| reference).collect();
    assert_eq!(failed, references[..lost], "{shown}: {finished}");
    assert_eq!(registry.counts().requests_to(&path), asked * lost, "{shown}: {finished}");
    oracle::assert_clean(&mirror.repo());
    assert_no_leftovers(&mirror.repo());
    registry.heal();
    mirror.assert_as_undisturbed(&references[lost..]);
    // Alone it is the whole mirror that fails.
    if kind == Kind::Layer {
        let fault = Fault::at_once(404);
        registry.fault_always(&path, fault);
        let alone = Mirror::of(&references[..1]);
        alone.command().expect_failure(1);
        assert_eq!(visible(&alone.repo()).len(), 0);
        assert!(!linked_layers(&alone.repo()).contains(&victim.layers[2].diff_id));
    }
}

#[test]
fn what_will_not_pass_is_asked_for_once_and_fails_its_image_alone() {
    for kind in [Kind::Ping, Kind::Token, Kind::Manifest, Kind::Config, Kind::Layer] {
        for status in [401, 403, 404] {
            // A ping may well say so: it asks for nothing.
            if (kind, status) != (Kind::Ping, 401) {
                check_failure(kind, Fault::at_once(status), 1);
            }
        }
    }
}

#[test]
fn what_is_not_what_its_digest_says_is_asked_for_once_and_never_stored() {
    check_failure(Kind::Config, Fault::Corrupt(40), 1);
    check_failure(Kind::Layer, Fault::Corrupt(1000), 1);
    check_failure(Kind::Layer, Fault::Longer(b"more".into()), 1);
}

#[test]
fn a_layer_that_one_repository_has_wrong_comes_from_another() {
    let shop = Shop::new(1, 3, 1);
    let base = shop.shelves[0].images[0].layers[0].blob.clone();
    shop.registry.fault_always(&shop.shelves[0].blob(&base), Fault::Corrupt(1000));
    shop.registry.fault_always(&shop.shelves[1].blob(&base), Fault::at_once(404));
    let mirror = Mirror::of(&shop.references());
    mirror.command().expect_success();
    let counts = shop.registry.counts();
    assert_eq!(shop.shelves.iter().map(|shelf| counts.requests_to(&shelf.blob(&base))).sum::<usize>(), 3);
    shop.registry.heal();
    mirror.assert_as_undisturbed(&shop.references());
}

/// A hundred images of five repositories, while so many of a thousand requests go wrong. Where stalls are
/// cut after a short time, a busy machine looks silent as well, and what was on its way is fetched again:
/// then no byte is counted.
fn check_mix(per_mille: u32, seed: u64, faults: Vec<Fault>, stall: &str, is_counted: bool) {
    let shop = Shop::new(1, 5, 20);
    let registry = &shop.registry;
    registry.require_token();
    registry.mix(Mix { seed, per_mille, ..Mix::of(faults) });
    let mirror = Mirror::of(&shop.references());
    // Ping, token, manifest and config, each at most three times wrong.
    let finished = mirror.command().arg("--retries=12").arg("--stall-timeout").arg(stall).expect_success();
    let counts = registry.counts();
    println!("{} faults of {} requests", counts.all_faults(), registry.requests().len());
    assert!(counts.all_faults() > 0, "nothing went wrong");
    if is_counted {
        assert_eq!(counts.surplus(), [], "{finished}");
    }
    for layer in shop.layers() {
        let whole = counts.sent(layer).whole;
        assert!(whole == 1 || (whole > 1 && !is_counted), "{layer}: {whole} times: {finished}");
    }
    oracle::assert_clean(&mirror.repo());
    assert_no_leftovers(&mirror.repo());
    registry.heal();
    mirror.assert_as_undisturbed(&shop.references());
}

fn quick_faults() -> Vec<Fault> {
    vec![
        Fault::at_once(429),
        Fault::at_once(500),
        Fault::at_once(503),
        Fault::Reset,
        Fault::ResetAfter(2000),
        Fault::CutAfter(50_000),
    ]
}

#[test]
fn a_hundred_images_arrive_whole_while_a_fifth_of_all_requests_go_wrong() {
    check_mix(200, 7, quick_faults(), "60s", true);
}

#[test]
fn a_hundred_images_arrive_whole_while_some_requests_never_end() {
    let faults =
        [quick_faults(), vec![Fault::Silence, Fault::StallAfter(0), Fault::StallAfter(900)]].concat();
    check_mix(10, 3, faults, "2s", false);
}

#[test]
fn retries_are_counted_announced_and_told_at_the_end() {
    let shop = Shop::new(1, 1, 1);
    let shelf = &shop.shelves[0];
    let (layer, manifest) =
        (shelf.blob(&shelf.images[0].layers[0].blob), "team0/app/manifests/v0".to_owned());
    for path in [layer, manifest] {
        shop.registry.fault_always(&path, Fault::at_once(500));
        for (retries, tried) in [("--retries=0", 1), ("--retries=2", 3)] {
            let asked = shop.registry.counts().requests_to(&path);
            let finished = Mirror::of(&shop.references()).command().arg(retries).expect_failure(1);
            assert_eq!(shop.registry.counts().requests_to(&path) - asked, tried, "{path}: {finished}");
            let told = finished.stderr.contains("tried");
            assert_eq!(told, tried > 1, "{finished}");
            if tried > 1 {
                finished
                    .says(&["team0/app:v0", "500", "trying again in 0.0 s (1 of 2)"])
                    .says(&["trying again in 0.0 s (2 of 2)"])
                    .says(&["cfs-dag: ", "team0/app:v0", "500", "(tried 3 times)"]);
            }
        }
        shop.registry.heal();
    }
}

#[test]
fn a_retried_fetch_does_not_write_again_what_is_stored() {
    let shop = Shop::new(1, 1, 2);
    for layer in shop.layers() {
        shop.registry.fault(&shop.shelves[0].repository, layer, Fault::CutAfter(100_000));
    }
    let mirror = Mirror::of(&shop.references());
    let disturbed = mirror.command().expect_success();
    assert_eq!(shop.registry.counts().faults(Kind::Layer), 4);
    let undisturbed = mirror.assert_as_undisturbed(&shop.references());
    let new = |finished: &Finished| finished.json()["totals"]["objects_new"].clone();
    assert_eq!(new(&disturbed), new(&undisturbed), "{disturbed}");
}

/// The real skopeo, in the middle of a layer.
fn check_struck(signal: Signal, stall: &str) {
    let shop = Shop::new(1, 1, 2);
    let layer = &shop.shelves[0].images[0].layers[0].blob;
    shop.registry.fault(&shop.shelves[0].repository, layer.parse().unwrap(), Fault::StallAfter(1000));
    let skopeo = Skopeo::new();
    let mirror = Mirror::of(&shop.references());
    let command = mirror.command().env("PATH", skopeo.path()).arg("--stall-timeout").arg(stall);
    let mut running = command.start();
    until(&mut running, || shop.registry.requests_for(layer) > 0);
    let struck = skopeo.alive();
    for pid in &struck {
        let _ = kill_process(Pid::from_raw(*pid).unwrap(), signal);
    }
    let finished = running.wait().assert_code(0);
    assert!(skopeo.pids().len() > struck.len(), "nobody was replaced: {finished}");
    assert_eq!(shop.registry.requests_for(layer), 2, "{finished}");
    skopeo.assert_none_left();
    oracle::assert_clean(&mirror.repo());
    mirror.assert_as_undisturbed(&shop.references());
}

#[test]
fn a_skopeo_that_is_killed_is_replaced_and_its_blob_fetched_again() {
    check_struck(Signal::KILL, "60s");
}

#[test]
fn a_skopeo_that_hangs_is_replaced_and_killed() {
    check_struck(Signal::STOP, "1s");
}

#[test]
fn a_skopeo_of_any_version_may_die_or_hang_at_any_request() {
    let mut differences = BTreeMap::new();
    for version in ["0.2.3", "0.2.8"] {
        let get_blob = if version == "0.2.3" { "GetBlob" } else { "GetRawBlob" };
        // The newer ones can be told that nobody reads a blob any more.
        let survives = version == "0.2.8";
        for (trouble, hangs, processes) in [
            (Trouble::DieAt("Initialize"), false, 2),
            (Trouble::DieAt("OpenImage"), false, 2),
            (Trouble::DieAt(get_blob), false, 2),
            (Trouble::DieAfter(150_000), false, 2),
            (Trouble::HangAt("OpenImage"), true, 2),
            (Trouble::HangAt(get_blob), true, 2),
            (Trouble::StallAfter(150_000), true, if survives { 1 } else { 2 }),
        ] {
            let layout = layout();
            layout.image("v1").layer(files(1, 300_000)).write();
            let skopeo = FakeSkopeo::new(version, &layout.path());
            let path = skopeo.program().parent().unwrap().display().to_string();
            let path = format!("{path}:{}", std::env::var("PATH").unwrap());
            let shown = format!("{version} {trouble:?}");
            skopeo.trouble(trouble);
            let mirror = Mirror::of(&["docker://registry.example/app:v1".to_owned()]);
            let command = mirror.command().env("PATH", path);
            let finished =
                command.arg(if hangs { "--stall-timeout=700ms" } else { "--stall-timeout=60s" }).run();
            let left: Vec<i32> = skopeo.pids().into_iter().filter(|pid| is_alive(*pid)).collect();
            if finished.code != Some(0) || skopeo.pids().len() != processes || !left.is_empty() {
                differences.insert(shown, (finished.to_string(), skopeo.pids(), left));
            } else {
                oracle::assert_clean(&mirror.repo());
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}
