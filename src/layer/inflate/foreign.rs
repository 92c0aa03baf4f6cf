//! Compression formats that OCI does not have, told from the first bytes: they make better words for a
//! layer that is not a tar. A tar may begin with the same bytes (its first path does), so this says nothing
//! of a tar that can be read.

use super::Codec;

/// Enough bytes to tell all of them.
pub(super) const HEAD: usize = 16;

/// The first block of a bzip2 stream, and the end of an empty one: the digits of pi and of its square root.
const BZIP2_BLOCKS: [[u8; 6]; 2] =
    [[0x31, 0x41, 0x59, 0x26, 0x53, 0x59], [0x17, 0x72, 0x45, 0x38, 0x50, 0x90]];

/// The format of data that begins with `head`, of which [`HEAD`] bytes are looked at.
pub(super) fn format(head: &[u8]) -> Option<&'static str> {
    Some(match *head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        [b'B', b'Z', b'h', b'1'..=b'9', a, b, c, d, e, f, ..]
            if BZIP2_BLOCKS.contains(&[a, b, c, d, e, f]) =>
        {
            "bzip2"
        }
        // The second is what `lz4 -l` writes, as Linux has it in its initial file systems.
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [b'L', b'Z', b'I', b'P', 0 | 1, ..] => "lzip",
        [0x1f, 0x9d, flags, ..] if matches!(flags & 0x1f, 9..=16) => "compress (.Z)",
        [0x89, b'L', b'Z', b'O', 0, ..] => "lzo",
        [0x22..=0x27, 0xb5, 0x2f, 0xfd, ..] | [0xfd, 0x2f, 0xb5, 0x1e, ..] => "zstd before 0.8",
        [0x5d, a, b, c, d, ref size @ ..] if is_lzma([a, b, c, d], size) => "lzma",
        _ => match Codec::of(head)? {
            Codec::Plain => return None,
            codec => codec.name(),
        },
    })
}

/// Whether this is the rest of an `.lzma` header: it has no magic. The dictionary is a power of two or one
/// and a half, the size unknown or below 256 GiB, as in liblzma (alone_decoder.c).
fn is_lzma(dictionary: [u8; 4], size: &[u8]) -> bool {
    let dictionary = u32::from_le_bytes(dictionary);
    let rounded = dictionary & dictionary.wrapping_sub(1);
    let half = rounded == 0 || dictionary == rounded + rounded / 2;
    let Some(size) = size.first_chunk() else { return false };
    let size = u64::from_le_bytes(*size);
    dictionary >= 4096 && half && (size == u64::MAX || size < 1 << 38)
}
