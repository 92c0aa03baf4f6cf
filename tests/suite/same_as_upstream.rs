//! What our pull stores is what upstream's own pull stores: ids, objects, and the tree
//! that is mounted in the end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use support::{
    corpus::{self, Case},
    image::{Image, ImageBuilder, layout},
    oracle::{self, ALL_KINDS, Algorithm, DEFAULT_KIND, Formats, RepoKind, Stored, oracle},
    real::{NAMES, real_image, tars_of},
    repo::{Invocation, cfs_dag, scratch},
    tar::*,
    tree,
};

#[test]
fn generated_images_are_stored_as_upstream_stores_them() {
    let layout = layout();
    let written: Vec<(Case, Image)> = corpus::accepted()
        .into_iter()
        .map(|case| {
            let image = case.write(&layout);
            (case, image)
        })
        .collect();
    let references: Vec<&str> = written.iter().map(|(_, image)| image.reference.as_str()).collect();
    let can_mount = tree::can_mount();
    for kind in ALL_KINDS {
        let scratch = scratch();
        let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
        let expected = upstream_batch(&theirs, kind, &references);
        pull(&references).new_repo(&ours, kind).expect_success();
        assert_same_images(&ours, &references, &expected, kind);
        assert_same_objects(&ours, &theirs, references.len(), kind);
        assert_sound(&ours);
        // With both formats the default is mounted, which is V1 again.
        let mounts = can_mount && kind.1 != Formats::Both;
        for (case, image) in written.iter().filter(|_| mounts) {
            tree::assert_mounts(&ours, &image.reference, &case.layers);
        }
    }
}

#[test]
fn an_image_alone_with_the_least_memory_is_stored_the_same() {
    let kind = RepoKind(Algorithm::Sha256, Formats::Both);
    let (layout, scratch) = (layout(), scratch());
    oracle::create(&scratch.path("theirs"), kind);
    for case in corpus::accepted() {
        let image = case.write(&layout);
        let reference = image.reference.as_str();
        let expected = oracle::upstream_pull(&scratch.path("theirs"), reference, reference).unwrap();
        let ours = scratch.path(case.name);
        let memory = corpus::MEMORY_MIN.to_string();
        pull(&[reference]).new_repo(&ours, kind).arg("--memory").arg(memory).expect_success();
        assert_same_images(&ours, &[reference], &[expected], kind);
        oracle::assert_clean(&ours);
        fs::remove_dir_all(ours).unwrap();
    }
}

#[test]
fn real_images_are_stored_as_upstream_stores_them() {
    // Every combination with the images that share a layer; the twenty thousand small files once.
    let can_mount = tree::can_mount();
    for kind in ALL_KINDS {
        let names = if kind == DEFAULT_KIND { &NAMES[..] } else { &NAMES[..3] };
        let references: Vec<String> = names.iter().map(|name| real_image(name)).collect();
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let scratch = scratch();
        let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
        let expected = upstream_batch(&theirs, kind, &references);
        pull(&references).new_repo(&ours, kind).expect_success();
        assert_same_images(&ours, &references, &expected, kind);
        assert_same_objects(&ours, &theirs, references.len(), kind);
        assert_sound(&ours);
        let mounted = [RepoKind(Algorithm::Sha512, Formats::V1), RepoKind(Algorithm::Sha256, Formats::V2)];
        if can_mount && mounted.contains(&kind) {
            for (name, reference) in names.iter().zip(&references) {
                tree::assert_mounts(&ours, reference, tars_of(name));
            }
        }
    }
}

#[test]
fn the_packing_of_a_layer_changes_nothing_that_is_stored() {
    let below = tar([dir("usr"), file("usr/a", noise(1, 700_000)), file("usr/b", noise(2, 64))]);
    let above = tar([dir("usr/c"), file("usr/c/d", noise(3, 5000))]);
    let layout = layout();
    let layers = |tag: &str, pack: for<'a> fn(ImageBuilder<'a>) -> ImageBuilder<'a>| {
        let image = pack(layout.image(tag).layer(below.as_slice()));
        pack(image.layer(above.as_slice())).write()
    };
    let images = [
        layers("gzip", |image| image.gzip()),
        layers("zstd", |image| image.zstd()),
        layers("plain", |image| image.plain()),
        layers("members", |image| image.multi_member()),
        layers("frames", |image| image.multi_frame_with_skippable()),
    ];
    let expected = oracle(&images[0].reference, DEFAULT_KIND).stored;
    for image in &images {
        let scratch = scratch();
        let repo = scratch.path("repo");
        pull(&[&image.reference]).new_repo(&repo, DEFAULT_KIND).expect_success();
        let found = oracle::stored(&repo, &image.reference);
        let manifest_digest = expected.manifest_digest.clone();
        assert_eq!(found.manifest_digest, image.manifest);
        assert_eq!(Stored { manifest_digest, ..found }, expected, "{}", image.reference);
        assert_sound(&repo);
    }
}

