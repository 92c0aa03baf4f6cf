//! What a machine wrote to its disk, in order, and the disk as a power cut would have left it. Knows the log
//! of QEMU's `blklogwrites`; ignores filesystems.
//!
//! Source: the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst`, whose format QEMU uses.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{machine::copy_image, marks::TAIL};
use support::random::Random;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// What a disk writes as one, at least: larger requests may be torn.
const BLOCK: usize = 4096;

/// One request.
struct Entry {
    /// Where, in bytes.
    at: u64,
    flags: u64,
    /// Where its data is in the log, and how much.
    data: (u64, usize),
}

/// All requests of a machine's life.
pub struct WriteLog {
    log: File,
    entries: Vec<Entry>,
    /// Where marks begin.
    tail: u64,
}

/// What the disk's cache does at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// It loses nothing: what the machine has written is there.
    Kept,
    /// It loses everything that was not flushed.
    Lost,
    /// It has written some blocks of what was not flushed, and lost the others.
    Torn,
}

impl WriteLog {
    /// Reads the log of a disk of `size` bytes.
    pub fn read(path: &Path, size: u64) -> Self {
        let log = File::open(path).unwrap();
        let length = log.metadata().unwrap().len();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            log.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        assert_eq!(number(0), MAGIC, "this is no log of writes");
        let count = number(16);
        let (mut at, mut entries) = (SECTOR, Vec::new());
        // The count in the superblock is as of the last flush.
        while at + SECTOR <= length && (entries.len() as u64) < count {
            let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
            assert_eq!(flags & DISCARD, 0, "discarding is off");
            let bytes = usize::try_from(sectors * SECTOR).unwrap();
            entries.push(Entry { at: sector * SECTOR, flags, data: (at + SECTOR, bytes) });
            at += SECTOR + bytes as u64;
        }
        Self { log, entries, tail: size - TAIL }
    }

    /// How many requests there were.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the log was after so many requests, in bytes.
    pub fn bytes_at(&self, count: usize) -> u64 {
        self.entries[..count].last().map_or(SECTOR, |entry| entry.data.0 + entry.data.1 as u64)
    }

    /// How many requests had been made when each of the marks was left.
    pub fn marks(&self) -> Vec<usize> {
        let is_mark = |(number, entry): (usize, &Entry)| (self.is_mark(entry)).then_some(number + 1);
        self.entries.iter().enumerate().filter_map(is_mark).collect()
    }

    /// Copies the disk `before` (as it was when the machine began) to `to`, with what of the first `count`
    /// requests is there after a power cut. What a torn cache has written is chosen by `seed`.
    pub fn cut(&self, before: &Path, to: &Path, count: usize, cache: Cache, seed: u64) {
        copy_image(before, to);
        let disk = OpenOptions::new().write(true).open(to).unwrap();
        let done = &self.entries[..count];
        let flushed = done.iter().rposition(|entry| entry.flags & FLUSH != 0).unwrap_or(0);
        let mut random = Random(seed);
        for (number, entry) in done.iter().enumerate() {
            let mut data = vec![0; entry.data.1];
            self.log.read_exact_at(&mut data, entry.data.0).unwrap();
            let sure = number <= flushed || entry.flags & FUA != 0 || self.is_mark(entry);
            for (block, bytes) in data.chunks(BLOCK).enumerate() {
                let written = match cache {
                    _ if sure => true,
                    Cache::Kept => true,
                    Cache::Lost => false,
                    Cache::Torn => random.number().is_multiple_of(2),
                };
                if written {
                    disk.write_all_at(bytes, entry.at + (block * BLOCK) as u64).unwrap();
                }
            }
        }
        assert_eq!(fs::metadata(to).unwrap().len(), self.tail + TAIL);
    }

    fn is_mark(&self, entry: &Entry) -> bool {
        entry.data.1 > 0 && entry.at >= self.tail
    }
}
