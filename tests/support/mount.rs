//! Filesystems for tests that root may run. Knows mount(8).

use std::{path::PathBuf, process::Command};

/// A mount that is gone with the value.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts at a folder what `args` say; `None` where this process may not mount.
    pub fn new(at: PathBuf, args: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount");
            return None;
        }
        let mounted = Command::new("mount").args(args).arg(&at).status().unwrap();
        assert!(mounted.success(), "mount {args:?}");
        Some(Self(at))
    }

    /// Mounts it anew with other options.
    pub fn change(&self, options: &str) {
        let changed = Command::new("mount").args(["-o", options]).arg(&self.0).status().unwrap();
        assert!(changed.success(), "mount -o {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
