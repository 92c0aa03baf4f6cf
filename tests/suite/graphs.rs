//! The plans in `graphs/`: what a change does to the graph shows there as a difference.
//!
//! Drawn by `pull --dry-run` from images whose bytes never change. To draw them anew after a change that is
//! meant: `CFS_DAG_DRAW=1 cargo test --test suite graphs::`, and look at the difference before it is
//! committed.

use std::{collections::BTreeSet, fs, path::Path};

use cfs_dag::{
    graph::{self, Facts, ImageInput, ImageIx, Inputs, Kind, Plan, Selection},
    render::{Colour, Marks, Outlook, dot, html, json, mermaid, svg, text},
};
use support::{
    image::{ImageBuilder, Layout, layout},
    plans::{assert_is_plan, image as image_of, layer as layer_of, planned, run_of},
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

/// Every format, with the ending of its files.
const FORMATS: [(&str, &str); 6] =
    [("text", "txt"), ("dot", "dot"), ("mermaid", "mmd"), ("json", "json"), ("svg", "svg"), ("html", "html")];

/// Draws the plan for these tags in every format, and compares each with `graphs/NAME.ENDING`.
fn compare(name: &str, layout: &Layout, repo: &Path, tags: &[&str]) {
    compare_drawn(name, |format| {
        let dry = pull(layout, repo, tags).arg(format!("--dry-run={format}"));
        on_any_machine(&dry.expect_success().stdout)
    });
}

fn compare_drawn(name: &str, draw: impl Fn(&str) -> String) {
    for (format, ending) in FORMATS {
        let drawn = draw(format);
        match format {
            "dot" => check_dot(name, &drawn),
            "json" => assert_is_plan(name, &drawn),
            _ => {}
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs").join(name).with_extension(ending);
        if std::env::var_os("CFS_DAG_DRAW").is_some() {
            fs::write(&path, &drawn).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let again = "if that is meant, draw it anew: CFS_DAG_DRAW=1 cargo test --test suite graphs::";
        assert!(kept == drawn, "{} differs from what is planned now; {again}\n{drawn}", path.display());
    }
}

/// What is drawn, without how much space is free here.
fn on_any_machine(drawn: &str) -> String {
    let lines = drawn.lines().filter_map(|line| match line.strip_suffix(" free") {
        Some(space) => space.rsplit_once(", ").map(|(expected, _)| expected),
        None => Some(line),
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Asserts that Graphviz draws `dot` without a word, and that every node is declared, once: it makes nodes
/// out of any name in an edge.
fn check_dot(name: &str, dot: &str) {
    let (mut declared, mut used) = (BTreeSet::new(), BTreeSet::new());
    for line in dot.lines() {
        let words: Vec<&str> = line.trim().trim_end_matches(';').split(' ').collect();
        match words[..] {
            [from, "->", to, ..] => used.extend([from, to]),
            [node, label, ..] if label.starts_with("[label=") => assert!(declared.insert(node), "{line}"),
            _ => {}
        }
    }
    assert!(!declared.is_empty() && used.is_subset(&declared), "{name}: {used:?} {declared:?}");
    let scratch = scratch();
    let (plan, picture) = (scratch.path("plan.dot"), scratch.path("plan.svg"));
    fs::write(&plan, dot).unwrap();
    let [from, to] = [&plan, &picture].map(|path| path.to_str().unwrap());
    let finished = command("dot", ["-Tsvg", "-o", to, from]).expect_success();
    assert_eq!(finished.stderr, "", "{name}");
    let drawn = fs::read_to_string(picture).unwrap();
    assert_eq!(drawn.matches("class=\"node\"").count(), declared.len(), "{name}");
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
    // Estimates are another machine's on another machine.
    fs::remove_dir_all(repo.join("cfs-dag/runs")).unwrap();
    compare("warm", &layout, &repo, &["old", "new"]);
}

#[test]
fn an_artifact_beside_an_image() {
    let (layout, scratch) = (layout(), scratch());
    image(&layout, "app").layer(layer(1)).plain().write();
    layout.artifact("sbom").raw("application/spdx+json", "words ".repeat(1000)).write();
    compare("artifact", &layout, &scratch.path("repo"), &["app", "sbom"]);
}

/// Two rules of a list over three images, one of them for another platform, and a name
/// that the list no longer has.
#[test]
fn a_list_with_a_platform_and_a_name_that_goes() {
    let layers = |own: &str| vec![layer_of("base", ".zst", 28_000_000), layer_of(own, ".zst", 4_000_000)];
    let for_arm =
        ImageInput { platform: Some("linux/arm64".into()), ..image_of("tools/jq:1.7-arm64", vec![]) };
    let images = vec![
        image_of("app:v1.1", layers("app")),
        image_of("app:v1.2", layers("newer app")),
        ImageInput { layers: vec![layer_of("jq", ".zst", 900_000)], ..for_arm },
    ];
    let rule = |rule: &str, images: &[usize]| Selection {
        rule: rule.to_owned(),
        images: images.iter().copied().map(ImageIx).collect(),
    };
    let inputs = Inputs {
        images,
        repository: "fsverity-sha512-12 erofs 1".into(),
        selections: vec![
            rule("registry.example/app, semver >=1.1 <2", &[0, 1]),
            rule("registry.example/tools/jq:1.7", &[2]),
        ],
        untag: vec!["app:v1.0".into()],
        ..Inputs::default()
    };
    let plan = graph::plan(&inputs, &Facts::default());
    let read = Plan::from_json(&json(&plan, &Marks::default())).unwrap();
    for plan in [&plan, &read] {
        compare_drawn("list", |format| drawn(plan, format));
    }
}

fn drawn(plan: &Plan, format: &str) -> String {
    let marks = Marks::default();
    match format {
        "text" => text(plan, &marks, &Outlook::default(), Colour::Off),
        "dot" => dot(plan, &marks),
        "mermaid" => mermaid(plan, &marks),
        "json" => json(plan, &marks),
        "svg" => svg(plan, &marks),
        "html" => html(plan, &marks),
        unknown => panic!("{unknown}"),
    }
}

#[test]
fn hostile_names_are_only_text_to_graphviz() {
    let name = "a\"];} </title> &lt;b&gt; <b> \\N \\";
    let mut plan = planned(vec![image_of(name, vec![layer_of("base", ".gz", 7)]), image_of("b\n]", vec![])]);
    plan.images[1].platform = Some(name.to_owned());
    plan.selections = vec![Selection { rule: format!("{name}l"), images: vec![ImageIx(0)] }];
    plan.untag = vec![name.to_owned()];
    let scratch = scratch();
    let file = scratch.path("plan.dot");
    let drawn = dot(&plan, &run_of(&plan, Some(Kind::Split)));
    check_dot("hostile", &drawn);
    fs::write(&file, drawn).unwrap();
    let picture = command("dot", ["-Tsvg", file.to_str().unwrap()]).expect_success().stdout;
    let escaped = "a&quot;];} &lt;/title&gt; &amp;lt;b&amp;gt; &lt;b&gt; \\N \\</text>";
    assert!(picture.contains(escaped), "{picture}");
    for note in
        ["1 name; a&quot;];} &lt;/title&gt;", "&amp;lt;b&amp;gt; &lt;b&gt; \\N \\l: 1 image; a&quot;];}"]
    {
        assert!(picture.contains(note), "{note}: {picture}");
    }
}

#[test]
fn the_check_of_dot_can_fail() {
    for broken in [
        "",
        "digraph plan {\n  n0 [label=\"a];\n}\n",
        "digraph plan {\n  n0 [label=\"a\"];\n  n0 -> n1;\n}\n",
        "digraph plan {\n  n0 [label=\"a\"];\n  n0 [label=\"b\"];\n}\n",
        "digraph plan {\n  n0 [label=\"a\", shape=nonsense];\n}\n",
        "digraph plan {\n  subgraph x {\n  n0 [label=\"a\"];\n}\n",
    ] {
        assert!(std::panic::catch_unwind(|| check_dot("broken", broken)).is_err(), "{broken}");
    }
    check_dot("sound", "digraph plan {\n  n0 [label=\"a\"];\n}\n");
}
