//! Little that becomes much: memory, disk and time stay small, and what crosses a limit
//! is told with its name.

use std::{fs, path::Path, time::Duration};

use cfs_dag::types::Limit;
use support::{
    corpus::MEMORY_MIN,
    image::{Layout, layout},
    oracle,
    repo::{Finished, Invocation, cfs_dag, scratch},
    tar::*,
};

const MIB: u64 = 1 << 20;
/// The program itself: code, threads and their stacks, and what the allocator keeps.
const BESIDE_THE_BUDGET: u64 = 32 * MIB;
/// What one entry of a file tree may take while its EROFS image is made.
const PER_ENTRY: u64 = 1400;

fn pull(layout: &Layout, repo: &Path) -> Invocation {
    let memory = format!("--memory={MEMORY_MIN}");
    cfs_dag(["pull", "--insecure", "--progress=none", &memory, &layout.reference("bomb")])
        .time_limit(Duration::from_secs(60))
        .repo(repo)
}

/// A layout with one image of these layers, as gzip.
fn bomb(layers: impl IntoIterator<Item = Vec<u8>>) -> Layout {
    let layout = layout();
    layers.into_iter().fold(layout.image("bomb"), |image, layer| image.layer(layer)).write();
    layout
}

/// Asserts that the pull is refused in these words, with no more memory than the budget and `more` bytes.
#[track_caller]
fn assert_refused(layout: &Layout, flags: &[&str], more: u64, words: &[&str]) -> Finished {
    let scratch = scratch();
    let finished = pull(layout, &scratch.path("repo")).args(flags).expect_failure(1).says(words);
    assert_memory(&finished, more);
    let objects = disk(&scratch.path("repo"));
    assert!(objects < MIB, "{objects} bytes were left on disk");
    finished
}

#[track_caller]
fn assert_memory(finished: &Finished, more: u64) {
    let (peak, most) = (finished.peak_memory, MEMORY_MIN + BESIDE_THE_BUDGET + more);
    assert!(peak <= most, "{} MiB, more than {} MiB", peak / MIB, most / MIB);
}

/// Bytes of all files below `path`.
fn disk(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => disk(&entry.path()),
        kind if kind.is_file() => entry.metadata().unwrap().len(),
        _ => 0,
    };
    entries.map(|entry| size(entry.unwrap())).sum()
}

/// An old GNU sparse file whose map goes on in `blocks` further blocks.
fn sparse_map(blocks: usize) -> Vec<u8> {
    let mut bytes = unfinished([dir("usr"), gnu_sparse("usr/sparse")]);
    // Only its header, with the flag that the map goes on.
    bytes.truncate(1024);
    let header = &mut bytes[512..];
    header[482] = 1;
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut block = [0; 512];
    block[504] = 1;
    bytes.extend(block.repeat(blocks));
    bytes
}

#[test]
fn the_map_of_a_sparse_file_that_does_not_end_is_given_up() {
    let blocks = 64 << 11;
    let finished = assert_refused(
        &bomb([sparse_map(blocks)]),
        &[],
        0,
        &["layer 1 of 1", "1 MiB of headers for the entry at byte 512:"],
    );
    assert!(!finished.stderr.contains("ends too early"), "{finished}");
}

#[test]
fn a_line_in_the_map_of_a_sparse_file_that_does_not_end_is_given_up() {
    let sparse = |content: Vec<u8>| {
        file("GNUSparseFile.0/x", content)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "x")
            .pax("GNU.sparse.realsize", "512")
    };
    let layout = bomb([tar([dir("usr"), sparse(vec![b'1'; 4 << 20])])]);
    assert_refused(&layout, &[], 0, &["layer 1 of 1", "sparse file", "--sparse"]);
}

#[test]
fn headers_of_a_hundred_megabytes_are_not_read() {
    let layout = bomb([tar([dir("usr"), file("usr/f", "x").pax("comment", vec![b'x'; 100 << 20])])]);
    assert_refused(&layout, &[], 0, &["layer 1 of 1", "metadata exceeds limit"]);
}

#[test]
fn more_entries_than_the_limit_are_refused_also_of_one_path() {
    let same = |count| tar((0..count).map(|_| dir("usr")));
    let layout = bomb([same(100_000)]);
    let words = &["layer 1 of 1", "more than 50000 entries", "--limit entries=N"];
    assert_refused(&layout, &["--limit=entries=50000"], 50_000 * PER_ENTRY, words);
    let scratch = scratch();
    let finished = pull(&layout, &scratch.path("repo")).arg("--limit=entries=100000").expect_success();
    assert_memory(&finished, 100_000 * PER_ENTRY);
}

