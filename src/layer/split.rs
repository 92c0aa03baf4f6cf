//! Cuts a tar, as it comes, into what goes inline and what becomes objects, without copying. Knows tar
//! (through upstream's parser) and upstream's rules; ignores digests, graphs and who takes the pieces.
//!
//! Headers, padding and files up to 64 bytes go inline; larger files become objects. A file that is not
//! larger than a [`SEGMENT`] is handed over whole; a larger one segment by segment, so that neither hashing
//! nor writing it ever needs it in memory.

use std::path::PathBuf;

use composefs::{
    fsverity::FsVerityHashValue,
    tree::{LeafContent, RegularFile},
};
use tar_core::{
    HEADER_SIZE, HeaderError,
    parse::{ParseError, ParseEvent, ParsedEntry, Parser},
};

use super::{
    ambiguous,
    entry::{self, Content, Entry, EntryError, Item, is_external, xattr_footprint},
    verity::SEGMENT,
};
use crate::types::{
    Ambiguity, AmbiguityKind, LayerKind, Limit, LimitExceeded, Limits, MAX_ENTRY_HEADERS, Slice,
};

/// What comes out, in the order of the tar.
#[derive(Debug)]
pub enum Piece<H: FsVerityHashValue> {
    /// Bytes of the stream itself.
    Inline(Slice),
    /// A whole file of at most [`SEGMENT`] bytes; the next reference of the stream.
    File {
        /// Length in bytes.
        size: u64,
        /// Its bytes.
        parts: Vec<Slice>,
    },
    /// The first, next or last part of a larger file: [`SEGMENT`] bytes, or the rest.
    Segment {
        /// Length of the whole file in bytes.
        size: u64,
        /// Number of the segment, from 0.
        index: u64,
        /// Its bytes.
        parts: Vec<Slice>,
    },
    /// An entry of the filesystem, after its pieces. An external file refers to the object of the last
    /// `File` or `Segment` before it.
    Entry(Entry<H>),
}

/// Why a layer cannot be split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A header breaks the format's rules, at this offset of the tar.
    #[error("the tar is corrupt at byte {offset}: {detail}")]
    Corrupt {
        /// Offset in the tar.
        offset: u64,
        /// What the parser says.
        detail: String,
    },
    /// The tar ends inside an entry.
    #[error("the tar ends too early, at byte {0}")]
    Truncated(u64),
    /// Upstream's reader fails where a stream ends with a header: it looks for the content, even for none.
    #[error("the tar has no end mark after its last entry, which has no content: rebuild the layer")]
    NoEnd,
    /// GNU or PAX sparse files; upstream refuses them too.
    #[error("{0:?} is a sparse file: such tar entries are not supported, rebuild the layer without --sparse")]
    Sparse(PathBuf),
    /// A sparse file whose map cannot be read.
    #[error(
        "a sparse file at byte {0}: such tar entries are not supported, rebuild the layer without --sparse"
    )]
    SparseMap(u64),
    /// Headers of one entry that do not end.
    #[error("more than 1 MiB of headers for the entry at byte {0}: broken or hostile")]
    Headers(u64),
    /// A time that upstream's parser refuses.
    #[error(
        "{path}: its modification time ({time}) is before 1970, which cannot be stored: set another one \
         with touch"
    )]
    TimeBefore1970 {
        /// The entry's path, printable.
        path: String,
        /// The time as the tar has it.
        time: String,
    },
    /// An entry that tar readers read differently, see [`Splitter::as_upstream`].
    #[error("{}", .0.refusal())]
    Ambiguous(Ambiguity),
    /// An entry that no filesystem can have.
    #[error("{0}")]
    Entry(#[from] EntryError),
    /// More than a limit allows.
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
    /// A raw blob that is not as long as it should be.
    #[error("the blob has more bytes than its descriptor says")]
    TooLong,
}

