//! Signatures, attestations, SBOMs: what calls its config a container's and has no filesystem.

use serde_json::{Value, json};
use support::{
    layout::{OCI_CONFIG, OCI_LAYER},
    oracle,
    registry::Kind,
    registry_real::real_registry,
    repo::cfs_dag,
};

use super::{STATEMENT, Scene, here, layer, unknown};

const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Asserts that the repository is sound, by our reading and upstream's, and says artifact wherever it lists
/// it.
#[track_caller]
fn assert_kept_as_artifact(scene: &Scene, result: &Value, layers: u64) {
    assert_eq!((&result["artifact"], &result["erofs"]), (&json!(true), &json!({})), "{result:#}");
    let repo = scene.repo();
    let rows = cfs_dag(["images", "--json"]).repo(&repo).expect_success().json();
    assert_eq!(rows[0]["isContainer"], json!(false), "{rows:#}");
    assert_eq!(rows[0]["layerCount"], json!(layers), "{rows:#}");
    assert!(layers == 0 || rows[0]["storedBytes"].as_u64().unwrap() > 0, "{rows:#}");
    let table = cfs_dag(["images"]).repo(&repo).expect_success();
    assert!(table.stdout.contains("artifact"), "{table}");
    let shown = cfs_dag(["inspect", "x"]).repo(&repo).expect_success();
    assert!(shown.stdout.contains("kind      artifact"), "{shown}");
    cfs_dag(["inspect", "--json", "x"]).repo(&repo).expect_success();
    cfs_dag(["fsck"]).repo(&repo).expect_success();
    let target = repo.parent().unwrap();
    let mounted = cfs_dag(["mount", "x"]).arg(target).repo(&repo).expect_failure(1);
    mounted.says(&["an artifact has no filesystem"]);
}

#[test]
fn layers_that_are_not_tars_make_an_artifact_whatever_the_config_says() {
    let mut scene = Scene::new();
    let signature = br#"{"critical":{"identity":{"docker-reference":"example.com/a"}}}"#;
    let signature = scene.statement(here(), SIGNATURE, signature, 2);
    let attestation = scene.statement(unknown(), STATEMENT, br#"{"subject":[]}"#, 1);
    for (entry, name, layers) in [(&signature, "sig", 2), (&attestation, "att", 1)] {
        scene.tag(entry, name);
        let [oci, docker] = scene.both(name);
        for reference in [oci, docker, scene.dir(entry)] {
            let result = scene.result(&reference);
            assert_eq!(result["manifest"], entry["digest"], "{reference}");
            assert_kept_as_artifact(&scene, &result, layers);
            oracle::assert_clean(&scene.repo());
            oracle::assert_gc_removes_nothing(&scene.repo());
            let again = scene.pull_again(&reference).arg("--format=json").expect_success().json();
            let again = &again["images"][0];
            assert_eq!((&again["unchanged"], &again["artifact"]), (&json!(true), &json!(true)), "{again:#}");
        }
        let text = scene.pull(&scene.oci(name)).expect_success();
        assert!(text.stdout.starts_with("x (artifact)\n"), "{text}");
    }
}

#[test]
fn a_signature_comes_from_a_real_registry() {
    let mut scene = Scene::new();
    let signature = scene.statement(here(), SIGNATURE, b"{}", 1);
    scene.tag(&signature, "sig");
    let registry = real_registry();
    let result = scene.result(&registry.push(&scene.oci("sig"), "app:sig"));
    assert_eq!(result["manifest"], signature["digest"]);
    assert_kept_as_artifact(&scene, &result, 1);
}

#[test]
fn a_layer_that_an_artifact_has_twice_is_fetched_and_stored_once() {
    let mut scene = Scene::new();
    let bytes = vec![7; 5000];
    let twice = scene.statement(here(), SIGNATURE, &bytes, 2);
    scene.tag(&twice, "sig");
    let result = scene.result(&scene.registry.reference("app", "sig"));
    assert_eq!((&result["bytes_fetched"], &result["layers"]["total"]), (&json!(5000), &json!(2)));
    assert_eq!(scene.registry.counts().requests(Kind::Layer), 1);
}

#[test]
fn layers_whose_type_says_nothing_are_tars_of_a_container() {
    let mut scene = Scene::new();
    for (at, media_type) in ["application/octet-stream", "application/x-tar", ""].into_iter().enumerate() {
        let layers = [scene.put(media_type, &layer("f"))];
        let image = scene.manifest(&scene.config(here(), &layers), &layers);
        let name = format!("v{at}");
        scene.tag(&image, &name);
        let result = scene.result(&scene.oci(&name));
        assert_eq!((&result["manifest"], result.get("artifact")), (&image["digest"], None), "{media_type:?}");
        assert!(result["erofs"].as_object().is_some_and(|images| !images.is_empty()), "{result:#}");
    }
}

#[test]
fn a_layer_that_is_not_a_tar_beside_tars_fails_by_its_place() {
    let mut scene = Scene::new();
    let layers = [scene.put(OCI_LAYER, &layer("f")), scene.put(STATEMENT, br#"{"subject":[]}"#)];
    scene.tag(&scene.manifest(&scene.config(here(), &layers), &layers), "mixed");
    for reference in scene.both("mixed") {
        scene.assert_refused(&reference, &["layer 2 of 2"]);
    }
}

#[test]
fn an_encrypted_layer_is_named_before_anything_is_fetched() {
    let mut scene = Scene::new();
    let layers = [scene.put(OCI_LAYER, &layer("f")), scene.put(&format!("{OCI_LAYER}+encrypted"), b"secret")];
    scene.tag(&scene.manifest(&scene.config(here(), &layers), &layers), "secret");
    for reference in scene.both("secret") {
        scene.assert_refused(&reference, &["layer 2 of 2 is encrypted", "--decryption-key"]);
    }
    assert_eq!(scene.registry.counts().requests(Kind::Layer), 0);
}

#[test]
fn without_layers_and_platform_it_is_an_artifact() {
    let mut scene = Scene::new();
    scene.tag(&scene.manifest(&scene.put(OCI_CONFIG, b"{}"), &[]), "none");
    for reference in scene.both("none") {
        let result = scene.result(&reference);
        assert_kept_as_artifact(&scene, &result, 0);
    }
}