#[test]
fn layers_count_together_also_the_same_one_again_and_those_that_are_stored() {
    let layer = tar([dir("usr")].into_iter().chain((0..99).map(|n| symlink(format!("usr/{n}"), "x"))));
    let layout = bomb([layer.clone(), layer.clone(), layer]);
    let repo = scratch();
    let flags = ["--limit=entries=250"];
    let words = &["layers 1 to 3 of 3 together", "more than 250 entries"];
    pull(&layout, &repo.path("repo")).args(flags).expect_failure(1).says(words);
    // By now the layer is stored: it is read back.
    pull(&layout, &repo.path("repo")).args(flags).expect_failure(1).says(words);
    pull(&layout, &repo.path("repo")).arg("--limit=entries=300").expect_success();
}

#[test]
fn attributes_that_shrink_well_are_counted() {
    let with_attributes = |n| file(format!("usr/{n}"), "").xattr("user.a", vec![b'x'; 500_000]);
    let layout = bomb([tar([dir("usr")].into_iter().chain((0..200).map(with_attributes)))]);
    let words = &["layer 1 of 1", "more than 20971520 bytes of paths, link targets and extended attributes"];
    assert_refused(&layout, &["--limit=metadata=20MiB"], 20 * MIB, words);
}

#[test]
fn attributes_without_content_count_for_what_they_take() {
    const FILES: u64 = 1000;
    const ATTRIBUTES: u64 = 240;
    let with_attributes = |n| {
        let file = file(format!("usr/{n}"), "");
        (0..ATTRIBUTES).fold(file, |file, n| file.xattr(&format!("user.{n}"), ""))
    };
    let layer = tar([dir("usr")].into_iter().chain((0..FILES).map(with_attributes)));
    let once = bomb([layer.clone()]);
    assert_refused(&once, &["--limit=metadata=10MiB"], 10 * MIB, &["layer 1 of 1", "extended attributes"]);
    let twice = bomb([layer.clone(), layer]);
    let finished = pull(&twice, &scratch().path("repo")).arg("--limit=metadata=30MiB").expect_failure(1);
    finished.says(&["layers 1 to 2 of 2 together", "extended attributes"]);
    let scratch = scratch();
    let finished = pull(&once, &scratch.path("repo")).expect_success();
    assert_memory(&finished, FILES * PER_ENTRY + FILES * ATTRIBUTES * (72 + 8));
}

#[test]
fn a_gzip_of_zeros_is_cut_at_the_size_of_a_layer() {
    let layout = bomb([tar([dir("usr"), file("usr/zeros", vec![0; 200 << 20])])]);
    let words = &["layer 1 of 1", "more than 67108864 bytes of a layer", "--limit layer-size=N"];
    assert_refused(&layout, &["--limit=layer-size=64MiB"], 0, words);
    let scratch = scratch();
    assert_memory(&pull(&layout, &scratch.path("repo")).expect_success(), 0);
}

#[test]
fn a_window_that_grows_from_frame_to_frame_is_counted() {
    const WINDOW: u64 = 128 * MIB;
    let zeros = |n| tar([dir("usr"), file(format!("usr/zeros{n}"), vec![0; WINDOW as usize])]);
    let layout = layout();
    (0..4).fold(layout.image("bomb"), |image, n| image.layer(zeros(n)).growing_window()).write();
    let (scratch, memory) = (scratch(), 96 * MIB);
    let args = ["pull", "--insecure", "--progress=none", "-j4", &format!("--memory={memory}")];
    let pull = cfs_dag(args).arg(layout.reference("bomb")).repo(scratch.path("repo"));
    let peak = pull.expect_success().peak_memory;
    // One window may exceed the budget, and it is the only one that does.
    let most = memory + WINDOW + BESIDE_THE_BUDGET;
    assert!(peak <= most, "{} MiB, more than {} MiB", peak / MIB, most / MIB);
}

#[test]
fn padding_after_the_end_is_refused_or_as_upstream_has_it() {
    let layout = bomb([with_tail(tar([dir("usr"), file("usr/f", "x")]), &vec![0; 65 << 20])]);
    let words = &["layer 1 of 1", "more than 67108864 bytes after the end of a tar", "--limit trailing=N"];
    assert_refused(&layout, &[], 0, words);
    let (ours, theirs) = (scratch(), scratch());
    let finished = pull(&layout, &ours.path("repo")).arg("--limit=trailing=66MiB").expect_success();
    assert_memory(&finished, 0);
    let reference = layout.reference("bomb");
    oracle::create(&theirs.path("repo"), oracle::DEFAULT_KIND);
    let expected = oracle::upstream_pull(&theirs.path("repo"), &reference, &reference).unwrap();
    assert_eq!(expected, oracle::stored(&ours.path("repo"), &reference));
}

#[test]
fn what_is_no_file_may_not_be_large() {
    let folder = dir("usr/d").claims_size(65 << 20);
    let layout = bomb([with_tail(unfinished([dir("usr"), folder]), &vec![0; 65 << 20])]);
    assert_refused(&layout, &["--as-upstream"], 0, &["layer 1 of 1", "in an entry without content"]);
}

/// Folders in one another, `depth` deep.
fn chain(depth: usize) -> Vec<u8> {
    let path = |depth: usize| format!("usr{}", "/a".repeat(depth));
    tar((0..depth).map(|depth| dir(path(depth))))
}

