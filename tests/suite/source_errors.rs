//! What the real skopeo says when a registry misbehaves: every kind of request x every fault, and the
//! kind of error that comes of it. All images have names that look like errors. A machine without
//! skopeo fails these tests.

use std::time::Duration;

use cfs_dag::source::{
    Access, DocumentCache,
    ErrorKind::{self, *},
    Result, Site, SourceError,
};
use support::{
    registry::{Fault, Kind, Registry},
    source::{AlikeSources, host, read},
    tar::noise,
};

/// Long enough for a busy machine: nothing but a stall may reach it.
const PATIENT: Duration = Duration::from_secs(30);

const REPOSITORY: &str = "unauthorized-app/toomanyrequests/manifest.unknown";
const TAG: &str = "unauthorized";
const LAYER_SIZE: usize = 300_000;

/// The requests of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ping,
    Token,
    /// A manifest by its tag.
    ByTag,
    /// A manifest by its digest, below an index.
    ByDigest,
    Config,
    Layer,
}

use Stage::*;

const STAGES: [Stage; 6] = [Ping, Token, ByTag, ByDigest, Config, Layer];

impl Stage {
    fn is_manifest(self) -> bool {
        matches!(self, ByTag | ByDigest)
    }
}

fn sources(tls_verify: bool, stall: Duration) -> AlikeSources {
    let access = Access { tls_verify, ..Access::default() };
    AlikeSources::new(Site { access, ..Site::default() }, stall)
}

async fn pull(sources: &AlikeSources, reference: &str) -> Result<()> {
    let source = sources.open(&reference.parse().unwrap());
    let layer = source.resolve(&DocumentCache::default()).await?.layers.remove(0);
    read(&*source, &layer, 1 << 20).await.map(drop)
}

/// What comes of a pull from a registry where each request of `stage` goes wrong.
async fn outcome(sources: &AlikeSources, stage: Stage, fault: &Fault) -> Result<()> {
    let registry = Registry::start();
    let image = registry.image(REPOSITORY, TAG, &host(), &[&noise(1, LAYER_SIZE)]);
    registry.index(REPOSITORY, "503", &[(&image, &host())]);
    let fault = fault.clone();
    let manifest = |name: &str| format!("{REPOSITORY}/manifests/{name}");
    match stage {
        Ping => registry.fault_kind_always(Kind::Ping, fault),
        Token => {
            registry.require_token();
            registry.fault_kind_always(Kind::Token, fault);
        }
        ByTag => registry.fault_always(&manifest(TAG), fault),
        ByDigest => registry.fault_always(&manifest(&image.manifest.to_string()), fault),
        Config => registry.fault_kind_always(Kind::Config, fault),
        Layer => registry.fault_kind_always(Kind::Layer, fault),
    }
    let tag = if stage == ByDigest { "503" } else { TAG };
    let outcome = pull(sources, &registry.reference(REPOSITORY, tag)).await;
    assert!(registry.counts().all_faults() > 0, "{stage:?}: the fault was never met");
    outcome
}

