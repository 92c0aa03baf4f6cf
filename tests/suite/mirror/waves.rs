//! Registries that do not answer at first: the images of others go ahead, and the result is one.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use support::{
    registry::{Fault, Kind, Registry},
    repo::{Finished, Invocation, Running, cfs_dag},
};

use super::{
    shop::{Mirror, Shop, until, visible},
    world::World,
};

/// So that others go ahead after two seconds of silence, long before anything is tried again.
const PATIENCE: &str = "--stall-timeout=12s";

#[test]
fn a_registry_that_never_answers_holds_up_no_other() {
    for kind in [Kind::Ping, Kind::Manifest, Kind::Config] {
        let (silent, quick) = (Shop::new(1, 1, 3), Shop::new(2, 2, 2));
        silent.registry.fault_kind_always(kind, Fault::Silence);
        let references = [silent.references(), quick.references()].concat();
        let mirror = Mirror::of(&references);
        let mut running = mirror.command().arg(PATIENCE).start();
        until(&mut running, || quick.references().iter().all(|name| visible(&mirror.repo()).contains(name)));
        assert_eq!(visible(&mirror.repo()).len(), 4, "{kind:?}");
        silent.registry.heal();
        silent.registry.release();
        let finished = running.wait().assert_code(0);
        let late = format!("not all has come yet from {}: what has goes ahead", silent.registry.host());
        let finished = finished.says(&[&late]);
        // One result, in the order of the list.
        let result = finished.json();
        let told: Vec<&str> = images(&result).iter().map(|image| text(image, "reference")).collect();
        assert_eq!(told, references);
        assert_eq!(result["totals"]["images_ok"], 7);
        for registry in [&silent.registry, &quick.registry] {
            assert_eq!(registry.counts().surplus(), []);
        }
        mirror.assert_as_undisturbed(&references);
    }
}

