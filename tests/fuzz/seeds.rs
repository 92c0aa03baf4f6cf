//! Seeds for the fuzz targets, out of the builders of the tests. Knows what a target reads before the data,
//! and that seeds are good: what should be read can be read; ignores what a target asserts.
//!
//! The same seeds come out every time.

use std::fs;

use cfs_dag::{
    graph::Plan,
    list::{List, Lock},
    render::{Marks, json},
    report::Run,
    source::Reference,
};

use support::{
    corpus,
    image::{gzip, layout, zstd},
    layout as tiny, odd_tar, plans, pulls,
    repo::scratch,
    sample_run,
    tar::*,
};

use super::{Seeds, bodies::is_whole_stream};

/// Longer inputs are slow to mutate.
const MOST: usize = 48 << 10;

fn seed(name: impl Into<String>, head: &[u8], data: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.into(), [head, data.as_ref()].concat())
}

/// Tars of all features, those that are refused among them.
fn tars() -> Seeds {
    let cases = corpus::accepted().into_iter().chain(corpus::refused());
    let layers = cases.flat_map(|case| {
        let named = move |(n, tar): (usize, Vec<u8>)| (format!("{}-{n}", case.name), tar);
        case.layers.into_iter().enumerate().map(named)
    });
    let mut tars: Seeds = layers.filter(|(_, tar)| tar.len() <= MOST).collect();
    assert!(tars.len() > 20, "{}", tars.len());
    let small = [
        ("long-name", file("a/".repeat(300), "x").gnu()),
        ("pax-name", file("b/".repeat(300), "x")),
        ("xattr", file("c", "x").xattr("user.name", "value")),
        ("global", global_header(&[("comment", "x"), ("path", "elsewhere")])),
        ("sparse", gnu_sparse("hole")),
        ("pax-sparse", pax_sparse("hole")),
        ("whiteout", whiteout("usr/gone")),
        ("opaque", opaque("usr")),
        ("device", char_device("null", 1, 3)),
        ("claims", file("huge", "x").claims_size(1 << 32)),
        ("pax-size", file("sized", noise(1, 600)).size_in_pax()),
        ("time", file("timed", "x").precise_mtime("1700000000.123456789")),
        ("v7", file("old", "x").v7()),
    ];
    tars.extend(
        small.map(|(name, entry)| (name.to_owned(), tar([dir("usr"), entry, file("z", noise(2, 70))]))),
    );
    tars
}

pub fn split() -> Seeds {
    // The kind, whether checksums are mended, and how it is cut.
    let heads = [[0, 0x00, 1], [0, 0x85, 2], [1, 0x47, 3], [2, 0xc3, 4]];
    let mut seeds = Vec::new();
    for (n, (name, tar)) in tars().into_iter().enumerate() {
        seeds.push(seed(&name, &heads[n % 2], &tar));
        seeds.push(seed(format!("{name}-as-artifact"), &heads[2 + n % 2], &tar));
    }
    for piece in odd_tar::pieces() {
        let named: String =
            piece.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let bytes = [piece.bytes, tar([file("last", "the end")])].concat();
        let digest = cfs_dag::types::Digest::of(&bytes).to_string();
        seeds.push(seed(format!("odd-{named}-{}", &digest[digest.len() - 6..]), &heads[0], bytes));
    }
    let large = tar([file("large", noise(3, (2 << 20) + 17)), file("small", noise(4, 17))]);
    seeds.push(seed("segments", &[0, 0xc0, 5], large));
    seeds
}

pub fn filesystem() -> Seeds {
    let mut seeds: Seeds = tars().into_iter().map(|(name, tar)| seed(name, &[0], tar)).collect();
    for case in corpus::accepted() {
        // The targets cuts after so many 256ths; only layers of one size are cut where they meet.
        if let [below, above] = &case.layers[..]
            && below.len() + above.len() <= MOST
        {
            let mut below = below.clone();
            below.truncate(below.len() - 1024);
            below.resize(below.len().max(above.len()), 0);
            let mut above = above.clone();
            above.resize(below.len(), 0);
            seeds.push(seed(format!("{}-both", case.name), &[128], [below, above].concat()));
        }
    }
    seeds
}

