//! Names that a list has lost: which go, when, and what becomes of their images.

use std::fs;

use support::{
    oracle,
    registry::{Fault, Kind},
    repo::{cfs_dag, repo_manifest},
};

use super::world::{World, lines_of};

const BOTH: &str = "docker://HOST/app:v1\ndocker://HOST/app:v2\n";
const ONE: &str = "docker://HOST/app:v1\n";
const FAULT: Fault = Fault::Status(404, None);

impl World {
    /// Pulls an image under its whole name, without a list.
    fn pull(&self, short: &str) {
        let flags = ["pull", "--insecure", "--tls-verify=false", "--progress=none"];
        cfs_dag(flags).arg(self.name(short)).repo(self.repo()).expect_success();
    }

    /// How many objects the repository has.
    fn objects(&self) -> usize {
        oracle::objects(&self.repo()).len()
    }
}

#[test]
fn a_name_that_the_list_has_lost_goes_and_its_image_stays_until_gc() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(BOTH).expect_success();
    world.mirror_of(ONE).expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v2"], "only when it is asked for");
    let (before, list) = (world.objects(), world.list(ONE));
    let finished = world.mirror(&list).arg("--prune").expect_success();
    assert_eq!(lines_of(&finished, "untagged"), [world.name("app:v2")]);
    assert_eq!(finished.stderr, "");
    assert_eq!((world.names(), world.objects()), (vec!["app:v1".to_owned()], before));
    cfs_dag(["gc"]).repo(world.repo()).expect_success();
    assert!(world.objects() < before);
    oracle::assert_clean(&world.repo());
    // It is done, and not done again.
    let again = world.mirror(&list).arg("--prune").arg("--format=json").expect_success().json();
    assert!(again.get("untagged").is_none(), "{again:#}");
}

#[test]
fn a_name_that_somebody_else_made_stays() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:v3", "app:v4"]);
    world.pull("app:v3");
    let other = world.file("other", "docker://HOST/app:v2\ndocker://HOST/app:v4\n");
    world.mirror(&other).expect_success();
    world.mirror_of(BOTH).expect_success();
    let finished = world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v2", "app:v3", "app:v4"]);
    finished.says(&[&world.name("app:v2 is not pruned"), "other has it too"]);
    // Who has it last takes it away.
    world.mirror(&world.file("other", "docker://HOST/app:v4\n")).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v3", "app:v4"]);
}

#[test]
fn a_name_that_another_list_gets_meanwhile_stays() {
    let world = World::new();
    let [_, _, third] = world.images(["app:v1", "app:v2", "app:v3"]);
    world.mirror_of(BOTH).expect_success();
    world.registry.fault("app", third.layers[1], Fault::StallAfter(10));
    let first = world.mirror_of("docker://HOST/app:v1\ndocker://HOST/app:v3\n").arg("--prune").start();
    world.registry.wait_for(third.layers[1]);
    world.mirror(&world.file("other", "docker://HOST/app:v2\n")).expect_success();
    world.registry.release();
    let first = first.wait().assert_code(0);
    first.says(&[&world.name("app:v2 is not pruned"), "other has it too"]);
    assert_eq!(world.names(), ["app:v1", "app:v2", "app:v3"]);
    // From now on it is the other one's alone.
    world.mirror(&world.file("other", "docker://HOST/app:v1\n")).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v3"]);
}

#[test]
fn what_another_mirror_of_the_list_adds_meanwhile_is_known() {
    let world = World::new();
    let [_, _, third, _] = world.images(["app:v1", "app:v2", "app:v3", "app:v4"]);
    world.registry.fault("app", third.layers[1], Fault::StallAfter(10));
    let first = world.mirror_of("docker://HOST/app:v1\ndocker://HOST/app:v3\n").arg("--prune").start();
    world.registry.wait_for(third.layers[1]);
    world.mirror_of("docker://HOST/app:v1\ndocker://HOST/app:v4\n").expect_success();
    world.registry.release();
    first.wait().assert_code(0);
    assert_eq!(world.names(), ["app:v1", "app:v3", "app:v4"]);
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn nothing_goes_when_anything_failed() {
    let world = World::new();
    let [_, _, third] = world.images(["app:v1", "app:v2", "app:v3"]);
    world.mirror_of(BOTH).expect_success();
    let told = ["not pruned: 1 name that the list has lost stays"];
    // An image that cannot be resolved, a rule that chooses nothing, an image that cannot be fetched.
    for list in [
        "docker://HOST/app:v1\ndocker://HOST/app:v9\n",
        "HOST:\n  images: {app: [v1]}\n  images-by-tag-regex: {app: ^w}\n",
    ] {
        world.mirror_of(list).arg("--prune").expect_failure(3).says(&told);
        let dry = world.mirror_of(list).arg("--prune").arg("--dry-run").expect_failure(3).says(&told);
        assert!(!dry.stdout.contains("untagged"), "{dry}");
        assert_eq!(world.names(), ["app:v1", "app:v2"]);
    }
    world.registry.fault("app", third.layers[1], FAULT);
    let list = "docker://HOST/app:v1\ndocker://HOST/app:v3\n";
    world.mirror_of(list).arg("--prune").expect_failure(3).says(&told);
    assert_eq!(world.names(), ["app:v1", "app:v2"]);
    world.mirror_of(list).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v3"]);
}

#[test]
fn the_names_that_a_killed_mirror_made_are_known() {
    let world = World::new();
    let [_, second] = world.images(["app:v1", "app:v2"]);
    world.registry.fault("app", second.layers[1], Fault::StallAfter(10));
    let running = world.mirror_of(BOTH).start();
    world.registry.wait_for(second.layers[1]);
    // Its first image may be there or not: the names were written down before.
    drop(running.kill());
    world.pull("app:v2");
    world.registry.heal();
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn a_name_that_was_taken_away_already_is_not_told_of() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(BOTH).expect_success();
    cfs_dag(["untag", &world.name("app:v2")]).repo(world.repo()).expect_success();
    let list = world.list(ONE);
    let dry = world.mirror(&list).args(["--prune", "--dry-run", "--detailed-exitcode"]).expect_success();
    assert!(!dry.stdout.contains("untagged"), "{dry}");
    let before = repo_manifest(&world.repo());
    assert_eq!(world.mirror(&list).arg("--prune").expect_success().stdout, "unchanged 1 image\n");
    assert_eq!(repo_manifest(&world.repo()), before);
}

#[test]
fn a_list_is_the_same_by_whatever_path_it_is_named() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(BOTH).expect_success();
    let folder = world.path("list").parent().unwrap().to_owned();
    std::os::unix::fs::symlink(world.list(ONE), world.path("link")).unwrap();
    world.mirror("link".as_ref()).in_folder(&folder).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
    assert_eq!(world.registry.counts().requests(Kind::Tags), 0);
}

