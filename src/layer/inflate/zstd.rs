//! Zstd frames one after another, skippable ones too. Knows how libzstd's streaming interface behaves;
//! ignores the format inside of frames and whether input will follow.
//!
//! Where frames begin is not left to libzstd: built with the formats before zstd 0.8, as some
//! crate always wants it, it takes or refuses such a frame depending on how the bytes arrive, and
//! does not count its memory.

use zstd::zstd_safe::{
    DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, get_error_name, zstd_sys::ZSTD_ErrorCode,
};

use super::{Codec, InflateError, Trailing};

/// The largest window accepted, as a power of two: 128 MiB, which is also what `zstd` allows by default.
const WINDOW_LOG_MAX: u32 = 27;

/// A zstd decoder inside or between frames.
pub struct Zstd {
    context: DCtx<'static>,
    in_frame: bool,
    /// The first bytes of the next frame, and how many there are.
    magic: ([u8; 4], usize),
    /// The last call filled the output: decoded bytes may wait inside.
    full: bool,
    /// What follows the last frame and is not one; nothing more is decoded then.
    trailing: Option<Trailing>,
}

impl Zstd {
    /// A decoder for a blob whose first four bytes, the magic ones, are already consumed and given here.
    pub fn after_magic(magic: &[u8]) -> Result<Self, InflateError> {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(broken)?;
        let mut decoder = Self { context, in_frame: false, magic: ([0; 4], 0), full: false, trailing: None };
        for byte in magic {
            decoder.begin(*byte)?;
        }
        Ok(decoder)
    }

    /// Decodes until input or room runs out: bytes consumed, bytes produced.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let room = output.len();
        let mut source = InBuffer::around(input);
        let mut sink = OutBuffer::around(output);
        // libzstd fails at the sixteenth call that moves nothing, so it is called only if there
        // is hope; and so this ends.
        while sink.pos() < room && (source.pos() < input.len() || self.full) {
            if self.in_frame {
                self.run(&mut source, &mut sink)?;
            } else if let Some(trailing) = &mut self.trailing {
                trailing.add(&input[source.pos()..]);
                source.set_pos(input.len());
            } else {
                self.begin(input[source.pos()])?;
                source.set_pos(source.pos() + 1);
            }
        }
        Ok((source.pos(), sink.pos()))
    }

    /// The memory that it takes now, in bytes: mostly the window of the last frame.
    pub fn memory(&self) -> usize {
        self.context.sizeof()
    }

    /// Whether the blob may end here.
    pub fn may_end(&self) -> bool {
        !self.in_frame && self.magic.1 == 0 && self.trailing.is_none()
    }

    /// What follows the last frame and must not.
    pub fn trailing(&self) -> Option<Trailing> {
        self.trailing
    }

    /// Takes the next byte of a frame's magic number.
    fn begin(&mut self, byte: u8) -> Result<(), InflateError> {
        let (magic, known) = &mut self.magic;
        magic[*known] = byte;
        *known += 1;
        match Codec::of(&magic[..*known]) {
            None => Ok(()),
            Some(Codec::Zstd) => {
                let magic = *magic;
                *known = 0;
                // No header is shorter than five bytes, so that these are consumed and nothing comes out.
                self.run(&mut InBuffer::around(&magic), &mut OutBuffer::around(&mut []))
            }
            Some(_) => {
                let mut trailing = Trailing::NONE;
                trailing.add(&magic[..*known]);
                self.trailing = Some(trailing);
                Ok(())
            }
        }
    }

    fn run(&mut self, source: &mut InBuffer, sink: &mut OutBuffer<[u8]>) -> Result<(), InflateError> {
        let hint = self.context.decompress_stream(sink, source).map_err(broken)?;
        self.in_frame = hint != 0;
        self.full = self.in_frame && sink.pos() == sink.capacity();
        Ok(())
    }
}

fn broken(code: ErrorCode) -> InflateError {
    // libzstd returns errors as negative numbers in an unsigned type (zstd_errors.h).
    if code == (ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge as usize).wrapping_neg() {
        return InflateError::WindowTooLarge;
    }
    if code == (ZSTD_ErrorCode::ZSTD_error_dictionary_wrong as usize).wrapping_neg() {
        return InflateError::Dictionary;
    }
    super::corrupt(Codec::Zstd, get_error_name(code).to_lowercase())
}
