//! How fast a blob comes. Knows bytes and time; ignores where they come from.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What has come of a blob in the transfer that is under way.
#[derive(Default)]
pub(super) struct Pace(Mutex<Option<Transfer>>);

struct Transfer {
    begun: Instant,
    came: u64,
    left: u64,
}

impl Pace {
    /// Says that a transfer begins, of `left` bytes.
    pub(super) fn begin(&self, left: u64) {
        *self.lock() = Some(Transfer { begun: Instant::now(), came: 0, left });
    }

    /// Says that `bytes` more have come.
    pub(super) fn came(&self, bytes: u64) {
        if let Some(transfer) = &mut *self.lock() {
            transfer.came += bytes;
            transfer.left = transfer.left.saturating_sub(bytes);
        }
    }

    /// How long the rest takes if it comes as fast as what has come; `None` if nothing has come yet.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.lock().as_ref().and_then(|transfer| transfer.rest(transfer.begun.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    fn rest(&self, elapsed: Duration) -> Option<Duration> {
        match (self.came, self.left) {
            (_, 0) => Some(Duration::ZERO),
            (0, _) => None,
            (came, left) => {
                let micros = elapsed.as_micros() * u128::from(left) / u128::from(came);
                Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_comes_as_fast_as_the_beginning() {
        let pace = Pace::default();
        assert_eq!(pace.rest(), None, "it has not begun");
        pace.begin(1000);
        assert_eq!(pace.rest(), None, "nothing has come");
        pace.came(800);
        let rest = |pace: &Pace| pace.lock().as_ref().unwrap().rest(Duration::from_secs(8));
        assert_eq!(rest(&pace), Some(Duration::from_secs(2)));
        pace.came(200);
        assert_eq!(pace.rest(), Some(Duration::ZERO));
        pace.begin(1000);
        assert_eq!(rest(&pace), None, "it starts over");
        pace.begin(0);
        assert_eq!(pace.rest(), Some(Duration::ZERO));
        pace.begin(u64::MAX);
        pace.came(1);
        assert!(rest(&pace).unwrap() > Duration::from_secs(u64::MAX / 2_000_000));
    }
}
