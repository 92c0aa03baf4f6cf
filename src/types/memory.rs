//! The bytes-in-flight budget. Knows sizes and who waits; ignores what the bytes are for.
//!
//! A grant is taken before a buffer is filled and returned when its last slice is dropped. Each
//! active layer opens an [`Account`] with a reserve of its own, counted from the start, so that a
//! full budget slows everyone down and stops no one. Nobody blocks here: who gets nothing is woken
//! when it is worth trying again.

use std::{
    collections::VecDeque,
    ops::{Deref, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Called when memory may have become available; must be quick and must not take budget locks.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// All memory that data in flight may take, in bytes.
#[derive(Clone)]
pub struct Budget(Arc<Mutex<State>>);

struct State {
    total: usize,
    /// Sum of all accounts' capacities and of what is spared.
    used: usize,
    /// What [`Budget::spare`] has given.
    spared: usize,
    peak: usize,
    waiting: VecDeque<Wake>,
    /// Freed buffers, kept because a fresh one costs page faults. They come in two or three sizes.
    idle: Vec<Box<[u8]>>,
    idle_bytes: usize,
}

impl Budget {
    /// A budget of `total_bytes`.
    pub fn new(total_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            total: total_bytes,
            used: 0,
            spared: 0,
            peak: 0,
            waiting: VecDeque::new(),
            idle: Vec::new(),
            idle_bytes: 0,
        })))
    }

    /// The most that was ever granted at once, in bytes.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    /// What is granted now, in bytes.
    pub fn used(&self) -> usize {
        self.lock().used
    }

    /// Opens an account that may always hold `reserve` bytes, or `None` while the budget cannot give them;
    /// then `wake` is called when it is worth another try.
    pub fn open(&self, reserve: usize, wake: Wake) -> Option<Account> {
        let mut state = self.lock();
        if !state.take(reserve) {
            state.waiting.push_back(wake);
            return None;
        }
        let inner =
            Ledger { reserve, floor: reserve, capacity: reserve, limit: None, held: 0, hungry: false, wake };
        Some(Account(Arc::new(AccountInner { budget: self.clone(), ledger: Mutex::new(inner) })))
    }

    /// Counts `bytes` that are kept for speed alone, until the hold is dropped; `None`
    /// if they do not fit now.
    ///
    /// At most half of the budget is given in this way: what is kept until some later step must never keep
    /// the steps before it from getting memory.
    pub fn spare(&self, bytes: usize) -> Option<Hold> {
        let mut state = self.lock();
        if state.spared.saturating_add(bytes) > state.total / 2 || !state.take(bytes) {
            return None;
        }
        state.spared += bytes;
        Some(Hold(Held::Spared(self.clone(), bytes)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: usize) {
        let wakes: Vec<Wake> = {
            let mut state = self.lock();
            state.used -= bytes;
            if bytes == 0 { Vec::new() } else { state.waiting.drain(..).collect() }
        };
        for wake in wakes {
            wake();
        }
    }
}

impl State {
    fn take(&mut self, bytes: usize) -> bool {
        if self.used + bytes > self.total {
            return false;
        }
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        // Idle buffers are real memory too: drop what no longer fits beside the grants.
        while self.idle_bytes + self.used > self.total
            && let Some(dropped) = self.idle.pop()
        {
            self.idle_bytes -= dropped.len();
        }
        true
    }

    fn recycled(&mut self, size: usize) -> Option<Box<[u8]>> {
        let at = self.idle.iter().rposition(|data| data.len() == size)?;
        self.idle_bytes -= size;
        Some(self.idle.swap_remove(at))
    }

    fn recycle(&mut self, data: Box<[u8]>) {
        if self.used + self.idle_bytes + data.len() <= self.total {
            self.idle_bytes += data.len();
            self.idle.push(data);
        }
    }
}

/// One holder's part of the budget. Clones share it; it closes when the last clone, buffer and slice is gone.
#[derive(Clone)]
pub struct Account(Arc<AccountInner>);

struct AccountInner {
    budget: Budget,
    ledger: Mutex<Ledger>,
}

struct Ledger {
    reserve: usize,
    /// What the account keeps even while it holds less: its reserve and the open [`Hold`]s.
    floor: usize,
    /// What is taken from the budget for this account: never below `floor` or `held`.
    capacity: usize,
    /// The most that it may hold besides the open [`Hold`]s.
    limit: Option<usize>,
    held: usize,
    /// Whether a request failed since the last wake.
    hungry: bool,
    wake: Wake,
}

impl Account {
    /// A buffer of `size` bytes (contents arbitrary), or `None` now and a wake later.
    pub fn buffer(&self, size: usize) -> Option<Buffer> {
        if !self.0.draw(size) {
            return None;
        }
        let recycled = self.0.budget.lock().recycled(size);
        let data = recycled.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        Some(Buffer { data, account: self.0.clone() })
    }

    /// Refuses from now on what would make it more than `bytes`, besides the open [`Hold`]s, however much the
    /// budget has.
    ///
    /// # Panics
    /// If `bytes` is less than the reserve, which is promised.
    pub fn limit(&self, bytes: usize) {
        let mut ledger = self.0.ledger();
        assert!(bytes >= ledger.reserve);
        ledger.limit = Some(bytes);
    }

    /// Counts `bytes` of the reserve as taken outside of buffers for as long as the account lives.
    pub fn keep(&self, bytes: usize) {
        self.0.ledger().held += bytes;
    }

    /// Counts `bytes` that are kept outside of buffers, until the hold is dropped; `None` if they do not fit
    /// now (nobody is woken: the caller has another way).
    pub fn hold(&self, bytes: usize) -> Option<Hold> {
        let mut ledger = self.0.ledger();
        if !self.0.budget.lock().take(bytes) {
            return None;
        }
        ledger.floor += bytes;
        ledger.capacity += bytes;
        Some(Hold(Held::OfAccount(self.0.clone(), bytes)))
    }
}

impl AccountInner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, bytes: usize) -> bool {
        let mut ledger = self.ledger();
        let holds = ledger.floor - ledger.reserve;
        if ledger.limit.is_some_and(|limit| ledger.held + bytes > limit + holds) {
            ledger.hungry = true;
            return false;
        }
        let missing = (ledger.held + bytes).saturating_sub(ledger.capacity);
        if missing > 0 {
            let mut state = self.budget.lock();
            if !state.take(missing) {
                ledger.hungry = true;
                state.waiting.push_back(ledger.wake.clone());
                return false;
            }
        }
        ledger.capacity += missing;
        ledger.held += bytes;
        // Still hungry if it was: this may have been the smaller wish of another user of the account.
        true
    }

    fn put_back(&self, held: usize, floor: usize) {
        let (surplus, wake) = {
            let mut ledger = self.ledger();
            ledger.held -= held;
            ledger.floor -= floor;
            let surplus = ledger.capacity - ledger.floor.max(ledger.held);
            ledger.capacity -= surplus;
            (surplus, std::mem::take(&mut ledger.hungry).then(|| ledger.wake.clone()))
        };
        self.budget.give_back(surplus);
        if let Some(wake) = wake {
            wake();
        }
    }
}

