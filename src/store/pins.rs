//! Keeps a replaced stream alive until nothing tagged names it. Knows what gc follows; ignores
//! why streams are replaced.
//!
//! A manifest names its config's stream by id, and gc walks that stream only while some link in `streams/`
//! points to it. Replacing a config's link and then the manifests takes several steps; a kill and a gc in
//! between would cost a tagged image its config and filesystem image. So the old stream gets a second name
//! for that time. A layer that was another one than its name says is named by the images that took it
//! until they are pulled again.

use std::ffi::CString;

use composefs::fsverity::FsVerityHashValue;
use rustix::io::Errno;

use super::{
    Store, StoreError,
    barrier::Durable,
    beneath,
    links::{Link, STREAMS},
    stream::Opened,
};

const PREFIX: &str = "cfs-dag-kept-";

impl<H: FsVerityHashValue> Store<H> {
    /// Gives the stream `id`, which is about to lose its link, a second one.
    pub(super) fn keep<T>(&self, durable: &Durable<T>, id: &H) -> Result<(), StoreError> {
        // A broken stream keeps nothing alive, and a link to a missing object is a fault to fsck.
        if let Opened::Stream(_) = self.open_stream(id)? {
            self.make_link(durable, &kept_link(id))?;
        }
        Ok(())
    }

    /// Takes second names away again, also those that a killed run left, but for streams that a
    /// tagged image still names.
    pub(super) fn release_all(&self) -> Result<(), StoreError> {
        let fault = |errno| self.fault(STREAMS, errno);
        let names = beneath::names(self.root(), STREAMS).map_err(fault)?;
        let kept = |name: &CString| {
            let id = name.to_bytes().strip_prefix(PREFIX.as_bytes())?;
            H::from_hex(id).ok()
        };
        let kept: Vec<H> = names.iter().filter_map(kept).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let reached = self.read_reached()?;
        for id in kept.into_iter().filter(|id| !reached.contains(id)) {
            let path = kept_link(&id).path();
            match beneath::unlink(self.root(), &path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.fault(path, errno)),
            }
        }
        Ok(())
    }
}

fn kept_link<H: FsVerityHashValue>(id: &H) -> Link {
    Link::to_object(STREAMS, format!("{PREFIX}{}", id.to_hex()), id)
}
