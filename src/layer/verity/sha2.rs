//! SHA-2 over several messages at once, one a lane. Knows rounds and schedules; ignores cpus and Merkle trees.
//!
//! SHA-256 and SHA-512 are the same rounds over words of another width, so they are written once, over [`Words`]:
//! the same word of `N` messages side by side. A cpu's own way to do that is in `x86.rs`; the way without is here.
//! A block of sixteen words known beforehand (zeros, the padding) needs no message schedule, which is a third of
//! the work, and most of what a small file hashes is zeros: [`compress_known`] is for them.

/// The same word of `N` messages, side by side.
///
/// A value exists only where the cpu has what its operations need: the constructors are unsafe, the rest is not.
pub(super) trait Words<const N: usize>: Copy {
    /// One lane: `u32` for SHA-256, `u64` for SHA-512.
    type Word: Copy;

    /// One word a lane.
    ///
    /// # Safety
    /// The cpu must have the instructions of this type.
    unsafe fn load(words: &[Self::Word; N]) -> Self;

    /// The same word in every lane.
    ///
    /// # Safety
    /// The cpu must have the instructions of this type.
    unsafe fn splat(word: Self::Word) -> Self;

    /// The sixteen big-endian words of each lane's block, which starts at byte `at`. Panics where a lane is too short.
    ///
    /// # Safety
    /// The cpu must have the instructions of this type.
    unsafe fn read(data: &[&[u8]; N], at: usize) -> [Self; 16];

    /// The lanes, one by one.
    fn store(self, words: &mut [Self::Word; N]);
    /// Wrapping sum.
    fn add(self, other: Self) -> Self;
    /// Σ0 of FIPS 180-4.
    fn big0(self) -> Self;
    /// Σ1 of FIPS 180-4.
    fn big1(self) -> Self;
    /// σ0 of FIPS 180-4.
    fn small0(self) -> Self;
    /// σ1 of FIPS 180-4.
    fn small1(self) -> Self;
    /// `yes` where `self` has a bit, else `no`.
    fn choose(self, yes: Self, no: Self) -> Self;
    /// The bits that two of the three have.
    fn majority(self, b: Self, c: Self) -> Self;
}

/// Writes the four sigmas of a [`Words`] impl, from its inherent `rotr`, `shr` and `xor3`.
macro_rules! sigmas {
    (u64) => {
        $crate::layer::verity::sha2::sigmas!(28 34 39, 14 18 41, 1 8 7, 19 61 6);
    };
    (u32) => {
        $crate::layer::verity::sha2::sigmas!(2 13 22, 6 11 25, 7 18 3, 17 19 10);
    };
    ($a:literal $b:literal $c:literal, $d:literal $e:literal $f:literal,
     $g:literal $h:literal $i:literal, $j:literal $k:literal $l:literal) => {
        #[inline(always)]
        fn big0(self) -> Self {
            self.rotr::<$a>().xor3(self.rotr::<$b>(), self.rotr::<$c>())
        }
        #[inline(always)]
        fn big1(self) -> Self {
            self.rotr::<$d>().xor3(self.rotr::<$e>(), self.rotr::<$f>())
        }
        #[inline(always)]
        fn small0(self) -> Self {
            self.rotr::<$g>().xor3(self.rotr::<$h>(), self.shr::<$i>())
        }
        #[inline(always)]
        fn small1(self) -> Self {
            self.rotr::<$j>().xor3(self.rotr::<$k>(), self.shr::<$l>())
        }
    };
}
pub(super) use sigmas;

/// Sixteen rounds, unrolled: the index must be a constant for state and schedule to stay in registers.
macro_rules! sixteen {
    ($i:ident => $round:expr) => {
        sixteen!($i => $round; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($i:ident => $round:expr; $($n:literal)*) => {
        $({
            #[allow(non_upper_case_globals)]
            const $i: usize = $n;
            $round
        })*
    };
}

/// Compresses `blocks` whole blocks of each lane into `state`. `k` is [`K256`] or [`K512`].
///
/// # Safety
/// The cpu must have the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn compress<W: Words<N>, const N: usize>(
    state: &mut [[W::Word; N]; 8],
    data: &[&[u8]; N],
    blocks: usize,
    k: &[W::Word],
) {
    // SAFETY: the caller's promise, for this and every use below.
    let splat = |word| unsafe { W::splat(word) };
    // SAFETY: as above.
    let mut s = state.each_ref().map(|words| unsafe { W::load(words) });
    for block in 0..blocks {
        // SAFETY: as above; `read` checks the lengths.
        let mut w = unsafe { W::read(data, block * 16 * size_of::<W::Word>()) };
        let before = s;
        let (first, later) = k.split_at(16);
        sixteen!(i => round::<W, N, i>(&mut s, w[i].add(splat(first[i]))));
        for k in later.chunks_exact(16) {
            sixteen!(i => {
                w[i] = w[i].add(w[(i + 1) % 16].small0()).add(w[(i + 9) % 16].add(w[(i + 14) % 16].small1()));
                round::<W, N, i>(&mut s, w[i].add(splat(k[i])));
            });
        }
        for (s, before) in s.iter_mut().zip(before) {
            *s = s.add(before);
        }
    }
    s.into_iter().zip(state).for_each(|(s, words)| s.store(words));
}

/// Compresses `times` copies of one known block, the same in every lane, given as its [`schedule`].
///
/// # Safety
/// The cpu must have the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn compress_known<W: Words<N>, const N: usize>(
    state: &mut [[W::Word; N]; 8],
    schedule: &[W::Word],
    times: usize,
) {
    // SAFETY: the caller's promise, for this and every use below.
    let splat = |word| unsafe { W::splat(word) };
    // SAFETY: as above.
    let mut s = state.each_ref().map(|words| unsafe { W::load(words) });
    for _ in 0..times {
        let before = s;
        for words in schedule.chunks_exact(16) {
            sixteen!(i => round::<W, N, i>(&mut s, splat(words[i])));
        }
        for (s, before) in s.iter_mut().zip(before) {
            *s = s.add(before);
        }
    }
    s.into_iter().zip(state).for_each(|(s, words)| s.store(words));
}

