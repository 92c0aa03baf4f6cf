//! The command line as a user meets it: what each verb prints, where, with which exit code,
//! and what it leaves behind.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use composefs::{
    fsverity::{Algorithm as FsVerity, Sha512HashValue},
    repository::{Repository, RepositoryConfig},
};
use composefs_oci::{OciImage, PullOptions};
use rustix::fs::CWD;
use serde_json::{Value, json};
use support::{
    image::{Image, Layout, layout},
    oracle::{self, Algorithm, DEFAULT_KIND, Formats, RepoKind},
    registry::{Fault, Registry},
    repo::{
        Finished, Invocation, assert_same_lines, assert_same_repo, cfs_dag, command, program, repo_manifest,
        scratch,
    },
    tar::{dir, file, noise, tar},
    tree,
};

const VERBS: [&str; 12] = [
    "pull",
    "mirror",
    "init",
    "images",
    "inspect",
    "tag",
    "untag",
    "fsck",
    "gc",
    "mount",
    "completions",
    "man",
];

/// A layer with files of both kinds; different for each `seed`.
fn small_layer(seed: u64) -> Vec<u8> {
    tar([
        dir("usr"),
        file("usr/inline", format!("{seed}")),
        file(format!("usr/big-{seed}"), noise(seed, 5000)),
        file(format!("usr/bigger-{seed}"), noise(seed + 1000, 70_000)),
    ])
}

fn small_image(layout: &Layout, tag: &str, seed: u64) -> Image {
    layout.image(tag).layer(small_layer(seed)).write()
}

fn pull<'a>(references: impl IntoIterator<Item = &'a String>) -> Invocation {
    references.into_iter().fold(cfs_dag(["pull", "--insecure"]), Invocation::arg)
}

/// `cfs-dag` under a shell that first does something to its surroundings, like `umask 077` or `exec >&-`.
fn under_shell(before: &str) -> Invocation {
    let script = format!("{before}; exec \"$0\" \"$@\"");
    command("sh", ["-c", &script, program()])
}

/// Every path below `path` with its type, mode, size and time of change: also what nobody but us looks at.
fn everything(path: &Path) -> Vec<String> {
    let listing = command("find", [".", "-printf", "%p %y %m %s %T@ %l\n"]).in_folder(path).expect_success();
    let mut lines: Vec<String> = listing.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn assert_quiet(finished: &Finished) {
    assert_eq!(finished.stdout, "", "{finished}");
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

#[test]
fn init_makes_what_upstream_makes() {
    for kind @ RepoKind(algorithm, formats) in oracle::ALL_KINDS {
        let scratch = scratch();
        let (theirs, ours) = (scratch.path("theirs"), scratch.path("ours"));
        oracle::create(&theirs, kind);
        let algorithm = if algorithm == Algorithm::Sha256 { "sha256" } else { "fsverity-sha512-12" };
        let formats = match formats {
            Formats::V1 => "1",
            Formats::V2 => "2",
            Formats::Both => "1,2",
        };
        let init =
            cfs_dag(["init", "--insecure", "--algorithm", algorithm, "--erofs-version", formats]).repo(&ours);
        let said = init.expect_success();
        assert_eq!(said.stdout, format!("{}: created\n", ours.display()), "{said}");
        assert_eq!(fs::read(theirs.join("meta.json")).unwrap(), fs::read(ours.join("meta.json")).unwrap());
        assert_same_repo(&theirs, &ours);
        assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o700, "{kind}");
    }
}

#[test]
fn a_pull_into_nothing_makes_what_init_makes() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let (theirs, ours) = (scratch.path("theirs"), scratch.path("above/that/ours"));
    oracle::create(&theirs, RepoKind(Algorithm::Sha256, Formats::Both));
    pull([&image.reference])
        .arg("--algorithm=sha256")
        .arg("--erofs-version=1,2")
        .repo(&ours)
        .expect_success();
    assert_eq!(fs::read(theirs.join("meta.json")).unwrap(), fs::read(ours.join("meta.json")).unwrap());
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o700);
    let stored = oracle::stored(&ours, &image.reference);
    assert!(stored.erofs_v1.is_some() && stored.erofs_v2.is_some(), "{stored:?}");
}

