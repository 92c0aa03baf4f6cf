//! fs-verity digests: 4096-byte blocks, no salt. Knows Merkle trees; ignores files, repositories, and
//! how hashing is made fast.
//!
//! A file's blocks are hashed, their digests are packed into blocks and hashed again, until one digest is
//! left; that one and the size make the descriptor, whose digest is the file's. Only chains of parents wait
//! for one another, so each level of all files at hand goes as one wave through the lanes of `lanes.rs`,
//! blocks of all files side by side.
//! Source: kernel doc, filesystems/fsverity, "Merkle tree" and "fs-verity descriptor".
//!
//! Blocks of zeros have no shortcut: they were 0.25 % of the blocks of a Debian `/usr`.

mod constants;
mod cpu;
mod lanes;
mod portable;
#[cfg(target_arch = "x86_64")]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use composefs::fsverity::{Algorithm, FsVerityHashValue};
use zerocopy::IntoBytes;

use cpu::Kernels;
use lanes::{BLOCK, Length, Wave};

/// Bytes of a file that are hashed as one unit of work: whole blocks of whole level-1
/// nodes for both algorithms.
pub const SEGMENT: usize = 1 << 20;

/// The file's fs-verity digest, of the concatenation of `parts`.
///
/// Empty input has a defined digest. Source: kernel doc, filesystems/fsverity, "Merkle tree".
pub fn digest<H: FsVerityHashValue>(parts: &[&[u8]]) -> H {
    let mut digest = H::EMPTY;
    digest_into(kernels::<H>(), &[parts], std::slice::from_mut(&mut digest));
    digest
}

/// The digests of many small files at once, in order: their blocks share the SIMD lanes.
pub fn digest_many<H: FsVerityHashValue>(files: &[&[&[u8]]]) -> Vec<H> {
    let mut digests = vec![H::EMPTY; files.len()];
    digest_into(kernels::<H>(), files, &mut digests);
    digests
}

/// What remains of one segment of a large file for the tree.
pub struct SegmentDigests<H>(Kept<H>);

enum Kept<H> {
    /// The digest of a segment's only block: of a file's only block it is the root, else a level-1 node
    /// covers it. Only [`join`] knows which.
    Block(H),
    /// The level-1 digests; none of an empty segment.
    Nodes(Vec<H>),
}

/// Hashes one segment of a file: exactly [`SEGMENT`] bytes, or fewer for the last one.
/// Panics if there are more.
pub fn segment<H: FsVerityHashValue>(parts: &[&[u8]]) -> SegmentDigests<H> {
    segment_with(kernels::<H>(), parts)
}

/// Joins the segments of a file, given in order, into its digest. `size` is the file's length in bytes.
///
/// Panics if the segments cannot be those of a file of this size: the digest would be a wrong name.
pub fn join<H: FsVerityHashValue>(segments: &[SegmentDigests<H>], size: u64) -> H {
    join_with(kernels::<H>(), segments, size)
}

fn segment_with<H: FsVerityHashValue>(kernels: &'static Kernels, parts: &[&[u8]]) -> SegmentDigests<H> {
    assert!(length(parts) <= SEGMENT as u64, "a segment is longer than {SEGMENT} bytes");
    let mut level = Level::<H>::of_blocks(kernels, &[parts]);
    if level.digests.len() > 1 {
        level = level.up(kernels);
        return SegmentDigests(Kept::Nodes(level.digests));
    }
    SegmentDigests(level.digests.pop().map_or(Kept::Nodes(Vec::new()), Kept::Block))
}

fn join_with<H: FsVerityHashValue>(
    kernels: &'static Kernels,
    segments: &[SegmentDigests<H>],
    size: u64,
) -> H {
    let blocks = size.div_ceil(BLOCK as u64);
    let mut digests = Vec::with_capacity(segments.len() * SEGMENT / BLOCK / per_node::<H>());
    for SegmentDigests(kept) in segments {
        match kept {
            Kept::Nodes(nodes) => digests.extend_from_slice(nodes),
            Kept::Block(block) if blocks == 1 => digests.push(block.clone()),
            Kept::Block(block) => {
                let mut node = H::EMPTY;
                let mut wave = Wave::new(kernels, Length::Block, node.as_mut_bytes());
                wave.push(block.as_bytes(), &[], size_of::<H>());
                wave.flush();
                digests.push(node);
            }
        }
    }
    let expected = if blocks <= 1 { blocks } else { blocks.div_ceil(per_node::<H>() as u64) };
    assert_eq!(digests.len() as u64, expected, "level-1 digests of a file of {size} bytes");
    let mut digest = H::EMPTY;
    let counts = vec![digests.len()];
    Level { digests, counts }.finish(kernels, &[size], std::slice::from_mut(&mut digest));
    digest
}

