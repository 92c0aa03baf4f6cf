//! Tests of decompression against `flate2` and `zstd` in one go. Knows how to build blobs, good and bad;
//! ignores what is in them.

use std::io::{Read, Write};

use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder, write::GzEncoder};
use proptest::prelude::*;

use super::{Codec, Inflate, InflateError};

/// Decompresses `blob`, giving and taking the sizes of `input` and `output` in turn. With `late_end` the end
/// is announced by an empty piece of its own. Fails if a step that could move something does not.
fn inflate(blob: &[u8], input: &[usize], output: &[usize], late_end: bool) -> Result<Vec<u8>, InflateError> {
    let (mut inflate, mut used, mut plain) = (Inflate::new(), 0, Vec::new());
    let mut buffer = vec![0xaa; output.iter().copied().max().unwrap_or(1)];
    for turn in 0.. {
        let given = &blob[used..blob.len().min(used + input[turn % input.len()])];
        let ended = used + given.len() == blob.len() && (!late_end || given.is_empty());
        let room = output[turn % output.len()];
        let progress = inflate.step(given, &mut buffer[..room], ended)?;
        used += progress.consumed;
        plain.extend_from_slice(&buffer[..progress.produced]);
        if progress.ended {
            assert_eq!(used, blob.len());
            assert!(inflate.step(b"more", &mut buffer, true).is_ok_and(|p| p.consumed + p.produced == 0));
            break;
        }
        assert!(progress.consumed + progress.produced > 0, "stuck at {used} of {}", blob.len());
    }
    Ok(plain)
}

fn whole(blob: &[u8]) -> Result<Vec<u8>, InflateError> {
    inflate(blob, &[1 << 20], &[1 << 20], false)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frame(plain: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn skippable(kind: u8, content: &[u8]) -> Vec<u8> {
    let size = (content.len() as u32).to_le_bytes();
    [&[0x50 + kind, 0x2a, 0x4d, 0x18][..], &size, content].concat()
}

/// Text with repeats at all distances, and noise between.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 29 {
            0 => out.extend_from_slice(&state.to_le_bytes()),
            1 if out.len() > 5000 => out.extend_from_within(out.len() - 5000..out.len() - 4900),
            n => out.extend_from_slice(&b"usr/share/doc/libcomposefs/changelog"[n as usize..]),
        }
    }
    out.truncate(size);
    out
}

/// A member with every optional field, and the header's length.
fn full_header(plain: &[u8]) -> (Vec<u8>, usize) {
    let mut header = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 2, 3];
    header.extend_from_slice(b"\x05\x00extra");
    header.extend_from_slice(b"name\0a comment\0");
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes()[..2]);
    let size = header.len();
    header.extend_from_slice(&gzip(plain)[10..]);
    (header, size)
}

/// Sizes of pieces: mostly tiny, sometimes large.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1), 1..20usize, 1..5000usize, 1..200_000usize], 1..20)
}

