//! Pulls by the built program, and what a repository holds afterwards of what was wanted and of what was not.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    image::{Image, Layout},
    oracle::{self, DEFAULT_KIND},
    registry::Registry,
    repo::{Invocation, assert_same_lines, cfs_dag, repo_manifest},
};

/// A pull of `references` into the repository at `repo`, which need not exist; without
/// progress, the result as JSON.
pub fn pull(repo: &Path, references: &[&str]) -> Invocation {
    pull_showing("none", repo, references)
}

/// The same with progress.
pub fn pull_showing(progress: &str, repo: &Path, references: &[&str]) -> Invocation {
    // What fails, fails at once: other tests are about trying again.
    let flags =
        ["pull", "--insecure", "--tls-verify=false", "--retries=0", "--format=json", "--progress", progress];
    cfs_dag(flags.iter().chain(references)).repo(repo)
}

/// `repo` after upstream's gc, as [`repo_manifest`] has it, less the folders of objects, which
/// stay when they are empty.
pub fn swept(repo: &Path) -> Vec<String> {
    oracle::gc(repo);
    let mut lines = repo_manifest(repo);
    lines.retain(|line| !(line.starts_with("objects/") && line.contains(" dir ")));
    lines
}

/// Asserts that two repositories hold the same once what nobody names is gone.
#[track_caller]
pub fn assert_same_when_swept(expected: &Path, found: &Path) {
    assert_same_lines("repository after gc", &swept(expected), &swept(found));
}

/// Asserts that `name` is stored with the very layers, config and filesystem that
/// upstream makes of `reference`.
#[track_caller]
pub fn assert_stored(repo: &Path, name: &str, reference: &str) {
    assert_eq!(oracle::oracle(reference, DEFAULT_KIND).stored, oracle::stored(repo, name), "{name}");
}

/// Asserts that no document and no tag of `image` is linked, nor the layers `without`.
#[track_caller]
pub fn assert_absent(repo: &Path, image: &Image, without: &[usize]) {
    let lost = without.iter().map(|at| format!("oci-layer-{}", image.layers[*at].diff_id));
    let documents = [format!("oci-config-{}", image.config), format!("oci-manifest-{}", image.manifest)];
    let tag = format!("refs/oci/{}", image.reference.replace('%', "%25").replace('/', "%2F"));
    for name in lost.chain(documents).chain([tag]) {
        let path = repo.join("streams").join(&name);
        assert!(path.symlink_metadata().is_err(), "{} should not be there", path.display());
    }
}

/// The `diff_id`s that have a link in `repo`.
pub fn linked_layers(repo: &Path) -> Vec<String> {
    let Ok(streams) = fs::read_dir(repo.join("streams")) else { return Vec::new() };
    let names = streams.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_prefix("oci-layer-").map(str::to_owned)).collect()
}

/// Asserts that dead runs have left nothing in `cfs-dag/tmp`.
#[track_caller]
pub fn assert_no_leftovers(repo: &Path) {
    let Ok(leftovers) = fs::read_dir(repo.join("cfs-dag/tmp")) else { return };
    let leftovers: Vec<_> = leftovers.map(|entry| entry.unwrap().path()).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

/// Puts `image`, written into `layout`, into the scripted registry, and returns its reference there. Lies
/// about a blob's own digest are lost: they are the registry's to tell.
pub fn serve(registry: &Registry, layout: &Layout, image: &Image, repository: &str) -> String {
    let blob = |digest: &str| fs::read(layout.blob(digest)).unwrap();
    for digest in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
        registry.blob(repository, &blob(digest));
    }
    let manifest = blob(&image.manifest);
    let media_type: Value = serde_json::from_slice(&manifest).unwrap();
    registry.manifest(repository, Some("v1"), media_type["mediaType"].as_str().unwrap(), &manifest);
    registry.reference(repository, "v1")
}
