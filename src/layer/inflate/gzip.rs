//! Gzip members one after another: headers, deflate bodies, trailers, padding. Knows RFC 1952; ignores how
//! deflate itself works (`zlib-rs` does) and whether input will follow.
//!
//! Wrapper and checksum are ours, not `zlib-rs`'s, for two reasons: its reset always goes to zlib or raw, so
//! a blob of ten thousand members (eStargz) would allocate as many states, and it does not skip padding.

use std::mem::take;

use crc32fast::Hasher;
use zlib_rs::{InflateFlush, Status};

use super::{Codec, InflateError, Trailing};

/// Flags of a member's header; the others are reserved and must be zero.
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Output is inflated and checksummed in pieces of so many bytes: the checksum finds them in the cache, and
/// `zlib-rs` does not save its window too often (64 KiB cost 4 %).
const PIECE: usize = 256 << 10;

/// A gzip decoder inside or between members.
pub struct Gzip {
    place: Place,
    inflate: zlib_rs::Inflate,
}

enum Place {
    /// After the first byte of a member's magic number.
    Magic,
    Header(Header),
    Body(Sums),
    Trailer {
        sums: Sums,
        bytes: [u8; 8],
        have: usize,
    },
    /// After a whole member: a blob may end here, or in zero padding.
    Between,
    /// What follows the last member.
    Padding(Trailing),
}

/// What the trailer must say of the body.
#[derive(Default)]
struct Sums {
    crc: Hasher,
    /// Length modulo 2³².
    size: u32,
}

impl Gzip {
    /// A decoder for a blob whose first two bytes, the magic ones, are already consumed.
    pub fn after_magic() -> Self {
        Self { place: Place::Header(Header::after_magic()), inflate: zlib_rs::Inflate::new(false, 15) }
    }

    /// Decodes until input or room runs out: bytes consumed, bytes produced.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let (mut used, mut made) = (0, 0);
        loop {
            let rest = &input[used..];
            match &mut self.place {
                Place::Header(header) => {
                    used += header.take(rest)?;
                    if header.field != Field::End {
                        break;
                    }
                    self.place = Place::Body(Sums::default());
                }
                Place::Body(sums) => {
                    let (i, o, ended) = body(&mut self.inflate, sums, rest, &mut output[made..])?;
                    (used, made) = (used + i, made + o);
                    if !ended {
                        break;
                    }
                    self.inflate.reset(false);
                    self.place = Place::Trailer { sums: take(sums), bytes: [0; 8], have: 0 };
                }
                Place::Trailer { sums, bytes, have } => {
                    let n = rest.len().min(bytes.len() - *have);
                    bytes[*have..*have + n].copy_from_slice(&rest[..n]);
                    (used, *have) = (used + n, *have + n);
                    if *have < bytes.len() {
                        break;
                    }
                    take(sums).check(*bytes)?;
                    self.place = Place::Between;
                }
                Place::Between => match rest.first() {
                    None => break,
                    Some(0x1f) => {
                        self.place = Place::Magic;
                        used += 1;
                    }
                    Some(_) => self.place = Place::Padding(Trailing::NONE),
                },
                Place::Magic => match rest.first() {
                    None => break,
                    Some(0x8b) => {
                        self.place = Place::Header(Header::after_magic());
                        used += 1;
                    }
                    Some(_) => {
                        self.place = Place::Padding(Trailing { bytes: 1, zeros: false });
                    }
                },
                Place::Padding(trailing) => {
                    trailing.add(rest);
                    used = input.len();
                    break;
                }
            }
        }
        Ok((used, made))
    }

    /// Whether the blob may end here.
    pub fn may_end(&self) -> bool {
        matches!(self.place, Place::Between | Place::Padding(Trailing { zeros: true, .. }))
    }

    /// What follows the last member and must not.
    pub fn trailing(&self) -> Option<Trailing> {
        match self.place {
            Place::Padding(trailing) if !trailing.zeros => Some(trailing),
            _ => None,
        }
    }
}

/// Inflates a part of a member: bytes consumed, bytes produced, whether the deflate stream has ended.
fn body(
    inflate: &mut zlib_rs::Inflate,
    sums: &mut Sums,
    input: &[u8],
    output: &mut [u8],
) -> Result<(usize, usize, bool), InflateError> {
    let (mut used, mut made) = (0, 0);
    loop {
        let until = output.len().min(made + PIECE);
        let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(&input[used..], &mut output[made..until], InflateFlush::NoFlush)
            .map_err(|error| broken(reason(inflate.error_message().unwrap_or(error.as_str()))))?;
        // Both differences are bounded by the slices' lengths.
        let consumed = (inflate.total_in() - in_before) as usize;
        let produced = (inflate.total_out() - out_before) as usize;
        sums.add(&output[made..made + produced]);
        (used, made) = (used + consumed, made + produced);
        let ended = status == Status::StreamEnd;
        if ended || made < until || made == output.len() {
            return Ok((used, made, ended));
        }
    }
}

