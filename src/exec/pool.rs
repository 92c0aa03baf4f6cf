//! The workers: what is ready over rayon's threads, and tokio's runtime beside it. Knows priorities
//! and whether anything is going on; unaware of graphs.

use std::{
    any::Any,
    cmp::Ordering as Order,
    collections::{BinaryHeap, VecDeque},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::{Observer, Priority, Worked};
use crate::types::NodeId;

/// Work, and the node for which it is done.
struct Piece {
    node: Option<NodeId>,
    work: Box<dyn FnOnce() + Send>,
}

type Hook = Box<dyn Fn(Option<String>) + Send + Sync>;

/// Where work is handed in. Clones share the same workers.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    /// Whose work is handed in here.
    node: Option<NodeId>,
}

struct Inner {
    threads: rayon::ThreadPool,
    runtime: tokio::runtime::Handle,
    ready: Mutex<Queue>,
    order: AtomicU64,
    /// Pieces queued or running, plus futures in flight. At zero nothing can happen any more.
    activity: AtomicUsize,
    hook: Mutex<Option<Arc<Hook>>>,
    observer: OnceLock<Arc<dyn Observer>>,
}

/// From so many ready pieces a worker on, what gives memory back goes before everything else: it is what
/// those wait for who find no memory, and its bytes are still in some core's cache. Below it, other work goes
/// first, so that no worker runs dry while the next step of a split makes more of them: always first, a
/// single layer took 40 % longer on two workers; always last, splits run ahead until the budget is full.
const DRAINS_PER_WORKER: usize = 4;

/// What is ready to run.
#[derive(Default)]
struct Queue {
    /// What gives memory back: first in, first out, so that no layer keeps its memory
    /// because another has more to do.
    drains: VecDeque<Piece>,
    /// The rest, by priority.
    rest: BinaryHeap<Ready>,
    /// From so many on, what gives memory back goes first.
    enough: usize,
}

impl Queue {
    fn push(&mut self, ready: Ready) {
        if ready.priority.drains() { self.drains.push_back(ready.piece) } else { self.rest.push(ready) }
    }

    fn pop(&mut self) -> Option<Piece> {
        if self.drains.len() >= self.enough || self.rest.is_empty() {
            self.drains.pop_front()
        } else {
            self.rest.pop().map(|ready| ready.piece)
        }
    }
}

struct Ready {
    priority: Priority,
    /// First in, first out among equals, so that no piece starves.
    order: u64,
    piece: Piece,
}

impl Pool {
    /// Workers: `jobs` threads for the cpu, `runtime` for the network.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn new(jobs: usize, runtime: tokio::runtime::Handle) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads =
            rayon::ThreadPoolBuilder::new().num_threads(jobs).thread_name(|n| format!("cpu-{n}")).build()?;
        let inner = Arc::new(Inner {
            threads,
            runtime,
            ready: Mutex::new(Queue { enough: DRAINS_PER_WORKER * jobs, ..Queue::default() }),
            order: AtomicU64::new(0),
            activity: AtomicUsize::new(0),
            hook: Mutex::new(None),
            observer: OnceLock::new(),
        });
        Ok(Self { inner, node: None })
    }

    /// The same workers, for work that is done for `node`.
    pub fn on_behalf_of(&self, node: NodeId) -> Self {
        Self { inner: self.inner.clone(), node: Some(node) }
    }

    /// Tells `observer` of every piece that is done for a node; only the first one set is told.
    pub(super) fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.inner.observer.set(observer);
    }

    /// Queues a piece of cpu work. A piece must be short and must not wait.
    pub fn spawn(&self, priority: Priority, piece: impl FnOnce() + Send + 'static) {
        let order = self.inner.order.fetch_add(1, Ordering::Relaxed);
        self.inner.activity.fetch_add(1, Ordering::SeqCst);
        let piece = Piece { node: self.node, work: Box::new(piece) };
        self.lock().push(Ready { priority, order, piece });
        let pool = self.clone();
        self.inner.threads.spawn(move || pool.run_best());
    }

    /// Runs a future on the network's threads. It must do nothing but I/O and waiting.
    pub fn spawn_async(&self, future: impl Future<Output = ()> + Send + 'static) {
        let guard = Activity::new(self.clone());
        self.inner.runtime.spawn(async move {
            let _guard = guard;
            future.await;
        });
    }

    /// The network's runtime.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.inner.runtime
    }

    /// Keeps the pool from looking quiet until it is dropped.
    pub(super) fn busy(&self) -> Activity {
        Activity::new(self.clone())
    }

    /// Whether nothing is queued, running or in flight.
    pub fn is_quiet(&self) -> bool {
        self.inner.activity.load(Ordering::SeqCst) == 0
    }

    /// Sets what is called when the pool goes quiet (`None`) or a piece panicked (its message).
    pub(super) fn watch(&self, hook: impl Fn(Option<String>) + Send + Sync + 'static) {
        *self.inner.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Box::new(hook)));
    }

    fn run_best(&self) {
        let Some(piece) = self.lock().pop() else { return };
        let _guard = Activity { pool: self.clone() };
        let start = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(piece.work)) {
            self.tell(Some(panic_message(&*panic)));
        }
        if let (Some(node), Some(observer)) = (piece.node, self.inner.observer.get()) {
            let worker = self.inner.threads.current_thread_index().unwrap_or(0);
            observer.worked(Worked { node, worker, start, end: Instant::now() });
        }
    }

    fn tell(&self, message: Option<String>) {
        let hook = self.inner.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(message);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.inner.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a worker panicked".to_owned())
}

/// Counts one piece or future while it lives.
pub(super) struct Activity {
    pool: Pool,
}

impl Activity {
    fn new(pool: Pool) -> Self {
        pool.inner.activity.fetch_add(1, Ordering::SeqCst);
        Self { pool }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if self.pool.inner.activity.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.pool.tell(None);
        }
    }
}

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Ready {}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Order {
        self.priority.cmp(&other.priority).then(other.order.cmp(&self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_memory_back_goes_first_once_there_is_enough_of_it() {
        let mut queue = Queue { enough: 2, ..Queue::default() };
        let did = Arc::new(Mutex::new(Vec::new()));
        let (split, drain) = (Priority::new(100), |remaining| Priority::new(remaining).frees_memory());
        for (order, priority) in [split, drain(1), drain(9), drain(5), split].into_iter().enumerate() {
            let did = did.clone();
            let work = Box::new(move || did.lock().unwrap().push(order));
            let piece = Piece { node: None, work };
            queue.push(Ready { priority, order: order as u64, piece });
        }
        while let Some(piece) = queue.pop() {
            (piece.work)();
        }
        let did = did.lock().unwrap();
        assert_eq!(*did, [1, 2, 0, 4, 3], "drains while there are two, then splits, then what is left");
    }
}