#[test]
fn a_filesystem_has_the_name_of_the_format_that_it_is_in() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    for (versions, names) in [("0", &["v0"][..]), ("0,2", &["v0", "v2"]), ("1,2", &["v1", "v2"])] {
        let repo = scratch.path(versions);
        cfs_dag(["init", "--insecure", "--erofs-version", versions]).repo(&repo).expect_success();
        // The second one reads it from what is stored.
        for _ in 0..2 {
            let result = pull([&image.reference]).arg("--format=json").repo(&repo).expect_success().json();
            let erofs = result["images"][0]["erofs"].as_object().unwrap();
            assert_eq!(erofs.keys().collect::<Vec<_>>(), names, "{versions}: {result:#}");
            let inspected = cfs_dag(["inspect", &image.reference]).repo(&repo).expect_success();
            for (name, id) in erofs {
                let line = format!("{name} {}", id.as_str().unwrap());
                assert!(inspected.stdout.contains(&line), "{inspected}");
            }
        }
        let told = pull([&image.reference]).arg("--force").repo(&repo).expect_success();
        assert!(told.stdout.contains(&format!("erofs     {} ", names[0])), "{told}");
    }
}

#[test]
fn init_again_changes_nothing_and_init_otherwise_is_refused() {
    let (scratch, layout) = (scratch(), layout());
    let repo = scratch.path("repo");
    cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    let before = everything(&repo);
    let again = cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    assert!(again.stdout.contains("was there already"), "{again}");
    let words = ["has fsverity-sha512-12, not fsverity-sha256-12"];
    cfs_dag(["init", "--insecure", "--algorithm=sha256"]).repo(&repo).expect_failure(1).says(&words);
    let image = small_image(&layout, "a", 1);
    pull([&image.reference]).arg("--algorithm=sha256").repo(&repo).expect_failure(1).says(&words);
    pull([&image.reference]).arg("--erofs-version=2").repo(&repo).expect_failure(1).says(&["erofs format 1"]);
    assert_eq!(before, everything(&repo));
}

#[test]
fn modes_are_those_of_upstream_under_any_umask() {
    let layout = layout();
    let image = small_image(&layout, "a", 1);
    let this_test = std::env::current_exe().unwrap();
    for umask in ["000", "022", "027", "077"] {
        let scratch = scratch();
        let (theirs, ours) = (scratch.path("theirs"), scratch.path("ours"));
        let script = format!("umask {umask}; exec \"$0\" --exact cli::upstream_in_a_child");
        command("sh", ["-c", &script, this_test.to_str().unwrap()])
            .env("CFS_DAG_TEST_CHILD", format!("{} {}", theirs.display(), image.reference))
            .expect_success();
        under_shell(&format!("umask {umask}"))
            .arg("pull")
            .arg("--insecure")
            .arg(&image.reference)
            .repo(&ours)
            .expect_success();
        let (theirs, ours) = (modes(&theirs), modes(&ours));
        // Where upstream makes objects that anybody may write to (umask 000), ours are 0644 as always.
        assert!(ours.is_subset(&theirs), "umask {umask}: {ours:?}\nupstream: {theirs:?}");
        assert!(umask == "000" || ours == theirs, "umask {umask}: {ours:?}\nupstream: {theirs:?}");
    }
}

/// Not a test of its own: upstream's pull in a process whose umask may be anything.
#[test]
fn upstream_in_a_child() {
    let Ok(arguments) = std::env::var("CFS_DAG_TEST_CHILD") else { return };
    let (path, reference) = arguments.split_once(' ').unwrap();
    let config = RepositoryConfig::new(FsVerity::SHA512).set_insecure();
    let (repo, _) = Repository::<Sha512HashValue>::init_path(CWD, path, config).unwrap();
    let repo = std::sync::Arc::new(repo);
    let pull = composefs_oci::pull(&repo, reference, Some(reference), PullOptions::default());
    oracle::block_on(pull).unwrap();
}

/// Types and modes by the place in the repository, without names that depend on content.
fn modes(repo: &Path) -> BTreeSet<String> {
    let root = fs::metadata(repo).unwrap().permissions().mode() & 0o7777;
    let line = |line: String| {
        let (path, rest) = line.split_once(' ').unwrap();
        let mut parts = path.split('/');
        let place = format!("{}/{}", parts.next().unwrap(), parts.count());
        let words: Vec<&str> = rest.split(' ').collect();
        let mode = if words[0] == "link" { "" } else { words[1] };
        format!("{place} {} {mode}", words[0])
    };
    repo_manifest(repo).into_iter().map(line).chain([format!("root {root:o}")]).collect()
}

#[test]
fn without_fs_verity_nothing_is_fetched_and_nothing_left_behind() {
    // A filesystem that has none, on every kernel.
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let registry = Registry::start();
    registry.image("app", "v1", &support::source::host(), &[&small_layer(1)]);
    let reference = registry.reference("app", "v1");
    let repo = shm.path().join("not/there/repo");
    let words = ["has no fs-verity", "--insecure"];
    for verb in [vec!["init"], vec!["pull", &reference], vec!["pull", "--dry-run", &reference]] {
        let finished = cfs_dag(verb).repo(&repo).expect_failure(1).says(&words);
        assert_quiet(&finished);
    }
    assert_eq!(registry.requests_for(""), 0, "nothing may be asked of a registry before the refusal");
    assert_eq!(fs::read_dir(shm.path()).unwrap().count(), 0);
    fs::create_dir(shm.path().join("empty")).unwrap();
    cfs_dag(["init"]).repo(shm.path().join("empty")).expect_failure(1).says(&words);
    assert_eq!(fs::read_dir(shm.path().join("empty")).unwrap().count(), 0);
}

