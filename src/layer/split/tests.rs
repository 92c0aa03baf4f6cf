//! Tests of the splitter: wherever a tar is cut, the same pieces come out. Knows how to build small tars,
//! good and bad; ignores real ones.

use std::sync::Arc;

use composefs::fsverity::Sha256HashValue;
use proptest::prelude::*;

use super::*;
use crate::types::Budget;

fn header(name: &str, size: u64, kind: u8) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn file(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = header(name, size as u64, b'0');
    bytes.extend((0..size).map(|i| (i % 251) as u8));
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The stream as pieces would rebuild it, the sizes of the external files, and the paths of the entries.
type Summary = (Vec<u8>, Vec<(u64, Vec<u8>)>, Vec<PathBuf>);

fn split(tar: &[u8], cuts: &[usize], kind: LayerKind) -> Result<Summary, SplitError> {
    let budget = Budget::new(64 << 20);
    let account = budget.open(0, Arc::new(|| ())).unwrap();
    let mut splitter = Splitter::<Sha256HashValue>::new(kind, tar.len() as u64);
    let mut pieces = Vec::new();
    let mut rest = tar;
    for cut in cuts.iter().cycle() {
        let take = (*cut).clamp(1, rest.len().max(1)).min(rest.len());
        if take == 0 {
            break;
        }
        let mut buffer = account.buffer(take).unwrap();
        buffer.bytes_mut().copy_from_slice(&rest[..take]);
        splitter.feed(&buffer.freeze(take), &mut pieces)?;
        rest = &rest[take..];
    }
    splitter.finish(&mut pieces)?;
    let (mut stream, mut files, mut paths) = (Vec::new(), Vec::<(u64, Vec<u8>)>::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Inline(slice) => stream.extend_from_slice(&slice),
            Piece::File { size, parts } => {
                files.push((size, parts.iter().flat_map(|p| p.to_vec()).collect()))
            }
            Piece::Segment { size, index, parts } => {
                if index == 0 {
                    files.push((size, Vec::new()));
                }
                let content = &mut files.last_mut().unwrap().1;
                assert_eq!(content.len() as u64, index * SEGMENT as u64);
                content.extend(parts.iter().flat_map(|p| p.to_vec()));
            }
            Piece::Entry(entry) => paths.push(entry.path),
        }
    }
    Ok((stream, files, paths))
}

fn sample() -> Vec<u8> {
    let mut tar = header("dir/", 0, b'5');
    for (name, size) in [("empty", 0), ("in", 64), ("out", 65), ("block", 512), ("big", SEGMENT + 1)] {
        tar.extend(file(name, size));
    }
    tar.extend([0; 1024]);
    tar.extend([0; 5 * 512]);
    tar
}

#[test]
fn small_files_stay_and_large_ones_go() {
    let (stream, files, paths) = split(&sample(), &[1 << 20], LayerKind::Tar).unwrap();
    let sizes: Vec<u64> = files.iter().map(|f| f.0).collect();
    assert_eq!(sizes, [65, 512, SEGMENT as u64 + 1]);
    assert!(files.iter().all(|(size, content)| content.len() as u64 == *size));
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    assert_eq!(paths, ["/dir", "/empty", "/in", "/out", "/block", "/big"]);
    let external: u64 = sizes.iter().sum();
    assert_eq!(stream.len() as u64 + external, sample().len() as u64);
}

#[test]
fn an_archive_may_end_after_any_content_and_nowhere_else() {
    let tar = [header("dir/", 0, b'5'), file("a", 3), file("b", 100)].concat();
    for end in 0..tar.len() {
        let whole = [0, 1536].contains(&end);
        assert_eq!(split(&tar[..end], &[300], LayerKind::Tar).is_ok(), whole, "{end}");
        // Nobody reads the entries of an artifact.
        assert_eq!(split(&tar[..end], &[300], LayerKind::ArtifactTar).is_ok(), whole || end == 512, "{end}");
    }
    assert!(split(&tar, &[300], LayerKind::Tar).is_ok());
    assert!(matches!(split(&tar[..512], &[512], LayerKind::Tar), Err(SplitError::NoEnd)));
}

#[test]
fn a_broken_header_is_told_with_its_place_however_it_arrives() {
    let mut tar = [file("a", 3), file("b", 100)].concat();
    tar[1024 + 148] = b'x';
    for cut in [1, 300, 512, 1100, 4096] {
        let error = split(&tar, &[cut], LayerKind::Tar).unwrap_err();
        assert!(matches!(error, SplitError::Corrupt { offset: 1024, .. }), "{cut}: {error}");
    }
}

#[test]
fn what_no_filesystem_has_is_refused_in_an_image_only() {
    let tar = header("volume", 0, b'V');
    assert!(matches!(
        split(&tar, &[512], LayerKind::Tar),
        Err(SplitError::Entry(EntryError::UnknownType { .. }))
    ));
    assert!(split(&tar, &[512], LayerKind::ArtifactTar).is_ok());
    let sparse = header("sparse", 0, b'S');
    assert!(split(&sparse, &[512], LayerKind::Tar).is_err());
}

#[test]
fn a_sparse_file_is_refused_as_one_however_its_map_arrives() {
    let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=1000\n";
    let mut pax = header("pax", records.len() as u64, b'x');
    pax.extend(records);
    pax.resize(1024, 0);
    // The map of one piece at offset 0 as it should be, one that is no number, and one that has no end.
    for line in [&b"1\n0\n10\n"[..], &[&[0; 600][..], b"\n"].concat(), &[b'0'; 2000]] {
        let mut tar = [pax.clone(), header("sparse", 2048, b'0'), line.to_vec()].concat();
        tar.resize(pax.len() + 512 + 2048, 0);
        for cut in [1, 300, 512, 1100, 4096] {
            let error = split(&tar, &[cut], LayerKind::Tar).unwrap_err();
            assert!(error.to_string().contains("rebuild the layer without --sparse"), "{cut}: {error}");
        }
    }
}

#[test]
fn raw_bytes_are_one_object() {
    let (stream, files, _) = split(b"hello", &[2], LayerKind::Raw).unwrap();
    assert_eq!((stream.len(), files), (0, vec![(5, b"hello".to_vec())]));
    assert_eq!(split(b"", &[2], LayerKind::Raw).unwrap().1, vec![(0, vec![])]);
}

proptest! {
    /// However the bytes arrive, the same comes out.
    #[test]
    fn cuts_do_not_matter(cuts in proptest::collection::vec(1usize..5000, 1..20)) {
        let tar = sample();
        let whole = split(&tar, &[tar.len()], LayerKind::Tar).unwrap();
        let cut = split(&tar, &cuts, LayerKind::Tar).unwrap();
        prop_assert!(whole == cut);
    }

    /// Whatever arrives, nothing panics and nothing is lost on the way.
    #[test]
    fn damage_is_an_error_or_harmless(at in 0usize..4096, value: u8, cut in 1usize..3000) {
        let mut tar = sample();
        tar[at] = value;
        if let Ok((stream, files, _)) = split(&tar, &[cut], LayerKind::Tar) {
            let external: u64 = files.iter().map(|f| f.0).sum();
            prop_assert_eq!(stream.len() as u64 + external, tar.len() as u64);
        }
    }
}
