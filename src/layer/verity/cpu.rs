//! Which kernels to use on this cpu. Knows instruction sets and how fast they were; ignores what is hashed.

use std::sync::LazyLock;

use super::lanes::{Algorithm, Kernel, Lanes, Length};
use super::sha2::{self, INIT256, INIT512, K256, K512, One32, One64};

/// The kernels to choose among, by how many messages wait.
pub(super) struct Kernels {
    /// For tests and measurements.
    #[cfg_attr(not(test), expect(dead_code))]
    pub(super) name: &'static str,
    /// Bytes of a digest.
    pub(super) digest_bytes: usize,
    /// Widest first; each with the least number of messages for which it is the best. The last one has 1.
    table: &'static [(usize, &'static dyn Lanes)],
}

impl Kernels {
    /// The best kernel when `count` messages wait.
    pub(super) fn for_count(&self, count: usize) -> &'static dyn Lanes {
        let (last, wider) = self.table.split_last().expect("a table has a kernel");
        wider.iter().find(|(least, _)| count >= *least).unwrap_or(last).1
    }

    /// SHA-256 as fast as this cpu can.
    pub(super) fn sha256() -> &'static Self {
        static BEST: LazyLock<&Kernels> = LazyLock::new(|| all256()[0]);
        *BEST
    }

    /// SHA-512 as fast as this cpu can.
    pub(super) fn sha512() -> &'static Self {
        static BEST: LazyLock<&Kernels> = LazyLock::new(|| all512()[0]);
        *BEST
    }
}

/// All of SHA-256 that this cpu can run, best first.
pub(super) fn all256() -> Vec<&'static Kernels> {
    vec![&PORTABLE256]
}

/// All of SHA-512 that this cpu can run, best first.
pub(super) fn all512() -> Vec<&'static Kernels> {
    vec![&PORTABLE512]
}

static PORTABLE256: Kernels = Kernels { name: "portable", digest_bytes: 32, table: &[(1, &ONE256)] };
static PORTABLE512: Kernels = Kernels { name: "portable", digest_bytes: 64, table: &[(1, &ONE512)] };

static SHA256: Algorithm<u32> = Algorithm {
    init: INIT256,
    zeros: &K256,
    block_end: &sha2::schedule256(end256(Length::Block)),
    descriptor_end: &sha2::schedule256(end256(Length::Descriptor)),
};

static SHA512: Algorithm<u64> = Algorithm {
    init: INIT512,
    zeros: &K512,
    block_end: &sha2::schedule512(end512(Length::Block)),
    descriptor_end: &sha2::schedule512(end512(Length::Descriptor)),
};

/// The padding after a message of whole blocks: one bit, zeros, the length in bits.
const fn end256(length: Length) -> [u32; 16] {
    let mut block = [0; 16];
    block[0] = 1 << 31;
    block[15] = 8 * length.bytes() as u32;
    block
}

/// The padding after a message of whole blocks: one bit, zeros, the length in bits.
const fn end512(length: Length) -> [u64; 16] {
    let mut block = [0; 16];
    block[0] = 1 << 63;
    block[15] = 8 * length.bytes() as u64;
    block
}

/// Makes a kernel from a kind of [`sha2::Words`]; its two functions are compiled for the named instructions.
macro_rules! kernel {
    ($name:ident, $algorithm:ident, $k:ident, $words:ty, $lanes:literal, $word:ty $(, $features:literal)?) => {
        static $name: Kernel<$lanes, $word> = {
            $(#[target_feature(enable = $features)])?
            unsafe fn compress(state: &mut [[$word; $lanes]; 8], data: &[&[u8]; $lanes], blocks: usize) {
                // SAFETY: the cpu has the instructions, says the caller.
                unsafe { sha2::compress::<$words, $lanes>(state, data, blocks, &$k) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn known(state: &mut [[$word; $lanes]; 8], schedule: &[$word], times: usize) {
                // SAFETY: the cpu has the instructions, says the caller.
                unsafe { sha2::compress_known::<$words, $lanes>(state, schedule, times) }
            }
            // SAFETY: `all256` and `all512` list a kernel only where its instructions were detected.
            unsafe { Kernel::new(&$algorithm, compress, known) }
        };
    };
}

kernel!(ONE256, SHA256, K256, One32, 1, u32);
kernel!(ONE512, SHA512, K512, One64, 1, u64);
