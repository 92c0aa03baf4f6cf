//! The encode step: a layer's stream, from inline bytes and ids in tar order. Knows when an item can be
//! encoded; ignores who hashes files.

use std::sync::Arc;

use composefs::fsverity::FsVerityHashValue;

use super::{
    context::Context,
    flow::Item,
    layer::{Attempt, Layer},
};
use crate::{
    exec::{CpuTask, Failure, Step, Ticket},
    store::{Content, StreamWriter},
    types::LayerKind,
};

/// Items that are encoded in one step.
const ITEMS: usize = 512;

pub(super) struct EncodeTask<H: FsVerityHashValue> {
    context: Arc<Context<H>>,
    layer: Arc<Layer<H>>,
    ticket: Option<Ticket>,
    current: Option<(Arc<Attempt<H>>, StreamWriter<H>)>,
}

impl<H: FsVerityHashValue> EncodeTask<H> {
    pub(super) fn new(context: Arc<Context<H>>, layer: Arc<Layer<H>>, ticket: Ticket) -> Self {
        Self { context, layer, ticket: Some(ticket), current: None }
    }

    /// Turns to the attempt that is under way; what was encoded of another is dropped.
    fn follow(&mut self) -> bool {
        let Some(attempt) = self.layer.attempt() else {
            self.current = None;
            return false;
        };
        if self.current.as_ref().is_none_or(|(current, _)| !Arc::ptr_eq(current, &attempt)) {
            let store = self.context.store.clone();
            let spool = Box::new(move || store.spool());
            let content = if attempt.kind == LayerKind::Raw { Content::Blob } else { Content::Layer };
            self.current = Some((attempt, StreamWriter::new(content.code(), spool)));
        }
        true
    }

    fn encode(&mut self) -> std::io::Result<Step> {
        let Some((attempt, stream)) = &mut self.current else { return Ok(Step::Idle) };
        for _ in 0..ITEMS {
            let mut items = attempt.items();
            let Some(first) = items.queue.front() else {
                return Ok(if items.complete { Step::Done } else { Step::Idle });
            };
            if matches!(first, Item::Object { id, .. } if id.get().is_none()) {
                return Ok(Step::Idle);
            }
            let Some(item) = items.queue.pop_front() else { return Ok(Step::Idle) };
            drop(items);
            match item {
                Item::Inline(bytes) => stream.inline(&bytes)?,
                Item::Object { id, size } => match id.get() {
                    Some(id) => stream.external(id, size)?,
                    None => return Ok(Step::Idle),
                },
            }
        }
        Ok(Step::Again)
    }

    fn end(&mut self, result: Result<(), Failure>) -> Step {
        if let Some(ticket) = self.ticket.take() {
            if ticket.cancel().is_raised() { ticket.cancelled() } else { ticket.finish(result) }
        }
        Step::Done
    }
}

impl<H: FsVerityHashValue> CpuTask for EncodeTask<H> {
    fn step(&mut self) -> Step {
        let cancelled = self.ticket.as_ref().is_none_or(|ticket| ticket.cancel().is_raised());
        if cancelled {
            self.current = None;
            self.layer.release();
            return self.end(Ok(()));
        }
        if !self.follow() {
            return Step::Idle;
        }
        match self.encode() {
            Ok(Step::Done) => {
                if let Some((_, stream)) = self.current.take() {
                    self.layer.set_stream(stream);
                }
                self.end(Ok(()))
            }
            Ok(step) => step,
            Err(cause) => {
                let failure = self.context.store.explain("encoding a layer's stream", cause);
                self.current = None;
                self.layer.release();
                self.end(Err(failure.into()))
            }
        }
    }
}