#[test]
fn a_place_that_holds_something_else_is_refused_and_left_alone() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let place = scratch.path("documents");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("letter"), "dear").unwrap();
    pull([&image.reference]).repo(&place).expect_failure(1).says(&["neither a repository nor an empty"]);
    pull([&image.reference]).repo(place.join("letter")).expect_failure(1).says(&["not a directory"]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    for verb in [vec!["images"], vec!["fsck"], vec!["gc"], vec!["inspect", "a"]] {
        cfs_dag(verb).repo(&place).expect_failure(1).says(&["no repository here", "cfs-dag init"]);
    }
}

#[test]
fn a_pull_of_nothing_that_exists_leaves_nothing_behind() {
    let (scratch, layout) = (scratch(), layout());
    let repo = scratch.path("not/there");
    let finished = pull([&layout.reference("gone")]).repo(&repo).expect_failure(1).says(&["gone"]);
    assert!(!scratch.path("not").exists(), "{finished}");
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let repo = scratch.path("not/there");
    let dry = |format: &str| pull([&image.reference]).arg(format!("--dry-run={format}")).repo(&repo);
    let text = dry("text").expect_success();
    assert!(text.stdout.contains("not stored"), "{text}");
    let plan = dry("json").expect_success().json();
    assert_eq!(plan["images"][0]["name"], image.reference.as_str());
    assert_eq!(plan["totals"]["fetch_bytes"], image.layers[0].size);
    assert!(dry("dot").expect_success().stdout.starts_with("digraph"));
    assert!(!scratch.path("not").exists());
}

#[test]
fn a_dry_run_on_a_repository_changes_nothing_in_it() {
    let (scratch, layout) = (scratch(), layout());
    let (there, new) = (small_image(&layout, "there", 1), small_image(&layout, "new", 2));
    let repo = scratch.path("repo");
    pull([&there.reference]).repo(&repo).expect_success();
    let before = everything(&repo);
    let plan = pull([&there.reference, &new.reference]).arg("--dry-run").repo(&repo).expect_success();
    assert!(plan.stdout.contains("MB  stored") || plan.stdout.contains("B  stored"), "{plan}");
    assert!(plan.stdout.contains("B  not stored"), "{plan}");
    assert_eq!(before, everything(&repo));
}

#[test]
fn a_dry_run_tells_what_cannot_be_resolved() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let both = pull([&image.reference, &layout.reference("gone")]).arg("--dry-run");
    let finished = both.repo(scratch.path("repo")).expect_failure(3).says(&["gone", "no tag"]);
    assert!(finished.stdout.contains("not stored"), "{finished}");
}

#[test]
fn an_image_is_named_as_it_was_asked_for() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let repo = scratch.path("repo");
    pull([&image.reference]).repo(&repo).expect_success();
    // Upstream's own lookup finds it: the name is stored as upstream escapes it.
    assert_eq!(oracle::stored(&repo, &image.reference).manifest_digest, image.manifest);
    pull([&image.reference]).arg("--name=my/100% app:v1").repo(&repo).expect_success();
    assert_eq!(oracle::stored(&repo, "my/100% app:v1").manifest_digest, image.manifest);
    let rows = cfs_dag(["images", "--json"]).repo(&repo).expect_success().json();
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["my/100% app:v1", &image.reference]);
}

