//! Requests that run side by side, each heard of when it is answered. Knows who asked;
//! ignores what is asked for.

use std::{collections::HashMap, future::Future};

use tokio::task::{Id, JoinSet};

use super::{ErrorKind, Result, SourceError};

/// Requests on their way, each with a `K` that tells it from the others. They go on while nobody
/// listens, and end with it.
pub struct Answers<K, T> {
    running: JoinSet<Result<T>>,
    asked: HashMap<Id, K>,
}

impl<K, T: Send + 'static> Answers<K, T> {
    /// Asks. Must be called inside a tokio runtime.
    pub fn ask(&mut self, key: K, request: impl Future<Output = Result<T>> + Send + 'static) {
        let task = self.running.spawn(request);
        self.asked.insert(task.id(), key);
    }

    /// The next answer, or `None` if none is left. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<(K, Result<T>)> {
        let (id, answer) = match self.running.join_next_with_id().await? {
            Ok(answered) => answered,
            // It panicked; the others go on.
            Err(cut) => (cut.id(), Err(SourceError::new(ErrorKind::Other, "the request was cut short"))),
        };
        let key = self.asked.remove(&id)?;
        Some((key, answer))
    }

    /// Whether nothing is left to hear of.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whose requests are not answered yet, in no order.
    pub fn unanswered(&self) -> impl Iterator<Item = &K> {
        self.asked.values()
    }
}

impl<K, T: 'static> Default for Answers<K, T> {
    fn default() -> Self {
        Self { running: JoinSet::new(), asked: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_heard_of_with_who_asked_also_one_that_panics() {
        let mut answers = Answers::default();
        assert!(answers.is_empty() && answers.next().await.is_none());
        answers.ask("never", std::future::pending());
        answers.ask("one", async { Ok(1) });
        answers.ask("panics", async { panic!("as the test wants") });
        let mut heard = HashMap::new();
        for _ in 0..2 {
            let (key, answer) = answers.next().await.unwrap();
            heard.insert(key, answer.map_err(|error| error.to_string()));
        }
        assert_eq!(heard["one"], Ok(1));
        assert_eq!(heard["panics"], Err("the request was cut short".to_owned()));
        assert_eq!(answers.unanswered().collect::<Vec<_>>(), [&"never"]);
    }
}
