//! SHA-2 one message at a time on any cpu, by the `sha2` crate. Knows nothing of how; ignores Merkle trees.
//!
//! What the kernels of this folder are tested against, and what runs where they do not: `sha2` uses the SHA
//! instructions of other cpus, so that this is the fast way on arm64.

use super::constants::{K256, K512};

/// See [`super::lanes::Compress`].
pub(super) fn compress256(words: &mut [[u32; 1]; 8], data: &[&[u8]; 1], blocks: usize) {
    with_state(words, |state| sha2::block_api::compress256(state, &data[0].as_chunks().0[..blocks]));
}

/// See [`super::lanes::Compress`].
pub(super) fn compress512(words: &mut [[u64; 1]; 8], data: &[&[u8]; 1], blocks: usize) {
    with_state(words, |state| sha2::block_api::compress512(state, &data[0].as_chunks().0[..blocks]));
}

/// See [`super::lanes::CompressKnown`]. The crate wants the block itself: the round words less the constants.
pub(super) fn compress_known256(words: &mut [[u32; 1]; 8], schedule: &[u32], times: usize) {
    let mut block = [0; 64];
    for ((bytes, word), k) in block.as_chunks_mut().0.iter_mut().zip(schedule).zip(K256) {
        *bytes = word.wrapping_sub(k).to_be_bytes();
    }
    with_state(words, |state| (0..times).for_each(|_| sha2::block_api::compress256(state, &[block])));
}

/// See [`super::lanes::CompressKnown`]. The crate wants the block itself: the round words less the constants.
pub(super) fn compress_known512(words: &mut [[u64; 1]; 8], schedule: &[u64], times: usize) {
    let mut block = [0; 128];
    for ((bytes, word), k) in block.as_chunks_mut().0.iter_mut().zip(schedule).zip(K512) {
        *bytes = word.wrapping_sub(k).to_be_bytes();
    }
    with_state(words, |state| (0..times).for_each(|_| sha2::block_api::compress512(state, &[block])));
}

fn with_state<W: Copy>(words: &mut [[W; 1]; 8], run: impl FnOnce(&mut [W; 8])) {
    let mut state = words.map(|[word]| word);
    run(&mut state);
    *words = state.map(|word| [word]);
}