#[test]
fn an_image_asked_for_twice_is_pulled_once() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let result = pull([&image.reference, &image.reference])
        .arg("--format=json")
        .repo(scratch.path("repo"))
        .expect_success()
        .json();
    assert_eq!(result["totals"]["images_ok"], 2, "{result:#}");
    assert_eq!(result["totals"]["bytes_fetched"], image.layers[0].size, "{result:#}");
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2() {
    let scratch = scratch();
    let long = "x".repeat(300);
    for arguments in [
        vec![],
        vec!["frobnicate"],
        vec!["pull"],
        vec!["pull", "nginx"],
        vec!["pull", "docker:nginx"],
        vec!["pull", "oci:"],
        vec!["pull", "docker://a@sha256:12"],
        vec!["pull", "oci:a:b", "oci:a:c", "--name", "one"],
        vec!["pull", "oci:a:b", "--name", "@a"],
        vec!["pull", "oci:a:b", "--name", "sha256:00ff"],
        vec!["pull", "docker://quay.io/App"],
        vec!["pull", "docker://http://quay.io/app"],
        vec!["pull", "docker://user:password@quay.io/app"],
        vec!["pull", "oci:a:b", "--name", ""],
        vec!["pull", "oci:a:b", "--name", &long],
        vec!["pull", "oci:a:b", "--format=dot"],
        vec!["pull", "oci:a:b", "--dry-run=png"],
        vec!["pull", "oci:a:b", "--dry-run", "--format=json"],
        vec!["pull", "oci:a:b", "--detailed-exitcode"],
        vec!["pull", "oci:a:b", "--plan=plan.json"],
        vec!["pull", "--plan=no-such-file.json"],
        vec!["log", "--list", "--json"],
        vec!["log", "last"],
        vec!["pull", "oci:a:b", "--format=yaml"],
        vec!["pull", "oci:a:b", "--memory=1M"],
        vec!["pull", "oci:a:b", "--memory=much"],
        vec!["pull", "oci:a:b", "--jobs=0"],
        vec!["pull", "oci:a:b", "--downloads=0"],
        vec!["pull", "oci:a:b", "--stall-timeout=0"],
        vec!["pull", "oci:a:b", "--platform=linux"],
        vec!["pull", "oci:a:b", "--tls-verify=perhaps"],
        vec!["pull", "oci:a:b", "--user"],
        vec!["init", "--algorithm=md5"],
        vec!["init", "--erofs-version=7"],
        vec!["init", "--erofs-version=0,1"],
        vec!["images", "--system"],
        vec!["tag", "one"],
    ] {
        let finished = cfs_dag(&arguments).repo(scratch.path("repo")).expect_failure(2);
        assert_quiet(&finished);
    }
    assert!(!scratch.path("repo").exists());
}

#[test]
fn exit_codes_tell_all_some_and_none() {
    let (scratch, layout) = (scratch(), layout());
    let (good, bad) = (
        small_image(&layout, "good", 1),
        layout.image("bad").layer(small_layer(1)).layer(small_layer(2)).wrong_diff_id().write(),
    );
    let gone = layout.reference("gone");
    let code = |references: &[&String], code: i32| {
        pull(references.iter().copied()).repo(scratch.path("repo")).run().assert_code(code)
    };
    code(&[&good.reference], 0);
    code(&[&gone], 1);
    code(&[&bad.reference], 1);
    code(&[&bad.reference, &gone], 1);
    code(&[&good.reference, &gone], 3).says(&[&gone, "no tag \"gone\""]);
    let some = code(&[&bad.reference, &good.reference], 3);
    let some =
        some.says(&[&bad.reference, "layer 2 of 2", &bad.layers[1].blob[..19], "does not match its diff_id"]);
    assert!(some.stdout.contains(&format!("{}: failed", bad.reference)), "{some}");
    oracle::assert_clean(&scratch.path("repo"));
}

#[test]
fn an_interrupted_pull_exits_with_130() {
    let (scratch, registry) = (scratch(), Registry::start());
    let image = registry.image("app", "v1", &support::source::host(), &[&small_layer(1)]);
    registry.fault("app", image.layers[0], Fault::StallAfter(100));
    let running =
        pull([&registry.reference("app", "v1")]).arg("--tls-verify=false").repo(scratch.path("repo")).start();
    registry.wait_for(image.layers[0]);
    running.interrupt();
    running.wait().assert_code(130).says(&["interrupted", "run this again"]);
    oracle::assert_clean(&scratch.path("repo"));
}

#[test]
fn the_result_has_what_upstream_would_store() {
    let (scratch, layout) = (scratch(), layout());
    let base = small_layer(1);
    let one = layout.image("one").layer(base.clone()).layer(small_layer(2)).write();
    let two = layout.image("two").layer(base.clone()).layer(small_layer(3)).zstd().write();
    let repo = scratch.path("repo");
    pull([&layout.image("old").layer(base).write().reference]).repo(&repo).expect_success();
    let gone = layout.reference("gone");
    let run = pull([&one.reference, &gone, &two.reference, &two.reference]).arg("--format=json");
    let result = run.arg("--progress=none").repo(&repo).run().assert_code(3).json();
    assert_eq!(result["schema"], 1);
    let images = result["images"].as_array().unwrap();
    assert_eq!(images.len(), 4, "{result:#}");
    for (image, written) in [(&one, &images[0]), (&two, &images[2])] {
        let expected = oracle::oracle(&image.reference, DEFAULT_KIND).stored;
        assert_eq!(written["name"], image.reference.as_str());
        assert_eq!(written["reference"], image.reference.as_str());
        assert_eq!(written["manifest"], expected.manifest_digest);
        assert_eq!(written["config"], expected.config_digest);
        assert_eq!(written["erofs"], json!({ "v1": expected.erofs_v1.unwrap() }));
        assert_eq!(written["layers"], json!({ "total": 2, "stored": 1, "shared": 0, "new": 1 }));
        assert_eq!(written["bytes_fetched"], image.layers[1].size);
        assert_eq!(written["bytes_written"], 75_000);
        assert_eq!(written["outcome"], "ok");
    }
    assert_eq!((&images[1]["outcome"], &images[1]["manifest"]), (&json!("failed"), &Value::Null));
    assert!(images[1]["error"].as_str().unwrap().contains("no tag"), "{result:#}");
    assert_eq!(images[3]["layers"], json!({ "total": 2, "stored": 1, "shared": 1, "new": 0 }));
    let totals = &result["totals"];
    assert_eq!((&totals["images_ok"], &totals["images_failed"]), (&json!(3), &json!(1)));
    assert_eq!(totals["bytes_fetched"], one.layers[1].size + two.layers[1].size);
    assert_eq!(totals["objects_new"], 4, "the files; streams and filesystems are not counted here");
}

