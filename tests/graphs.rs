//! The plans in `graphs/`: what a change does to the graph shows there as a difference.
//!
//! Drawn by `pull --dry-run` from images whose bytes never change. To draw them anew after a change that is meant:
//! `CFS_DAG_DRAW=1 cargo test --test graphs`, and look at the difference before it is committed.

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use support::{
    image::{ImageBuilder, Layout, layout},
    repo::{Invocation, cfs_dag, command, scratch},
    tar::{dir, file, noise, tar},
};

/// Layers are plain or zstd: the bytes of our gzip depend on the zlib of the machine.
fn layer(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/file-{seed}"), noise(seed, 20_000 * seed as usize))])
}

/// An image for one platform on every machine.
fn image<'a>(layout: &'a Layout, tag: &str) -> ImageBuilder<'a> {
    layout.image(tag).platform("linux/amd64")
}

/// `pull` of these tags, by paths that do not depend on where the test runs.
fn pull(layout: &Layout, repo: &Path, tags: &[&str]) -> Invocation {
    let verb =
        cfs_dag(["pull", "--insecure", "--platform=linux/amd64"]).in_folder(layout.path().parent().unwrap());
    tags.iter().fold(verb, |verb, tag| verb.arg(format!("oci:oci:{tag}"))).repo(repo)
}

/// Draws the plan for these tags as text and as DOT, and compares both with `graphs/NAME.txt` and `graphs/NAME.dot`.
fn compare(name: &str, layout: &Layout, repo: &Path, tags: &[&str]) {
    for (format, ending) in [("text", "txt"), ("dot", "dot")] {
        let dry = pull(layout, repo, tags).arg("--dry-run").arg("--format").arg(format);
        let drawn = dry.expect_success().stdout;
        if format == "dot" {
            check_dot(name, &drawn);
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs").join(name).with_extension(ending);
        if std::env::var_os("CFS_DAG_DRAW").is_some() {
            fs::write(&path, &drawn).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let again = "if that is meant, draw it anew: CFS_DAG_DRAW=1 cargo test --test graphs";
        assert!(kept == drawn, "{} differs from what is planned now; {again}\n{drawn}", path.display());
    }
}

/// Asserts that `dot` is a graph: by Graphviz where that is installed, and by what we know ourselves in any case.
fn check_dot(name: &str, dot: &str) {
    let body = dot.strip_prefix("digraph plan {\n").and_then(|rest| rest.strip_suffix("}\n"));
    let mut open = 1;
    let (mut declared, mut used) = (BTreeSet::new(), BTreeSet::new());
    for line in body.unwrap_or_else(|| panic!("{name}: no digraph\n{dot}")).lines() {
        let line = line.trim();
        assert_eq!(
            line.replace("\\\\", "").replace("\\\"", "").matches('"').count() % 2,
            0,
            "{name}: {line}"
        );
        match line {
            "}" => open -= 1,
            line if line.starts_with("subgraph ") && line.ends_with('{') => open += 1,
            line => assert!(line.ends_with(';'), "{name}: {line}"),
        }
        assert!(open > 0, "{name}: {line}");
        let words: Vec<&str> = line.trim_end_matches(';').split(' ').collect();
        match words[..] {
            [from, "->", to, ..] => used.extend([from.to_owned(), to.to_owned()]),
            [node, label, ..] if label.starts_with("[label=") => {
                assert!(declared.insert(node.to_owned()), "{line}")
            }
            _ => {}
        }
    }
    assert_eq!(open, 1, "{name}: braces");
    assert!(!declared.is_empty() && used.is_subset(&declared), "{name}: {used:?} {declared:?}");
    let scratch = scratch();
    fs::write(scratch.path("plan.dot"), dot).unwrap();
    let graphviz = "command -v dot >/dev/null || exit 77; exec dot -Tsvg -o /dev/null \"$0\"";
    let plan = scratch.path("plan.dot");
    let finished = command("sh", ["-c", graphviz, plan.to_str().unwrap()]).run();
    assert!(matches!(finished.code, Some(0 | 77)), "{name}: Graphviz refuses it: {finished}");
}

#[test]
fn one_image() {
    let (layout, scratch) = (layout(), scratch());
    image(&layout, "app").layer(layer(1)).plain().layer(layer(2)).plain().write();
    compare("one", &layout, &scratch.path("repo"), &["app"]);
}

#[test]
fn five_images_on_one_base() {
    let (layout, scratch) = (layout(), scratch());
    let tags = ["a", "b", "c", "d", "e"];
    for (tag, seed) in tags.iter().zip(2..) {
        image(&layout, tag).layer(layer(1)).plain().layer(layer(seed)).plain().write();
    }
    compare("five", &layout, &scratch.path("repo"), &tags);
}

#[test]
fn one_layer_in_two_compressions() {
    let (layout, scratch) = (layout(), scratch());
    image(&layout, "plain").layer(layer(1)).plain().write();
    image(&layout, "zstd").layer(layer(1)).zstd().env("SMALL=1").write();
    compare("compressions", &layout, &scratch.path("repo"), &["plain", "zstd"]);
}

#[test]
fn a_repository_that_has_the_base_and_one_image() {
    let (layout, scratch) = (layout(), scratch());
    image(&layout, "old").layer(layer(1)).plain().write();
    image(&layout, "new").layer(layer(1)).plain().layer(layer(2)).plain().write();
    let repo = scratch.path("repo");
    pull(&layout, &repo, &["old"]).expect_success();
    compare("warm", &layout, &repo, &["old", "new"]);
}

#[test]
fn an_artifact_beside_an_image() {
    let (layout, scratch) = (layout(), scratch());
    image(&layout, "app").layer(layer(1)).plain().write();
    layout.artifact("sbom").raw("application/spdx+json", "words ".repeat(1000)).write();
    compare("artifact", &layout, &scratch.path("repo"), &["app", "sbom"]);
}

#[test]
fn the_check_of_dot_can_fail() {
    for broken in [
        "",
        "digraph plan {\n  n0 [label=\"a\"]\n}\n",
        "digraph plan {\n  n0 [label=\"a];\n}\n",
        "digraph plan {\n  n0 [label=\"a\"];\n  n0 -> n1;\n}\n",
        "digraph plan {\n  subgraph x {\n  n0 [label=\"a\"];\n}\n",
    ] {
        assert!(std::panic::catch_unwind(|| check_dot("broken", broken)).is_err(), "{broken}");
    }
}