#[test]
fn the_layers_of_an_artifact_are_stored_as_upstream_stores_them() {
    let layout = layout();
    let artifact = layout
        .artifact("sbom")
        .raw("application/spdx+json", r#"{"spdxVersion":"SPDX-2.3"}"#)
        .raw("application/octet-stream", noise(1, 2_000_000))
        .raw("application/octet-stream", "")
        .layer(tar([file("notes", "x"), file("more", noise(2, 100_000))]))
        .zstd()
        .write();
    let reference = artifact.reference.as_str();
    for kind in [DEFAULT_KIND, RepoKind(Algorithm::Sha256, Formats::V2)] {
        let expected = oracle(reference, kind).stored;
        let scratch = scratch();
        let repo = scratch.path("repo");
        pull(&[reference]).new_repo(&repo, kind).expect_success();
        // The config of all artifacts is the same one, so it names no layers.
        let found = oracle::stored(&repo, reference);
        assert_eq!(found.layer_streams, expected.layer_streams, "{kind}");
        assert_eq!((found.erofs_v1, found.erofs_v2), (None, None));
        assert_sound(&repo);
    }
}

#[test]
fn what_upstream_refuses_is_refused_with_one_line_and_leaves_a_clean_repository() {
    let layout = layout();
    let cases: Vec<(&str, Image)> =
        corpus::refused().iter().map(|case| (case.name, case.write(&layout))).collect();
    for (name, image) in &cases {
        let scratch = scratch();
        let repo = scratch.path("repo");
        let finished = pull(&[&image.reference]).new_repo(&repo, DEFAULT_KIND).expect_failure(1);
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert!(matches!(&*lines, [line] if is_clear(line, &image.reference, name)), "{name}: {finished}");
        assert_no_tags(&repo);
        oracle::assert_clean(&repo);
        let theirs = scratch.path("theirs");
        oracle::create(&theirs, DEFAULT_KIND);
        assert!(oracle::upstream_pull(&theirs, &image.reference, name).is_err(), "upstream takes {name}");
    }
}

#[test]
fn a_refused_image_does_no_harm_to_the_others_of_its_batch() {
    let (layout, scratch) = (layout(), scratch());
    let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
    let refused: Vec<Image> = corpus::refused().iter().map(|case| case.write(&layout)).collect();
    // It has the whole layer that one of the refused images has too.
    let good = layout
        .image("good")
        .layer(tar([dir("etc"), file("etc/hostname", "x")]))
        .layer(tar([dir("usr"), file("usr/f", noise(1, 5000))]))
        .write();
    let references: Vec<&str> = refused.iter().chain([&good]).map(|image| image.reference.as_str()).collect();
    let finished = pull(&references).new_repo(&ours, DEFAULT_KIND).expect_failure(3);
    assert_eq!(finished.stderr.lines().count(), refused.len(), "{finished}");
    for image in &refused {
        finished.clone().says(&[&image.reference]);
    }
    let expected = upstream_batch(&theirs, DEFAULT_KIND, &[&good.reference]);
    assert_same_images(&ours, &[&good.reference], &expected, DEFAULT_KIND);
    oracle::assert_clean(&ours);
    // What the refused ones left behind has no name, or goes with the next collection.
    oracle::gc(&ours);
    assert_same_images(&ours, &[&good.reference], &expected, DEFAULT_KIND);
    assert_sound(&ours);
}

/// A pull of all `references`, without progress.
fn pull(references: &[&str]) -> Invocation {
    cfs_dag(["pull", "--progress=none"].iter().chain(references))
}

trait NewRepo {
    /// Into a repository that it makes itself.
    fn new_repo(self, path: &Path, kind: RepoKind) -> Invocation;
}

impl NewRepo for Invocation {
    fn new_repo(self, path: &Path, RepoKind(algorithm, formats): RepoKind) -> Invocation {
        let algorithm = match algorithm {
            Algorithm::Sha256 => "--algorithm=sha256",
            Algorithm::Sha512 => "--algorithm=sha512",
        };
        let formats = match formats {
            Formats::V1 => "--erofs-version=1",
            Formats::V2 => "--erofs-version=2",
            Formats::Both => "--erofs-version=1,2",
        };
        self.arg("--insecure").arg(algorithm).arg(formats).repo(path)
    }
}

/// Upstream's pull of all images into one new repository.
fn upstream_batch(repo: &Path, kind: RepoKind, references: &[&str]) -> Vec<Stored> {
    oracle::create(repo, kind);
    let pull = |reference: &&str| {
        oracle::upstream_pull(repo, reference, reference)
            .unwrap_or_else(|error| panic!("upstream refuses {reference} ({kind}): {error}"))
    };
    references.iter().map(pull).collect()
}

#[track_caller]
fn assert_same_images(repo: &Path, references: &[&str], expected: &[Stored], kind: RepoKind) {
    for (reference, expected) in references.iter().zip(expected) {
        assert_eq!(oracle::stored(repo, reference), *expected, "{reference} ({kind})");
    }
}

/// Asserts that but for the manifests, whose bytes vary with upstream, both have the same objects, once
/// upstream's is rid of the first versions of what it writes twice.
#[track_caller]
fn assert_same_objects(ours: &Path, theirs: &Path, manifests: usize, kind: RepoKind) {
    oracle::gc(theirs);
    let (ours, theirs) = (without_manifests(ours), without_manifests(theirs));
    let only: Vec<_> = ours.symmetric_difference(&theirs).take(10).collect();
    assert!(only.is_empty(), "{kind}: only one side has {only:?}");
    assert!(ours.len() > manifests, "{kind}: nothing was compared");
}

fn without_manifests(repo: &Path) -> BTreeSet<String> {
    let is_manifest =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("oci-manifest-");
    let mut objects = oracle::objects(repo);
    let streams = fs::read_dir(repo.join("streams")).unwrap().map(|entry| entry.unwrap().path());
    for manifest in streams.filter(is_manifest) {
        let target = fs::read_link(manifest).unwrap();
        let object = target.strip_prefix("../objects").unwrap().to_str().unwrap();
        assert!(objects.remove(object), "{object}");
    }
    objects
}

/// Asserts that upstream finds nothing to complain about and nothing to remove.
#[track_caller]
fn assert_sound(repo: &Path) {
    oracle::assert_clean(repo);
    oracle::assert_gc_removes_nothing(repo);
}

#[track_caller]
fn assert_no_tags(repo: &Path) {
    let Ok(tags) = fs::read_dir(repo.join("streams/refs/oci")) else { return };
    let tags: Vec<_> = tags.map(|entry| entry.unwrap().file_name()).collect();
    assert!(tags.is_empty(), "{tags:?}");
}

/// Whether a person would know from this line which image is meant, and what is wrong with it.
fn is_clear(line: &str, reference: &str, case: &str) -> bool {
    let (needs, tells): (&[&str], &str) = match case {
        "gnu-sparse" | "pax-sparse" => (&["layer 1 of 1", "usr/hole"], "sparse"),
        "unknown-type" => (&["layer 1 of 1", "usr/what"], "type"),
        "broken-checksum" => (&["layer 1 of 1"], "checksum"),
        "cut-in-header" | "cut-in-content" => (&["layer 1 of 1"], "ends"),
        "no-end" => (&["layer 1 of 1"], "end mark"),
        "garbage" => (&["layer 1 of 1"], "corrupt"),
        "run-symlink" => (&["/run"], "a directory is needed"),
        "below-symlink" => (&["layer 2 of 2", "lib/foo"], "has to carry usr/lib/foo"),
        "linked-whiteout" => (&["usr/a, usr/b"], "0:0"),
        "dot-dot" => (&["layer 1 of 1"], ".."),
        "dangling-hard-link" => (&["layer 1 of 1", "usr/link"], "nothing"),
        "under-a-file" => (&["layer 1 of 1"], "usr/before"),
        _ => panic!("{case}: say here what must be said of it"),
    };
    line.starts_with("cfs-dag: ")
        && line.contains(reference)
        && line.contains(tells)
        && needs.iter().all(|word| line.contains(word))
}