#[test]
fn progress_goes_to_stderr_and_the_result_alone_to_stdout() {
    let layout = layout();
    let image = layout.image("a").layer(small_layer(1)).layer(small_layer(2)).write();
    let run = |mode: &str, format: &str| {
        let scratch = scratch();
        let finished = pull([&image.reference])
            .arg(format!("--progress={mode}"))
            .arg(format!("--format={format}"))
            .repo(scratch.path("repo"))
            .expect_success();
        assert!(finished.stdout.ends_with('\n'), "{finished}");
        finished
    };
    let none = run("none", "text");
    assert_eq!(none.stderr, "", "{none}");
    let expected = format!(
        "{0}\n  manifest  {1}\n  config    {2}\n  erofs     v1 {3}\n  layers    2: 0 stored, 0 shared, 2 \
         new\n",
        image.reference,
        image.manifest,
        image.config,
        oracle::oracle(&image.reference, DEFAULT_KIND).stored.erofs_v1.unwrap(),
    );
    let bytes = none.stdout.strip_prefix(&expected).unwrap_or_else(|| panic!("{none}\nexpected\n{expected}"));
    assert!(bytes.ends_with(" fetched, 150 kB written\n") && bytes.lines().count() == 1, "{none}");
    for mode in ["auto", "tty", "plain"] {
        let plain = run(mode, "text");
        assert_eq!(plain.stdout, none.stdout);
        assert!(plain.stderr.contains("in 2 layers for 1 image\n"), "{plain}");
        assert!(
            plain.stderr.contains("(2 of 2)\n") && plain.stderr.contains(": done, 151 kB fetched, "),
            "{plain}"
        );
        assert!(!plain.stderr.contains('\x1b'), "no terminal, no escapes: {plain}");
    }
    let json = run("json", "json");
    let events: Vec<Value> = json.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "plan");
    assert_eq!(events[0]["to_fetch_bytes"], image.layers.iter().map(|layer| layer.size).sum::<u64>());
    assert_eq!(events.last().unwrap()["event"], "end");
    let layers = events.iter().filter(|event| event["event"] == "layer").count();
    assert_eq!(layers, 2);
    assert_eq!(json.json()["images"][0]["outcome"], "ok");
}

