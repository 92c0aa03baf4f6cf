//! A repository in which single files are replaced by what a target wants to be read. Knows where the files are; ignores
//! what is in them.

use std::{cell::OnceCell, fs, os::unix::fs::symlink, path::Path, sync::Arc};

use cfs_dag::store::{self, Algorithm, AnyStore, FsVerityHashValue, InitOptions, Sha256HashValue, Store};
use tempfile::TempDir;

/// The id of an object that is always there, so that what a target packs can be whole. In an insecure repository an object
/// counts by its size.
const OBJECT: [u8; 32] = [8; 32];
/// What is in it: more than a layer would have inline.
pub(crate) const OBJECT_BYTES: &[u8; 72] = &[b'a'; 72];

/// An insecure repository of SHA-256. Its files are the same for all inputs of a thread, but it is opened for each of
/// them: a store remembers what it has seen.
pub(crate) struct Repository {
    pub(crate) store: Arc<Store<Sha256HashValue>>,
}

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Runs `work` on the repository; whoever puts files there takes them away.
pub(crate) fn with_repository<T>(work: impl FnOnce(&Repository) -> T) -> T {
    FOLDER.with(|folder| work(&Repository::open(folder.get_or_init(folder_of_one).path())))
}

fn folder_of_one() -> TempDir {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let options =
        InitOptions { algorithm: Some(Algorithm::SHA256), insecure: true, ..InitOptions::default() };
    store::init(dir.path(), &options).expect("a repository");
    let object = Sha256HashValue::from(OBJECT).to_object_pathname();
    Repository::open(dir.path()).put(format!("objects/{object}"), OBJECT_BYTES);
    dir
}

impl Repository {
    fn open(path: &Path) -> Self {
        let AnyStore::Sha256(store) = store::open(path).expect("a repository") else {
            panic!("the algorithm is the one asked for")
        };
        Self { store }
    }

    /// Puts a file at `path` below the repository, in the place of what is there.
    pub(crate) fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = self.store.path().join(path);
        self.make_folder(&path);
        fs::write(path, bytes).expect("a file in the repository");
    }

    /// Links `path` below the repository to `target`, unless that was done before.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.store.path().join(path);
        if path.symlink_metadata().is_err() {
            self.make_folder(&path);
            symlink(target, path).expect("a link in the repository");
        }
    }

    fn make_folder(&self, path: &Path) {
        let folder = path.parent().expect("the repository itself");
        fs::create_dir_all(folder).expect("a folder in the repository");
    }
}
