//! What the program makes from its own command line, and the log for diagnosis:
//! completions, manual pages, RUST_LOG.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use support::{
    image::{Image, Layout, layout},
    oracle,
    repo::{Invocation, cfs_dag, command, scratch},
    tar::{dir, file, noise, tar},
};

/// The verbs as the help lists them.
fn verbs() -> Vec<String> {
    let help = cfs_dag(["--help"]).expect_success().stdout;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    let verbs: Vec<String> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(verbs.len() > 8, "{help}");
    verbs
}

/// The long flags that the help of `verb` lists.
fn flags(verb: &str) -> BTreeSet<String> {
    let help = cfs_dag([verb, "--help"]).expect_success().stdout;
    let lines =
        help.lines().map(str::trim_start).filter(|line| line.starts_with('-') && !line.starts_with("- "));
    let flags = lines.filter_map(|line| line.split([' ', ',', '=', '[']).find(|word| word.starts_with("--")));
    flags.map(str::to_owned).collect()
}

fn image(layout: &Layout) -> Image {
    layout.image("a").layer(tar([dir("usr"), file("usr/big", noise(1, 5000))])).write()
}

fn pull(image: &Image) -> Invocation {
    cfs_dag(["pull", "--insecure", &image.reference])
}

#[test]
fn completions_parse_and_know_all_verbs_and_flags() {
    let scratch = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = cfs_dag(["completions", shell]).expect_success().stdout;
        for verb in verbs() {
            assert!(text.contains(&verb), "{shell} does not know {verb}");
        }
        // In fish a flag is told without its hyphens.
        let known =
            |flag: &&String| text.contains(flag.as_str()) || text.contains(&format!("-l {}", &flag[2..]));
        let unknown: Vec<String> = flags("pull").iter().filter(|flag| !known(flag)).cloned().collect();
        assert!(unknown.is_empty(), "{shell} does not know {unknown:?}");
        fs::write(scratch.path(shell), text).unwrap();
    }
    command("bash", ["-n"]).arg(scratch.path("bash")).expect_success();
    let script = "source \"$0\"; COMP_WORDS=(cfs-dag unt); COMP_CWORD=1; _cfs__dag cfs-dag unt cfs-dag; \
                  echo \"${COMPREPLY[@]}\"";
    let completed = command("bash", ["-c", script]).arg(scratch.path("bash")).expect_success();
    assert_eq!(completed.stdout, "untag\n");
    cfs_dag(["completions", "tcsh"]).expect_failure(2).says(&["tcsh"]);
}

#[test]
fn every_verb_has_a_page_and_every_flag_is_on_it() {
    let scratch = scratch();
    cfs_dag(["man", "--out"]).arg(scratch.path("")).expect_success();
    let main = cfs_dag(["man"]).expect_success().stdout;
    assert_eq!(main, fs::read_to_string(scratch.path("cfs-dag.1")).unwrap());
    // In roff a hyphen that is typed has a backslash before it.
    let unescaped = |text: &str| text.replace("\\-", "-");
    for verb in verbs() {
        assert!(
            unescaped(&main).contains(&format!("cfs-dag-{verb}(1)")),
            "the main page does not name {verb}"
        );
        let page = unescaped(&fs::read_to_string(scratch.path(&format!("cfs-dag-{verb}.1"))).unwrap());
        assert!(page.lines().any(|line| line.starts_with(&format!(".TH cfs-dag-{verb} 1"))), "{page}");
        assert!(page.contains(&format!("cfs-dag {verb}")), "{verb}: what is typed is missing\n{page}");
        for flag in flags(&verb) {
            assert!(page.contains(&flag), "{verb}: {flag} is missing\n{page}");
        }
    }
    let pages = fs::read_dir(scratch.path("")).unwrap().count();
    assert_eq!(pages, verbs().len() + 1);
    cfs_dag(["man", "--out"])
        .arg(scratch.path("nowhere"))
        .expect_failure(1)
        .says(&["nowhere", "cannot be written"]);
}

