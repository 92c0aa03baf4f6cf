//! Manifests, indexes, lists and layouts that are not what they should be.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

use support::{
    image::{Image, layout},
    layout::{self as documents, Layout, OCI_INDEX, OCI_MANIFEST, descriptor},
    oracle,
    registry::Registry,
    repo::{Finished, cfs_dag, repo_manifest, scratch},
    source::host,
    tar::*,
};

const BAD_DIGESTS: [&str; 8] = [
    "sha256:../../../../../../../../../../../../../../../../../../../etc/passwd",
    "sha256:ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789",
    "sha512:abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
    "../../x:abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
    "sha256/abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
    "sha256:abcdef0123456789abcdef0123456789abcdef0123456789abcdef012345678/",
    "sha256:",
    "",
];

fn pull(reference: &str, repo: &Path) -> Finished {
    cfs_dag(["pull", "--insecure", "--progress=none", reference])
        .time_limit(Duration::from_secs(40))
        .repo(repo)
        .expect_failure(1)
}

fn layer() -> Vec<u8> {
    tar([dir("usr"), file("usr/f", noise(1, 1000))])
}

#[test]
fn what_is_no_digest_becomes_no_path() {
    let scratch = scratch();
    for (n, bad) in BAD_DIGESTS.iter().enumerate() {
        let bytes = layer();
        let config = documents::config("amd64", &[&bytes]);
        let manifest: Value = serde_json::from_slice(&documents::manifest(&config, &[&bytes])).unwrap();
        let with = |path: &str, document: &Value| {
            let mut document = document.clone();
            *document.pointer_mut(path).unwrap() = (*bad).into();
            document.to_string().into_bytes()
        };
        let bad_config: Value = serde_json::from_slice(&config).unwrap();
        let bad_config = with("/rootfs/diff_ids/0", &bad_config);
        let cases = [
            ("layer", with("/layers/0/digest", &manifest)),
            ("config", with("/config/digest", &manifest)),
            ("diff_id", documents::manifest(&bad_config, &[&bytes])),
        ];
        for (what, manifest) in cases {
            let mut layout = Layout::new(scratch.path(&format!("{what}{n}")));
            [&bytes, &config, &bad_config, &manifest].into_iter().for_each(|bytes| layout.blob(bytes));
            layout.add(descriptor(OCI_MANIFEST, &manifest), None);
            refused_before_anything(&layout, &scratch.path(&format!("repo {what}{n}")), what, bad);
        }
        let mut layout = Layout::new(scratch.path(&format!("index{n}")));
        layout.add(json!({"mediaType": OCI_MANIFEST, "digest": bad, "size": 5}), None);
        refused_before_anything(&layout, &scratch.path(&format!("repo index{n}")), "index", bad);
    }
}

#[track_caller]
fn refused_before_anything(layout: &Layout, repo: &Path, what: &str, bad: &str) {
    let finished = pull(&format!("oci:{}", layout.path.display()), repo);
    assert!(
        finished.stderr.contains("digest") || finished.stderr.contains("malformed"),
        "{what} {bad}: {finished}"
    );
    assert!(!repo.exists(), "{what} {bad}: a repository was made");
}

#[test]
fn a_lock_or_plan_with_what_is_no_digest_is_refused() {
    let scratch = scratch();
    let layout = layout();
    let image = layout.image("a").layer(layer()).write();
    let (list, lock, plan) = (scratch.path("list"), scratch.path("lock"), scratch.path("plan"));
    fs::write(&list, &image.reference).unwrap();
    let mirror = ["mirror", list.to_str().unwrap(), "--insecure", "--lock", lock.to_str().unwrap()];
    cfs_dag(mirror).repo(scratch.path("repo")).expect_success();
    let pull = ["pull", "--dry-run", "--insecure", &image.reference, "--plan-out", plan.to_str().unwrap()];
    cfs_dag(pull).repo(scratch.path("other")).expect_success();
    for (path, command) in [
        (&lock, [&mirror[..], &["--locked"]].concat()),
        (&plan, vec!["pull", "--insecure", "--plan", plan.to_str().unwrap()]),
    ] {
        let honest = fs::read_to_string(path).unwrap();
        assert!(honest.contains(&image.manifest));
        for bad in BAD_DIGESTS {
            fs::write(path, honest.replace(&image.manifest, bad)).unwrap();
            let finished = cfs_dag(&command).repo(scratch.path("new")).run();
            assert!(finished.code.is_some_and(|code| code != 0), "{bad:?} in {}: {finished}", path.display());
            assert!(!scratch.path("new").exists(), "{bad:?}: a repository was made");
        }
    }
}

