//! Manifests, indexes and artifacts.

mod artifacts;
mod embedded;
mod forms;
mod indexes;
mod names;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use support::{
    layout::{self, Layout, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
    registry::Registry,
    repo::{Finished, Invocation, Scratch, cfs_dag, scratch},
    source::host,
    tar::{dir, file, noise, tar},
};

const STATEMENT: &str = "application/vnd.in-toto+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A layout, a registry that serves it as `app`, and a folder for repositories.
struct Scene {
    scratch: Scratch,
    layout: Layout,
    registry: Registry,
    repos: Cell<usize>,
}

/// A layer with one file below `usr`.
fn layer(name: &str) -> Vec<u8> {
    tar([dir("usr"), file(format!("usr/{name}"), noise(name.len() as u64, 3000))])
}

/// `entry` with this platform, whatever it is.
fn with_platform(entry: &Value, platform: Value) -> Value {
    let mut entry = entry.clone();
    entry["platform"] = platform;
    entry
}

/// The platform of this machine.
fn here() -> Value {
    json!({"os": "linux", "architecture": host()})
}

fn unknown() -> Value {
    json!({"os": "unknown", "architecture": "unknown"})
}

fn digest_of(entry: &Value) -> String {
    entry["digest"].as_str().unwrap().to_owned()
}

impl Scene {
    fn new() -> Self {
        let scratch = scratch();
        let layout = Layout::new(scratch.path("oci"));
        Self { scratch, layout, registry: Registry::start(), repos: Cell::new(0) }
    }

    /// Stores bytes as a blob; gives their descriptor.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        self.layout.blob(bytes);
        layout::descriptor(media_type, bytes)
    }

    /// An image with one file for this machine; gives its manifest's descriptor.
    fn image(&self, name: &str) -> Value {
        self.layout.image(&host(), &[&layer(name)])
    }

    /// A container's config over uncompressed layers, for a platform.
    fn config(&self, platform: Value, layers: &[Value]) -> Value {
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let mut config = platform;
        config["config"] = json!({});
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        self.put(OCI_CONFIG, config.to_string().as_bytes())
    }

    fn manifest(&self, config: &Value, layers: &[Value]) -> Value {
        self.manifest_with(config, layers, json!({}))
    }

    /// The same with more fields, or others.
    fn manifest_with(&self, config: &Value, layers: &[Value], fields: Value) -> Value {
        let mut manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        for (name, value) in fields.as_object().unwrap() {
            manifest[name] = value.clone();
        }
        self.put(OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// What cosign and buildx write: a config as a container's, and layers that are not tars.
    fn statement(&self, platform: Value, media_type: &str, bytes: &[u8], times: usize) -> Value {
        let layers = vec![self.put(media_type, bytes); times];
        self.manifest(&self.config(platform, &layers), &layers)
    }

    fn artifact(&self, bytes: &[u8]) -> Value {
        self.manifest(&self.put(EMPTY, b"{}"), &[self.put(STATEMENT, bytes)])
    }

    fn index(&self, entries: &[Value]) -> Value {
        self.layout.index(OCI_INDEX, entries)
    }

    /// Names an entry, and serves it by the registry under the same tag.
    fn tag(&mut self, entry: &Value, name: &str) {
        self.layout.add(entry.clone(), Some(name));
        self.registry.serve_layout("app", &self.layout.path);
    }

    fn oci(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.layout.path.display())
    }

    /// By both transports.
    fn both(&self, name: &str) -> [String; 2] {
        [self.oci(name), self.registry.reference("app", name)]
    }

    /// `entry` as a `dir:`, with all blobs of the layout.
    fn dir(&self, entry: &Value) -> String {
        let path = self.scratch.path(&format!("dir-{}", self.repos.get()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("version"), "Directory Transport Version: 1.1\n").unwrap();
        for blob in fs::read_dir(self.layout.path.join("blobs/sha256")).unwrap().flatten() {
            fs::copy(blob.path(), path.join(blob.file_name())).unwrap();
        }
        let digest = digest_of(entry);
        fs::copy(path.join(digest.strip_prefix("sha256:").unwrap()), path.join("manifest.json")).unwrap();
        format!("dir:{}", path.display())
    }

    /// A pull of `reference` as `x` into a new repository, which `repo` gives.
    fn pull(&self, reference: &str) -> Invocation {
        self.repos.set(self.repos.get() + 1);
        self.pull_again(reference)
    }

    /// The same into the repository of the last one.
    fn pull_again(&self, reference: &str) -> Invocation {
        let flags =
            ["pull", "--insecure", "--tls-verify=false", "--retries=0", "--progress=none", "--name=x"];
        cfs_dag(flags).arg(reference).repo(self.repo())
    }

    fn repo(&self) -> PathBuf {
        self.scratch.path(&format!("repo-{}", self.repos.get()))
    }

    /// Pulls `reference` and gives the one result as JSON.
    #[track_caller]
    fn result(&self, reference: &str) -> Value {
        let finished = self.pull(reference).arg("--format=json").expect_success();
        finished.json()["images"][0].clone()
    }

    /// Asserts that what `reference` stands for is stored as this manifest.
    #[track_caller]
    fn assert_gives(&self, reference: &str, manifest: &Value) {
        assert_eq!(self.result(reference)["manifest"], manifest["digest"], "{reference}");
    }

    /// Asserts that a pull fails with one line that has all of `words`, and that nothing has the name.
    #[track_caller]
    fn assert_refused(&self, reference: &str, words: &[&str]) -> Finished {
        let finished = self.pull(reference).expect_failure(1);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert_nothing_named(&self.repo());
        finished.says(words)
    }
}

#[track_caller]
fn assert_nothing_named(repo: &Path) {
    if repo.exists() {
        let rows = cfs_dag(["images", "--json"]).repo(repo).expect_success().json();
        assert_eq!(rows, json!([]));
        cfs_dag(["fsck"]).repo(repo).expect_success();
    }
}
