//! Configs while images are resolved: what the repository has, and what was fetched for another image. Knows digests and
//! registries; ignores how a config is fetched.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

use crate::types::Digest;

/// Documents that are here already.
pub trait Documents: Send + Sync {
    /// The config of this digest. The bytes are checked by whoever asks.
    fn config(&self, digest: &Digest) -> Option<Vec<u8>>;
}

/// A config that was fetched, is being fetched, or failed to be.
type Fetched = Arc<OnceCell<Vec<u8>>>;

/// Configs by their digests, each fetched but once from a registry: many tags stand for one image.
#[derive(Default)]
pub struct Configs {
    stored: Option<Arc<dyn Documents>>,
    /// By registry as well: nobody waits for another one's.
    fetched: Mutex<HashMap<(Option<String>, Digest), Fetched>>,
}

impl Configs {
    /// Those that `stored` has need not be fetched.
    pub fn over(stored: Arc<dyn Documents>) -> Self {
        Self { stored: Some(stored), fetched: Mutex::default() }
    }

    /// The config of `digest`: stored, fetched before, being fetched, or what `fetch` gives now, which is to be checked.
    pub(super) async fn get<E>(
        &self,
        host: Option<&str>,
        digest: &Digest,
        fetch: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Vec<u8>, E> {
        if let Some(stored) = self.stored.as_ref().and_then(|stored| stored.config(digest)) {
            return Ok(stored);
        }
        let cell = {
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.entry((host.map(str::to_owned), *digest)).or_default().clone()
        };
        cell.get_or_try_init(|| fetch).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::source::{ErrorKind, SourceError};

    struct One(Digest);

    impl Documents for One {
        fn config(&self, digest: &Digest) -> Option<Vec<u8>> {
            (*digest == self.0).then(|| b"stored".to_vec())
        }
    }

    #[tokio::test]
    async fn each_is_fetched_once_from_a_registry() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let configs = Configs::over(Arc::new(One(one)));
        let fetches = Cell::new(0);
        let fetch = || async {
            fetches.set(fetches.get() + 1);
            tokio::task::yield_now().await;
            Ok::<_, SourceError>(b"fetched".to_vec())
        };
        assert_eq!(configs.get(Some("a"), &one, fetch()).await.unwrap(), b"stored");
        let both = tokio::join!(configs.get(Some("a"), &two, fetch()), configs.get(Some("a"), &two, fetch()));
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (b"fetched".to_vec(), b"fetched".to_vec()));
        assert_eq!(fetches.get(), 1);
        configs.get(Some("b"), &two, fetch()).await.unwrap();
        assert_eq!(fetches.get(), 2);
    }

    #[tokio::test]
    async fn what_failed_is_fetched_again() {
        let configs = Configs::default();
        let digest = Digest::of(b"1");
        let failed =
            configs.get(None, &digest, async { Err(SourceError::new(ErrorKind::Transient, "no")) }).await;
        assert_eq!(failed.unwrap_err().to_string(), "no");
        let fetched = configs.get(None, &digest, async { Ok::<_, SourceError>(b"yes".to_vec()) }).await;
        assert_eq!(fetched.unwrap(), b"yes");
    }
}
