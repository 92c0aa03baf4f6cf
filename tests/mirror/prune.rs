//! Names that a list has lost: which go, when, and what becomes of their images.

use support::{
    oracle,
    registry::{Fault, Kind},
    repo::{cfs_dag, repo_manifest},
};

use crate::world::{World, lines_of};

const BOTH: &str = "docker://HOST/app:v1\ndocker://HOST/app:v2\n";
const ONE: &str = "docker://HOST/app:v1\n";

impl World {
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
    let pull = ["pull", "--insecure", "--tls-verify=false", "--progress=none"];
    cfs_dag(pull).arg(world.name("app:v3")).repo(world.repo()).expect_success();
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
    world.registry.fault("app", third.layers[1], Fault::Status(404, None));
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
    cfs_dag(["pull", "--insecure", "--tls-verify=false", "--progress=none"])
        .arg(world.name("app:v2"))
        .repo(world.repo())
        .expect_success();
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