pub fn inflate() -> Seeds {
    let text = b"usr/share/doc/composefs/README ".repeat(90);
    let mixed = [&text[..], &noise(5, 3000), &text].concat();
    let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"table"].concat();
    let mut full = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 2, 3];
    full.extend_from_slice(b"\x05\0extraname\0a comment\0");
    full.extend_from_slice(&crc32fast::hash(&full).to_le_bytes()[..2]);
    full.extend_from_slice(&gzip(&text)[10..]);
    let blobs = [
        ("plain", mixed.clone()),
        ("gzip", gzip(&mixed)),
        ("gzip-members", [gzip(&text), gzip(b""), gzip(&mixed)].concat()),
        ("gzip-padded", [gzip(&text), vec![0; 600]].concat()),
        ("gzip-all-fields", full),
        ("gzip-cut", gzip(&mixed)[..900].to_vec()),
        ("gzip-bomb", gzip(&vec![0; 3 << 20])),
        ("zstd", zstd(&mixed)),
        ("zstd-frames", [zstd(&text), zstd(b""), zstd(&mixed)].concat()),
        ("zstd-skippable", [skippable.clone(), zstd(&text), skippable, zstd(&text)].concat()),
        ("zstd-cut", zstd(&mixed)[..900].to_vec()),
        ("zstd-bomb", zstd(&vec![0; 3 << 20])),
        ("zstd-window", b"\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00".to_vec()),
    ];
    let mut seeds: Seeds =
        blobs.into_iter().map(|(name, blob)| seed(name, &[0, 0x43, 1, 0x85, 2], blob)).collect();
    let deflate = &gzip(&mixed)[10..];
    seeds.push(seed("deflate", &[1, 0x81, 3, 0x45, 4], &deflate[..deflate.len() - 8]));
    seeds.push(seed("late-end", &[2, 0x01, 3, 0x05, 4], gzip(&text)));
    seeds
}

/// Documents in an order in which each names only those after it, with marks where the
/// digests and sizes were.
fn marked(documents: &[Vec<u8>]) -> Vec<u8> {
    let mut texts: Vec<String> =
        documents.iter().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect();
    for (at, text) in texts.iter_mut().enumerate() {
        for (number, named) in documents.iter().enumerate().skip(at + 1) {
            let digest = cfs_dag::types::Digest::of(named).to_string();
            let size = format!("\"size\":{}", named.len());
            if text.contains(&digest) {
                *text = text.replace(&digest, &format!("@{number}"));
                *text = text.replace(&size, &format!("\"size\":#{number}"));
            }
        }
    }
    texts.join("\n%\n").into_bytes()
}

pub fn documents() -> Seeds {
    use tiny::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, descriptor};
    let layers: [&[u8]; 2] = [b"layer", b"another"];
    let index = |media_type: &str, entries: &[serde_json::Value]| -> Vec<u8> {
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
            .to_string()
            .into()
    };
    let tagged = |mut entry: serde_json::Value| {
        entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "v1"});
        entry
    };
    let config = tiny::config("arm64", &layers);
    let other = tiny::config("amd64", &layers[..1]);
    let (oci, docker) = (tiny::manifest(&config, &layers), tiny::docker_manifest(&config, &layers));
    let oci_other = tiny::manifest(&other, &layers[..1]);
    let artifact = {
        let mut value: serde_json::Value = serde_json::from_slice(&tiny::manifest(b"{}", &layers)).unwrap();
        value["config"]["mediaType"] = "application/vnd.oci.empty.v1+json".into();
        value.to_string().into_bytes()
    };
    let many = index(
        OCI_INDEX,
        &[
            tiny::on_platform(descriptor(OCI_MANIFEST, &oci), "arm64", Some("v8")),
            tiny::on_platform(descriptor(OCI_MANIFEST, &oci_other), "amd64", None),
        ],
    );
    let list = index(DOCKER_LIST, &[tiny::on_platform(descriptor(DOCKER_MANIFEST, &docker), "arm64", None)]);
    let top = |media_type: &str, bytes: &[u8]| index(OCI_INDEX, &[tagged(descriptor(media_type, bytes))]);
    let images = [
        ("oci", vec![top(OCI_MANIFEST, &oci), oci.clone(), config.clone()]),
        ("docker", vec![top(DOCKER_MANIFEST, &docker), docker.clone(), config.clone()]),
        ("artifact", vec![top(OCI_MANIFEST, &artifact), artifact, b"{}".to_vec()]),
        (
            "index",
            vec![top(OCI_INDEX, &many), many, oci.clone(), oci_other.clone(), config.clone(), other.clone()],
        ),
        ("docker-list", vec![top(DOCKER_LIST, &list), list, docker, config.clone()]),
        (
            "no-platforms",
            vec![
                index(OCI_INDEX, &[descriptor(OCI_MANIFEST, &oci), descriptor(OCI_MANIFEST, &oci_other)]),
                oci,
                oci_other,
                config,
                other,
            ],
        ),
    ];
    let marked = images.map(|(name, documents)| (name, marked(&documents)));
    let asked = [("only", 0), ("tag", 1), ("digest", 2)];
    let seeds = asked.iter().flat_map(|(how, flags)| {
        marked.iter().map(move |(name, documents)| seed(format!("{name}-{how}"), &[*flags], documents))
    });
    seeds.collect()
}

