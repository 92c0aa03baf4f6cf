//! The image step: a filesystem out of layers, and its EROFS images. Knows where entries are; upstream's
//! rules for merging them are behind the store.

use std::{
    io::IoSlice,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use composefs::{fsverity::FsVerityHashValue, tree::LeafContent};

use super::{
    context::Context,
    entries::{self, Collected},
    layer::Layer,
};
use crate::{
    exec::{Actor, CpuTask, Failure, Step, Ticket},
    graph::Key,
    layer::{
        entry::{Entry, Item, xattrs_footprint},
        verity,
    },
    store::{
        FilesystemBuilder, FilesystemError, FsImages, Output, Record, Store, StoreError, TarEntry, TarItem,
    },
    types::{Ambiguity, Digest, Limit, LimitExceeded, Limits, Wake},
};

/// One filesystem, for all images that have these layers.
pub(super) struct FsBuild<H: FsVerityHashValue> {
    key: Key,
    /// Bottom first.
    layers: Vec<Arc<Layer<H>>>,
    images: Mutex<Option<FsImages<H>>>,
    /// Who builds it; kept here, since a waker does not keep its actor.
    pub(super) actor: OnceLock<Actor>,
    /// Of how many layers, from the bottom, the collected entries are needed no more.
    used: AtomicUsize,
}

/// The building of one filesystem, when there is room for its tree.
pub(super) struct BuildTask<H: FsVerityHashValue> {
    context: Arc<Context<H>>,
    tree: Arc<FsBuild<H>>,
    ticket: Option<Ticket>,
    /// Wakes this task when another build has ended.
    wake: Wake,
    released: Option<Released<H>>,
}

impl<H: FsVerityHashValue> BuildTask<H> {
    pub(super) fn new(context: Arc<Context<H>>, tree: &Arc<FsBuild<H>>, ticket: Ticket, wake: Wake) -> Self {
        let released = Some(tree.released_at_end());
        Self { context, tree: tree.clone(), ticket: Some(ticket), wake, released }
    }
}

impl<H: FsVerityHashValue> CpuTask for BuildTask<H> {
    fn step(&mut self) -> Step {
        let Some(ticket) = self.ticket.take() else { return Step::Done };
        if ticket.cancel().is_raised() {
            self.released = None;
            ticket.cancelled();
            return Step::Done;
        }
        let Some(_place) = self.context.builds.enter(self.tree.footprint(), self.wake.clone()) else {
            self.ticket = Some(ticket);
            return Step::Idle;
        };
        ticket.begin();
        let result = self.tree.build(&self.context);
        self.released = None;
        ticket.finish(result);
        Step::Done
    }
}

/// Why a filesystem was not built.
#[derive(Debug, thiserror::Error)]
enum TreeError {
    #[error("{0}")]
    Filesystem(#[from] FilesystemError),
    #[error("layer {place} of {count} (diff_id sha256:{}…): {error}", .diff_id.short())]
    Layer { place: usize, count: usize, diff_id: Digest, error: FilesystemError },
    #[error("layer {place} of {count} (diff_id sha256:{}…): {}", .diff_id.short(), .first.refusal())]
    Ambiguous { place: usize, count: usize, diff_id: Digest, first: Ambiguity },
    #[error("layers 1 to {place} of {count} together: {error}")]
    Limit { place: usize, count: usize, error: LimitExceeded },
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("a layer has no stream (a defect in this program, please report it)")]
    NoStream,
}

impl<H: FsVerityHashValue> FsBuild<H> {
    /// A filesystem to be built, or one that is `known`.
    pub(super) fn new(key: Key, layers: Vec<Arc<Layer<H>>>, known: Option<FsImages<H>>) -> Self {
        Self { key, layers, images: Mutex::new(known), actor: OnceLock::new(), used: AtomicUsize::new(0) }
    }

    /// Gives back the layers' collected entries, unless another filesystem is to be built from them.
    pub(super) fn release(&self) {
        let used = self.used.swap(self.layers.len(), Ordering::SeqCst);
        self.layers[used..].iter().for_each(|layer| drop(layer.use_tree()));
    }

    /// The collected entries of the layer at `place`, each but once, from the bottom.
    fn entries(&self, place: usize) -> Option<Collected<H>> {
        self.used.compare_exchange(place, place + 1, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        self.layers[place].use_tree()
    }

    /// Releases them when dropped: the filesystem is built, or never will be.
    pub(super) fn released_at_end(self: &Arc<Self>) -> Released<H> {
        Released(self.clone())
    }

    /// The ids of its EROFS images, once they are stored.
    pub(super) fn images(&self) -> Option<FsImages<H>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// About how many bytes building it takes, if its entries are known; else more than anyone has to spare.
    fn footprint(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.build_footprint());
        layers.sum::<Option<usize>>().unwrap_or(usize::MAX / 2)
    }

    /// Builds it and stores its EROFS images.
    fn build(&self, context: &Context<H>) -> Result<(), Failure> {
        Ok(self.try_build(&context.store, &context.limits)?)
    }

    fn try_build(&self, store: &Store<H>, limits: &Limits) -> Result<(), TreeError> {
        let start = Instant::now();
        let mut growing = Growing { builder: FilesystemBuilder::default(), entries: 0, metadata: 0, limits };
        for place in 0..self.layers.len() {
            self.add(store, place, &mut growing)?;
            self.judge(store, place, growing.builder.ambiguities())?;
        }
        let filesystem = growing.builder.finish()?;
        let (mut images, mut outputs) = (FsImages::default(), Vec::new());
        for format in store.formats() {
            let bytes = filesystem.erofs(format);
            let id: H = verity::digest(&[&bytes]);
            store.put(&id, &[IoSlice::new(&bytes)])?;
            outputs.push(Output { id: id.to_hex(), size: bytes.len() as u64 });
            images.set(format, id);
        }
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = Some(images);
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = Record { kind: "image".to_owned(), outputs, millis, ..Record::default() };
        // Without the record the next run builds this again, and gets the same.
        let _ = store.remember(&self.key.hex(), &record);
        Ok(())
    }

    /// Refuses what is ambiguous in a layer, or notes it if an image takes the layer as upstream does.
    fn judge(&self, store: &Store<H>, place: usize, found: &[Ambiguity]) -> Result<(), TreeError> {
        let layer = &self.layers[place];
        let Some(first) = found.first() else { return Ok(()) };
        if !layer.as_upstream {
            let (count, diff_id, first) = (self.layers.len(), layer.name, first.clone());
            return Err(TreeError::Ambiguous { place: place + 1, count, diff_id, first });
        }
        layer.add_ambiguities(found);
        Ok(store.note_ambiguities(&layer.name, found)?)
    }

    /// Applies a layer: from memory if its entries were collected, else read back from its stream.
    fn add(&self, store: &Store<H>, place: usize, growing: &mut Growing<'_, H>) -> Result<(), TreeError> {
        let layer = &self.layers[place];
        let (place_of, count) = (place + 1, self.layers.len());
        growing.builder.begin_layer();
        let mut add = |entry| {
            growing.add(entry).map_err(|error| match error {
                AddError::Limit(error) => TreeError::Limit { place: place_of, count, error },
                AddError::Entry(error) => {
                    TreeError::Layer { place: place_of, count, diff_id: layer.name, error }
                }
            })
        };
        match self.entries(place) {
            Some(tree) => entries::for_each(tree, |entry| add(tar_entry(entry))),
            None => {
                let id = layer.id().ok_or(TreeError::NoStream)?;
                store.read_tree(&id)?.try_for_each(|entry| add(entry?))
            }
        }
    }
}

/// A filesystem in the making, as large as limits allow. A layer that an image has twice counts twice:
/// upstream's tree keeps what was replaced until it is whole.
struct Growing<'a, H: FsVerityHashValue> {
    builder: FilesystemBuilder<H>,
    entries: u64,
    metadata: u64,
    limits: &'a Limits,
}

