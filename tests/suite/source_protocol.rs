//! Conversations with a scripted skopeo: newer protocols than Debian's, deaths and
//! silences. Ignores registries.

use std::{sync::Arc, time::Duration};

use cfs_dag::{
    source::{Access, DocumentCache, ErrorKind, Platform, Site, Source},
    types::{Descriptor, Digest},
};
use support::{
    layout::Layout,
    skopeo::{FakeSkopeo, Trouble, is_alive},
    source::{AlikeSources, failure, host, read, read_part},
};

const STALL: Duration = Duration::from_secs(20);

struct Scene {
    _dir: tempfile::TempDir,
    skopeo: FakeSkopeo,
    layer: Vec<u8>,
}

/// A skopeo that speaks `version`, with one image of one layer of 3 MB.
fn scene(version: &str) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let layer: Vec<u8> =
        (0..3_000_000_u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let mut layout = Layout::new(dir.path());
    let entry = layout.image(&host(), &[&layer]);
    layout.add(entry, Some("v1"));
    Scene { skopeo: FakeSkopeo::new(version, dir.path()), layer, _dir: dir }
}

impl Scene {
    fn access(&self) -> Access {
        Access { skopeo: self.skopeo.program(), ..Access::default() }
    }

    fn sources(&self, stall: Duration) -> AlikeSources {
        AlikeSources::new(Site { access: self.access(), ..Site::default() }, stall)
    }

    async fn image(&self, sources: &AlikeSources) -> (Arc<dyn Source>, Descriptor) {
        let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
        let blob = source.resolve(&DocumentCache::default()).await.unwrap().layers.remove(0);
        (source, blob)
    }
}

#[tokio::test]
async fn every_protocol_carries_a_blob_whole() {
    for version in ["0.2.3", "0.2.6", "0.2.8", "0.2.9"] {
        let scene = scene(version);
        let sources = scene.sources(STALL);
        let (source, blob) = scene.image(&sources).await;
        for piece in [1 << 18, 1 << 20, 3_000_000] {
            assert_eq!(read(&*source, &blob, piece).await.unwrap(), scene.layer, "{version}");
        }
        assert_eq!(scene.skopeo.pids().len(), 1);
        drop(source);
        sources.close().await;
        assert!(!is_alive(scene.skopeo.pids()[0]));
    }
}

#[tokio::test]
async fn a_blob_that_breaks_is_told_apart_in_both_protocols() {
    for version in ["0.2.3", "0.2.8"] {
        let scene = scene(version);
        let sources = scene.sources(STALL);
        let (source, blob) = scene.image(&sources).await;
        let raw = version == "0.2.8";
        let code = if raw { "retryable" } else { "" };
        for (trouble, kind, part) in [
            (Trouble::EndAfter(1_000_000, None), ErrorKind::Transient, "ends after 1000000 of 3000000 bytes"),
            (
                Trouble::EndAfter(9, Some((code, "unexpected EOF"))),
                ErrorKind::Transient,
                "9 of 3000000 bytes: unexpected",
            ),
            (Trouble::EndAfter(9, Some(("other", "corrupted blob"))), ErrorKind::Transient, "corrupted blob"),
            (Trouble::GoOnFor(1), ErrorKind::Corrupt, "goes on after the 3000000 bytes"),
            (Trouble::GoOnFor(1_000_000), ErrorKind::Corrupt, "goes on after the 3000000 bytes"),
            (Trouble::DieAfter(0), ErrorKind::Transient, "skopeo"),
            (Trouble::DieAfter(2_500_000), ErrorKind::Transient, "skopeo"),
        ] {
            let shown = format!("{version} {trouble:?}");
            scene.skopeo.trouble(trouble);
            let error = read(&*source, &blob, 1 << 20).await.expect_err(&shown);
            assert!(error.to_string().contains(part), "{shown}: {error}");
            assert_eq!(error.kind(), kind, "{shown}: {error}");
            assert_eq!(read(&*source, &blob, 1 << 20).await.unwrap(), scene.layer, "{shown}");
        }
        // The two that died were replaced.
        assert!(scene.skopeo.pids().len() >= 3, "{version}");
    }
}

