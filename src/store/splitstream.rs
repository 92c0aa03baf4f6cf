//! Writes splitstreams byte for byte as composefs 0.9.4 does, in bounded memory. Knows the format (composefs
//! `splitstream_format`); ignores tar, objects and when an id becomes known.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fs::File,
    io::{self, Seek, Write},
    os::unix::fs::FileExt,
};

use composefs::fsverity::FsVerityHashValue;
use zstd::stream::write::Encoder;

/// Gives an anonymous file for what outgrows memory.
pub type Spool = Box<dyn Fn() -> io::Result<File> + Send>;

/// A splitstream being written. Inline bytes and references must come in stream order.
///
/// Holds at most some 10 MiB (limits and the encoder), and for each different id its bytes and about 30 more.
pub struct StreamWriter<H> {
    content_type: u64,
    limits: Limits,
    stream_refs: Refs<H>,
    object_refs: Refs<H>,
    /// Names and their places in `stream_refs`.
    named_refs: BTreeMap<Box<str>, usize>,
    /// Chunks on their way to the encoder, which is expensive to call for a few bytes; an
    /// open run is the last one.
    chunks: Vec<u8>,
    run: Option<Run>,
    /// Where long runs wait; kept for the next one.
    run_file: Option<File>,
    total_size: u64,
    encoder: Encoder<'static, Sink>,
}

/// An inline run that may still grow. Its length comes before its bytes and is filled in at its end.
struct Run {
    /// Where its bytes begin in `chunks`, eight bytes after its length.
    start: usize,
    /// Its first bytes, so many, are in `run_file` already.
    spilled: u64,
}

/// What may stay in memory, in bytes.
#[derive(Clone, Copy)]
struct Limits {
    /// Of an inline run.
    run: usize,
    /// Of compressed output.
    output: usize,
    /// Of whole chunks that wait for the encoder. What is written at once does not change its output.
    batch: usize,
}

const LIMITS: Limits = Limits { run: 1 << 20, output: 4 << 20, batch: 128 << 10 };

/// Bytes of a chunk's first field: negative, the length of inline data; else a place in `object_refs`.
const FIELD: usize = size_of::<i64>();

impl<H: FsVerityHashValue> StreamWriter<H> {
    /// An empty stream of `content_type` (little-endian ASCII, like `ocilayer`).
    pub fn new(content_type: u64, spool: Spool) -> Self {
        Self::with_limits(content_type, spool, LIMITS)
    }

    fn with_limits(content_type: u64, spool: Spool, limits: Limits) -> Self {
        let sink = Sink { memory: Vec::new(), limit: limits.output, file: None, file_size: 0, spool };
        Self {
            content_type,
            limits,
            stream_refs: Refs::new(),
            object_refs: Refs::new(),
            named_refs: BTreeMap::new(),
            chunks: Vec::new(),
            run: None,
            run_file: None,
            total_size: 0,
            // A fresh context for each stream: no state of another stream can reach these bytes.
            encoder: Encoder::new(sink, 0).expect("the default level is valid"),
        }
    }

