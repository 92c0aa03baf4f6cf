//! Tests of the store, and the helpers that they read like sentences with. Upstream is the oracle.

mod admin;
mod claims;
mod commit;
mod documents;
mod images;
mod mirrored;
mod mounts;
mod objects;
mod opening;

use std::{
    collections::BTreeMap,
    fs,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use composefs::{
    erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned},
    fsverity::{FsVerityHashValue, compute_verity},
    repository::{Repository, RepositoryConfig},
    tree::{FileSystem, Stat},
};

use super::{
    law::{Before, Journal, breaches},
    *,
};
use crate::types::Digest;

/// A repository in a scratch directory, without fs-verity, with everything recorded.
struct Scene<H: FsVerityHashValue> {
    dir: tempfile::TempDir,
    store: Arc<Store<H>>,
    journal: Arc<Journal>,
}

fn repo<H: FsVerityHashValue>() -> Scene<H> {
    repo_with(FormatConfig::default())
}

fn repo_with<H: FsVerityHashValue>(formats: FormatConfig) -> Scene<H> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = RepositoryConfig::new(H::ALGORITHM).set_insecure();
    config.erofs_formats = formats;
    let path = dir.path().join("repo");
    let (repo, _) = Repository::<H>::init_path(rustix::fs::CWD, &path, config).unwrap();
    drop(repo);
    reopen(Scene { store: open_as(&path), dir, journal: Arc::default() })
}

/// The same repository in a new run.
fn reopen<H: FsVerityHashValue>(scene: Scene<H>) -> Scene<H> {
    let Scene { dir, store, .. } = scene;
    drop(store);
    let store = open_as::<H>(&dir.path().join("repo"));
    let journal = Arc::new(Journal::default());
    store.set_recorder(journal.clone());
    Scene { dir, store, journal }
}

fn open_as<H: FsVerityHashValue>(path: &Path) -> Arc<Store<H>> {
    Store::new(Repository::open_path(rustix::fs::CWD, path).unwrap(), path)
}

impl<H: FsVerityHashValue> Scene<H> {
    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("repo").join(inside)
    }

    fn object(&self, id: &H) -> PathBuf {
        self.path("objects").join(id.to_object_pathname())
    }

    /// One set, committed in a run of its own.
    fn commit(&self, set: LinkSet<H>) -> Outcome<H> {
        let commit = Commit::start(&self.store).unwrap();
        let outcome = submit(&commit, set).recv().unwrap().unwrap();
        commit.finish().unwrap();
        outcome
    }

    /// Gives complete objects their names.
    fn name_all(&self) {
        assert!(self.store.barrier(()).is_ok());
    }

    fn breaches(&self, before: Before) -> Vec<String> {
        breaches(&self.store, before, &self.journal.ops()).unwrap()
    }

    fn fsck_is_clean(&self) {
        let result = self.store.fsck().unwrap();
        assert!(result.is_ok(), "{:?}", result.lines());
    }

    /// All names in the repository outside `cfs-dag/`, sorted.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(&self.path(""), &self.path(""), &mut names);
        names.retain(|name| !name.starts_with("cfs-dag"));
        names.sort();
        names
    }
}

fn list(dir: &Path, root: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), root, names);
        }
    }
}

/// Hands in a set; the answer comes through the channel.
fn submit<H: FsVerityHashValue>(
    commit: &Commit<H>,
    set: LinkSet<H>,
) -> mpsc::Receiver<Result<Outcome<H>, StoreError>> {
    let (sender, receiver) = mpsc::channel();
    commit.submit(set, move |result| drop(sender.send(result)));
    receiver
}

/// Just the layer.
fn layer_set<H: FsVerityHashValue>(layer: &Layer<H>) -> LinkSet<H> {
    LinkSet { layers: vec![layer.link()], ..LinkSet::default() }
}

