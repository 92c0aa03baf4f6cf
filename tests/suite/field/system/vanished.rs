//! A repository that is moved or removed while a run writes to it.

use std::fs;

use support::{
    image::layout,
    pulls::*,
    registry::{Fault, Registry},
    repo::{Running, Scratch, cfs_dag, scratch},
};

use super::served;

/// A pull that has its first layer and waits for the second one, which comes at the next try.
struct Waiting {
    scratch: Scratch,
    running: Running,
    _registry: Registry,
}

impl Waiting {
    fn start() -> Self {
        let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
        let image = served(&registry, &layout);
        registry.fault("app", image.layers[1].blob.parse().unwrap(), Fault::StallAfter(300_000));
        let args = ["pull", "--insecure", "--tls-verify=false", "--progress=none", "--stall-timeout=1s"];
        let mut running = cfs_dag(args).arg(&image.reference).repo(scratch.path("repo")).start();
        while linked_layers(&scratch.path("repo")).is_empty() {
            running.assert_goes_on();
        }
        registry.wait_for(&image.layers[1].blob);
        Self { scratch, running, _registry: registry }
    }
}

#[test]
fn repository_that_is_moved_meanwhile_is_told() {
    let Waiting { scratch, running, .. } = Waiting::start();
    fs::rename(scratch.path("repo"), scratch.path("elsewhere")).unwrap();
    let told = running.wait().assert_code(1);
    told.says(&["repo: the repository is not here any more", "moved or removed", "run again"]);
}

#[test]
fn repository_that_is_removed_meanwhile_is_told() {
    let Waiting { scratch, running, .. } = Waiting::start();
    fs::remove_dir_all(scratch.path("repo")).unwrap();
    running.wait().assert_code(1);
    assert!(!scratch.path("repo").exists(), "what was removed is not made again");
}

#[test]
fn links_that_are_removed_meanwhile_are_told() {
    let (registry, layout, scratch) = (Registry::start(), layout(), scratch());
    let image = served(&registry, &layout);
    let repo = scratch.path("repo");
    // The first is stored, and the second one waits.
    let first = layout.image("first").layer(support::tar::tar([support::tar::dir("usr")])).write();
    pull(&repo, &[&first.reference]).expect_success();
    registry.fault("app", image.layers[1].blob.parse().unwrap(), Fault::StallAfter(300_000));
    let mut running = pull(&repo, &[&first.reference, &image.reference]).args(["--stall-timeout=1s"]).start();
    while linked_layers(&repo).len() < 2 {
        running.assert_goes_on();
    }
    registry.wait_for(&image.layers[1].blob);
    fs::remove_dir_all(repo.join("streams")).unwrap();
    let told = running.wait().assert_code(1);
    told.says(&["repo: streams", "is gone", "run again"]);
}
