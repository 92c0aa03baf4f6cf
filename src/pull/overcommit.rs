//! What may exceed the budget, once at a time: the tree of the one image that is being built, the window of
//! the one hostile frame. Knows who is inside and who waits; nobody waits on a worker.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::types::{Budget, Hold, Wake};

/// One free place, and more as far as the budget can spare the memory.
pub(super) struct Lane {
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free_taken: bool,
    waiting: VecDeque<Wake>,
}

/// A place in the lane, until it is dropped.
pub(super) struct Place {
    lane: Arc<Lane>,
    /// What the budget spared, and how many bytes; `None` in the free place.
    spared: Option<(Hold, usize)>,
}

impl Lane {
    pub(super) fn new(budget: Budget) -> Arc<Self> {
        Arc::new(Self { budget, state: Mutex::default() })
    }

    /// A place for what takes about `bytes`, or `None` now and a wake when it is worth another try.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize, wake: Wake) -> Option<Place> {
        let mut state = self.lock();
        if !state.free_taken {
            state.free_taken = true;
            return Some(Place { lane: self.clone(), spared: None });
        }
        if let Some(hold) = self.budget.spare(bytes) {
            return Some(Place { lane: self.clone(), spared: Some((hold, bytes)) });
        }
        state.waiting.push_back(wake);
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether what is in it may take `bytes`. If not, it is given up before another is asked for: nobody
    /// waits with memory that others need.
    pub(super) fn covers(&self, bytes: usize) -> bool {
        self.spared.as_ref().is_none_or(|(_, spared)| bytes <= *spared)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.lane.lock();
            // Someone is in the free place as long as anyone waits, so the wake comes.
            state.free_taken &= self.spared.is_some();
            std::mem::take(&mut state.waiting)
        };
        drop(self.spared.take());
        for wake in waiting {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_is_free_and_the_others_are_counted() {
        let budget = Budget::new(100);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let wake: Wake = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let lane = Lane::new(budget.clone());
        let huge = lane.enter(1 << 40, wake.clone()).unwrap();
        let small = lane.enter(50, wake.clone()).unwrap();
        assert_eq!(budget.used(), 50);
        assert!(lane.enter(1, wake.clone()).is_none());
        drop(small);
        assert_eq!((woken.load(Ordering::SeqCst), budget.used()), (1, 0));
        assert!(lane.enter(60, wake.clone()).is_none(), "more than the budget can spare");
        drop(huge);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert!(lane.enter(1 << 40, wake).is_some());
    }

    #[test]
    fn what_grows_beyond_its_place_enters_again() {
        let budget = Budget::new(100);
        let wake: Wake = Arc::new(|| ());
        let lane = Lane::new(budget.clone());
        let free = lane.enter(1, wake.clone()).unwrap();
        assert!(free.covers(1 << 40), "whatever it is, there is one of it");
        let spared = lane.enter(10, wake.clone()).unwrap();
        assert!(spared.covers(10) && !spared.covers(11));
        drop(spared);
        let grown = lane.enter(50, wake.clone()).unwrap();
        assert!(grown.covers(50));
        drop(grown);
        assert!(lane.enter(51, wake.clone()).is_none());
        drop(free);
        assert!(lane.enter(51, wake).unwrap().covers(1 << 40));
        assert_eq!(budget.used(), 0);
    }
}
