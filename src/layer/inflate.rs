//! Decompression by magic bytes: gzip (any number of members), zstd (any number of frames, skippable ones
//! too) and plain. Knows compressed formats; ignores tar, digests and where buffers come from.

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
    Corrupt { codec: &'static str, detail: String },
    /// The blob ends inside a member or frame.
    #[error("the {0} data ends too early")]
    Truncated(&'static str),
}

/// A decompressor that does no I/O of its own.
pub struct Inflate {}

impl Inflate {
    /// A decompressor that chooses its codec when it has seen enough bytes.
    pub fn new() -> Self {
        todo!()
    }

    /// Moves data from `input` to `output`. `input_ended` says that no bytes will follow those in `input`.
    ///
    /// Makes progress whenever it can: with bytes in `input` (or `input_ended`) and room in `output` it either
    /// consumes, produces or ends. Input that is not consumed must be given again.
    ///
    /// # Errors
    /// Corrupt data, or an end inside a member or frame. The decompressor is of no use afterwards.
    pub fn step(
        &mut self,
        _input: &[u8],
        _output: &mut [u8],
        _input_ended: bool,
    ) -> Result<Progress, InflateError> {
        todo!()
    }

    /// The codec, once it is known.
    pub fn codec(&self) -> Option<Codec> {
        todo!()
    }
}
