//! Keeps a replaced config alive until nothing tagged names it. Knows what gc follows; ignores why configs are
//! replaced.
//!
//! A manifest names its config's stream by id, and gc walks that stream only while some link in `streams/` points
//! to it. Replacing a config's link and then the manifests takes several steps; a kill and a gc in between would
//! cost a tagged image its config and filesystem image. So the old stream gets a second name for that time.

use composefs::fsverity::FsVerityHashValue;
use rustix::{
    fs::{AtFlags, unlinkat},
    io::Errno,
};

use super::{
    Store, StoreError,
    barrier::Durable,
    calls,
    links::{Link, STREAMS},
    stream::Opened,
};

const PREFIX: &str = "cfs-dag-kept-";

impl<H: FsVerityHashValue> Store<H> {
    /// Gives the config stream `id`, which is about to lose its link, a second one.
    pub(super) fn keep<T>(&self, durable: &Durable<T>, id: &H) -> Result<(), StoreError> {
        // A broken stream keeps nothing alive, and a link to a missing object is a fault to fsck.
        if let Opened::Stream(_) = self.open_stream(id)? {
            self.make_link(durable, &kept_link(id))?;
        }
        Ok(())
    }

    /// Takes the second name away again, unless a tagged manifest still names the stream; true if it is gone.
    pub(super) fn release(&self, id: &H) -> Result<bool, StoreError> {
        if self.read_reached()?.contains(id) {
            return Ok(false);
        }
        match unlinkat(self.root(), kept_link(id).path(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(self.fault(kept_link(id).path(), errno)),
        }
    }

    /// Second names that a killed run left.
    pub(super) fn release_all(&self) -> Result<(), StoreError> {
        let fault = |errno| self.fault(STREAMS, errno);
        let dir = match super::scratch::open_dir(self.root(), STREAMS) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(fault(errno)),
        };
        for entry in calls::entries(dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let id = entry.file_name().to_bytes().strip_prefix(PREFIX.as_bytes());
            if let Some(id) = id.and_then(|digits| H::from_hex(digits).ok()) {
                self.release(&id)?;
            }
        }
        Ok(())
    }
}

fn kept_link<H: FsVerityHashValue>(id: &H) -> Link {
    Link::to_object(STREAMS, format!("{PREFIX}{}", id.to_hex()), id)
}
