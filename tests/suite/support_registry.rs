//! Tests of the scripted registry, by a client that knows no more than HTTP.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use cfs_dag::types::Digest;
use support::{
    layout::*,
    registry::{Fault, Kind, Mix, Registry},
    tar::noise,
};

/// What a client saw of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: u16,
    headers: Vec<String>,
    /// As much as came.
    body: Vec<u8>,
    /// Whether that was all that was promised.
    whole: bool,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A request on a connection of its own, sent; the answer is not read.
fn ask(registry: &Registry, method: &str, target: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(registry.host()).unwrap();
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n").unwrap();
    stream
}

/// The answer, or none: the connection ended before its head did.
fn answer(stream: TcpStream, only_head: bool) -> Option<Seen> {
    let mut input = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|count| *count > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let first = lines.remove(0);
    let status = first.split(' ').nth(1)?.parse().ok()?;
    let mut seen = Seen { status, headers: lines, body: Vec::new(), whole: true };
    if only_head {
        return Some(seen);
    }
    let length = seen.header("Content-Length")?.parse().unwrap();
    while seen.body.len() < length {
        let mut buffer = [0; 4096];
        let most = buffer.len().min(length - seen.body.len());
        match input.read(&mut buffer[..most]) {
            Ok(count) if count > 0 => seen.body.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    seen.whole = seen.body.len() == length;
    Some(seen)
}

fn get(registry: &Registry, target: &str) -> Option<Seen> {
    answer(ask(registry, "GET", target, ""), false)
}

fn get_blob(registry: &Registry, digest: Digest) -> Option<Seen> {
    get(registry, &format!("/v2/app/blobs/{digest}"))
}

/// A registry with one image of one layer of noise.
fn one_image(size: usize) -> (Registry, support::registry::Image, Vec<u8>) {
    let (registry, layer) = (Registry::start(), noise(1, size));
    let image = registry.image("app", "v1", "amd64", &[&layer]);
    (registry, image, layer)
}

#[test]
fn every_kind_of_request_is_known_and_counted() {
    let (registry, image, layer) = one_image(1000);
    let manifest = get(&registry, "/v2/app/manifests/v1").unwrap();
    assert_eq!(manifest.header("Content-Type"), Some(OCI_MANIFEST));
    assert_eq!(get(&registry, &format!("/v2/app/manifests/{}", image.manifest)).unwrap(), manifest);
    assert_eq!(get(&registry, "/v2/").unwrap().body, b"{}");
    assert_eq!(get(&registry, "/v2/app/tags/list").unwrap().body, br#"{"name":"app","tags":["v1"]}"#);
    assert!(get_blob(&registry, image.config).unwrap().body.starts_with(b"{"));
    assert_eq!(get_blob(&registry, image.layers[0]).unwrap().body, layer);
    assert_eq!(get(&registry, "/v2/app/manifests/v2").unwrap().status, 404);
    assert_eq!(get(&registry, "/v1/_ping").unwrap().status, 404);
    let head = answer(ask(&registry, "HEAD", "/v2/app/manifests/v1", ""), true).unwrap();
    assert_eq!(head.header("Docker-Content-Digest"), Some(&*image.manifest.to_string()));

    let counts = registry.counts();
    let kinds = [Kind::Ping, Kind::Tags, Kind::Manifest, Kind::Config, Kind::Layer, Kind::Other];
    assert_eq!(kinds.map(|kind| counts.requests(kind)), [1, 1, 4, 1, 1, 1]);
    assert_eq!(counts.requests_to("app/manifests/v1"), 2);
    assert_eq!((counts.most_requests(), counts.most_blobs(), counts.all_faults()), (1, 1, 0));
    let sent = counts.sent(image.layers[0]);
    assert_eq!((sent.size, sent.bytes, sent.spoiled, sent.whole), (1000, 1000, 0, 1));
    assert_eq!(counts.surplus(), []);
    get_blob(&registry, image.layers[0]);
    assert_eq!(registry.counts().surplus(), [(image.layers[0], 1000)], "asked for twice without need");
    registry.forget_requests();
    assert_eq!((registry.counts().requests(Kind::Layer), registry.requests_for("app")), (0, 0));
}

#[test]
fn each_fault_goes_wrong_as_it_says_and_only_once() {
    let (registry, image, layer) = one_image(200_000);
    let blob = image.layers[0];
    let mut corrupt = layer.clone();
    corrupt[5] ^= 1;
    let truth = Some((200, layer.clone(), true));
    for (fault, expected) in [
        (Fault::at_once(429), Some((429, Vec::new(), true))),
        (
            Fault::Answer { status: 418, headers: vec![], body: b"tea".into() },
            Some((418, b"tea".into(), true)),
        ),
        (Fault::DelayThen(Duration::from_millis(1)), truth.clone()),
        (Fault::Throttle(50_000_000), truth.clone()),
        (Fault::CutAfter(150_000), Some((200, layer[..150_000].into(), false))),
        (Fault::CutAfter(1_000_000), Some((200, layer[..199_999].into(), false))),
        (Fault::ShortHonest(70_000), Some((200, layer[..70_000].into(), true))),
        (Fault::Corrupt(5), Some((200, corrupt, true))),
        (Fault::Bytes(b"other".into()), Some((200, b"other".into(), true))),
        (Fault::Longer(b"more".into()), Some((200, [&*layer, b"more"].concat(), true))),
        (Fault::MediaType("text/html".into()), truth.clone()),
        (Fault::Raw(b"220 mail.example ESMTP\r\n".into()), None),
        (Fault::Reset, None),
    ] {
        let shown = format!("{fault:?}").chars().take(40).collect::<String>();
        registry.fault("app", blob, fault);
        let seen = get_blob(&registry, blob).map(|seen| {
            let body = if seen.status == 429 { Vec::new() } else { seen.body };
            (seen.status, body, seen.whole)
        });
        assert!(seen == expected, "{shown}: {:?}", seen.map(|seen| (seen.0, seen.1.len(), seen.2)));
        assert!(get_blob(&registry, blob).unwrap().body == layer, "{shown}");
    }
    assert_eq!(registry.counts().faults(Kind::Layer), 13);
    registry.fault("app", blob, Fault::at_once(503));
    let busy = get_blob(&registry, blob).unwrap();
    assert_eq!((busy.status, busy.header("Retry-After")), (503, Some("0")));
    assert_eq!(busy.json()["errors"][0]["code"], "UNAVAILABLE");
}

#[test]
fn a_reset_is_told_from_an_end() {
    let (registry, image, _) = one_image(200_000);
    for (fault, is_reset) in
        [(Fault::ResetAfter(1000), true), (Fault::Reset, true), (Fault::CutAfter(1000), false)]
    {
        registry.fault("app", image.layers[0], fault.clone());
        let mut stream = ask(&registry, "GET", &format!("/v2/app/blobs/{}", image.layers[0]), "");
        let read = stream.read_to_end(&mut Vec::new());
        let kind = read.err().map(|error| error.kind());
        assert_eq!(kind == Some(std::io::ErrorKind::ConnectionReset), is_reset, "{fault:?}: {kind:?}");
    }
}

#[test]
fn what_faults_cost_is_counted_apart() {
    let (registry, image, layer) = one_image(200_000);
    let blob = image.layers[0];
    registry.fault("app", blob, Fault::CutAfter(150_000));
    registry.fault("app", blob, Fault::Corrupt(7));
    registry.fault("app", blob, Fault::Status(500, None));
    registry.fault("app", blob, Fault::Throttle(100_000_000));
    for _ in 0..4 {
        get_blob(&registry, blob);
    }
    let sent = registry.counts().sent(blob);
    assert_eq!(sent.bytes, 550_000, "the error body is not of the blob");
    assert_eq!((sent.spoiled, sent.whole), (350_000, 1), "slow is not spoiled");
    assert_eq!(registry.counts().surplus(), []);
    assert_eq!(registry.counts().blob_bytes(), 550_000);
    assert_eq!(get_blob(&registry, blob).unwrap().body, layer);
    assert_eq!(registry.counts().surplus(), [(blob, 200_000)]);
}

#[test]
fn a_stall_ends_with_the_release_or_with_the_client() {
    let (registry, image, layer) = one_image(200_000);
    let path = format!("/v2/app/blobs/{}", image.layers[0]);
    registry.fault_kind(Kind::Layer, 3, Fault::StallAfter(1000));
    let mut gone = ask(&registry, "GET", &path, "");
    gone.read_exact(&mut [0; 1000]).unwrap();
    let waiting = [(); 2].map(|()| ask(&registry, "GET", &path, ""));
    while registry.counts().faults(Kind::Layer) < 3 {
        std::thread::yield_now();
    }
    assert_eq!(registry.counts().most_blobs(), 3);
    gone.shutdown(Shutdown::Both).unwrap();
    // Who hung up is no longer counted, so this can be waited for.
    loop {
        registry.forget_requests();
        if registry.counts().most_blobs() == 2 {
            break;
        }
        std::thread::yield_now();
    }
    registry.release();
    for stream in waiting {
        assert_eq!(answer(stream, false).unwrap().body, layer);
    }
}

#[test]
fn a_kind_goes_wrong_as_often_as_it_is_told_to() {
    let (registry, image, _) = one_image(10);
    registry.fault_kind(Kind::Layer, 2, Fault::Status(502, None));
    registry.fault_kind(Kind::Layer, 1, Fault::Status(504, None));
    registry.fault_next("app/manifests/v1", Fault::Status(500, None));
    let status = |path: String| get(&registry, &format!("/v2/app/{path}")).unwrap().status;
    let layer = || status(format!("blobs/{}", image.layers[0]));
    let manifest = || status("manifests/v1".into());
    assert_eq!([layer(), layer(), layer(), layer()], [502, 502, 504, 200]);
    assert_eq!([manifest(), manifest()], [500, 200]);
    registry.fault_kind_always(Kind::Config, Fault::Status(503, None));
    let config = || status(format!("blobs/{}", image.config));
    assert_eq!([config(), config(), config(), layer()], [503, 503, 503, 200]);
    registry.heal();
    assert_eq!(config(), 200);
}

#[test]
fn chance_is_the_same_each_time_and_gives_up_on_a_path() {
    let statuses = |seed, order: &[usize]| {
        let registry = Registry::start();
        let blobs: Vec<Digest> = (0..40u64).map(|n| registry.blob("app", &noise(n, 10))).collect();
        let faults = [500, 503].map(|status| Fault::Status(status, None));
        registry.mix(Mix { seed, per_mille: 500, at_most: 2, ..Mix::of(faults) });
        let mut seen = vec![Vec::new(); blobs.len()];
        for ix in order.iter().flat_map(|ix| [*ix; 4]) {
            seen[ix].push(get_blob(&registry, blobs[ix]).unwrap().status);
        }
        seen
    };
    let forth: Vec<usize> = (0..40).collect();
    let back: Vec<usize> = (0..40).rev().collect();
    let seen = statuses(7, &forth);
    assert_eq!(seen, statuses(7, &back), "not by the order of requests");
    assert_ne!(seen, statuses(8, &forth));
    let bad = |statuses: &[u16]| statuses.iter().filter(|status| **status != 200).count();
    assert!(seen.iter().all(|statuses| bad(statuses) <= 2), "{seen:?}");
    assert!(seen.iter().any(|statuses| bad(statuses) == 2 && statuses[3] == 200), "{seen:?}");
    let all: BTreeSet<u16> = seen.concat().into_iter().collect();
    assert_eq!(all, BTreeSet::from([200, 500, 503]));
}

#[test]
fn chance_is_about_what_was_said() {
    let registry = Registry::start();
    let blobs: Vec<Digest> = (0..500u64).map(|n| registry.blob("app", &n.to_ne_bytes())).collect();
    let image = registry.image("app", "v1", "amd64", &[]);
    let mix = Mix { seed: 1, per_mille: 200, ..Mix::of([Fault::Status(500, None)]) };
    registry.mix(Mix { kinds: vec![Kind::Layer], ..mix });
    for _ in 0..50 {
        assert_eq!(get_blob(&registry, image.config).unwrap().status, 200);
    }
    let bad = blobs.iter().filter(|blob| get_blob(&registry, **blob).unwrap().status == 500).count();
    assert!((60..140).contains(&bad), "{bad} of 500");
    assert_eq!(registry.counts().all_faults(), bad);
}

#[test]
fn a_token_is_needed_given_and_expires() {
    let (registry, image, _) = one_image(10);
    assert_eq!(get_blob(&registry, image.config).unwrap().status, 200);
    registry.require_token();
    let path = format!("/v2/app/blobs/{}", image.config);
    let refused = get(&registry, &path).unwrap();
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.header("WWW-Authenticate").unwrap(),
        format!(
            "Bearer realm=\"http://{}/token\",service=\"scripted\",scope=\"repository:app:pull\"",
            registry.host()
        )
    );
    assert_eq!(get(&registry, "/v2/").unwrap().status, 401);
    assert_eq!(get(&registry, "/v1/_ping").unwrap().status, 404, "skopeo takes a 401 for a registry of old");
    let token = || {
        let given = get(&registry, "/token?service=scripted&scope=repository:app:pull").unwrap();
        format!("Authorization: Bearer {}\r\n", given.json()["token"].as_str().unwrap())
    };
    let first = token();
    let with = |token: &str| answer(ask(&registry, "GET", &path, token), false).unwrap().status;
    assert_eq!(with(&first), 200);
    registry.require_token();
    assert_eq!((with(&first), with(&token())), (401, 200));
    assert_eq!(registry.counts().requests(Kind::Token), 2);
}

#[test]
fn tags_come_in_pages() {
    let registry = Registry::start();
    let tags: Vec<String> = (0..7).map(|n| format!("v{n}")).collect();
    tags.iter().rev().for_each(|tag| drop(registry.image("a/b", tag, "amd64", &[])));
    let follow = |first: &str| {
        let (mut target, mut pages) = (first.to_owned(), Vec::new());
        loop {
            let page = get(&registry, &target).unwrap();
            pages.push(page.json()["tags"].as_array().unwrap().len());
            let Some(link) = page.header("Link") else { return pages };
            target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
    };
    assert_eq!(follow("/v2/a/b/tags/list"), [7]);
    assert_eq!(follow("/v2/a/b/tags/list?n=3"), [3, 3, 1]);
    assert_eq!(follow("/v2/a/b/tags/list?n=7"), [7], "no page of nothing");
    registry.page_tags(2);
    assert_eq!(follow("/v2/a/b/tags/list"), [2, 2, 2, 1]);
    assert_eq!(follow("/v2/a/b/tags/list?n=7"), [2, 2, 2, 1]);
    assert_eq!(get(&registry, "/v2/a/tags/list").unwrap().json()["errors"][0]["code"], "NAME_UNKNOWN");
}

#[test]
fn a_layout_on_disk_is_served_from_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    let (shared, own) = (noise(1, 5000), noise(2, 5000));
    let plain = layout.image("amd64", &[&shared]);
    layout.add(plain.clone(), Some("plain"));
    let other = layout.image("arm64", &[&shared, &own]);
    let index =
        layout.index(OCI_INDEX, &[on_platform(plain, "amd64", None), on_platform(other, "arm64", None)]);
    layout.add(index, Some("multi"));
    let registry = Registry::start();
    for n in 0..100 {
        assert_eq!(registry.serve_layout(&format!("app{n}"), dir.path()), ["plain", "multi"]);
    }
    let index = get(&registry, "/v2/app99/manifests/multi").unwrap();
    assert_eq!(index.header("Content-Type"), Some(OCI_INDEX));
    let below = index.json()["manifests"][1]["digest"].as_str().unwrap().to_owned();
    let manifest = get(&registry, &format!("/v2/app99/manifests/{below}")).unwrap().json();
    assert_eq!(manifest["layers"][1]["digest"], Digest::of(&own).to_string());
    let blob = format!("/v2/app99/blobs/{}", Digest::of(&own));
    assert_eq!(get(&registry, &blob).unwrap().body, own);
    // Not copied: what changes there changes here.
    std::fs::write(layout.blob_path(&own), b"changed").unwrap();
    assert_eq!(get(&registry, &blob).unwrap().body, b"changed");
    std::fs::remove_file(layout.blob_path(&own)).unwrap();
    assert_eq!(get(&registry, &blob).unwrap().status, 404);
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    get(&registry, &format!("/v2/app0/blobs/{config}"));
    assert_eq!(registry.counts().requests(Kind::Config), 1);
}

#[test]
fn indexes_and_docker_images_are_made_of_images() {
    let registry = Registry::start();
    let here = registry.image("app", "here", "amd64", &[b"here"]);
    let there = registry.docker_image("app", "there", "s390x", &[b"there"]);
    let index = registry.index("app", "multi", &[(&here, "amd64"), (&there, "s390x")]);
    let multi = get(&registry, "/v2/app/manifests/multi").unwrap();
    assert_eq!(Digest::of(&multi.body), index);
    let entry = multi.json()["manifests"][1].clone();
    assert_eq!(
        (&entry["mediaType"], &entry["platform"]["architecture"]),
        (&DOCKER_MANIFEST.into(), &"s390x".into())
    );
    let docker = get(&registry, "/v2/app/manifests/there").unwrap();
    assert_eq!(docker.header("Content-Type"), Some(DOCKER_MANIFEST));
    assert_eq!(entry["size"], docker.body.len());
    assert_eq!(get_blob(&registry, there.layers[0]).unwrap().body, b"there");
}
