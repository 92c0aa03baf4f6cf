//! Blobs of any bytes through our decompressor. Knows what must not depend on how input and room are cut, and that the
//! reference libraries read the same; ignores what is compressed.

use std::{
    io::{BufReader, Read},
    mem::discriminant,
};

use cfs_dag::layer::inflate::{Codec, Inflate, InflateError};
use flate2::bufread::GzDecoder;

use super::{input, memory};

/// Nobody looks further into what comes out: bombs are legal. Four blocks of zstd, sixteen windows of gzip.
const MOST: usize = 512 << 10;

/// All the room that is ever offered at once.
const ROOM: usize = 128 << 10;

/// How far a decoder may run ahead of what it has given out: it may fail for what comes after, or not know of it yet.
const AHEAD: usize = 2 * (128 << 10);

/// What zstd may take for its window, and for its tables and buffers.
const ZSTD_MEMORY: usize = (128 << 20) + (1 << 20);

/// Decompresses a blob with all room at once and in steps.
///
/// The first byte chooses whether the rest is a blob or a raw deflate stream that becomes one, the next four how input
/// and output are cut.
pub fn inflate(data: &[u8]) {
    let ([flags, a, b, c, d], data) = input::head(data);
    let blob = if flags & 1 == 0 { data.to_vec() } else { member(data) };
    let late = flags & 2 != 0;
    let whole = run(&blob, &mut std::iter::repeat(blob.len().max(1)), &mut std::iter::repeat(ROOM), false);
    let cut = run(&blob, &mut input::sizes([a, b]), &mut input::sizes([c, d]), late);
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert!(whole == cut, "the output depends on how the bytes arrive"),
        // How much came out before, and the words of zlib-rs, depend on the room that there was.
        (Err((_, whole)), Err((_, cut))) => {
            assert_eq!(discriminant(whole), discriminant(cut), "{whole} - {cut}");
        }
        (Ok(plain), Err((given, _))) | (Err((given, _)), Ok(plain)) if may_not_know(plain, *given) => {}
        _ => panic!("in one piece {:?}, cut {:?}", whole.err(), cut.err()),
    }
    compare(&blob, whole.map_err(|(given, error)| (given, error.to_string())));
}

/// Whether who stopped at `plain` may not have met what somebody else failed for, who had given out so many bytes.
fn may_not_know(plain: &[u8], given: usize) -> bool {
    plain.len() == MOST && given + AHEAD >= MOST
}

/// Decompresses `blob` up to [`MOST`] bytes, or says how many came out before it failed. `late` announces the end by an
/// empty piece of its own.
fn run(
    blob: &[u8],
    input: &mut dyn Iterator<Item = usize>,
    room: &mut dyn Iterator<Item = usize>,
    late: bool,
) -> Result<Vec<u8>, (usize, InflateError)> {
    let (mut inflate, mut used, mut plain) = (Inflate::new(), 0, Vec::new());
    let mut output = vec![0; ROOM];
    loop {
        let given = &blob[used..blob.len().min(used + input.next().unwrap_or(1))];
        let ended = used + given.len() == blob.len() && (!late || given.is_empty());
        let room = room.next().unwrap_or(1).min(ROOM).min(MOST - plain.len());
        let step = || inflate.step(given, &mut output[..room], ended);
        let progress = memory::bounded("a step", 1 << 20, step).map_err(|error| (plain.len(), error))?;
        assert!(progress.consumed <= given.len() && progress.produced <= room);
        assert!(inflate.memory() <= ZSTD_MEMORY, "{} bytes of memory", inflate.memory());
        used += progress.consumed;
        plain.extend_from_slice(&output[..progress.produced]);
        if progress.ended || plain.len() == MOST {
            assert!(used == blob.len() || plain.len() == MOST);
            return Ok(plain);
        }
        assert!(progress.consumed + progress.produced > 0, "stuck at {used} of {}", blob.len());
    }
}

/// What the reference library makes of it must be the same.
fn compare(blob: &[u8], ours: Result<Vec<u8>, (usize, String)>) {
    let theirs = match Codec::of(blob) {
        Some(Codec::Gzip) => members(blob),
        Some(Codec::Zstd) => frames(blob),
        _ => Ok(blob[..blob.len().min(MOST)].to_vec()),
    };
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => assert!(ours == theirs, "not what the reference library reads"),
        (Ok(ours), Err((given, error))) => {
            let known = !may_not_know(&ours, given);
            assert!(!known, "{} bytes, where the reference fails: {error}", ours.len());
        }
        (Err((given, error)), Ok(theirs)) => {
            let fine = is_stricter(&error, blob) || may_not_know(&theirs, given);
            assert!(fine, "fails where the reference does not: {error}");
        }
        (Err(_), Err(_)) => {}
    }
}

/// Where we refuse more: flate2 does not look at reserved flags, libzstd may take formats before zstd 0.8.
fn is_stricter(error: &str, blob: &[u8]) -> bool {
    let is_old = |magic: &[u8]| matches!(magic, [0x22..=0x27, 0xb5, 0x2f, 0xfd] | [0xfd, 0x2f, 0xb5, 0x1e]);
    let old = error.contains("follow the last zstd frame") && blob.windows(4).any(is_old);
    old || error.contains("unknown header flags")
}

/// gzip as flate2 reads it, member by member, with zeros allowed after the last one.
fn members(blob: &[u8]) -> Result<Vec<u8>, (usize, String)> {
    let (mut plain, mut rest) = (Vec::new(), blob);
    loop {
        let mut member = GzDecoder::new(rest);
        let left = (MOST - plain.len()) as u64;
        let read = Read::by_ref(&mut member).take(left).read_to_end(&mut plain);
        if plain.len() == MOST {
            return Ok(plain);
        }
        read.map_err(|error| (plain.len(), error.to_string()))?;
        rest = member.into_inner();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(plain);
        }
    }
}

/// zstd as libzstd reads a stream: of a whole frame at once it checks the sizes of blocks less.
fn frames(blob: &[u8]) -> Result<Vec<u8>, (usize, String)> {
    let mut plain = Vec::new();
    let pieces = BufReader::with_capacity(4, blob);
    let decoder = zstd::Decoder::with_buffer(pieces).map_err(|error| (0, error.to_string()))?;
    match decoder.take(MOST as u64).read_to_end(&mut plain) {
        Err(error) if plain.len() < MOST => Err((plain.len(), error.to_string())),
        _ => Ok(plain),
    }
}

/// A gzip member around a raw deflate stream, with the right trailer: no mutation would ever hit it.
fn member(deflate: &[u8]) -> Vec<u8> {
    let mut decoder = flate2::bufread::DeflateDecoder::new(deflate);
    let (mut sums, mut chunk) = (flate2::Crc::new(), vec![0; 1 << 16]);
    while let Ok(read @ 1..) = decoder.read(&mut chunk) {
        sums.update(&chunk[..read]);
        if sums.amount() > MOST as u32 {
            break;
        }
    }
    let used = decoder.total_in() as usize;
    let mut blob = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
    blob.extend_from_slice(&deflate[..used]);
    blob.extend_from_slice(&sums.sum().to_le_bytes());
    blob.extend_from_slice(&sums.amount().to_le_bytes());
    blob.extend_from_slice(&deflate[used..]);
    blob
}
