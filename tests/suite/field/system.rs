//! What filesystems, limits and signals do to a run.

mod filesystems;
mod limits;
mod vanished;

use std::path::Path;

use support::{
    image::{Image, Layout},
    pulls,
    registry::Registry,
    repo::{Invocation, command, program},
    tar::{dir, file, noise, tar},
};

/// An image of two layers, one with many files.
fn image(layout: &Layout) -> Image {
    let files = (0..60).map(|n| file(format!("usr/f{n}"), noise(n, 5000)));
    let base = tar([dir("usr")].into_iter().chain(files));
    layout.image("app").layer(base).layer(tar([file("usr/large", noise(99, 3_000_000))])).plain().write()
}

/// The same at a registry, to see what is asked for.
fn served(registry: &Registry, layout: &Layout) -> Image {
    let mut image = image(layout);
    image.reference = pulls::serve(registry, layout, &image, "app");
    image
}

/// A pull that a shell starts after `first`.
fn pull_after(first: &str, repo: &Path, reference: &str) -> Invocation {
    after(first, ["pull", "--insecure", "--tls-verify=false", "--progress=none", reference]).repo(repo)
}

/// The program, started by a shell after `first`.
fn after<'a>(first: &str, args: impl IntoIterator<Item = &'a str>) -> Invocation {
    command("sh", ["-c", &format!("{first}; exec \"$@\""), "sh", program()]).args(args)
}