enum AddError {
    Limit(LimitExceeded),
    Entry(FilesystemError),
}

impl<H: FsVerityHashValue> Growing<'_, H> {
    fn add(&mut self, entry: TarEntry<H>) -> Result<(), AddError> {
        self.entries += 1;
        self.metadata += metadata(&entry);
        self.check()?;
        // Layers that others have stored were not measured when they were split. The slash
        // before is not the tar's.
        let path = entry.path.as_os_str().len().saturating_sub(1);
        self.limits.check(Limit::Path, path as u64).map_err(AddError::Limit)?;
        self.builder.add(entry).map_err(AddError::Entry)?;
        // Parents that were made cost what entries cost. One path cannot make too many.
        self.check()
    }

    fn check(&self) -> Result<(), AddError> {
        let made = self.builder.made_parents();
        let entries = self.limits.check(Limit::Entries, self.entries + made.entries);
        let metadata = self.limits.check(Limit::Metadata, self.metadata + made.path_bytes);
        entries.and(metadata).map_err(AddError::Limit)
    }
}

/// Bytes of an entry's path, which has a slash that is not the tar's, link target and extended attributes, as
/// [`Limit::Metadata`] counts them.
fn metadata<H: FsVerityHashValue>(entry: &TarEntry<H>) -> u64 {
    let target = match &entry.item {
        TarItem::Hardlink(target) => target.len(),
        TarItem::Leaf(LeafContent::Symlink(target)) => target.len(),
        _ => 0,
    };
    (entry.path.as_os_str().len().saturating_sub(1) + target + xattrs_footprint(&entry.stat)) as u64
}

/// See [`FsBuild::released_at_end`].
pub(super) struct Released<H: FsVerityHashValue>(Arc<FsBuild<H>>);

impl<H: FsVerityHashValue> Drop for Released<H> {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn tar_entry<H: FsVerityHashValue>(entry: Entry<H>) -> TarEntry<H> {
    let item = match entry.item {
        Item::Directory => TarItem::Directory,
        Item::Leaf(content) => TarItem::Leaf(content),
        Item::Hardlink(target) => TarItem::Hardlink(target),
    };
    TarEntry { path: entry.path, stat: entry.stat, item }
}
