//! What takes mounts: a full disk, a read-only one, and the kernel's own view of an image. Each needs root
//! and does nothing without.

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::*;

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn tmpfs(dir: &Path, options: &std::ffi::CStr) -> Option<Mounted> {
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options).ok().map(|()| Mounted(dir.to_owned()))
}

fn insecure() -> InitOptions {
    InitOptions { algorithm: Some(Algorithm::SHA256), insecure: true, ..InitOptions::default() }
}

#[test]
fn a_full_disk_is_named_and_what_was_committed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = tmpfs(dir.path(), c"size=1m") else { return };
    let path = dir.path().join("repo");
    let AnyStore::Sha256(store) = init(&path, &insecure()).unwrap().0 else { panic!() };
    let scene = Scene { dir, store, journal: Arc::default() };
    let (manifest, _) = scene.stored_image(1, "app");
    let data = vec![1; 2 << 20];
    let error = scene.store.put(&compute_verity(&data), &[IoSlice::new(&data)]).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(error.to_string().contains("no space left on the repository's filesystem"), "{error}");
    assert!(matches!(scene.store.image(&manifest).unwrap(), StoredImage::Whole(_)));
    scene.fsck_is_clean();
    drop(scene.store);
    drop(mounted);
}

#[test]
fn a_read_only_disk_is_refused_early_and_can_be_read() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "app");
    let path = scene.dir.path().join("repo");
    if mount_bind(&path, &path).is_err() {
        return;
    }
    let mounted = Mounted(path.clone());
    mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    let AnyStore::Sha256(store) = open(&path).unwrap() else { panic!() };
    let errors = [
        store.require_writable().unwrap_err(),
        Commit::start(&store).err().unwrap(),
        store.put_bytes(b"something").unwrap_err(),
        store.untag("app").unwrap_err(),
        store.gc(GcMode::Remove, |_| ()).unwrap_err(),
        probe(&path.join("below"), &insecure()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    }
    assert_eq!(store.list_images().unwrap().len(), 1);
    drop(store);
    drop(mounted);
}

#[test]
fn the_kernel_mounts_what_we_wrote() {
    let scene = repo::<Sha512HashValue>();
    scene.stored_image(1, "app");
    let target = tempfile::tempdir().unwrap();
    match scene.store.mount_at("app", target.path()) {
        Ok(()) => {}
        Err(error) if rustix::process::getuid().is_root() => panic!("{error}"),
        Err(_) => return,
    }
    let mounted = Mounted(target.path().to_owned());
    assert_eq!(fs::read(target.path().join("usr/big")).unwrap(), [1; 5000]);
    assert_eq!(fs::read(target.path().join("usr/small")).unwrap(), [1; 10]);
    drop(mounted);
    assert!(scene.store.mount_at("absent", target.path()).unwrap_err().to_string().contains("no image"));
}