fn digest_into<H: FsVerityHashValue>(kernels: &'static Kernels, files: &[&[&[u8]]], digests: &mut [H]) {
    let sizes: Vec<u64> = files.iter().map(|parts| length(parts)).collect();
    Level::of_blocks(kernels, files).finish(kernels, &sizes, digests);
}

/// One level of the trees of several files.
struct Level<H> {
    /// The digests of all files, one file after the other.
    digests: Vec<H>,
    /// How many of them each file has. None for an empty file; a file that has one is at its root.
    counts: Vec<usize>,
}

impl<H: FsVerityHashValue> Level<H> {
    fn with_counts(counts: Vec<usize>) -> Self {
        Self { digests: vec![H::EMPTY; counts.iter().sum()], counts }
    }

    /// The lowest level: the digests of the blocks of data.
    fn of_blocks(kernels: &'static Kernels, files: &[&[&[u8]]]) -> Self {
        let blocks = |parts: &&[&[u8]]| length(parts).div_ceil(BLOCK as u64) as usize;
        let mut level = Self::with_counts(files.iter().map(blocks).collect());
        let mut wave = Wave::new(kernels, Length::Block, level.digests.as_mut_bytes());
        for parts in files {
            push_blocks(&mut wave, parts);
        }
        wave.flush();
        level
    }

    /// The level above; roots stay as they are.
    fn up(&self, kernels: &'static Kernels) -> Self {
        let nodes = |&n: &usize| if n <= 1 { n } else { n.div_ceil(per_node::<H>()) };
        let mut above = Self::with_counts(self.counts.iter().map(nodes).collect());
        let mut wave = Wave::new(kernels, Length::Block, above.digests.as_mut_bytes());
        for digests in self.by_file() {
            match digests {
                [root] => wave.keep(root.as_bytes()),
                digests => digests
                    .chunks(per_node::<H>())
                    .for_each(|node| wave.push(node.as_bytes(), &[], node.as_bytes().len())),
            }
        }
        wave.flush();
        above
    }

    /// Builds the rest of the trees, and from their roots and the files' `sizes` the files' digests.
    fn finish(mut self, kernels: &'static Kernels, sizes: &[u64], digests: &mut [H]) {
        while self.counts.iter().any(|&n| n > 1) {
            self = self.up(kernels);
        }
        let descriptors: Vec<_> =
            self.by_file().zip(sizes).map(|(root, &size)| descriptor(root.first(), size)).collect();
        let mut wave = Wave::new(kernels, Length::Descriptor, digests.as_mut_bytes());
        descriptors.iter().for_each(|descriptor| wave.push(descriptor, &[], descriptor.len()));
        wave.flush();
    }

    fn by_file(&self) -> impl Iterator<Item = &[H]> {
        let mut rest = &self.digests[..];
        self.counts.iter().map(move |&n| {
            let (own, later) = rest.split_at(n);
            rest = later;
            own
        })
    }
}

/// Pushes each block of a file. Only where the parts meet inside a block does anyone have to look at `rest`.
fn push_blocks<'a>(wave: &mut Wave<'a, '_>, parts: &'a [&'a [u8]]) {
    let mut left = length(parts);
    let (mut now, mut rest): (&[u8], _) = (&[], parts);
    while left > 0 {
        let len = left.min(BLOCK as u64) as usize;
        left -= len as u64;
        wave.push(now, rest, len);
        let mut skip = len;
        while skip > now.len() {
            skip -= now.len();
            (now, rest) = (rest[0], &rest[1..]);
        }
        now = &now[skip..];
    }
}

/// The part of `struct fsverity_descriptor` that is not always zeros. Empty files have a root of zeros.
fn descriptor<H: FsVerityHashValue>(root: Option<&H>, size: u64) -> [u8; 80] {
    const { assert!(matches!(H::ALGORITHM.lg_blocksize(), 12)) };
    let mut descriptor = [0; 80];
    descriptor[..3].copy_from_slice(&[1, H::ALGORITHM.kernel_id(), H::ALGORITHM.lg_blocksize()]);
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    if let Some(root) = root {
        descriptor[16..16 + size_of::<H>()].copy_from_slice(root.as_bytes());
    }
    descriptor
}

/// Digests that one block of a tree holds.
const fn per_node<H>() -> usize {
    BLOCK / size_of::<H>()
}

fn kernels<H: FsVerityHashValue>() -> &'static Kernels {
    match H::ALGORITHM {
        Algorithm::Sha256 { .. } => Kernels::sha256(),
        Algorithm::Sha512 { .. } => Kernels::sha512(),
    }
}

fn length(parts: &[&[u8]]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}
