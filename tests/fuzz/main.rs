//! What the fuzz targets assert, on inputs that the tests make and on those that once failed. Knows
//! `fuzz/src`; libFuzzer itself is not needed here.
//!
//! The seeds are left in `target/fuzz-corpus/TARGET/`, where `.ci/fuzz` begins.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the names of single targets are for their binaries")]
mod bodies;
mod seeds;
use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bodies::{TARGETS, Target};

/// What the seeds of a target are called, and they.
type Seeds = Vec<(String, Vec<u8>)>;

/// Runs a target on all inputs and fails with the names of those that it refuses; the panics say why.
fn replay(name: &str, target: Target, inputs: &Seeds) {
    let fails = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err();
    let failed: Vec<&str> =
        inputs.iter().filter(|(_, bytes)| fails(bytes)).map(|(name, _)| &**name).collect();
    assert!(failed.is_empty(), "{name} fails on {failed:?}");
}

/// Held as long as the file is open.
fn lock(name: &str) -> fs::File {
    let file = fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.lock"))).unwrap();
    file.lock().unwrap();
    file
}

/// Where the seeds of a target go, emptied.
fn corpus(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fuzz-corpus").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|(known, _)| *known == name).map(|(_, target)| target).unwrap()
}

fn plant_and_replay(name: &str, seeds: Seeds) {
    {
        // Another process may be at it, too.
        let _alone = lock(name);
        let dir = corpus(name);
        for (file, bytes) in &seeds {
            fs::write(dir.join(file), bytes).unwrap();
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), seeds.len(), "two seeds of {name} have one name");
    }
    replay(name, target(name), &seeds);
}

#[test]
fn tars_of_every_kind_are_split_alike_however_they_arrive() {
    plant_and_replay("split", seeds::split());
}

#[test]
fn tars_of_every_kind_become_filesystems() {
    plant_and_replay("filesystem", seeds::filesystem());
}

#[test]
fn blobs_of_every_kind_are_inflated_as_the_references_do() {
    plant_and_replay("inflate", seeds::inflate());
}

#[test]
fn documents_of_layouts_are_resolved_as_they_are() {
    plant_and_replay("documents", seeds::documents());
}

#[test]
fn stored_streams_read_back() {
    plant_and_replay("stream", seeds::stream());
}

#[test]
fn references_read_back() {
    plant_and_replay("reference", seeds::reference());
}

#[test]
fn lists_and_locks_mean_what_they_say() {
    plant_and_replay("list", seeds::list());
}

#[test]
fn plans_read_back_and_are_drawn() {
    plant_and_replay("plan", seeds::plan());
}

#[test]
fn records_of_nodes_read_back() {
    plant_and_replay("node_record", seeds::node_record());
}

#[test]
fn records_of_runs_read_back_and_are_shown() {
    plant_and_replay("run_record", seeds::run_record());
}

/// `fuzz/regressions/TARGET/` holds what a fuzzer once found.
#[test]
fn what_once_failed_fails_no_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut known = 0;
    for (name, target) in TARGETS {
        let Ok(files) = fs::read_dir(root.join(name)) else { continue };
        let files = files.map(|file| file.unwrap().path());
        let inputs: Seeds = files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
        replay(name, target, &inputs);
        known += 1;
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), known, "a folder in {} is no target's", root.display());
}

#[test]
fn every_target_has_its_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
        let target = fs::read_to_string(root.join(format!("targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("cfs_dag_fuzz::{name}(data)")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// libzstd's output is part of what is compared, and nobody wants to fuzz another parser than ours.
#[test]
fn the_fuzz_targets_are_built_of_the_same_packages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = |lock: &str| -> BTreeSet<(String, String)> {
        let lock = fs::read_to_string(root.join(lock)).unwrap();
        let lines: Vec<&str> = lock.lines().collect();
        let value = |line: &str, field: &str| Some(line.strip_prefix(field)?.strip_prefix(" = ")?.to_owned());
        lines.windows(2).filter_map(|two| value(two[0], "name").zip(value(two[1], "version"))).collect()
    };
    let (ours, theirs) = (packages("Cargo.lock"), packages("fuzz/Cargo.lock"));
    let names: BTreeSet<&String> = ours.iter().map(|(name, _)| name).collect();
    let other: Vec<_> =
        theirs.iter().filter(|package| names.contains(&package.0) && !ours.contains(package)).collect();
    assert!(names.len() > 100 && other.is_empty(), "copy Cargo.lock to fuzz/ and build there: {other:?}");
}
