//! `oci:` layouts, sound and hostile, read through the public interface. Ignores skopeo.

use std::{fs, os::unix::fs::symlink};

use cfs_dag::{
    source::{DocumentCache, ErrorKind, LayoutSource, Platform, Resolved, Result, Source},
    types::{Budget, Digest},
};
use serde_json::json;
use support::{
    layout::*,
    source::{failure, host, read},
};

fn source(reference: &str, platform: Option<&str>) -> LayoutSource {
    LayoutSource::new(&reference.parse().unwrap(), platform.map(|p| p.parse::<Platform>().unwrap()))
}

async fn resolve(reference: &str) -> Result<Resolved> {
    source(reference, None).resolve(&DocumentCache::default()).await
}

fn scratch() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("images"));
    (dir, layout)
}

#[tokio::test]
async fn an_image_comes_with_its_layers() {
    let (_dir, mut layout) = scratch();
    let (base, top) = (vec![7; 300_000], b"top".to_vec());
    let entry = layout.image(&host(), &[&base, &top]);
    layout.add(entry.clone(), Some("v1"));
    let reference = format!("oci:{}:v1", layout.path.display());
    let source = source(&reference, None);
    let resolved = source.resolve(&DocumentCache::default()).await.unwrap();
    assert_eq!(entry["digest"], json!(resolved.manifest_digest));
    assert!(resolved.is_container && resolved.original_digest.is_none());
    assert_eq!(resolved.diff_ids, Some(vec![Digest::of(&base), Digest::of(&top)]));
    for piece in [1 << 18, 1 << 20, 300_000, 1000] {
        assert_eq!(read(&source, &resolved.layers[0], piece).await.unwrap(), base);
    }
    assert_eq!(read(&source, &resolved.layers[1], 4096).await.unwrap(), top);
    assert_eq!(source.describe(), reference);
}

#[tokio::test]
async fn one_of_several_tags_must_be_named() {
    let (_dir, mut layout) = scratch();
    let path = layout.path.display().to_string();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::NotFound, "holds no image");
    let (old, new) = (layout.image(&host(), &[b"old"]), layout.image(&host(), &[b"new"]));
    layout.add(old.clone(), Some("v1"));
    assert!(resolve(&format!("oci:{path}")).await.is_ok());
    layout.add(new.clone(), Some("v2"));
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::NotFound, "name one of the tags v1, v2");
    failure(
        resolve(&format!("oci:{path}:v3")).await,
        ErrorKind::NotFound,
        "no tag \"v3\" in the layout: it has v1, v2",
    );
    let resolved = resolve(&format!("oci:{path}:v2")).await.unwrap();
    assert_eq!(new["digest"], json!(resolved.manifest_digest));
    let pinned = old["digest"].as_str().unwrap();
    let resolved = resolve(&format!("oci:{path}@{pinned}")).await.unwrap();
    assert_eq!(pinned, resolved.manifest_digest.to_string());
    let absent = Digest::of(b"absent");
    failure(resolve(&format!("oci:{path}@{absent}")).await, ErrorKind::NotFound, "no image sha256:");
}

#[tokio::test]
async fn an_index_is_followed_for_the_platform() {
    for (index, nested) in [(OCI_INDEX, false), (DOCKER_LIST, false), (OCI_INDEX, true)] {
        let (_dir, mut layout) = scratch();
        let path = layout.path.display().to_string();
        let here = layout.image(&host(), &[b"here"]);
        let other = layout.image("s390x", &[b"other"]);
        let mut attestation = layout.image("unknown", &[b"about"]);
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        let variant = Platform::host().variant;
        let entries = [
            attestation,
            on_platform(other.clone(), "s390x", None),
            on_platform(here.clone(), &host(), variant.as_deref()),
        ];
        let mut entry = layout.index(index, &entries);
        if nested {
            entry = layout.index(index, &[on_platform(entry, &host(), None)]);
        }
        layout.add(entry.clone(), Some("multi"));
        let resolved = resolve(&format!("oci:{path}")).await.unwrap();
        assert_eq!(here["digest"], json!(resolved.manifest_digest));
        let pinned_index = entry["digest"].as_str().unwrap();
        let resolved = resolve(&format!("oci:{path}@{pinned_index}")).await.unwrap();
        assert_eq!(here["digest"], json!(resolved.manifest_digest));
        let pinned_child = other["digest"].as_str().unwrap();
        let resolved = resolve(&format!("oci:{path}@{pinned_child}")).await.unwrap();
        assert_eq!(pinned_child, resolved.manifest_digest.to_string());
        if !nested {
            let resolved = source(&format!("oci:{path}:multi"), Some("linux/s390x"))
                .resolve(&DocumentCache::default())
                .await
                .unwrap();
            assert_eq!(other["digest"], json!(resolved.manifest_digest));
            let absent = source(&format!("oci:{path}:multi"), Some("linux/mips64"))
                .resolve(&DocumentCache::default())
                .await;
            let there = format!("no image for linux/mips64: there are linux/s390x, {}", Platform::host());
            failure(absent, ErrorKind::NotFound, &there);
        }
    }
}

