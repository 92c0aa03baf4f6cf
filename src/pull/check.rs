//! The digests of a layer's blob and of its tar, taken beside the inflating: hashing costs half of what
//! inflating does, and in one piece they would be the longest chain of a large layer. Knows the bytes in
//! their order; what they must hash to is the split's business.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    exec::{Actor, CpuTask, Pool, Priority, Step},
    types::{Digest, Sha256, Slice, Wake},
};

/// Both digests of one attempt in the making.
pub(super) struct Check {
    state: Arc<Mutex<State>>,
    actor: Actor,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Part>,
    closed: bool,
    digests: Option<Digests>,
}

enum Part {
    Blob(Slice),
    Tar(Slice),
}

/// What the bytes are.
#[derive(Clone, Copy)]
pub(super) struct Digests {
    /// Of all bytes as they came.
    pub(super) blob: Digest,
    /// Of those that were inflated.
    pub(super) tar: Digest,
}

impl Check {
    /// Hashes at `priority`, and calls `done` once both digests are known.
    pub(super) fn start(pool: &Pool, priority: Priority, done: Wake) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let actor = Actor::new(pool, priority);
        actor.start(Task { state: state.clone(), blob: Sha256::default(), tar: Sha256::default(), done });
        Self { state, actor }
    }

    /// Adds bytes of the blob.
    pub(super) fn blob(&self, bytes: Slice) {
        self.push(Part::Blob(bytes));
    }

    /// Adds bytes of the tar.
    pub(super) fn tar(&self, bytes: Slice) {
        self.push(Part::Tar(bytes));
    }

    /// Says that no more will come.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.actor.wake();
    }

    /// Both digests, once they are known.
    pub(super) fn digests(&self) -> Option<Digests> {
        lock(&self.state).digests
    }

    fn push(&self, part: Part) {
        lock(&self.state).queue.push_back(part);
        self.actor.wake();
    }
}

impl Drop for Check {
    /// Nobody will ask: an attempt was given up.
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.queue.clear();
        // What is left is not all.
        state.closed = false;
    }
}

struct Task {
    state: Arc<Mutex<State>>,
    blob: Sha256,
    tar: Sha256,
    done: Wake,
}

impl CpuTask for Task {
    fn step(&mut self) -> Step {
        let mut state = lock(&self.state);
        let Some(part) = state.queue.pop_front() else {
            if !state.closed {
                return Step::Idle;
            }
            let (blob, tar) = (std::mem::take(&mut self.blob), std::mem::take(&mut self.tar));
            state.digests = Some(Digests { blob: blob.finish(), tar: tar.finish() });
            drop(state);
            (self.done)();
            return Step::Done;
        };
        drop(state);
        match part {
            Part::Blob(bytes) => self.blob.update(&bytes),
            Part::Tar(bytes) => self.tar.update(&bytes),
        }
        Step::Again
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::types::Budget;

    #[test]
    fn both_digests_are_those_of_all_bytes_and_nothing_is_kept() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let pool = Pool::new(2, runtime.handle().clone()).unwrap();
        let budget = Budget::new(1 << 20);
        let account = budget.open(0, Arc::new(|| ())).unwrap();
        let slice = |bytes: &[u8]| {
            let mut buffer = account.buffer(bytes.len()).unwrap();
            buffer.bytes_mut().copy_from_slice(bytes);
            buffer.freeze(bytes.len())
        };
        let (sender, receiver) = mpsc::channel();
        let done = Arc::new(move || sender.send(()).unwrap());
        let check = Check::start(&pool, Priority::new(1), done);
        for piece in [&b"blob"[..], b" of", b" bytes"] {
            check.blob(slice(piece));
            check.tar(slice(&piece.repeat(3)));
        }
        assert!(check.digests().is_none(), "more may come");
        check.close();
        receiver.recv().unwrap();
        let digests = check.digests().unwrap();
        assert_eq!(digests.blob, Digest::of(b"blob of bytes"));
        assert_eq!(digests.tar, Digest::of(b"blobblobblob of of of bytes bytes bytes"));
        assert_eq!(budget.used(), 0);
    }
}
