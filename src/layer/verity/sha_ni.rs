//! SHA-256 with the cpu's own instructions, one or two messages at once. Knows SHA-NI; ignores Merkle trees.
//!
//! One message waits for itself: each pair of rounds takes four cycles, and the cpu could start the
//! next after two. Two messages in turns keep it busy (2300 MB/s after 1750, Zen 4); more do not
//! fit the sixteen registers.

use std::arch::x86_64::*;

use super::constants::K256;

/// A state as the instructions want it: the words A, B, E, F and C, D, G, H, each from the high end.
type State = (__m128i, __m128i);

/// See [`super::lanes::Compress`].
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn compress<const N: usize>(words: &mut [[u32; N]; 8], data: &[&[u8]; N], blocks: usize) {
    let mut states: [State; N] = std::array::from_fn(|lane| load(words, lane));
    for block in 0..blocks {
        let before = states;
        let mut w = data.map(|lane| read(&lane[block * 64..block * 64 + 64]));
        for (four, k) in K256.chunks_exact(4).enumerate() {
            for lane in 0..N {
                let w = &mut w[lane];
                if four >= 4 {
                    // The next four words, in place of the oldest.
                    let [a, b, c, d] = [0, 1, 2, 3].map(|i| w[(four + i) % 4]);
                    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8::<4>(d, c));
                    w[four % 4] = _mm_sha256msg2_epu32(sum, d);
                }
                states[lane] = four_rounds(states[lane], _mm_add_epi32(w[four % 4], four_words(k)));
            }
        }
        add(&mut states, before);
    }
    store(states, words);
}

/// See [`super::lanes::CompressKnown`].
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn compress_known<const N: usize>(words: &mut [[u32; N]; 8], schedule: &[u32], times: usize) {
    let mut states: [State; N] = std::array::from_fn(|lane| load(words, lane));
    for _ in 0..times {
        let before = states;
        for four in schedule.chunks_exact(4) {
            let four = four_words(four);
            states = states.map(|state| four_rounds(state, four));
        }
        add(&mut states, before);
    }
    store(states, words);
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn four_rounds((abef, cdgh): State, words: __m128i) -> State {
    let after_two = _mm_sha256rnds2_epu32(cdgh, abef, words);
    (_mm_sha256rnds2_epu32(abef, after_two, _mm_shuffle_epi32::<0x0e>(words)), after_two)
}

#[target_feature(enable = "sse2")]
#[inline]
fn add<const N: usize>(states: &mut [State; N], before: [State; N]) {
    for (state, before) in states.iter_mut().zip(before) {
        *state = (_mm_add_epi32(state.0, before.0), _mm_add_epi32(state.1, before.1));
    }
}

#[target_feature(enable = "sse2")]
#[inline]
fn load<const N: usize>(words: &[[u32; N]; 8], lane: usize) -> State {
    let [a, b, c, d, e, f, g, h] = words.map(|word| word[lane] as i32);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[target_feature(enable = "sse4.1")]
#[inline]
fn store<const N: usize>(states: [State; N], words: &mut [[u32; N]; 8]) {
    for (lane, (abef, cdgh)) in states.into_iter().enumerate() {
        let at = |i: usize, word: i32| (i, word as u32);
        for (i, word) in [
            at(0, _mm_extract_epi32::<3>(abef)),
            at(1, _mm_extract_epi32::<2>(abef)),
            at(4, _mm_extract_epi32::<1>(abef)),
            at(5, _mm_extract_epi32::<0>(abef)),
            at(2, _mm_extract_epi32::<3>(cdgh)),
            at(3, _mm_extract_epi32::<2>(cdgh)),
            at(6, _mm_extract_epi32::<1>(cdgh)),
            at(7, _mm_extract_epi32::<0>(cdgh)),
        ] {
            words[i][lane] = word;
        }
    }
}

#[target_feature(enable = "sse2")]
#[inline]
fn four_words(words: &[u32]) -> __m128i {
    let words = &words[..4];
    // SAFETY: the slice is 16 bytes long.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// The sixteen big-endian words of a block of 64 bytes.
#[target_feature(enable = "ssse3")]
#[inline]
fn read(block: &[u8]) -> [__m128i; 4] {
    let turn = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    [0, 16, 32, 48].map(|at| {
        let words = &block[at..at + 16];
        // SAFETY: the slice is 16 bytes long.
        let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        _mm_shuffle_epi8(words, turn)
    })
}