#[test]
fn a_pulled_name_that_a_mirror_found_unchanged_stays() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.pull("app:v2");
    // Also after a second mirror, and after one that made something below the name again.
    let both = world.mirror_of(BOTH).expect_success();
    assert_eq!(lines_of(&both, "unchanged"), ["1 image"]);
    world.mirror_of(BOTH).arg("--force").expect_success();
    world.mirror_of(BOTH).arg("--prune").expect_success();
    let dry = world.mirror_of(ONE).args(["--prune", "--dry-run", "--detailed-exitcode"]).expect_success();
    assert!(!dry.stdout.contains("untag"), "{dry}");
    assert_eq!(world.mirror_of(ONE).arg("--prune").expect_success().stdout, "unchanged 1 image\n");
    assert_eq!(world.names(), ["app:v1", "app:v2"]);
}

#[test]
fn a_pulled_name_that_a_mirror_moved_is_pruned() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.pull("app:v2");
    world.mirror_of(BOTH).expect_success();
    world.image("app:v2", 1);
    assert_eq!(lines_of(&world.mirror_of(BOTH).expect_success(), "moved").len(), 1);
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn a_name_that_a_mirror_failed_to_make_and_that_was_pulled_later_stays() {
    let world = World::new();
    let [_, second] = world.images(["app:v1", "app:v2"]);
    world.registry.fault("app", second.layers[1], FAULT);
    world.mirror_of(BOTH).expect_failure(3);
    world.pull("app:v2");
    world.mirror_of(BOTH).expect_success();
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v2"]);
}

#[test]
fn the_record_of_an_earlier_version_counts_all_names_as_made() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.pull("app:v2");
    world.mirror_of(BOTH).expect_success();
    let record = fs::read_dir(world.repo().join("cfs-dag/mirrors")).unwrap().next().unwrap().unwrap().path();
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert!(fields.remove("found").is_some(), "{fields:?}");
    fs::write(&record, serde_json::to_vec(&fields).unwrap()).unwrap();
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn more_names_than_the_maximum_are_not_pruned_at_all() {
    let world = World::new();
    let line = |number: usize| {
        let name = format!("app:v{number}");
        world.image(&name, 0);
        format!("docker://HOST/{name}\n")
    };
    let lines: Vec<String> = (0..22).map(line).collect();
    world.mirror_of(&lines.concat()).expect_success();
    let refused = |list: &str, flags: &[&str], words: &str| {
        let mirror = || world.mirror_of(list).arg("--prune").args(flags);
        let run = mirror().expect_failure(3).says(&[words, "--prune-max="]);
        assert!(run.stdout.starts_with("unchanged ") && !run.stdout.contains("untagged"), "{run}");
        let dry = mirror().arg("--dry-run").expect_failure(3).says(&[words]);
        assert!(!dry.stdout.contains("untag"), "{dry}");
        mirror().args(["--dry-run", "--detailed-exitcode"]).expect_failure(3);
        assert_eq!(world.names().len(), 22);
    };
    let half = lines[..11].concat();
    refused(
        &lines[..10].concat(),
        &[],
        "not pruned: the list has lost 12 of 22 names, and 11 may go at once",
    );
    refused(&half, &["--prune-max=10"], "lost 11 of 22 names, and 10 may");
    world.mirror_of(&half).arg("--prune").expect_success();
    assert_eq!(world.names().len(), 11);
    // Ten may always go, more when it is said.
    world.mirror_of(ONE).args(["--prune", "--prune-max=0"]).expect_failure(3);
    world.mirror_of(ONE).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn names_of_a_rule_that_failed_are_not_called_lost() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "lib:v1", "lib:v2"]);
    let list = |lib: &str| format!("HOST:\n  images:\n    app: []\n    lib: [{lib}]\n");
    world.mirror_of(&list("v1, v2")).expect_success();
    world.registry.fault_kind_always(Kind::Tags, FAULT);
    let run = world.mirror_of(&list("v1, v2")).arg("--prune").expect_failure(3);
    assert!(!run.stderr.contains("lost"), "{run}");
    let dry = world.mirror_of(&list("v1")).args(["--prune", "--dry-run"]).expect_failure(3);
    dry.says(&["not pruned: 1 name that the list has lost stays"]);
    world.registry.heal();
    world.mirror_of(&list("v1")).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v2", "lib:v1"]);
}
