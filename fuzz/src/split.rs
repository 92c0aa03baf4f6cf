//! Layers of any bytes through the splitter. Knows what must not depend on how the bytes arrive, and that upstream reads
//! the same entries out of the stream that results; ignores what is in the files.

use std::{
    fs::File,
    io::{Seek, Write},
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

use cfs_dag::{
    layer::{
        entry::{Entry, Item},
        split::{Piece, SplitError, Splitter},
        verity::{self, SEGMENT},
    },
    store::{Content, Sha256HashValue, StreamWriter, TarEntry, TarItem},
    types::{Budget, LayerKind},
};
use composefs::{
    splitstream::SplitStreamReader,
    tree::{LeafContent, RegularFile},
};
use composefs_oci::tar::get_entry;
use rustix::fs::MemfdFlags;

use super::{
    input, memory,
    naive::{self, Named, Unclear},
};

/// Bytes that a splitter may keep besides what it is given: headers that did not end yet, which the parser caps at
/// 1 MiB, twice while they grow, and names out of them.
const KEPT: usize = 8 << 20;

/// Splits a layer in one piece and in many.
///
/// The first byte chooses the kind of layer and whether checksums are mended first, the next two how it is cut.
pub fn split(data: &[u8]) {
    let ([flags, shape, seed], data) = input::head(data);
    let kind = LayerKind::ALL[usize::from(flags & 3) % 3];
    let tar = if flags & 4 == 0 { mended(data) } else { data.to_vec() };
    let limit = KEPT + 40 * tar.len();
    let run = |cuts: &mut dyn Iterator<Item = usize>| cut(&tar, kind, cuts);
    let whole = memory::bounded("splitting in one piece", limit, || run(&mut std::iter::once(tar.len())));
    let pieces = memory::bounded("splitting", limit, || run(&mut input::sizes([shape, seed])));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert!(whole.stream == pieces.stream, "the stream depends on how the bytes arrive");
            assert_eq!(format!("{:?}", whole.entries), format!("{:?}", pieces.entries));
            assert_eq!(whole.len(), tar.len(), "bytes were lost or invented");
            if kind == LayerKind::Tar {
                same_as_upstream(&whole);
                same_as_naive(&tar, &whole);
            }
        }
        // How far the map of a sparse file is read before the file is refused depends on what is there of it.
        (Err(whole), Err(pieces)) if [&whole, &pieces].into_iter().any(is_sparse) => {}
        (Err(whole), Err(pieces)) => assert_eq!(whole.to_string(), pieces.to_string()),
        (whole, pieces) => panic!("in one piece {:?}, cut {:?}", whole.err(), pieces.err()),
    }
}

fn is_sparse(error: &SplitError) -> bool {
    matches!(error, SplitError::Sparse(_) | SplitError::SparseMap(_))
}

/// What came out of the splitter.
#[derive(Default)]
pub(crate) struct Split {
    /// The stream, adjacent inline bytes as one.
    stream: Vec<Chunk>,
    /// The entries with the ids of their files filled in.
    pub(crate) entries: Vec<Entry<Sha256HashValue>>,
}

#[derive(PartialEq, Eq)]
enum Chunk {
    Inline(Vec<u8>),
    File(Vec<u8>),
}

impl Split {
    fn len(&self) -> usize {
        let len = |chunk: &Chunk| match chunk {
            Chunk::Inline(bytes) | Chunk::File(bytes) => bytes.len(),
        };
        self.stream.iter().map(len).sum()
    }

    fn push(&mut self, piece: Piece<Sha256HashValue>) {
        match piece {
            Piece::Inline(slice) => match self.stream.last_mut() {
                Some(Chunk::Inline(bytes)) => bytes.extend_from_slice(&slice),
                _ => self.stream.push(Chunk::Inline(slice.to_vec())),
            },
            Piece::File { size, parts } => {
                let content: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                assert_eq!(content.len() as u64, size);
                self.stream.push(Chunk::File(content));
            }
            Piece::Segment { size, index, parts } => {
                if index == 0 {
                    self.stream.push(Chunk::File(Vec::new()));
                }
                let Some(Chunk::File(content)) = self.stream.last_mut() else {
                    panic!("segment {index} follows inline bytes")
                };
                assert_eq!(content.len() as u64, index * SEGMENT as u64);
                content.extend(parts.iter().flat_map(|part| part.to_vec()));
                assert!(content.len() as u64 <= size && size > SEGMENT as u64);
            }
            Piece::Entry(mut entry) => {
                if let Item::Leaf(LeafContent::Regular(RegularFile::External(id, size))) = &mut entry.item {
                    let last = self.stream.iter().rfind(|chunk| matches!(chunk, Chunk::File(_)));
                    let Some(Chunk::File(content)) = last else { panic!("an entry without its file") };
                    assert_eq!(content.len() as u64, *size);
                    *id = verity::digest(&[content]);
                }
                self.entries.push(entry);
            }
        }
    }
}

