//! The pieces of a pull, done one after another on one thread, and what each of them has cost.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{IoSlice, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cfs_dag::{
    layer::{
        split::{Piece, Splitter},
        verity::{self, SegmentDigests},
    },
    store::{
        AnyStore, Content, FilesystemBuilder, FsVerityHashValue, InitOptions, Sha512HashValue, Store,
        StreamWriter,
    },
    types::{Account, Budget, LayerKind, Slice},
};

use super::common::{self, BATCH_BYTES, Costs, Result, Tar};

type Id = Sha512HashValue;

/// As in the pull.
const BATCH_FILES: usize = 128;

/// All pieces of a pull.
#[derive(Default)]
pub struct Recorded {
    pub layers: Vec<Layer>,
    pub images: Vec<Image>,
}

/// A layer's pieces.
#[derive(Default)]
pub struct Layer {
    /// Bytes of the blob.
    pub size: u64,
    pub steps: Vec<Step>,
    pub finalize: Duration,
}

/// What one buffer of a tar takes.
#[derive(Default)]
pub struct Step {
    /// To read the blob, inflate and cut.
    pub split: Duration,
    /// To hash blob and tar.
    pub check: Duration,
    /// To hash and write files: jobs of their own.
    pub jobs: Vec<Duration>,
    /// To encode inline bytes and ids.
    pub encode: Duration,
}

/// A filesystem.
pub struct Image {
    /// Its layers, by their places in [`Recorded::layers`].
    pub layers: Vec<usize>,
    /// To build its tree and EROFS image, and to store that.
    pub build: Duration,
}

impl Recorded {
    /// Everything together.
    pub fn work(&self) -> Duration {
        let step = |step: &Step| step.split + step.check + step.encode + step.jobs.iter().sum::<Duration>();
        let layer = |layer: &Layer| layer.finalize + layer.steps.iter().map(step).sum::<Duration>();
        let builds = self.images.iter().map(|image| image.build);
        self.layers.iter().map(layer).chain(builds).sum()
    }

    /// The parts of the longest chain: no number of workers takes less than their sum.
    pub fn chain(&self) -> [(&'static str, Duration); 3] {
        let split = |at: &usize| self.layers[*at].steps.iter().map(|step| step.split).sum::<Duration>();
        let chains = self.images.iter().map(|image| {
            let layer = image.layers.iter().max_by_key(|at| split(at) + self.layers[**at].finalize);
            let (split, finalize) =
                layer.map(|at| (split(at), self.layers[*at].finalize)).unwrap_or_default();
            [("inflate and split", split), ("finalize", finalize), ("filesystem image", image.build)]
        });
        let length = |chain: &[(&str, Duration); 3]| chain.iter().map(|(_, cost)| *cost).sum::<Duration>();
        chains.max_by_key(length).unwrap_or_default()
    }
}

/// Pulls the images `tags` of `layout` into a new repository, piece by piece.
pub fn record(layout: &Path, dir: &Path, tags: &[String]) -> Result<Recorded> {
    let options = InitOptions { insecure: true, ..InitOptions::default() };
    let (AnyStore::Sha512(store), _) = cfs_dag::store::init(dir, &options)? else {
        return Err("not a SHA-512 repository".into());
    };
    let account = Budget::new(1 << 30).open(0, Arc::new(|| ())).ok_or("no memory")?;
    let (mut recorded, mut places, mut streams) =
        (Recorded::default(), HashMap::<PathBuf, usize>::new(), Vec::new());
    for tag in tags {
        let mut layers = Vec::new();
        for blob in common::layers(layout, tag)? {
            if !places.contains_key(&blob) {
                let (layer, stream) = Recorder::new(&store).layer(&blob, &account)?;
                places.insert(blob.clone(), streams.len());
                recorded.layers.push(layer);
                streams.push(stream);
            }
            layers.push(places[&blob]);
        }
        let build = build(&store, &layers, &streams)?;
        recorded.images.push(Image { layers, build });
    }
    Ok(recorded)
}

fn build(store: &Arc<Store<Id>>, layers: &[usize], streams: &[Id]) -> Result<Duration> {
    let mut entries = Vec::new();
    for at in layers {
        for entry in store.read_tree(&streams[*at])? {
            entries.push(entry?);
        }
    }
    time(|| {
        let mut builder = FilesystemBuilder::default();
        entries.into_iter().try_for_each(|entry| builder.add(entry))?;
        let filesystem = builder.finish()?;
        for format in store.formats() {
            let bytes = filesystem.erofs(format);
            store.put(&verity::digest(&[&bytes]), &[IoSlice::new(&bytes)])?;
        }
        Ok(())
    })
}

/// What `work` costs.
fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let mut costs = Costs::default();
    costs.time("work", work)?;
    Ok(costs.take().into_values().sum())
}

/// One layer under way.
struct Recorder<'a> {
    store: &'a Arc<Store<Id>>,
    costs: Costs,
    jobs: Vec<Duration>,
    /// Files of the next job, each with its place in the stream.
    batch: Vec<(usize, Vec<Slice>)>,
    /// A file of several segments, with its place in the stream.
    large: Option<(usize, Vec<SegmentDigests<Id>>, File)>,
    /// Items of the stream; objects by their number.
    items: Vec<StreamItem>,
    ids: BTreeMap<usize, Id>,
    objects: usize,
}

