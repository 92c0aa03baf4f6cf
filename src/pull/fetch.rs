//! The fetch step: a blob from the first place that gives it, into its layer's flow. Knows slots, memory and
//! places; ignores what the bytes are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use composefs::fsverity::FsVerityHashValue;
use tokio::sync::Notify;

use super::{
    context::Context,
    flow::BLOB_BUFFER,
    layer::{Attempt, LIMIT, Layer, RESERVE},
    pace::Pace,
};
use crate::{
    exec::{Failure, Ticket},
    source::{Source, SourceError},
    types::{Account, Buffer, Descriptor},
};

/// When the run drains, a blob whose rest takes longer is given up: what follows its last byte takes time too.
const NEARLY_WHOLE: Duration = Duration::from_secs(4);

/// One blob and the places that have it.
pub(super) struct Fetch<H: FsVerityHashValue> {
    pub(super) layer: Arc<Layer<H>>,
    pub(super) blob: Descriptor,
    pub(super) places: Arc<Places>,
    pub(super) pace: Pace,
}

/// The places that have a blob, in the order of the request; each is tried until one delivers.
pub(super) struct Places {
    sources: Vec<Arc<dyn Source>>,
    at: AtomicUsize,
}

impl Places {
    pub(super) fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Self { sources, at: AtomicUsize::new(0) }
    }

    fn current(&self) -> Option<&Arc<dyn Source>> {
        self.sources.get(self.at.load(Ordering::SeqCst))
    }

    /// Whether there is one more after the current one.
    pub(super) fn has_next(&self) -> bool {
        self.at.load(Ordering::SeqCst) + 1 < self.sources.len()
    }

    /// Gives up the current one, which has failed or delivered something else.
    pub(super) fn turn_to_next(&self) {
        self.at.fetch_add(1, Ordering::SeqCst);
    }
}

impl<H: FsVerityHashValue> Fetch<H> {
    /// Runs to the end, or to the moment when nobody wants the blob any more.
    pub(super) async fn run(self: Arc<Self>, context: Arc<Context<H>>, ticket: Ticket) {
        let cancel = ticket.cancel().clone();
        let result = tokio::select! {
            biased;
            () = cancel.raised() => None,
            () = self.too_far(&ticket) => None,
            result = self.transfer(&context, &ticket) => Some(result),
        };
        match result {
            Some(result) => {
                if cancel.is_raised() {
                    self.abandon();
                }
                ticket.finish(result);
            }
            None => {
                self.abandon();
                ticket.cancelled();
            }
        }
    }

    /// Ends when the run drains and the rest of the blob would take too long.
    async fn too_far(&self, ticket: &Ticket) {
        ticket.draining().raised().await;
        while self.pace.rest().is_some_and(|rest| rest <= NEARLY_WHOLE) {
            tokio::time::sleep(NEARLY_WHOLE / 20).await;
        }
    }

    async fn transfer(&self, context: &Context<H>, ticket: &Ticket) -> Result<(), Failure> {
        self.layer.require_link()?;
        let _slot = context.downloads.acquire().await?;
        let memory = Arc::new(Notify::new());
        loop {
            let Some(place) = self.places.current() else { return Err(NoPlace.into()) };
            let account = self.account(context, &memory).await;
            let attempt = self.layer.attach(ticket.node(), self.blob.clone(), self.places.clone(), account);
            ticket.begin();
            let result = self.deliver(&**place, &attempt, &memory, ticket).await;
            match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.layer.forget(&attempt);
                    self.layer.wake_split();
                    if !self.places.has_next() {
                        return Err(error.into());
                    }
                    self.places.turn_to_next();
                    ticket.restarted();
                }
            }
        }
    }

    /// Memory for the layer; waits until others have given enough back.
    async fn account(&self, context: &Context<H>, memory: &Arc<Notify>) -> Account {
        let (layer, told) = (Arc::downgrade(&self.layer), memory.clone());
        let wake = Arc::new(move || {
            told.notify_one();
            if let Some(layer) = layer.upgrade() {
                layer.wake_split();
            }
        });
        loop {
            match context.budget.open(RESERVE, wake.clone()) {
                Some(account) => {
                    account.limit(LIMIT);
                    return account;
                }
                None => memory.notified().await,
            }
        }
    }

    async fn deliver(
        &self,
        place: &dyn Source,
        attempt: &Attempt<H>,
        memory: &Notify,
        ticket: &Ticket,
    ) -> Result<(), SourceError> {
        self.pace.begin(self.blob.size);
        let mut blob = place.open_blob(&self.blob).await?;
        let mut left = self.blob.size;
        let mut held = Duration::ZERO;
        while left > 0 {
            let asked = Instant::now();
            attempt.flow.room().await;
            let buffer = buffer(&attempt.account, memory).await;
            held += asked.elapsed();
            let (buffer, filled) = blob.read(buffer).await?;
            if filled == 0 {
                break;
            }
            left = left.saturating_sub(filled as u64);
            self.pace.came(filled as u64);
            self.layer.counts.fetched_bytes.fetch_add(filled as u64, Ordering::Relaxed);
            ticket.progress(filled as u64);
            attempt.flow.push(buffer.freeze(filled));
            self.layer.wake_split();
        }
        blob.finish().await?;
        // Time in which those who take the bytes were the slower ones.
        ticket.count("held_us", u64::try_from(held.as_micros()).unwrap_or(u64::MAX));
        attempt.flow.end();
        self.layer.wake_split();
        Ok(())
    }

    fn abandon(&self) {
        // Another candidate may have begun already: only an attempt at this blob is given up.
        if let Some(attempt) = self.layer.attempt().filter(|attempt| attempt.blob == self.blob) {
            self.layer.forget(&attempt);
            self.layer.wake_split();
        }
    }
}

async fn buffer(account: &Account, memory: &Notify) -> Buffer {
    loop {
        match account.buffer(BLOB_BUFFER) {
            Some(buffer) => return buffer,
            None => memory.notified().await,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no image of this run has this blob (a defect in this program, please report it)")]
struct NoPlace;
