//! What a target reads from the front of its input besides the data. Knows bytes; ignores what they are for.

/// The first `N` bytes and the rest. Missing bytes are zeros.
pub fn head<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    let mut head = [0; N];
    let taken = data.len().min(N);
    head[..taken].copy_from_slice(&data[..taken]);
    (head, &data[taken..])
}

/// Sizes of pieces, without end; each at least 1.
///
/// The upper two bits of `shape` choose how large, so that runs of single bytes and pieces of many blocks come up alike.
pub fn sizes([shape, seed]: [u8; 2]) -> impl Iterator<Item = usize> {
    let most = [4, 40, 700, 70_000][usize::from(shape >> 6)];
    let mut state = u32::from_le_bytes([shape, seed, 0, 0]);
    std::iter::repeat_with(move || {
        // The usual constants of a linear congruential generator; its upper bits are the good ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 12) as usize % most + 1
    })
}

/// The parts of `data` between lines of a single `%`, which no format here has.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(3).position(|three| three == b"\n%\n") {
        parts.push(&rest[..at]);
        rest = &rest[at + 3..];
    }
    parts.push(rest);
    parts
}