    /// Adds inline bytes; neighbours become one chunk, as upstream has it.
    ///
    /// # Errors
    /// From the spool alone, as with all calls here. The writer is of no use afterwards.
    pub fn inline(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.total_size += bytes.len() as u64;
        let start = match &self.run {
            Some(run) => run.start,
            None => {
                self.chunks.extend_from_slice(&[0; FIELD]);
                self.run = Some(Run { start: self.chunks.len(), spilled: 0 });
                self.chunks.len()
            }
        };
        if self.chunks.len() - start + bytes.len() > self.limits.run {
            return self.spill(bytes);
        }
        self.chunks.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds a reference to an object of `size` bytes.
    ///
    /// # Errors
    /// As for [`StreamWriter::inline`].
    pub fn external(&mut self, id: &H, size: u64) -> io::Result<()> {
        self.total_size += size;
        self.end_run()?;
        let place = self.object_refs.place(id) as i64;
        self.chunks.extend_from_slice(&place.to_le_bytes());
        if self.chunks.len() >= self.limits.batch {
            self.encode_chunks()?;
        }
        Ok(())
    }

    /// Adds a named reference to another stream, in the order of the calls. A repeated name gets the last id.
    pub fn named_ref(&mut self, name: &str, id: &H) {
        let place = self.stream_refs.place(id);
        self.named_refs.insert(name.into(), place);
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As for [`StreamWriter::inline`].
    pub fn finish(mut self) -> io::Result<FinishedStream<H>> {
        self.end_run()?;
        self.encode_chunks()?;
        let output = self.encoder.finish()?;
        let mut names = Encoder::new(Vec::new(), 0)?;
        for (name, place) in &self.named_refs {
            write!(names, "{place}:{name}\0")?;
        }
        Ok(FinishedStream {
            content_type: self.content_type,
            total_size: self.total_size,
            stream_refs: self.stream_refs.ids,
            object_refs: self.object_refs.ids,
            named_refs: names.finish()?,
            memory: output.memory,
            file: output.file,
            file_size: output.file_size,
        })
    }

    /// Moves what memory has of the open run, and then `bytes`, to the run's file.
    fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let (before, held) = self.chunks.split_at(run.start);
        if run.spilled == 0 {
            self.encoder.write_all(&before[..before.len() - FIELD])?;
        }
        let file = match &mut self.run_file {
            Some(file) => file,
            None => self.run_file.insert((self.encoder.get_ref().spool)()?),
        };
        file.write_all(held)?;
        file.write_all(bytes)?;
        run.spilled += (held.len() + bytes.len()) as u64;
        run.start = FIELD;
        self.chunks.truncate(0);
        self.chunks.extend_from_slice(&[0; FIELD]);
        Ok(())
    }

    /// Ends the open run, if there is one: its length is known now.
    fn end_run(&mut self) -> io::Result<()> {
        let Some(Run { start, spilled }) = self.run.take() else { return Ok(()) };
        let length = spilled + (self.chunks.len() - start) as u64;
        // No run that was ever held is longer than i64 can say.
        let field = (length as i64).wrapping_neg();
        self.chunks[start - FIELD..start].copy_from_slice(&field.to_le_bytes());
        let Some(file) = self.run_file.as_mut().filter(|_| spilled > 0) else { return Ok(()) };

        self.encoder.write_all(&self.chunks[..FIELD])?;
        copy(file, spilled, |piece| self.encoder.write_all(piece))?;
        self.chunks.drain(..FIELD);
        file.set_len(0)?;
        file.rewind()
    }

    /// Gives all waiting chunks to the encoder; there must be no open run.
    fn encode_chunks(&mut self) -> io::Result<()> {
        self.encoder.write_all(&self.chunks)?;
        self.chunks.clear();
        Ok(())
    }
}

/// The bytes of a finished splitstream: some in memory, the rest in memory or in an anonymous file.
pub struct FinishedStream<H> {
    content_type: u64,
    total_size: u64,
    stream_refs: Vec<H>,
    object_refs: Vec<H>,
    named_refs: Vec<u8>,
    /// The compressed chunks: first these, then those in `file`.
    memory: Vec<u8>,
    file: Option<File>,
    file_size: u64,
}

/// Bytes of the header and the info block after it.
const HEADER: u64 = 32;
const INFO: u64 = 80;

/// Bytes of the pieces that a finished stream is handed over in.
const PIECE: usize = 1 << 20;

impl<H: FsVerityHashValue> FinishedStream<H> {
    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a stream always has a header")]
    pub fn len(&self) -> u64 {
        self.sections()[3].1
    }

    /// The ids that it refers to as objects, each once, in order of first use.
    pub fn object_refs(&self) -> &[H] {
        &self.object_refs
    }