/// Contents of members or frames: empty, small, and larger than zstd's blocks.
fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let part = prop_oneof![
        Just(Vec::new()),
        (0..300_000usize).prop_map(sample),
        prop::collection::vec(any::<u8>(), 0..2000),
    ];
    prop::collection::vec(part, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // However input and output are cut, a gzip blob of any members gives what flate2 gives in one go.
    #[test]
    fn any_cut_of_gzip_gives_the_same(parts in parts(), i in sizes(), o in sizes(), late: bool,
        zeros in 0..9usize) {
        let mut blob: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
        let mut expected = Vec::new();
        MultiGzDecoder::new(&blob[..]).read_to_end(&mut expected).unwrap();
        blob.resize(blob.len() + zeros, 0);
        prop_assert!(inflate(&blob, &i, &o, late).unwrap() == expected);
    }

    // However input and output are cut, zstd frames with skippable ones between give what
    // libzstd gives in one go.
    #[test]
    fn any_cut_of_zstd_gives_the_same(parts in parts(), i in sizes(), o in sizes(), late: bool, first: bool) {
        let mut blob = if first { skippable(3, b"zstd:chunked") } else { Vec::new() };
        for (n, part) in parts.iter().enumerate() {
            blob.extend(zstd_frame(part));
            if n % 2 == 0 {
                blob.extend(skippable(n as u8, &part[..part.len().min(70)]));
            }
        }
        let expected = zstd::decode_all(&blob[..]).unwrap();
        prop_assert!(inflate(&blob, &i, &o, late).unwrap() == expected);
        prop_assert!(expected == parts.concat());
    }

    // Bytes that begin with no magic come out as they are.
    #[test]
    fn any_cut_of_plain_gives_the_same(tail in prop::collection::vec(any::<u8>(), 0..300), i in sizes(),
        o in sizes(),
                                       late: bool, head in 0..8usize) {
        let heads: [&[u8]; 8] = [b"", b"\x1f", b"\x28\xb5\x2f", b"\x5a\x2a\x4d", b"\x50", b"\x28",
            b"\x28\xb5", b"ab"];
        let blob = [heads[head], b"\0", &tail].concat();
        prop_assert_eq!(inflate(&blob, &i, &o, late).unwrap(), blob);
    }

    // Bytes that begin with a magic and go on at random end in an error or in an answer,
    // never in a panic or a loop.
    #[test]
    fn noise_is_survived(tail in prop::collection::vec(any::<u8>(), 0..3000), gzip: bool, i in sizes(),
        o in sizes()) {
        let head: &[u8] = if gzip { b"\x1f\x8b\x08\x00\0\0\0\0\0\0" } else { b"\x28\xb5\x2f\xfd" };
        let _ = inflate(&[head, &tail].concat(), &i, &o, false);
    }
}

#[test]
fn one_byte_in_and_one_byte_out_is_enough() {
    let plain = sample(140_000);
    for blob in [gzip(&plain), zstd_frame(&plain), plain.clone()] {
        for late_end in [false, true] {
            assert!(inflate(&blob, &[1], &[1], late_end).unwrap() == plain);
        }
    }
}

#[test]
fn a_large_buffer_is_filled_whatever_lies_in_it() {
    let parts = [sample(900_000), sample(10), sample(700_000)];
    let members: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
    let frames: Vec<u8> = parts.iter().flat_map(|part| zstd_frame(part)).collect();
    for blob in [members, frames, parts.concat()] {
        let mut buffer = vec![0xaa; 2 << 20];
        let progress = Inflate::new().step(&blob, &mut buffer, true).unwrap();
        assert!(progress.ended && buffer[..progress.produced] == parts.concat());
    }
}

#[test]
fn the_first_bytes_tell_the_codec() {
    let codec_of = |blob: &[u8]| {
        let mut inflate = Inflate::new();
        inflate.step(blob, &mut [0; 64], true).unwrap();
        inflate.codec().unwrap()
    };
    assert_eq!(codec_of(b""), Codec::Plain);
    assert_eq!(codec_of(b"\x1f"), Codec::Plain);
    assert_eq!(codec_of(b"\x28\xb5\x2f"), Codec::Plain);
    assert_eq!(codec_of(b"usr/bin"), Codec::Plain);
    assert_eq!(codec_of(&gzip(b"x")), Codec::Gzip);
    assert_eq!(codec_of(&zstd_frame(b"x")), Codec::Zstd);
    assert_eq!(codec_of(&skippable(15, b"")), Codec::Zstd);
    assert_eq!(Inflate::new().codec(), None);
}

#[test]
fn an_empty_blob_is_plain_and_empty() {
    assert!(whole(b"").unwrap().is_empty());
    let mut inflate = Inflate::new();
    assert!(inflate.step(b"", &mut [], true).unwrap().ended);
}

#[test]
fn every_header_field_is_skipped_and_the_header_checksum_counts() {
    let (blob, header) = full_header(b"contents");
    for size in [1, 3, 1000] {
        assert_eq!(inflate(&blob, &[size], &[1000], false).unwrap(), b"contents");
    }
    for at in 2..header {
        let mut flipped = blob.clone();
        flipped[at] ^= 0x40;
        assert!(matches!(whole(&flipped), Err(InflateError::Corrupt { .. } | InflateError::Truncated(_))));
    }
    let reference =
        GzBuilder::new().filename("n").comment("c").extra(vec![]).write(Vec::new(), Compression::fast());
    assert!(whole(&reference.finish().unwrap()).unwrap().is_empty());
}

