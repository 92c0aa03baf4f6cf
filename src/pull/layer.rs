//! One layer while it is pulled: what its fetch, split, write, encode and finalize share. Knows how they hand
//! bytes and ids to one another; the work itself is in the files named after the steps.
//!
//! A layer may take several attempts: when a candidate blob fails, everything that was made from it
//! is dropped and the next candidate starts a new [`Attempt`]. Objects that a failed attempt has
//! written may be used by others; what nobody uses goes at the end of the run if it has no name yet,
//! and else with the next gc.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use composefs::fsverity::FsVerityHashValue;

use super::{
    entries::Collected,
    flow::{Flow, Items},
    look::KnownLayer,
    sources::BlobSources,
};
use crate::{
    exec::{Actor, Failure, Ticket},
    store::{
        Claim, ClaimGuard, Content, Holder, LayerLink, Pulse, Store, StoreError, StoredLayer, StreamName,
        StreamWriter,
    },
    types::{Account, Ambiguity, Descriptor, Digest, LayerKind, NodeId},
};

/// Memory that an active layer may always have, in bytes: its flow (1 MiB), a file of one segment across its
/// inflated buffers (2 MiB), and what is kept outside of buffers. What waits to be hashed, written or encoded
/// goes without more of it.
pub(super) const RESERVE: usize = (3 << 20) + KEPT;
/// Of the reserve: an inflate window, the encoder's tables and the part of its output that stays in memory.
pub(super) const KEPT: usize = 6 << 20;

/// Memory that a layer may have besides large files, in bytes, however much there is: with more, inflating
/// runs further ahead of hashing, writing and encoding, until what they take up has left every cache.
pub(super) const LIMIT: usize = RESERVE + (8 << 20);

/// A layer and what its steps have made so far.
pub(super) struct Layer<H: FsVerityHashValue> {
    /// What its stream is named after.
    pub(super) name: Digest,
    /// How it is stored.
    pub(super) kind: LayerKind,
    /// Whether some image of this run builds its filesystem from it.
    pub(super) wants_tree: bool,
    state: Mutex<State<H>>,
    /// Its link, as it was found or will be made.
    link: StreamName,
    /// The link belongs to content of another kind, so this layer cannot be stored here.
    foreign: bool,
    /// Set when an artifact's layer turned out to be no tar.
    pub(super) as_raw: AtomicBool,
    /// The node of its write step, for whom its writers work.
    pub(super) write_node: OnceLock<NodeId>,
    pub(super) split: OnceLock<Actor>,
    pub(super) encode: OnceLock<Actor>,
    pub(super) counts: Counts,
    adopted: AtomicBool,
    /// Whether an image of this run takes entries that tar readers read differently as upstream does.
    pub(super) as_upstream: bool,
    /// The entries of this kind that are known.
    ambiguities: Mutex<Vec<Ambiguity>>,
}

struct State<H: FsVerityHashValue> {
    attempt: Option<Arc<Attempt<H>>>,
    write: Option<Ticket>,
    stream: Option<StreamWriter<H>>,
    tree: Option<Collected<H>>,
    /// The stream's id, once it is stored, and what the stream holds.
    stream_id: Option<(H, Content)>,
    /// When the first attempt began.
    begun: Option<Instant>,
    /// Filesystems that are still to be built from it.
    tree_users: usize,
    claim: Option<Arc<ClaimGuard>>,
    /// What the link was when what is stored was examined last, if it was.
    examined: Option<Option<H>>,
    /// Nothing more will be made of it: what claims it now would keep it from others for nothing.
    released: bool,
}

/// Who is at work on a layer.
pub(super) enum Claimed {
    /// We, and nobody else.
    Ours,
    /// Another program is.
    Theirs(Holder, Pulse),
    /// Another program was: it is stored.
    Adopted,
}

/// Somebody else's content has the name that ours must have.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is taken by content of another kind in this repository: untag what uses it and collect garbage, or \
     pull \
     into another repository"
)]
pub(super) struct LinkTaken(pub(super) StreamName);

