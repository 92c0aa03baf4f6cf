//! The split step: a blob's bytes in, verified pieces of its tar out to the writers and the encoder. Knows
//! the order in which bytes are checked; ignores where they come from and what becomes of them.
//!
//! Nothing of a layer is named before its blob's digest and size and its `diff_id` are right (law 1): the
//! stream is complete only then, and only a complete stream is finalized.

use std::sync::{Arc, OnceLock, atomic::Ordering};

use composefs::fsverity::FsVerityHashValue;

use super::{
    check::Check,
    context::Context,
    entries::Collector,
    flow::{Id, Item, Next},
    layer::{Attempt, Layer},
    overcommit::Place,
    write::Writer,
};
use crate::{
    exec::{CpuTask, Failure, Step, Ticket},
    layer::{
        inflate::{Inflate, InflateError},
        split::{Piece, SplitError, Splitter},
    },
    store::StoreError,
    types::{Buffer, Digest, LayerKind, NodeId, Slice, Wake},
};

/// What is inflated and cut in one step: small enough to stay in a core's cache until it was hashed, too.
const TAR_BUFFER: usize = 512 << 10;

/// The window that is part of every layer's reserve, in bytes: what common levels use.
const WINDOW: usize = 3 << 20;

/// What is wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    #[error(
        "the blob has digest {found}, not the {wanted} that its descriptor names: it was damaged or \
         replaced on the way"
    )]
    Digest { wanted: Digest, found: Digest },
    #[error(
        "the tar does not match its diff_id ({found}): the image is broken or hostile; nothing of it was kept"
    )]
    DiffId { found: Digest },
    #[error("{0}")]
    Inflate(#[from] InflateError),
    #[error("{0}")]
    Split(#[from] SplitError),
}

impl BlobError {
    /// Whether it may be that the blob is no tar at all.
    fn may_be_no_tar(&self) -> bool {
        match self {
            Self::Inflate(_) => true,
            Self::Split(error) => !matches!(error, SplitError::Limit(_)),
            Self::Digest { .. } | Self::DiffId { .. } => false,
        }
    }
}

enum Fault {
    /// This blob is of no use; another candidate may be.
    Blob(BlobError),
    /// Nothing to do with the blob.
    Store(StoreError),
}

pub(super) struct SplitTask<H: FsVerityHashValue> {
    context: Arc<Context<H>>,
    layer: Arc<Layer<H>>,
    ticket: Option<Ticket>,
    wake: Wake,
    reading: Option<Reading<H>>,
}

/// Bytes of the blob, and how many of them are used up.
type Input = (Slice, usize);

/// The state of one attempt.
struct Reading<H: FsVerityHashValue> {
    attempt: Arc<Attempt<H>>,
    /// Wakes the split.
    wake: Wake,
    /// For a frame that needs an unusual window.
    window: Option<Place>,
    input: Option<Input>,
    output: Option<(Buffer, usize)>,
    inflate: Option<Inflate>,
    check: Check,
    /// How far checking has come.
    checked: Checked,
    splitter: Splitter<H>,
    pieces: Vec<Piece<H>>,
    writer: Writer<H>,
    tree: Collector<H>,
    last_file: Option<Id<H>>,
    /// Set while the rest of a blob is read only to check it and to get to its end.
    reading_on: Option<ReadToEnd>,
}

/// What is known of the digests of a blob and its tar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checked {
    /// There are more bytes to come.
    Open,
    /// All bytes are handed in.
    Closed,
    /// The blob's digest is right.
    Blob,
}

/// What follows when a blob was read to its end only to be checked.
enum ReadToEnd {
    /// If it is what its descriptor says, it is stored whole.
    Raw,
    /// If it is what its descriptor says, this is wrong with it; if not, another place
    /// may have the right bytes.
    Faulty(BlobError),
}