fn images(result: &Value) -> &Vec<Value> {
    result["images"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// A quick registry and one that does not answer at first, each with the images `app:v1` and `app:v2`.
struct Two {
    quick: World,
    late: World,
}

impl Two {
    /// One that is silent when it is asked for these.
    fn new(kind: Kind) -> Self {
        let two = Self { quick: World::new(), late: World::new() };
        for world in [&two.quick, &two.late] {
            world.images(["app:v1", "app:v2"]);
        }
        two.late().fault_kind_always(kind, Fault::Silence);
        two
    }

    fn late(&self) -> &Registry {
        &self.late.registry
    }

    /// From now on it answers.
    fn let_go(&self) {
        self.late().heal();
        self.late().release();
    }

    /// A mirror of a list in which `QUICK` and `LATE` stand for the registries.
    fn mirror(&self, list: &str) -> Invocation {
        let list = list.replace("LATE", &self.late().host()).replace("QUICK", "HOST");
        self.quick.mirror_of(&list).args([PATIENCE, "--format=json"])
    }

    /// The same, once all of this is here and the wait for the rest has begun.
    fn start(&self, list: &str, flags: &[String], here: &[&str]) -> Running {
        let mut running = self.mirror(list).args(flags).start();
        until(&mut running, || self.names() == here);
        running
    }

    /// The names in the repository, with `QUICK` and `LATE`.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            visible(&self.quick.repo()).iter().map(|name| self.short(name)).collect();
        names.sort();
        names
    }

    fn short(&self, text: &str) -> String {
        let hosts = [("QUICK", self.quick.registry.host()), ("LATE", self.late().host())];
        let text = text.replace("docker://", "");
        hosts.iter().fold(text, |text, (name, host)| text.replace(host, name))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.quick.path(name)
    }

    /// A file that was asked for, with `QUICK` and `LATE` and without digests.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = self.short(&fs::read_to_string(self.file(name)).unwrap());
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// `--name=FILE`
    fn flag(&self, name: &str) -> String {
        format!("--{name}={}", self.file(name).display())
    }

    /// How the images ended, in the order of the result.
    fn outcomes(&self, finished: &Finished) -> Vec<(String, String)> {
        let result = finished.json();
        let outcome = |image: &Value| (self.short(text(image, "name")), text(image, "outcome").to_owned());
        images(&result).iter().map(outcome).collect()
    }
}

fn outcomes(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

const LIST: &str = "docker://LATE/app:v1\ndocker://QUICK/app:v1\n";

#[test]
fn files_and_names_are_as_if_all_had_come_at_once() {
    let two = Two::new(Kind::Manifest);
    two.mirror("docker://QUICK/app:v2\n").expect_success();
    let flags = ["lock", "digestfile", "summary"].map(|name| two.flag(name));
    let flags = [&flags[..], &["--prune".to_owned()]].concat();
    let running = two.start(LIST, &flags, &["QUICK/app:v1", "QUICK/app:v2"]);
    assert_eq!(two.lines("lock"), ["QUICK/app:v1"]);
    two.let_go();
    let finished = running.wait().assert_code(0);
    assert_eq!(two.outcomes(&finished), outcomes(&[("LATE/app:v1", "ok"), ("QUICK/app:v1", "ok")]));
    assert_eq!(finished.json()["untagged"][0], two.quick.name("app:v2"));
    assert_eq!(two.names(), ["LATE/app:v1", "QUICK/app:v1"]);
    assert_eq!(two.lines("digestfile"), ["LATE/app:v1", "QUICK/app:v1"]);
    assert_eq!(two.lines("lock").len(), 2);
    assert_eq!(fs::read_to_string(two.file("summary")).unwrap(), finished.stdout);
}

#[test]
fn a_failure_that_comes_late_is_one_all_the_same() {
    let two = Two::new(Kind::Other);
    two.mirror(&format!("{LIST}docker://QUICK/app:v2\n")).arg(two.flag("lock")).expect_success();
    let lock = fs::read_to_string(two.file("lock")).unwrap();
    two.late().fault_next("app/manifests/v1", Fault::Silence);
    two.late().fault_always("app/manifests/v1", Fault::Status(404, None));
    cfs_dag(["untag", &two.quick.name("app:v1")]).repo(two.quick.repo()).expect_success();
    let flags = [two.flag("lock"), "--prune".to_owned()];
    let running = two.start(LIST, &flags, &["LATE/app:v1", "QUICK/app:v1", "QUICK/app:v2"]);
    two.late().release();
    let finished = running.wait().assert_code(3);
    assert_eq!(two.outcomes(&finished), outcomes(&[("LATE/app:v1", "failed"), ("QUICK/app:v1", "ok")]));
    finished.says(&["not pruned: 1 name that the list has lost stays"]);
    // Who looks at the last run sees it as well.
    let log = cfs_dag(["log"]).repo(two.quick.repo()).expect_success();
    assert!(log.stdout.contains("LATE") || log.stdout.contains(&two.late().host()), "{log}");
    assert!(log.stdout.contains("1 failed"), "{log}");
    assert_eq!(two.names(), ["LATE/app:v1", "QUICK/app:v1", "QUICK/app:v2"]);
    let kept: Vec<&str> = lock.lines().filter(|line| !line.ends_with("app:v2")).collect();
    assert_eq!(fs::read_to_string(two.file("lock")).unwrap().lines().collect::<Vec<_>>(), kept);
}

#[test]
fn who_is_told_to_end_while_it_waits_tells_what_is_there() {
    let two = Two::new(Kind::Manifest);
    let running = two.start(LIST, &[], &["QUICK/app:v1"]);
    running.terminate();
    let finished = running.wait().assert_code(130);
    assert_eq!(two.outcomes(&finished), outcomes(&[("LATE/app:v1", "failed"), ("QUICK/app:v1", "ok")]));
    let error = text(&images(&finished.json())[0], "error").to_owned();
    assert!(error.ends_with("app:v1: interrupted: run this again to go on from here"), "{error}");
    two.let_go();
    two.mirror(LIST).expect_success();
    assert_eq!(two.names(), ["LATE/app:v1", "QUICK/app:v1"]);
}

#[test]
fn who_is_told_to_end_forgets_no_image_that_has_come_meanwhile() {
    let (two, silent) = (Two::new(Kind::Ping), World::new());
    silent.images(["app:v1"]);
    silent.registry.fault_kind_always(Kind::Ping, Fault::Silence);
    let list = format!("{LIST}docker://LATE/app:v9\n{}\n", silent.name("app:v1"));
    let running = two.start(&list, &[], &["QUICK/app:v1"]);
    two.let_go();
    two.late().wait_for("app/manifests/v9");
    two.late().until(|counts| counts.requests(Kind::Manifest) > 1);
    running.terminate();
    let finished = running.wait().assert_code(130);
    let told =
        two.outcomes(&finished).into_iter().map(|(name, _)| name.rsplit('/').next().unwrap().to_owned());
    assert_eq!(told.collect::<Vec<_>>(), ["app:v1", "app:v1", "app:v9", "app:v1"], "{finished}");
}

#[test]
fn one_registry_that_takes_its_time_makes_one_run() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "lib:v1"]);
    for at in ["app/manifests/v1", "app/manifests/v2", "lib/manifests/v1"] {
        world.registry.fault_next(at, Fault::DelayThen(Duration::from_millis(1500)));
    }
    let list = "docker://HOST/app:v1\ndocker://HOST/app:v2\ndocker://HOST/lib:v1\n";
    // Others would go ahead after a second.
    world.mirror_of(list).args(["--stall-timeout=6s", "--downloads-per-host=1"]).expect_success();
    let runs = cfs_dag(["log", "--list"]).repo(world.repo()).expect_success();
    assert_eq!(runs.stdout.lines().count(), 2, "{runs}");
}

