//! Small images in scripted registries, and mirrors of them by the built program. Knows what the images share
//! and who is skopeo; ignores what goes wrong.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cfs_dag::types::Digest;
use serde_json::Value;
use support::{
    image::{Image, Layout, layout},
    pulls::assert_same_when_swept,
    registry::Registry,
    repo::{Finished, Invocation, Running, Scratch, cfs_dag, scratch},
    skopeo::is_alive,
    tar::{dir, file, noise, tar},
};

/// Bytes of the largest file of a layer that images share.
pub const SHARED: usize = 150_000;

/// A tar of three files that no other seed gives.
pub fn files(seed: u64, size: usize) -> Vec<u8> {
    let content = |part: u64, size: usize| noise(seed * 3 + part, size);
    let name = |part: &str| format!("usr/{seed}-{part}");
    tar([
        dir("usr"),
        file(name("large"), content(0, size)),
        file(name("small"), content(1, 700)),
        file(name("tiny"), content(2, 20)),
    ])
}

/// A registry with images that share layers: all of them the first, those of a repository the second.
pub struct Shop {
    pub registry: Registry,
    pub shelves: Vec<Shelf>,
}

/// A repository of a registry.
pub struct Shelf {
    pub repository: String,
    pub images: Vec<Image>,
    pub references: Vec<String>,
    _layout: Layout,
}

impl Shop {
    /// So many repositories, `team0/app` and so on, with so many images each, tagged `v0` and so on. Shops of
    /// different seeds have no layer in common.
    pub fn new(seed: usize, repositories: usize, images: usize) -> Self {
        let mut shop = Self { registry: Registry::start(), shelves: Vec::new() };
        for repository in 0..repositories {
            shop.add(seed, repository, images);
        }
        shop
    }

    fn add(&mut self, seed: usize, repository: usize, images: usize) {
        let layout = layout();
        let files = |n: usize, size| files((100_000 * seed + n) as u64, size);
        let (base, middle) = (files(0, SHARED), files(1 + repository, SHARED / 2));
        let image = |ix: usize| {
            let own = files(1000 * (repository + 1) + ix, 2000);
            layout.image(&format!("v{ix}")).layer(base.as_slice()).layer(middle.as_slice()).layer(own).write()
        };
        let images: Vec<Image> = (0..images).map(image).collect();
        let repository = format!("team{repository}/app");
        let tags = self.registry.serve_layout(&repository, &layout.path());
        let references = tags.iter().map(|tag| self.registry.reference(&repository, tag)).collect();
        self.shelves.push(Shelf { repository, images, references, _layout: layout });
    }

    /// All images, shelf by shelf.
    pub fn references(&self) -> Vec<String> {
        self.shelves.iter().flat_map(|shelf| shelf.references.iter().cloned()).collect()
    }

    /// The blobs of all layers, each once.
    pub fn layers(&self) -> BTreeSet<Digest> {
        let images = self.shelves.iter().flat_map(|shelf| &shelf.images);
        images.flat_map(|image| &image.layers).map(|layer| layer.blob.parse().unwrap()).collect()
    }
}

impl Shelf {
    /// The path of a blob below `/v2/`.
    pub fn blob(&self, digest: &str) -> String {
        format!("{}/blobs/{digest}", self.repository)
    }
}

/// A list, and the repository where its images go.
pub struct Mirror {
    scratch: Scratch,
}

impl Mirror {
    /// Of a list with a reference a line.
    pub fn of(references: &[String]) -> Self {
        Self::of_list(&references.iter().map(|reference| format!("{reference}\n")).collect::<String>())
    }

    /// Of a list with this text.
    pub fn of_list(text: &str) -> Self {
        let scratch = scratch();
        fs::write(scratch.path("list"), text).unwrap();
        Self { scratch }
    }

    /// Where the images go; nothing is there before the first run.
    pub fn repo(&self) -> PathBuf {
        self.scratch.path("repo")
    }

    /// The command, without long pauses between two tries; the result as JSON.
    pub fn command(&self) -> Invocation {
        let flags = ["--insecure", "--tls-verify=false", "--format=json", "--progress=plain"];
        let command = cfs_dag(["mirror", "--retry-delay=1ms"]).arg(self.scratch.path("list"));
        flags.iter().fold(command, |command, flag| command.arg(flag)).repo(self.repo())
    }

    /// Asserts that an undisturbed mirror of `references` is the same. Nothing goes wrong any more by now.
    #[track_caller]
    pub fn assert_as_undisturbed(&self, references: &[String]) -> Finished {
        let clean = Self::of(references);
        let finished = clean.command().expect_success();
        assert_same_when_swept(&clean.repo(), &self.repo());
        finished
    }
}

/// The images of a result, by reference: `None` if all went well, or the error.
pub fn failures(finished: &Finished) -> Vec<(String, Option<String>)> {
    let result = finished.json();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let images = result["images"].as_array().unwrap().iter();
    images.map(|image| (text(&image["reference"]).unwrap(), text(&image["error"]))).collect()
}

/// The names in a repository, as they stand in `streams/refs/oci`.
pub fn visible(repo: &Path) -> BTreeSet<String> {
    let Ok(tags) = fs::read_dir(repo.join("streams/refs/oci")) else { return BTreeSet::new() };
    let names = tags.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.replace("%2F", "/").replace("%25", "%")).collect()
}

/// Comes back when it is `so`, while the program runs.
///
/// # Panics
/// With what was said so far, when the program ends without, or hangs.
#[track_caller]
pub fn until(running: &mut Running, mut so: impl FnMut() -> bool) {
    while !so() {
        running.assert_goes_on();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The real skopeo, whose processes are known.
pub struct Skopeo(Scratch);

impl Skopeo {
    pub fn new() -> Self {
        let this = Self(scratch());
        let bin = this.0.path("bin");
        fs::create_dir(&bin).unwrap();
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join("skopeo"))
            .find(|path| path.exists())
            .expect("skopeo is installed");
        let (pids, real) = (this.0.path("pids"), real.display().to_string());
        let script = format!("#!/bin/sh\necho $$ >>{}\nexec {real} \"$@\"\n", pids.display());
        fs::write(bin.join("skopeo"), script).unwrap();
        fs::set_permissions(bin.join("skopeo"), fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    /// What `PATH` has to be so that this one is started.
    pub fn path(&self) -> String {
        format!("{}:{}", self.0.path("bin").display(), std::env::var("PATH").unwrap())
    }

    /// All that were started.
    pub fn pids(&self) -> Vec<i32> {
        let pids = fs::read_to_string(self.0.path("pids")).unwrap_or_default();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Those that live, also those that were killed and do not know yet.
    pub fn living(&self) -> usize {
        self.pids().into_iter().filter(|pid| is_alive(*pid)).count()
    }

    /// Those that live, less those that were killed and do not know yet.
    pub fn alive(&self) -> Vec<i32> {
        self.pids().into_iter().filter(|pid| is_alive(*pid) && !is_killed(*pid)).collect()
    }

    /// Asserts that all have ended.
    #[track_caller]
    pub fn assert_none_left(&self) {
        assert_eq!(self.alive(), Vec::<i32>::new(), "left behind");
    }
}

/// Whether a SIGKILL waits for a process.
fn is_killed(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|mask| mask & 1 << 8 != 0)
}
