//! Words of several messages in x86 vector registers. Knows AVX2 and AVX-512; ignores
//! rounds and Merkle trees.
//!
//! What makes AVX-512 more than twice as good is not the width alone: it rotates in one instruction, combines
//! three inputs in one, and has 32 registers, so that state and schedule stay out of memory. The narrow types
//! are for the last messages of a wave, where wide registers would carry empty lanes.

use std::arch::x86_64::*;

use super::rounds::{Words, sigmas};

/// Writes a [`Words`] type over one register: what all of them have in common.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $register:ident, $lanes:literal x $word:ident,
     $loadu:ident, $storeu:ident, $set1:ident as $signed:ident, $add:ident, $read:ident,
         $logic:ident! { $($op:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name($register);

        impl $name {
            $logic!(rotr_shr $($op)*);
        }

        impl Words<$lanes> for $name {
            type Word = $word;

            #[inline(always)]
            unsafe fn load(words: &[$word; $lanes]) -> Self {
                // SAFETY: the array is as large as the register; the caller answers for the cpu.
                Self(unsafe { $loadu(words.as_ptr().cast()) })
            }
            #[inline(always)]
            unsafe fn splat(word: $word) -> Self {
                // SAFETY: the caller answers for the cpu.
                Self(unsafe { $set1(word as $signed) })
            }
            #[inline(always)]
            unsafe fn read(data: &[&[u8]; $lanes], at: usize) -> [Self; 16] {
                // SAFETY: the caller answers for the cpu.
                let raw = unsafe { $read(data, at) };
                let mut words = [Self(raw[0]); 16];
                (1..16).for_each(|i| words[i] = Self(raw[i]));
                words
            }
            #[inline(always)]
            fn store(self, words: &mut [$word; $lanes]) {
                // SAFETY: the array is as large as the register; a value of this type
                // shows that the cpu has it.
                unsafe { $storeu(words.as_mut_ptr().cast(), self.0) }
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: a value of this type shows that the cpu has the instruction.
                Self(unsafe { $add(self.0, other.0) })
            }
            $logic!(choose_majority $($op)*);
            sigmas!($word);
        }
    };
}

/// AVX-512: a rotation, and any function of three inputs, is one instruction.
macro_rules! ternary {
    (rotr_shr $ror:ident $srl:ident $count:ident $ternary:ident) => {
        #[inline(always)]
        fn rotr<const R: i32>(self) -> Self {
            // SAFETY: a value of this type shows that the cpu has the instruction.
            Self(unsafe { $ror::<R>(self.0) })
        }
        #[inline(always)]
        fn shr<const R: $count>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $srl::<R>(self.0) })
        }
        #[inline(always)]
        fn xor3(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $ternary::<0x96>(self.0, b.0, c.0) })
        }
    };
    (choose_majority $ror:ident $srl:ident $count:ident $ternary:ident) => {
        #[inline(always)]
        fn choose(self, yes: Self, no: Self) -> Self {
            // SAFETY: a value of this type shows that the cpu has the instruction.
            Self(unsafe { $ternary::<0xca>(self.0, yes.0, no.0) })
        }
        #[inline(always)]
        fn majority(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $ternary::<0xe8>(self.0, b.0, c.0) })
        }
    };
}

/// AVX2: two inputs at a time, and a rotation is two shifts.
macro_rules! binary {
    (rotr_shr $sll:ident $srl:ident $bits:literal) => {
        #[inline(always)]
        fn rotr<const R: i32>(self) -> Self {
            // The shift counts are plain arguments here: `$bits - R` cannot be a const
            // argument of a generic function.
            // SAFETY: a value of this type shows that the cpu has the instructions.
            Self(unsafe {
                let (low, high) = (_mm_cvtsi32_si128(R), _mm_cvtsi32_si128($bits - R));
                _mm256_or_si256($srl(self.0, low), $sll(self.0, high))
            })
        }
        #[inline(always)]
        fn shr<const R: i32>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $srl(self.0, _mm_cvtsi32_si128(R)) })
        }
        #[inline(always)]
        fn xor3(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_xor_si256(_mm256_xor_si256(self.0, b.0), c.0) })
        }
    };
    (choose_majority $sll:ident $srl:ident $bits:literal) => {
        #[inline(always)]
        fn choose(self, yes: Self, no: Self) -> Self {
            // SAFETY: a value of this type shows that the cpu has the instructions.
            Self(unsafe { _mm256_xor_si256(no.0, _mm256_and_si256(self.0, _mm256_xor_si256(yes.0, no.0))) })
        }
        #[inline(always)]
        fn majority(self, b: Self, c: Self) -> Self {
            // `b ^ c` was `a ^ b` in the round before, and the compiler knows it.
            // SAFETY: as above.
            Self(unsafe {
                let differ = _mm256_and_si256(_mm256_xor_si256(self.0, b.0), _mm256_xor_si256(b.0, c.0));
                _mm256_xor_si256(b.0, differ)
            })
        }
    };
}

