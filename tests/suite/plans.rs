//! Plans that are kept: what `--plan-out` saves, `--plan` runs as it is or refuses; and what `--force` and
//! `--detailed-exitcode` make of a plan.

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{
    image::{Layout, layout},
    repo::{Invocation, cfs_dag, repo_manifest, scratch},
    tar::{dir, file, noise, tar},
};

/// A layer with a large file, which has an object of its own.
fn layer(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/file-{seed}"), noise(seed, 20_000))])
}

/// Writes an image of these layers under a tag that may have been another's; gives its reference.
fn image(layout: &Layout, tag: &str, seeds: &[u64]) -> String {
    seeds.iter().fold(layout.image(tag), |image, seed| image.layer(layer(*seed)).plain()).write().reference
}

fn pull(repo: &Path) -> Invocation {
    cfs_dag(["pull", "--insecure", "--progress=none"]).repo(repo)
}

/// The object of a file of [`layer`].
fn a_files_object(repo: &Path) -> PathBuf {
    let lines = repo_manifest(repo);
    let line = lines.iter().find(|line| line.starts_with("objects/") && line.contains(" 20000 ")).unwrap();
    repo.join(line.split(' ').next().unwrap())
}

/// The plan that a pull of `reference` would run, saved.
fn saved(repo: &Path, reference: &str, plan: &Path) {
    pull(repo).arg(reference).arg("--dry-run").arg("--plan-out").arg(plan).expect_success();
}

#[test]
fn a_saved_plan_is_what_is_drawn_and_is_run_as_it_is() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    saved(&repo, &reference, &plan);
    let drawn = pull(&repo).arg(&reference).arg("--dry-run=json").expect_success().stdout;
    assert_eq!(fs::read_to_string(&plan).unwrap(), drawn);
    let result = pull(&repo).arg("--plan").arg(&plan).arg("--format=json").expect_success().json();
    assert_eq!(result["images"][0]["name"], reference.as_str());
    assert_eq!(result["images"][0]["outcome"], "ok");
    // All of it is done now: that is less than was planned, and no reason to refuse.
    pull(&repo).arg("--plan").arg(&plan).expect_success();
}

#[test]
fn a_plan_keeps_the_name_and_the_platform_that_were_asked_for() {
    let (scratch, layout) = (scratch(), layout());
    let reference = layout.image("a").platform("linux/arm64").layer(layer(1)).plain().write().reference;
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    let dry = pull(&repo).arg(&reference).arg("--dry-run").arg("--plan-out").arg(&plan);
    dry.arg("--platform=linux/arm64").arg("--name=mine").expect_success();
    let result = pull(&repo).arg("--plan").arg(&plan).arg("--format=json").expect_success().json();
    assert_eq!(result["images"][0]["name"], "mine");
}

#[test]
fn a_plan_is_refused_when_its_tag_has_moved() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    saved(&repo, &reference, &plan);
    image(&layout, "a", &[1, 2]);
    let refused = pull(&repo).arg("--plan").arg(&plan).expect_failure(1);
    refused.says(&["the plan cannot be run as it is", &reference, "make a new one"]);
    assert!(!repo.exists(), "what is refused makes no repository");
}

#[test]
fn a_plan_is_refused_when_what_was_stored_is_gone() {
    let (scratch, layout) = (scratch(), layout());
    let (base, app) = (image(&layout, "base", &[1]), image(&layout, "app", &[1, 2]));
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    pull(&repo).arg(&base).expect_success();
    saved(&repo, &app, &plan);
    cfs_dag(["untag", &base]).repo(&repo).expect_success();
    cfs_dag(["gc"]).repo(&repo).expect_success();
    let before = repo_manifest(&repo);
    let refused = pull(&repo).arg("--plan").arg(&plan).expect_failure(1);
    refused.says(&["the layer sha256:", "was stored, and now it is not"]);
    assert_eq!(before, repo_manifest(&repo), "what is refused changes nothing");
}

#[test]
fn a_plan_is_refused_when_somebody_else_took_its_name() {
    let (scratch, layout) = (scratch(), layout());
    let (app, other) = (image(&layout, "app", &[1]), image(&layout, "other", &[2]));
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    let dry = pull(&repo).arg(&app).arg("--name=mine").arg("--dry-run").arg("--plan-out").arg(&plan);
    dry.expect_success();
    pull(&repo).arg(&other).arg("--name=mine").expect_success();
    pull(&repo).arg("--plan").arg(&plan).expect_failure(1).says(&["the name \"mine\""]);
}

#[test]
fn a_plan_for_another_repository_is_refused_and_what_is_no_plan_too() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    saved(&repo, &reference, &plan);
    let other = pull(&scratch.path("other")).arg("--algorithm=sha256").arg("--plan").arg(&plan);
    other.expect_failure(1).says(&["sha256", "the plan was made for"]);
    fs::write(&plan, "{}").unwrap();
    pull(&repo).arg("--plan").arg(&plan).expect_failure(2).says(&["this is no plan"]);
}

