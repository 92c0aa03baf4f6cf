//! Documents while images are resolved: what the repository has, and what was fetched for another image.
//! Knows digests, registries and how much is held; ignores how a document is fetched.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::{Resolved, Result};
use crate::types::{Digest, Limit, Limits};

/// Documents that are here already.
pub trait Documents: Send + Sync {
    /// The config of this digest, whose bytes have it.
    fn config(&self, digest: &Digest) -> Option<Vec<u8>>;
}

/// A config that is being fetched, by its registry as well: nobody waits for another one's.
type Fetching = HashMap<(Option<String>, Digest), Arc<OnceCell<Arc<[u8]>>>>;

/// Manifests and configs by their digests, each held but once: many tags stand for one image. How much they
/// are together is limited, since registries choose how many tags there are and how large each one's
/// documents; so is what each tag takes by itself, which is not shared.
#[derive(Default)]
pub struct DocumentCache {
    stored: Option<Arc<dyn Documents>>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fetching: Fetching,
    documents: HashMap<Digest, Arc<[u8]>>,
    /// The length of all documents, and what images take besides.
    bytes: u64,
}

impl DocumentCache {
    /// Configs that `stored` has need not be fetched.
    pub fn over(stored: Arc<dyn Documents>, limits: Limits) -> Self {
        Self { stored: Some(stored), limits, state: Mutex::default() }
    }

    /// The config of `digest`: stored, fetched before, being fetched, or what `fetch` gives
    /// now, which has the digest.
    pub(super) async fn config<E>(
        &self,
        host: Option<&str>,
        digest: &Digest,
        fetch: impl Future<Output = std::result::Result<Vec<u8>, E>>,
    ) -> std::result::Result<Arc<[u8]>, E> {
        if let Some(held) = self.lock().documents.get(digest) {
            return Ok(held.clone());
        }
        if let Some(stored) = self.stored.as_ref().and_then(|stored| stored.config(digest)) {
            let stored = stored.into();
            return Ok(self.keep(&mut self.lock(), digest, &stored).unwrap_or(stored));
        }
        let key = (host.map(str::to_owned), *digest);
        let cell = {
            let mut state = self.lock();
            if let Some(held) = state.documents.get(digest) {
                return Ok(held.clone());
            }
            state.fetching.entry(key.clone()).or_default().clone()
        };
        let fetched = cell.get_or_try_init(|| async { Ok(fetch.await?.into()) }).await.cloned();
        let mut state = self.lock();
        state.fetching.remove(&key);
        // Too much is told when the image is held.
        fetched.map(|bytes| self.keep(&mut state, digest, &bytes).unwrap_or(bytes))
    }

    /// Holds an image's documents, and gives it those that are held already. What else
    /// the image takes is counted.
    ///
    /// # Errors
    /// [`Limit::Documents`] is crossed.
    pub fn hold(&self, image: &mut Resolved) -> Result<()> {
        let mut state = self.lock();
        let Resolved { manifest_digest, manifest, config_digest, config, .. } = image;
        for (digest, bytes) in [(&*manifest_digest, manifest), (&*config_digest, config)] {
            *bytes = self.keep(&mut state, digest, bytes)?;
        }
        self.count(&mut state, image.layers_footprint())
    }

    fn keep(&self, state: &mut State, digest: &Digest, bytes: &Arc<[u8]>) -> Result<Arc<[u8]>> {
        if let Some(held) = state.documents.get(digest) {
            return Ok(held.clone());
        }
        self.count(state, bytes.len() as u64)?;
        state.documents.insert(*digest, bytes.clone());
        Ok(bytes.clone())
    }

    fn count(&self, state: &mut State, bytes: u64) -> Result<()> {
        let then = state.bytes.saturating_add(bytes);
        self.limits.check(Limit::Documents, then)?;
        state.bytes = then;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        source::{ErrorKind, SourceError},
        types::Descriptor,
    };

