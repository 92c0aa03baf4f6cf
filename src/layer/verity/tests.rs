//! The digests against upstream's, with every kernel that this cpu can run. Knows both; ignores speed.

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue, compute_verity};
use proptest::prelude::*;

use super::cpu::{Kernels, all256, all512};
use super::{
    SEGMENT, SegmentDigests, digest, digest_into, digest_many, join, join_with, segment, segment_with,
};

/// All kernels of an algorithm that this cpu has.
trait EachKernel: FsVerityHashValue {
    fn kernels() -> Vec<&'static Kernels>;
}

impl EachKernel for Sha256HashValue {
    fn kernels() -> Vec<&'static Kernels> {
        all256()
    }
}

impl EachKernel for Sha512HashValue {
    fn kernels() -> Vec<&'static Kernels> {
        all512()
    }
}

/// Bytes that repeat nowhere near a block's length.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    (0..len).map(|_| step()).collect()
}

/// Cuts `data` where `cuts` say, in any order, also several times in one place.
fn cut<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (data.len() + 1)).collect();
    places.extend([0, data.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

fn digests_with<H: FsVerityHashValue>(kernels: &'static Kernels, files: &[&[&[u8]]]) -> Vec<H> {
    let mut digests = vec![H::EMPTY; files.len()];
    digest_into(kernels, files, &mut digests);
    digests
}

fn by_segments<H: FsVerityHashValue>(kernels: &'static Kernels, data: &[u8]) -> H {
    let segments: Vec<SegmentDigests<H>> = data
        .chunks(SEGMENT)
        .map(|chunk| segment_with(kernels, &cut(chunk, &[1000, 70_000, 500_001])))
        .collect();
    join_with(kernels, &segments, data.len() as u64)
}

/// Says which kernels run here: on a lesser cpu the tests check fewer, and that should be seen.
#[test]
fn the_kernels_of_this_cpu() {
    let names = |kernels: Vec<&'static Kernels>| kernels.iter().map(|k| k.name).collect::<Vec<_>>();
    println!("sha256: {:?}, sha512: {:?}", names(all256()), names(all512()));
    for last in [all256().pop(), all512().pop()] {
        assert_eq!(last.map(|kernels| kernels.name), Some("portable"));
    }
}

#[test]
fn every_length_up_to_three_blocks_is_as_upstream_says() {
    fn check<H: EachKernel>() {
        let data = noise(3 * 4096 + 2);
        let files: Vec<[&[u8]; 1]> = (0..=data.len()).map(|len| [&data[..len]]).collect();
        let files: Vec<&[&[u8]]> = files.iter().map(|file| &file[..]).collect();
        let expected: Vec<H> = files.iter().map(|file| compute_verity(file[0])).collect();
        for kernels in H::kernels() {
            assert!(digests_with::<H>(kernels, &files) == expected, "{}, all at once", kernels.name);
            for len in (0..=data.len()).filter(|len| len % 61 == 0 || len % 4096 < 2) {
                assert_eq!(
                    digests_with::<H>(kernels, &files[len..=len]),
                    expected[len..=len],
                    "{}",
                    kernels.name
                );
                assert_eq!(by_segments::<H>(kernels, files[len][0]), expected[len], "{}", kernels.name);
            }
        }
    }
    check::<Sha256HashValue>();
    check::<Sha512HashValue>();
}

/// Each number of messages takes another mix of kernels, and leaves other lanes idle.
#[test]
fn every_number_of_files_fills_the_lanes_rightly() {
    fn check<H: EachKernel>() {
        let data = noise(40 * 131);
        let files: Vec<[&[u8]; 1]> = (0..40).map(|n| [&data[n..n * 131]]).collect();
        let files: Vec<&[&[u8]]> = files.iter().map(|file| &file[..]).collect();
        let expected: Vec<H> = files.iter().map(|file| compute_verity(file[0])).collect();
        for kernels in H::kernels() {
            for n in 0..=files.len() {
                assert_eq!(digests_with::<H>(kernels, &files[..n]), expected[..n], "{}", kernels.name);
            }
        }
    }
    check::<Sha256HashValue>();
    check::<Sha512HashValue>();
}

#[test]
fn trees_of_three_levels_and_lone_last_blocks() {
    fn check<H: EachKernel>() {
        let data = noise(17 * SEGMENT + 4097);
        let level2 = 4096 * (4096 / size_of::<H>()).pow(2);
        let ends = [-4097, -4096, -1, 0, 1, 4096, 4097_isize];
        for around in [SEGMENT, 2 * SEGMENT, level2, 17 * SEGMENT] {
            for len in
                ends.map(|end| around.saturating_add_signed(end)).into_iter().filter(|&n| n <= data.len())
            {
                let expected: H = compute_verity(&data[..len]);
                assert_eq!(by_segments::<H>(H::kernels()[0], &data[..len]), expected, "{len} by segments");
                let parts = cut(&data[..len], &[5, 5, 4096, 100_000, 1_000_003]);
                assert_eq!(digest::<H>(&parts), expected, "{len} at once");
            }
        }
    }
    check::<Sha256HashValue>();
    check::<Sha512HashValue>();
}

#[test]
fn sixty_five_mebibytes_by_segments() {
    let data = noise(65 * SEGMENT);
    for len in [64 * SEGMENT, 64 * SEGMENT + 1, 65 * SEGMENT] {
        let expected: Sha256HashValue = compute_verity(&data[..len]);
        assert_eq!(by_segments::<Sha256HashValue>(all256()[0], &data[..len]), expected, "{len}");
        let expected: Sha512HashValue = compute_verity(&data[..len]);
        assert_eq!(by_segments::<Sha512HashValue>(all512()[0], &data[..len]), expected, "{len}");
    }
}

#[test]
fn nothing_is_a_file_too() {
    assert_eq!(digest::<Sha512HashValue>(&[]), compute_verity(&[]));
    assert_eq!(digest::<Sha512HashValue>(&[&[], &[]]), compute_verity(&[]));
    assert_eq!(join::<Sha512HashValue>(&[], 0), compute_verity(&[]));
    assert_eq!(join::<Sha256HashValue>(&[segment(&[])], 0), compute_verity(&[]));
    assert!(digest_many::<Sha256HashValue>(&[]).is_empty());
}

#[test]
#[should_panic(expected = "level-1 digests of a file of 2097152 bytes")]
fn a_missing_segment_is_no_digest() {
    let data = noise(SEGMENT);
    join::<Sha512HashValue>(&[segment(&[&data])], 2 * SEGMENT as u64);
}

#[test]
#[should_panic(expected = "a segment is longer than 1048576 bytes")]
fn a_segment_has_its_size() {
    segment::<Sha512HashValue>(&[&[0; SEGMENT], &[0]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the files and however they are cut, with every kernel, all digests are upstream's.
    #[test]
    fn files_in_parts_are_as_upstream_says(
        files in prop::collection::vec(
            (0_usize..20_000, any::<u8>(), prop::collection::vec(any::<usize>(), 0..12)), 0..30,
        )
    ) {
        fn check<H: EachKernel>(files: &[(Vec<u8>, &Vec<usize>)]) {
            let expected: Vec<H> = files.iter().map(|(data, _)| compute_verity(data)).collect();
            let parts: Vec<Vec<&[u8]>> = files.iter().map(|(data, cuts)| cut(data, cuts)).collect();
            let parts: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
            for kernels in H::kernels() {
                assert_eq!(digests_with::<H>(kernels, &parts), expected, "{}", kernels.name);
            }
            assert_eq!(digest_many::<H>(&parts), expected);
        }
        let files: Vec<_> = files
            .iter()
            .map(|(len, seed, cuts)| (noise(*len).into_iter().map(|byte| byte ^ seed).collect(), cuts))
            .collect();
        check::<Sha256HashValue>(&files);
        check::<Sha512HashValue>(&files);
    }
}
