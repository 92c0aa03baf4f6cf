//! A repository in which single files are replaced by what a target wants to be read. Knows where the files are; ignores
//! what is in them.

use std::{cell::RefCell, fs, os::unix::fs::symlink, path::Path, sync::Arc};

use cfs_dag::store::{self, Algorithm, AnyStore, InitOptions, Sha256HashValue, Store};
use tempfile::TempDir;

/// An insecure repository of SHA-256, the same one for all inputs of a thread.
pub(crate) struct Repository {
    pub(crate) store: Arc<Store<Sha256HashValue>>,
    _dir: TempDir,
}

thread_local! {
    static REPOSITORY: RefCell<Option<Repository>> = const { RefCell::new(None) };
}

/// Runs `work` on the repository; whoever puts files there takes them away.
pub(crate) fn with_repository<T>(work: impl FnOnce(&Repository) -> T) -> T {
    REPOSITORY.with_borrow_mut(|slot| work(slot.get_or_insert_with(Repository::new)))
}

impl Repository {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let options =
            InitOptions { algorithm: Some(Algorithm::SHA256), insecure: true, ..InitOptions::default() };
        let (store, _) = store::init(&dir.path().join("repo"), &options).expect("a repository");
        let AnyStore::Sha256(store) = store else { panic!("the algorithm is the one asked for") };
        Self { store, _dir: dir }
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
