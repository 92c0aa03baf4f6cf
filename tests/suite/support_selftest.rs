//! Tests of what the other tests stand on: archives, images, the oracle, comparisons.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use support::{
    corpus,
    image::{self, ImageBuilder, layout, sha256, skopeo},
    oracle::{self, Algorithm, DEFAULT_KIND, Formats, RepoKind, oracle},
    real::{NAMES, real_image, tars_of},
    registry_real::real_registry,
    repo::{assert_same_repo, cfs_dag, command, difference, repo_manifest, scratch},
    tar::*,
    tree,
};

#[test]
fn upstream_pulls_every_accepted_image_into_every_kind_of_repository() {
    let layout = layout();
    for case in corpus::accepted() {
        let image = case.write(&layout);
        for kind in oracle::ALL_KINDS {
            let pulled = oracle(&image.reference, kind);
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
        oracle::create(&repo, DEFAULT_KIND);
        assert!(oracle::upstream_pull(&repo, &image.reference, "x").is_err(), "{}", case.name);
    }
}

#[test]
fn every_image_mounts_as_the_tree_of_its_tars() {
    if !tree::can_mount() {
        return;
    }
    let layout = layout();
    for case in corpus::accepted() {
        let image = case.write(&layout);
        for kind in [RepoKind(Algorithm::Sha512, Formats::V1), RepoKind(Algorithm::Sha256, Formats::V2)] {
            let pulled = oracle(&image.reference, kind);
            tree::assert_mounts(&pulled.repo(), &image.reference, &case.layers);
        }
    }
}

#[test]
fn the_tree_comparison_finds_a_planted_difference() {
    if !tree::can_mount() {
        return;
    }
    let files =
        |content: &str, mode| [dir("usr"), file("usr/a", content).mode(mode), file("usr/b", noise(1, 100))];
    let layout = layout();
    let image = layout.image("a").layer(tar(files("one", 0o644))).write();
    let pulled = oracle(&image.reference, DEFAULT_KIND);
    let mounted = tree::mount(&pulled.repo(), &image.reference).unwrap();
    let found = tree::tree_at(mounted.path());
    let differences =
        |entries: Vec<Entry>| difference(&tree::expected_tree([tar(entries)], Formats::V1), &found).len();
    assert_eq!(differences(files("one", 0o644).into()), 0);
    assert_eq!(differences(files("two", 0o644).into()), 2, "content");
    assert_eq!(differences(files("one", 0o600).into()), 2, "mode");
    assert_eq!(
        differences([dir("usr"), file("usr/a", "one"), file("usr/b", noise(2, 100))].into()),
        2,
        "large content"
    );
    assert_eq!(differences([dir("usr"), file("usr/a", "one")].into()), 1, "a file too many");
    assert_eq!(
        differences([dir("usr"), file("usr/b", noise(1, 100)), hardlink("usr/a", "usr/b")].into()),
        4,
        "links"
    );
}

#[test]
fn the_packing_of_a_layer_changes_nothing_that_is_stored() {
    let bytes = tar([dir("usr"), file("usr/a", noise(1, 300_000))]);
    let layout = layout();
    let layer = |tag: &str| layout.image(tag).layer(bytes.as_slice());
    let images = [
        layer("gzip").gzip().write(),
        layer("zstd").zstd().write(),
        layer("plain").plain().write(),
        layer("members").multi_member().write(),
        layer("frames").multi_frame_with_skippable().write(),
    ];
    let stored = images.each_ref().map(|image| oracle(&image.reference, DEFAULT_KIND).stored);
    for (image, other) in images.iter().zip(&stored) {
        assert_eq!(image.layers[0].diff_id, images[0].layers[0].diff_id);
        assert_eq!(other.layer_streams, stored[0].layer_streams);
        assert_eq!((&other.config_stream, &other.erofs_v1), (&stored[0].config_stream, &stored[0].erofs_v1));
    }
    let blobs: BTreeSet<_> = images.iter().map(|image| &image.layers[0].blob).collect();
    assert_eq!(blobs.len(), images.len());
}

#[test]
fn upstream_takes_the_image_of_this_platform_out_of_an_index() {
    let layout = layout();
    let ours = layout.image("").layer(tar([dir("usr"), file("usr/here", "x")])).write();
    let other =
        layout.image("").platform("linux/s390x").layer(tar([dir("usr"), file("usr/there", "x")])).write();
    layout.index("multi", &[&other, &ours]);
    let pulled = oracle(&layout.reference("multi"), DEFAULT_KIND);
    assert_eq!(pulled.stored.manifest_digest, ours.manifest);
}

#[test]
fn upstream_stores_artifacts_with_any_layers() {
    let layout = layout();
    let artifact = layout
        .artifact("sbom")
        .raw("application/spdx+json", r#"{"spdxVersion":"SPDX-2.3"}"#)
        .layer(tar([file("notes", "x")]))
        .zstd()
        .write();
    let pulled = oracle(&artifact.reference, DEFAULT_KIND);
    let streams: Vec<_> = pulled.stored.layer_streams.iter().map(|(id, _)| id).collect();
    assert_eq!(streams, artifact.layers.iter().map(|layer| &layer.blob).collect::<Vec<_>>());
    assert_eq!(pulled.stored.erofs_v1, None);
    oracle::assert_clean(&pulled.repo());
}

#[test]
fn upstream_believes_a_wrong_diff_id_and_a_changed_blob() {
    // Its oci: path checks neither. This is why the engine does.
    let (good, evil) = (tar([dir("usr"), file("usr/a", "good")]), tar([dir("usr"), file("usr/a", "evil")]));
    let layout = layout();
    let liar = layout.image("liar").layer(evil).claims_diff_id_of(&good).write();
    let poisoned = oracle(&liar.reference, DEFAULT_KIND).stored;
    let honest = layout.image("honest").layer(good.as_slice()).write();
    assert_eq!(liar.layers[0].diff_id, honest.layers[0].diff_id);
    assert_ne!(poisoned.layer_streams, oracle(&honest.reference, DEFAULT_KIND).stored.layer_streams);
    let layout = image::layout();
    let changed = layout.image("changed").layer(good).wrong_blob_digest().write();
    let blob = std::fs::read(layout.blob(&changed.layers[0].blob)).unwrap();
    assert_ne!(sha256(&blob), changed.layers[0].blob);
    oracle(&changed.reference, DEFAULT_KIND);
}

#[test]
fn upstream_refuses_broken_images() {
    let bytes = tar([dir("usr"), file("usr/a", noise(1, 10_000))]);
    let broken: [fn(ImageBuilder<'_>) -> ImageBuilder<'_>; 4] = [
        |image| image.truncated_blob(),
        |image| image.missing_blob(),
        |image| image.layer(tar([])).lost_diff_ids(1),
        |image| image.plain().media_type("application/vnd.oci.image.layer.v1.tar+gzip"),
    ];
    for (n, make) in broken.iter().enumerate() {
        let (layout, scratch) = (layout(), scratch());
        let image = make(layout.image("broken").layer(bytes.as_slice())).write();
        oracle::create(&scratch.path("repo"), DEFAULT_KIND);
        let refused = oracle::upstream_pull(&scratch.path("repo"), &image.reference, "x").is_err();
        assert!(refused, "broken image {n}");
    }
}

#[test]
fn skopeo_reads_what_is_written() {
    let layout = layout();
    let bytes = tar([dir("usr"), file("usr/a", noise(1, 10_000))]);
    let oci = layout.image("app").layer(bytes.as_slice()).write();
    let docker = layout
        .image("docker")
        .layer(bytes.as_slice())
        .layer(tar([file("usr/b", "x")]))
        .plain()
        .write_docker_dir();
    let folder = layout.image("folder").layer(bytes).zstd().write_dir();
    for image in [&oci, &docker, &folder] {
        assert_eq!(sha256(skopeo(&["inspect", "--raw", &image.reference]).as_bytes()), image.manifest);
    }
    for archive in [oci.as_archive(&layout, "oci-archive"), docker.as_archive(&layout, "docker-archive")] {
        assert!(skopeo(&["inspect", &archive]).contains("\"Architecture\""), "{archive}");
    }
    let from_archive = oracle(&oci.as_archive(&layout, "oci-archive"), DEFAULT_KIND).stored;
    assert_eq!(from_archive.erofs_v1, oracle(&oci.reference, DEFAULT_KIND).stored.erofs_v1);
}

#[test]
fn upstream_pulls_the_same_through_a_real_registry() {
    let layout = layout();
    let image = layout.image("app").layer(tar([dir("usr"), file("usr/a", noise(1, 100_000))])).zstd().write();
    let registry = real_registry();
    let reference = registry.push(&image.reference, "app:v1");
    registry.forget_requests();
    let by_tag = oracle(&reference, DEFAULT_KIND).stored;
    assert_eq!(registry.blobs_read(), [&*image.config, &*image.layers[0].blob]);
    assert_eq!(by_tag, oracle(&image.pinned(&reference), DEFAULT_KIND).stored);
    assert_eq!(by_tag, oracle(&image.reference, DEFAULT_KIND).stored);
}

#[test]
fn the_repository_comparison_finds_a_planted_file() {
    let layout = layout();
    let image = layout.image("one").layer(tar([dir("usr"), file("usr/a", noise(1, 5000))])).write();
    let repo = oracle(&image.reference, DEFAULT_KIND);
    assert_same_repo(&repo.repo(), &repo.repo());
    let before = repo_manifest(&repo.repo());
    std::fs::create_dir(repo.repo().join("cfs-dag")).unwrap();
    std::fs::write(repo.repo().join("cfs-dag/ours"), "not compared").unwrap();
    std::fs::write(repo.repo().join("streams/planted"), "x").unwrap();
    let found = difference(&before, &repo_manifest(&repo.repo()));
    assert!(
        matches!(&*found, [line] if line.starts_with("+ streams/planted file 0644 1 sha256:")),
        "{found:?}"
    );
}

#[test]
fn gc_is_seen_to_remove_what_nobody_names() {
    let layout = layout();
    let image = layout.image("one").layer(tar([dir("usr"), file("usr/a", noise(1, 5000))])).write();
    let pulled = oracle(&image.reference, DEFAULT_KIND);
    // Upstream writes config and manifest twice and leaves the first of each behind.
    assert!(oracle::gc(&pulled.repo()).objects_removed > 0);
    oracle::assert_gc_removes_nothing(&pulled.repo());
    oracle::assert_clean(&pulled.repo());
    let victim = pulled.repo().join("objects").join(oracle::objects(&pulled.repo()).first().unwrap());
    std::fs::write(victim, "damage").unwrap();
    assert!(!oracle::fsck(&pulled.repo()).is_empty());
}

#[test]
fn a_command_that_hangs_is_killed_with_all_its_children() {
    let scratch = scratch();
    let marker = scratch.path("survived");
    let script = "echo before; (sleep 0.8; touch $0) & sleep 1000";
    let hang = command("sh", ["-c", script]).arg(&marker).time_limit(Duration::from_millis(200));
    let panic = std::panic::catch_unwind(AssertUnwindSafe(|| hang.run())).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("before") && message.contains("hung"), "{message}");
    std::thread::sleep(Duration::from_secs(1));
    assert!(!marker.exists());
}

#[test]
fn the_built_program_runs_at_a_fixed_umask() {
    let finished =
        command("sh", ["-c", "umask; echo oops >&2; exit 3"]).expect_failure(3).says(&["oo", "ps"]);
    assert_eq!(finished.stdout, "0022\n");
    assert!(cfs_dag(["--version"]).run().code.is_some());
}

#[test]
fn real_images_share_layers_and_mount_as_the_trees_of_their_tars() {
    let scratch = scratch();
    let repo = scratch.path("repo");
    oracle::create(&repo, DEFAULT_KIND);
    let pulled = NAMES.map(|name| oracle::upstream_pull(&repo, &real_image(name), name).unwrap());
    let layers: BTreeSet<_> = pulled.iter().flat_map(|image| &image.layer_streams).collect();
    assert_eq!(layers.len(), 8, "base is shared by three");
    oracle::assert_clean(&repo);
    if tree::can_mount() {
        for name in ["web", "python"] {
            tree::assert_mounts(&repo, name, tars_of(name));
        }
    }
}