/// What a layer has cost.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) fetched_bytes: AtomicU64,
    pub(super) tar_bytes: AtomicU64,
    pub(super) objects_new: AtomicU64,
    pub(super) objects_present: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

impl Counts {
    /// What the write step counts.
    fn of_writing(&self) -> [(&'static str, u64); 2] {
        [("objects_new", &self.objects_new), ("objects_present", &self.objects_present)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// All counts with their names.
    pub(super) fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("fetched_bytes", &self.fetched_bytes),
            ("tar_bytes", &self.tar_bytes),
            ("objects_new", &self.objects_new),
            ("objects_present", &self.objects_present),
            ("written_bytes", &self.written_bytes),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

/// One try to get the layer out of one blob.
pub(super) struct Attempt<H: FsVerityHashValue> {
    /// The node that delivers it.
    pub(super) fetch: NodeId,
    /// The blob that is read.
    pub(super) blob: Descriptor,
    /// Where it is read.
    pub(super) places: Arc<BlobSources>,
    /// How it is read.
    pub(super) kind: LayerKind,
    /// The memory of this attempt.
    pub(super) account: Account,
    /// Its bytes on their way.
    pub(super) flow: Flow,
    /// The stream's items, in order, on their way to the encoder.
    pub(super) items: Mutex<Items<H>>,
    /// Pieces of work that may still write objects; the split counts as one.
    pub(super) writers: AtomicUsize,
}

impl<H: FsVerityHashValue> Layer<H> {
    /// A layer that `tree_users` filesystems will be built from.
    pub(super) fn new(name: Digest, kind: LayerKind, known: &KnownLayer<H>, tree_users: usize) -> Self {
        let state = State {
            attempt: None,
            write: None,
            stream: None,
            tree: None,
            stream_id: known.stream.clone(),
            begun: None,
            tree_users,
            claim: None,
            examined: None,
            released: false,
        };
        Self {
            name,
            kind,
            wants_tree: tree_users > 0,
            link: known.link,
            foreign: known.foreign,
            state: Mutex::new(state),
            as_raw: AtomicBool::new(false),
            write_node: OnceLock::new(),
            split: OnceLock::new(),
            encode: OnceLock::new(),
            counts: Counts::default(),
            adopted: AtomicBool::new(false),
            as_upstream: false,
            ambiguities: Mutex::default(),
        }
    }

    /// The same for an image that takes ambiguous entries as upstream does, if it is `as_upstream`; those
    /// that are `noted` are known already.
    pub(super) fn reading(self, as_upstream: bool, noted: Vec<Ambiguity>) -> Self {
        Self { as_upstream, ambiguities: Mutex::new(noted), ..self }
    }

    /// The ambiguous entries that are known.
    pub(super) fn ambiguities(&self) -> Vec<Ambiguity> {
        self.ambiguities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds ambiguous entries to those that are known.
    pub(super) fn add_ambiguities(&self, found: &[Ambiguity]) {
        let mut known = self.ambiguities.lock().unwrap_or_else(PoisonError::into_inner);
        for ambiguity in found {
            if !known.contains(ambiguity) {
                known.push(ambiguity.clone());
            }
        }
    }

    /// The stream's id, once it is stored.
    pub(super) fn id(&self) -> Option<H> {
        self.lock().stream_id.as_ref().map(|(id, _)| id.clone())
    }

    /// Sets the stream's id and content: as it was stored, or as it was found when it
    /// should have been linked.
    pub(super) fn set_id(&self, id: H, content: Content) {
        self.lock().stream_id = Some((id, content));
    }

    /// Whether another program has stored it while we waited: then there is nothing to do for it.
    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::SeqCst)
    }

    /// Claims the layer, so that no other program fetches it as well; or takes over what another
    /// has stored since we looked.
    pub(super) fn claim(&self, store: &Store<H>, force: bool) -> Result<Claimed, StoreError> {
        let mut state = self.lock();
        if state.claim.is_some() || state.released {
            return Ok(Claimed::Ours);
        }
        let theirs = match store.claim(&self.link) {
            Claim::Ours(claim) => {
                state.claim = Some(Arc::new(claim));
                None
            }
            Claim::Theirs(holder, pulse) => Some((holder, pulse)),
        };
        let fresh = state.begun.is_none();
        drop(state);
        if fresh
            && !force
            && self.may_have_come(store, theirs.is_some())?
            && let StoredLayer::Whole { id, content, .. } = store.layer(&self.name, self.kind)?
        {
            self.set_id(id, content);
            self.add_ambiguities(&store.ambiguities(&self.name)?);
            self.adopted.store(true, Ordering::SeqCst);
            drop(self.take_claim());
            return Ok(Claimed::Adopted);
        }
        Ok(theirs.map_or(Claimed::Ours, |(holder, pulse)| Claimed::Theirs(holder, pulse)))
    }

    /// Whether what is stored has to be examined. That may take long, so while we wait for somebody it is
    /// done once for each link there is.
    fn may_have_come(&self, store: &Store<H>, waiting: bool) -> Result<bool, StoreError> {
        if !waiting {
            return Ok(true);
        }
        let linked = store.linked(&self.link)?;
        let seen = self.lock().examined.replace(linked.clone());
        Ok(seen != Some(linked))
    }

    /// Continues without a claim: its owner makes no progress.
    pub(super) fn stop_waiting(&self) {
        self.lock().claim.get_or_insert_with(|| Arc::new(ClaimGuard::unseen()));
    }

    /// Shows other programs that wait for the layer that we get on.
    pub(super) fn beat(&self) {
        // The disk may take its time, and workers must not wait for this lock.
        let claim = self.lock().claim.clone();
        if let Some(claim) = claim {
            claim.beat();
        }
    }

    /// The claim, to be kept by whoever links the layer.
    pub(super) fn take_claim(&self) -> Option<Arc<ClaimGuard>> {
        self.lock().claim.take()
    }

    /// Refuses a layer whose link has other content, before anything is spent on it.
    pub(super) fn require_link(&self) -> Result<(), LinkTaken> {
        if self.foreign { Err(LinkTaken(self.link)) } else { Ok(()) }
    }

    /// The link to ask for, once the stream is stored.
    pub(super) fn link(&self) -> Option<LayerLink<H>> {
        let (id, content) = self.lock().stream_id.clone()?;
        let diff_id = (self.kind == LayerKind::Tar).then_some(self.name);
        Some(LayerLink { name: self.link, content, id, diff_id })
    }

    /// What a new stream of it holds, as it turned out.
    pub(super) fn new_content(&self) -> Content {
        let raw = self.kind == LayerKind::Raw || self.as_raw.load(Ordering::SeqCst);
        if raw { Content::Blob } else { Content::Layer }
    }

    /// Starts over with `blob`, which the node `fetch` delivers.
    pub(super) fn attach(
        &self,
        fetch: NodeId,
        blob: Descriptor,
        places: Arc<BlobSources>,
        account: Account,
    ) -> Arc<Attempt<H>> {
        account.keep(KEPT);
        let as_raw = self.as_raw.load(Ordering::SeqCst);
        let attempt = Arc::new(Attempt {
            fetch,
            blob,
            places,
            kind: if as_raw { LayerKind::Raw } else { self.kind },
            account,
            flow: Flow::default(),
            items: Mutex::new(Items::default()),
            writers: AtomicUsize::new(1),
        });
        let mut state = self.lock();
        let before = state.attempt.replace(attempt.clone());
        state.begun.get_or_insert_with(Instant::now);
        drop(state);
        drop(before);
        self.wake_split();
        self.wake_encode();
        attempt
    }

    /// Milliseconds since the first attempt began.
    pub(super) fn millis(&self) -> u64 {
        let begun = self.lock().begun;
        begun.map_or(0, |begun| u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The attempt that is under way.
    pub(super) fn attempt(&self) -> Option<Arc<Attempt<H>>> {
        self.lock().attempt.clone()
    }

    pub(super) fn wake_split(&self) {
        if let Some(actor) = self.split.get() {
            actor.wake();
        }
    }

    pub(super) fn wake_encode(&self) {
        if let Some(actor) = self.encode.get() {
            actor.wake();
        }
    }

    /// Keeps the ticket of the write step, which ends when the last writer has ended.
    pub(super) fn set_write(&self, ticket: Ticket) {
        self.lock().write = Some(ticket);
    }

    /// Says that `bytes` of new objects were written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.counts.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(ticket) = &self.lock().write {
            ticket.progress(bytes);
        }
    }

    /// Ends the write step, if it has not ended.
    pub(super) fn end_write(&self, result: Result<(), Failure>) {
        let ticket = self.lock().write.take();
        if let Some(ticket) = ticket {
            for (what, count) in self.counts.of_writing() {
                ticket.count(what, count);
            }
            if ticket.cancel().is_raised() { ticket.cancelled() } else { ticket.finish(result) }
        }
    }

    /// One writer of `attempt` has ended.
    pub(super) fn writer_ended(&self, attempt: &Attempt<H>, result: Result<(), Failure>) {
        let last = attempt.writers.fetch_sub(1, Ordering::SeqCst) == 1;
        match result {
            Err(failure) => self.end_write(Err(failure)),
            Ok(()) if last => self.end_write(Ok(())),
            Ok(()) => {}
        }
    }

    pub(super) fn set_stream(&self, stream: StreamWriter<H>) {
        self.lock().stream = Some(stream);
    }

    /// The encoded stream, for the finalize step.
    pub(super) fn take_stream(&self) -> Option<StreamWriter<H>> {
        self.lock().stream.take()
    }

    /// Keeps the entries, unless nobody will build from them any more.
    pub(super) fn set_tree(&self, tree: Collected<H>) {
        let mut state = self.lock();
        if state.tree_users > 0 {
            state.tree = Some(tree);
        }
    }

    /// About how many bytes it takes to build a filesystem from its entries, if they were collected.
    pub(super) fn build_footprint(&self) -> Option<usize> {
        self.lock().tree.as_ref().map(|tree| tree.build_footprint())
    }

    /// Releases the layer when dropped: its finalize step has ended, or will never begin.
    pub(super) fn released_at_end(self: &Arc<Self>) -> Released<H> {
        Released(self.clone())
    }

    /// Gives up an attempt, with all that it holds. The steps that read it are woken to let go of it, too:
    /// the next one may wait for its memory.
    pub(super) fn forget(&self, attempt: &Arc<Attempt<H>>) {
        let forgotten = self.lock().attempt.take_if(|current| Arc::ptr_eq(current, attempt));
        drop(forgotten);
        self.wake_split();
        self.wake_encode();
    }

    /// Gives back everything but the id and the collected tree.
    pub(super) fn release(&self) {
        let (attempt, stream, claim) = {
            let mut state = self.lock();
            state.released = true;
            (state.attempt.take(), state.stream.take(), state.claim.take())
        };
        // What is given back wakes others, who may come back to this layer.
        drop((attempt, stream, claim));
    }

    /// The entries, if they were collected, for one of the filesystems that are built from it. After the last
    /// one the layer has them no more.
    pub(super) fn use_tree(&self) -> Option<Collected<H>> {
        let mut state = self.lock();
        state.tree_users = state.tree_users.saturating_sub(1);
        if state.tree_users == 0 { state.tree.take() } else { state.tree.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Layer::released_at_end`].
pub(super) struct Released<H: FsVerityHashValue>(Arc<Layer<H>>);

impl<H: FsVerityHashValue> Drop for Released<H> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl<H: FsVerityHashValue> Attempt<H> {
    pub(super) fn items(&self) -> MutexGuard<'_, Items<H>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
