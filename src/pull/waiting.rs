//! How long images that have come wait for those that have not. Knows registries, what they owe, and clocks;
//! ignores what they are asked for.
//!
//! A run is best when it knows all images, so it waits for registries that are merely slow. It does not wait
//! for those that hold up others, from which all has come: what is late makes a run of its own.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::source::Patience;

/// What registries still owe, and since when others wait for it.
pub struct Waiting {
    patience: Patience,
    /// How often a wait ended before all had come. Each makes the next one twice as
    /// long, so that they stay few.
    cut_short: u32,
    /// Answers that each registry owes.
    owing: BTreeMap<String, usize>,
    /// The same of this machine, whose disks are slow at times and never silent.
    owing_here: usize,
    /// From which registries images have come that wait for others.
    came: BTreeSet<String>,
    began: Instant,
    /// When the last answer came.
    heard: Instant,
    /// When the last of those registries was done.
    done: Option<Instant>,
}

impl Waiting {
    /// Nobody owes anything.
    pub fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            patience,
            cut_short: 0,
            owing: BTreeMap::new(),
            owing_here: 0,
            came: BTreeSet::new(),
            began: now,
            heard: now,
            done: None,
        }
    }

    /// Starts to wait: what came before waits no more. What is owed is still owed.
    pub fn begin(&mut self) {
        let now = Instant::now();
        if !self.came.is_empty() && !self.owing.is_empty() {
            self.cut_short += 1;
        }
        self.came.clear();
        (self.began, self.heard, self.done) = (now, now, None);
    }

    /// One more answer is owed, by the registry `host` or by this machine.
    pub fn owes(&mut self, host: Option<&str>) {
        match host {
            Some(host) => *self.owing.entry(host.to_owned()).or_default() += 1,
            None => self.owing_here += 1,
        }
    }

    /// It has answered; `image` tells whether an image came that can go on.
    pub fn heard_of(&mut self, host: Option<&str>, image: bool) {
        self.heard = Instant::now();
        let Some(name) = host else {
            self.owing_here = self.owing_here.saturating_sub(1);
            return;
        };
        if image {
            self.came.insert(name.to_owned());
        }
        if let Some(owed) = self.owing.get_mut(name) {
            *owed -= 1;
            if *owed == 0 {
                self.owing.remove(name);
            }
        }
        if self.is_held_up(name) {
            self.done = Some(self.heard);
        }
    }

    /// When what has come shall wait no longer: nothing has been heard for a while, or the registries that
    /// are done have waited for as long as a transfer may stall, and for as long as they took themselves.
    /// `None` while nobody is held up by others.
    pub fn ends(&self) -> Option<Instant> {
        let done = self.done?;
        if self.owing_here > 0 || !self.came.iter().any(|host| self.is_held_up(host)) {
            return None;
        }
        let times = 2_u32.saturating_pow(self.cut_short);
        let quiet = self.heard + self.patience.pause().saturating_mul(times);
        let late = done + self.patience.stall.saturating_mul(times).max(done - self.began);
        Some(late.min(quiet))
    }

    /// The registries that owe something, in order of their names.
    pub fn owing(&self) -> impl Iterator<Item = &str> {
        self.owing.keys().map(String::as_str)
    }

    /// Whether images of this registry wait for others only.
    fn is_held_up(&self, host: &str) -> bool {
        self.came.contains(host) && !self.owing.contains_key(host)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Silence of 10 s, and 60 s for the slow.
    fn waiting(owing: &[&str]) -> Waiting {
        let mut waiting = Waiting::new(Patience { stall: 60 * SECOND });
        owing.iter().for_each(|host| waiting.owes(Some(host)));
        waiting.begin();
        waiting
    }

    /// Seconds from now to the end.
    fn left(waiting: &Waiting) -> Option<u64> {
        waiting.ends().map(|end| (end - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_silent_is_not_waited_for() {
        let mut waiting = waiting(&["a", "a", "silent"]);
        advance(7 * SECOND).await;
        waiting.heard_of(Some("a"), true);
        assert_eq!(left(&waiting), None, "nobody is held up by another one");
        advance(9 * SECOND).await;
        waiting.heard_of(Some("a"), true);
        assert_eq!(left(&waiting), Some(10));
        advance(4 * SECOND).await;
        assert_eq!(left(&waiting), Some(6));
        assert_eq!(waiting.owing().collect::<Vec<_>>(), ["silent"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_is_waited_for_as_long_as_the_others_took() {
        let mut waiting = waiting(&["quick"; 8]);
        (0..99).for_each(|_| waiting.owes(Some("slow")));
        for _ in 0..8 {
            advance(9 * SECOND).await;
            waiting.heard_of(Some("quick"), true);
            waiting.heard_of(Some("slow"), true);
        }
        let mut waited = 0;
        while left(&waiting).unwrap() >= 9 {
            advance(9 * SECOND).await;
            waiting.heard_of(Some("slow"), true);
            waited += 9;
        }
        assert_eq!(waited + left(&waiting).unwrap(), 72);
    }

    #[tokio::test(start_paused = true)]
    async fn one_registry_alone_may_take_its_time() {
        let mut waiting = waiting(&["slow"]);
        // Its tags first.
        waiting.heard_of(Some("slow"), false);
        (0..100).for_each(|_| waiting.owes(Some("slow")));
        for _ in 0..99 {
            advance(50 * SECOND).await;
            waiting.heard_of(Some("slow"), true);
            assert_eq!(left(&waiting), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_brought_nothing_is_not_held_up() {
        let mut waiting = waiting(&["failed", "listed", "silent"]);
        waiting.heard_of(Some("failed"), false);
        waiting.heard_of(Some("listed"), false);
        assert_eq!(left(&waiting), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_that_is_cut_short_makes_the_next_one_twice_as_long() {
        let mut waiting = waiting(&["a", "b", "c", "silent"]);
        for (host, pause) in [("a", 10), ("b", 20), ("c", 40)] {
            waiting.heard_of(Some(host), true);
            assert_eq!(left(&waiting), Some(pause));
            waiting.begin();
            assert_eq!(left(&waiting), None, "what is under way waits no more");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_waited_for() {
        let mut waiting = waiting(&["quick", "silent"]);
        waiting.owes(None);
        waiting.heard_of(Some("quick"), true);
        advance(600 * SECOND).await;
        assert_eq!(left(&waiting), None);
        waiting.heard_of(None, true);
        assert_eq!(left(&waiting), Some(0), "the others have waited long enough");
    }
}
