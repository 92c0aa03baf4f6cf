//! Mounting an image. Knows what a kernel must have for it; ignores how upstream does it.

use std::path::Path;

use composefs::{fsverity::FsVerityHashValue, mount::MountOptions};
use rustix::{
    io::Errno,
    mount::{FsOpenFlags, fsconfig_set_string, fsopen},
};

use super::{Store, StoreError};

impl<H: FsVerityHashValue> Store<H> {
    /// Mounts an image's filesystem at `target`, read-only; in a secure repository so that the kernel checks
    /// every file that it reads (`verity=require` in its `Documentation/filesystems/overlayfs.rst`).
    ///
    /// # Errors
    /// Nothing of this name, an image without a filesystem image, or what the kernel
    /// refuses or does not know.
    pub fn mount_at(&self, name: &str, target: &Path) -> Result<(), StoreError> {
        self.require_inside()?;
        let is_artifact = self.artifact(&self.resolve(name)?)?.is_some();
        let shown = target.display();
        // Upstream's words for these two name neither the place nor what to do.
        if !target.is_dir() {
            return Err(StoreError::Refused(format!("{shown}: no such directory: make it first")));
        }
        if is_artifact {
            return Err(StoreError::Refused(format!("{name}: an artifact has no filesystem to mount")));
        }
        let image = self.open_image(name)?;
        let mounted = image.mount_at(&self.repo, false, target, &MountOptions::default());
        mounted.map_err(|error| match self.lacking() {
            Some(lacking) => StoreError::Refused(format!("mounting {name} at {shown}: {lacking}")),
            None => StoreError::upstream(format!("mounting {name} at {shown}"), &error),
        })
    }

    /// What a mount lacks here, after it has failed: the kernel's own word is but "invalid argument".
    fn lacking(&self) -> Option<&'static str> {
        let open = |filesystem: &str| fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC);
        match open("erofs") {
            Err(Errno::PERM) => return Some("not permitted: mounting needs root"),
            Err(Errno::NOSYS) => return Some("this kernel is too old: Linux 5.2 and newer can do it"),
            Err(Errno::NODEV) => return Some("this kernel has no erofs"),
            _ => {}
        }
        match open("overlay") {
            Err(Errno::NODEV) => Some("this kernel has no overlayfs"),
            Ok(overlay) if !self.is_insecure() => {
                let refused = || fsconfig_set_string(&overlay, "verity", "require") == Err(Errno::INVAL);
                (is_before_6_6() || refused()).then_some(
                    "the overlayfs of this kernel knows no verity=require (Linux 6.6 and newer do), without \
                     which nobody \
                     would check what is read: nothing was mounted",
                )
            }
            _ => None,
        }
    }
}

/// Whether the kernel is older than the option. The oldest take any option until they mount.
fn is_before_6_6() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version != (0, 0) && version < (6, 6)
}
