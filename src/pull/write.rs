//! The write step: files are hashed in memory first, and only those that the repository lacks are written.
//! Knows files and segments; ignores tar and streams.
//!
//! Small files go in batches, so that their blocks share the hash's SIMD lanes. A file of several segments is
//! hashed by as many workers as are free; it is kept until its id is known if the repository may have it and
//! the budget has room for all of it, and written to an anonymous file meanwhile if not.

use std::{
    fs::File,
    io::IoSlice,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use composefs::fsverity::FsVerityHashValue;

use super::{
    flow::Id,
    layer::{Attempt, Layer},
};
use crate::{
    exec::{Failure, Pool, Priority},
    layer::verity::{self, SEGMENT, SegmentDigests},
    store::{Put, Store, StoreError},
    types::{Hold, Slice},
};

/// Bytes and files that make a batch worth a job.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FILES: usize = 128;

/// Hands out the write jobs of one attempt.
pub(super) struct Writer<H: FsVerityHashValue> {
    pub(super) store: Arc<Store<H>>,
    pub(super) layer: Arc<Layer<H>>,
    pub(super) attempt: Arc<Attempt<H>>,
    pub(super) pool: Pool,
    pub(super) priority: Priority,
    batch: Vec<SmallFile<H>>,
    batch_bytes: usize,
    large: Option<Arc<LargeFile<H>>>,
}

struct SmallFile<H> {
    id: Id<H>,
    parts: Vec<Slice>,
}

/// A file of several segments.
struct LargeFile<H> {
    id: Id<H>,
    size: u64,
    digests: Mutex<Vec<Option<SegmentDigests<H>>>>,
    missing: AtomicU64,
    place: Place,
}

/// Where a large file's bytes are until its id is known.
enum Place {
    /// In memory, under a hold of its size.
    Memory { parts: Mutex<Vec<Vec<Slice>>>, _hold: Hold },
    /// In an anonymous file of the repository's filesystem.
    Spool(Mutex<Option<File>>),
}

impl<H: FsVerityHashValue> Writer<H> {
    pub(super) fn new(
        store: Arc<Store<H>>,
        layer: Arc<Layer<H>>,
        attempt: Arc<Attempt<H>>,
        pool: Pool,
        priority: Priority,
    ) -> Self {
        Self { store, layer, attempt, pool, priority, batch: Vec::new(), batch_bytes: 0, large: None }
    }

    /// Takes a whole file.
    pub(super) fn file(&mut self, id: Id<H>, parts: Vec<Slice>) {
        self.batch_bytes += parts.iter().map(|p| p.len()).sum::<usize>();
        self.batch.push(SmallFile { id, parts });
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.flush();
        }
    }

    /// Takes the first segment of a file of `size` bytes, and with it the file's id to be.
    ///
    /// # Errors
    /// No anonymous file can be made.
    pub(super) fn first_segment(
        &mut self,
        id: Id<H>,
        size: u64,
        parts: Vec<Slice>,
        memory_max: u64,
    ) -> Result<(), StoreError> {
        let segments = size.div_ceil(SEGMENT as u64);
        let hold = if size <= memory_max { self.attempt.account.hold(size as usize) } else { None };
        let place = match hold {
            Some(hold) => {
                let parts = Mutex::new(vec![Vec::new(); segments as usize]);
                Place::Memory { parts, _hold: hold }
            }
            None => Place::Spool(Mutex::new(Some(self.spool()?))),
        };
        // Grows as segments come: a header may claim any size.
        let digests = Mutex::new(Vec::new());
        let missing = AtomicU64::new(segments);
        self.large = Some(Arc::new(LargeFile { id, size, digests, missing, place }));
        self.next_segment(0, parts);
        Ok(())
    }

    /// Takes a further segment of the file that was begun last.
    pub(super) fn next_segment(&mut self, index: u64, parts: Vec<Slice>) {
        // After the last segment only the jobs keep the file, and the memory that it holds.
        let last = |file: &mut Arc<LargeFile<H>>| (index + 1) * SEGMENT as u64 >= file.size;
        let Some(file) = self.large.take_if(last).or_else(|| self.large.clone()) else { return };
        self.job(move |store, layer| segment(store, layer, &file, index, parts));
    }

    /// Hands out what is still being gathered.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.job(move |store, layer| small_files(store, layer, &batch));
    }

    fn spool(&self) -> Result<File, StoreError> {
        self.store.spool().map_err(|cause| self.store.explain("making a temporary file", cause))
    }

    fn job(&self, work: impl FnOnce(&Store<H>, &Layer<H>) -> Result<(), StoreError> + Send + 'static) {
        self.attempt.writers.fetch_add(1, Ordering::SeqCst);
        let job = Job { layer: self.layer.clone(), attempt: self.attempt.clone(), ended: false };
        let store = self.store.clone();
        self.pool.spawn(self.priority, move || {
            let result = work(&store, &job.layer);
            job.end(result.map_err(Failure::from));
        });
    }
}