#[tokio::test]
async fn a_stall_is_cut_in_both_protocols() {
    for version in ["0.2.3", "0.2.8"] {
        let scene = scene(version);
        let sources = scene.sources(Duration::from_secs(1));
        let (source, blob) = scene.image(&sources).await;
        scene.skopeo.trouble(Trouble::StallAfter(100_000));
        let stalled = read(&*source, &blob, 1 << 20).await;
        failure(stalled, ErrorKind::Stalled, "nothing came for 1s after 100000 of 3000000 bytes");
        assert_eq!(read(&*source, &blob, 1 << 20).await.unwrap(), scene.layer, "{version}");
    }
}

#[tokio::test]
async fn a_skopeo_that_dies_or_hangs_at_a_request_fails_that_request_only() {
    for method in ["OpenImage", "GetManifest", "GetBlob", "FinishPipe"] {
        let scene = scene("0.2.3");
        let sources = scene.sources(Duration::from_secs(1));
        for (trouble, kind) in
            [(Trouble::DieAt(method), ErrorKind::Transient), (Trouble::HangAt(method), ErrorKind::Stalled)]
        {
            scene.skopeo.trouble(trouble);
            let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
            let error = source.resolve(&DocumentCache::default()).await.map(|_| ()).expect_err(method);
            assert_eq!(error.kind(), kind, "{method}: {error}");
            assert!(
                error.to_string().contains("skopeo") || error.to_string().contains("nothing came"),
                "{error}"
            );
            scene.image(&sources).await;
        }
    }
}

#[tokio::test]
async fn many_requests_survive_the_death_of_their_skopeo() {
    let scene = scene("0.2.3");
    let sources = scene.sources(STALL);
    let reference = "docker://registry.example/app:v1".parse().unwrap();
    scene.skopeo.trouble(Trouble::DieAt("GetManifest"));
    let resolved = sources.resolve_all(&vec![reference; 20]).await;
    let failed: Vec<_> = resolved.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    // Whoever asked it at that moment, or was told so before; nobody panics and nobody waits.
    assert!((1..=5).contains(&failed.len()), "{failed:?}");
    assert!(failed.iter().all(|error| error.is_retryable()), "{failed:?}");
}

#[tokio::test]
async fn a_skopeo_that_does_not_start_is_killed() {
    let scene = scene("0.2.3");
    scene.skopeo.trouble(Trouble::HangAt("Initialize"));
    let sources = scene.sources(Duration::from_secs(1));
    let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
    failure(
        source.resolve(&DocumentCache::default()).await,
        ErrorKind::Stalled,
        "skopeo took longer than 3s to be started",
    );
    let pid = scene.skopeo.pids()[0];
    while is_alive(pid) {
        tokio::task::yield_now().await;
    }
    scene.image(&sources).await;
}

#[tokio::test]
async fn a_skopeo_that_ends_at_once_says_why() {
    let scene = scene("0.2.3");
    let script = "#!/bin/sh\necho 'Error: unknown command' >&2\nexit 3\n";
    std::fs::write(scene.skopeo.program(), script).unwrap();
    let source = scene.sources(STALL).open(&"docker://registry.example/app:v1".parse().unwrap());
    let error = source.resolve(&DocumentCache::default()).await.unwrap_err();
    assert!(error.to_string().contains("skopeo"), "{error}");
    assert!(error.to_string().contains("unknown command"), "{error}");
}

#[tokio::test]
async fn an_old_protocol_is_refused_with_both_versions() {
    let scene = scene("0.2.1");
    let source = scene.sources(STALL).open(&"docker://registry.example/app:v1".parse().unwrap());
    failure(source.resolve(&DocumentCache::default()).await, ErrorKind::TooOld, "0.2.1");
}