words!(
    /// Eight messages of SHA-512: AVX-512 F and BW.
    Eight64, __m512i, 8 x u64, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi64 as i64,
        _mm512_add_epi64,
    read_eight64, ternary! { _mm512_ror_epi64 _mm512_srli_epi64 u32 _mm512_ternarylogic_epi64 }
);
words!(
    /// Four messages of SHA-512: AVX2 and AVX-512 F and VL.
    Four64, __m256i, 4 x u64, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi64x as i64,
        _mm256_add_epi64,
    read_four64, ternary! { _mm256_ror_epi64 _mm256_srli_epi64 i32 _mm256_ternarylogic_epi64 }
);
words!(
    /// Four messages of SHA-512: AVX2.
    Four64Avx2, __m256i, 4 x u64, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi64x as i64,
        _mm256_add_epi64,
    read_four64, binary! { _mm256_sll_epi64 _mm256_srl_epi64 64 }
);
words!(
    /// Sixteen messages of SHA-256: AVX-512 F and BW.
    Sixteen32, __m512i, 16 x u32, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi32 as i32,
        _mm512_add_epi32,
    read_sixteen32, ternary! { _mm512_ror_epi32 _mm512_srli_epi32 u32 _mm512_ternarylogic_epi32 }
);
words!(
    /// Eight messages of SHA-256: AVX2.
    Eight32Avx2, __m256i, 8 x u32, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi32 as i32,
        _mm256_add_epi32,
    read_eight32, binary! { _mm256_sll_epi32 _mm256_srl_epi32 32 }
);

/// Where each byte comes from when 8-byte words turn round, in a register of 16 bytes.
const TURN64: [u8; 16] = [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8];
/// The same for 4-byte words.
const TURN32: [u8; 16] = [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12];

/// 64 bytes of each lane from byte `at`, big-endian words turned round by `turn`. Needs AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn rows512<const N: usize>(data: &[&[u8]; N], at: usize, turn: [u8; 16]) -> [__m512i; N] {
    // SAFETY: `turn` is 16 bytes long.
    let turn = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(turn.as_ptr().cast()) });
    // A loop: `array::map` is not always inlined here, and then all rows go through memory; that cost 25 %.
    let mut rows = [_mm512_setzero_si512(); N];
    for (row, lane) in rows.iter_mut().zip(data) {
        let bytes = &lane[at..at + 64];
        // SAFETY: the slice is 64 bytes long.
        *row = _mm512_shuffle_epi8(unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }, turn);
    }
    rows
}

/// The same for 32 bytes. Needs AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn rows256<const N: usize>(data: &[&[u8]; N], at: usize, turn: [u8; 16]) -> [__m256i; N] {
    // SAFETY: `turn` is 16 bytes long.
    let turn = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(turn.as_ptr().cast()) });
    let mut rows = [_mm256_setzero_si256(); N];
    for (row, lane) in rows.iter_mut().zip(data) {
        let bytes = &lane[at..at + 32];
        // SAFETY: the slice is 32 bytes long.
        *row = _mm256_shuffle_epi8(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }, turn);
    }
    rows
}

/// Turns two pairs of rows of 128-bit quarters into columns: quarter `q` of all four, for `q` from 0 to 3.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarters(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = rows;
    let (ab_even, ab_odd) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
    let (cd_even, cd_odd) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_even, cd_even),
        _mm512_shuffle_i64x2::<0x88>(ab_odd, cd_odd),
        _mm512_shuffle_i64x2::<0xdd>(ab_even, cd_even),
        _mm512_shuffle_i64x2::<0xdd>(ab_odd, cd_odd),
    ]
}