#[test]
fn the_deepest_folders_are_as_upstream_has_them_and_deeper_ones_are_refused() {
    // The longest path has 3 + 2 * 2046 bytes.
    let layout = bomb([chain(2047)]);
    let (ours, theirs) = (scratch(), scratch());
    pull(&layout, &ours.path("repo")).expect_success();
    let reference = layout.reference("bomb");
    oracle::create(&theirs.path("repo"), oracle::DEFAULT_KIND);
    let expected = oracle::upstream_pull(&theirs.path("repo"), &reference, &reference).unwrap();
    assert_eq!(expected, oracle::stored(&ours.path("repo"), &reference));
    for depth in [2048, 8000] {
        let finished =
            assert_refused(&bomb([chain(depth)]), &[], 32 * MIB, &["layer 1 of 1", "4096 bytes of a path"]);
        assert!(!finished.stderr.contains("--limit"), "it cannot be raised: {finished}");
    }
}

#[test]
fn ten_thousand_layers_are_refused_and_as_many_as_allowed_are_not() {
    let small = tar([dir("usr")]);
    let layout = bomb(std::iter::repeat_n(small, 10_000));
    let words = &["oci:", "more than 4096 layers of an image", "--limit layers=N"];
    assert_refused(&layout, &[], 0, words);
    let scratch = scratch();
    let finished = pull(&layout, &scratch.path("repo")).arg("--limit=layers=10000").expect_success();
    // About 5 KiB a layer: the plan, and the record of the run.
    assert_memory(&finished, 50 * MIB);
}

#[test]
fn documents_of_many_images_are_held_once_and_only_so_many() {
    const IMAGES: u64 = 20;
    const EACH: u64 = 3 << 20;
    let layout = layout();
    let base = tar([dir("usr")]);
    let images = (0..IMAGES).map(|n| {
        let large = format!("N={n}{}", "x".repeat(EACH as usize));
        layout.image(&format!("fat{n}")).layer(&*base).env(&large).write().reference
    });
    let images: Vec<String> = images.collect();
    let pull = |repo: &Path| {
        let memory = format!("--memory={MEMORY_MIN}");
        cfs_dag(["pull", "--insecure", "--progress=none", &memory]).args(&images).repo(repo)
    };
    let scratch = scratch();
    let repo = scratch.path("refused");
    let refused = pull(&repo).arg("--limit=documents=10MiB").expect_failure(3);
    refused.says(&["more than 10485760 bytes of manifests and configs", "--limit documents=N"]);
    let finished = pull(&scratch.path("repo")).expect_success();
    // Once more while they are written, and what it takes to read one of them.
    assert_memory(&finished, IMAGES * EACH + 24 * MIB);
}

#[test]
fn links_in_one_long_run_take_what_entries_take() {
    const LINKS: u64 = 60_000;
    let links = (0..LINKS).map(|n| symlink(format!("usr/link{n:06}"), format!("target{n}")));
    let layout = bomb([tar([dir("usr")].into_iter().chain(links))]);
    let scratch = scratch();
    assert_memory(&pull(&layout, &scratch.path("repo")).expect_success(), LINKS * PER_ENTRY);
}

#[test]
fn an_artifact_that_is_a_bomb_is_refused_too() {
    let layout = layout();
    let tar_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let many = tar((0..2000).map(|n| file(format!("f{n}"), noise(n, 100))));
    layout.artifact("bomb").layer(many).media_type(tar_type).write();
    let scratch = scratch();
    let repo = scratch.path("repo");
    pull(&layout, &repo).arg("--limit=entries=1000").expect_failure(1).says(&["more than 1000 entries"]);
    pull(&layout, &repo).expect_success();
}

#[test]
fn a_limit_that_nobody_knows_is_a_usage_error_with_those_that_there_are() {
    for (text, word) in [("depth=5", "trailing"), ("entries", "NAME=VALUE"), ("path=1MiB", "4096")] {
        let finished = cfs_dag(["pull", "oci:nowhere", "--limit", text]).expect_failure(2);
        assert!(finished.stderr.contains(word), "{finished}");
    }
    let help = cfs_dag(["mirror", "--help"]).expect_success().stdout;
    let readme = fs::read_to_string(support::root().join("docs/limits.md")).unwrap();
    for limit in Limit::ALL {
        let name = limit.name();
        assert!(help.contains(&format!(" {name}  ")), "{name} in:\n{help}");
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let value = limit.default_value();
        let value = match (limit.is_bytes(), value) {
            (true, value) if value >= 1 << 30 => format!("{}GiB", value >> 30),
            (true, value) if value >= 1 << 20 => format!("{}MiB", value >> 20),
            (true, value) => format!("{}KiB", value >> 10),
            (false, value) => value.to_string(),
        };
        assert!(
            row.is_some_and(|row| row.ends_with(&format!("| {value} |"))),
            "{name} {value} in docs/limits.md: {row:?}"
        );
    }
}