#[test]
fn images_and_inspect_tell_what_upstream_tells() {
    let (scratch, layout) = (scratch(), layout());
    let image = layout.image("a").layer(small_layer(1)).layer(small_layer(2)).write();
    let artifact = layout.artifact("sbom").raw("text/plain", "words".repeat(100)).write();
    let repo = scratch.path("repo");
    let empty = cfs_dag(["init", "--insecure"]).repo(&repo).expect_success();
    assert_eq!(empty.stderr, "");
    assert_eq!(cfs_dag(["images", "--json"]).repo(&repo).expect_success().json(), json!([]));
    pull([&image.reference, &artifact.reference]).repo(&repo).expect_success();
    let rows = cfs_dag(["images", "--json"]).repo(&repo).expect_success().json();
    let theirs = {
        let repo = oracle::open::<Sha512HashValue>(&repo);
        let mut images = composefs_oci::oci_image::list_images(&repo).unwrap();
        images.sort_by(|one, other| one.name.cmp(&other.name));
        images
    };
    assert_eq!(rows.as_array().unwrap().len(), theirs.len());
    for (row, info) in rows.as_array().unwrap().iter().zip(&theirs) {
        assert_eq!(row["name"], info.name);
        assert_eq!(row["manifestDigest"], info.manifest_digest.to_string());
        assert_eq!(row["isContainer"], info.is_container);
        assert_eq!(row["architecture"], info.architecture);
        assert_eq!(row["os"], info.os);
        assert_eq!(row["layerCount"], info.layer_count);
    }
    let table = cfs_dag(["images"]).repo(&repo).expect_success().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("NAME") && lines[0].ends_with("SIZE"), "{table}");
    let line = lines.iter().find(|line| line.starts_with(&image.reference)).unwrap();
    assert!(
        line.contains(&image.manifest[..19]) && line.contains(&support::image::this_platform()),
        "{table}"
    );
    assert!(
        lines.iter().any(|line| line.starts_with(&artifact.reference) && line.contains("artifact")),
        "{table}"
    );

    let expected = {
        let repo = oracle::open::<Sha512HashValue>(&repo);
        OciImage::open_ref(&repo, &image.reference).unwrap().inspect_json(&repo).unwrap()
    };
    for name in [image.reference.clone(), image.manifest.clone(), format!("@{}", image.manifest)] {
        assert_eq!(cfs_dag(["inspect", "--json", &name]).repo(&repo).expect_success().json(), expected);
        let text = cfs_dag(["inspect", &name]).repo(&repo).expect_success().stdout;
        for words in [&image.reference, &image.manifest, &image.config, oracle_v1(&repo, &image).as_str()] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }
    let nobody = cfs_dag(["inspect", "nobody"]).repo(&repo).expect_failure(1);
    nobody.says(&["no image \"nobody\" here: see `cfs-dag images` for what there is"]);
    // As the list shows it.
    let list = cfs_dag(["images"]).repo(&repo).expect_success().stdout;
    let shown = list.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
    let words = ["a digest must be whole: `cfs-dag images --json` has them"];
    cfs_dag(["inspect", shown]).repo(&repo).expect_failure(1).says(&words);
}

fn oracle_v1(repo: &Path, image: &Image) -> String {
    oracle::stored(repo, &image.reference).erofs_v1.unwrap()
}

#[test]
fn tags_move_and_gc_takes_what_no_tag_reaches() {
    let (scratch, layout) = (scratch(), layout());
    let (one, two) = (small_image(&layout, "one", 1), small_image(&layout, "two", 2));
    let repo = scratch.path("repo");
    pull([&one.reference, &two.reference]).repo(&repo).expect_success();
    let dag = |arguments: &[&str]| cfs_dag(arguments).repo(&repo);
    dag(&["tag", &one.reference, "mine"]).expect_success();
    assert_eq!(oracle::stored(&repo, "mine").manifest_digest, one.manifest);
    let moved = dag(&["tag", &two.manifest, "mine"]).expect_success();
    assert_eq!(moved.stdout, format!("mine: {}\n", two.manifest));
    assert_eq!(oracle::stored(&repo, "mine").manifest_digest, two.manifest);
    dag(&["tag", "nobody", "x"]).expect_failure(1).says(&["no image \"nobody\" here"]);
    dag(&["tag", &one.reference, "@x"]).expect_failure(1).says(&["starts with @"]);
    dag(&["untag", "nobody"]).expect_failure(1).says(&["no image \"nobody\" here"]);

    assert_quiet(&dag(&["untag", &one.reference]).expect_success());
    dag(&["inspect", &one.reference]).expect_failure(1);
    let before = oracle::objects(&repo);
    let would = dag(&["gc", "--dry-run"]).expect_success();
    assert_eq!(before, oracle::objects(&repo), "a dry run removes nothing");
    let did = dag(&["gc"]).expect_success();
    let removed = would.stdout.strip_prefix("would remove ").unwrap();
    assert_eq!(removed, did.stdout.strip_prefix("removed ").unwrap());
    assert!(before.len() >= oracle::objects(&repo).len() + 2, "{did}");
    assert!(did.stdout.starts_with("removed ") && !did.stdout.contains(" 0 objects"), "{did}");
    oracle::assert_gc_removes_nothing(&repo);
    oracle::assert_clean(&repo);
    // And back again, as if it had never been there.
    pull([&one.reference]).repo(&repo).expect_success();
    oracle::assert_clean(&repo);
}