impl<H: FsVerityHashValue> CpuTask for SplitTask<H> {
    fn step(&mut self) -> Step {
        if self.ticket.as_ref().is_none_or(|ticket| ticket.cancel().is_raised()) {
            return self.end_cancelled();
        }
        if !self.follow() {
            return Step::Idle;
        }
        let may_be_raw = self.may_be_raw();
        let (Some(reading), Some(ticket)) = (&mut self.reading, &self.ticket) else { return Step::Idle };
        match reading.advance(&self.context, &self.layer, ticket) {
            Ok(Advance::Again) => Step::Again,
            Ok(Advance::Dry) => Step::Idle,
            Ok(Advance::Ended) => match reading.reading_on.take() {
                Some(ReadToEnd::Raw) => self.read_as_raw(),
                Some(ReadToEnd::Faulty(error)) => self.reject(error),
                None => self.complete(),
            },
            Err(Fault::Blob(error)) if may_be_raw && error.may_be_no_tar() => {
                // Not a tar, or none that we know: read on to check the blob, then store it whole.
                reading.drain(ReadToEnd::Raw);
                Step::Again
            }
            Err(Fault::Blob(error @ (BlobError::Inflate(_) | BlobError::Split(_))))
                if reading.is_unchecked() && reading.attempt.places.has_next() =>
            {
                reading.drain(ReadToEnd::Faulty(error));
                Step::Again
            }
            Err(Fault::Blob(BlobError::Digest { .. })) if reading.attempt.places.has_next() => {
                reading.attempt.places.turn_to_next();
                self.read_again()
            }
            Err(Fault::Blob(error)) => self.reject(error),
            Err(Fault::Store(error)) => {
                self.forget_attempt();
                self.end(Err(error.into()))
            }
        }
    }
}

impl<H: FsVerityHashValue> SplitTask<H> {
    /// The work of one split; `wake` wakes it.
    pub(super) fn new(context: Arc<Context<H>>, layer: Arc<Layer<H>>, ticket: Ticket, wake: Wake) -> Self {
        Self { context, layer, ticket: Some(ticket), wake, reading: None }
    }

    /// Turns to the attempt that is under way; what was read of another is dropped.
    fn follow(&mut self) -> bool {
        let (Some(attempt), Some(ticket)) = (self.layer.attempt(), &self.ticket) else {
            self.reading = None;
            return false;
        };
        if self.reading.as_ref().is_some_and(|reading| Arc::ptr_eq(&reading.attempt, &attempt)) {
            return true;
        }
        let reading = Reading::new(&self.context, &self.layer, attempt, ticket, self.wake.clone());
        self.reading = Some(reading);
        true
    }

    /// Everything was right: the rest of the layer may be named.
    fn complete(&mut self) -> Step {
        let Some(reading) = self.reading.take() else { return Step::Idle };
        if let Some(tree) = reading.tree.finish() {
            self.layer.set_tree(tree);
        }
        self.layer.add_ambiguities(reading.splitter.ambiguities());
        let attempt = reading.attempt.clone();
        attempt.items().complete = true;
        self.layer.wake_encode();
        self.layer.writer_ended(&attempt, Ok(()));
        self.end(Ok(()))
    }

    fn may_be_raw(&self) -> bool {
        self.layer.kind == LayerKind::ArtifactTar && !self.layer.as_raw.load(Ordering::SeqCst)
    }

    fn reject(&mut self, error: BlobError) -> Step {
        let fetch = self.forget_attempt();
        if let (Some(ticket), Some(fetch)) = (&self.ticket, fetch) {
            ticket.reject(fetch, error.into());
        }
        Step::Again
    }

    fn read_as_raw(&mut self) -> Step {
        self.layer.as_raw.store(true, Ordering::SeqCst);
        self.read_again()
    }

    fn read_again(&mut self) -> Step {
        let fetch = self.forget_attempt();
        if let (Some(ticket), Some(fetch)) = (&self.ticket, fetch) {
            ticket.again(fetch);
        }
        Step::Again
    }

    /// Lets go of everything that the attempt holds, so that the next one finds room; gives whose it was.
    fn forget_attempt(&mut self) -> Option<NodeId> {
        let attempt = self.reading.take()?.attempt;
        attempt.items().queue.clear();
        self.layer.forget(&attempt);
        Some(attempt.fetch)
    }

    fn end_cancelled(&mut self) -> Step {
        self.forget_attempt();
        if let Some(ticket) = self.ticket.take() {
            ticket.cancelled();
        }
        Step::Done
    }

    fn end(&mut self, result: Result<(), Failure>) -> Step {
        if let Some(ticket) = self.ticket.take() {
            ticket.finish(result);
        }
        Step::Done
    }
}

enum Advance {
    Again,
    Dry,
    Ended,
}