#[test]
fn a_gzip_blob_may_end_only_between_members() {
    let first = full_header(&sample(3000)).0;
    let blob = [&first[..], &gzip(b"second")].concat();
    for cut in 2..blob.len() {
        for (i, o) in [(1 << 20, 1 << 20), (1, 7)] {
            match inflate(&blob[..cut], &[i], &[o], i == 1) {
                Ok(plain) => assert!(cut == first.len() && plain == sample(3000), "cut at {cut}"),
                Err(InflateError::Truncated("gzip")) => assert_ne!(cut, first.len()),
                Err(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

#[test]
fn a_zstd_blob_may_end_only_between_frames() {
    let frames = [zstd_frame(&sample(3000)), skippable(0, b"table of contents"), zstd_frame(b"second")];
    let blob = frames.concat();
    let ends = [frames[0].len(), frames[0].len() + frames[1].len()];
    for cut in 4..blob.len() {
        for (i, o) in [(1 << 20, 1 << 20), (1, 7)] {
            match inflate(&blob[..cut], &[i], &[o], i == 1) {
                Ok(plain) => assert!(ends.contains(&cut) && plain == sample(3000), "cut at {cut}"),
                Err(InflateError::Truncated("zstd")) => assert!(!ends.contains(&cut)),
                Err(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let plain = sample(2000);
    for (blob, magic) in [([gzip(&plain), gzip(b"more")].concat(), 2), (zstd_frame(&plain), 4)] {
        let expected = whole(&blob).unwrap();
        for bit in magic * 8..blob.len() * 8 {
            let mut flipped = blob.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A time stamp or a larger window changes nothing.
            assert!(whole(&flipped).map_or(true, |got| got == expected), "bit {bit}");
        }
    }
}

#[test]
fn garbage_after_the_end_is_refused_and_zeros_are_not() {
    let blob = gzip(b"contents");
    let with = |tail: &[u8]| whole(&[&blob, tail].concat());
    assert_eq!(with(&[0; 1000]).unwrap(), b"contents");
    for tail in [&b"x"[..], b"\x1f\x8c", b"\0\0\0x", b"\0\x1f\x8b"] {
        let follow = if tail.len() == 1 { "1 byte follows" } else { &format!("{} bytes follow", tail.len()) };
        let want =
            format!("{follow} the last gzip member, neither a member nor zero padding: rebuild the image");
        for step in [1, 2, 1000] {
            let error = inflate(&[&blob, tail].concat(), &[step], &[100], step == 1).unwrap_err();
            assert_eq!(error.to_string(), want, "{tail:x?} by {step}");
        }
    }
    assert!(matches!(with(b"\x1f"), Err(InflateError::Truncated("gzip"))));
}

#[test]
fn bytes_after_the_last_zstd_frame_are_counted_however_they_arrive() {
    let follow = |bytes: usize, not: &str| {
        format!("{bytes} bytes follow the last zstd frame, {not}: rebuild the image")
    };
    let padding = "zero padding, which zstd does not have";
    for (tail, want) in [
        (vec![0; 512], follow(512, padding)),
        (vec![0; 3000], follow(3000, padding)),
        (b"\x28\xb5x".to_vec(), follow(3, "not a zstd frame")),
        ([vec![0; 600], b"x".to_vec()].concat(), follow(601, "not a zstd frame")),
        (gzip(b"more"), follow(gzip(b"more").len(), "not a zstd frame")),
    ] {
        let blob = [&zstd_frame(b"contents")[..], &skippable(2, b"table"), &tail].concat();
        for step in [1, 3, 100, blob.len()] {
            let error = inflate(&blob, &[step], &[100], step == 1).unwrap_err();
            assert_eq!(error.to_string(), want, "by {step}");
        }
    }
}

#[test]
fn a_frame_that_needs_a_dictionary_is_told_as_one() {
    // Frame header: a dictionary id of one byte, a window of 128 KiB; an empty raw block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 1, 7 << 3, 42, 1, 0, 0];
    assert!(matches!(whole(&frame), Err(InflateError::Dictionary)));
}

#[test]
fn the_first_bytes_of_what_came_out_name_formats_that_are_not_tars() {
    let xz = b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46\x02\0\x21\x01";
    let lzma = b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x3a";
    for (head, name) in [
        (&xz[..], "xz"),
        (b"BZh91AY&SY\0\0\0\0", "bzip2"),
        (b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0", "bzip2"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4"),
        (b"\x02\x21\x4c\x18\0\0\0\0", "lz4"),
        (b"LZIP\x01\x0c", "lzip"),
        (b"\x1f\x9d\x90\0", "compress (.Z)"),
        (b"\x89LZO\0\r\n\x1a\n", "lzo"),
        (b"\x27\xb5\x2f\xfd\0", "zstd before 0.8"),
        (lzma, "lzma"),
    ] {
        for blob in [head.to_vec(), gzip(head), zstd_frame(head)] {
            let mut inflate = Inflate::new();
            assert!(inflate.step(&blob, &mut [0; 64], true).unwrap().ended);
            let text = inflate.foreign().unwrap().to_string();
            let want = match inflate.codec().unwrap() {
                Codec::Plain => format!("the blob is {name}-compressed, which OCI does not know"),
                codec => format!("the blob is compressed twice, {name} inside {}", codec.name()),
            };
            assert!(text.starts_with(&want), "{text}");
        }
    }
    for head in [&b"usr/bin"[..], b"BZh9", b"BZh9 is a name", b"LZIP", b"\x5d\0\0\0\0", b"", b"\xfd7zXZ"] {
        let mut inflate = Inflate::new();
        assert!(inflate.step(head, &mut [0; 64], true).unwrap().ended);
        assert!(inflate.foreign().is_none(), "{head:x?}");
    }
}

#[test]
fn a_frame_of_a_format_before_zstd_0_8_is_refused_however_it_arrives() {
    let magics = (0x22..=0x27).map(|first| [first, 0xb5, 0x2f, 0xfd]).chain([[0xfd, 0x2f, 0xb5, 0x1e]]);
    for magic in magics {
        let blob = [&skippable(3, b"table")[..], &magic, &[0; 40]].concat();
        for step in [1, 2, 3, 5, blob.len()] {
            let error = inflate(&blob, &[step], &[100], false).unwrap_err().to_string();
            assert!(error.contains("44 bytes follow the last zstd frame"), "{magic:x?} by {step}: {error}");
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let message = |blob: &[u8]| whole(blob).unwrap_err().to_string();
    let mut blob = gzip(b"contents");
    let end = blob.len();
    blob[end - 1] ^= 1;
    assert_eq!(message(&blob), "the gzip data is corrupt: the length of a member does not match");
    blob[end - 8] ^= 1;
    assert_eq!(message(&blob), "the gzip data is corrupt: the checksum of a member does not match");
    assert_eq!(
        message(b"\x1f\x8b\x07"),
        "the gzip data is corrupt: a member is compressed by unknown method 7"
    );
    assert_eq!(message(b"\x1f\x8b\x08\x80"), "the gzip data is corrupt: unknown header flags 0x80");
    assert_eq!(message(b"\x1f\x8b"), "the gzip data ends too early");
    let mut blob = zstd_frame(b"contents");
    *blob.last_mut().unwrap() ^= 1;
    assert_eq!(message(&blob), "the zstd data is corrupt: restored data doesn't match checksum");
}

#[test]
fn a_window_above_128_mib_is_refused_before_it_is_allocated() {
    // Frame header: no content size, window descriptor = exponent and mantissa of the
    // window; an empty raw block.
    let frame = |descriptor| [&[0x28, 0xb5, 0x2f, 0xfd, 0, descriptor][..], &[1, 0, 0]].concat();
    assert_eq!(whole(&frame(17 << 3)).unwrap(), b"");
    assert!(matches!(whole(&frame(17 << 3 | 1)), Err(InflateError::WindowTooLarge)));
    assert!(matches!(whole(&frame(0xff)), Err(InflateError::WindowTooLarge)));
}

#[test]
fn a_decompressor_moves_between_threads() {
    fn movable<T: Send>() {}
    movable::<Inflate>();
}
