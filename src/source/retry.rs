//! When to try again. Knows kinds of errors and clocks; ignores what is tried.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::{Result, SourceError};

/// The longest pause between two tries, whatever was doubled before.
const LONGEST: Duration = Duration::from_secs(60);

/// Tells those who watch a line.
pub type Tell = dyn Fn(&str) + Send + Sync;

/// How often, and after what pauses, something is tried again that may succeed a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first one.
    pub count: u32,
    /// The pause before the second try; doubled for each one after it, up to a minute.
    pub first_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { count: 5, first_pause: Duration::from_secs(1) }
    }
}

impl Retries {
    /// The pause after `failed` tries (at least one), or `None` if it is time to give up.
    ///
    /// Between half of the nominal pause and all of it, by chance: clients that were cut off together
    /// must not come back together.
    pub fn pause(&self, failed: u32) -> Option<Duration> {
        if failed > self.count {
            return None;
        }
        let doubled = 2_u32.saturating_pow(failed.saturating_sub(1));
        let nominal = self.first_pause.saturating_mul(doubled).min(LONGEST);
        // As good as a die, and no further dependency.
        let chance = RandomState::new().hash_one(failed) as u32;
        Some(nominal / 2 + (nominal / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX)))
    }

    /// Tells those who watch that `what` will be tried again.
    pub fn announcement(&self, what: &str, error: &SourceError, pause: Duration, failed: u32) -> String {
        let (seconds, count) = (pause.as_secs_f64(), self.count);
        format!("{what}: {error}: trying again in {seconds:.1} s ({failed} of {count})")
    }

    /// Tries until it succeeds, fails for good, or has been tried often enough; `tell` hears of
    /// each pause, and what for.
    pub(super) async fn run<T, F>(&self, what: &str, tell: &Tell, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            failed += 1;
            let Some(pause) = self.pause(failed) else { return Err(error.after_tries(failed)) };
            tell(&self.announcement(what, &error, pause, failed));
            tokio::time::sleep(pause).await;
        }
    }
}

impl SourceError {
    /// The same error, saying how often it was tried, if more than once.
    pub fn after_tries(self, tries: u32) -> Self {
        if tries <= 1 {
            return self;
        }
        self.followed_by(format_args!(" (tried {tries} times)"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::source::ErrorKind;

    fn quick(count: u32) -> Retries {
        Retries { count, first_pause: Duration::from_millis(1) }
    }

    /// Fails with `kind` until it was tried `good_at` times; the result and the number of tries.
    async fn run(retries: Retries, kind: ErrorKind, good_at: u32) -> (Result<()>, u32) {
        let tries = Cell::new(0);
        let attempt = || async {
            tries.set(tries.get() + 1);
            if tries.get() >= good_at { Ok(()) } else { Err(SourceError::new(kind, "no")) }
        };
        let result = retries.run("it", &|_| (), attempt).await;
        (result, tries.get())
    }

    #[test]
    fn pauses_double_with_jitter_and_end() {
        let retries = Retries { count: 10, first_pause: Duration::from_secs(1) };
        for (failed, nominal) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (10, 60)] {
            let nominal = Duration::from_secs(nominal);
            let pauses: Vec<Duration> = (0..50).map(|_| retries.pause(failed).unwrap()).collect();
            assert!(
                pauses.iter().all(|pause| (nominal / 2..=nominal).contains(pause)),
                "{failed}: {pauses:?}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "no jitter");
        }
        assert_eq!(retries.pause(11), None);
        assert_eq!(quick(0).pause(1), None);
        assert_eq!(
            Retries { count: u32::MAX, first_pause: LONGEST }.pause(1000).map(|p| p <= LONGEST),
            Some(true)
        );
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        assert_eq!(run(quick(5), ErrorKind::Transient, 3).await, (Ok(()), 3));
        assert_eq!(run(quick(5), ErrorKind::Stalled, 6).await, (Ok(()), 6));
        let (given_up, tries) = run(quick(5), ErrorKind::Transient, 7).await;
        assert_eq!((given_up.unwrap_err().to_string(), tries), ("no (tried 6 times)".to_owned(), 6));
        for kind in [
            ErrorKind::Unauthorized,
            ErrorKind::NotFound,
            ErrorKind::Corrupt,
            ErrorKind::TooOld,
            ErrorKind::Local,
            ErrorKind::Other,
        ] {
            let (result, tries) = run(quick(5), kind, 2).await;
            assert_eq!((result.unwrap_err().to_string(), tries), ("no".to_owned(), 1), "{kind:?}");
        }
    }
}