/// What a real pull keeps.
pub fn stream() -> Seeds {
    let (layout, scratch) = (layout(), scratch());
    let small = tar([dir("usr"), file("usr/a", noise(1, 5000)), file("usr/b", "b"), symlink("usr/c", "b")]);
    let image = layout.image("a").layer(small).gzip().write();
    let repo = scratch.path("repo");
    pulls::pull(&repo, &[&image.reference]).arg("--algorithm=sha256").expect_success();
    let mut seeds = Vec::new();
    for link in fs::read_dir(repo.join("streams")).unwrap() {
        let path = link.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() {
            let flags = match () {
                () if name.starts_with("oci-layer") => 1,
                () if name.starts_with("oci-config") => 3,
                () => 5,
            };
            seeds.push(seed(&name[..12], &[flags], fs::read(&path).unwrap()));
        }
    }
    assert!(seeds.len() >= 3, "{seeds:?}");
    seeds.sort();
    // References to streams, to objects, bytes of names; then all of these, and the chunks. The object with
    // this id is there and has 72 bytes.
    let id = [8; 32];
    let chunk = |bytes: &[u8]| [&(-(bytes.len() as i64)).to_le_bytes()[..], bytes].concat();
    let inline = tar([dir("usr"), file("usr/b", "b")]);
    let external = tar([file("usr/a", noise(1, 72))]);
    let external = [&id[..], &chunk(&external[..512]), &[0; 8], &chunk(&external[584..])].concat();
    let names = b"0:sha256:00\x000:config:sha256:11\0";
    let document = [&id[..], &id, names, &[0; 8]].concat();
    let raw = [&id[..], &[0; 72]].concat();
    let packed = [
        seed("inline", &[0, 0, 0, 0], chunk(&inline)),
        seed("external", &[0, 0, 1, 0], external),
        seed("document", &[2, 1, 1, names.len() as u8], document),
        seed("raw", &[6, 0, 1, 0], raw),
    ];
    for (name, bytes) in &packed {
        assert!(is_whole_stream(bytes), "{name}");
    }
    seeds.extend(packed);
    let missing = seed("missing", &[6, 0, 1, 0], [9; 32 + 72]);
    assert!(!is_whole_stream(&missing.1));
    seeds.push(missing);
    seeds
}

pub fn reference() -> Seeds {
    let digest = format!("sha256:{}", "0".repeat(64));
    let texts = [
        "docker://quay.io/app:v1".to_owned(),
        "docker://localhost:5000/app".to_owned(),
        format!("docker://h:5000/app:v1@{digest}"),
        "registry:quay.io/app".to_owned(),
        "oci:/a:b/dir:v1".to_owned(),
        format!("oci:dir@{digest}"),
        "oci-archive:a.tar:v1".to_owned(),
        "docker-archive:a.tar".to_owned(),
        "dir:some/where".to_owned(),
        "containers-storage:sha256:00ff".to_owned(),
        digest,
        "linux/arm64/v8".to_owned(),
        ">= 1.2, < 3 || ^4".to_owned(),
        "1.2 - 1.4.x".to_owned(),
        "~1.2.3-rc.1 || !=2".to_owned(),
        "quay.io:5000/coreos/etcd".to_owned(),
    ];
    assert!(texts[..10].iter().all(|text| text.parse::<Reference>().is_ok()));
    texts.into_iter().enumerate().map(|(n, text)| seed(format!("text-{n:02}"), &[], text)).collect()
}

