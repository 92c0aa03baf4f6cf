//! Tests of what the other tests stand on: archives, images, the oracle, comparisons.

mod support;

use support::{corpus, image::layout, oracle, repo::scratch};

#[test]
fn upstream_pulls_every_accepted_image_into_every_kind_of_repository() {
    let layout = layout();
    for case in corpus::accepted() {
        let image = case.write(&layout);
        for kind in oracle::ALL_KINDS {
            let pulled = oracle::oracle(&image.reference, kind);
            assert_eq!(pulled.stored.manifest_digest, image.manifest);
            oracle::assert_clean(&pulled.repo());
        }
    }
}

#[test]
fn upstream_refuses_every_refused_image() {
    let layout = layout();
    for case in corpus::refused() {
        let image = case.write(&layout);
        let scratch = scratch();
        let repo = scratch.path("repo");
        oracle::create(&repo, oracle::DEFAULT_KIND);
        assert!(oracle::upstream_pull(&repo, &image.reference, "x").is_err(), "{}", case.name);
    }
}
