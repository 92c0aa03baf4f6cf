//! The examples of the documents, run as they are written: they print what the page shows, but for digests
//! and sizes. What `log` prints depends on the machine's speed and is not compared; it has to succeed.

use std::{fs, os::unix::fs::symlink, path::Path};

use regex::Regex;
use support::{
    real::real_image,
    registry_real::real_registry,
    repo::{Scratch, command, program, scratch},
};

/// The registry of the examples.
const HOST: &str = "127.0.0.1:5000";

/// A command as it is typed, and what the page shows of its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The examples of a document: indented lines, a command after `$`.
fn steps(document: &str) -> Vec<Step> {
    let text = fs::read_to_string(support::root().join(document)).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let example = line.strip_prefix("    ");
        if let Some(command) = example.and_then(|line| line.strip_prefix("$ ")) {
            steps.push(Step { command: command.to_owned(), shown: Vec::new() });
            is_open = true;
        } else if let Some(step) = steps.last_mut().filter(|_| is_open) {
            match example {
                Some(output) => step.shown.push(output.to_owned()),
                None if line.is_empty() => step.shown.push(String::new()),
                None => is_open = false,
            }
        }
    }
    for step in &mut steps {
        while step.shown.last().is_some_and(String::is_empty) {
            step.shown.pop();
        }
    }
    steps
}

/// A line without what differs from machine to machine.
fn masked(line: &str) -> String {
    let replaced =
        |text: &str, pattern: &str, by: &str| Regex::new(pattern).unwrap().replace_all(text, by).into_owned();
    let line = replaced(line, "[0-9a-f]{12,}", "DIGEST");
    let line = replaced(&line, r"\d[\d.]*( [kMG]?B\b)?", "NUMBER");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the output is as shown; `…` stands for any lines, or at a line's end for the rest of the line.
fn is_as_shown(shown: &[String], output: &[&str]) -> bool {
    let Some((first, rest)) = shown.split_first() else { return output.is_empty() };
    if first == "…" {
        return (0..=output.len()).any(|skipped| is_as_shown(rest, &output[skipped..]));
    }
    let Some((line, behind)) = output.split_first() else { return false };
    let is_same = match masked(first).strip_suffix('…') {
        Some(beginning) => masked(line).starts_with(beginning),
        None => masked(line) == masked(first),
    };
    is_same && is_as_shown(rest, behind)
}

/// Runs the steps of a document in a folder, with `host` in the place of the registry of the examples.
fn run(document: &str, scratch: &Scratch, host: &str) {
    let folder = scratch.path("");
    let bin = Path::new(program()).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let steps = steps(document);
    assert!(!steps.is_empty(), "{document} has no examples");
    for Step { command: typed, shown } in steps {
        let typed = typed.replace(HOST, host);
        let shown: Vec<String> = shown.iter().map(|line| line.replace(HOST, host)).collect();
        if let Some(file) = typed.strip_prefix("cat ") {
            fs::write(folder.join(file), shown.join("\n") + "\n").unwrap();
        }
        let finished = command("sh", ["-c", &typed]).env("PATH", &path).in_folder(&folder).expect_success();
        let output: Vec<&str> = finished.stdout.trim_end().lines().collect();
        let is_good = match typed.starts_with("cfs-dag log ") {
            true => !output.is_empty(),
            false => is_as_shown(&shown, &output),
        };
        assert!(
            is_good,
            "{document}: {typed}\n{finished}\nis not what the page shows:\n{}",
            shown.join("\n")
        );
    }
}

/// A folder with the images of `make demo`.
fn folder_with_images() -> Scratch {
    let scratch = scratch();
    let image = real_image("python");
    let layout = image.strip_prefix("oci:").unwrap().strip_suffix(":python").unwrap();
    symlink(layout, scratch.path("images")).unwrap();
    scratch
}

#[test]
fn examples_of_the_readme_and_of_the_graph_print_what_is_shown() {
    let scratch = folder_with_images();
    run("README.md", &scratch, HOST);
    run("docs/graph.md", &scratch, HOST);
}

#[test]
fn examples_of_mirroring_print_what_is_shown() {
    let registry = real_registry();
    registry.push(&real_image("web"), "web:latest");
    for tag in ["1.0", "1.1", "2.0"] {
        registry.push(&real_image("base"), &format!("base:{tag}"));
    }
    run("docs/mirror.md", &scratch(), &registry.host());
}

#[test]
fn another_output_is_not_as_shown() {
    let shown: Vec<String> = ["a 19.6 MB 0123456789abcdef", "…", "end of…"].map(str::to_owned).to_vec();
    assert!(is_as_shown(&shown, &["a  7 kB fedcba9876543210", "b", "c", "end of all"]));
    assert!(is_as_shown(&shown, &["a 1 B 0123456789ab", "end of"]));
    for output in [&["a 19.6 MB 0123456789abcdef"][..], &["b 1 B 0123456789ab", "end of"], &[]] {
        assert!(!is_as_shown(&shown, output), "{output:?}");
    }
}