    struct One(Digest);

    impl Documents for One {
        fn config(&self, digest: &Digest) -> Option<Vec<u8>> {
            (*digest == self.0).then(|| b"stored".to_vec())
        }
    }

    #[tokio::test]
    async fn each_config_is_fetched_once() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let held = DocumentCache::over(Arc::new(One(one)), Limits::default());
        let fetches = Cell::new(0);
        let fetch = || async {
            fetches.set(fetches.get() + 1);
            tokio::task::yield_now().await;
            Ok::<_, SourceError>(b"fetched".to_vec())
        };
        assert_eq!(*held.config(Some("a"), &one, fetch()).await.unwrap(), *b"stored");
        let get = |host| held.config(Some(host), &two, fetch());
        let both = tokio::join!(get("a"), get("a"));
        assert_eq!((&*both.0.unwrap(), &*both.1.unwrap()), (&b"fetched"[..], &b"fetched"[..]));
        assert_eq!(fetches.get(), 1);
        get("b").await.unwrap();
        assert_eq!(fetches.get(), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_another_registry() {
        let (held, digest) = (DocumentCache::default(), Digest::of(b"1"));
        let slow = held.config(Some("slow"), &digest, std::future::pending::<Result<_>>());
        let quick = held.config(Some("quick"), &digest, async { Ok::<_, SourceError>(b"1".to_vec()) });
        tokio::select! {
            biased;
            _ = slow => unreachable!(),
            quick = quick => assert_eq!(*quick.unwrap(), *b"1"),
        }
    }

    #[tokio::test]
    async fn what_failed_is_fetched_again() {
        let held = DocumentCache::default();
        let digest = Digest::of(b"1");
        let failed =
            held.config(None, &digest, async { Err(SourceError::new(ErrorKind::Transient, "no")) }).await;
        assert_eq!(failed.unwrap_err().to_string(), "no");
        let fetched = held.config(None, &digest, async { Ok::<_, SourceError>(b"yes".to_vec()) }).await;
        assert_eq!(*fetched.unwrap(), *b"yes");
    }

    /// An artifact whose manifest and config are the same.
    fn image(bytes: &str, layers: Vec<Descriptor>) -> Resolved {
        let bytes: Arc<[u8]> = bytes.as_bytes().into();
        let digest = Digest::of(&bytes);
        Resolved {
            manifest: bytes.clone(),
            manifest_digest: digest,
            original_digest: None,
            config: bytes,
            config_digest: digest,
            layers,
            diff_ids: None,
            is_container: false,
            config_lists_layers: false,
        }
    }

    #[test]
    fn documents_are_held_once_and_only_so_many() {
        let image = |bytes| image(bytes, Vec::new());
        let held =
            DocumentCache { limits: Limits::default().with(Limit::Documents, 7), ..DocumentCache::default() };
        let (mut one, mut again) = (image("four"), image("four"));
        held.hold(&mut one).unwrap();
        held.hold(&mut again).unwrap();
        assert!(Arc::ptr_eq(&one.manifest, &again.config));
        let error = held.hold(&mut image("five")).unwrap_err().to_string();
        assert!(error.contains("more than 7 bytes") && error.contains("--limit documents=N"), "{error}");
        held.hold(&mut image("six")).unwrap();
    }

    #[test]
    fn an_image_counts_with_its_layers_though_its_documents_are_shared() {
        let layer = Descriptor { media_type: "t".repeat(1000), digest: Digest::of(b"layer"), size: 1 };
        let image = image("{}", vec![layer; 3]);
        let held = DocumentCache {
            limits: Limits::default().with(Limit::Documents, 20_000),
            ..DocumentCache::default()
        };
        held.hold(&mut image.clone()).unwrap();
        held.hold(&mut image.clone()).unwrap();
        assert!(held.hold(&mut image.clone()).unwrap_err().to_string().contains("--limit documents=N"));
    }
}
