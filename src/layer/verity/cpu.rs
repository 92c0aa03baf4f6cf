//! Which kernels to use on this cpu. Knows instruction sets and how fast they were; ignores what is hashed.

use std::sync::LazyLock;

use super::constants::{INIT256, INIT512, K256, K512, schedule256, schedule512};
use super::lanes::{Algorithm, Kernel, Lanes, Length};
use super::portable;

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
    #[cfg(target_arch = "x86_64")]
    let detected = x86::all256();
    #[cfg(not(target_arch = "x86_64"))]
    let detected = [];
    detected.into_iter().chain([&PORTABLE256]).collect()
}

/// All of SHA-512 that this cpu can run, best first.
pub(super) fn all512() -> Vec<&'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let detected = x86::all512();
    #[cfg(not(target_arch = "x86_64"))]
    let detected = [];
    detected.into_iter().chain([&PORTABLE512]).collect()
}

static PORTABLE256: Kernels = Kernels { name: "portable", digest_bytes: 32, table: &[(1, &ONE256)] };
static PORTABLE512: Kernels = Kernels { name: "portable", digest_bytes: 64, table: &[(1, &ONE512)] };

static SHA256: Algorithm<u32> = Algorithm {
    init: INIT256,
    zeros: &K256,
    block_end: &schedule256(end256(Length::Block)),
    descriptor_end: &schedule256(end256(Length::Descriptor)),
};

static SHA512: Algorithm<u64> = Algorithm {
    init: INIT512,
    zeros: &K512,
    block_end: &schedule512(end512(Length::Block)),
    descriptor_end: &schedule512(end512(Length::Descriptor)),
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

// SAFETY: these run on any cpu.
static ONE256: Kernel<1, u32> =
    unsafe { Kernel::new(&SHA256, portable::compress256, portable::compress_known256) };
// SAFETY: as above.
static ONE512: Kernel<1, u64> =
    unsafe { Kernel::new(&SHA512, portable::compress512, portable::compress_known512) };

/// The kernels of x86 cpus.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::{rounds, sha_ni, x86::*};
    use super::*;

    /// Makes a kernel from a kind of [`rounds::Words`]; its two functions are compiled
    /// for the named instructions.
    macro_rules! kernel {
        ($name:ident, $algorithm:ident, $k:ident, $words:ty, $lanes:literal x $word:ty ,
            $features:literal) => {
            static $name: Kernel<$lanes, $word> = {
                #[target_feature(enable = $features)]
                unsafe fn compress(state: &mut [[$word; $lanes]; 8], data: &[&[u8]; $lanes], blocks: usize) {
                    // SAFETY: the cpu has the instructions, says the caller.
                    unsafe { rounds::compress::<$words, $lanes>(state, data, blocks, &$k) }
                }
                #[target_feature(enable = $features)]
                unsafe fn known(state: &mut [[$word; $lanes]; 8], schedule: &[$word], times: usize) {
                    // SAFETY: the cpu has the instructions, says the caller.
                    unsafe { rounds::compress_known::<$words, $lanes>(state, schedule, times) }
                }
                // SAFETY: `all256` and `all512` list a kernel only where its instructions were detected.
                unsafe { Kernel::new(&$algorithm, compress, known) }
            };
        };
    }

    pub(super) fn all256() -> Vec<&'static Kernels> {
        let mut all = Vec::new();
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let avx2 = is_x86_feature_detected!("avx2");
        let ni = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        if avx512 && ni {
            all.push(&AVX512_NI);
        }
        if ni {
            all.push(&NI);
            all.push(&NI_1);
        }
        if avx512 && avx2 {
            all.push(&AVX512_256);
        }
        if avx2 {
            all.push(&AVX2_256);
        }
        all
    }

    pub(super) fn all512() -> Vec<&'static Kernels> {
        let mut all = Vec::new();
        let avx2 = is_x86_feature_detected!("avx2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 {
            all.push(&AVX512);
            all.push(&AVX512_4);
        }
        if avx2 {
            all.push(&AVX2);
        }
        all
    }

    // The least counts are where the next narrower kernel was slower, on a Zen 4.
    static AVX512_NI: Kernels = Kernels {
        name: "avx512+sha-ni",
        digest_bytes: 32,
        table: &[(11, &SIXTEEN256), (2, &NI2), (1, &NI1)],
    };
    static NI: Kernels = Kernels { name: "sha-ni", digest_bytes: 32, table: &[(2, &NI2), (1, &NI1)] };
    static NI_1: Kernels = Kernels { name: "sha-ni x1", digest_bytes: 32, table: &[(1, &NI1)] };
    static AVX512_256: Kernels = Kernels {
        name: "avx512",
        digest_bytes: 32,
        table: &[(6, &SIXTEEN256), (2, &EIGHT256), (1, &ONE256)],
    };
    static AVX2_256: Kernels =
        Kernels { name: "avx2", digest_bytes: 32, table: &[(2, &EIGHT256), (1, &ONE256)] };
    static AVX512: Kernels =
        Kernels { name: "avx512", digest_bytes: 64, table: &[(5, &EIGHT512), (1, &FOUR512)] };
    static AVX512_4: Kernels = Kernels { name: "avx512 x4", digest_bytes: 64, table: &[(1, &FOUR512)] };
    static AVX2: Kernels =
        Kernels { name: "avx2", digest_bytes: 64, table: &[(2, &FOUR512_AVX2), (1, &ONE512)] };

    kernel!(SIXTEEN256, SHA256, K256, Sixteen32, 16 x u32, "avx512f,avx512bw");
    kernel!(EIGHT256, SHA256, K256, Eight32Avx2, 8 x u32, "avx2");
    kernel!(EIGHT512, SHA512, K512, Eight64, 8 x u64, "avx512f,avx512bw");
    kernel!(FOUR512, SHA512, K512, Four64, 4 x u64, "avx2,avx512f,avx512vl");
    kernel!(FOUR512_AVX2, SHA512, K512, Four64Avx2, 4 x u64, "avx2");

    // SAFETY: `all256` lists a kernel only where its instructions were detected.
    static NI2: Kernel<2, u32> = unsafe { Kernel::new(&SHA256, sha_ni::compress, sha_ni::compress_known) };
    // SAFETY: as above. For a lone message the crate, which uses the same instructions,
    // was 16 % faster than ours.
    static NI1: Kernel<1, u32> =
        unsafe { Kernel::new(&SHA256, portable::compress256, sha_ni::compress_known) };
}