#[test]
fn a_name_that_looks_like_a_digest_is_refused_and_never_means_another_image() {
    let (scratch, layout) = (scratch(), layout());
    let [one, two] =
        ["one", "two"].map(|tag| small_image(&layout, tag, tag.len() as u64 + tag.as_bytes()[0] as u64));
    let repo = scratch.path("repo");
    pull([&one.reference, &two.reference]).repo(&repo).expect_success();
    let gone = format!("sha256:{}", "0".repeat(64));
    for name in ["sha256:00ff", "sha512:00", "SHA256:00", &two.manifest, &gone] {
        let tag = cfs_dag(["tag", &one.reference, name]).repo(&repo);
        tag.expect_failure(1).says(&[name, "looks like a digest: choose another"]);
        let named = pull([&one.reference]).args(["--name", name]).repo(&repo).expect_failure(2);
        named.says(&[name, "looks like a digest"]);
    }
    cfs_dag(["tag", &one.reference, "app:00ff"]).repo(&repo).expect_success();

    // A repository in which another program, or an earlier version, made such names.
    let tags = repo.join("streams/refs/oci");
    let target = fs::read_link(tags.join("app:00ff")).unwrap();
    for name in [&two.manifest, &gone] {
        std::os::unix::fs::symlink(&target, tags.join(name)).unwrap();
    }
    let inspect = |name: &str| cfs_dag(["inspect", name]).repo(&repo);
    let images = cfs_dag(["images"]).repo(&repo).expect_success();
    assert!(images.stdout.contains(&two.manifest) && images.stdout.contains(&gone), "{images}");
    let shown = inspect(&two.manifest).expect_success();
    assert!(shown.stdout.contains(&two.config) && !shown.stdout.contains(&one.config), "{shown}");
    inspect(&gone).expect_failure(1).says(&[
        &gone,
        "is the name of the image",
        &one.manifest,
        "untag this name",
    ]);
    for name in [&two.manifest, &gone] {
        cfs_dag(["untag", name]).repo(&repo).expect_success();
    }
    assert!(inspect(&two.manifest).expect_success().stdout.contains(&two.config));
    inspect(&gone).expect_failure(1).says(&[&gone]);
    cfs_dag(["untag", &two.manifest]).repo(&repo).expect_failure(1);
    oracle::assert_clean(&repo);
}

#[test]
fn a_password_in_a_reference_is_never_printed() {
    let scratch = scratch();
    for reference in [
        "docker://me:secret@quay.io/app",
        "docker://me:secret@quay.io/App:v1",
        "docker://http://me:secret@quay.io/app",
        "https://me:secret@quay.io/app",
        "docker:me:secret@quay.io/app",
        "me:secret@quay.io/app",
        "docker://me:se/secret@quay.io/app",
    ] {
        let finished = cfs_dag(["pull", "--verbose", reference]).repo(scratch.path("repo")).expect_failure(2);
        assert!(finished.stderr.contains("***@quay.io") && !finished.stderr.contains("secret"), "{finished}");
    }
    let reference = "docker://me:secret@quay.io/app";
    let lock = format!("# cfs-dag lock 1\nsha256:{} {reference}\n", "0".repeat(64));
    fs::write(scratch.path("lock"), lock).unwrap();
    fs::write(scratch.path("list"), "dir:x\n").unwrap();
    let run =
        cfs_dag(["mirror", "--insecure"]).arg(scratch.path("list")).arg("--lock").arg(scratch.path("lock"));
    let finished =
        run.repo(scratch.path("repo")).expect_failure(2).says(&["lock: line 2, column 73: docker://***@"]);
    assert!(!finished.stderr.contains("secret"), "{finished}");
}

#[test]
fn fsck_finds_a_broken_object() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let repo = scratch.path("repo");
    pull([&image.reference]).repo(&repo).expect_success();
    let sound = cfs_dag(["fsck"]).repo(&repo).expect_success();
    assert!(sound.stdout.contains("ok"), "{sound}");
    let content = noise(1, 5000);
    let objects = oracle::objects(&repo).into_iter().map(|name| repo.join("objects").join(name));
    let object = objects.into_iter().find(|path| fs::read(path).unwrap() == content).unwrap();
    let name = object.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(&object, noise(7, 5000)).unwrap();
    let broken = cfs_dag(["fsck"]).repo(&repo).run().assert_code(1);
    assert!(broken.stdout.contains(&name[..20]), "{broken}");
}

#[test]
fn a_mounted_image_has_its_files() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let artifact = layout.artifact("sbom").raw("text/plain", "words".repeat(100)).write();
    let (repo, mountpoint) = (scratch.path("repo"), scratch.path("mnt"));
    pull([&image.reference, &artifact.reference]).repo(&repo).expect_success();
    let mount = |name: &str| cfs_dag(["mount", name]).arg(&mountpoint).repo(&repo);
    mount(&image.reference).expect_failure(1).says(&["mnt: no such directory"]);
    fs::create_dir(&mountpoint).unwrap();
    mount("nobody").expect_failure(1).says(&["no image \"nobody\" here"]);
    mount(&artifact.reference).expect_failure(1).says(&["an artifact has no filesystem"]);
    if !tree::can_mount() {
        return;
    }
    assert_quiet(&mount(&image.reference).expect_success());
    let found = tree::tree_at(&mountpoint);
    rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_same_lines("mounted", &tree::expected_tree([small_layer(1)], Formats::V1), &found);
}

