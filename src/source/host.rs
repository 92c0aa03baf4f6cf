//! How much is asked of one registry at once. Knows slots, and that a registry in trouble gets fewer, and none once it is
//! given up; ignores what they are used for.
//!
//! The limit falls by half when a registry says that it is asked too much, or goes silent, and grows by one only
//! after as many successes as it is large: TCP's own rule. Many transfers that fail of one cause count once: those
//! that began before the limit fell say nothing new.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Reference, SourceError, breaker::Breaker};

/// The registries of a run.
pub(super) struct Hosts {
    per_host: usize,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

impl Hosts {
    pub(super) fn new(per_host: usize) -> Self {
        Self { per_host: per_host.max(1), hosts: Mutex::default() }
    }

    /// The one that `reference` is at; what is on this machine is never held up.
    pub(super) fn of(&self, reference: &Reference) -> Arc<Host> {
        let Some(name) = reference.host() else { return Arc::new(Host::unlimited()) };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(name.to_owned()).or_insert_with(|| Arc::new(Host::new(name, self.per_host))).clone()
    }
}

/// A registry, and how much is asked of it at once.
pub struct Host {
    name: Option<String>,
    gate: Mutex<Gate>,
    freed: Notify,
}

struct Gate {
    /// The user's limit.
    most: usize,
    /// The limit by now.
    limit: usize,
    in_use: usize,
    /// Successes since the limit changed.
    successes: usize,
    /// How often the limit fell.
    fallen: u64,
    breaker: Breaker,
}

impl Gate {
    fn new(most: usize) -> Self {
        Self { most, limit: most, in_use: 0, successes: 0, fallen: 0, breaker: Breaker::default() }
    }
}

impl Host {
    /// A registry that takes `most` requests at once.
    pub(super) fn new(name: &str, most: usize) -> Self {
        Self { name: Some(name.to_owned()), gate: Mutex::new(Gate::new(most)), freed: Notify::new() }
    }

    /// A place that needs no limit.
    pub(super) fn unlimited() -> Self {
        Self { name: None, gate: Mutex::new(Gate::new(usize::MAX)), freed: Notify::new() }
    }

    /// Its name, with its port if it has one; `None` for what is on this machine.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Waits for a slot. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// The registry has been given up, see [`Self::gave_up`].
    pub async fn slot(self: &Arc<Self>) -> Result<HostSlot, SourceError> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // In the queue before we look: of two slots that are freed meanwhile, both are to be heard of.
            freed.as_mut().enable();
            if let Some(name) = &self.name {
                self.gate().breaker.check(name)?;
            }
            if let Some(slot) = self.try_slot() {
                return Ok(slot);
            }
            freed.await;
        }
    }

    /// Learns that `image` has failed with `error` after all its tries. When several in a row were throttled or met
    /// silence, nothing more is asked of the registry: each further image would cost as much patience.
    pub fn gave_up(&self, image: &str, error: &SourceError) {
        let Some(name) = &self.name else { return };
        if self.gate().breaker.gave_up(image, error) {
            tracing::info!("{name} is given up");
            self.freed.notify_waiters();
        }
    }

    fn try_slot(self: &Arc<Self>) -> Option<HostSlot> {
        let mut gate = self.gate();
        if gate.in_use >= gate.limit {
            return None;
        }
        gate.in_use += 1;
        Some(HostSlot { fallen: gate.fallen, host: self.clone() })
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to ask a registry for one thing; given back when dropped.
pub struct HostSlot {
    host: Arc<Host>,
    /// [`Gate::fallen`] when it began.
    fallen: u64,
}

impl HostSlot {
    /// Learns from how it ended what the registry can bear.
    pub fn learn<T>(&self, result: &Result<T, SourceError>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) if error.is_overload() => self.troubled(),
            // It has answered.
            Err(error) if !error.is_retryable() => self.host.gate().breaker.answered(),
            Err(_) => {}
        }
    }

    fn succeeded(&self) {
        let mut gate = self.host.gate();
        gate.breaker.answered();
        if gate.limit >= gate.most {
            return;
        }
        gate.successes += 1;
        if gate.successes >= gate.limit {
            (gate.limit, gate.successes) = (gate.limit + 1, 0);
            drop(gate);
            self.host.freed.notify_one();
        }
    }

    fn troubled(&self) {
        let mut gate = self.host.gate();
        if self.fallen < gate.fallen || self.host.name.is_none() {
            return;
        }
        gate.limit = (gate.limit / 2).max(1);
        (gate.successes, gate.fallen) = (0, gate.fallen + 1);
        let limit = gate.limit;
        drop(gate);
        if let Some(name) = self.host.name() {
            tracing::info!("{name} is in trouble: at most {limit} requests at once from now on");
        }
    }
}