impl<H: FsVerityHashValue> Reading<H> {
    fn new(
        context: &Context<H>,
        layer: &Arc<Layer<H>>,
        attempt: Arc<Attempt<H>>,
        ticket: &Ticket,
        wake: Wake,
    ) -> Self {
        let kind = attempt.kind;
        let (pool, priority) = (ticket.pool().clone(), ticket.priority().frees_memory());
        let check = Check::start(&pool, priority, wake.clone());
        let pool = layer.write_node.get().map_or(pool.clone(), |node| pool.on_behalf_of(*node));
        let writer = Writer::new(context.store.clone(), layer.clone(), attempt.clone(), pool, priority);
        Self {
            wake,
            window: None,
            input: None,
            output: None,
            inflate: (kind != LayerKind::Raw).then(Inflate::new),
            check,
            checked: Checked::Open,
            splitter: Splitter::new(kind, attempt.blob.size)
                .within(context.limits)
                .as_upstream(layer.as_upstream),
            pieces: Vec::new(),
            writer,
            tree: Collector::new(layer.wants_tree),
            last_file: None,
            reading_on: None,
            attempt,
        }
    }

    /// Fills one buffer, if there is input and memory, and hands on what is in it.
    fn advance(&mut self, context: &Context<H>, layer: &Layer<H>, ticket: &Ticket) -> Result<Advance, Fault> {
        match self.checked {
            Checked::Open => {}
            Checked::Closed => return self.end(context, layer),
            // Read on only to check the blob, which is checked.
            Checked::Blob => return Ok(Advance::Ended),
        }
        loop {
            if !self.has_window(context) {
                return Ok(Advance::Dry);
            }
            let Some((mut buffer, filled)) = self.take_output() else { return Ok(Advance::Dry) };
            if filled == TAR_BUFFER {
                self.hand_on(context, layer, ticket, buffer, filled)?;
                return Ok(Advance::Again);
            }
            let Some((input, at_end)) = self.take_input() else {
                self.output = Some((buffer, filled));
                return Ok(Advance::Dry);
            };
            let bytes = input.as_ref().map_or(&[][..], |(bytes, used)| &bytes[*used..]);
            let step = self.inflate_some(bytes, &mut buffer.bytes_mut()[filled..], at_end);
            let (consumed, produced, ended) = step.map_err(Fault::Blob)?;
            self.input = input
                .map(|(bytes, used)| (bytes, used + consumed))
                .filter(|(bytes, used)| *used < bytes.len());
            let filled = filled + produced;
            if ended {
                self.hand_on(context, layer, ticket, buffer, filled)?;
                self.checked = Checked::Closed;
                self.check.close();
                return self.end(context, layer);
            }
            self.output = Some((buffer, filled));
        }
    }

    /// Whether the decompressor's memory is counted: a frame may ask for a window beyond what every
    /// layer has, and the next one for more. The window is reserved by then, but hardly touched, and
    /// the one before it is freed.
    fn has_window(&mut self, context: &Context<H>) -> bool {
        let memory = self.inflate.as_ref().map_or(0, Inflate::memory);
        if memory <= WINDOW || self.window.as_ref().is_some_and(|place| place.covers(memory)) {
            return true;
        }
        self.window = None;
        self.window = context.windows.enter(memory, self.wake.clone());
        self.window.is_some()
    }

    fn take_output(&mut self) -> Option<(Buffer, usize)> {
        self.output.take().or_else(|| self.attempt.account.buffer(TAR_BUFFER).map(|buffer| (buffer, 0)))
    }

    /// The next input with the place in it, if there is more, and whether it is the last; `None`
    /// if nothing has come yet.
    fn take_input(&mut self) -> Option<(Option<Input>, bool)> {
        let input = match self.input.take() {
            Some(input) => Some(input),
            None => match self.attempt.flow.pop() {
                Next::Bytes(bytes) => {
                    // All of them, before anything is made of them: the blob may turn out to be no tar.
                    self.check.blob(bytes.clone());
                    Some((bytes, 0))
                }
                Next::Ended => None,
                Next::Dry => return None,
            },
        };
        let at_end = self.attempt.flow.is_at_end();
        Some((input, at_end))
    }

