//! Plans as Mermaid itself reads and draws them, with the settings that it has by itself. Needs a browser.

use std::{fmt::Write as _, fs, panic::catch_unwind, path::PathBuf};

use cfs_dag::{
    graph::{Kind, Plan, Selection},
    render::{Marks, mermaid},
};
use support::{browser::check, plans::*, repo::scratch};

/// Has these charts drawn; fails as the first does that is not what its text says.
fn draw(charts: &[String]) {
    draw_as("mermaid", charts);
}

fn draw_as(scenario: &str, charts: &[String]) {
    let scratch = scratch();
    let files: Vec<PathBuf> = (0..charts.len()).map(|place| scratch.path(&format!("{place}.mmd"))).collect();
    for (file, chart) in files.iter().zip(charts) {
        fs::write(file, chart).unwrap();
    }
    check(scenario, &files);
}

fn before(plan: &Plan) -> String {
    mermaid(plan, &Marks { critical: longest_chain(plan), ..Marks::default() })
}

#[test]
fn plans_and_runs_are_drawn() {
    let plan = five_on_one_base();
    let charts = [
        before(&plan),
        mermaid(&plan, &run_of(&plan, None)),
        mermaid(&plan, &run_of(&plan, Some(Kind::Split))),
        mermaid(&Plan::default(), &Marks::default()),
    ];
    assert!(
        charts[0].contains("==>") && charts[0].contains("-.-o|\"1\"|") && charts[0].contains(":::stored")
    );
    assert!(charts[2].contains(":::failed") && charts[2].contains(":::cancelled"));
    draw(&charts);
    draw_as("mermaid-dark", &charts);
}

#[test]
fn plans_of_every_size_are_drawn() {
    let sizes = [(1, 50), (1, 60), (1, 90), (2, 180), (3, 400), (400, 3), (1000, 40)];
    let distinct = sizes.map(|(images, layers)| before(&planned(distinct(images, layers))));
    // Layouts of many images on one base are where Mermaid's own fails if edges lead from image to image.
    let alike = [(6, 1), (30, 5), (450, 4), (1000, 40)];
    let alike = alike.map(|(images, layers)| before(&planned(all_alike(images, layers))));
    let charts = [&distinct[..], &alike].concat();
    assert!(!charts[0].contains("%%"), "{}", charts[0]);
    for (folded, said) in [(2, "for a layer"), (4, "for an image"), (6, "for an image"), (9, "for an image")]
    {
        assert!(charts[folded].contains(&format!("%% folded: one node {said}")), "{}", charts[folded]);
    }
    draw(&charts);
}

#[test]
fn hostile_names_are_only_text() {
    let names = [
        "\"] --> x[\"y",
        "\nend\nclick a call alert(1)\n",
        "%%{init: {\"securityLevel\": \"loose\"}}%%",
        "<img src=x onerror=alert(1)><script>alert(1)</script>",
        "&lt;b&gt; #quot; #35; ﬂ°°35¶ß",
        "style:#a; classDef:#b;",
        "`**bold** _it_`",
        "1. list",
        "- list",
        "    indented",
        "https://www.example.com/a@b.example $$x^2$$ fa:fa-car",
        "\u{202e}evil\u{0}\u{1b}[2J",
        "größe 🐧 \\ | ; : end",
    ];
    let images = names.iter().map(|name| image(name, vec![layer(name, ".gz", 5)])).collect();
    let mut plan = planned(images);
    plan.selections =
        names.iter().map(|name| Selection { rule: (*name).to_owned(), images: Vec::new() }).collect();
    plan.untag = names.iter().map(|name| (*name).to_owned()).collect();
    plan.images[0].platform = Some(names[1].to_owned());
    draw(&[before(&plan), mermaid(&plan, &run_of(&plan, Some(Kind::Fetch)))]);
}

#[test]
fn what_mermaid_does_not_draw_is_refused() {
    let mut edges = "flowchart LR\n  a[\"a\"]:::x\n".to_owned();
    for place in 0..501 {
        let _ = write!(edges, "  b{place}[\"b\"]:::x\n  a --> b{place}\n");
    }
    let long = format!("flowchart LR\n  a[\"{}\"]:::x\n", "a".repeat(50_000));
    for broken in ["flowchart LR\n  a[\"a]:::x\n", "flowchart LR\n  a[\"a#58\"]:::x\n  end\n", &edges, &long]
    {
        assert!(catch_unwind(|| draw(&[broken.to_owned()])).is_err(), "{broken}");
    }
    draw(&["flowchart LR\n  a[\"a#58;\"]:::x\n".to_owned()]);
}
