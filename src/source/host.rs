//! How much is asked of one registry at once. Knows slots, and that a registry in trouble gets fewer, and
//! none once it is given up; ignores what they are used for.
//!
//! The limit falls by half when a registry says that it is asked too much, or goes silent, and grows by one
//! only after as many successes as it is large: TCP's own rule. Many transfers that fail of one cause count
//! once: those that began before the limit fell say nothing new.

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
    /// Told when those that were held back may look again.
    calmed: Notify,
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
        Self {
            name: Some(name.to_owned()),
            gate: Mutex::new(Gate::new(most)),
            freed: Notify::new(),
            calmed: Notify::new(),
        }
    }

    /// A place that needs no limit.
    pub(super) fn unlimited() -> Self {
        Self {
            name: None,
            gate: Mutex::new(Gate::new(usize::MAX)),
            freed: Notify::new(),
            calmed: Notify::new(),
        }
    }

    /// Its name, with its port if it has one; `None` for what is on this machine.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The tries of one image, none made yet.
    pub fn tries(self: &Arc<Self>, image: String) -> Tries {
        Tries { host: self.clone(), image, has_met_trouble: false }
    }

    /// Waits for a slot; `is_new` if none of the image's requests has failed yet.
    async fn slot(self: &Arc<Self>, is_new: bool) -> Result<HostSlot, SourceError> {
        let mut was_freed = false;
        loop {
            // In the queues before we look: of two slots that are freed meanwhile, both are to be heard of.
            let mut calmed = pin!(self.calmed.notified());
            calmed.as_mut().enable();
            let mut freed = Box::pin(self.freed.notified());
            freed.as_mut().enable();
            if self.holds_back(is_new)? {
                // What was freed is for those that may go.
                drop(freed);
                if std::mem::take(&mut was_freed) {
                    self.freed.notify_one();
                }
                calmed.await;
                continue;
            }
            if let Some(slot) = self.try_slot() {
                return Ok(slot);
            }
            was_freed = tokio::select! {
                () = freed => true,
                () = calmed => false,
            };
        }
    }

    /// # Errors
    /// The registry has been given up.
    fn holds_back(&self, is_new: bool) -> Result<bool, SourceError> {
        let Some(name) = &self.name else { return Ok(false) };
        let gate = self.gate();
        gate.breaker.check(name)?;
        Ok(is_new && gate.breaker.holds_back_new())
    }

    fn answered(&self) {
        self.gate().breaker.answered();
        self.calmed.notify_waiters();
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

/// The tries of one image, or of one of its blobs, at one registry.
///
/// While several images have met nothing but throttling or silence, only they try again, and others wait:
/// each would cost as much patience. When they have failed for good, nothing more is asked of the registry,
/// until one that is under way brings an answer.
pub struct Tries {
    host: Arc<Host>,
    image: String,
    has_met_trouble: bool,
}

impl Tries {
    /// Whether they are made at this registry.
    pub fn are_at(&self, host: &Arc<Host>) -> bool {
        Arc::ptr_eq(&self.host, host)
    }

    /// Waits for a slot for the next try. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// The registry has been given up.
    pub async fn slot(&self) -> Result<HostSlot, SourceError> {
        self.host.slot(!self.has_met_trouble).await
    }

    /// Learns how a try ended.
    pub fn learn<T>(&mut self, slot: &HostSlot, result: &Result<T, SourceError>) {
        slot.learn(result);
        if result.as_ref().is_err_and(SourceError::is_overload) && self.host.name.is_some() {
            let is_first = !std::mem::replace(&mut self.has_met_trouble, true);
            self.host.gate().breaker.met_trouble(is_first);
        }
    }

    /// Learns that all of them have failed, the last with `error`.
    pub fn gave_up(&self, error: &SourceError) {
        if let Some(name) = &self.host.name
            && self.host.gate().breaker.gave_up(&self.image, error)
        {
            tracing::info!("{name} is given up");
            self.host.calmed.notify_waiters();
        }
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        if self.has_met_trouble {
            self.host.gate().breaker.ended();
            self.host.calmed.notify_waiters();
        }
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
    fn learn<T>(&self, result: &Result<T, SourceError>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) if error.is_overload() => self.troubled(),
            // It has answered.
            Err(error) if !error.is_retryable() => self.host.answered(),
            Err(_) => {}
        }
    }

    fn succeeded(&self) {
        self.host.answered();
        let mut gate = self.host.gate();
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
        let slot = host.slot(true).await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let host = host.clone();
                tokio::spawn(async move { host.slot(true).await })
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
        let slot = host.slot(true).await.unwrap();
        let mut given_up = Box::pin(host.slot(true));
        assert!(futures_ready(&mut given_up).is_none());
        let mut waiting = Box::pin(host.slot(true));
        assert!(futures_ready(&mut waiting).is_none());
        drop(slot);
        drop(given_up);
        waiting.await.unwrap();
    }

    /// Lets images fail after one try each.
    fn fail(host: &Arc<Host>, images: [&str; 3]) {
        images.iter().for_each(|image| host.tries((*image).to_owned()).gave_up(&throttled().unwrap_err()));
    }

    #[tokio::test]
    async fn while_three_images_in_trouble_try_again_others_wait_and_pass_their_turn_on() {
        let host = host(1);
        let mut troubled: Vec<Tries> = ["a", "b", "c"].map(|image| host.tries(image.to_owned())).into();
        let slot = troubled[0].slot().await.unwrap();
        let mut new = Box::pin(host.slot(true));
        assert!(futures_ready(&mut new).is_none(), "there is one slot");
        troubled.iter_mut().for_each(|tries| tries.learn(&slot, &throttled()));
        let last = troubled.pop().unwrap();
        let mut again = Box::pin(last.slot());
        assert!(futures_ready(&mut again).is_none());
        drop(slot);
        // It is first in the queue, and held back.
        assert!(futures_ready(&mut new).is_none());
        let slot = again.await.unwrap();
        assert!(futures_ready(&mut new).is_none());
        slot.learn(&Ok(()));
        drop(slot);
        new.await.unwrap();
    }

    #[tokio::test]
    async fn a_registry_that_is_given_up_sends_those_that_wait_for_it_away() {
        let host = host(1);
        let slot = host.slot(true).await.unwrap();
        let mut waiting = Box::pin(host.slot(true));
        assert!(futures_ready(&mut waiting).is_none());
        fail(&host, ["a", "b", "c"]);
        assert!(waiting.await.is_err());
        // What is under way may still bring an answer.
        slot.learn(&Ok(()));
        drop(slot);
        host.slot(true).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_on_this_machine_is_given_up() {
        let host = Arc::new(Host::unlimited());
        fail(&host, ["a", "b", "c"]);
        host.slot(true).await.unwrap();
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
