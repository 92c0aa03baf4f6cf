//! Decompression by magic bytes: gzip (any number of members), zstd (any number of frames, skippable ones
//! too) and plain. Knows compressed formats; ignores tar, digests and where buffers come from.

mod foreign;
mod gzip;
#[cfg(test)]
mod tests;
mod zstd;

use self::{gzip::Gzip, zstd::Zstd};

/// How a blob is compressed, told from its first bytes: labels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed, or in a way that we do not know.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// The codec of a blob that begins with `bytes`, or `None` while more of them are
    /// needed: four are enough.
    ///
    /// Skippable frames count as zstd, for zstd:chunked may open with one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [] | [0x1f] => None,
            [0x28] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f] => None,
            [0x50..=0x5f] | [0x50..=0x5f, 0x2a] | [0x50..=0x5f, 0x2a, 0x4d] => None,
            _ => Some(Self::Plain),
        }
    }

    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of input used up.
    pub consumed: usize,
    /// Bytes of output made.
    pub produced: usize,
    /// Whether the stream has ended well; further steps do nothing.
    pub ended: bool,
}

/// Why a blob cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The data breaks the format's rules.
    #[error("the {codec} data is corrupt: {detail}")]
    Corrupt {
        /// The codec's name.
        codec: &'static str,
        /// Which rule, in words.
        detail: String,
    },
    /// The blob ends inside a member or frame.
    #[error("the {0} data ends too early")]
    Truncated(&'static str),
    /// Bytes after the last member or frame that are neither one nor, for gzip, zeros alone.
    #[error("{}", trailing_text(.codec, *.bytes, *.zeros))]
    Trailing {
        /// The codec's name.
        codec: &'static str,
        /// How many.
        bytes: u64,
        /// Whether all of them are zero.
        zeros: bool,
    },
    /// A zstd frame that refers to a dictionary, which is not part of a blob.
    #[error(
        "a zstd frame needs a dictionary, which OCI does not have: rebuild the image with zstd without one"
    )]
    Dictionary,
    /// What is, or is inside, the blob is in a format that OCI does not have, or is compressed once more.
    #[error("{}", foreign_text(.outer, .inner))]
    Foreign {
        /// Name of the codec that the blob has.
        outer: &'static str,
        /// Name of the format that came out.
        inner: &'static str,
    },
    /// A zstd frame wants more memory than the 128 MiB that every decoder must allow.
    #[error(
        "a zstd frame asks for a window above 128 MiB: it is hostile, or was made with --long=28 or more"
    )]
    WindowTooLarge,
}

/// A decompressor that does no I/O of its own.
///
/// Besides small tables it holds a window: 32 KiB for gzip, for zstd what the frame asks for, which is up to
/// 8 MiB for common levels and never above 128 MiB.
pub struct Inflate {
    state: State,
    head: Head,
}

/// The first bytes of the output.
#[derive(Default)]
struct Head {
    bytes: [u8; foreign::HEAD],
    len: usize,
}

enum State {
    /// The bytes seen so far fit more than one codec.
    Choosing(Held),
    /// The bytes consumed while choosing come out first.
    Plain(Held),
    Gzip(Box<Gzip>),
    Zstd(Zstd),
    Ended(Codec),
}

/// The first bytes of a blob, consumed before the codec was known.
#[derive(Clone, Copy, Default)]
struct Held {
    bytes: [u8; 4],
    start: usize,
    end: usize,
}

impl Inflate {
    /// A decompressor that chooses its codec when it has seen enough bytes.
    pub fn new() -> Self {
        Self { state: State::Choosing(Held::default()), head: Head::default() }
    }

    /// The memory that it takes now, in bytes. A zstd frame decides that by its header: it grows in the step
    /// that reads one, before the window is filled.
    pub fn memory(&self) -> usize {
        match &self.state {
            State::Zstd(zstd) => zstd.memory(),
            _ => size_of::<Self>(),
        }
    }

