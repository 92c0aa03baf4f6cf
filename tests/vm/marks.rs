//! Marks on a disk, behind its filesystem: what had been reported when the disk stopped. Knows where they
//! are; ignores how a disk stops.
//!
//! A mark goes straight to the device, between the filesystem's own writes, so a copy of the disk as it was
//! at any moment says itself what has to be there.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What is behind the filesystem, in bytes.
pub const TAIL: u64 = 1 << 20;
/// The first place is for who made the disk, the others for the machine.
const SIZE: usize = 4096;
const PLACES: u64 = TAIL / SIZE as u64;

/// What the tags had to be at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// What was done last.
    pub step: String,
    /// The repository is without fs-verity.
    pub insecure: bool,
    /// A run that has ended well made these, and none since may have taken them away.
    pub there: Vec<String>,
    /// A run that has ended well took these away, and none since may have made them.
    pub gone: Vec<String>,
}

/// A block of memory as devices want it.
#[repr(align(4096))]
struct Block([u8; SIZE]);

/// The marks of a machine that runs.
pub struct Marks {
    device: File,
    next: u64,
}

impl Marks {
    pub fn open(device: &Path) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        Self { device: options.open(device).unwrap(), next: 1 }
    }

    /// Leaves a mark.
    pub fn leave(&mut self, mark: &Reported) {
        assert!(self.next < PLACES);
        let mut block = Block([0; SIZE]);
        let text = serde_json::to_vec(mark).unwrap();
        block.0[..text.len()].copy_from_slice(&text);
        let start = tail(&mut self.device);
        self.device.write_all_at(&block.0, start + self.next * SIZE as u64).unwrap();
        self.next += 1;
    }
}

/// The last mark of a disk; none if it stopped before the first.
pub fn last(disk: &Path) -> Option<Reported> {
    read(disk).1.into_iter().map_while(parsed).last()
}

/// Says on a disk that does not run what it is.
pub fn label(disk: &Path, text: &str) {
    let mut file = OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let start = tail(&mut file);
    file.write_all_at(&serde_json::to_vec(text).unwrap(), start).unwrap();
}

/// What [`label`] has said.
pub fn labelled(disk: &Path) -> String {
    parsed(read(disk).0).unwrap_or_default()
}

/// The first place and the others.
fn read(disk: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut file = File::open(disk).unwrap_or_else(|error| panic!("{}: {error}", disk.display()));
    let start = tail(&mut file);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let mut places = bytes.chunks(SIZE).map(<[u8]>::to_vec);
    (places.next().unwrap(), places.collect())
}

fn parsed<T: DeserializeOwned>(place: Vec<u8>) -> Option<T> {
    let text = place.split(|byte| *byte == 0).next()?;
    serde_json::from_slice(text).ok()
}

fn tail(disk: &mut File) -> u64 {
    disk.seek(SeekFrom::End(0)).unwrap() - TAIL
}
