//! A layer is shared by its `diff_id`, and whoever writes an image may claim any. These tests lie, in every
//! order, and look at what an honest image gets.

use std::path::Path;

use support::{
    image::{Image, ImageBuilder, Layout, layout, zstd},
    oracle,
    pulls::*,
    registry::{Fault, Registry},
    repo::{Finished, Scratch, scratch},
    tar::*,
};

const WRONG: &str = "does not match its diff_id";

/// The layer that everyone claims to have.
fn truth() -> Vec<u8> {
    tar([dir("usr"), dir("usr/bin"), file("usr/bin/sh", noise(1, 300_000)), file("usr/note", "good")])
}

/// What the liar has instead. It shares files with the truth.
fn lie() -> Vec<u8> {
    tar([
        dir("usr"),
        dir("usr/bin"),
        file("usr/bin/sh", noise(2, 300_000)).mode(0o4755),
        file("usr/note", "good"),
    ])
}

fn own(name: &str) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/{name}"), noise(name.len() as u64, 5000))])
}

type Packed<'a> = fn(ImageBuilder<'a>) -> ImageBuilder<'a>;

/// An image over the truth.
fn honest<'a>(layout: &'a Layout, tag: &str, packed: Packed<'a>) -> Image {
    packed(layout.image(tag).layer(truth())).layer(own(tag)).write()
}

/// An image over something else that it claims to be the truth.
fn liar<'a>(layout: &'a Layout, tag: &str, packed: Packed<'a>) -> Image {
    packed(layout.image(tag).layer(lie()).claims_diff_id_of(&truth())).layer(own(tag)).write()
}

/// A fresh repository after one pull of `images` on `jobs` workers.
struct Pulled {
    scratch: Scratch,
    finished: Finished,
}

impl Pulled {
    fn repo(&self) -> std::path::PathBuf {
        self.scratch.path("repo")
    }

    /// Which of the images are stored, in the order of the request.
    fn outcomes(&self) -> Vec<bool> {
        let result = self.finished.json();
        let images = result["images"].as_array().unwrap();
        images.iter().map(|image| image["outcome"] == "ok").collect()
    }
}

fn pull_fresh(images: &[&Image], jobs: &str) -> Pulled {
    let scratch = scratch();
    let references: Vec<&str> = images.iter().map(|image| &*image.reference).collect();
    let finished = pull(&scratch.path("repo"), &references).arg("-j").arg(jobs).run();
    Pulled { scratch, finished }
}

/// Asserts that `repo` holds what it would hold if nobody had ever tried anything but `images`.
#[track_caller]
fn assert_only(repo: &Path, images: &[&Image]) {
    oracle::assert_clean(repo);
    for image in images {
        assert_stored(repo, &image.reference, &image.reference);
    }
    let clean = pull_fresh(images, "2");
    assert_eq!(clean.finished.code, Some(0), "{}", clean.finished);
    assert_same_when_swept(&clean.repo(), repo);
    oracle::assert_clean(repo);
}

