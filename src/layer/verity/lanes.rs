//! Many messages of one length through kernels that hash several at once. Knows lanes;
//! ignores what is hashed and why.
//!
//! A [`Wave`] gathers messages, sorts them by how much of them is data, and gives each group of
//! neighbours to a kernel, one message a lane. Lanes walk in step; what a message lacks to its full
//! length is zeros, and from where all lanes have only zeros the kernel goes on without message
//! schedules. Sorting makes that early.

use super::cpu::Kernels;

/// Bytes of the longest message, which is one block of fs-verity.
pub(super) const BLOCK: usize = 4096;

/// What lanes without data are fed.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// How long every message of a wave is, once zeros are added.
#[derive(Clone, Copy)]
pub(super) enum Length {
    /// A block of data or of digests: 4096 bytes.
    Block,
    /// The descriptor of a file: 256 bytes.
    Descriptor,
}

impl Length {
    /// In bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Block => BLOCK,
            Self::Descriptor => 256,
        }
    }
}

/// One message: its first `len` bytes are those of `first` and then of `rest`, the others are zeros.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    first: &'a [u8],
    rest: &'a [&'a [u8]],
    len: usize,
    /// Which digest of the wave's output this is.
    slot: usize,
}

/// Hashes a group of messages side by side.
pub(super) trait Lanes: Sync {
    /// How many messages it takes at most.
    fn count(&self) -> usize;

    /// Hashes `group`, each of `length`, and writes the digests into their slots of `digests`.
    fn hash(&self, group: &[Message], length: Length, digests: &mut [u8]);
}

/// A word of a state.
pub(super) trait Word: Copy + Sync + 'static {
    /// The bytes of the digest that word number `i` makes.
    fn write(self, digest: &mut [u8], i: usize);
}

impl Word for u32 {
    fn write(self, digest: &mut [u8], i: usize) {
        digest[4 * i..4 * i + 4].copy_from_slice(&self.to_be_bytes());
    }
}

impl Word for u64 {
    fn write(self, digest: &mut [u8], i: usize) {
        digest[8 * i..8 * i + 8].copy_from_slice(&self.to_be_bytes());
    }
}

/// Adds whole blocks, the same number of each lane, to the states. Panics where a lane is too short.
pub(super) type Compress<const N: usize, W> = unsafe fn(&mut [[W; N]; 8], &[&[u8]; N], usize);
/// Adds a known block, given by its round words, to the states, as many times as asked.
pub(super) type CompressKnown<const N: usize, W> = unsafe fn(&mut [[W; N]; 8], &[W], usize);

/// What an algorithm says of itself, whatever the kernel.
pub(super) struct Algorithm<W: 'static> {
    /// The state before the first block.
    pub(super) init: [W; 8],
    /// Round words of a block of zeros.
    pub(super) zeros: &'static [W],
    /// Round words of the padding after a [`Length::Block`].
    pub(super) block_end: &'static [W],
    /// Round words of the padding after a [`Length::Descriptor`].
    pub(super) descriptor_end: &'static [W],
}

/// The code of one algorithm for one kind of cpu, `N` lanes wide.
pub(super) struct Kernel<const N: usize, W: 'static> {
    algorithm: &'static Algorithm<W>,
    compress: Compress<N, W>,
    compress_known: CompressKnown<N, W>,
}

impl<const N: usize, W: Word> Kernel<N, W> {
    /// Joins code and algorithm.
    ///
    /// # Safety
    /// [`Lanes::hash`] may be called only on a cpu that has the instructions of both functions.
    pub(super) const unsafe fn new(
        algorithm: &'static Algorithm<W>,
        compress: Compress<N, W>,
        compress_known: CompressKnown<N, W>,
    ) -> Self {
        Self { algorithm, compress, compress_known }
    }
}

impl<const N: usize, W: Word> Lanes for Kernel<N, W> {
    fn count(&self) -> usize {
        N
    }