/// How many ambiguous entries of a layer are kept to be told.
pub const MAX_AMBIGUITIES: usize = 16;

/// A tar in progress.
pub struct Splitter<H: FsVerityHashValue> {
    parser: Parser,
    state: State<H>,
    /// The beginning of headers that did not end in one slice, for the parser alone.
    carry: Vec<u8>,
    /// Whether entries of the filesystem are wanted, and unknown ones refused.
    entries: bool,
    /// Whether the last header was that of an entry without content.
    bare: bool,
    /// Whether ambiguous entries are taken as upstream takes them.
    as_upstream: bool,
    ambiguities: Vec<Ambiguity>,
    /// What is ambiguous in the headers before a global header: it is told of the next entry.
    before_entry: Option<AmbiguityKind>,
    offset: u64,
    limits: Limits,
    /// What was met so far: entries, and bytes of their paths, targets and attributes.
    met: (u64, u64),
}

enum State<H: FsVerityHashValue> {
    /// Before a header; the parser wants this many bytes.
    Header { need: usize },
    /// Inside inline content and padding; `file` takes the content of a small file.
    Inline { left: u64, file: Option<SmallFile<H>> },
    /// Inside a file that becomes an object.
    External(External<H>),
    /// After the end of the archive.
    Trailer { seen: u64 },
    /// After the last byte of a raw blob.
    RawEnd,
}

struct SmallFile<H: FsVerityHashValue> {
    entry: Entry<H>,
    content: Vec<u8>,
    missing: usize,
}

struct External<H: FsVerityHashValue> {
    size: u64,
    left: u64,
    index: u64,
    gathered: Vec<Slice>,
    gathered_len: usize,
    entry: Option<Entry<H>>,
    raw: bool,
}

impl<H: FsVerityHashValue> Splitter<H> {
    /// A splitter for a tar layer of `kind`, or for `size` raw bytes.
    pub fn new(kind: LayerKind, size: u64) -> Self {
        let state = match kind {
            LayerKind::Raw => State::External(External::new(size, None, true)),
            LayerKind::Tar | LayerKind::ArtifactTar => State::Header { need: HEADER_SIZE },
        };
        let entries = kind == LayerKind::Tar;
        Self {
            parser: Parser::with_defaults(),
            state,
            carry: Vec::new(),
            entries,
            bare: false,
            as_upstream: false,
            ambiguities: Vec::new(),
            before_entry: None,
            offset: 0,
            limits: Limits::default(),
            met: (0, 0),
        }
    }

    /// The same with other limits than the defaults.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same that takes entries which tar readers read differently as upstream takes them. Otherwise
    /// the first one is an error.
    #[must_use]
    pub fn as_upstream(self, as_upstream: bool) -> Self {
        Self { as_upstream, ..self }
    }

    /// The ambiguous entries that were taken, the first [`MAX_AMBIGUITIES`] of them.
    pub fn ambiguities(&self) -> &[Ambiguity] {
        &self.ambiguities
    }

    /// Takes in the next bytes and hands out what they complete.
    ///
    /// # Errors
    /// The tar breaks the rules; the splitter is of no use afterwards.
    pub fn feed(&mut self, slice: &Slice, out: &mut Vec<Piece<H>>) -> Result<(), SplitError> {
        self.limits.check(Limit::LayerSize, self.offset + slice.len() as u64)?;
        let mut pos = 0;
        let mut inline_from = 0;
        while pos < slice.len() {
            let before = pos;
            pos = match &mut self.state {
                State::External(external) => {
                    inline(slice, inline_from, pos, out);
                    let end = external.take(slice, pos, out);
                    inline_from = end;
                    if external.left == 0 {
                        self.end_external(out);
                    }
                    end
                }
                State::Header { .. } => self.header(slice, pos)?,
                State::Inline { .. } => self.inline(slice, pos, out),
                State::Trailer { seen } => {
                    *seen += (slice.len() - pos) as u64;
                    self.limits.check(Limit::Trailing, *seen)?;
                    slice.len()
                }
                State::RawEnd => return Err(SplitError::TooLong),
            };
            if matches!(self.state, State::Inline { left: 0, .. }) {
                self.end_inline(out);
            }
            self.offset += (pos - before) as u64;
        }
        inline(slice, inline_from, pos, out);
        Ok(())
    }