#[test]
fn tags_that_come_late_are_followed() {
    let two = Two::new(Kind::Tags);
    let list = "LATE:\n  images-by-tag-regex: {app: ^v}\nQUICK:\n  images: {app: [v2]}\n";
    let running = two.start(list, &[], &["QUICK/app:v2"]);
    two.let_go();
    let finished = running.wait().assert_code(0);
    let all = [("LATE/app:v1", "ok"), ("LATE/app:v2", "ok"), ("QUICK/app:v2", "ok")];
    assert_eq!(two.outcomes(&finished), outcomes(&all));
}

#[test]
fn what_comes_last_may_be_nothing_new() {
    let two = Two::new(Kind::Tags);
    let late = "LATE:\n  images: {app: [v1]}\n  images-by-semver: {app: \"< v2\"}\n";
    let list = format!("{late}QUICK:\n  images: {{app: [v1]}}\n");
    two.mirror("docker://QUICK/app:v2\n").expect_success();
    let all = ["LATE/app:v1", "QUICK/app:v1", "QUICK/app:v2"];
    let running = two.start(&list, &["--prune".to_owned()], &all);
    two.let_go();
    let finished = running.wait().assert_code(0);
    assert_eq!(two.outcomes(&finished), outcomes(&[("LATE/app:v1", "ok"), ("QUICK/app:v1", "ok")]));
    assert_eq!(two.names(), &all[..2]);
}

#[test]
fn with_fail_fast_nothing_goes_ahead() {
    let two = Two::new(Kind::Other);
    two.late().fault_next("app/manifests/v9", Fault::DelayThen(Duration::from_secs(4)));
    let list = LIST.replace("LATE/app:v1", "LATE/app:v9");
    let finished = two.mirror(&list).arg("--fail-fast").expect_failure(1);
    assert_eq!(two.outcomes(&finished).len(), 2);
    assert!(!two.quick.repo().exists());
}
