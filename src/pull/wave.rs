//! How long images that are here wait for those that are not. Knows registries, what they owe, and clocks; ignores what
//! they are asked for.
//!
//! A run is best when it knows all images, so it waits for registries that are merely slow. It does not wait for one
//! that holds up others: its images make a run of their own.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::source::Patience;

/// What registries still owe, and since when others wait for it.
pub struct Wave {
    patience: Patience,
    /// Answers that each registry owes.
    owing: BTreeMap<String, usize>,
    began: Instant,
    /// When the last answer came.
    heard: Instant,
    /// When the last registry, of those that are done, was done.
    done: Option<Instant>,
}

impl Wave {
    /// Nobody owes anything.
    pub fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self { patience, owing: BTreeMap::new(), began: now, heard: now, done: None }
    }

    /// Starts to wait, with what is owed as it is; `something` is here already that could go on.
    pub fn begin(&mut self, something: bool) {
        let now = Instant::now();
        (self.began, self.heard, self.done) = (now, now, something.then_some(now));
    }

    /// One more answer is owed by the registry `host`; what is on this machine is one too.
    pub fn owes(&mut self, host: Option<&str>) {
        *self.owing.entry(host.unwrap_or_default().to_owned()).or_default() += 1;
    }

    /// It has answered.
    pub fn heard_of(&mut self, host: Option<&str>) {
        self.heard = Instant::now();
        let host = host.unwrap_or_default();
        let Some(owed) = self.owing.get_mut(host) else { return };
        *owed -= 1;
        if *owed == 0 {
            self.owing.remove(host);
            self.done = Some(self.heard);
        }
    }

    /// When what is here shall wait no longer: nothing has been heard for a while, or some registries have been done for
    /// as long as a transfer may stall, and for as long as they took themselves.
    pub fn ends(&self) -> Instant {
        let quiet = self.heard + self.patience.pause();
        let late = self.done.map(|done| done + self.patience.stall.max(done - self.began));
        late.map_or(quiet, |late| late.min(quiet))
    }

    /// The registries that owe something, in order of their names.
    pub fn owing(&self) -> impl Iterator<Item = &str> {
        self.owing.keys().map(String::as_str).filter(|host| !host.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Silence of 10 s, and 60 s for the slow.
    fn wave(owing: &[&str]) -> Wave {
        let mut wave = Wave::new(Patience { stall: 60 * SECOND });
        owing.iter().for_each(|host| wave.owes(Some(host)));
        wave.begin(false);
        wave
    }

    /// Seconds from now to the end.
    fn left(wave: &Wave) -> u64 {
        (wave.ends() - Instant::now()).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_silent_is_not_waited_for() {
        let mut wave = wave(&["a", "a", "silent"]);
        advance(7 * SECOND).await;
        assert_eq!(left(&wave), 3);
        wave.heard_of(Some("a"));
        assert_eq!(left(&wave), 10);
        advance(9 * SECOND).await;
        wave.heard_of(Some("a"));
        assert_eq!(left(&wave), 10);
        assert_eq!(wave.owing().collect::<Vec<_>>(), ["silent"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_is_waited_for_as_long_as_the_others_took() {
        let mut wave = wave(&["quick"; 8]);
        (0..99).for_each(|_| wave.owes(Some("slow")));
        for _ in 0..8 {
            advance(9 * SECOND).await;
            wave.heard_of(Some("quick"));
            wave.heard_of(Some("slow"));
        }
        let mut waited = 0;
        while left(&wave) >= 9 {
            advance(9 * SECOND).await;
            wave.heard_of(Some("slow"));
            waited += 9;
        }
        assert_eq!(waited + left(&wave), 72);
    }

    #[tokio::test(start_paused = true)]
    async fn one_registry_alone_may_take_its_time() {
        let mut wave = wave(&["slow"; 100]);
        for _ in 0..99 {
            advance(9 * SECOND).await;
            wave.heard_of(Some("slow"));
            assert_eq!(left(&wave), 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_here_before_waits_a_minute_at_most() {
        let mut wave = wave(&["slow"; 100]);
        advance(100 * SECOND).await;
        wave.begin(true);
        for _ in 0..6 {
            advance(9 * SECOND).await;
            wave.heard_of(Some("slow"));
        }
        assert_eq!(left(&wave), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_this_machine_has_no_name_to_tell() {
        let mut wave = wave(&["b", "a"]);
        wave.owes(None);
        assert_eq!(wave.owing().collect::<Vec<_>>(), ["a", "b"]);
        wave.heard_of(None);
        wave.heard_of(Some("unknown"));
        assert!(wave.done.is_some());
    }
}
