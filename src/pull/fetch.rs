//! The fetch step: a blob from the first place that gives it, into its layer's flow. Knows slots, memory,
//! limits and pauses; ignores what the bytes are.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use composefs::fsverity::FsVerityHashValue;
use tokio::sync::{Notify, SemaphorePermit};

use super::{
    context::Context,
    flow::BLOB_BUFFER,
    layer::{Attempt, Claimed, LIMIT, Layer, RESERVE},
    pace::Pace,
    sources::{BlobSources, Next},
};
use crate::{
    exec::{Failure, Ticket},
    source::{HostSlot, Source, SourceError, Tries},
    store::Pulse,
    types::{Account, Buffer, Descriptor},
};

/// How often to look whether another program has done with a layer.
const CLAIM_POLL: Duration = Duration::from_millis(200);
/// When the run drains, a blob whose rest takes longer is given up: what follows its
/// last byte takes time too.
const NEARLY_WHOLE: Duration = Duration::from_secs(4);

/// One blob and the places that have it.
pub(super) struct Fetch<H: FsVerityHashValue> {
    pub(super) layer: Arc<Layer<H>>,
    pub(super) blob: Descriptor,
    pub(super) places: Arc<BlobSources>,
    pub(super) pace: Pace,
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

    /// Tries place after place, and after a pause once more those that may do better then.
    async fn transfer(&self, context: &Context<H>, ticket: &Ticket) -> Result<(), Failure> {
        self.layer.require_link()?;
        let (mut failed, mut pauses) = (0, 0);
        let mut tries: Option<Tries> = None;
        loop {
            let Some(place) = self.places.current() else { return Err(NoPlace.into()) };
            let earlier = tries.take().filter(|tries| tries.are_at(place.host()));
            let tries = tries.insert(earlier.unwrap_or_else(|| place.host().tries(place.describe())));
            let error = match self.try_place(&*place, tries, context, ticket).await {
                Ok(()) => return Ok(()),
                Err(TryError::Place(error)) => error,
                Err(TryError::Here(failure)) => return Err(failure),
            };
            failed += 1;
            let pause = match self.places.failed(&error) {
                Next::Now => Duration::ZERO,
                Next::Later => {
                    pauses += 1;
                    match context.retries.pause(pauses) {
                        Some(pause) => pause,
                        None => {
                            tries.gave_up(&error);
                            return Err(error.after_tries(failed).into());
                        }
                    }
                }
                Next::Never => return Err(error.into()),
            };
            if pause > Duration::ZERO {
                let what = format!("{}: blob {}", place.describe(), self.blob.digest.short());
                ticket.note(&context.retries.announcement(&what, &error, pause, pauses));
            }
            ticket.restarted();
            tokio::time::sleep(pause).await;
        }
    }

    /// One transfer from one place. Whoever waits for a registry's slot must not keep one of the run's.
    async fn try_place(
        &self,
        place: &dyn Source,
        tries: &mut Tries,
        context: &Context<H>,
        ticket: &Ticket,
    ) -> Result<(), TryError> {
        let Some((slot, _download)) = self.admission(tries, context, ticket).await? else {
            ticket.begin();
            return Ok(());
        };
        let memory = Arc::new(Notify::new());
        let account = self.account(context, &memory).await;
        let attempt = self.layer.attach(ticket.node(), self.blob.clone(), self.places.clone(), account);
        ticket.begin();
        let result = self.deliver(place, &attempt, &memory, context, ticket).await;
        tries.learn(&slot, &result);
        if result.is_err() {
            self.layer.forget(&attempt);
        }
        Ok(result?)
    }

    /// A slot of the registry and one of the run, for a layer that nobody else is at work on; nothing if
    /// somebody else has stored it by now.
    async fn admission<'a>(
        &self,
        tries: &Tries,
        context: &'a Context<H>,
        ticket: &Ticket,
    ) -> Result<Option<(HostSlot, SemaphorePermit<'a>)>, TryError> {
        let mut told = false;
        let mut last: Option<(Pulse, Instant)> = None;
        loop {
            // A claim comes last: what waits for a slot is not at work.
            let slot = tries.slot().await?;
            let slots = (slot, context.downloads.acquire().await.map_err(Failure::from)?);
            match self.layer.claim(&context.store, context.force).map_err(Failure::from)? {
                Claimed::Ours => return Ok(Some(slots)),
                Claimed::Adopted => return Ok(None),
                Claimed::Theirs(holder, pulse) => {
                    let layer = self.layer.name.short();
                    if !std::mem::replace(&mut told, true) {
                        ticket.note(&format!("layer {layer}: {holder} is at work on it: waiting for that"));
                    }
                    match &last {
                        // A stopped process keeps its locks. Two at once do no harm.
                        Some((seen, since))
                            if *seen == pulse && since.elapsed() >= context.patience.answer() =>
                        {
                            ticket.note(&format!(
                                "layer {layer}: {holder} is making no progress; fetching it here"
                            ));
                            self.layer.stop_waiting();
                            return Ok(Some(slots));
                        }
                        Some((seen, _)) if *seen == pulse => {}
                        _ => last = Some((pulse, Instant::now())),
                    }
                }
            }
            drop(slots);
            tokio::time::sleep(CLAIM_POLL).await;
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
        context: &Context<H>,
        ticket: &Ticket,
    ) -> Result<(), SourceError> {
        self.pace.begin(self.blob.size);
        let mut blob = place.open_blob(&self.blob).await?;
        let mut left = self.blob.size;
        let mut held = Duration::ZERO;
        let mut beaten = Instant::now();
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
            if beaten.elapsed() >= CLAIM_POLL {
                beaten = Instant::now();
                self.layer.beat();
            }
            self.layer.counts.fetched_bytes.fetch_add(filled as u64, Ordering::Relaxed);
            ticket.progress(filled as u64);
            attempt.flow.push(buffer.freeze(filled));
            self.layer.wake_split();
            if let Some(limit) = context.rate_limit.as_ref().filter(|_| place.host().name().is_some()) {
                limit.pay(filled as u64).await;
            }
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

/// Why a blob did not come.
enum TryError {
    /// The place, or the way to it: another one may do better, or the same one later.
    Place(SourceError),
    /// Something here.
    Here(Failure),
}

impl From<SourceError> for TryError {
    fn from(error: SourceError) -> Self {
        Self::Place(error)
    }
}

impl From<Failure> for TryError {
    fn from(failure: Failure) -> Self {
        Self::Here(failure)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no image of this run has this blob (a defect in this program, please report it)")]
struct NoPlace;