    fn hash(&self, group: &[Message], length: Length, digests: &mut [u8]) {
        let block = 16 * size_of::<W>();
        let mut state = self.algorithm.init.map(|word| [word; N]);
        let mut feeds: [Feed; N] = std::array::from_fn(|lane| Feed::new(group.get(lane)));
        let mut left = group.iter().map(|message| message.len.div_ceil(block)).max().unwrap_or(0);
        let zeros = length.bytes() / block - left;
        while left > 0 {
            feeds.iter_mut().for_each(|feed| feed.stage(block));
            let views = feeds.each_ref().map(|feed| feed.view(block));
            let blocks = views.iter().map(|view| view.len() / block).fold(left, usize::min);
            // SAFETY: `new` was promised that the cpu has the instructions.
            unsafe { (self.compress)(&mut state, &views, blocks) };
            feeds.iter_mut().for_each(|feed| feed.advance(blocks * block));
            left -= blocks;
        }
        let end = match length {
            Length::Block => self.algorithm.block_end,
            Length::Descriptor => self.algorithm.descriptor_end,
        };
        // SAFETY: as above.
        unsafe { (self.compress_known)(&mut state, self.algorithm.zeros, zeros) };
        // SAFETY: as above.
        unsafe { (self.compress_known)(&mut state, end, 1) };
        let size = 8 * size_of::<W>();
        for (lane, message) in group.iter().enumerate() {
            let digest = &mut digests[message.slot * size..][..size];
            state.iter().enumerate().for_each(|(i, words)| words[lane].write(digest, i));
        }
    }
}

/// Where one lane is in its message. Data that straddles parts, or ends inside a block, is
/// copied, a block at a time.
struct Feed<'a> {
    now: &'a [u8],
    rest: &'a [&'a [u8]],
    /// Bytes of data not yet fed.
    left: usize,
    copied: Option<[u8; 128]>,
}

impl<'a> Feed<'a> {
    fn new(message: Option<&Message<'a>>) -> Self {
        match message {
            Some(message) => Self { now: message.first, rest: message.rest, left: message.len, copied: None },
            None => Self { now: &[], rest: &[], left: 0, copied: None },
        }
    }

    /// Makes sure that the next block lies in one piece.
    fn stage(&mut self, block: usize) {
        if self.left == 0 || self.now.len().min(self.left) >= block {
            return;
        }
        let mut copy = [0; 128];
        let mut filled = 0;
        let wanted = self.left.min(block);
        while filled < wanted {
            let n = self.now.len().min(wanted - filled);
            let (head, tail) = self.now.split_at(n);
            copy[filled..filled + n].copy_from_slice(head);
            filled += n;
            self.now = tail;
            if filled < wanted {
                (self.now, self.rest) = (self.rest[0], &self.rest[1..]);
            }
        }
        self.left -= wanted;
        self.copied = Some(copy);
    }

    /// At least one block, after [`Feed::stage`].
    fn view(&self, block: usize) -> &[u8] {
        match &self.copied {
            Some(copy) => &copy[..block],
            None if self.left == 0 => &ZEROS,
            None => &self.now[..self.now.len().min(self.left)],
        }
    }

    /// Steps over `n` bytes of what was in view.
    fn advance(&mut self, n: usize) {
        if self.copied.take().is_none() && self.left > 0 {
            self.now = &self.now[n..];
            self.left -= n;
        }
    }
}

/// Messages on their way to the kernels, digests in the order in which the messages came.
pub(super) struct Wave<'a, 'd> {
    kernels: &'static Kernels,
    length: Length,
    digests: &'d mut [u8],
    waiting: Vec<Message<'a>>,
    slot: usize,
}

/// Messages that wait for one another: enough to sort well, few enough to be still in the
/// cache when they are read.
const GATHER: usize = 256;

impl<'a, 'd> Wave<'a, 'd> {
    /// A wave of messages of `length`. `digests` has room for all that will be pushed or kept.
    pub(super) fn new(kernels: &'static Kernels, length: Length, digests: &'d mut [u8]) -> Self {
        let waiting = Vec::with_capacity(GATHER.min(digests.len() / kernels.digest_bytes));
        Self { kernels, length, digests, waiting, slot: 0 }
    }

    /// Adds the message of the next `len` bytes of `first` and `rest`.
    pub(super) fn push(&mut self, first: &'a [u8], rest: &'a [&'a [u8]], len: usize) {
        self.waiting.push(Message { first, rest, len, slot: self.slot });
        self.slot += 1;
        if self.waiting.len() == GATHER {
            self.flush();
        }
    }

    /// Puts a digest that is known already in the next place.
    pub(super) fn keep(&mut self, digest: &[u8]) {
        self.digests[self.slot * digest.len()..][..digest.len()].copy_from_slice(digest);
        self.slot += 1;
    }

    /// Hashes what waits.
    pub(super) fn flush(&mut self) {
        self.waiting.sort_unstable_by_key(|message| std::cmp::Reverse(message.len));
        let mut waiting = &self.waiting[..];
        while !waiting.is_empty() {
            let lanes = self.kernels.for_count(waiting.len());
            let (group, later) = waiting.split_at(waiting.len().min(lanes.count()));
            lanes.hash(group, self.length, self.digests);
            waiting = later;
        }
        self.waiting.clear();
    }
}