/// Splits `tar`, given in pieces of these sizes.
pub(crate) fn cut(
    tar: &[u8],
    kind: LayerKind,
    sizes: &mut dyn Iterator<Item = usize>,
) -> Result<Split, SplitError> {
    let budget = Budget::new(2 * tar.len() + (1 << 20));
    let account = budget.open(0, Arc::new(|| ())).expect("the budget is fresh");
    let mut splitter = Splitter::new(kind, tar.len() as u64);
    let (mut split, mut pieces, mut rest) = (Split::default(), Vec::new(), tar);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
        let mut buffer = account.buffer(now.len()).expect("the budget has room for all");
        buffer.bytes_mut()[..now.len()].copy_from_slice(now);
        let fed = splitter.feed(&buffer.freeze(now.len()), &mut pieces);
        pieces.drain(..).for_each(|piece| split.push(piece));
        fed?;
        rest = later;
    }
    splitter.finish(&mut pieces)?;
    pieces.into_iter().for_each(|piece| split.push(piece));
    Ok(split)
}

/// That upstream's reader finds the entries that the splitter told of in the stream that is stored, no more and no less.
fn same_as_upstream(split: &Split) {
    let mut stream = StreamWriter::new(Content::Layer.code(), Box::new(memory_file));
    let mut size = 0;
    for chunk in &split.stream {
        match chunk {
            Chunk::Inline(bytes) => stream.inline(bytes),
            Chunk::File(content) => {
                stream.external(&verity::digest::<Sha256HashValue>(&[content]), content.len() as u64)
            }
        }
        .expect("memory takes it");
        size += 1;
    }
    let mut file = memory_file().expect("a file in memory");
    let finished = stream.finish().expect("memory takes it");
    finished.read(|piece| file.write_all(piece)).expect("memory takes it");
    file.rewind().expect("a file in memory");
    let mut reader = SplitStreamReader::<Sha256HashValue>::new(file, Some(Content::Layer.code()))
        .unwrap_or_else(|error| panic!("upstream cannot open a stream of {size} chunks: {error:#}"));
    let mut ours = split.entries.iter();
    loop {
        let theirs = match get_entry(&mut reader) {
            Ok(Some(theirs)) => theirs,
            Ok(None) => break,
            Err(error) => panic!("upstream cannot read what was split, at {:?}: {error:#}", ours.next()),
        };
        let ours = ours.next().unwrap_or_else(|| panic!("upstream reads another entry: {theirs:?}"));
        assert_eq!(text(&as_upstreams(ours.clone())), text(&theirs));
    }
    assert!(ours.next().is_none(), "upstream ends before the rest of our entries");
}

/// That a second reader finds the same files, and that a tar of which readers find different files is not accepted.
fn same_as_naive(tar: &[u8], split: &Split) {
    match naive::read(tar) {
        Ok(theirs) => {
            let ours: Vec<Named> = split.entries.iter().map(named).collect();
            assert_eq!(ours, theirs, "another reader finds other entries");
        }
        Err(Unclear::Ambiguous(why)) => panic!("accepted, though it has {why}"),
        Err(Unclear::Unusual(_)) => {}
    }
}

/// What the second reader tells of an entry.
fn named(entry: &Entry<Sha256HashValue>) -> Named {
    let path = entry.path.as_os_str().as_bytes();
    let (kind, size) = match &entry.item {
        Item::Directory => (b'5', 0),
        Item::Hardlink(_) => (b'1', 0),
        Item::Leaf(LeafContent::Regular(RegularFile::Inline(data))) => (b'0', data.len() as u64),
        Item::Leaf(LeafContent::Regular(RegularFile::External(_, size))) => (b'0', *size),
        Item::Leaf(LeafContent::Symlink(_)) => (b'2', 0),
        Item::Leaf(LeafContent::CharacterDevice(_)) => (b'3', 0),
        Item::Leaf(LeafContent::BlockDevice(_)) => (b'4', 0),
        Item::Leaf(LeafContent::Fifo) => (b'6', 0),
        Item::Leaf(other) => panic!("no tar has {other:?}"),
    };
    (path.strip_prefix(b"/").unwrap_or(path).to_vec(), kind, size)
}

/// Everything of an entry; upstream's types cannot be compared.
fn text(entry: &TarEntry<Sha256HashValue>) -> String {
    format!("{entry:?}")
}

/// An entry in upstream's type.
pub(crate) fn as_upstreams(entry: Entry<Sha256HashValue>) -> TarEntry<Sha256HashValue> {
    let Entry { path, stat, item } = entry;
    let item = match item {
        Item::Directory => TarItem::Directory,
        Item::Leaf(leaf) => TarItem::Leaf(leaf),
        Item::Hardlink(target) => TarItem::Hardlink(target),
    };
    TarEntry { path, stat, item }
}

fn memory_file() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("stream", MemfdFlags::CLOEXEC)?.into())
}

/// `data` with the right checksum in every block that looks like a header: no mutation would ever hit it.
pub(crate) fn mended(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    for block in tar.as_chunks_mut::<512>().0 {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    tar
}