    /// Hands over all bytes in order. Every piece is of 1 MiB, but the last may be shorter.
    ///
    /// # Errors
    /// From reading the spool, and whatever `each` returns.
    pub fn read(&self, each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let room = usize::try_from(self.len()).map_or(PIECE, |len| len.min(PIECE));
        let mut pieces = Pieces { buffer: Vec::with_capacity(room), each };
        pieces.push(&self.head())?;
        for id in self.stream_refs.iter().chain(&self.object_refs) {
            pieces.push(id.as_bytes())?;
        }
        pieces.push(&self.named_refs)?;
        pieces.push(&self.memory)?;
        if let Some(file) = &self.file {
            copy(file, self.file_size, |piece| pieces.push(piece))?;
        }
        pieces.end()
    }

    /// Where the sections begin and end: stream refs, object refs, named refs, chunks.
    fn sections(&self) -> [(u64, u64); 4] {
        let mut end = HEADER + INFO;
        [
            size_of_val(&self.stream_refs[..]) as u64,
            size_of_val(&self.object_refs[..]) as u64,
            self.named_refs.len() as u64,
            self.memory.len() as u64 + self.file_size,
        ]
        .map(|size| {
            let start = end;
            end += size;
            (start, end)
        })
    }

    /// The header and the info block.
    fn head(&self) -> Vec<u8> {
        let [stream_refs, object_refs, named_refs, chunks] = self.sections();
        let mut head = Vec::with_capacity((HEADER + INFO) as usize);
        head.extend_from_slice(b"SplitStream");
        // Version 0, two bytes of flags.
        head.extend_from_slice(&[0, 0, 0]);
        // Upstream writes 12 whatever the algorithm says; there are no others yet.
        head.extend_from_slice(&[H::ALGORITHM.kernel_id(), 12]);
        // The info block has the chunks before the named refs, the file has them after.
        for (start, end) in [(HEADER, HEADER + INFO), stream_refs, object_refs, chunks, named_refs] {
            head.extend_from_slice(&start.to_le_bytes());
            head.extend_from_slice(&end.to_le_bytes());
        }
        head.extend_from_slice(&self.content_type.to_le_bytes());
        head.extend_from_slice(&self.total_size.to_le_bytes());
        head
    }
}

/// Ids in order of first use, each once.
struct Refs<H> {
    ids: Vec<H>,
    /// Where an id is, by its first eight bytes, which are as good as random; if these belong to another id
    /// already, by the next number that is free. So an entry takes 16 bytes, not a second copy of the id.
    places: HashMap<u64, usize>,
}

impl<H: FsVerityHashValue> Refs<H> {
    fn new() -> Self {
        Self { ids: Vec::new(), places: HashMap::new() }
    }

    /// The place of `id`, which is added if it is new.
    fn place(&mut self, id: &H) -> usize {
        let mut key = id.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        loop {
            match self.places.entry(key) {
                Entry::Occupied(entry) if self.ids[*entry.get()] == *id => return *entry.get(),
                Entry::Occupied(_) => key = key.wrapping_add(1),
                Entry::Vacant(entry) => {
                    self.ids.push(id.clone());
                    return *entry.insert(self.ids.len() - 1);
                }
            }
        }
    }
}

/// Where the encoder's output goes: memory up to the limit, then a file.
struct Sink {
    memory: Vec<u8>,
    limit: usize,
    file: Option<File>,
    file_size: u64,
    spool: Spool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() <= self.limit {
            self.memory.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((self.spool)()?),
        };
        let written = file.write(bytes)?;
        self.file_size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts bytes into pieces of one size.
struct Pieces<F> {
    buffer: Vec<u8>,
    each: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Pieces<F> {
    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PIECE {
                (self.each)(&self.buffer)?;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { (self.each)(&self.buffer) }
    }
}

/// Hands over the first `size` bytes of `file`, wherever its offset is.
fn copy(file: &File, size: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        let piece = usize::try_from(size - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..piece], at)?;
        each(&buffer[..piece])?;
        at += piece as u64;
    }
    Ok(())
}