#[test]
fn user_and_system_mean_the_places_of_upstream() {
    let (home, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let at_home = home.path("").join(".var/lib/composefs");
    let as_user = |arguments: &[&str]| cfs_dag(arguments).arg("--user").env("HOME", home.path(""));
    let said = as_user(&["init", "--insecure"]).expect_success();
    assert_eq!(said.stdout, format!("{}: created\n", at_home.display()));
    as_user(&["pull", &image.reference]).expect_success();
    assert_eq!(oracle::stored(&at_home, &image.reference).manifest_digest, image.manifest);
    under_shell("unset HOME").arg("images").arg("--user").expect_failure(1).says(&["$HOME", "--repo"]);
    let system = Path::new("/sysroot/composefs");
    if !system.exists() {
        cfs_dag(["images", "--system"]).expect_failure(1).says(&["/sysroot/composefs: no repository here"]);
        let is_root = rustix::process::getuid().is_root();
        let default = if is_root { "/sysroot/composefs" } else { ".var/lib/composefs" };
        let nobody = home.path("nobody");
        cfs_dag(["images"]).env("HOME", nobody).expect_failure(1).says(&[default, "no repository here"]);
    }
}

#[test]
fn help_is_complete_and_fits_the_screen() {
    let all = cfs_dag(["--help"]).expect_success();
    for verb in VERBS {
        assert!(all.stdout.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{all}");
        for flag in ["-h", "--help"] {
            let help = cfs_dag([verb, flag]).expect_success();
            assert_eq!(help.stderr, "");
            assert!(help.stdout.contains(&format!("Usage: cfs-dag {verb}")), "{help}");
            assert!(help.stdout.contains("--repo <PATH>") && help.stdout.contains("--system"), "{help}");
            assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{help}");
            assert!(!help.stdout.contains('`') && !help.stdout.contains("[`"), "code marks leak: {help}");
        }
    }
    let version = cfs_dag(["--version"]).expect_success();
    assert_eq!(version.stdout, format!("cfs-dag {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn closed_streams_do_no_harm() {
    let layout = layout();
    let image = small_image(&layout, "a", 1);
    for before in ["exec >&-", "exec 2>&-", "exec >&- 2>&- <&-"] {
        let scratch = scratch();
        let repo = scratch.path("repo");
        let closed = || under_shell(before).repo(&repo);
        closed().arg("pull").arg("--insecure").arg(&image.reference).expect_success();
        closed().arg("images").expect_success();
        closed().arg("fsck").expect_success();
        oracle::assert_clean(&repo);
        assert_eq!(oracle::stored(&repo, &image.reference).manifest_digest, image.manifest, "{before}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let (scratch, layout) = (scratch(), layout());
    let image = small_image(&layout, "a", 1);
    let repo = scratch.path("repo");
    let piped = |rest: &str| {
        let script = format!("set -o pipefail; {rest}");
        command("bash", ["-c", &script, program()]).arg(&image.reference).arg(&repo)
    };
    let said = piped("\"$0\" pull --insecure \"$1\" --repo \"$2\" 2>/dev/null | true").expect_success();
    assert_eq!(said.stderr, "");
    assert_eq!(oracle::stored(&repo, &image.reference).manifest_digest, image.manifest);
    piped("\"$0\" images --repo \"$2\" >/dev/full")
        .expect_failure(1)
        .says(&["could not be written to stdout"]);
    let pulled = piped("\"$0\" pull \"$1\" --repo \"$2\" >/dev/full").expect_failure(1);
    assert!(!pulled.stderr.contains("panicked"), "{pulled}");
    piped("\"$0\" pull \"$1\" --repo \"$2\" 2>/dev/full").expect_success();
    piped("\"$0\" inspect nobody --repo \"$2\" 2>/dev/full").run().assert_code(1);
}

#[test]
fn programs_get_a_result_also_when_nothing_could_be_resolved() {
    let (layout, scratch) = (layout(), scratch());
    let repo = scratch.path("repo");
    let gone = layout.reference("gone");
    let run = pull([&gone]).arg("--format=json").arg("--progress=none").repo(&repo).run().assert_code(1);
    let result = run.json();
    assert_eq!(
        (&result["images"][0]["outcome"], &result["totals"]["images_failed"]),
        (&json!("failed"), &json!(1))
    );
    assert!(!repo.exists(), "a repository was made for nothing");
}

#[test]
fn an_error_sends_a_terminal_nothing_but_text() {
    let scratch = scratch();
    let list = scratch.path("list.yaml");
    fs::write(&list, "\"\\e[2Jhost\": {}\n\"\\e[2Jhost\": {}\n").unwrap();
    let failed = cfs_dag(["mirror", "--insecure"]).arg(&list).repo(scratch.path("repo")).run();
    assert!(failed.stderr.contains("\\u{1b}[2Jhost is there twice"), "{failed}");
    assert!(!failed.stderr.contains('\u{1b}'), "{failed}");
}