/// What did not come out as expected: all of it, lest one has to ask again for the next.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, cell: &str, expected: Option<ErrorKind>, found: &Result<()>) {
        if found.as_ref().err().map(SourceError::kind) != expected {
            self.0.push(format!("{cell}: expected {expected:?}, found {found:?}"));
        }
    }

    fn assert_none(&self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

const PAGE: &str =
    "<html>\r\n<head><title>Trouble</title></head>\r\n<body class=\"forbidden\">\r\n<h1>Not Found</h1>\r\n";

/// The bodies that an error may have; skopeo waits for nothing when it asks again.
fn answers(status: u16) -> [(&'static str, Fault); 3] {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let answer = |media_type: &str, body: &str| Fault::Answer {
        status,
        headers: vec![header("Retry-After", "0"), header("Content-Type", media_type)],
        body: body.into(),
    };
    [
        ("error body", Fault::at_once(status)),
        ("page", answer("text/html", PAGE)),
        ("no body", answer("text/plain", "")),
    ]
}

#[tokio::test]
async fn every_status_has_its_kind() {
    let sources = sources(false, PATIENT);
    let mut differences = Differences::default();
    for stage in STAGES {
        for (status, kind) in [
            (400, Other),
            (401, Unauthorized),
            (403, Unauthorized),
            (404, NotFound),
            (408, Transient),
            (416, Other),
            (429, Transient),
            (500, Transient),
            (502, Transient),
            (503, Transient),
            (504, Transient),
        ] {
            for (body, answer) in answers(status) {
                let cell = format!("{stage:?}, {status} with {body}");
                let expected = match (stage, status, body) {
                    // A 401 is the usual answer to a ping; this one asks for nothing, and nothing needs it.
                    (Ping, 401, _) => None,
                    // Only the code of the body is told, and UNKNOWN says nothing.
                    (ByTag | ByDigest, 408, "error body") => Some(Other),
                    _ => Some(kind),
                };
                let found = outcome(&sources, stage, &answer).await;
                differences.check(&cell, expected, &found);
                if let Err(error) = found {
                    let throttled = matches!(status, 429 | 503);
                    assert_eq!(error.is_throttled(), throttled, "{cell}: {error}");
                    assert_eq!(error.is_retryable(), expected == Some(Transient), "{cell}: {error}");
                }
            }
        }
    }
    differences.assert_none();
    sources.close().await;
}

#[tokio::test]
async fn every_broken_answer_has_its_kind() {
    let sources = sources(false, PATIENT);
    let mut differences = Differences::default();
    let page = || Fault::Answer {
        status: 200,
        headers: vec![("Content-Type".into(), "text/html".into())],
        body: PAGE.into(),
    };
    for stage in STAGES {
        // Nobody reads what a ping answers.
        let unread = |kind| if stage == Ping { None } else { Some(kind) };
        // Only the length of a blob is known; of a manifest and of a token, JSON that stops, except where a
        // digest is looked at first.
        let short = if stage == ByDigest { Corrupt } else { Transient };
        let changed = match stage {
            Token | ByTag => Other,
            _ => Corrupt,
        };
        let other_type = stage.is_manifest().then_some(Other);
        for (fault, expected) in [
            (Fault::Reset, Some(Transient)),
            (Fault::ResetAfter(100), unread(Transient)),
            (Fault::ResetAfter(100_000), unread(Transient)),
            (Fault::CutAfter(0), unread(Transient)),
            (Fault::CutAfter(100_000), unread(Transient)),
            (Fault::ShortHonest(0), unread(short)),
            (Fault::ShortHonest(100), unread(short)),
            (Fault::Corrupt(0), unread(changed)),
            (Fault::MediaType("text/html".into()), other_type),
            (Fault::MediaType("application/octet-stream".into()), other_type),
            (Fault::Raw(b"220 mail.example ESMTP\r\n".into()), Some(Transient)),
            (Fault::Raw(Vec::new()), Some(Transient)),
        ] {
            let found = outcome(&sources, stage, &fault).await;
            differences.check(&format!("{stage:?}, {fault:?}"), expected, &found);
        }
        // A page to log in at, of a network that wants to be paid first: too short for most blobs.
        let expected = match stage {
            Ping => None,
            Token | ByTag => Some(Other),
            ByDigest => Some(Corrupt),
            Config | Layer => Some(Transient),
        };
        differences.check(&format!("{stage:?}, page"), expected, &outcome(&sources, stage, &page()).await);
    }
    differences.assert_none();
    sources.close().await;
}

#[tokio::test]
async fn every_silence_is_a_stall() {
    let mut running = tokio::task::JoinSet::new();
    for stage in STAGES {
        for fault in [Fault::Silence, Fault::StallAfter(100)] {
            // Nobody reads what a ping answers.
            if (stage, &fault) != (Ping, &Fault::StallAfter(100)) {
                running.spawn(async move {
                    let sources = sources(false, Duration::from_secs(1));
                    (format!("{stage:?}, {fault:?}"), outcome(&sources, stage, &fault).await)
                });
            }
        }
    }
    let mut differences = Differences::default();
    while let Some(done) = running.join_next().await {
        let (cell, found) = done.unwrap();
        differences.check(&cell, Some(Stalled), &found);
    }
    differences.assert_none();
}

#[tokio::test]
async fn who_cannot_be_talked_to_has_a_kind() {
    let registry = Registry::start();
    registry.image(REPOSITORY, TAG, &host(), &[b"layer"]);
    let plain = registry.reference(REPOSITORY, TAG);
    let gone = Registry::start().reference(REPOSITORY, TAG);
    let nowhere = format!("docker://unauthorized.invalid/{REPOSITORY}:{TAG}");
    let mut differences = Differences::default();
    for (tls_verify, reference, kind) in [
        (true, &plain, Other),
        (true, &gone, Transient),
        (false, &gone, Transient),
        (false, &nowhere, Transient),
    ] {
        let sources = sources(tls_verify, PATIENT);
        differences.check(reference, Some(kind), &pull(&sources, reference).await);
        sources.close().await;
    }
    differences.assert_none();
}

/// When a ping fails, skopeo 1.9.3 looks for the API of 2013, and if anything answers there
/// it says no more than that.
#[tokio::test]
async fn an_answer_at_the_old_api_does_not_hide_that_the_new_one_is_down() {
    let registry = Registry::start();
    registry.image(REPOSITORY, TAG, &host(), &[b"layer"]);
    registry.fault_kind_always(Kind::Ping, Fault::Status(502, None));
    let old = Fault::Answer { status: 200, headers: Vec::new(), body: b"true".into() };
    registry.fault_always("/v1/_ping", old);
    let error = pull(&sources(false, PATIENT), &registry.reference(REPOSITORY, TAG)).await.unwrap_err();
    assert_eq!(error.kind(), Transient, "{error}");
}

#[tokio::test]
async fn a_fault_that_passes_is_forgotten() {
    let sources = sources(false, PATIENT);
    for stage in STAGES {
        let registry = Registry::start();
        registry.require_token();
        let image = registry.docker_image(REPOSITORY, TAG, &host(), &[&noise(1, LAYER_SIZE)]);
        registry.index(REPOSITORY, "503", &[(&image, &host())]);
        let path = match stage {
            Ping => String::new(),
            Token => "/token".into(),
            ByTag => format!("{REPOSITORY}/manifests/503"),
            ByDigest => format!("{REPOSITORY}/manifests/{}", image.manifest),
            Config => format!("{REPOSITORY}/blobs/{}", image.config),
            Layer => format!("{REPOSITORY}/blobs/{}", image.layers[0]),
        };
        registry.fault_next(&path, Fault::Status(500, None));
        let reference = registry.reference(REPOSITORY, "503");
        let first = pull(&sources, &reference).await.expect_err(&path);
        assert!(first.is_retryable(), "{path}: {first}");
        pull(&sources, &reference).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    sources.close().await;
}

/// An answer with a body of this kind.
fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Answer { status, headers, body: body.into() }
}

/// Asserts that the error of `stage` says these words and none of the others.
async fn assert_words(sources: &AlikeSources, stage: Stage, fault: &Fault, words: &[&str], others: &[&str]) {
    let error = outcome(sources, stage, fault).await.expect_err(&format!("{stage:?}")).to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{stage:?}, {words:?}: {error}");
    assert!(!others.iter().any(|word| error.contains(word)), "{stage:?}, not {others:?}: {error}");
}

const LOG_IN: &str = "skopeo login";

/// What a store in the manner of S3 says of an address that has expired.
const EXPIRED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
                       <Message>Request has expired</Message></Error>";

#[tokio::test]
async fn a_refusal_by_the_store_behind_a_registry_is_none_of_credentials() {
    let (sources, store) = (sources(false, PATIENT), Registry::start());
    store.fault_kind_always(
        Kind::Other,
        answer(403, &[("Content-Type", "application/xml")], EXPIRED.as_bytes()),
    );
    let location = format!("http://{}/store/blob?X-Amz-Expires=1", store.host());
    let redirect = answer(307, &[("Location", &location)], b"");
    for stage in [Config, Layer, ByTag] {
        let words = ["403", "has expired, or the store behind the registry refuses it", "run this again"];
        assert_words(&sources, stage, &redirect, &words, &[LOG_IN]).await;
    }
    assert!(store.counts().requests(Kind::Other) >= 3);
    // The registry itself.
    assert_words(&sources, ByTag, &Fault::at_once(403), &[LOG_IN], &["store"]).await;
    assert_words(&sources, Layer, &Fault::at_once(401), &[LOG_IN], &["store"]).await;
    sources.close().await;
}

#[tokio::test]
async fn a_web_page_in_place_of_an_answer_is_called_one() {
    let (sources, portal) = (sources(false, PATIENT), Registry::start());
    let page = answer(200, &[("Content-Type", "text/html")], PAGE.as_bytes());
    portal.fault_kind_always(Kind::Other, page.clone());
    let location = format!("http://{}/login", portal.host());
    let redirect = answer(302, &[("Location", &location)], b"");
    for fault in [&page, &redirect] {
        for stage in [Token, ByTag] {
            assert_words(
                &sources,
                stage,
                fault,
                &["a web page, not a registry: ", "login in a browser"],
                &[LOG_IN],
            )
            .await;
        }
        for stage in [Config, Layer] {
            assert_words(&sources, stage, fault, &["a web page came in place of the blob"], &[]).await;
        }
    }
    sources.close().await;
}

#[tokio::test]
async fn an_encoding_that_is_wrong_is_named() {
    let sources = sources(false, PATIENT);
    let wrong = answer(200, &[("Content-Encoding", "gzip")], b"this is not gzip");
    for stage in [ByTag, ByDigest, Config, Layer] {
        assert_words(&sources, stage, &wrong, &["Content-Encoding: gzip"], &[]).await;
    }
    // A compressed layer whose encoding is undone on the way.
    let registry = Registry::start();
    let tar = support::tar::tar([support::tar::file("usr/file", noise(1, LAYER_SIZE))]);
    let packed = support::image::gzip(&tar);
    let blob = registry.blob(REPOSITORY, &packed);
    let config = support::layout::config(&host(), &[&tar]);
    registry.blob(REPOSITORY, &config);
    let descriptor = |media_type: &str, bytes: &[u8]| support::layout::descriptor(media_type, bytes);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": support::layout::OCI_MANIFEST,
        "config": descriptor(support::layout::OCI_CONFIG, &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    });
    registry.manifest(REPOSITORY, Some(TAG), support::layout::OCI_MANIFEST, manifest.to_string().as_bytes());
    registry.fault(REPOSITORY, blob, answer(200, &[("Content-Encoding", "gzip")], &packed));
    let reference = registry.reference(REPOSITORY, TAG);
    let error = pull(&sources, &reference).await.unwrap_err().to_string();
    assert!(error.contains("the blob came unpacked") && error.contains("Content-Encoding: gzip"), "{error}");
    pull(&sources, &reference).await.unwrap();
    sources.close().await;
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_with_the_flag() {
    let words = "for a registry without TLS, say --tls-verify=false";
    for raw in [&b"HTTP/1.0 400 Bad Request\r\n\r\n"[..], b"220 mail.example ESMTP\r\n"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // One that says this to everyone, until the test ends.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::io::Result::ok) {
                let _ = std::io::Write::write_all(&mut stream, raw);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        let sources = sources(true, PATIENT);
        let error = pull(&sources, &format!("docker://{address}/app:v1")).await.unwrap_err();
        assert_eq!(error.kind(), Other, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        sources.close().await;
    }
    // A port that speaks TLS only, asked in plain HTTP because TLS failed.
    let sources = sources(false, PATIENT);
    assert_words(&sources, Ping, &Fault::at_once(400), &["if this port speaks TLS", "--cert-dir"], &[]).await;
    sources.close().await;
}
