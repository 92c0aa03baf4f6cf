//! Indexes with entries that others write or lose, and what is chosen among the rest.

use serde_json::{Value, json};

use super::{STATEMENT, Scene, digest_of, here, unknown, with_platform};

#[test]
fn an_entry_without_a_usable_platform_is_passed_over_and_named() {
    let mut scene = Scene::new();
    let (other, good) = (scene.image("other"), scene.image("good"));
    let mut bad_digest = with_platform(&other, here());
    bad_digest["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
    let mut bad_size = with_platform(&other, here());
    bad_size["size"] = json!(-1);
    for (at, (bad, why)) in [
        (other.clone(), "names no platform"),
        (with_platform(&other, Value::Null), "names no platform"),
        (with_platform(&other, json!({})), "its platform is empty"),
        (with_platform(&other, json!({"architecture": "arm64"})), "its platform has no os"),
        (with_platform(&other, json!({"os": "linux"})), "its platform has no architecture"),
        (with_platform(&other, json!({"os": 1, "architecture": "arm64"})), "its platform is malformed"),
        (with_platform(&other, json!("linux/amd64")), "its platform is malformed"),
        (bad_digest, "entry 1: digest algorithm"),
        (bad_size, "entry 1: its size is -1"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("v{at}");
        let index = scene.index(&[bad, with_platform(&good, here())]);
        if why.contains("sha512") || why.contains("entry 1") {
            // The registry of the tests follows entries, and cannot follow these.
            scene.layout.add(index, Some(&name));
            scene.assert_gives(&scene.oci(&name), &good);
        } else {
            scene.tag(&index, &name);
            for reference in scene.both(&name) {
                scene.assert_gives(&reference, &good);
            }
        }
        scene.pull(&scene.oci(&name)).arg("-v").expect_success().says(&["passed over", why]);
    }
}

#[test]
fn what_skopeo_cannot_parse_or_follow_is_followed_all_the_same() {
    let mut scene = Scene::new();
    let (other, good) = (scene.image("other"), scene.image("good"));
    let malformed = with_platform(&other, json!("linux/amd64"));
    scene.tag(&scene.index(&[malformed, with_platform(&good, here())]), "malformed");
    let about = scene.statement(unknown(), STATEMENT, b"{}", 1);
    let attestation = with_platform(&about, unknown());
    let per = |image: &Value, platform: Value| {
        let index = scene.index(&[attestation.clone(), with_platform(image, platform.clone())]);
        with_platform(&index, platform)
    };
    let foreign = json!({"os": "linux", "architecture": "s390x"});
    let nested = scene.index(&[per(&other, foreign), per(&good, here())]);
    let silent = scene.index(&[scene.index(&[with_platform(&good, here())])]);
    scene.tag(&nested, "nested");
    scene.tag(&silent, "silent");
    for name in ["malformed", "nested", "silent"] {
        for reference in scene.both(name) {
            scene.assert_gives(&reference, &good);
        }
    }
    // Also by the digest of the index.
    let pinned = scene.registry.pinned("app", digest_of(&nested).parse().unwrap());
    scene.assert_gives(&pinned, &good);
    let finished = scene.pull(&scene.registry.reference("app", "nested"));
    let finished = finished.arg("--platform=linux/s390x").expect_failure(1);
    finished.says(&["the image is for linux/"]);
}

#[test]
fn indexes_are_followed_only_so_deep() {
    let mut scene = Scene::new();
    let mut entry = with_platform(&scene.image("f"), here());
    for _ in 0..4 {
        entry = with_platform(&scene.index(&[entry]), here());
    }
    scene.tag(&entry, "four");
    for reference in scene.both("four") {
        scene.pull(&reference).expect_success();
    }
    scene.tag(&scene.index(&[entry]), "five");
    for reference in scene.both("five") {
        scene.assert_refused(&reference, &["indexes are nested more than 4 deep"]);
    }
}

#[test]
fn where_nothing_fits_the_platforms_are_listed() {
    let mut scene = Scene::new();
    let image = scene.image("f");
    let on = |architecture: &str| with_platform(&image, json!({"os": "linux", "architecture": architecture}));
    let attestation = with_platform(&image, unknown());
    scene.tag(&scene.index(&[on("s390x"), attestation, on("mips64")]), "foreign");
    for reference in scene.both("foreign") {
        let words = ["no image for linux/", "there are linux/s390x, linux/mips64"];
        let finished = scene.assert_refused(&reference, &words);
        assert!(!finished.stderr.contains("unknown"), "{finished}");
    }
}

#[test]
fn an_only_entry_without_a_platform_is_taken_as_it_is() {
    let mut scene = Scene::new();
    let foreign = scene.layout.image("s390x", &[&super::layer("f")]);
    scene.tag(&scene.index(std::slice::from_ref(&foreign)), "only");
    for reference in scene.both("only") {
        scene.assert_gives(&reference, &foreign);
    }
}

#[test]
fn an_index_with_nothing_to_store_says_so() {
    let mut scene = Scene::new();
    let about = scene.statement(unknown(), STATEMENT, b"{}", 1);
    scene.tag(&scene.index(&[]), "empty");
    scene.tag(&scene.index(&[with_platform(&about, unknown())]), "about");
    for reference in scene.both("empty") {
        scene.assert_refused(&reference, &["nothing to store: an empty index"]);
    }
    for reference in scene.both("about") {
        scene.assert_refused(&reference, &["nothing to store: an index of attestations alone"]);
    }
}

#[test]
fn the_first_of_an_index_of_artifacts_alone_is_kept() {
    let mut scene = Scene::new();
    let (first, second) = (scene.artifact(b"{\"first\":1}"), scene.artifact(b"{\"second\":2}"));
    scene.tag(&scene.index(&[first.clone(), second]), "artifacts");
    for reference in scene.both("artifacts") {
        let result = scene.result(&reference);
        assert_eq!((&result["manifest"], &result["artifact"]), (&first["digest"], &json!(true)));
    }
    scene.pull(&scene.oci("artifacts")).arg("-v").expect_success().says(&["an index of 2 artifacts"]);
}
