//! fs-verity digests: 4096-byte blocks, no salt. Knows Merkle trees and SIMD; ignores files and repositories.

use composefs::fsverity::FsVerityHashValue;

/// Bytes of a file that are hashed as one unit of work: whole blocks of whole level-1 nodes for both algorithms.
pub const SEGMENT: usize = 1 << 20;

/// The file's fs-verity digest, of the concatenation of `parts`.
///
/// Empty input has a defined digest. Source: kernel doc, filesystems/fsverity, "Merkle tree".
pub fn digest<H: FsVerityHashValue>(_parts: &[&[u8]]) -> H {
    todo!()
}

/// The digests of many small files at once, in order: their blocks share the SIMD lanes.
pub fn digest_many<H: FsVerityHashValue>(_files: &[&[&[u8]]]) -> Vec<H> {
    todo!()
}

/// The level-1 digests of one segment of a large file: what remains of it for the tree.
pub struct SegmentDigests<H>(Vec<H>);

/// Hashes segment number `n` of a file: exactly [`SEGMENT`] bytes, or fewer for the last one.
pub fn segment<H: FsVerityHashValue>(_parts: &[&[u8]]) -> SegmentDigests<H> {
    todo!()
}

/// Joins the segments of a file, given in order, into its digest. `size` is the file's length in bytes.
pub fn join<H: FsVerityHashValue>(_segments: &[SegmentDigests<H>], _size: u64) -> H {
    todo!()
}