    /// Says that all bytes have been fed.
    ///
    /// # Errors
    /// The tar ends inside an entry, or where upstream cannot read an image's layer back.
    pub fn finish(&mut self, out: &mut Vec<Piece<H>>) -> Result<(), SplitError> {
        self.check_end(out)?;
        ambiguous::at_end(self.before_entry.take()).map_or(Ok(()), |ambiguity| self.meet(ambiguity))
    }

    fn check_end(&mut self, out: &mut Vec<Piece<H>>) -> Result<(), SplitError> {
        match &mut self.state {
            State::Header { .. } if self.carry.is_empty() && self.bare && self.entries => {
                Err(SplitError::NoEnd)
            }
            State::Header { .. } if self.carry.is_empty() => Ok(()),
            // One zero block in the place of two: what follows it would be an entry.
            State::Header { .. } if self.carry == [0; HEADER_SIZE] => Ok(()),
            State::Trailer { .. } | State::RawEnd => Ok(()),
            State::External(external) if external.raw && external.size == 0 => {
                out.push(Piece::File { size: 0, parts: Vec::new() });
                Ok(())
            }
            _ => Err(SplitError::Truncated(self.offset)),
        }
    }

    /// Parses at `pos`; gives where the bytes that it used up end.
    fn header(&mut self, slice: &Slice, pos: usize) -> Result<usize, SplitError> {
        let State::Header { need } = self.state else { return Ok(pos) };
        let rest = &slice[pos..];
        let carried = self.carry.len();
        if carried == 0 {
            let (consumed, next) = self.parse(rest, self.offset)?;
            return Ok(self.advance(rest, consumed, next, pos));
        }
        let take = rest.len().min(need - carried.min(need));
        self.carry.extend_from_slice(&rest[..take]);
        if self.carry.len() < need {
            return Ok(pos + take);
        }
        let carry = std::mem::take(&mut self.carry);
        // What was carried counts in the offset already.
        let (consumed, next) = self.parse(&carry, self.offset - carried as u64)?;
        match next {
            State::Header { need } if consumed == 0 => {
                self.carry = carry;
                self.state = State::Header { need };
                Ok(pos + take)
            }
            next => {
                // The parser may leave bytes of what was carried: only those of this slice can be given back.
                self.state = next;
                Ok(pos + take - (carry.len() - consumed))
            }
        }
    }

    /// The state after parsing `rest`; what is too short to parse is carried over.
    fn advance(&mut self, rest: &[u8], consumed: usize, next: State<H>, pos: usize) -> usize {
        let waits = consumed == 0 && matches!(next, State::Header { .. });
        self.state = next;
        if waits {
            self.carry.extend_from_slice(rest);
            return pos + rest.len();
        }
        pos + consumed
    }

