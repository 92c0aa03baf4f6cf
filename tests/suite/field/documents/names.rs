//! Names in layouts: whole, twice, and beside colons in paths.

use std::fs;

use serde_json::json;

use super::{Scene, digest_of, here, with_platform};

#[test]
fn a_name_is_matched_whole_before_the_last_colon_is_looked_for() {
    let mut scene = Scene::new();
    let (x, app) = (scene.image("f"), scene.image("app"));
    let cosign = scene.image("cosign");
    for (entry, name) in [(&x, "x"), (&app, "docker.io/library/app:1.0"), (&cosign, "_cosign:sha256-00")] {
        scene.layout.add(entry.clone(), Some(name));
        scene.assert_gives(&scene.oci(name), entry);
    }
    let words = ["no tag \"docker.io/library/app:2.0\" in the layout: it has x, docker.io/library/app:1.0"];
    scene.assert_refused(&scene.oci("docker.io/library/app:2.0"), &words);
}

#[test]
fn a_path_may_have_colons() {
    let mut scene = Scene::new();
    let image = scene.image("f");
    scene.layout.add(image.clone(), Some("v1"));
    let colons = scene.scratch.path("a:b/c:d");
    fs::create_dir_all(colons.parent().unwrap()).unwrap();
    fs::rename(&scene.layout.path, &colons).unwrap();
    for reference in [
        format!("oci:{}:v1", colons.display()),
        format!("oci:{}@{}", colons.display(), digest_of(&image)),
        format!("oci:{}", colons.display()),
    ] {
        scene.assert_gives(&reference, &image);
    }
}

#[test]
fn two_images_of_one_name_for_one_platform_are_refused() {
    let mut scene = Scene::new();
    let (first, second) = (scene.image("first"), scene.image("second"));
    for entry in [&first, &second] {
        scene.layout.add(with_platform(entry, here()), Some("x"));
    }
    let (one, other) = (digest_of(&first), digest_of(&second));
    let choose = format!("choose one as oci:{}@{one}", scene.layout.path.display());
    scene.assert_refused(&scene.oci("x"), &["2 images for linux/", "named \"x\"", &one, &other, &choose]);
    for (digest, entry) in [(one, &first), (other, &second)] {
        scene.assert_gives(&format!("oci:{}@{digest}", scene.layout.path.display()), entry);
    }
}

#[test]
fn two_images_without_a_name_for_one_platform_are_refused() {
    let mut scene = Scene::new();
    for name in ["first", "second"] {
        scene.layout.add(scene.image(name), None);
    }
    let path = format!("oci:{}", scene.layout.path.display());
    scene.assert_refused(&path, &["2 images for linux/", "choose one as oci:"]);
}

#[test]
fn one_name_may_stand_for_an_image_twice_and_for_several_platforms() {
    let mut scene = Scene::new();
    let image = scene.image("f");
    let foreign = scene.layout.image("s390x", &[&super::layer("g")]);
    for entry in [
        with_platform(&image, here()),
        with_platform(&foreign, json!({"os": "linux", "architecture": "s390x"})),
        with_platform(&image, here()),
    ] {
        scene.layout.add(entry, Some("x"));
    }
    scene.assert_gives(&scene.oci("x"), &image);
    let other = scene.pull(&scene.oci("x")).args(["--platform=linux/s390x", "--format=json"]);
    assert_eq!(other.expect_success().json()["images"][0]["manifest"], foreign["digest"]);
}