#[tokio::test]
async fn a_platform_that_only_the_config_names_is_found() {
    let (_dir, mut layout) = scratch();
    let (here, other) = (layout.image(&host(), &[b"here"]), layout.image("s390x", &[b"other"]));
    layout.add(other.clone(), None);
    layout.add(here.clone(), None);
    let reference = format!("oci:{}", layout.path.display());
    assert_eq!(here["digest"], json!(resolve(&reference).await.unwrap().manifest_digest));
    let resolved = source(&reference, Some("linux/s390x")).resolve(&DocumentCache::default()).await.unwrap();
    assert_eq!(other["digest"], json!(resolved.manifest_digest));
}

#[tokio::test]
async fn a_single_foreign_image_is_taken_unless_another_platform_was_asked_for() {
    let (_dir, mut layout) = scratch();
    let entry = layout.image("s390x", &[b"layer"]);
    layout.add(entry, Some("v1"));
    let reference = format!("oci:{}:v1", layout.path.display());
    assert!(resolve(&reference).await.is_ok());
    let asked = source(&reference, Some("linux/mips64")).resolve(&DocumentCache::default()).await;
    failure(asked, ErrorKind::NotFound, "the image is for linux/s390x, not for linux/mips64");
}

#[tokio::test]
async fn docker_schema_2_in_a_layout_is_converted() {
    let (_dir, mut layout) = scratch();
    let config = config(&host(), &[b"layer"]);
    let manifest = docker_manifest(&config, &[b"layer"]);
    [b"layer".as_slice(), &config, &manifest].iter().for_each(|bytes| layout.blob(bytes));
    layout.add(descriptor(DOCKER_MANIFEST, &manifest), Some("v1"));
    let resolved = resolve(&format!("oci:{}:v1", layout.path.display())).await.unwrap();
    assert!(resolved.is_container);
    assert_eq!(resolved.original_digest, Some(Digest::of(&manifest)));
    assert_eq!(*resolved.config, config);
}

#[tokio::test]
async fn an_artifact_is_no_container() {
    let (_dir, mut layout) = scratch();
    let manifest = json!({"schemaVersion": 2, "config": descriptor("application/vnd.oci.empty.v1+json",
        b"{}"),
        "layers": [descriptor("application/wasm", b"code")]});
    let manifest = manifest.to_string().into_bytes();
    [b"{}".as_slice(), b"code", &manifest].iter().for_each(|bytes| layout.blob(bytes));
    layout.add(descriptor(OCI_MANIFEST, &manifest), Some("tool"));
    let reference = format!("oci:{}:tool", layout.path.display());
    // A platform means nothing to an artifact.
    let resolved = source(&reference, Some("linux/mips64")).resolve(&DocumentCache::default()).await.unwrap();
    assert!(!resolved.is_container && resolved.diff_ids.is_none());
    assert_eq!(resolved.layers[0].media_type, "application/wasm");
}

#[tokio::test]
async fn what_is_no_layout_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    failure(resolve(&format!("oci:{path}/absent")).await, ErrorKind::NotFound, "no such directory");
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::NotFound, "no file oci-layout");
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::Corrupt, "version \"2.0.0\"");
    fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::Corrupt, "names no version");
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::NotFound, "index.json is missing");
    fs::write(dir.path().join("index.json"), "[").unwrap();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::Corrupt, "index.json is malformed");
    fs::write(dir.path().join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
    failure(resolve(&format!("oci:{path}")).await, ErrorKind::Corrupt, "index.json has 4194305 bytes");
    fs::write(dir.path().join("file"), "").unwrap();
    failure(resolve(&format!("oci:{path}/file")).await, ErrorKind::NotFound, "oci-archive:");
}

