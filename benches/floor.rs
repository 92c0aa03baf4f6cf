//! The floor of a pull: what the bytes cost with nothing around them. One thread reads each layer's blob, hashes it,
//! inflates, hashes the tar, digests each external file and writes each distinct one; nothing else.
//!
//! Usage: `floor LAYOUT TAG DIR [sha256]`: prints one line of JSON with the cpu seconds of each part and their sum.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cfs_dag::{
    layer::{
        inflate::Inflate,
        split::{Piece, Splitter},
        verity::{self, SegmentDigests},
    },
    store::{FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    types::{Account, Budget, LayerKind, Sha256, Slice},
};

const BUFFER: usize = 512 << 10;
const BATCH: usize = 256 << 10;

type Costs = BTreeMap<&'static str, Duration>;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo bench and cargo test pass flags of their own; without the three arguments there is nothing to measure.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let [layout, tag, dir, algorithm @ ..] = &args[..] else {
        println!("usage: floor LAYOUT TAG DIR [sha256]");
        return Ok(());
    };
    let blobs = layers(Path::new(layout), tag)?;
    let costs = match algorithm.first().map(String::as_str) {
        Some("sha256") => floor::<Sha256HashValue>(&blobs, Path::new(dir))?,
        _ => floor::<Sha512HashValue>(&blobs, Path::new(dir))?,
    };
    let sum: Duration = costs.values().sum();
    let mut parts: BTreeMap<&str, f64> =
        costs.iter().map(|(part, cost)| (*part, cost.as_secs_f64())).collect();
    parts.insert("sum", sum.as_secs_f64());
    println!("{}", serde_json::to_string(&parts)?);
    Ok(())
}

/// The blobs of an image's layers, each once.
fn layers(layout: &Path, tag: &str) -> Result<Vec<std::path::PathBuf>, Box<dyn Error>> {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read =
        |path| -> Result<serde_json::Value, Box<dyn Error>> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let index = read(layout.join("index.json"))?;
    let named = |entry: &&serde_json::Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
    let entries = index["manifests"].as_array().ok_or("no manifests")?;
    let digest =
        entries.iter().find(named).and_then(|entry| entry["digest"].as_str()).ok_or("no such tag")?;
    let manifest = read(blob(digest))?;
    let mut seen = HashSet::new();
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    let digests = layers.iter().filter_map(|layer| layer["digest"].as_str());
    Ok(digests.filter(|digest| seen.insert(digest.to_string())).map(blob).collect())
}

fn floor<H: FsVerityHashValue>(blobs: &[std::path::PathBuf], dir: &Path) -> Result<Costs, Box<dyn Error>> {
    let account = Budget::new(1 << 30).open(0, Arc::new(|| ())).ok_or("no memory")?;
    let mut run = Run { costs: Costs::new(), written: HashSet::<H>::new(), batch: Vec::new(), bytes: 0, dir };
    for n in 0..=255u8 {
        fs::create_dir_all(dir.join(format!("{n:02x}")))?;
    }
    for blob in blobs {
        run.layer(blob, &account)?;
    }
    Ok(run.costs)
}

struct Run<'a, H: FsVerityHashValue> {
    costs: Costs,
    written: HashSet<H>,
    batch: Vec<Vec<Slice>>,
    bytes: usize,
    dir: &'a Path,
}

impl<H: FsVerityHashValue> Run<'_, H> {
    fn layer(&mut self, blob: &Path, account: &Account) -> Result<(), Box<dyn Error>> {
        let mut file = File::open(blob)?;
        let (mut input, mut used, mut filled) = (vec![0; 256 << 10], 0, 0);
        let (mut inflate, mut splitter) = (Inflate::new(), Splitter::<H>::new(LayerKind::Tar, 0));
        let (mut blob_hash, mut tar_hash, mut pieces) = (Sha256::default(), Sha256::default(), Vec::new());
        let mut large: Option<(u64, Vec<SegmentDigests<H>>, File)> = None;
        let mut at_end = false;
        loop {
            let mut buffer = account.buffer(BUFFER).ok_or("no memory")?;
            let mut len = 0;
            let mut ended = false;
            while len < BUFFER && !ended {
                if used == filled && !at_end {
                    filled = timed(&mut self.costs, "read", || file.read(&mut input))?;
                    (used, at_end) = (0, filled == 0);
                    timed(&mut self.costs, "sha256 of blob", || blob_hash.update(&input[..filled]));
                }
                let step = || inflate.step(&input[used..filled], &mut buffer.bytes_mut()[len..], at_end);
                let progress = timed(&mut self.costs, "inflate", step)?;
                (used, len, ended) = (used + progress.consumed, len + progress.produced, progress.ended);
            }
            let slice = buffer.freeze(len);
            timed(&mut self.costs, "sha256 of tar", || tar_hash.update(&slice));
            timed(&mut self.costs, "split", || splitter.feed(&slice, &mut pieces))?;
            for piece in pieces.drain(..) {
                match piece {
                    Piece::File { parts, .. } => self.small(parts)?,
                    Piece::Segment { size, index, parts } => self.segment(size, index, &parts, &mut large)?,
                    Piece::Inline(_) | Piece::Entry(_) => {}
                }
            }
            self.flush()?;
            if ended {
                return Ok(());
            }
        }
    }

    fn small(&mut self, parts: Vec<Slice>) -> Result<(), Box<dyn Error>> {
        self.bytes += parts.iter().map(|part| part.len()).sum::<usize>();
        self.batch.push(parts);
        if self.bytes >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let parts: Vec<Vec<&[u8]>> =
            batch.iter().map(|file| file.iter().map(|part| &**part).collect()).collect();
        let files: Vec<&[&[u8]]> = parts.iter().map(Vec::as_slice).collect();
        let ids = timed(&mut self.costs, "fs-verity", || verity::digest_many::<H>(&files));
        for (id, file) in ids.into_iter().zip(files) {
            if self.written.insert(id.clone()) {
                let path = self.dir.join(id.to_object_pathname());
                timed(&mut self.costs, "write", || write(&path, file))?;
            }
        }
        Ok(())
    }

    /// A large file's segments are hashed and written as they come; its name is not part of the floor.
    fn segment(
        &mut self,
        size: u64,
        index: u64,
        parts: &[Slice],
        large: &mut Option<(u64, Vec<SegmentDigests<H>>, File)>,
    ) -> Result<(), Box<dyn Error>> {
        if index == 0 {
            let path = self.dir.join(format!("large-{}", self.written.len()));
            *large = Some((size, Vec::new(), File::create(path)?));
        }
        let Some((size, digests, file)) = large else { return Ok(()) };
        let bytes: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        digests.push(timed(&mut self.costs, "fs-verity", || verity::segment(&bytes)));
        timed(&mut self.costs, "write", || bytes.iter().try_for_each(|part| file.write_all(part)))?;
        if (index + 1) * verity::SEGMENT as u64 >= *size {
            self.written.insert(verity::join(digests, *size));
        }
        Ok(())
    }
}

fn write(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

fn timed<T>(costs: &mut Costs, part: &'static str, work: impl FnOnce() -> T) -> T {
    let begin = cpu_time();
    let result = work();
    *costs.entry(part).or_default() += cpu_time().saturating_sub(begin);
    result
}

/// The cpu time of this thread so far.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