impl Drop for HostSlot {
    fn drop(&mut self) {
        let mut gate = self.host.gate();
        gate.in_use -= 1;
        let free = gate.in_use < gate.limit;
        drop(gate);
        if free {
            self.host.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ErrorKind;

    fn host(most: usize) -> Arc<Host> {
        Arc::new(Host::new("r.example", most))
    }

    fn all_slots(host: &Arc<Host>) -> Vec<HostSlot> {
        std::iter::from_fn(|| host.try_slot()).take(100).collect()
    }

    fn throttled() -> Result<(), SourceError> {
        Err(SourceError::from_skopeo("toomanyrequests: slow down"))
    }

    #[test]
    fn the_limit_falls_by_half_and_never_below_one() {
        let host = host(8);
        for expected in [4, 2, 1, 1] {
            let slot = host.try_slot().unwrap();
            slot.learn(&throttled());
            drop(slot);
            assert_eq!(all_slots(&host).len(), expected);
        }
    }

    #[test]
    fn what_fails_together_counts_once() {
        let host = host(8);
        let slots = all_slots(&host);
        assert_eq!(slots.len(), 8);
        slots.iter().for_each(|slot| slot.learn(&throttled()));
        drop(slots);
        assert_eq!(all_slots(&host).len(), 4);
    }

    #[test]
    fn it_recovers_slowly_and_not_beyond_what_the_user_allows() {
        let host = host(4);
        host.try_slot().unwrap().learn(&throttled());
        let mut limits = Vec::new();
        for _ in 0..7 {
            host.try_slot().unwrap().learn(&Ok(()));
            limits.push(all_slots(&host).len());
        }
        assert_eq!(limits, [2, 3, 3, 3, 4, 4, 4]);
    }

    #[test]
    fn only_trouble_of_the_registry_itself_counts() {
        let host = host(4);
        for (kind, expected) in [
            (ErrorKind::NotFound, 4),
            (ErrorKind::Corrupt, 4),
            (ErrorKind::Transient, 4),
            (ErrorKind::Stalled, 2),
        ] {
            host.try_slot().unwrap().learn::<()>(&Err(SourceError::new(kind, "")));
            assert_eq!(all_slots(&host).len(), expected, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_next_slot_also_when_the_limit_grows() {
        let host = host(2);
        host.try_slot().unwrap().learn(&throttled());
        let slot = host.slot().await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let host = host.clone();
                tokio::spawn(async move { host.slot().await })
            })
            .collect();
        tokio::task::yield_now().await;
        slot.learn(&Ok(()));
        drop(slot);
        for waiting in waiting {
            drop(waiting.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_takes_nobodys_turn() {
        let host = host(1);
        let slot = host.slot().await.unwrap();
        let mut given_up = Box::pin(host.slot());
        assert!(futures_ready(&mut given_up).is_none());
        let mut waiting = Box::pin(host.slot());
        assert!(futures_ready(&mut waiting).is_none());
        drop(slot);
        drop(given_up);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_registry_that_is_given_up_sends_those_that_wait_for_it_away() {
        let host = host(1);
        let slot = host.slot().await.unwrap();
        let mut waiting = Box::pin(host.slot());
        assert!(futures_ready(&mut waiting).is_none());
        ["a", "b", "c"].iter().for_each(|image| host.gave_up(image, &throttled().unwrap_err()));
        assert!(waiting.await.is_err());
        // What is under way may still bring an answer.
        slot.learn(&Ok(()));
        drop(slot);
        host.slot().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_on_this_machine_is_given_up() {
        let host = Arc::new(Host::unlimited());
        ["a", "b", "c"].iter().for_each(|image| host.gave_up(image, &throttled().unwrap_err()));
        host.slot().await.unwrap();
    }

    fn futures_ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn what_is_on_this_machine_is_never_held_up() {
        let hosts = Hosts::new(1);
        let local = hosts.of(&"oci:/somewhere:v1".parse().unwrap());
        assert_eq!(all_slots(&local).len(), 100);
        let [a, b, c] = ["docker://r:5000/a", "docker://r:5000/b", "docker://other/a"]
            .map(|text| hosts.of(&text.parse().unwrap()));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(a.name(), Some("r:5000"));
    }
}
