//! SHA-2 over several messages at once, one a lane. Knows rounds and schedules; ignores
//! cpus and Merkle trees.
//!
//! SHA-256 and SHA-512 are the same rounds over words of another width, so they are written once, over
//! [`Words`]: the same word of `N` messages side by side. How a cpu does that is in `x86.rs`. A block of
//! sixteen words known beforehand (zeros, the padding) needs no message schedule, which is a third of the
//! work, and most of what a small file hashes is zeros: [`compress_known`] is for them.

/// The same word of `N` messages, side by side.
///
/// A value exists only where the cpu has what its operations need: the constructors are
/// unsafe, the rest is not.
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

    /// The sixteen big-endian words of each lane's block, which starts at byte `at`. Panics
    /// where a lane is too short.
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
        $crate::layer::verity::rounds::sigmas!(28 34 39, 14 18 41, 1 8 7, 19 61 6);
    };
    (u32) => {
        $crate::layer::verity::rounds::sigmas!(2 13 22, 6 11 25, 7 18 3, 17 19 10);
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

/// Compresses `blocks` whole blocks of each lane into `state`. `k` are the algorithm's round constants.
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

/// Compresses `times` copies of one known block, the same in every lane, given as its round words.
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
