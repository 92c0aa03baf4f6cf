//! Telling work that nobody wants it any more. Knows one flag and who asked to be told.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::types::Wake;

/// A flag that is raised at most once. Clones share it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    raised: AtomicBool,
    notify: Notify,
    wakes: Mutex<Vec<Wake>>,
}

impl Cancel {
    /// Whether the flag is up.
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Raises the flag and tells everyone.
    pub fn raise(&self) {
        let wakes = {
            let mut wakes = self.0.wakes.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.raised.store(true, Ordering::SeqCst);
            std::mem::take(&mut *wakes)
        };
        self.0.notify.notify_waiters();
        for wake in wakes {
            wake();
        }
    }

    /// Has `wake` called when the flag goes up; at once if it is up.
    pub fn on_raise(&self, wake: Wake) {
        {
            let mut wakes = self.0.wakes.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.is_raised() {
                wakes.push(wake);
                return;
            }
        }
        wake();
    }

    /// Ends when the flag is up.
    pub async fn raised(&self) {
        let told = self.0.notify.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.is_raised() {
            told.await;
        }
    }
}