    /// One event of the parser: the bytes it used of `input`, which begins at `offset` of the tar, and the
    /// state after it. Nothing used and `Header` means that it needs more bytes.
    fn parse(&mut self, input: &[u8], offset: u64) -> Result<(usize, State<H>), SplitError> {
        let corrupt = |detail: String| SplitError::Corrupt { offset, detail };
        let event = self.parser.parse(input).map_err(|error| match error {
            ParseError::InvalidPaxSparseMap(_) | ParseError::TooManySparseEntries { .. } => {
                SplitError::SparseMap(offset)
            }
            ParseError::InvalidPaxValue { key: "mtime", value } if value.starts_with('-') => {
                let path = ambiguous::name(input).unwrap_or_else(|| format!("the entry at byte {offset}"));
                SplitError::TimeBefore1970 { path, time: ambiguous::printable(value.as_bytes()) }
            }
            ParseError::Header(HeaderError::InvalidOctal(field)) => {
                corrupt(format!("\"{}\" is not an octal number", ambiguous::printable(&field)))
            }
            error => corrupt(error.to_string()),
        })?;
        if !matches!(event, ParseEvent::NeedData { .. }) {
            self.bare = matches!(&event, ParseEvent::Entry { entry, .. } if entry.size == 0);
        }
        Ok(match event {
            // It wants what it has: only where the map of a sparse file does not say how long it is. Going on
            // byte by byte, each time from the beginning, would take for ever.
            ParseEvent::NeedData { min_bytes } if min_bytes <= input.len() => {
                return Err(SplitError::SparseMap(offset));
            }
            // Every header but the map of a sparse file is bounded by the parser.
            ParseEvent::NeedData { min_bytes } if min_bytes > MAX_ENTRY_HEADERS => {
                return Err(SplitError::Headers(offset));
            }
            ParseEvent::NeedData { min_bytes } => (0, State::Header { need: min_bytes }),
            ParseEvent::GlobalExtensions { consumed, .. } => {
                let found = ambiguous::before_global(&input[..consumed]);
                if self.before_entry.is_none() || found == Some(AmbiguityKind::OddNumber) {
                    self.before_entry = found;
                }
                (consumed, State::Header { need: HEADER_SIZE })
            }
            ParseEvent::End { consumed } => (consumed, State::Trailer { seen: 0 }),
            ParseEvent::SparseEntry { entry, .. } => {
                return Err(SplitError::Sparse(PathBuf::from(entry.path_lossy().into_owned())));
            }
            ParseEvent::Entry { consumed, entry } => {
                self.met = admit(&entry, self.met, &self.limits)?;
                self.note_ambiguities(&entry, &input[..consumed])?;
                let stored = entry.size.checked_next_multiple_of(HEADER_SIZE as u64);
                let stored = stored.ok_or_else(|| corrupt(format!("a size of {} bytes", entry.size)))?;
                let is_file = entry.entry_type.is_file();
                if !is_file {
                    self.limits.check(Limit::Trailing, stored)?;
                }
                if is_file && is_external(entry.size) {
                    let of_tree = if self.entries { Some(entry::entry(&entry)?.0) } else { None };
                    (consumed, State::External(External::new(entry.size, of_tree, false)))
                } else {
                    let file = if self.entries { Some(SmallFile::new(&entry)?) } else { None };
                    (consumed, State::Inline { left: stored, file })
                }
            }
        })
    }

    fn note_ambiguities(&mut self, entry: &ParsedEntry<'_>, headers: &[u8]) -> Result<(), SplitError> {
        let mut kinds = self.before_entry.take().into_iter().chain(ambiguous::kinds(entry, headers));
        kinds.try_for_each(|kind| self.meet(ambiguous::ambiguity(kind, entry)))
    }

    /// Refuses an ambiguity, or keeps it for the result. Of an artifact it is always kept: an image may
    /// name the same layer later.
    fn meet(&mut self, ambiguity: Ambiguity) -> Result<(), SplitError> {
        if self.entries && !self.as_upstream {
            return Err(SplitError::Ambiguous(ambiguity));
        }
        if self.ambiguities.len() < MAX_AMBIGUITIES {
            self.ambiguities.push(ambiguity);
        }
        Ok(())
    }

    fn inline(&mut self, slice: &Slice, pos: usize, out: &mut Vec<Piece<H>>) -> usize {
        let State::Inline { left, file } = &mut self.state else { return pos };
        let take = (slice.len() - pos).min(usize::try_from(*left).unwrap_or(usize::MAX));
        if let Some(file) = file {
            let content = take.min(file.missing);
            file.content.extend_from_slice(&slice[pos..pos + content]);
            file.missing -= content;
        }
        *left -= take as u64;
        if *left == 0 {
            self.end_inline(out);
        }
        pos + take
    }