/// Counts as a writer until it has ended, also by a panic.
struct Job<H: FsVerityHashValue> {
    layer: Arc<Layer<H>>,
    attempt: Arc<Attempt<H>>,
    ended: bool,
}

impl<H: FsVerityHashValue> Job<H> {
    fn end(mut self, result: Result<(), Failure>) {
        self.ended = true;
        self.layer.writer_ended(&self.attempt, result);
        self.layer.wake_encode();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a write job panicked (a defect in this program, please report it)")]
struct Panicked;

impl<H: FsVerityHashValue> Drop for Job<H> {
    fn drop(&mut self) {
        if !self.ended {
            self.layer.writer_ended(&self.attempt, Err(Panicked.into()));
        }
    }
}

fn small_files<H: FsVerityHashValue>(
    store: &Store<H>,
    layer: &Layer<H>,
    batch: &[SmallFile<H>],
) -> Result<(), StoreError> {
    let parts: Vec<Vec<&[u8]>> = batch.iter().map(|f| f.parts.iter().map(|p| &**p).collect()).collect();
    let files: Vec<&[&[u8]]> = parts.iter().map(|p| p.as_slice()).collect();
    let ids = verity::digest_many::<H>(&files);
    for (file, id) in batch.iter().zip(&ids) {
        // Set once only: an id belongs to one file of one attempt.
        let _ = file.id.set(id.clone());
    }
    layer.wake_encode();
    for (file, id) in parts.iter().zip(&ids) {
        let slices: Vec<IoSlice<'_>> = file.iter().map(|p| IoSlice::new(p)).collect();
        let size = file.iter().map(|p| p.len() as u64).sum();
        count(layer, store.put(id, &slices)?, size);
    }
    Ok(())
}

fn segment<H: FsVerityHashValue>(
    store: &Store<H>,
    layer: &Layer<H>,
    file: &LargeFile<H>,
    index: u64,
    parts: Vec<Slice>,
) -> Result<(), StoreError> {
    let bytes: Vec<&[u8]> = parts.iter().map(|p| &**p).collect();
    let digests = verity::segment::<H>(&bytes);
    {
        let mut all = file.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = all.len().max(index as usize + 1);
        all.resize_with(needed, || None);
        all[index as usize] = Some(digests);
    }
    match &file.place {
        Place::Memory { parts: kept, .. } => {
            kept.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = parts;
        }
        Place::Spool(spool) => write_segment(store, spool, index, &bytes)?,
    }
    if file.missing.fetch_sub(1, Ordering::SeqCst) > 1 {
        return Ok(());
    }
    complete(store, layer, file)
}

fn write_segment<H: FsVerityHashValue>(
    store: &Store<H>,
    spool: &Mutex<Option<File>>,
    index: u64,
    bytes: &[&[u8]],
) -> Result<(), StoreError> {
    let clone = spool.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(File::try_clone);
    let Some(clone) = clone else { return Ok(()) };
    let mut offset = index * SEGMENT as u64;
    let write = || -> std::io::Result<()> {
        let file = clone?;
        for part in bytes {
            file.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    };
    write().map_err(|cause| store.explain("writing a large file", cause))
}

fn complete<H: FsVerityHashValue>(
    store: &Store<H>,
    layer: &Layer<H>,
    file: &LargeFile<H>,
) -> Result<(), StoreError> {
    let digests = std::mem::take(&mut *file.digests.lock().unwrap_or_else(PoisonError::into_inner));
    let digests: Vec<SegmentDigests<H>> = digests.into_iter().flatten().collect();
    let id = verity::join(&digests, file.size);
    let _ = file.id.set(id.clone());
    layer.wake_encode();
    let put = match &file.place {
        Place::Memory { parts, .. } => {
            let parts = std::mem::take(&mut *parts.lock().unwrap_or_else(PoisonError::into_inner));
            let slices: Vec<IoSlice<'_>> = parts.iter().flatten().map(|p| IoSlice::new(p)).collect();
            store.put(&id, &slices)?
        }
        Place::Spool(spool) => {
            let Some(spool) = spool.lock().unwrap_or_else(PoisonError::into_inner).take() else {
                return Ok(());
            };
            store.put_file(&id, spool, file.size)?
        }
    };
    count(layer, put, file.size);
    Ok(())
}

fn count<H: FsVerityHashValue>(layer: &Layer<H>, put: Put, size: u64) {
    match put {
        Put::New | Put::Replaced => {
            layer.counts.objects_new.fetch_add(1, Ordering::Relaxed);
            layer.wrote(size);
        }
        Put::Present => {
            layer.counts.objects_present.fetch_add(1, Ordering::Relaxed);
        }
    }
}
