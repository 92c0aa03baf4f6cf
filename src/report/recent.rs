//! A smoothed rate. Knows bytes and times that it is given; has no clock.

use std::time::Duration;

/// After this time without new bytes, the rate has fallen to a third.
const MEMORY_S: f64 = 5.0;

/// Shorter spells are gathered, or else single large buffers would count as bursts.
const STEP: Duration = Duration::from_millis(200);

/// A rate is an honest basis for predictions only after this time.
const WARM_UP: Duration = Duration::from_secs(1);

/// Bytes a second, recent ones counting more.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    since: Duration,
    last: Duration,
    pending: u64,
    average: f64,
    /// How much of `average` is measurement; the rest is the zero from which it began.
    weight: f64,
}

impl Recent {
    /// Nothing measured yet; time counts from `now`.
    pub fn new(now: Duration) -> Self {
        Self { since: now, last: now, pending: 0, average: 0.0, weight: 0.0 }
    }

    /// Counts `bytes`; they take effect with the next `advance`.
    pub fn add(&mut self, bytes: u64) {
        self.pending = self.pending.saturating_add(bytes);
    }

    /// Lets time pass until `now`, also time in which nothing came.
    pub fn advance(&mut self, now: Duration) {
        let spell = now.saturating_sub(self.last);
        if spell < STEP {
            return;
        }
        let seconds = spell.as_secs_f64();
        let keep = (-seconds / MEMORY_S).exp();
        self.average = self.average * keep + self.pending as f64 / seconds * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
        self.pending = 0;
        self.last = now;
    }

    /// Bytes a second; `None` before there is something to base it on.
    pub fn per_second(&self) -> Option<f64> {
        (self.last.saturating_sub(self.since) >= WARM_UP).then(|| self.average / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rate: &mut Recent, from_ms: u64, to_ms: u64, bytes_per_step: u64) {
        for ms in (from_ms + 200..=to_ms).step_by(200) {
            rate.add(bytes_per_step);
            rate.advance(Duration::from_millis(ms));
        }
    }

    #[test]
    fn a_steady_rate_is_right_from_the_first_second_on() {
        let mut rate = Recent::new(Duration::ZERO);
        after(&mut rate, 0, 800, 200);
        assert_eq!(rate.per_second(), None);
        after(&mut rate, 800, 1000, 200);
        assert!((rate.per_second().unwrap() - 1000.0).abs() < 1e-6);
    }

    #[test]
    fn a_stall_shows() {
        let mut rate = Recent::new(Duration::ZERO);
        after(&mut rate, 0, 10_000, 200);
        after(&mut rate, 10_000, 15_000, 0);
        let stalled = rate.per_second().unwrap();
        assert!((300.0..500.0).contains(&stalled), "{stalled}");
    }
}
