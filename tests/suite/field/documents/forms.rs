//! Documents that can be read in more than one way, or that only some programs read.

use std::{fs, process::Command};

use serde_json::{Value, json};
use support::layout::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

use super::{EMPTY, STATEMENT, Scene, digest_of, here, layer};

impl Scene {
    /// The only entry of the layout as an `oci-archive:`.
    fn archive(&self) -> String {
        let path = self.scratch.path(&format!("archive-{}.tar", self.repos.get()));
        let made =
            Command::new("tar").arg("-cf").arg(&path).arg("-C").arg(&self.layout.path).arg(".").status();
        assert!(made.unwrap().success());
        format!("oci-archive:{}", path.display())
    }

    /// Serves bytes that may not be JSON as a manifest, everywhere.
    fn serve(&mut self, name: &str, bytes: &[u8]) -> [String; 2] {
        let entry = self.put(OCI_MANIFEST, bytes);
        self.layout.add(entry, Some(name));
        self.registry.manifest("app", Some(name), OCI_MANIFEST, bytes);
        self.both(name)
    }

    fn bytes(&self, entry: &Value) -> Vec<u8> {
        fs::read(self.layout.path.join("blobs").join(digest_of(entry).replace(':', "/"))).unwrap()
    }
}

#[test]
fn a_document_that_is_both_manifest_and_index_is_refused_by_every_transport() {
    for media_type in [OCI_INDEX, OCI_MANIFEST] {
        let mut scene = Scene::new();
        let (layers, evil) = ([scene.put(OCI_LAYER, &layer("good"))], scene.image("evil"));
        let fields = json!({"mediaType": media_type, "manifests": [evil]});
        let both = scene.manifest_with(&scene.config(here(), &layers), &layers, fields);
        scene.tag(&both, "x");
        let [oci, docker] = scene.both("x");
        for reference in [oci, docker, scene.dir(&both), scene.archive()] {
            scene.assert_refused(&reference, &["ambiguous"]);
        }
        // As an index it is as ambiguous.
        let mut as_index = both.clone();
        as_index["mediaType"] = json!(OCI_INDEX);
        scene.layout.add(as_index, Some("index"));
        scene.assert_refused(&scene.oci("index"), &["the index has", "as well", "ambiguous"]);
    }
}

#[test]
fn names_that_other_programs_read_in_another_case_are_refused() {
    let mut scene = Scene::new();
    let layers = [scene.put(OCI_LAYER, &layer("good"))];
    let config = scene.config(here(), &layers);
    for (at, name) in ["Layers", "CONFIG", "Manifests"].into_iter().enumerate() {
        let odd = scene.manifest_with(&config, &layers, json!({name: []}));
        let tag = format!("v{at}");
        scene.tag(&odd, &tag);
        scene.assert_refused(&scene.oci(&tag), &[&format!("{name:?}"), "ambiguous"]);
    }
}

#[test]
fn json_that_only_some_programs_read_is_refused_in_one_line() {
    let mut scene = Scene::new();
    let image = scene.image("f");
    let whole = scene.bytes(&image);
    let open = &whole[..whole.len() - 1];
    for (at, (bytes, words)) in [
        ([&whole, &b" x"[..]].concat(), "trailing characters"),
        ([b"\xef\xbb\xbf", &whole[..]].concat(), "byte order mark"),
        ([open, br#","layers":[]}"#].concat(), "duplicate field `layers`"),
        (b"{".to_vec(), "malformed"),
        (b"".to_vec(), "malformed"),
    ]
    .into_iter()
    .enumerate()
    {
        let [oci, docker] = scene.serve(&format!("v{at}"), &bytes);
        scene.assert_refused(&oci, &[words]);
        scene.assert_refused(&docker, &[]);
    }
    let (mut scene, layers) = (Scene::new(), [] as [Value; 0]);
    let null = scene.manifest_with(&scene.config(here(), &layers), &layers, json!({"layers": null}));
    scene.tag(&null, "null");
    for reference in scene.both("null") {
        scene.assert_refused(&reference, &["the manifest is malformed: invalid type: null"]);
    }
}

#[test]
fn dockers_schema_1_is_named() {
    let mut scene = Scene::new();
    let old = json!({"schemaVersion": 1, "name": "app", "tag": "old", "architecture": "amd64",
        "fsLayers": [{"blobSum": digest_of(&scene.put(OCI_LAYER, b"x"))}],
        "history": [{"v1Compatibility": "{\"id\":\"a\"}"}]});
    for media_type in [OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v1+json"] {
        let entry = scene.put(media_type, old.to_string().as_bytes());
        let name = format!("{}", media_type.len());
        scene.layout.add(entry, Some(&name));
        scene.registry.manifest("app", Some(&name), media_type, old.to_string().as_bytes());
        for reference in scene.both(&name) {
            // Under another name skopeo refuses it as ambiguous.
            let is_misnamed = media_type == OCI_MANIFEST && reference.starts_with("docker");
            scene.assert_refused(&reference, &[if is_misnamed { "fsLayers" } else { "schema 1" }]);
        }
    }
}

#[test]
fn nulls_and_missing_names_that_mean_nothing_are_accepted() {
    let mut scene = Scene::new();
    let layers = [scene.put(OCI_LAYER, &layer("f"))];
    let config = scene.config(here(), &layers);
    let without_type = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    let empty = scene.put("application/vnd.example.config", b"");
    for (at, entry) in [
        scene.manifest_with(&config, &layers, json!({"annotations": null, "manifests": null})),
        scene.put(OCI_MANIFEST, without_type.as_bytes()),
        scene.manifest(&empty, &[scene.put(STATEMENT, b"{}")]),
        scene.manifest(&scene.put(EMPTY, b"{}"), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("v{at}");
        scene.tag(&entry, &name);
        for reference in scene.both(&name) {
            scene.assert_gives(&reference, &entry);
        }
    }
    scene.tag(&scene.manifest(&scene.put(OCI_CONFIG, b""), &layers), "empty");
    for reference in scene.both("empty") {
        scene.assert_refused(&reference, &["the config is malformed"]);
    }
}