#[tokio::test]
async fn a_hostile_manifest_or_config_is_refused() {
    let (_dir, mut layout) = scratch();
    let reference = format!("oci:{}", layout.path.display());
    let config = config(&host(), &[b"layer"]);
    let manifest = manifest(&config, &[b"layer"]);
    let entry = layout.image(&host(), &[b"layer"]);
    layout.add(entry.clone(), None);
    let spoilt = |bytes: &[u8]| [&bytes[..bytes.len() - 1], b" "].concat();

    fs::write(layout.blob_path(&config), spoilt(&config)).unwrap();
    failure(resolve(&reference).await, ErrorKind::Corrupt, "the config does not match its digest");
    fs::write(layout.blob_path(&config), b"short").unwrap();
    failure(resolve(&reference).await, ErrorKind::Corrupt, "the config: the blob has 5 bytes");
    fs::remove_file(layout.blob_path(&config)).unwrap();
    failure(resolve(&reference).await, ErrorKind::NotFound, "the config: the layout lacks the blob sha256:");
    fs::write(layout.blob_path(&manifest), spoilt(&manifest)).unwrap();
    failure(resolve(&reference).await, ErrorKind::Corrupt, "the manifest does not match its digest");

    let (_dir, mut layout) = scratch();
    let mut entry = layout.image(&host(), &[b"layer"]);
    entry["size"] = json!(5 << 20);
    layout.add(entry, None);
    let reference = format!("oci:{}", layout.path.display());
    failure(resolve(&reference).await, ErrorKind::Corrupt, "the manifest has 5242880 bytes");
}

#[tokio::test]
async fn a_link_may_not_leave_the_layout() {
    let (dir, mut layout) = scratch();
    let entry = layout.image(&host(), &[b"layer"]);
    layout.add(entry, None);
    let source = source(&format!("oci:{}", layout.path.display()), None);
    let layer = source.resolve(&DocumentCache::default()).await.unwrap().layers.remove(0);
    let place = layout.blob_path(b"layer");

    fs::rename(&place, layout.path.join("kept-here")).unwrap();
    symlink("../../kept-here", &place).unwrap();
    assert_eq!(read(&source, &layer, 100).await.unwrap(), b"layer");

    fs::write(dir.path().join("outside"), b"layer").unwrap();
    for target in ["../../../outside", dir.path().join("outside").to_str().unwrap(), "/proc/self/exe"] {
        fs::remove_file(&place).unwrap();
        symlink(target, &place).unwrap();
        failure(read(&source, &layer, 100).await, ErrorKind::Corrupt, "leads out of the layout");
    }
    fs::remove_file(&place).unwrap();
    symlink(&place, &place).unwrap();
    failure(read(&source, &layer, 100).await, ErrorKind::Corrupt, "link that leads");
    fs::remove_file(&place).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &place, rustix::fs::Mode::RUSR).unwrap();
    failure(read(&source, &layer, 100).await, ErrorKind::Corrupt, "no regular file");
}

#[tokio::test]
async fn a_blob_of_another_length_is_reported() {
    let (_dir, mut layout) = scratch();
    let entry = layout.image(&host(), &[b"layer"]);
    layout.add(entry, None);
    let source = source(&format!("oci:{}", layout.path.display()), None);
    let layer = source.resolve(&DocumentCache::default()).await.unwrap().layers.remove(0);
    let account = Budget::new(100).open(100, std::sync::Arc::new(|| {})).unwrap();
    let place = layout.blob_path(b"layer");

    fs::write(&place, b"layers").unwrap();
    failure(
        read(&source, &layer, 100).await,
        ErrorKind::Corrupt,
        "the blob has 6 bytes, its descriptor says 5",
    );

    fs::write(&place, b"layer").unwrap();
    let mut shrinking = source.open_blob(&layer).await.unwrap();
    fs::write(&place, b"lay").unwrap();
    let read = shrinking.read(account.buffer(100).unwrap()).await;
    failure(read.map(|_| ()), ErrorKind::Corrupt, "ends after 3 of 5 bytes");

    fs::write(&place, b"layer").unwrap();
    let mut growing = source.open_blob(&layer).await.unwrap();
    let (buffer, filled) = growing.read(account.buffer(100).unwrap()).await.unwrap();
    assert_eq!(filled, 5);
    drop(buffer);
    fs::write(&place, b"layer and more").unwrap();
    failure(growing.finish().await, ErrorKind::Corrupt, "the blob has 14 bytes");
}