/// The page `docs/cli.md`, from what the program says of itself.
fn reference_page() -> String {
    let mut page = "# The command line\n\n\
                    Made of `--help` by a test, which compares it: \
                    `CFS_DAG_DRAW=1 cargo test --test suite generated::` writes it anew. The options of \
                    `cfs-dag` \
                    itself hold for every command. Manual pages (`cfs-dag man --out DIR`) and completions \
                    (`cfs-dag completions SHELL`) have the same text.\n"
        .to_owned();
    let help = |verb: Option<&str>| {
        let command = cfs_dag(verb).arg("--help").env("COLUMNS", "100");
        command.expect_success().stdout
    };
    let mut add = |title: &str, help: &str| {
        let lines = help.trim_end().lines().map(str::trim_end);
        let text = lines.map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") });
        page += &format!("\n## {title}\n\n{}", text.collect::<String>());
    };
    add("cfs-dag", &help(None));
    for verb in verbs() {
        let help = help(Some(&verb));
        let (own, of_all) = help.split_once("\nRepository:\n").unwrap();
        let after =
            of_all.split("\n\n").skip_while(|part| part.starts_with(' ')).collect::<Vec<_>>().join("\n\n");
        let own: Vec<&str> = own.split("\n\n").filter(|part| !is_of_all_verbs(part)).collect();
        add(&format!("cfs-dag {verb}"), &format!("{}\n\n{after}", own.join("\n\n")));
    }
    page
}

/// Whether a part of a verb's long help is about the flags that all verbs have.
fn is_of_all_verbs(part: &str) -> bool {
    let part = part.trim_start();
    part.starts_with("-v, --verbose") || part.starts_with("-h, --help")
}

#[test]
fn reference_of_the_command_line_is_up_to_date() {
    let (path, page) = (support::root().join("docs/cli.md"), reference_page());
    if std::env::var_os("CFS_DAG_DRAW").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/cli.md is not what --help says: CFS_DAG_DRAW=1 cargo test --test suite generated::"
    );
}

#[test]
fn nothing_is_logged_unless_asked_for() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let quiet =
        pull(&image).arg("--progress=none").env("RUST_LOG", "").repo(scratch.path("repo")).expect_success();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn verbose_tells_decisions_and_rust_log_tells_more() {
    let layout = layout();
    let image = image(&layout);
    let run = |progress: &str, filter: &str| {
        let scratch = scratch();
        let run = pull(&image).arg("--verbose").arg(progress).env("RUST_LOG", filter);
        run.repo(scratch.path("repo")).expect_success()
    };
    let is = format!("INFO cfs_dag::pull::resolve: {} is {}", image.reference, image.manifest);
    let verbose = run("--progress=plain", "").says(&[&is]).says(&["INFO", "1 of 1 layers are needed"]);
    assert!(!verbose.stderr.contains("DEBUG"), "{verbose}");
    let debug = run("--progress=plain", "cfs_dag=debug").says(&[&is]).says(&["DEBUG", "split ", " begins"]);
    let debug = debug.says(&["DEBUG", "tag ", " has ended"]);
    assert!(debug.stderr.contains(": done, "), "{debug}");
    let only = run("--progress=none", "cfs_dag=debug");
    only.says(&["DEBUG", "finalize ", " has ended"]);
}

#[test]
fn a_log_among_json_lines_is_messages() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let run = pull(&image).arg("--progress=json").env("RUST_LOG", "cfs_dag::report=debug");
    let run = run.repo(scratch.path("repo")).expect_success();
    let lines: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages = lines.iter().filter(|line| line["event"] == "message");
    assert!(messages.clone().any(|line| line["text"].as_str().unwrap().contains(" begins")), "{run}");
    oracle::assert_clean(&scratch.path("repo"));
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    cfs_dag(["images"]).env("RUST_LOG", "cfs_dag=loud").expect_failure(2).says(&["RUST_LOG", "cfs_dag=loud"]);
}

#[test]
fn a_broken_layer_is_said_to_be_broken() {
    let (layout, scratch) = (layout(), scratch());
    let image = image(&layout);
    let repo = scratch.path("repo");
    pull(&image).repo(&repo).expect_success();
    cfs_dag(["untag", &image.reference]).repo(&repo).expect_success();
    for object in oracle::objects(&repo) {
        let path = repo.join("objects").join(object);
        if fs::read(&path).unwrap() == noise(1, 5000) {
            fs::remove_file(path).unwrap();
        }
    }
    let again = pull(&image).arg("--verbose").repo(&repo).expect_success();
    again.says(&["INFO", &image.layers[0].diff_id, "not whole"]);
}
