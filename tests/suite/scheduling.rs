//! Law 4: the same input gives the same repository, byte for byte, whatever runs when.

use support::{
    image::{Image, Layout, layout},
    oracle,
    real::real_image,
    repo::{assert_same_repo, cfs_dag, scratch},
    tar::*,
};

#[test]
fn the_number_of_workers_changes_no_byte() {
    let layout = layout();
    let images = batch(&layout);
    let references = references(&images);
    let scratch = scratch();
    let expected = scratch.path("expected");
    pull(&expected, &references, &["-j1"]);
    oracle::assert_clean(&expected);
    let settings: [&[&str]; 4] = [&["-j1"], &["-j2"], &["-j8"], &["-j8", "--memory=18MiB", "--downloads=2"]];
    for run in 0..3 {
        for (n, settings) in settings.iter().enumerate() {
            let repo = scratch.path(&format!("{run}-{n}"));
            pull(&repo, &references, settings);
            assert_same_repo(&expected, &repo);
        }
    }
}

#[test]
fn the_order_of_the_request_changes_no_byte() {
    let layout = layout();
    let images = batch(&layout);
    let references = references(&images);
    let scratch = scratch();
    let expected = scratch.path("expected");
    pull(&expected, &references, &["-j8"]);
    for turn in 1..references.len() {
        let mut turned = references.clone();
        turned.rotate_left(turn);
        if turn % 2 == 0 {
            turned.reverse();
        }
        let repo = scratch.path(&format!("{turn}"));
        pull(&repo, &turned, &["-j8"]);
        assert_same_repo(&expected, &repo);
    }
}

#[test]
fn a_batch_makes_the_same_repository_as_one_pull_after_another() {
    let layout = layout();
    let images = batch(&layout);
    let references = references(&images);
    let scratch = scratch();
    let (batch, single) = (scratch.path("batch"), scratch.path("single"));
    pull(&batch, &references, &["-j8"]);
    for reference in &references {
        pull(&single, &[reference], &["-j1"]);
    }
    assert_same_repo(&batch, &single);
}

#[test]
fn real_images_at_one_worker_and_at_eight_make_the_same_repository() {
    let scratch = scratch();
    let references = ["base", "web", "python"].map(real_image);
    let references = references.each_ref().map(String::as_str);
    let (one, eight) = (scratch.path("one"), scratch.path("eight"));
    pull(&one, &references, &["-j1"]);
    pull(&eight, &references, &["-j8"]);
    assert_same_repo(&one, &eight);
}

fn pull(repo: &std::path::Path, references: &[&str], settings: &[&str]) {
    cfs_dag(["pull", "--insecure", "--progress=none"].iter().chain(settings).chain(references))
        .repo(repo)
        .expect_success();
}

fn references(images: &[Image]) -> Vec<&str> {
    images.iter().map(|image| image.reference.as_str()).collect()
}

/// Images that share a layer reached through five different blobs, files of different layers, the whole of
/// their layers, and the config; beside them one with large files and one that removes most of what it has.
fn batch(layout: &Layout) -> Vec<Image> {
    let shared = tar([dir("usr"), dir("usr/lib")]
        .into_iter()
        .chain((0..600u64).map(|n| file(format!("usr/lib/f{n}"), noise(n, (n * 37 % 5000) as usize))))
        .chain([file("usr/lib/large", noise(600, 2_500_000))]));
    // Files that the shared layer has too: whichever layer comes first, one writes them and one finds them.
    let own = |seed: u64| {
        let files = (0..200)
            .map(move |n| file(format!("usr/own/{n}"), noise(n + seed % 7, (n * 37 % 5000) as usize)));
        tar([dir("usr/own")].into_iter().chain(files).chain([file("usr/own/seed", noise(seed, 90_000))]))
    };
    let large = tar([
        dir("usr"),
        file("usr/five", noise(700, 5 << 20)),
        file("usr/three", noise(701, (3 << 20) + 1)),
        file("usr/zeros", vec![0; 4 << 20]),
    ]);
    let image = |tag: &str| layout.image(tag).layer(shared.as_slice());
    vec![
        image("gzip").gzip().layer(own(1000)).zstd().write(),
        image("zstd").zstd().layer(own(1001)).gzip().write(),
        image("plain").plain().layer(own(1002)).multi_member().write(),
        image("members").multi_member().layer(own(1000)).gzip().write(),
        image("frames").multi_frame_with_skippable().layer(own(1003)).plain().write(),
        image("other-config").gzip().layer(own(1000)).zstd().env("A=b").write(),
        image("removed").zstd().layer(tar([whiteout("usr/lib/f7"), opaque("usr/lib")])).write(),
        layout.image("large").layer(large).gzip().layer(shared.as_slice()).zstd().write(),
    ]
}
