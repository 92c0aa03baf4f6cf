//! The floor of a pull: what the bytes cost with nothing around them. One thread reads each layer's blob, hashes it,
//! inflates, hashes the tar, digests each external file and writes each distinct one; nothing else.
//!
//! Usage: `floor LAYOUT TAG DIR [sha256]`: prints one line of JSON with the cpu seconds of each part and their sum.

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};

use cfs_dag::{
    layer::{
        split::{Piece, Splitter},
        verity::{self, SegmentDigests},
    },
    store::{FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    types::{Account, Budget, LayerKind, Slice},
};
use common::{BATCH_BYTES, Costs, Result, Tar};

fn main() -> Result<()> {
    let args = common::arguments();
    let [layout, tag, dir, algorithm @ ..] = &args[..] else {
        println!("usage: floor LAYOUT TAG DIR [sha256]");
        return Ok(());
    };
    let blobs = common::layers(Path::new(layout), tag)?;
    let mut costs = match algorithm.first().map(String::as_str) {
        Some("sha256") => floor::<Sha256HashValue>(&blobs, Path::new(dir))?,
        _ => floor::<Sha512HashValue>(&blobs, Path::new(dir))?,
    };
    let seconds = |cost: &Duration| (cost.as_secs_f64() * 1e6).round() / 1e6;
    let costs = costs.take();
    let mut parts: BTreeMap<&str, f64> = costs.iter().map(|(part, cost)| (*part, seconds(cost))).collect();
    parts.insert("sum", seconds(&costs.values().sum()));
    println!("{}", serde_json::to_string(&parts)?);
    Ok(())
}

fn floor<H: FsVerityHashValue>(blobs: &[std::path::PathBuf], dir: &Path) -> Result<Costs> {
    let account = Budget::new(1 << 30).open(0, Arc::new(|| ())).ok_or("no memory")?;
    let mut run =
        Run { costs: Costs::default(), written: HashSet::<H>::new(), batch: Vec::new(), bytes: 0, dir };
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
    fn layer(&mut self, blob: &Path, account: &Account) -> Result<()> {
        let (mut tar, mut splitter) = (Tar::open(blob)?, Splitter::<H>::new(LayerKind::Tar, 0));
        let mut pieces = Vec::new();
        let mut large: Option<(u64, Vec<SegmentDigests<H>>, File)> = None;
        while let Some(slice) = tar.next(account, &mut self.costs)? {
            // No cost of the floor's own: who finds the files by their offsets needs no splitter.
            splitter.feed(&slice, &mut pieces)?;
            for piece in pieces.drain(..) {
                match piece {
                    Piece::File { parts, .. } => self.small(parts)?,
                    Piece::Segment { size, index, parts } => self.segment(size, index, &parts, &mut large)?,
                    Piece::Inline(_) | Piece::Entry(_) => {}
                }
            }
            self.flush()?;
        }
        Ok(())
    }

    fn small(&mut self, parts: Vec<Slice>) -> Result<()> {
        self.bytes += parts.iter().map(|part| part.len()).sum::<usize>();
        self.batch.push(parts);
        if self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let parts: Vec<Vec<&[u8]>> =
            batch.iter().map(|file| file.iter().map(|part| &**part).collect()).collect();
        let files: Vec<&[&[u8]]> = parts.iter().map(Vec::as_slice).collect();
        let ids = self.costs.time("fs-verity", || verity::digest_many::<H>(&files));
        for (id, file) in ids.into_iter().zip(files) {
            if self.written.insert(id.clone()) {
                let path = self.dir.join(id.to_object_pathname());
                self.costs.time("write", || write(&path, file))?;
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
    ) -> Result<()> {
        if index == 0 {
            let path = self.dir.join(format!("large-{}", self.written.len()));
            *large = Some((size, Vec::new(), File::create(path)?));
        }
        let Some((size, digests, file)) = large else { return Ok(()) };
        let bytes: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        digests.push(self.costs.time("fs-verity", || verity::segment(&bytes)));
        self.costs.time("write", || bytes.iter().try_for_each(|part| file.write_all(part)))?;
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
