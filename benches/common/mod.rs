//! What the measuring programs share: the layers of an image, inflated buffer by buffer, every part of it timed.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use cfs_dag::{
    layer::inflate::Inflate,
    types::{Account, Sha256, Slice},
};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// As in the pull: bytes that are inflated in one step, that are read at once, and of small files that are a batch.
pub const TAR_BUFFER: usize = 512 << 10;
const BLOB_BUFFER: usize = 256 << 10;
pub const BATCH_BYTES: usize = 256 << 10;

/// The arguments; none when cargo's own test and bench runs start the program, which have nothing to measure.
pub fn arguments() -> Vec<String> {
    std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect()
}

/// The blobs of an image's layers, each once.
pub fn layers(layout: &Path, tag: &str) -> Result<Vec<PathBuf>> {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
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

/// Cpu time of this thread by part.
#[derive(Default)]
pub struct Costs(BTreeMap<&'static str, Duration>);

impl Costs {
    /// Does `work` and counts it as `part`.
    pub fn time<T>(&mut self, part: &'static str, work: impl FnOnce() -> T) -> T {
        let begin = cpu_time();
        let result = work();
        *self.0.entry(part).or_default() += cpu_time().saturating_sub(begin);
        result
    }

    /// What each part has cost since the last call.
    pub fn take(&mut self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut self.0)
    }
}

/// The cpu time of this thread so far.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A layer's tar, as it comes out of its blob. Parts: `read`, `sha256 of blob`, `inflate`, `sha256 of tar`.
pub struct Tar {
    file: File,
    input: Vec<u8>,
    used: usize,
    filled: usize,
    at_end: bool,
    ended: bool,
    inflate: Inflate,
    blob_hash: Sha256,
    tar_hash: Sha256,
}

impl Tar {
    pub fn open(blob: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(blob)?,
            input: vec![0; BLOB_BUFFER],
            used: 0,
            filled: 0,
            at_end: false,
            ended: false,
            inflate: Inflate::new(),
            blob_hash: Sha256::default(),
            tar_hash: Sha256::default(),
        })
    }

    /// The next buffer; none after the end.
    pub fn next(&mut self, account: &Account, costs: &mut Costs) -> Result<Option<Slice>> {
        if self.ended {
            return Ok(None);
        }
        let mut buffer = account.buffer(TAR_BUFFER).ok_or("no memory")?;
        let mut len = 0;
        while len < TAR_BUFFER && !self.ended {
            if self.used == self.filled && !self.at_end {
                self.filled = costs.time("read", || self.file.read(&mut self.input))?;
                (self.used, self.at_end) = (0, self.filled == 0);
                costs.time("sha256 of blob", || self.blob_hash.update(&self.input[..self.filled]));
            }
            let input = &self.input[self.used..self.filled];
            let step = || self.inflate.step(input, &mut buffer.bytes_mut()[len..], self.at_end);
            let progress = costs.time("inflate", step)?;
            self.used += progress.consumed;
            len += progress.produced;
            self.ended = progress.ended;
        }
        let slice = buffer.freeze(len);
        costs.time("sha256 of tar", || self.tar_hash.update(&slice));
        Ok(Some(slice))
    }
}
