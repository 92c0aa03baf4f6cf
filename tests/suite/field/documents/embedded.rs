//! Documents and layers that a descriptor carries as `data`.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::layout::{OCI_MANIFEST, descriptor};

use super::{EMPTY, STATEMENT, Scene, here, layer};

/// A descriptor that carries its bytes, which nothing else has.
fn carried(media_type: &str, bytes: &[u8], data: &str) -> Value {
    let mut carried = descriptor(media_type, bytes);
    carried["data"] = json!(data);
    carried
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[test]
fn a_config_comes_from_its_descriptor_where_the_blob_is_missing() {
    let scene = Scene::new();
    let layers = [scene.put(STATEMENT, b"{}")];
    let manifest = scene.manifest(&carried(EMPTY, b"{ }", &base64(b"{ }")), &layers);
    let bytes = fs::read(scene.layout.path.join("blobs").join(super::digest_of(&manifest).replace(':', "/")));
    scene.registry.manifest("app", Some("x"), OCI_MANIFEST, &bytes.unwrap());
    scene.registry.blob("app", b"{}");
    let mut scene = scene;
    scene.layout.add(manifest.clone(), Some("x"));
    for reference in scene.both("x") {
        let result = scene.result(&reference);
        assert_eq!((&result["manifest"], &result["artifact"]), (&manifest["digest"], &json!(true)));
    }
}

#[test]
fn a_layer_comes_from_its_descriptor_where_the_blob_is_missing() {
    let mut scene = Scene::new();
    let tar = layer("f");
    let layers = [carried(support::layout::OCI_LAYER, &tar, &base64(&tar))];
    let image = scene.manifest(&scene.config(here(), &layers), &layers);
    scene.layout.add(image.clone(), Some("x"));
    scene.assert_gives(&scene.oci("x"), &image);
    support::oracle::assert_clean(&scene.repo());
}

#[test]
fn carried_data_is_checked() {
    let mut scene = Scene::new();
    for (at, (data, words)) in [
        (base64(b"{~}"), "does not match its digest"),
        (base64(b"{}"), "has 2 bytes, its descriptor says 3"),
        ("e30".to_owned(), "not base64"),
        ("{}".to_owned(), "not base64"),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, layers) = (format!("v{at}"), [scene.put(STATEMENT, b"{}")]);
        let manifest = scene.manifest(&carried(EMPTY, b"{ }", &data), &layers);
        scene.layout.add(manifest, Some(&name));
        let lacks = "the config: the layout lacks the blob";
        scene.assert_refused(&scene.oci(&name), &[lacks, "the descriptor's data", words]);
    }
}

#[test]
fn a_blob_that_is_there_comes_before_data() {
    let mut scene = Scene::new();
    let layers = [scene.put(STATEMENT, b"{}")];
    for (name, data) in [("other", base64(b"[]")), ("broken", "neither".to_owned())] {
        let mut config = scene.put(EMPTY, b"{}");
        config["data"] = json!(data);
        let manifest = scene.manifest(&config, &layers);
        scene.tag(&manifest, name);
        scene.assert_gives(&scene.oci(name), &manifest);
        if name == "other" {
            scene.assert_gives(&scene.registry.reference("app", name), &manifest);
        }
    }
    // skopeo parses what it has no use for.
    scene.assert_refused(&scene.registry.reference("app", "broken"), &["illegal base64 data"]);
}