#[test]
fn a_liar_before_an_honest_image_fails_alone() {
    let layout = layout();
    let (liar, honest) =
        (liar(&layout, "liar", ImageBuilder::gzip), honest(&layout, "honest", ImageBuilder::gzip));
    for jobs in ["1", "8"] {
        let pulled = pull_fresh(&[&liar, &honest], jobs);
        let blob = liar.layers[0].blob.get(..19).unwrap();
        let finished = pulled.finished.clone().assert_code(3);
        let finished = finished.says(&[&liar.reference, &format!("layer 1 of 2 ({blob}…)"), WRONG]);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert_absent(&pulled.repo(), &liar, &[]);
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn a_liar_after_an_honest_image_gets_the_true_bytes_and_is_not_read() {
    let layout = layout();
    let (liar, honest) =
        (liar(&layout, "liar", ImageBuilder::gzip), honest(&layout, "honest", ImageBuilder::gzip));
    // Reading it would fail.
    layout.remove_blob(&liar.layers[0].blob);
    for jobs in ["1", "8"] {
        let pulled = pull_fresh(&[&honest, &liar], jobs);
        assert_eq!(pulled.finished.code, Some(0), "{}", pulled.finished);
        let of = |image: &Image| oracle::stored(&pulled.repo(), &image.reference).layer_streams;
        assert_eq!(of(&liar)[0], of(&honest)[0]);
        oracle::assert_clean(&pulled.repo());
        support::repo::cfs_dag(["untag", &liar.reference]).repo(pulled.repo()).expect_success();
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn a_liar_that_came_yesterday_leaves_no_trace() {
    let layout = layout();
    let (liar, honest) =
        (liar(&layout, "liar", ImageBuilder::zstd), honest(&layout, "honest", ImageBuilder::gzip));
    for jobs in ["1", "8"] {
        let pulled = pull_fresh(&[&liar], jobs);
        pulled.finished.clone().assert_code(1).says(&[&liar.reference, "layer 1 of 2", WRONG]);
        assert_absent(&pulled.repo(), &liar, &[0]);
        oracle::assert_clean(&pulled.repo());
        pull(&pulled.repo(), &[&honest.reference]).expect_success();
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn a_liar_that_comes_tomorrow_is_given_what_is_stored() {
    let layout = layout();
    let (liar, honest) =
        (liar(&layout, "liar", ImageBuilder::gzip), honest(&layout, "honest", ImageBuilder::zstd));
    layout.remove_blob(&liar.layers[0].blob);
    let pulled = pull_fresh(&[&honest], "2");
    pull(&pulled.repo(), &[&liar.reference]).expect_success();
    let of = |image: &Image| oracle::stored(&pulled.repo(), &image.reference).layer_streams;
    assert_eq!(of(&liar)[0], of(&honest)[0]);
    support::repo::cfs_dag(["untag", &liar.reference]).repo(pulled.repo()).expect_success();
    assert_only(&pulled.repo(), &[&honest]);
}

#[test]
fn the_outcome_depends_on_the_order_of_the_request_and_not_on_the_workers() {
    let layout = layout();
    let images = [
        liar(&layout, "liar", ImageBuilder::multi_member),
        honest(&layout, "gzip", ImageBuilder::gzip),
        honest(&layout, "zstd", ImageBuilder::multi_frame_with_skippable),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]] {
        let request = order.map(|at| &images[at]);
        let first_is_honest = order[0] != 0;
        for jobs in ["1", "8"] {
            let pulled = pull_fresh(&request, jobs);
            assert_eq!(pulled.outcomes(), [first_is_honest, true, true], "{order:?} -j{jobs}");
            assert_eq!(pulled.finished.code, Some(if first_is_honest { 0 } else { 3 }), "{order:?}");
            if first_is_honest {
                support::repo::cfs_dag(["untag", &images[0].reference]).repo(pulled.repo()).expect_success();
            }
            assert_only(&pulled.repo(), &[&images[1], &images[2]]);
        }
    }
}

#[test]
fn every_image_that_names_the_false_blob_fails_and_no_other() {
    let layout = layout();
    let plain = ImageBuilder::plain;
    let (one, two) = (liar(&layout, "liar-one", plain), liar(&layout, "liar-two", plain));
    let other = liar(&layout, "other-liar", ImageBuilder::zstd);
    let honest = honest(&layout, "honest", ImageBuilder::gzip);
    for jobs in ["1", "8"] {
        let pulled = pull_fresh(&[&one, &other, &two, &honest], jobs);
        assert_eq!(pulled.outcomes(), [false, false, false, true], "{}", pulled.finished);
        assert_eq!(pulled.finished.stderr.lines().count(), 3, "{}", pulled.finished);
        for image in [&one, &other, &two] {
            pulled.finished.clone().says(&[&image.reference, "layer 1 of 2", WRONG]);
        }
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn the_next_candidate_is_taken_whatever_was_wrong_with_the_first() {
    type Make = fn(ImageBuilder<'_>) -> ImageBuilder<'_>;
    let broken: [(&str, Make); 6] = [
        ("digest", |image| image.layer(truth()).zstd().wrong_blob_digest()),
        ("descriptor says", |image| image.layer(truth()).zstd().wrong_size(1)),
        ("descriptor says", |image| image.layer(truth()).zstd().wrong_size(-1)),
        ("descriptor says", |image| image.layer(truth()).zstd().truncated_blob()),
        ("lacks the blob", |image| image.layer(truth()).zstd().missing_blob()),
        ("the zstd data ends too early", |image| {
            let half = zstd(&truth());
            image.layer(&half[..half.len() / 2]).plain().claims_diff_id_of(&truth())
        }),
    ];
    let honest_layout = layout();
    let honest = honest(&honest_layout, "honest", ImageBuilder::gzip);
    for (ix, (words, make)) in broken.into_iter().enumerate() {
        let layout = layout();
        // Packed unlike the honest one, so that it is another blob.
        let bad = make(layout.image("bad")).layer(own("bad")).write();
        let jobs = if ix % 2 == 0 { "1" } else { "8" };
        let pulled = pull_fresh(&[&bad, &honest], jobs);
        pulled.finished.clone().assert_code(3).says(&[&bad.reference, "layer 1 of 2", words]);
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn a_false_copy_of_a_blob_does_not_harm_who_has_a_true_one() {
    type Make = fn(ImageBuilder<'_>) -> ImageBuilder<'_>;
    let broken: [(&str, Make); 4] = [
        ("digest", |image| image.wrong_blob_digest()),
        ("size", |image| image.wrong_size(1)),
        ("truncated", |image| image.truncated_blob()),
        ("missing", |image| image.missing_blob()),
    ];
    let honest_layout = layout();
    let honest = honest(&honest_layout, "honest", ImageBuilder::gzip);
    for (what, make) in broken {
        let layout = layout();
        // The very blob that the honest image names, under its digest, in another layout.
        let bad = make(layout.image("bad").layer(truth()).gzip()).layer(own("bad")).write();
        assert_eq!(bad.layers[0].blob, honest.layers[0].blob);
        for (jobs, request) in [("1", [&bad, &honest]), ("8", [&bad, &honest]), ("8", [&honest, &bad])] {
            let pulled = pull_fresh(&request, jobs);
            let honest_at = usize::from(request[0].reference == bad.reference);
            assert!(pulled.outcomes()[honest_at], "{what} -j{jobs}: {}", pulled.finished);
            if pulled.outcomes() == [true, true] {
                support::repo::cfs_dag(["untag", &bad.reference]).repo(pulled.repo()).expect_success();
            }
            assert_only(&pulled.repo(), &[&honest]);
        }
    }
}

#[test]
fn a_false_copy_is_given_up_at_its_first_wrong_byte_and_the_true_one_is_read() {
    // Much larger than what is under way between fetch and split, so that the transfer has to be stopped.
    let large = tar([dir("usr"), file("usr/large", noise(3, 6_000_000))]);
    let (false_layout, true_layout) = (layout(), layout());
    let image = |layout: &Layout, tag| layout.image(tag).layer(large.as_slice()).layer(own(tag)).write();
    let (bad, good) = (image(&false_layout, "bad"), image(&true_layout, "good"));
    let blob = &bad.layers[0];
    std::fs::write(false_layout.blob(&blob.blob), noise(4, blob.size as usize)).unwrap();
    for jobs in ["1", "8"] {
        let pulled = pull_fresh(&[&bad, &good], jobs);
        assert_eq!(pulled.outcomes(), [true, true], "{}", pulled.finished);
        support::repo::cfs_dag(["untag", &bad.reference]).repo(pulled.repo()).expect_success();
        assert_only(&pulled.repo(), &[&good]);
    }
}

#[test]
fn one_blob_that_is_claimed_to_be_two_layers_is_the_one_that_it_is() {
    let layout = layout();
    let evil = layout.image("evil").layer(truth()).claims_diff_id_of(&lie()).layer(own("evil")).write();
    let honest = honest(&layout, "honest", ImageBuilder::gzip);
    assert_eq!(evil.layers[0].blob, honest.layers[0].blob);
    for (jobs, request) in [("1", [&evil, &honest]), ("8", [&honest, &evil])] {
        let pulled = pull_fresh(&request, jobs);
        pulled.finished.clone().assert_code(3).says(&[&evil.reference, "layer 1 of 2", WRONG]);
        assert_absent(&pulled.repo(), &evil, &[0]);
        assert_only(&pulled.repo(), &[&honest]);
    }
}

#[test]
fn registries_can_lie_as_well_as_folders() {
    let layout = layout();
    let registry = Registry::start();
    let (liar, honest) =
        (liar(&layout, "liar", ImageBuilder::gzip), honest(&layout, "honest", ImageBuilder::zstd));
    let from_liar = serve(&registry, &layout, &liar, "liar");
    let from_honest = serve(&registry, &layout, &honest, "honest");
    for jobs in ["1", "8"] {
        let scratch = scratch();
        let repo = scratch.path("repo");
        let finished = pull(&repo, &[&from_liar, &from_honest]).arg("-j").arg(jobs).expect_failure(3);
        finished.says(&[&from_liar, "layer 1 of 2", WRONG]);
        oracle::assert_clean(&repo);
        assert_stored(&repo, &from_honest, &honest.reference);
    }
    // And a registry that sends something else under the very digest that another has,
    // and that is asked first.
    let evil = Registry::start();
    let from_evil = serve(&evil, &layout, &honest, "honest");
    let blob = honest.layers[0].blob.clone();
    let size = honest.layers[0].size as usize;
    for bytes in [noise(7, size), std::fs::read(layout.blob(&liar.layers[0].blob)).unwrap()] {
        let path = format!("honest/blobs/{blob}");
        evil.fault_always(&path, Fault::Bytes(bytes));
        let scratch = scratch();
        let repo = scratch.path("repo");
        let finished = pull(&repo, &[&from_evil, &from_honest]).expect_success();
        assert!(finished.stderr.is_empty(), "{finished}");
        assert_stored(&repo, &from_honest, &honest.reference);
        oracle::assert_clean(&repo);
    }
}
