//! What a mirror shows before it does anything, and in the end.

use std::{fs, path::Path};

use support::repo::{cfs_dag, repo_manifest};

use super::world::{World, lines_of};

const FORMATS: [&str; 6] = ["text", "dot", "mermaid", "json", "html", "svg"];

/// Everything in a repository, our own folder too.
fn everything(repo: &Path) -> Vec<String> {
    let own = repo_manifest(&repo.join("cfs-dag"));
    [repo_manifest(repo), own].concat()
}

/// `text` without the entities of Mermaid.
fn plain(text: &str) -> String {
    let entities = [(":", 58), ("/", 47), ("^", 94), (" ", 32), (",", 44), (";", 59)];
    entities.iter().fold(text.to_owned(), |text, (letter, code)| text.replace(&format!("#{code};"), letter))
}

#[test]
fn a_dry_run_shows_in_every_format_which_tags_a_rule_chose_and_makes_nothing() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:w1"]);
    let list = world.list("HOST:\n  images-by-tag-regex: {app: ^v}\n");
    for format in FORMATS {
        let shown = world.mirror(&list).arg(format!("--dry-run={format}")).expect_success();
        let told = plain(&shown.stdout);
        assert!(told.contains("app by tag ^v"), "{shown}");
        assert!(told.contains("app:v1, v2") || format != "mermaid", "{shown}");
        assert!(told.contains("v1") && told.contains("v2") && !told.contains("w1"), "{shown}");
        assert_eq!(shown.stderr, "", "{shown}");
    }
    assert!(!world.repo().exists());
}

#[test]
fn a_dry_run_shows_in_every_format_which_names_would_go_and_changes_nothing() {
    let world = World::new();
    world.images(["app:v1", "lib:v2"]);
    world.mirror_of("docker://HOST/app:v1\ndocker://HOST/lib:v2\n").expect_success();
    let list = world.list("docker://HOST/app:v1\n");
    let before = everything(&world.repo());
    for format in FORMATS {
        let dry = || world.mirror(&list).arg(format!("--dry-run={format}"));
        let shown = dry().arg("--prune").expect_success();
        let told = plain(&shown.stdout);
        assert!(told.contains("lib:v2") && told.contains("untag"), "{shown}");
        let kept = dry().expect_success();
        assert!(!plain(&kept.stdout).contains("lib:v2") && !kept.stdout.contains("untag"), "{kept}");
    }
    assert_eq!(everything(&world.repo()), before);
}

#[test]
fn the_exit_code_of_a_dry_run_can_say_whether_there_is_work() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    let list = world.list("docker://HOST/app:v1\ndocker://HOST/app:v2\n");
    let dry = |flags: &[&str]| {
        let mirror = world.mirror(&list).arg("--dry-run").arg("--detailed-exitcode");
        flags.iter().fold(mirror, |mirror, flag| mirror.arg(flag)).run()
    };
    dry(&[]).assert_code(4);
    world.mirror(&list).expect_success();
    dry(&[]).assert_code(0);
    world.list("docker://HOST/app:v1\n");
    dry(&[]).assert_code(0);
    dry(&["--prune"]).assert_code(4);
    world.list("docker://HOST/app:v1\ndocker://HOST/app:v3\n");
    dry(&["--prune"]).assert_code(3);
}

#[test]
fn a_plan_that_was_made_for_a_list_is_no_plan_for_a_pull() {
    let world = World::new();
    world.images(["app:v1"]);
    let plan = world.mirror_of("docker://HOST/app:v1\n").arg("--dry-run=json").expect_success().stdout;
    fs::write(world.path("plan.json"), plan).unwrap();
    let pull = cfs_dag(["pull", "--insecure", "--plan"]).arg(world.path("plan.json")).repo(world.repo());
    pull.expect_failure(2).says(&["plan.json: this plan was made for a list: run `cfs-dag mirror` again"]);
    assert!(!world.repo().exists());
}

