//! How many bytes a second a run may take from networks. Knows a clock; ignores whose bytes they are.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A limit for all transfers of a run together.
pub(super) struct RateLimit {
    bytes_per_second: u64,
    /// When all that was taken will have been within the limit.
    paid: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most `bytes_per_second`, at least one.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Mutex::new(None) }
    }

    /// Waits until `bytes`, which were taken just now, are within the limit. Bytes are paid for
    /// after they came: how many a transfer gives is not known before, and so a lone transfer never
    /// waits for its first ones.
    pub(super) async fn pay(&self, bytes: u64) {
        let now = Instant::now();
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let from = paid.map_or(now, |paid| paid.max(now));
            let until = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            *paid = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transfers_share_the_limit() {
        let limit = RateLimit::new(1000);
        let start = Instant::now();
        tokio::join!(limit.pay(500), limit.pay(1500));
        assert_eq!(start.elapsed().as_millis(), 2000);
        limit.pay(250).await;
        assert_eq!(start.elapsed().as_millis(), 2250);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_came_is_not_saved_up() {
        let limit = RateLimit::new(1000);
        limit.pay(1000).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let start = Instant::now();
        limit.pay(2000).await;
        assert_eq!(start.elapsed().as_millis(), 2000);
    }
}
