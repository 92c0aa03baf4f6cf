//! All sources of a run. Knows which transport is read by whom, and that what may pass is tried again;
//! ignores how transports work.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, Semaphore};

use super::{
    DocumentCache, Documents, Host, LayoutSource, ProxySource, Reference, Resolved, Result, Retries, Site,
    Source, Tell, Transport, host::Hosts, proxy::Pools, tags,
};
use crate::types::Limits;

/// References that are resolved at once: enough that registries which hang, each with as many as it may be
/// asked for at once, leave room for those which do not. Each holds at most a manifest and a config.
const RESOLVING: usize = 64;

/// Repositories whose tags are listed at once, each by a process of its own.
const LISTING: usize = 16;

/// How much a silent registry may try a run's patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a transfer may give nothing, or next to nothing.
    pub stall: Duration,
}

impl Patience {
    /// How long an answer or its first byte may take: skopeo itself sleeps and asks again when a registry
    /// answers 429, for as long as `Retry-After` says.
    pub fn answer(self) -> Duration {
        self.stall.saturating_mul(3)
    }

    /// How long those that have answered wait for others while nothing is heard.
    pub fn pause(self) -> Duration {
        self.stall / 6
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(60) }
    }
}

/// What holds for all images of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// When to give up on a transfer or a request.
    pub patience: Patience,
    /// When to try again.
    pub retries: Retries,
    /// Requests and transfers at once to one registry.
    pub per_host: usize,
    /// What is refused as hostile.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            retries: Retries::default(),
            per_host: 4,
            limits: Limits::default(),
        }
    }
}

/// Opens references. Owns the skopeo processes behind them, which start when the first image needs one.
///
/// It and all it opened must be gone before the tokio runtime is: the end of a runtime waits for the
/// threads that wait for skopeo.
pub struct Sources {
    options: Options,
    hosts: Hosts,
    pools: Pools,
    resolving: Arc<Semaphore>,
    listing: Arc<Semaphore>,
    tell: Arc<Tell>,
}

impl Sources {
    /// Nothing is started or opened yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            hosts: Hosts::new(options.per_host),
            pools: Pools::new(options.patience, options.per_host),
            resolving: Arc::new(Semaphore::new(RESOLVING)),
            listing: Arc::new(Semaphore::new(LISTING)),
            tell: Arc::new(|_| ()),
        }
    }

    /// The same, telling those who watch what is tried again.
    pub fn telling(self, tell: Arc<Tell>) -> Self {
        Self { tell, ..self }
    }

    /// The source of one image. Must be used inside a tokio runtime with I/O and time enabled.
    pub fn open(&self, reference: &Reference, site: &Site) -> Arc<dyn Source> {
        // Only skopeo can enforce a policy, so with one it reads layouts too.
        if reference.transport() == Transport::Oci && site.access.policy.is_none() {
            return Arc::new(LayoutSource::new(reference, site.platform.clone()));
        }
        // skopeo inside podman's user namespace, where an ordinary user's images are.
        let unshare =
            reference.transport() == Transport::ContainersStorage && !rustix::process::geteuid().is_root();
        let pool = self.pools.pool(site, reference.host(), unshare);
        let host = self.hosts.of(reference);
        Arc::new(ProxySource::new(reference, site.platform.clone(), pool, host))
    }

    /// Holds documents for one request, of which `stored` has some.
    pub fn held(&self, stored: Arc<dyn Documents>) -> DocumentCache {
        DocumentCache::over(stored, self.options.limits)
    }

    /// Resolves `source`, as often as that may help, when it is its turn. Documents are shared by all
    /// who bring the same `held`.
    pub fn resolve(
        &self,
        source: Arc<dyn Source>,
        held: Arc<DocumentCache>,
    ) -> impl Future<Output = Result<Resolved>> + Send + use<> {
        let attempts = self.attempts(source.host(), &self.resolving);
        let limits = self.options.limits;
        async move {
            let resolved = attempts.make(&source.describe(), || source.resolve(&held)).await?;
            let mut resolved = resolved.within(&limits)?;
            held.hold(&mut resolved)?;
            Ok(resolved)
        }
    }

    /// The tags that the registry lists for the repository that `reference` names without a tag.
    pub fn tags(
        &self,
        reference: Reference,
        site: Site,
    ) -> impl Future<Output = Result<Vec<String>>> + Send + use<> {
        let attempts = self.attempts(&self.hosts.of(&reference), &self.listing);
        let patience = self.options.patience;
        async move {
            let list = || tags::list(&reference, &site.access, patience);
            attempts.make(&reference.to_string(), list).await
        }
    }

    fn attempts(&self, host: &Arc<Host>, permits: &Arc<Semaphore>) -> Attempts {
        let (host, permits) = (host.clone(), permits.clone());
        Attempts { host, permits, retries: self.options.retries, tell: self.tell.clone() }
    }

    /// Ends the skopeo processes: in good order where they are idle, so that they remove their temporary
    /// files (an unpacked `oci-archive:`), by force after two seconds. To be called at the end of a run,
    /// cancelled or not, when all sources and readers are dropped.
    pub async fn close(self) {
        self.pools.close().await;
    }
}

/// A request to a registry, as often as it may help.
struct Attempts {
    host: Arc<Host>,
    permits: Arc<Semaphore>,
    retries: Retries,
    tell: Arc<Tell>,
}

impl Attempts {
    /// Makes the request `what`, each time when it is its turn. The registry's slot comes first: whoever
    /// waits for it takes no place from those who ask others.
    async fn make<T, F>(&self, what: &str, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let tries = Mutex::new(self.host.tries(what.to_owned()));
        let attempt = || async {
            let mut tries = tries.lock().await;
            let slot = tries.slot().await?;
            let _permit = self.permits.acquire().await;
            let answer = request().await;
            tries.learn(&slot, &answer);
            answer
        };
        let result = self.retries.run(what, &*self.tell, attempt).await;
        if let Err(error) = &result {
            tries.lock().await.gave_up(error);
        }
        result
    }
}
