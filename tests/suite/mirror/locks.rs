//! Locks: what is written, and what a locked mirror takes from it.

use std::{fs, os::unix::fs::MetadataExt};

use support::{
    registry::{Fault, Kind},
    repo::{Invocation, difference},
};

use super::world::World;

const HEAD: &str = "# cfs-dag lock 1: what each image of a list stood for\n";
const ALL_TAGS: &str = "HOST:\n  images:\n    app:\n";

impl World {
    fn locking(&self, text: &str) -> Invocation {
        self.mirror_of(text).arg("--lock").arg(self.path("lock"))
    }

    fn locked(&self, text: &str) -> Invocation {
        self.locking(text).arg("--locked")
    }

    fn lock(&self) -> String {
        self.short(&fs::read_to_string(self.path("lock")).unwrap())
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_lock_says_what_every_image_stood_for_and_stays_as_it_is_while_that_holds() {
    let world = World::new();
    let [second, first, other] = world.images(["app:v2", "app:v1", "lib:v1"]);
    let list = "docker://HOST/lib:v1 web\ndocker://HOST/app:v2\ndocker://HOST/app:v1\n";
    world.locking(list).arg("--dry-run").expect_success();
    assert!(!world.repo().exists());
    let lock =
        format!("{HEAD}{} app:v1\n{} app:v2\n{} lib:v1\n", first.manifest, second.manifest, other.manifest);
    assert_eq!(world.lock(), lock);
    let inode = || fs::metadata(world.path("lock")).unwrap().ino();
    let before = inode();
    world.locking(list).expect_success();
    assert_eq!((world.lock(), inode()), (lock, before), "written again without need");
}

#[test]
fn a_tag_that_moves_is_one_line_of_the_lock() {
    let world = World::new();
    let [first, _] = world.images(["app:v1", "app:v2"]);
    world.locking(ALL_TAGS).expect_success();
    let before = world.lock();
    let moved = world.image("app:v1", 1);
    world.locking(ALL_TAGS).expect_success();
    let expected = [format!("+ {} app:v1", moved.manifest), format!("- {} app:v1", first.manifest)];
    let mut found = difference(&lines(&before), &lines(&world.lock()));
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_cannot_be_reached_keeps_its_line_and_what_the_list_lost_does_not() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "lib:v1"]);
    let list = "HOST:\n  images: {app: [], lib: [v1]}\n";
    world.locking(list).expect_success();
    let before = world.lock();
    for (path, fails) in [("app/tags/list", 3), ("lib/manifests/v1", 3), ("app/manifests/v2", 3)] {
        world.registry.fault_always(path, Fault::Status(404, None));
        world.locking(list).expect_failure(fails);
        assert_eq!(world.lock(), before, "{path}");
        world.registry.heal();
    }
    world.registry.fault_kind_always(Kind::Ping, Fault::Status(403, None));
    world.locking(list).expect_failure(1);
    assert_eq!(world.lock(), before);
    world.registry.heal();
    world.locking("HOST:\n  images: {lib: [v1]}\n").expect_success();
    assert_eq!(difference(&lines(&before), &lines(&world.lock())).len(), 2);
}

#[test]
fn a_locked_mirror_follows_no_tag_and_asks_for_none() {
    let world = World::new();
    let [first] = world.images(["app:v1"]);
    world.locking(ALL_TAGS).arg("--dry-run").expect_success();
    world.image("app:v1", 1);
    world.images(["app:v2"]);
    world.registry.forget_requests();
    world.locked(ALL_TAGS).expect_success();
    assert_eq!(world.names(), ["app:v1"]);
    assert_eq!(world.digest("app:v1"), first.manifest.to_string());
    let counts = world.registry.counts();
    assert_eq!((counts.requests(Kind::Tags), counts.requests_to("app/manifests/v1")), (0, 0));
    world.registry.forget_requests();
    assert_eq!(world.locked(ALL_TAGS).expect_success().stdout, "unchanged 1 image\n");
    assert!(world.registry.requests().is_empty(), "{:?}", world.registry.requests());
}

#[test]
fn a_locked_mirror_leaves_its_lock_alone() {
    let world = World::new();
    let [first, _] = world.images(["app:v1", "app:v2"]);
    world.locking(ALL_TAGS).expect_success();
    let before = world.lock();
    // The registry has thrown it away, and the repository never had it.
    let gone = before.replace(&first.manifest.to_string(), &format!("sha256:{}", "0".repeat(64)));
    fs::write(world.path("lock"), gone.replace(" app:", &format!(" {}", world.name("app:")))).unwrap();
    world.locked(ALL_TAGS).expect_failure(3).says(&[&world.name("app:v1: ")]);
    assert_eq!(world.lock(), gone);
    assert_eq!(world.digest("app:v1"), first.manifest.to_string(), "the name stays what it was");
}

#[test]
fn a_lock_that_was_made_for_another_list_is_refused_before_anything_is_asked() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "lib:v1"]);
    world
        .locked("docker://HOST/app:v1\n")
        .expect_failure(2)
        .says(&["lock: there is no lock: make one without"]);
    world.locking("docker://HOST/app:v1\n").arg("--dry-run").expect_success();
    world.registry.forget_requests();
    let renew = "renew the lock without --locked";
    for (list, words) in [
        (
            "docker://HOST/app:v1\ndocker://HOST/lib:v1\n",
            "list: line 2: docker://HOST/lib:v1 is not in the lock",
        ),
        ("docker://HOST/app:v2\n", "list: line 1: docker://HOST/app:v2 is not in the lock"),
        (
            "HOST:\n  images-by-tag-regex: {app: ^w}\n",
            "line 2: docker://HOST/app by tag ^w is not in the lock",
        ),
        (
            "HOST:\n  platform: linux/s390x\n  images: {app: []}\n",
            "docker://HOST/app, all tags is not in the lock",
        ),
    ] {
        world.locked(list).expect_failure(2).says(&[&world.told(words), renew]);
    }
    world.locking("docker://HOST/app:v1\ndocker://HOST/lib:v1\n").arg("--dry-run").expect_success();
    world.registry.forget_requests();
    let foreign = world.told("lock: docker://HOST/lib:v1 is not in");
    world.locked("docker://HOST/app:v1\n").expect_failure(2).says(&[&foreign, renew]);
    world.locked("HOST:\n  images:\n    app:\n").expect_failure(2).says(&[&foreign, renew]);
    assert!(world.registry.requests().is_empty() && !world.repo().exists());
    fs::write(world.path("lock"), "sha256:00\n").unwrap();
    for mirror in [World::locking, World::locked] {
        mirror(&world, "docker://HOST/app:v1\n")
            .expect_failure(2)
            .says(&["lock: line 1, column 1: this is not a lock"]);
    }
}