#[test]
fn a_document_of_a_gigabyte_is_not_read() {
    let scratch = scratch();
    for name in ["index.json", "oci-layout"] {
        let layout = layout();
        layout.image("a").layer(layer()).write();
        let large = fs::OpenOptions::new().write(true).open(layout.path().join(name)).unwrap();
        large.set_len(1 << 30).unwrap();
        let finished = pull(&layout.reference("a"), &scratch.path("repo"));
        assert!(finished.stderr.contains("more than 4194304 are refused"), "{finished}");
        assert!(finished.peak_memory < 64 << 20, "{} bytes", finished.peak_memory);
    }
    for (what, field) in [("the manifest", "/manifests/0/size"), ("the config", "/config/size")] {
        let layout = layout();
        let image = layout.image("a").layer(layer()).write();
        let is_index = what == "the manifest";
        let path = if is_index { layout.path().join("index.json") } else { layout.blob(&image.manifest) };
        let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        *document.pointer_mut(field).unwrap() = (1u64 << 30).into();
        if is_index {
            fs::write(&path, document.to_string()).unwrap();
            let finished = pull(&layout.reference("a"), &scratch.path("repo"));
            assert!(finished.stderr.contains("more than 4194304 are refused"), "{finished}");
        } else {
            let bytes = document.to_string().into_bytes();
            let mut other = Layout::new(scratch.path("config"));
            other.blob(&bytes);
            other.add(descriptor(OCI_MANIFEST, &bytes), None);
            let finished = pull(&format!("oci:{}", other.path.display()), &scratch.path("repo"));
            assert!(finished.stderr.contains("more than 4194304 are refused"), "{finished}");
        }
    }
}

/// What a registry sends is read by skopeo, and by us from skopeo.
#[test]
fn a_large_document_of_a_registry_is_not_read() {
    let registry = Registry::start();
    let small = layer();
    registry.image("app", "honest", &host(), &[&small]);
    let honest = documents::manifest(&documents::config(&host(), &[&small]), &[&small]);
    let honest: Value = serde_json::from_slice(&honest).unwrap();
    let large = |mut document: Value| {
        document["annotations"] = json!({"large": "x".repeat(64 << 20)});
        document.to_string().into_bytes()
    };
    registry.manifest("app", Some("manifest"), OCI_MANIFEST, &large(honest.clone()));
    let config = large(json!({}));
    let digest = registry.blob("app", &config);
    for (tag, size) in [("config", config.len()), ("lying", 1000)] {
        let mut manifest = honest.clone();
        manifest["config"]["digest"] = digest.to_string().into();
        manifest["config"]["size"] = size.into();
        registry.manifest("app", Some(tag), OCI_MANIFEST, manifest.to_string().as_bytes());
    }
    let scratch = scratch();
    for tag in ["manifest", "config", "lying"] {
        let finished = cfs_dag(["pull", "--insecure", "--tls-verify=false", "--retries=0"])
            .arg(registry.reference("app", tag))
            .repo(scratch.path("repo"))
            .expect_failure(1);
        assert!(finished.peak_memory < 64 << 20, "{tag}: {} bytes: {finished}", finished.peak_memory);
    }
}

/// An index that names the same index twenty thousand times, which does the same, four deep: as a
/// tree it has 10¹⁷ leaves.
#[test]
fn an_index_is_read_once_however_often_it_is_named() {
    let scratch = scratch();
    let layout = Layout::new(scratch.path("oci"));
    let mut below =
        json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 7});
    for _ in 0..3 {
        below = layout.index(OCI_INDEX, &vec![below; 20_000]);
    }
    let entries = vec![below; 20_000];
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    fs::write(layout.path.join("index.json"), index.to_string()).unwrap();
    let wanted = "1".repeat(64);
    let finished = pull(&format!("oci:{}@sha256:{wanted}", layout.path.display()), &scratch.path("repo"));
    assert!(finished.stderr.contains("no image sha256:1111"), "{finished}");
    assert!(finished.peak_memory < 256 << 20, "{} bytes", finished.peak_memory);
}

/// Four megabytes of `{}` in a config's history are a hundred and forty of structures.
#[test]
fn many_configs_that_become_much_do_so_one_after_another() {
    let scratch = scratch();
    let bytes = layer();
    let mut layout = Layout::new(scratch.path("oci"));
    layout.blob(&bytes);
    let mut references = Vec::new();
    for n in 0..16 {
        let honest = String::from_utf8(documents::config("amd64", &[&bytes])).unwrap();
        let history = vec!["{}"; 1_300_000].join(",");
        let config = format!("{{\"author\":\"{n}\",\"history\":[{history}],{}", &honest[1..]).into_bytes();
        let manifest = documents::manifest(&config, &[&bytes]);
        [&config, &manifest].into_iter().for_each(|bytes| layout.blob(bytes));
        layout.add(descriptor(OCI_MANIFEST, &manifest), Some(&n.to_string()));
        references.push(format!("oci:{}:{n}", layout.path.display()));
    }
    let finished = cfs_dag(["pull", "--insecure", "--dry-run"])
        .args(&references)
        .repo(scratch.path("repo"))
        .expect_success();
    // Each config is kept as text, and one of them taken apart.
    assert!(finished.peak_memory < 480 << 20, "{} bytes", finished.peak_memory);
}