#[tokio::test]
async fn options_reach_skopeo_and_a_policy_only_one_that_enforces_it() {
    let modern = scene("0.2.6");
    let (auth, certs, policy) = ("/dev/null", "/dev", "/etc/passwd");
    let access = Access {
        authfile: Some(auth.into()),
        cert_dir: Some(certs.into()),
        tls_verify: false,
        policy: Some(policy.into()),
        ..modern.access()
    };
    let arm: Platform = "linux/arm/v6".parse().unwrap();
    for platform in [None, Some(Platform::host()), Some(arm)] {
        let sources = AlikeSources::new(Site { platform, access: access.clone() }, STALL);
        let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
        let _ = source.resolve(&DocumentCache::default()).await;
    }
    let rest =
        format!("experimental-image-proxy --debug --authfile {auth} --cert-dir {certs} --tls-verify=false");
    let plain = format!("--policy {policy} {rest}");
    let arm = format!("--override-os linux --override-arch arm --override-variant v6 {plain}");
    assert_eq!(modern.skopeo.command_lines(), [plain.clone(), plain, arm]);

    let old = scene("0.2.5");
    let access = Access { policy: Some(policy.into()), ..old.access() };
    let sources = AlikeSources::new(Site { access, ..Site::default() }, STALL);
    let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
    failure(
        source.resolve(&DocumentCache::default()).await,
        ErrorKind::TooOld,
        "--policy needs a skopeo that speaks proxy protocol 0.2.6",
    );
}

#[tokio::test]
async fn stored_layers_come_uncompressed() {
    if !rustix::process::geteuid().is_root() {
        // Others go through podman, which this test has not.
        return;
    }
    for version in ["0.2.5", "0.2.7", "0.2.8"] {
        let scene = scene(version);
        let sources = scene.sources(STALL);
        let source = sources.open(&"containers-storage:localhost/app".parse().unwrap());
        let resolved = source.resolve(&DocumentCache::default()).await.unwrap();
        assert_eq!(resolved.diff_ids.as_deref(), Some(&[Digest::of(&scene.layer)][..]));
        assert_eq!(resolved.layers[0].digest, Digest::of(&scene.layer));
        assert_eq!(read(&*source, &resolved.layers[0], 1 << 20).await.unwrap(), scene.layer);
    }
}

#[tokio::test]
async fn skopeo_outlives_the_thread_that_asked_for_it() {
    let scene = scene("0.2.3");
    let sources = scene.sources(STALL);
    let source = sources.open(&"docker://registry.example/app:v1".parse().unwrap());
    let (runtime, asking) = (tokio::runtime::Handle::current(), source.clone());
    let first = std::thread::spawn(move || {
        runtime.block_on(asking.resolve(&DocumentCache::default())).unwrap().layers.remove(0)
    });
    let blob = tokio::task::spawn_blocking(move || first.join().unwrap()).await.unwrap();
    assert_eq!(read(&*source, &blob, 1 << 20).await.unwrap(), scene.layer);
    assert_eq!(scene.skopeo.pids().len(), 1);
}

#[test]
fn a_runtime_that_ends_takes_skopeo_with_it_even_in_the_middle() {
    let scene = scene("0.2.3");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sources = scene.sources(STALL);
        let (source, blob) = scene.image(&sources).await;
        scene.skopeo.trouble(Trouble::StallAfter(100));
        let mut reader = source.open_blob(&blob).await.unwrap();
        // Stalled, and asked about: skopeo answers nobody any more.
        let stalled = tokio::time::timeout(Duration::from_secs(4), read_part(&mut *reader, 1000)).await;
        assert!(stalled.is_err());
    });
    drop(runtime);
    let pid = scene.skopeo.pids()[0];
    while is_alive(pid) {
        std::thread::yield_now();
    }
}