#[test]
fn the_digests_of_what_is_here_are_written_and_in_a_dry_run_of_what_would_be() {
    let world = World::new();
    let [first, second] = world.images(["app:v1", "app:v2"]);
    let list = world.list("docker://HOST/app:v2 web\ndocker://HOST/app:v1\ndocker://HOST/app:v3\n");
    let mirror = || world.mirror(&list).arg("--digestfile").arg(world.path("digests"));
    let read = || world.short(&fs::read_to_string(world.path("digests")).unwrap());
    let both = format!("{} app:v2\n{} app:v1\n", second.manifest, first.manifest);
    mirror().arg("--dry-run").expect_failure(3);
    assert_eq!(read(), both);
    assert!(!world.repo().exists());
    world.registry.fault_always(
        &format!("app/blobs/{}", second.layers[1]),
        support::registry::Fault::Status(404, None),
    );
    mirror().expect_failure(3);
    assert_eq!(read(), format!("{} app:v1\n", first.manifest), "only what is here");
    world.registry.heal();
    mirror().expect_failure(3);
    assert_eq!(read(), both);
}

#[test]
fn a_name_that_moved_is_told_with_both_digests() {
    let world = World::new();
    let [before, _] = world.images(["app:v1", "app:v2"]);
    let list = world.list("docker://HOST/app:v1\ndocker://HOST/app:v2\n");
    world.mirror(&list).expect_success();
    let now = world.image("app:v1", 1);
    let summary = world.path("summary.json");
    let moved = world.mirror(&list).arg("--summary").arg(&summary).expect_success();
    let (from, to) = (before.manifest.to_string(), now.manifest.to_string());
    let line = format!("{}  {from} -> {to}  ", world.name("app:v1"));
    assert!(lines_of(&moved, "moved")[0].starts_with(&line), "{moved}");
    assert_eq!(lines_of(&moved, "unchanged"), ["1 image"]);
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(
        (&summary["images"][0]["previous_manifest"], &summary["images"][0]["manifest"]),
        (&from.into(), &to.into())
    );
    assert!(summary["images"][1].get("previous_manifest").is_none(), "{summary:#}");
    // A pull tells it, too.
    world.image("app:v1", 2);
    let pull = ["pull", "--insecure", "--tls-verify=false", "--progress=none"];
    let pull = || cfs_dag(pull).arg(world.name("app:v1")).repo(world.repo()).expect_success();
    assert!(pull().stdout.contains(&format!("  previous  {}\n", now.manifest)));
    assert!(!pull().stdout.contains("previous"));
}

#[test]
fn a_name_that_could_not_be_moved_has_not_moved() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.list("docker://HOST/app:v1\n");
    world.mirror(&list).expect_success();
    let now = world.image("app:v1", 1);
    world.registry.fault("app", now.layers[1], support::registry::Fault::Status(404, None));
    let failed = world.mirror(&list).arg("--format=json").expect_failure(1).json();
    assert!(failed["images"][0].get("previous_manifest").is_none(), "{failed:#}");
}

#[test]
fn lists_that_take_a_name_from_each_other_are_told_of_each_other() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:v3"]);
    let first = world.list("docker://HOST/app:v1 web\ndocker://HOST/app:v3\n");
    let other = world.file("other", "docker://HOST/app:v2 web\ndocker://HOST/app:v3\n");
    assert_eq!(world.mirror(&first).expect_success().stderr, "");
    for _ in 0..2 {
        let moved = world.mirror(&other).expect_success();
        assert_eq!(lines_of(&moved, "moved").len(), 1, "{moved}");
        moved.says(&[&format!(
            "web moved, and the list {} has that name for {}: ",
            first.display(),
            world.name("app:v1")
        )]);
        let back = world.mirror(&first).expect_success();
        back.says(&[&format!("the list {} has that name for {}: ", other.display(), world.name("app:v2"))]);
    }
    // Lists that agree on the image have nothing to hear of each other when its tag moves.
    world.image("app:v3", 1);
    world.file("other", "docker://HOST/app:v3\n");
    let moved = world.mirror(&other).expect_success();
    assert_eq!((lines_of(&moved, "moved").len(), &*moved.stderr), (1, ""), "{moved}");
}