#[test]
fn blobs_that_are_no_files_are_refused_without_waiting() {
    let outside = scratch();
    fs::write(outside.path("secret"), layer()).unwrap();
    for kind in ["fifo", "device", "folder", "link out", "link to itself", "absolute link"] {
        for which in ["layer", "config", "manifest", "index.json", "oci-layout"] {
            let layout = layout();
            let image = layout.image("a").layer(layer()).plain().write();
            let path = match which {
                "layer" => layout.blob(&image.layers[0].blob),
                "config" => layout.blob(&image.config),
                "manifest" => layout.blob(&image.manifest),
                name => layout.path().join(name),
            };
            fs::remove_file(&path).unwrap();
            let node = |kind, device| {
                rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).unwrap();
            };
            match kind {
                "fifo" => node(FileType::Fifo, 0),
                "device" => node(FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
                "folder" => fs::create_dir(&path).unwrap(),
                "link out" => symlink("../".repeat(20) + "etc/hostname", &path).unwrap(),
                "link to itself" => symlink(path.file_name().unwrap(), &path).unwrap(),
                _ => symlink(outside.path("secret"), &path).unwrap(),
            }
            let repo = scratch();
            let finished = pull(&layout.reference("a"), &repo.path("repo"));
            let words = ["regular file", "out of the layout", "leads nowhere", "has 0 bytes"];
            assert!(words.iter().any(|word| finished.stderr.contains(word)), "{kind} {which}: {finished}");
        }
    }
}

#[test]
fn a_config_that_names_its_layers_oddly_harms_nobody() {
    let scratch = scratch();
    let good = layout();
    let image = good.image("good").layer(layer()).write();
    cfs_dag(["pull", "--insecure", &image.reference]).repo(scratch.path("repo")).expect_success();
    let before = repo_manifest(&scratch.path("repo"));
    let mut bad = Layout::new(scratch.path("bad"));
    let bytes = layer();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers",
        "diff_ids": ["oci-config"]}});
    let config = config.to_string().into_bytes();
    let manifest = documents::manifest(&config, &[&bytes]);
    [&bytes, &config, &manifest].into_iter().for_each(|bytes| bad.blob(bytes));
    bad.add(descriptor(OCI_MANIFEST, &manifest), None);
    pull(&format!("oci:{}", bad.path.display()), &scratch.path("repo"));
    assert_eq!(before, repo_manifest(&scratch.path("repo")));
}

/// Who writes an artifact chooses its config: also that of somebody's image, which must
/// not lose what it names.
#[test]
fn an_artifact_over_the_config_of_an_image_takes_nothing_from_it() {
    let layout = layout();
    // What is large comes last, whatever was asked for first.
    let large = || noise(2, 3 << 20);
    let image = layout.image("image").layer(layer()).write();
    let late_image = layout.image("late").layer(tar([dir("usr"), file("usr/f", large())])).write();
    let artifact = |tag, image, bytes: Vec<u8>| {
        layout.artifact_over(tag, image).raw("application/octet-stream", bytes).write()
    };
    let late = [&artifact("late-sbom", &image, large()), &image];
    let early = [&late_image, &artifact("sbom", &late_image, b"words".to_vec())];
    for ([one, other], is_first) in [(late, false), (early, true)] {
        let (image, artifact) = if is_first { (one, other) } else { (other, one) };
        let expected = oracle::oracle(&image.reference, oracle::DEFAULT_KIND).stored.clone();
        let steps: [&[&[&Image]]; 4] = [
            &[&[one, other]],
            &[&[image], &[artifact]],
            &[&[artifact], &[image]],
            &[&[artifact], &[image, artifact]],
        ];
        let each = steps.into_iter().flat_map(|steps| [(steps, false, false), (steps, true, false)]);
        for (steps, force, left_over) in each.chain([(steps[0], false, true)]) {
            let scratch = scratch();
            let repo = scratch.path("repo");
            let pull = |images: &[&Image]| {
                let forced = force.then_some("--force");
                let references = images.iter().map(|image| image.reference.as_str());
                cfs_dag(["pull", "--insecure", "--format=json"])
                    .args(references)
                    .args(forced)
                    .repo(&repo)
                    .expect_success()
            };
            if left_over {
                // What a run that was killed late leaves, too.
                pull(&[image]);
                cfs_dag(["untag", &image.reference]).repo(&repo).expect_success();
            }
            for images in steps {
                pull(images);
                oracle::assert_clean(&repo);
                // It may take the streams of documents that were made anew.
                oracle::gc(&repo);
                oracle::assert_clean(&repo);
            }
            assert_eq!(oracle::stored(&repo, &image.reference), expected);
            if !force {
                assert_eq!(pull(&[one, other]).json()["totals"]["barriers"], 0);
            }
        }
    }
}