    fn inflate_some(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        at_end: bool,
    ) -> Result<(usize, usize, bool), BlobError> {
        match &mut self.inflate {
            _ if self.reading_on.is_some() => Ok((input.len(), 0, at_end)),
            Some(inflate) => {
                let progress = inflate.step(input, output, at_end)?;
                Ok((progress.consumed, progress.produced, progress.ended))
            }
            None => {
                let len = input.len().min(output.len());
                output[..len].copy_from_slice(&input[..len]);
                Ok((len, len, at_end && len == input.len()))
            }
        }
    }

    fn hand_on(
        &mut self,
        context: &Context<H>,
        layer: &Layer<H>,
        ticket: &Ticket,
        buffer: Buffer,
        filled: usize,
    ) -> Result<(), Fault> {
        let slice = buffer.freeze(filled);
        layer.counts.tar_bytes.fetch_add(filled as u64, Ordering::Relaxed);
        ticket.progress(filled as u64);
        if self.reading_on.is_some() {
            return Ok(());
        }
        if self.attempt.kind == LayerKind::Tar {
            self.check.tar(slice.clone());
        }
        let fed = self.splitter.feed(&slice, &mut self.pieces);
        fed.map_err(|error| Fault::Blob(self.told_by_magic(error)))?;
        self.dispatch(context, layer).map_err(Fault::Store)
    }

    /// The end of the blob: everything must be right before the last pieces go.
    fn end(&mut self, context: &Context<H>, layer: &Layer<H>) -> Result<Advance, Fault> {
        let Some(digests) = self.check.digests() else { return Ok(Advance::Dry) };
        let wanted = self.attempt.blob.digest;
        if digests.blob != wanted {
            return Err(Fault::Blob(BlobError::Digest { wanted, found: digests.blob }));
        }
        self.checked = Checked::Blob;
        if self.reading_on.is_some() {
            return Ok(Advance::Ended);
        }
        let finished = self.splitter.finish(&mut self.pieces);
        finished.map_err(|error| Fault::Blob(self.told_by_magic(error)))?;
        if self.attempt.kind == LayerKind::Tar && digests.tar != layer.name {
            return Err(Fault::Blob(BlobError::DiffId { found: digests.tar }));
        }
        self.dispatch(context, layer).map_err(Fault::Store)?;
        Ok(Advance::Ended)
    }

    /// What is wrong with a blob that the splitter fails for: if not even its first header is one, the format
    /// that its first bytes are of.
    fn told_by_magic(&self, error: SplitError) -> BlobError {
        let at_start = match &error {
            SplitError::Corrupt { offset, .. } => *offset == 0,
            SplitError::Truncated(offset) => *offset < 512,
            _ => false,
        };
        match self.inflate.as_ref().filter(|_| at_start).and_then(Inflate::foreign) {
            Some(foreign) => foreign.into(),
            None => error.into(),
        }
    }

    /// Sends the pieces on their ways.
    fn dispatch(&mut self, context: &Context<H>, layer: &Layer<H>) -> Result<(), StoreError> {
        let mut items = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Inline(bytes) => items.push(Item::Inline(bytes)),
                Piece::File { size, parts } => {
                    let id = new_id(&mut items, &mut self.last_file, size);
                    self.writer.file(id, parts);
                }
                Piece::Segment { size, index: 0, parts } => {
                    let id = new_id(&mut items, &mut self.last_file, size);
                    self.writer.first_segment(id, size, parts, context.hash_first_max)?;
                }
                Piece::Segment { index, parts, .. } => self.writer.next_segment(index, parts),
                Piece::Entry(entry) => self.tree.push(entry, self.last_file.as_ref(), &context.budget),
            }
        }
        self.writer.flush();
        self.attempt.items().queue.extend(items);
        layer.wake_encode();
        Ok(())
    }

    /// Whether the blob's digest was not compared yet.
    fn is_unchecked(&self) -> bool {
        self.checked != Checked::Blob
    }

    fn drain(&mut self, why: ReadToEnd) {
        self.reading_on = Some(why);
        self.output = None;
        self.pieces.clear();
        self.attempt.items().queue.clear();
    }
}

fn new_id<H>(items: &mut Vec<Item<H>>, last: &mut Option<Id<H>>, size: u64) -> Id<H> {
    let id = Arc::new(OnceLock::new());
    items.push(Item::Object { id: id.clone(), size });
    *last = Some(id.clone());
    id
}