pub fn list() -> Seeds {
    let yaml = include_str!("../support/skopeo-sync.yaml");
    let digest = format!("sha256:{}", "0".repeat(64));
    let more = "# ours\nr.example:\n  newest: 3\n  platform: linux/arm64\n  immutable-tags: yes\n  \
                images:\n    \
                app: {tags: [\"1.0\", latest], platform: linux/amd64}\n    all:\n  images-by-semver:\n    \
                b: {semver: \"^1.2 || 3.x\", newest: 2}\n  images-by-tag-regex:\n    c: '^v[0-9]+$'\n";
    let plain = format!(
        "# what we run\n\ndocker://r.example:5000/a:v1 a\n\toci:some/dir:v2  app:v2 # \
         ours\ndocker://r/x@{digest}\n"
    );
    let lock = format!(
        "# cfs-dag lock 1: what each image of a list stood for\n{digest} docker://r.example/a:1\n\
         {digest} docker://r.example/a:1 linux/arm64\n"
    );
    for text in [yaml, more, &plain] {
        List::parse(text).unwrap();
    }
    Lock::parse(&lock).unwrap();
    let texts = [("skopeo", yaml), ("more", more), ("plain", &plain), ("lock", &lock)];
    let crlf = texts.map(|(name, text)| (format!("{name}-crlf"), text.replace('\n', "\r\n")));
    let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
    texts.into_iter().chain(crlf).map(|(name, text)| seed(name, &[], text)).collect()
}

pub fn plan() -> Seeds {
    let drawn = fs::read_dir("graphs").unwrap().map(|file| file.unwrap().path());
    let is_plan = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|ending| ending == "json") && !path.ends_with("plan.schema.json")
    };
    let mut seeds: Seeds = drawn
        .filter(is_plan)
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap()))
        .collect();
    assert!(seeds.len() >= 5);
    let tiny = plans::planned(vec![plans::image("a", vec![plans::layer("b", "gzip", 7)])]);
    seeds.push(seed("tiny", &[], json(&tiny, &Marks::default())));
    for (name, bytes) in &seeds {
        Plan::from_json(str::from_utf8(bytes).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    seeds.sort();
    seeds
}

/// What a real pull remembers, under the key that the target asks for.
pub fn node_record() -> Seeds {
    let (layout, scratch) = (layout(), scratch());
    let small = tar([dir("usr"), file("usr/a", noise(1, 5000)), file("usr/b", "b")]);
    let image = layout.image("a").layer(small).gzip().write();
    let repo = scratch.path("repo");
    pulls::pull(&repo, &[&image.reference]).arg("--algorithm=sha256").expect_success();
    let mut seeds = Vec::new();
    for folder in fs::read_dir(repo.join("cfs-dag/nodes")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let mut record: serde_json::Value =
                serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
            let name = record["kind"].as_str().unwrap().to_owned();
            // Times vary; and the target's repository has no objects.
            (record["key"], record["millis"]) = ("00f00ba4".into(), 7.into());
            seeds.push(seed(format!("{name}-whole"), &[], record.to_string()));
            record["outputs"] = serde_json::json!([]);
            seeds.push(seed(name, &[], record.to_string()));
        }
    }
    assert!(seeds.len() >= 2, "{seeds:?}");
    seeds.sort();
    seeds
}

pub fn run_record() -> Seeds {
    let run = sample_run::sample();
    let bytes = run.to_bytes().unwrap();
    Run::read(&*bytes).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let text = zstd::decode_all(&bytes[end + 1..]).unwrap();
    let unpacked = [&bytes[..end], b"\n%\n", &text].concat();
    vec![seed("whole", &[1], bytes), seed("unpacked", &[0], unpacked)]
}
