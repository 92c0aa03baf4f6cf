//! A registry, a repository and lists between them. Knows how images are made and named;
//! ignores what a test is about.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

use serde_json::Value;
use support::{
    registry::{Image, Registry},
    repo::{Finished, Invocation, Scratch, cfs_dag, scratch},
    source::host,
    tar::{dir, file, noise, tar},
};

/// A registry, and a folder for the repository and all files.
pub struct World {
    pub registry: Registry,
    scratch: Scratch,
}

/// A layer with files of both kinds; different for each `seed`.
pub fn layer(seed: u64) -> Vec<u8> {
    tar([dir("usr"), file("usr/inline", "x"), file(format!("usr/big-{seed}"), noise(seed, 3000))])
}

impl World {
    pub fn new() -> Self {
        Self { registry: Registry::start(), scratch: scratch() }
    }

    /// Images over one base, each with a layer of its own: `app:v1`.
    pub fn images<const N: usize>(&self, names: [&str; N]) -> [Image; N] {
        names.map(|name| self.image(name, 0))
    }

    /// An image as it is at its `version`, which stands there in place of the one before.
    pub fn image(&self, name: &str, version: u64) -> Image {
        let (repository, tag) = name.split_once(':').unwrap();
        let mut seed = DefaultHasher::new();
        (name, version).hash(&mut seed);
        self.registry.image(repository, tag, &host(), &[&layer(0), &layer(seed.finish() | 1)])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// Writes a list, in which `HOST` stands for the registry.
    pub fn list(&self, text: &str) -> PathBuf {
        self.file("list", text)
    }

    /// The same for any file.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, self.told(text)).unwrap();
        path
    }

    /// `text` with the registry in the place of `HOST`.
    pub fn told(&self, text: &str) -> String {
        text.replace("HOST", &self.registry.host())
    }

    /// A mirror of `list`, without progress and impatient.
    pub fn mirror(&self, list: &Path) -> Invocation {
        let flags = ["mirror", "--insecure", "--tls-verify=false", "--progress=none", "--retry-delay=1ms"];
        cfs_dag(flags).arg(list).repo(self.repo())
    }

    /// A mirror of a list of this text, which becomes the file `list`.
    pub fn mirror_of(&self, text: &str) -> Invocation {
        self.mirror(&self.list(text))
    }

    /// The whole name of an image, as it is without any other: `docker://…/app:v1`.
    pub fn name(&self, short: &str) -> String {
        format!("docker://{}/{short}", self.registry.host())
    }

    /// `text` with short names in the place of whole ones.
    pub fn short(&self, text: &str) -> String {
        text.replace(&self.name(""), "")
    }

    /// The names in the repository, short, in order; none without a repository.
    pub fn names(&self) -> Vec<String> {
        if !self.repo().exists() {
            return Vec::new();
        }
        let rows = cfs_dag(["images", "--json"]).repo(self.repo()).expect_success().json();
        rows.as_array().unwrap().iter().map(|row| self.short(row["name"].as_str().unwrap())).collect()
    }

    /// The digest that a name in the repository stands for.
    pub fn digest(&self, short: &str) -> String {
        let rows = cfs_dag(["images", "--json"]).repo(self.repo()).expect_success().json();
        let is_it = |row: &&Value| self.short(row["name"].as_str().unwrap()) == short;
        let row = rows.as_array().unwrap().iter().find(is_it);
        row.unwrap_or_else(|| panic!("no {short} in {rows:#}"))["manifestDigest"].as_str().unwrap().to_owned()
    }

    /// What each rule of a list chose, short, in the order of the list; from the plan as JSON.
    pub fn chosen(&self, text: &str) -> Vec<(String, Vec<String>)> {
        let plan = self.mirror_of(text).arg("--dry-run=json").expect_success().json();
        let name = |name: &Value| self.short(name.as_str().unwrap());
        let selection = |chosen: &Value| {
            let images = chosen["images"].as_array().unwrap().iter().map(name).collect();
            (self.short(chosen["rule"].as_str().unwrap()), images)
        };
        plan["selections"].as_array().unwrap().iter().map(selection).collect()
    }

    /// How an image ended, by the result as JSON: its outcome and error.
    pub fn outcomes(&self, result: &Value) -> Vec<(String, String, String)> {
        let text = |value: &Value| self.short(value.as_str().unwrap_or_default());
        let images = result["images"].as_array().unwrap().iter();
        images.map(|image| (text(&image["name"]), text(&image["outcome"]), text(&image["error"]))).collect()
    }
}

/// The lines of standard output whose first word is `word`, without it.
pub fn lines_of<'a>(finished: &'a Finished, word: &str) -> Vec<&'a str> {
    finished.stdout.lines().filter_map(|line| line.strip_prefix(word)).map(str::trim_start).collect()
}