/// See [`Words::read`]. Needs AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn read_eight64(data: &[&[u8]; 8], at: usize) -> [__m512i; 16] {
    let mut words = [_mm512_setzero_si512(); 16];
    for half in 0..2 {
        let r = rows512(data, at + 64 * half, TURN64);
        let low = |i: usize| _mm512_unpacklo_epi64(r[i], r[i + 1]);
        let high = |i: usize| _mm512_unpackhi_epi64(r[i], r[i + 1]);
        let even = quarters([low(0), low(2), low(4), low(6)]);
        let odd = quarters([high(0), high(2), high(4), high(6)]);
        for q in 0..4 {
            words[8 * half + 2 * q] = even[q];
            words[8 * half + 2 * q + 1] = odd[q];
        }
    }
    words
}

/// See [`Words::read`]. Needs AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn read_sixteen32(data: &[&[u8]; 16], at: usize) -> [__m512i; 16] {
    let r = rows512(data, at, TURN32);
    // Of four rows: their words 0, 1, 2, 3 of each quarter.
    let four = |i: usize| {
        let (low_ab, high_ab) =
            (_mm512_unpacklo_epi32(r[i], r[i + 1]), _mm512_unpackhi_epi32(r[i], r[i + 1]));
        let (low_cd, high_cd) =
            (_mm512_unpacklo_epi32(r[i + 2], r[i + 3]), _mm512_unpackhi_epi32(r[i + 2], r[i + 3]));
        [
            _mm512_unpacklo_epi64(low_ab, low_cd),
            _mm512_unpackhi_epi64(low_ab, low_cd),
            _mm512_unpacklo_epi64(high_ab, high_cd),
            _mm512_unpackhi_epi64(high_ab, high_cd),
        ]
    };
    let (a, b, c, d) = (four(0), four(4), four(8), four(12));
    let mut words = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let columns = quarters([a[i], b[i], c[i], d[i]]);
        for q in 0..4 {
            words[4 * q + i] = columns[q];
        }
    }
    words
}

/// See [`Words::read`]. Needs AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn read_four64(data: &[&[u8]; 4], at: usize) -> [__m256i; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for quarter in 0..4 {
        let [a, b, c, d] = rows256(data, at + 32 * quarter, TURN64);
        let (even_ab, odd_ab) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let (even_cd, odd_cd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
        words[4 * quarter] = _mm256_permute2x128_si256::<0x20>(even_ab, even_cd);
        words[4 * quarter + 1] = _mm256_permute2x128_si256::<0x20>(odd_ab, odd_cd);
        words[4 * quarter + 2] = _mm256_permute2x128_si256::<0x31>(even_ab, even_cd);
        words[4 * quarter + 3] = _mm256_permute2x128_si256::<0x31>(odd_ab, odd_cd);
    }
    words
}

/// See [`Words::read`]. Needs AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn read_eight32(data: &[&[u8]; 8], at: usize) -> [__m256i; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for half in 0..2 {
        let r = rows256(data, at + 32 * half, TURN32);
        // Of four rows: their words 0, 1, 2, 3 of each half.
        let four = |i: usize| {
            let (low_ab, high_ab) =
                (_mm256_unpacklo_epi32(r[i], r[i + 1]), _mm256_unpackhi_epi32(r[i], r[i + 1]));
            let (low_cd, high_cd) =
                (_mm256_unpacklo_epi32(r[i + 2], r[i + 3]), _mm256_unpackhi_epi32(r[i + 2], r[i + 3]));
            [
                _mm256_unpacklo_epi64(low_ab, low_cd),
                _mm256_unpackhi_epi64(low_ab, low_cd),
                _mm256_unpacklo_epi64(high_ab, high_cd),
                _mm256_unpackhi_epi64(high_ab, high_cd),
            ]
        };
        let (a, b) = (four(0), four(4));
        for i in 0..4 {
            words[8 * half + i] = _mm256_permute2x128_si256::<0x20>(a[i], b[i]);
            words[8 * half + 4 + i] = _mm256_permute2x128_si256::<0x31>(a[i], b[i]);
        }
    }
    words
}
