//! What flows inside a layer: a blob's bytes from fetch to split, a stream's items from split to encode.
//! Knows order and bounds; ignores what is in them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use crate::types::Slice;

/// Bytes that are read at once: large, since every read of a pipe or file costs a hop between threads.
pub(super) const BLOB_BUFFER: usize = 256 << 10;
/// Buffers under way at most: one being read, one being inflated, and two so that neither waits for a hiccup.
const DEPTH: usize = 4;

/// What the consumer finds.
pub(super) enum Next {
    /// The next bytes.
    Bytes(Slice),
    /// Nothing now; the producer will wake the consumer.
    Dry,
    /// All bytes have been taken.
    Ended,
}

/// The flow of a blob's bytes.
#[derive(Default)]
pub(super) struct Flow {
    state: Mutex<State>,
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Slice>,
    ended: bool,
}

impl Flow {
    /// Adds the next bytes; the producer asks for [`Flow::room`] first.
    pub(super) fn push(&self, bytes: Slice) {
        self.lock().queue.push_back(bytes);
    }

    /// Says that no more will come.
    pub(super) fn end(&self) {
        self.lock().ended = true;
    }

    /// Waits until one more buffer may be filled.
    pub(super) async fn room(&self) {
        loop {
            let told = self.room.notified();
            if self.lock().queue.len() + 1 < DEPTH {
                return;
            }
            told.await;
        }
    }

    /// Takes the next bytes, if they are there.
    pub(super) fn pop(&self) -> Next {
        let mut state = self.lock();
        match state.queue.pop_front() {
            Some(bytes) => {
                drop(state);
                self.room.notify_one();
                Next::Bytes(bytes)
            }
            None if state.ended => Next::Ended,
            None => Next::Dry,
        }
    }

    /// Whether what was taken last were the last bytes.
    pub(super) fn is_at_end(&self) -> bool {
        let state = self.lock();
        state.ended && state.queue.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The flow of a stream's items from the split to the encoder. Every item pins memory of the layer's account,
/// so the budget bounds it.
pub(super) struct Items<H> {
    pub(super) queue: VecDeque<Item<H>>,
    /// Set when the whole tar was verified and nothing will follow.
    pub(super) complete: bool,
}

/// An item of a stream: bytes, or an object whose id may not be known yet.
pub(super) enum Item<H> {
    Inline(Slice),
    Object { id: Id<H>, size: u64 },
}

/// An id that is known as soon as the file is hashed.
pub(super) type Id<H> = Arc<OnceLock<H>>;

impl<H> Default for Items<H> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), complete: false }
    }
}