    /// Moves data from `input` to `output`. `input_ended` says that no bytes will follow those in `input`.
    ///
    /// Makes progress whenever it can: with bytes in `input` (or `input_ended`) and room in `output` it
    /// either consumes, produces or ends. Input that is not consumed must be given again. Output beyond
    /// `produced` bytes is left as it was or overwritten with garbage.
    ///
    /// # Errors
    /// Corrupt data, or an end inside a member or frame. The decompressor is of no use afterwards.
    pub fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        input_ended: bool,
    ) -> Result<Progress, InflateError> {
        let chosen = self.choose(input, input_ended)?;
        let rest = &input[chosen..];
        let (consumed, produced) = match &mut self.state {
            State::Choosing(_) | State::Ended(_) => (0, 0),
            State::Plain(held) => held.copy(rest, output),
            State::Gzip(gzip) => gzip.step(rest, output)?,
            State::Zstd(zstd) => zstd.step(rest, output)?,
        };
        self.head.add(&output[..produced]);
        let consumed = chosen + consumed;
        let mut progress = Progress { consumed, produced, ended: false };
        if input_ended && consumed == input.len() {
            progress.ended = self.end(produced < output.len())?;
        }
        Ok(progress)
    }

    /// The codec, once it is known.
    pub fn codec(&self) -> Option<Codec> {
        match self.state {
            State::Choosing(_) => None,
            State::Plain(_) => Some(Codec::Plain),
            State::Gzip(_) => Some(Codec::Gzip),
            State::Zstd(_) => Some(Codec::Zstd),
            State::Ended(codec) => Some(codec),
        }
    }

    /// Where what came out is not a tar: what its first bytes say instead, if they say anything.
    pub fn foreign(&self) -> Option<InflateError> {
        let inner = foreign::format(&self.head.bytes[..self.head.len])?;
        Some(InflateError::Foreign { outer: self.codec()?.name(), inner })
    }

    /// Consumes bytes until they tell the codec, and tells how many.
    fn choose(&mut self, input: &[u8], input_ended: bool) -> Result<usize, InflateError> {
        let State::Choosing(held) = &mut self.state else { return Ok(0) };
        let mut consumed = 0;
        let codec = loop {
            match (Codec::of(held.as_slice()), input.get(consumed)) {
                (Some(codec), _) => break codec,
                (None, Some(&byte)) => held.push(byte),
                (None, None) if input_ended => break Codec::Plain,
                (None, None) => return Ok(consumed),
            }
            consumed += 1;
        };
        let held = *held;
        self.state = match codec {
            Codec::Plain => State::Plain(held),
            Codec::Gzip => State::Gzip(Box::new(Gzip::after_magic())),
            Codec::Zstd => State::Zstd(Zstd::after_magic(held.as_slice())?),
        };
        Ok(consumed)
    }

    /// Ends the stream if it may end after the input that is now used up. `room` says that the codec stopped
    /// with output to spare, so that it has nothing more to give.
    fn end(&mut self, room: bool) -> Result<bool, InflateError> {
        let Some(codec) = self.codec() else { return Ok(false) };
        let (may_end, trailing) = match &self.state {
            State::Choosing(_) => (false, None),
            State::Plain(held) => (held.as_slice().is_empty(), None),
            State::Gzip(gzip) => (gzip.may_end(), gzip.trailing()),
            State::Zstd(zstd) => (zstd.may_end(), zstd.trailing()),
            State::Ended(_) => (true, None),
        };
        if let Some(Trailing { bytes, zeros }) = trailing {
            return Err(InflateError::Trailing { codec: codec.name(), bytes, zeros });
        }
        if may_end {
            self.state = State::Ended(codec);
        } else if room {
            return Err(InflateError::Truncated(codec.name()));
        }
        Ok(may_end)
    }
}

/// What follows the last member or frame and does not belong there; counted to the blob's end.
#[derive(Clone, Copy)]
struct Trailing {
    bytes: u64,
    zeros: bool,
}

impl Trailing {
    /// Nothing yet.
    const NONE: Self = Self { bytes: 0, zeros: true };

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.zeros &= bytes.iter().all(|byte| *byte == 0);
    }
}

impl Default for Inflate {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    fn add(&mut self, output: &[u8]) {
        let taken = output.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&output[..taken]);
        self.len += taken;
    }
}

impl Held {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Adds a byte; `Codec::of` decides after four at most.
    fn push(&mut self, byte: u8) {
        self.bytes[self.end] = byte;
        self.end += 1;
    }

    /// Copies what is held, then `input`, as far as `output` has room: bytes of each that moved.
    fn copy(&mut self, input: &[u8], output: &mut [u8]) -> (usize, usize) {
        let first = (self.end - self.start).min(output.len());
        output[..first].copy_from_slice(&self.as_slice()[..first]);
        self.start += first;
        let second = input.len().min(output.len() - first);
        output[first..first + second].copy_from_slice(&input[..second]);
        (second, first + second)
    }
}

fn corrupt(codec: Codec, detail: impl Into<String>) -> InflateError {
    InflateError::Corrupt { codec: codec.name(), detail: detail.into() }
}

fn trailing_text(codec: &str, bytes: u64, zeros: bool) -> String {
    let (unit, not) = match codec {
        "gzip" => ("member", "neither a member nor zero padding"),
        _ if zeros => ("frame", "zero padding, which zstd does not have"),
        _ => ("frame", "not a zstd frame"),
    };
    let (bytes, follow) = match bytes {
        1 => ("1 byte".to_owned(), "follows"),
        _ => (format!("{bytes} bytes"), "follow"),
    };
    format!("{bytes} {follow} the last {codec} {unit}, {not}: rebuild the image")
}

fn foreign_text(outer: &str, inner: &str) -> String {
    if outer == Codec::Plain.name() {
        format!(
            "the blob is {inner}-compressed, which OCI does not know: rebuild the image with gzip or zstd"
        )
    } else {
        format!(
            "the blob is compressed twice, {inner} inside {outer}: rebuild the image with one of gzip and \
             zstd"
        )
    }
}
