//! One stream of events for several listeners. Knows only that they listen.

use std::sync::Arc;

use crate::{
    exec::{Event, Observer, Worked},
    graph::NodeId,
};

/// Passes every event to each of its observers, in their order.
#[derive(Clone, Default)]
pub struct Tee(Vec<Arc<dyn Observer>>);

impl Tee {
    /// A stream for `observers`.
    pub fn new(observers: impl IntoIterator<Item = Arc<dyn Observer>>) -> Self {
        Self(observers.into_iter().collect())
    }
}

impl Observer for Tee {
    fn event(&self, event: Event) {
        for observer in &self.0 {
            observer.event(event.clone());
        }
    }

    fn worked(&self, worked: Worked) {
        self.0.iter().for_each(|observer| observer.worked(worked));
    }

    fn counted(&self, node: NodeId, what: &'static str, number: u64) {
        self.0.iter().for_each(|observer| observer.counted(node, what, number));
    }

    fn noted(&self, node: NodeId, text: &str) {
        self.0.iter().for_each(|observer| observer.noted(node, text));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Observer for Kept {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }

    #[test]
    fn every_listener_hears_everything() {
        let listeners = [Arc::new(Kept::default()), Arc::new(Kept::default())];
        let tee = Tee::new(listeners.iter().map(|kept| kept.clone() as Arc<dyn Observer>));
        tee.event(Event::Started(NodeId::new(1)));
        tee.event(Event::Finished(NodeId::new(1)));
        for kept in listeners {
            assert_eq!(*kept.0.lock().unwrap(), ["Started(NodeIndex(1))", "Finished(NodeIndex(1))"]);
        }
    }
}