#[test]
fn a_plan_for_a_list_is_refused() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    saved(&repo, &reference, &plan);
    let saved = fs::read_to_string(&plan).unwrap();
    for of_a_list in ["\"untag\": [\"old\"]", "\"selections\": [{\"rule\": \"a\", \"images\": []}]"] {
        fs::write(&plan, saved.replacen("\"images\"", &format!("{of_a_list}, \"images\""), 1)).unwrap();
        let refused = pull(&repo).arg("--plan").arg(&plan).expect_failure(2);
        refused.says(&["this plan was made for a list: run `cfs-dag mirror` again"]);
    }
    assert!(!repo.exists());
}

#[test]
fn the_exit_code_tells_whether_there_is_work() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1]);
    let repo = scratch.path("repo");
    let dry = || pull(&repo).arg(&reference).arg("--dry-run").arg("--detailed-exitcode");
    assert_eq!(dry().run().code, Some(4));
    pull(&repo).arg(&reference).expect_success();
    assert_eq!(dry().run().code, Some(0));
    assert_eq!(dry().arg("oci:not-there").run().code, Some(3));
    image(&layout, "a", &[1, 2]);
    assert_eq!(dry().run().code, Some(4));
}

#[test]
fn force_makes_everything_again_and_mends_what_a_tagged_image_lacks() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let repo = scratch.path("repo");
    pull(&repo).arg(&reference).expect_success();
    let whole = repo_manifest(&repo);
    let again = pull(&repo).arg(&reference).arg("--force").arg("--format=json").expect_success().json();
    assert_eq!(again["images"][0]["layers"]["new"], 2);
    assert_eq!(again["totals"]["objects_new"], 0);
    assert_eq!(repo_manifest(&repo), whole, "the same, made again");
    // A tagged image is believed without a look at every object: only force finds what is damaged.
    let object = a_files_object(&repo);
    fs::remove_file(&object).unwrap();
    pull(&repo).arg(&reference).expect_success();
    assert!(!object.exists());
    pull(&repo).arg(&reference).arg("--force").expect_success();
    assert!(object.exists());
    assert_eq!(repo_manifest(&repo), whole);
}

/// Changes the JSON of a saved plan.
fn edit(plan: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_str(&fs::read_to_string(plan).unwrap()).unwrap();
    change(&mut json);
    fs::write(plan, json.to_string()).unwrap();
}

#[test]
fn plan_whose_layers_were_edited_is_refused() {
    let (scratch, layout) = (scratch(), layout());
    let reference = image(&layout, "a", &[1, 2]);
    let other = image(&layout, "b", &[3]);
    let (repo, plan) = (scratch.path("repo"), scratch.path("plan.json"));
    let nodes = |json: &mut serde_json::Value, kind: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let nodes = json["nodes"].as_array_mut().unwrap();
        nodes.iter_mut().filter(|node| node["kind"] == kind).take(1).for_each(change);
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let changes: [(&str, Change); 9] = [
        ("another order", &|json| json["images"][0]["layers"].as_array_mut().unwrap().reverse()),
        ("a layer less", &|json| drop(json["images"][0]["layers"].as_array_mut().unwrap().pop())),
        ("a layer twice", &|json| {
            let layers = json["images"][0]["layers"].as_array_mut().unwrap();
            layers.push(layers[0].clone());
        }),
        ("another diff_id", &|json| {
            nodes(json, "finalize", &|node| node["subject"]["layer"] = digest.clone().into())
        }),
        ("another diff_id of a split", &|json| {
            nodes(json, "split", &|node| node["subject"]["layer"] = digest.clone().into())
        }),
        ("another blob", &|json| {
            nodes(json, "fetch", &|node| node["subject"]["blob"] = digest.clone().into())
        }),
        ("another size", &|json| nodes(json, "fetch", &|node| node["cost_bytes"] = 7.into())),
        ("another config", &|json| json["images"][0]["config"] = digest.clone().into()),
        ("another storage", &|json| nodes(json, "finalize", &|node| node["storage"] = "raw".into())),
    ];
    for (what, change) in changes {
        saved(&repo, &reference, &plan);
        edit(&plan, change);
        let refused = pull(&repo).arg("--plan").arg(&plan).expect_failure(1);
        assert_eq!(refused.stderr.lines().count(), 1, "{what}: {refused}");
        refused.says(&["the plan cannot be run as it is", "make a new one"]);
        assert!(!repo.exists(), "{what}");
    }
    // Layers of an image that it has not, also where all of it is stored.
    pull(&repo).arg(&reference).expect_success();
    saved(&repo, &reference, &plan);
    let theirs = scratch.path("theirs.json");
    saved(&repo, &other, &theirs);
    let theirs: serde_json::Value = serde_json::from_str(&fs::read_to_string(theirs).unwrap()).unwrap();
    edit(&plan, |json| json["nodes"][0]["subject"] = theirs["nodes"][0]["subject"].clone());
    pull(&repo).arg("--plan").arg(&plan).expect_failure(1).says(&["the plan cannot be run as it is"]);
    // Written anew without a change it runs.
    saved(&repo, &reference, &plan);
    edit(&plan, |_| ());
    pull(&repo).arg("--plan").arg(&plan).expect_success();
}