    fn end_inline(&mut self, out: &mut Vec<Piece<H>>) {
        if let State::Inline { file: Some(file), .. } =
            std::mem::replace(&mut self.state, State::Header { need: HEADER_SIZE })
        {
            out.push(Piece::Entry(file.into_entry()));
        }
    }

    fn end_external(&mut self, out: &mut Vec<Piece<H>>) {
        let State::External(external) = &mut self.state else { return };
        let padding = external.size.next_multiple_of(HEADER_SIZE as u64) - external.size;
        if let Some(entry) = external.entry.take() {
            out.push(Piece::Entry(entry));
        }
        self.state = match (external.raw, padding) {
            (true, _) => State::RawEnd,
            (false, 0) => State::Header { need: HEADER_SIZE },
            (false, padding) => State::Inline { left: padding, file: None },
        };
    }
}

/// Counts an entry to those `met` before, if the limits allow it.
fn admit(entry: &ParsedEntry<'_>, met: (u64, u64), limits: &Limits) -> Result<(u64, u64), LimitExceeded> {
    let target = entry.link_target.as_ref().map_or(0, |target| target.len());
    limits.check(Limit::Path, entry.path.len().max(target) as u64)?;
    let xattrs: usize =
        entry.xattrs.iter().map(|(name, value)| xattr_footprint(name.len(), value.len())).sum();
    let (entries, metadata) = (met.0 + 1, met.1 + (entry.path.len() + target + xattrs) as u64);
    limits.check(Limit::Entries, entries)?;
    limits.check(Limit::Metadata, metadata)?;
    Ok((entries, metadata))
}

fn inline<H: FsVerityHashValue>(slice: &Slice, from: usize, to: usize, out: &mut Vec<Piece<H>>) {
    if from < to {
        out.push(Piece::Inline(slice.slice(from..to)));
    }
}

impl<H: FsVerityHashValue> SmallFile<H> {
    fn new(parsed: &ParsedEntry<'_>) -> Result<Self, SplitError> {
        let (entry, content) = entry::entry(parsed)?;
        let missing = if matches!(content, Content::Inline) { parsed.size as usize } else { 0 };
        Ok(Self { entry, content: Vec::with_capacity(missing), missing })
    }

    fn into_entry(mut self) -> Entry<H> {
        if let Item::Leaf(LeafContent::Regular(RegularFile::Inline(data))) = &mut self.entry.item {
            *data = self.content.into_boxed_slice();
        }
        self.entry
    }
}

impl<H: FsVerityHashValue> External<H> {
    fn new(size: u64, entry: Option<Entry<H>>, raw: bool) -> Self {
        Self { size, left: size, index: 0, gathered: Vec::new(), gathered_len: 0, entry, raw }
    }

    /// Takes what belongs to the file from `pos` on, and hands out the file or its full segments.
    fn take(&mut self, slice: &Slice, pos: usize, out: &mut Vec<Piece<H>>) -> usize {
        let mut pos = pos;
        while pos < slice.len() && self.left > 0 {
            let want = (SEGMENT - self.gathered_len).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let take = want.min(slice.len() - pos);
            self.gathered.push(slice.slice(pos..pos + take));
            self.gathered_len += take;
            self.left -= take as u64;
            pos += take;
            if self.left == 0 || self.gathered_len == SEGMENT {
                let parts = std::mem::take(&mut self.gathered);
                self.gathered_len = 0;
                out.push(if self.size <= SEGMENT as u64 {
                    Piece::File { size: self.size, parts }
                } else {
                    Piece::Segment { size: self.size, index: self.index, parts }
                });
                self.index += 1;
            }
        }
        pos
    }
}

#[cfg(test)]
mod tests;
