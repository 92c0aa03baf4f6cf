//! Tests of the stream writer against upstream's own, byte for byte. Knows both; ignores
//! what streams are for.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use composefs::{
    fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    repository::{Repository, RepositoryConfig},
};
use proptest::prelude::*;
use rustix::fs::CWD;

use super::{LIMITS, Limits, PIECE, Refs, Spool, StreamWriter};

const LAYER: u64 = u64::from_le_bytes(*b"ocilayer");

/// One call of the writer. Ids are told apart by a number.
#[derive(Debug, Clone)]
enum Call {
    Inline(Vec<u8>),
    External(u16, u64),
    Named(String, u16),
}

/// An id that looks like a digest: its bytes are spread by a multiplication.
fn id<H: FsVerityHashValue>(number: u16) -> H {
    let mut id = H::EMPTY;
    for (at, byte) in id.as_mut_bytes().iter_mut().enumerate() {
        *byte = (u64::from(number) * 40_503 + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7];
    }
    id
}

/// Incompressible bytes.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A spool that counts the files it gave.
fn spool() -> (Spool, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let spool = move || {
        count.fetch_add(1, Ordering::SeqCst);
        tempfile::tempfile()
    };
    (Box::new(spool), given)
}

/// What upstream's writer stores for `calls`.
fn upstream<H: FsVerityHashValue>(calls: &[Call]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    let algorithm = if size_of::<H>() == 32 { Algorithm::SHA256 } else { Algorithm::SHA512 };
    let config = RepositoryConfig::new(algorithm).set_insecure();
    let repo = Arc::new(Repository::<H>::init_path(CWD, &path, config).unwrap().0);
    let mut writer = repo.create_stream(LAYER).unwrap();
    for call in calls {
        match call {
            Call::Inline(bytes) => writer.write_inline(bytes),
            Call::Named(name, number) => writer.add_named_stream_ref(name, &id(*number)),
            Call::External(number, size) => {
                writer.add_external_size(*size);
                writer.write_reference(id(*number)).unwrap();
            }
        }
    }
    let id = writer.done().unwrap().to_hex();
    fs::read(path.join("objects").join(&id[..2]).join(&id[2..])).unwrap()
}

/// What ours makes of them, and how many files it needed.
fn ours<H: FsVerityHashValue>(calls: &[Call], limits: Limits) -> (Vec<u8>, usize) {
    let (spool, files) = spool();
    let mut writer = StreamWriter::<H>::with_limits(LAYER, spool, limits);
    for call in calls {
        match call {
            Call::Inline(bytes) => writer.inline(bytes).unwrap(),
            Call::Named(name, number) => writer.named_ref(name, &id(*number)),
            Call::External(number, size) => writer.external(&id(*number), *size).unwrap(),
        }
    }
    let stream = writer.finish().unwrap();
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    stream
        .read(|piece| {
            pieces.push(piece.to_vec());
            Ok(())
        })
        .unwrap();
    let (last, others) = pieces.split_last().unwrap();
    assert!(others.iter().all(|piece| piece.len() == PIECE) && (1..=PIECE).contains(&last.len()));
    let bytes = pieces.concat();
    assert_eq!(stream.len(), bytes.len() as u64);
    (bytes, files.load(Ordering::SeqCst))
}

fn assert_same(calls: &[Call], limits: Limits) {
    assert!(ours::<Sha512HashValue>(calls, limits).0 == upstream::<Sha512HashValue>(calls), "sha512");
    assert!(ours::<Sha256HashValue>(calls, limits).0 == upstream::<Sha256HashValue>(calls), "sha256");
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let inline = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..600),
        1 => (0..200_000usize).prop_map(noise),
        1 => (0..200_000usize).prop_map(|size| b"usr/lib/x86_64".repeat(size / 14)),
    ];
    let call = prop_oneof![
        5 => inline.prop_map(Call::Inline),
        5 => (0..40u16, 65..5_000_000u64).prop_map(|(number, size)| Call::External(number, size)),
        1 => ("[a-z0-9:]{0,9}", 0..6u16).prop_map(|(name, number)| Call::Named(name, number)),
    ];
    prop::collection::vec(call, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    // Whatever the calls and however little may stay in memory, the bytes are upstream's.
    #[test]
    fn the_bytes_are_upstreams(calls in calls(), run in 0..3000usize, output in 0..3000usize,
        batch in 0..3000usize) {
        assert_same(&calls, LIMITS);
        assert_same(&calls, Limits { run, output, batch });
    }
}

#[test]
fn an_empty_stream_is_upstreams() {
    assert_same(&[], LIMITS);
    assert_same(&[Call::Inline(Vec::new())], LIMITS);
}

#[test]
fn a_stream_of_many_references_is_upstreams() {
    let calls: Vec<Call> = (0..30_000u32)
        .flat_map(|n| {
            let number = (n % 25_000) as u16;
            [Call::Inline(noise(512 + n as usize % 700)), Call::External(number, 65 + u64::from(n))]
        })
        .collect();
    assert_same(&calls, LIMITS);
}

#[test]
fn long_runs_and_much_output_go_to_files_and_come_back() {
    let calls = [
        Call::Inline(noise(1000)),
        Call::External(1, 100),
        // A run past its limit in small pieces, then one in a single piece: they share a file.
        Call::Inline(noise(700_000)),
        Call::Inline(noise(700_000)),
        Call::Inline(noise(10)),
        Call::External(2, 100),
        Call::Inline(noise(6 << 20)),
        Call::Inline(noise(64)),
        Call::External(1, 100),
        Call::Inline(noise(2 << 20)),
    ];
    assert_same(&calls, LIMITS);
    assert_eq!(ours::<Sha512HashValue>(&calls, LIMITS).1, 2, "one file for runs, one for the output");
    assert_eq!(ours::<Sha512HashValue>(&calls[..2], LIMITS).1, 0);
}

#[test]
fn references_come_once_in_order_of_first_use() {
    let mut writer = StreamWriter::<Sha512HashValue>::new(LAYER, spool().0);
    for number in [3, 1, 3, 2, 1] {
        writer.external(&id(number), 70).unwrap();
    }
    assert_eq!(writer.finish().unwrap().object_refs(), [id(3), id(1), id(2)]);
}

#[test]
fn ids_that_begin_alike_stay_apart() {
    let alike = |last: u8| Sha256HashValue::from_hex(format!("{last:064x}")).unwrap();
    let mut refs = Refs::new();
    for _ in 0..2 {
        for last in 0..100 {
            assert_eq!(refs.place(&alike(last)), last as usize);
        }
    }
    assert_eq!(refs.ids.len(), 100);
}

#[test]
fn a_spool_that_fails_fails_the_call() {
    let full: Spool = Box::new(|| Err(io::Error::from(io::ErrorKind::StorageFull)));
    let mut writer = StreamWriter::<Sha512HashValue>::new(LAYER, full);
    let error = writer.inline(&noise(2 << 20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn an_error_of_the_reader_ends_the_reading() {
    let mut writer = StreamWriter::<Sha512HashValue>::new(LAYER, spool().0);
    writer.inline(&noise(3 << 20)).unwrap();
    let stream = writer.finish().unwrap();
    let mut pieces = 0;
    let result = stream.read(|_| {
        pieces += 1;
        Err(io::Error::other("enough"))
    });
    assert!(result.is_err() && pieces == 1);
}

#[test]
fn a_writer_and_its_stream_move_between_threads() {
    fn movable<T: Send>() {}
    movable::<StreamWriter<Sha512HashValue>>();
    movable::<super::FinishedStream<Sha512HashValue>>();
}