/// Round `I` (modulo 8). Instead of moving a..h along, the place of `a` moves back by one.
#[inline(always)]
fn round<W: Words<N>, const N: usize, const I: usize>(s: &mut [W; 8], word: W) {
    let at = |letter: usize| (letter + 16 - I) % 8;
    let [a, b, c, d] = [s[at(0)], s[at(1)], s[at(2)], s[at(3)]];
    let [e, f, g, h] = [s[at(4)], s[at(5)], s[at(6)], s[at(7)]];
    let t = h.add(word).add(e.choose(f, g)).add(e.big1());
    s[at(3)] = d.add(t);
    s[at(7)] = t.add(a.big0().add(a.majority(b, c)));
}

/// The round words of a known block of SHA-512: its message schedule with the constants added.
pub(super) const fn schedule512(block: [u64; 16]) -> [u64; 80] {
    let mut w = [0; 80];
    let mut t = 0;
    while t < 80 {
        w[t] = if t < 16 {
            block[t]
        } else {
            let (x, y) = (w[t - 15], w[t - 2]);
            let small0: u64 = x.rotate_right(1) ^ x.rotate_right(8) ^ (x >> 7);
            let small1: u64 = y.rotate_right(19) ^ y.rotate_right(61) ^ (y >> 6);
            small1.wrapping_add(w[t - 7]).wrapping_add(small0).wrapping_add(w[t - 16])
        };
        t += 1;
    }
    while t > 0 {
        t -= 1;
        w[t] = K512[t].wrapping_add(w[t]);
    }
    w
}

/// The round words of a known block of SHA-256: its message schedule with the constants added.
pub(super) const fn schedule256(block: [u32; 16]) -> [u32; 64] {
    let mut w = [0; 64];
    let mut t = 0;
    while t < 64 {
        w[t] = if t < 16 {
            block[t]
        } else {
            let (x, y) = (w[t - 15], w[t - 2]);
            let small0: u32 = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
            let small1: u32 = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
            small1.wrapping_add(w[t - 7]).wrapping_add(small0).wrapping_add(w[t - 16])
        };
        t += 1;
    }
    while t > 0 {
        t -= 1;
        w[t] = K256[t].wrapping_add(w[t]);
    }
    w
}

/// What is common to the words of the two algorithms without SIMD: one lane, any cpu.
macro_rules! portable {
    ($name:ident, $word:ident) => {
        /// One lane in a general register.
        #[derive(Clone, Copy)]
        pub(super) struct $name($word);

        impl $name {
            #[inline(always)]
            fn rotr<const R: u32>(self) -> Self {
                Self(self.0.rotate_right(R))
            }
            #[inline(always)]
            fn shr<const R: u32>(self) -> Self {
                Self(self.0 >> R)
            }
            #[inline(always)]
            fn xor3(self, b: Self, c: Self) -> Self {
                Self(self.0 ^ b.0 ^ c.0)
            }
        }

        impl Words<1> for $name {
            type Word = $word;
            #[inline(always)]
            unsafe fn load(words: &[$word; 1]) -> Self {
                Self(words[0])
            }
            #[inline(always)]
            unsafe fn splat(word: $word) -> Self {
                Self(word)
            }
            #[inline(always)]
            unsafe fn read(data: &[&[u8]; 1], at: usize) -> [Self; 16] {
                const BYTES: usize = size_of::<$word>();
                let block = &data[0][at..at + 16 * BYTES];
                std::array::from_fn(|i| {
                    let mut word = [0; BYTES];
                    word.copy_from_slice(&block[i * BYTES..][..BYTES]);
                    Self($word::from_be_bytes(word))
                })
            }
            #[inline(always)]
            fn store(self, words: &mut [$word; 1]) {
                words[0] = self.0;
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Self(self.0.wrapping_add(other.0))
            }
            #[inline(always)]
            fn choose(self, yes: Self, no: Self) -> Self {
                Self(no.0 ^ (self.0 & (yes.0 ^ no.0)))
            }
            #[inline(always)]
            fn majority(self, b: Self, c: Self) -> Self {
                Self(b.0 ^ ((self.0 ^ b.0) & (b.0 ^ c.0)))
            }
            sigmas!($word);
        }
    };
}
portable!(One64, u64);
portable!(One32, u32);

/// The upper halves: SHA-256's constants are the first 32 bits of SHA-512's, which have the same roots.
const fn upper_halves<const N: usize>(long: &[u64]) -> [u32; N] {
    let mut short = [0; N];
    let mut i = 0;
    while i < N {
        short[i] = (long[i] >> 32) as u32;
        i += 1;
    }
    short
}

/// SHA-256's initial state.
pub(super) const INIT256: [u32; 8] = upper_halves(&INIT512);
/// SHA-256's round constants.
pub(super) const K256: [u32; 64] = upper_halves(&K512);
/// SHA-512's initial state: square roots of the first 8 primes, 64 bits of the fraction. Source: FIPS 180-4, 5.3.5.
pub(super) const INIT512: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];
/// SHA-512's round constants: cube roots of the first 80 primes, 64 bits of the fraction. Source: FIPS 180-4, 4.2.3.
pub(super) const K512: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];