enum StreamItem {
    Inline(Slice),
    Object(usize, u64),
}

impl<'a> Recorder<'a> {
    fn new(store: &'a Arc<Store<Id>>) -> Self {
        Self {
            store,
            costs: Costs::default(),
            jobs: Vec::new(),
            batch: Vec::new(),
            large: None,
            items: Vec::new(),
            ids: BTreeMap::new(),
            objects: 0,
        }
    }

    fn layer(mut self, blob: &Path, account: &Account) -> Result<(Layer, Id)> {
        let (mut tar, mut splitter) = (Tar::open(blob)?, Splitter::<Id>::new(LayerKind::Tar, 0));
        let mut layer = Layer { size: std::fs::metadata(blob)?.len(), ..Layer::default() };
        let store = self.store.clone();
        let mut stream = StreamWriter::new(Content::Layer.code(), Box::new(move || store.spool()));
        let mut pieces = Vec::new();
        while let Some(slice) = tar.next(account, &mut self.costs)? {
            self.costs.time("split", || splitter.feed(&slice, &mut pieces))?;
            for piece in pieces.drain(..) {
                self.piece(piece)?;
            }
            self.small_files()?;
            self.encode(&mut stream)?;
            let costs = self.costs.take();
            let sum = |parts: &[&str]| parts.iter().filter_map(|part| costs.get(part)).sum();
            layer.steps.push(Step {
                split: sum(&["read", "inflate", "split"]),
                check: sum(&["sha256 of blob", "sha256 of tar"]),
                jobs: std::mem::take(&mut self.jobs),
                encode: sum(&["encode"]),
            });
        }
        let store = self.store;
        let mut id = Id::EMPTY;
        layer.finalize = time(|| {
            let mut bytes = Vec::new();
            stream.finish()?.read(|piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            id = verity::digest(&[&bytes]);
            store.put(&id, &[IoSlice::new(&bytes)])?;
            Ok(())
        })?;
        Ok((layer, id))
    }

    fn piece(&mut self, piece: Piece<Id>) -> Result<()> {
        match piece {
            Piece::Inline(bytes) => self.items.push(StreamItem::Inline(bytes)),
            Piece::File { size, parts } => {
                let object = self.object(size);
                self.batch.push((object, parts));
                let bytes: usize =
                    self.batch.iter().flat_map(|(_, parts)| parts).map(|part| part.len()).sum();
                if bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
                    self.small_files()?;
                }
            }
            Piece::Segment { size, index, parts } => self.segment(size, index, parts)?,
            // The stream has them, too.
            Piece::Entry(_) => {}
        }
        Ok(())
    }

    fn object(&mut self, size: u64) -> usize {
        self.items.push(StreamItem::Object(self.objects, size));
        self.objects += 1;
        self.objects - 1
    }

    fn small_files(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let (store, ids) = (self.store, &mut self.ids);
        let cost = time(|| {
            let parts: Vec<Vec<&[u8]>> =
                batch.iter().map(|(_, parts)| parts.iter().map(|part| &**part).collect()).collect();
            let files: Vec<&[&[u8]]> = parts.iter().map(Vec::as_slice).collect();
            for ((id, file), (object, _)) in
                verity::digest_many::<Id>(&files).into_iter().zip(files).zip(&batch)
            {
                let slices: Vec<IoSlice<'_>> = file.iter().map(|part| IoSlice::new(part)).collect();
                store.put(&id, &slices)?;
                ids.insert(*object, id);
            }
            Ok(())
        })?;
        self.jobs.push(cost);
        Ok(())
    }

    /// As in a first pull: each segment is written when it is hashed.
    fn segment(&mut self, size: u64, index: u64, parts: Vec<Slice>) -> Result<()> {
        let object = if index == 0 { Some(self.object(size)) } else { None };
        let (store, ids, large) = (self.store, &mut self.ids, &mut self.large);
        let cost = time(|| {
            if let Some(object) = object {
                *large = Some((object, Vec::new(), store.spool()?));
            }
            let Some((object, digests, file)) = large else { return Ok(()) };
            let bytes: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            digests.push(verity::segment(&bytes));
            bytes.iter().try_for_each(|part| file.write_all(part))?;
            if (index + 1) * verity::SEGMENT as u64 >= size {
                let id = verity::join(digests, size);
                store.put_file(&id, file.try_clone()?, size)?;
                ids.insert(*object, id);
                *large = None;
            }
            Ok(())
        })?;
        self.jobs.push(cost);
        Ok(())
    }

    /// Encodes as far as ids are known.
    fn encode(&mut self, stream: &mut StreamWriter<Id>) -> Result<()> {
        let (items, ids) = (&mut self.items, &self.ids);
        let known = items.iter().take_while(|item| match item {
            StreamItem::Inline(_) => true,
            StreamItem::Object(object, _) => ids.contains_key(object),
        });
        let ready: Vec<StreamItem> = {
            let count = known.count();
            items.drain(..count).collect()
        };
        self.costs.time("encode", || -> Result<()> {
            for item in &ready {
                match item {
                    StreamItem::Inline(bytes) => stream.inline(bytes)?,
                    StreamItem::Object(object, size) => stream.external(&ids[object], *size)?,
                }
            }
            Ok(())
        })
    }
}