/// What `zlib-rs` says of broken data, in words that mean something: where its fast loop finds it, it says
/// only that it was asked once more (0.6.8).
fn reason(message: &str) -> &str {
    if message == "repeated call with bad state" { "a member holds what is no deflate data" } else { message }
}

impl Sums {
    fn add(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        // The trailer holds the length modulo 2³²: cutting it off is what is wanted.
        self.size = self.size.wrapping_add(bytes.len() as u32);
    }

    fn check(self, [a, b, c, d, e, f, g, h]: [u8; 8]) -> Result<(), InflateError> {
        if self.crc.finalize() != u32::from_le_bytes([a, b, c, d]) {
            return Err(broken("the checksum of a member does not match"));
        }
        if self.size != u32::from_le_bytes([e, f, g, h]) {
            return Err(broken("the length of a member does not match"));
        }
        Ok(())
    }
}

/// A member's header while it is read. Its contents (names, times) are of no use to us, its rules are.
struct Header {
    field: Field,
    /// Flags of fields that are still to come.
    flags: u8,
    /// Of all bytes up to FHCRC, which holds half of it.
    crc: Hasher,
}

/// The field that the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// One of the eight bytes that follow the magic number in every header, by its offset.
    Fixed(u8),
    ExtraSizeLow,
    ExtraSizeHigh(u8),
    /// So many bytes are left of it.
    Extra(u16),
    /// A name or a comment, up to a zero byte.
    Text,
    CrcLow,
    CrcHigh(u8),
    End,
}

impl Header {
    fn after_magic() -> Self {
        let mut crc = Hasher::new();
        crc.update(&[0x1f, 0x8b]);
        Self { field: Field::Fixed(2), flags: 0, crc }
    }

    /// Reads up to the header's end: bytes consumed.
    fn take(&mut self, input: &[u8]) -> Result<usize, InflateError> {
        for (at, &byte) in input.iter().enumerate() {
            if self.field == Field::End {
                return Ok(at);
            }
            self.push(byte)?;
        }
        Ok(input.len())
    }

    fn push(&mut self, byte: u8) -> Result<(), InflateError> {
        if !matches!(self.field, Field::CrcLow | Field::CrcHigh(_)) {
            self.crc.update(&[byte]);
        }
        self.field = match self.field {
            Field::Fixed(at) => {
                self.fixed(at, byte)?;
                if at < 9 { Field::Fixed(at + 1) } else { self.following() }
            }
            Field::ExtraSizeLow => Field::ExtraSizeHigh(byte),
            Field::ExtraSizeHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.following(),
                size => Field::Extra(size),
            },
            Field::Extra(1) => self.following(),
            Field::Extra(left) => Field::Extra(left - 1),
            Field::Text if byte != 0 => Field::Text,
            Field::Text => self.following(),
            Field::CrcLow => Field::CrcHigh(byte),
            Field::CrcHigh(low) => {
                self.check(u16::from_le_bytes([low, byte]))?;
                Field::End
            }
            Field::End => Field::End,
        };
        Ok(())
    }

    /// Checks one of the first bytes after the magic number; time, extra flags and system may be anything.
    fn fixed(&mut self, at: u8, byte: u8) -> Result<(), InflateError> {
        match (at, byte) {
            (2, 8) => Ok(()),
            (2, method) => Err(broken(format!("a member is compressed by unknown method {method}"))),
            (3, flags) if flags & RESERVED != 0 => Err(broken(format!("unknown header flags {flags:#04x}"))),
            (3, flags) => {
                self.flags = flags;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// RFC 1952: FHCRC holds the two least significant bytes of the CRC-32.
    fn check(&self, stored: u16) -> Result<(), InflateError> {
        if self.crc.clone().finalize() as u16 == stored {
            return Ok(());
        }
        Err(broken("the checksum of a header does not match"))
    }

    /// The field after the one that has just ended.
    fn following(&mut self) -> Field {
        if self.take_flag(FEXTRA) {
            Field::ExtraSizeLow
        } else if self.take_flag(FNAME) || self.take_flag(FCOMMENT) {
            Field::Text
        } else if self.take_flag(FHCRC) {
            Field::CrcLow
        } else {
            Field::End
        }
    }

    fn take_flag(&mut self, flag: u8) -> bool {
        let set = self.flags & flag != 0;
        self.flags &= !flag;
        set
    }
}

fn broken(detail: impl Into<String>) -> InflateError {
    super::corrupt(Codec::Gzip, detail)
}