impl Drop for AccountInner {
    fn drop(&mut self) {
        let capacity = self.ledger().capacity;
        self.budget.give_back(capacity);
    }
}

/// Memory counted by [`Account::hold`] or [`Budget::spare`].
pub struct Hold(Held);

enum Held {
    OfAccount(Arc<AccountInner>, usize),
    Spared(Budget, usize),
}

impl Drop for Hold {
    fn drop(&mut self) {
        match &self.0 {
            Held::OfAccount(account, bytes) => account.put_back(0, *bytes),
            Held::Spared(budget, bytes) => {
                budget.lock().spared -= bytes;
                budget.give_back(*bytes);
            }
        }
    }
}

/// A writable piece of granted memory.
pub struct Buffer {
    data: Box<[u8]>,
    account: Arc<AccountInner>,
}

impl Buffer {
    /// The whole buffer.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Ends the writing: the first `len` bytes, shareable.
    ///
    /// # Panics
    /// If `len` is larger than the buffer.
    pub fn freeze(self, len: usize) -> Slice {
        assert!(len <= self.data.len());
        Slice { buffer: Arc::new(self), range: 0..len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let size = data.len();
        self.account.put_back(size, 0);
        self.account.budget.lock().recycle(data);
    }
}

/// A shared, immutable part of a buffer; the buffer's grant lives as long as any slice of it.
#[derive(Clone)]
pub struct Slice {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Slice {
    /// The part `range` of this slice, without copying.
    ///
    /// # Panics
    /// If `range` is not inside the slice.
    pub fn slice(&self, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= self.range.len());
        let start = self.range.start + range.start;
        Slice { buffer: self.buffer.clone(), range: start..start + range.len() }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice of {} bytes", self.range.len())
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.data[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting() -> (Wake, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let wake: Wake = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        (wake, count)
    }

    #[test]
    fn a_reserve_is_always_there_and_the_rest_is_shared() {
        let budget = Budget::new(100);
        let (wake_a, woken_a) = counting();
        let (wake_b, woken_b) = counting();
        let a = budget.open(30, wake_a).unwrap();
        let b = budget.open(30, wake_b).unwrap();
        let first = a.buffer(70).unwrap();
        assert!(a.buffer(1).is_none(), "the budget is full");
        let reserved = b.buffer(30).unwrap();
        assert!(b.buffer(1).is_none());
        assert_eq!(budget.used(), 100);
        drop(first);
        assert!(woken_a.load(Ordering::SeqCst) > 0 && woken_b.load(Ordering::SeqCst) > 0);
        assert_eq!(budget.used(), 60);
        assert!(b.buffer(40).is_some());
        drop((a, b, reserved));
        assert_eq!((budget.used(), budget.peak()), (0, 100));
    }

    #[test]
    fn an_account_that_does_not_fit_is_woken_later() {
        let budget = Budget::new(50);
        let (wake, woken) = counting();
        let first = budget.open(40, wake.clone()).unwrap();
        assert!(budget.open(40, wake.clone()).is_none());
        drop(first);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert!(budget.open(40, wake).is_some());
    }

    #[test]
    fn what_is_spared_leaves_half_of_the_budget() {
        let budget = Budget::new(100);
        let spared = budget.spare(50).unwrap();
        assert!(budget.spare(1).is_none());
        assert!(budget.open(50, counting().0).is_some());
        drop(spared);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_slice_keeps_its_buffer_and_a_hold_counts() {
        let budget = Budget::new(64);
        let (wake, _) = counting();
        let account = budget.open(0, wake).unwrap();
        let mut buffer = account.buffer(16).unwrap();
        buffer.bytes_mut()[..5].copy_from_slice(b"abcde");
        let slice = buffer.freeze(5);
        let part = slice.slice(1..3).slice(1..2);
        drop(slice);
        assert_eq!((&*part, budget.used()), (&b"c"[..], 16));
        let hold = account.hold(40).unwrap();
        assert!(account.hold(40).is_none());
        let inside = account.buffer(40).unwrap();
        assert_eq!(budget.used(), 56, "buffers of a hold are not counted twice");
        drop((part, inside));
        assert_eq!(budget.used(), 40);
        drop(hold);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_limited_account_leaves_the_rest_to_others_and_is_woken_by_its_own() {
        let (wake, woken) = counting();
        let budget = Budget::new(1000);
        let account = budget.open(10, wake).unwrap();
        account.limit(20);
        let first = account.buffer(15).unwrap();
        assert!(account.buffer(6).is_none());
        let hold = account.hold(6).unwrap();
        let beside = account.buffer(6).unwrap();
        assert!(account.buffer(6).is_none(), "the hold is taken");
        drop(first);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        drop((hold, beside));
        assert!(account.buffer(21).is_none() && account.buffer(20).is_some());
    }

    #[test]
    fn a_small_wish_that_is_granted_does_not_forget_a_large_one() {
        let (wake, woken) = counting();
        let budget = Budget::new(100);
        let account = budget.open(100, wake).unwrap();
        let first = account.buffer(60).unwrap();
        assert!(account.buffer(50).is_none(), "the fetch and the split share an account");
        let small = account.buffer(30).unwrap();
        drop(first);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        drop(small);
    }

    #[test]
    fn buffers_of_two_sizes_are_kept_side_by_side() {
        let budget = Budget::new(100);
        let account = budget.open(0, Arc::new(|| ())).unwrap();
        drop((account.buffer(20), account.buffer(30)));
        assert_eq!(budget.lock().idle.len(), 2);
        drop(account.buffer(60));
        let state = budget.lock();
        assert_eq!((state.idle.len(), state.used, state.idle_bytes), (2, 0, 80), "one gave way");
    }
}