/// A ustar archive with the given files; names that end in `/` are directories.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, data) in files {
        tar.extend_from_slice(&tar_header(name, data.len()));
        tar.extend_from_slice(data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn tar_header(name: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, if name.ends_with('/') { "0000755" } else { "0000644" });
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{size:011o}"));
    field(136, "00000000000");
    field(148, "        ");
    field(156, if name.ends_with('/') { "5" } else { "0" });
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A layer that is complete, but not linked.
#[derive(Clone)]
struct Layer<H> {
    diff_id: Digest,
    id: H,
}

impl<H: FsVerityHashValue> Layer<H> {
    fn link(&self) -> LayerLink<H> {
        let name = StreamName::Layer(self.diff_id);
        LayerLink { name, content: Content::Layer, id: self.id.clone(), diff_id: Some(self.diff_id) }
    }
}

impl<H: FsVerityHashValue> Scene<H> {
    /// Completes a layer's objects and stream as a pull would.
    fn layer(&self, files: &[(&str, &[u8])]) -> Layer<H> {
        self.layer_with_trailer(files, 1024)
    }

    /// The trailing zeros change the stream, not the tree.
    fn layer_with_trailer(&self, files: &[(&str, &[u8])], zeros: usize) -> Layer<H> {
        let mut stream = self.store.upstream().create_stream(Content::Layer.code()).unwrap();
        for (name, data) in files {
            stream.write_inline(&tar_header(name, data.len()));
            let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
            if data.len() > 64 {
                let id = compute_verity::<H>(data);
                self.store.put(&id, &[IoSlice::new(data)]).unwrap();
                stream.add_external_size(data.len() as u64);
                stream.write_reference(id).unwrap();
            } else {
                stream.write_inline(data);
            }
            stream.write_inline(&padding);
        }
        stream.write_inline(&vec![0; zeros]);
        let id = stream.done().unwrap();
        let size = fs::metadata(self.object(&id)).unwrap().len();
        assert!(self.store.contains(&id, size).unwrap());
        let mut bytes = tar(files);
        bytes.resize(bytes.len() - 1024 + zeros, 0);
        Layer { diff_id: Digest::of(&bytes), id }
    }

    /// Completes the filesystem images of `layers` in the repository's formats.
    fn fs_images(&self, layers: &[Layer<H>]) -> FsImages<H> {
        let mut tree = FileSystem::new(Stat::uninitialized());
        for layer in layers {
            for entry in self.store.read_tree(&layer.id).unwrap().map(Result::unwrap) {
                composefs_oci::image::process_entry(&mut tree, entry).unwrap();
            }
        }
        tree.transform_for_oci(&Default::default()).unwrap();
        let tree = ValidatedFileSystem::new(tree).unwrap();
        let mut images = FsImages::default();
        for version in self.store.formats() {
            images.set(version, self.store.put_bytes(&mkfs_erofs_versioned(&tree, version)).unwrap());
        }
        images
    }

    /// Completes an image; gives its manifest's digest and the set that makes it visible.
    fn image(&self, layers: &[Layer<H>], tag: &str) -> (Digest, LinkSet<H>) {
        let (config, manifest) = documents(layers);
        let (config_digest, manifest_digest) = (Digest::of(&config), Digest::of(&manifest));
        let images = self.fs_images(layers);
        let pairs: Vec<_> = layers.iter().map(|layer| (layer.diff_id, layer.id.clone())).collect();
        let config_id = self.store.put_config(&config, &pairs, &images, &BTreeMap::new()).unwrap();
        let manifest_id = self.store.put_manifest(&manifest, (&config_digest, &config_id), &pairs).unwrap();
        let document = |name, id| DocumentLink { name, id, seen: None };
        let set = LinkSet {
            layers: layers.iter().map(Layer::link).collect(),
            images: images.iter().cloned().collect(),
            documents: vec![
                document(StreamName::Config(config_digest), config_id),
                document(StreamName::Manifest(manifest_digest), manifest_id),
            ],
            tags: vec![(Tag::new(tag).unwrap(), manifest_digest)],
        };
        (manifest_digest, set)
    }
}

/// Config and manifest of an image with these layers.
fn documents<H>(layers: &[Layer<H>]) -> (Vec<u8>, Vec<u8>) {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let descriptor = |media_type: &str, digest: &Digest, size: usize| {
        serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(),
            "size": size })
    };
    let blobs: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", &layer.diff_id, 10_240))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &Digest::of(&config), config.len()),
        "layers": blobs,
    });
    (config, serde_json::to_vec(&manifest).unwrap())
}

/// A small tree with `/usr` and one external file whose content depends on `seed`.
fn usr_files(seed: u8) -> Vec<(&'static str, Vec<u8>)> {
    vec![("usr/", vec![]), ("usr/big", vec![seed; 5000]), ("usr/small", vec![seed; 10])]
}

fn borrowed<'a>(files: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'static str, &'a [u8])> {
    files.iter().map(|(name, data)| (*name, &data[..])).collect()
}

impl<H: FsVerityHashValue> Scene<H> {
    fn usr_layer(&self, seed: u8) -> Layer<H> {
        self.layer(&borrowed(&usr_files(seed)))
    }

    /// An image of one small layer, stored and tagged.
    fn stored_image(&self, seed: u8, tag: &str) -> (Digest, Layer<H>) {
        let layer = self.usr_layer(seed);
        let (manifest, set) = self.image(std::slice::from_ref(&layer), tag);
        assert_eq!(self.commit(set), Outcome::Linked);
        (manifest, layer)
    }
}

#[test]
fn the_tar_builder_is_understood_by_upstream() {
    let scene = repo::<Sha256HashValue>();
    let files = usr_files(1);
    let bytes = tar(&borrowed(&files));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let split =
        composefs_oci::tar::split_async(&bytes[..], scene.store.upstream().clone(), Content::Layer.code());
    let (id, _) = runtime.block_on(split).unwrap();
    assert_eq!(scene.usr_layer(1).id, id);
}
