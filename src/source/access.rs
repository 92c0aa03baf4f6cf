//! All sources of a run, opened with the same options. Knows which transport is read by whom; ignores how.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    ErrorKind, LayoutSource, Platform, ProxySource, Reference, Resolved, Result, Source, SourceError,
    Transport,
    proxy::{Launch, Pool},
};

/// How registries are talked to, and whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Credentials, as `skopeo login` writes them; by default containers-auth.json(5) says where they are.
    pub authfile: Option<PathBuf>,
    /// A directory of certificates and keys for the registry.
    pub cert_dir: Option<PathBuf>,
    /// Whether registries must prove who they are. `false` also allows plain HTTP.
    pub tls_verify: bool,
    /// The signature policy (containers-policy.json(5)) to enforce.
    pub policy: Option<PathBuf>,
    /// The program to run for skopeo.
    pub skopeo: PathBuf,
}

impl Default for Access {
    fn default() -> Self {
        Self { authfile: None, cert_dir: None, tls_verify: true, policy: None, skopeo: "skopeo".into() }
    }
}

/// Who to be at a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or token that proves it.
    pub password: String,
}

/// Shows no password: what is printed for diagnosis ends up in logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What holds for all images of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The platform that the user asked for; `None` means this machine.
    pub platform: Option<Platform>,
    /// Access to registries.
    pub access: Access,
    /// How long a transfer or a request may go without a sign of life.
    pub stall_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { platform: None, access: Access::default(), stall_timeout: Duration::from_secs(60) }
    }
}

/// Opens references. Owns the skopeo processes behind them, which start when the first image needs one.
///
/// It and all it opened must be gone before the tokio runtime is: the end of a runtime waits for the threads that
/// wait for skopeo.
pub struct Sources {
    options: Options,
    pool: Arc<Pool>,
    /// For `containers-storage:` of a user who is not root: skopeo inside podman's user namespace.
    unshared: Arc<Pool>,
}

impl Sources {
    /// Nothing is started or opened yet.
    pub fn new(options: Options) -> Self {
        let pool = |unshare| {
            let launch =
                Launch { platform: options.platform.clone(), access: options.access.clone(), unshare };
            Arc::new(Pool::new(launch, options.stall_timeout))
        };
        Self { pool: pool(false), unshared: pool(true), options }
    }

    /// The source of one image. Must be used inside a tokio runtime with I/O and time enabled.
    pub fn open(&self, reference: &Reference) -> Arc<dyn Source> {
        let platform = self.options.platform.clone();
        match reference.transport() {
            // Only skopeo can enforce a policy, so with one it reads layouts too.
            Transport::Oci if self.options.access.policy.is_none() => {
                Arc::new(LayoutSource::new(reference, platform))
            }
            Transport::ContainersStorage if !rustix::process::geteuid().is_root() => {
                Arc::new(ProxySource::new(reference, platform, self.unshared.clone()))
            }
            _ => Arc::new(ProxySource::new(reference, platform, self.pool.clone())),
        }
    }

    /// Opens and resolves every reference, at most `concurrency` at a time; results in the order of `references`.
    ///
    /// One image's failure does not touch the others.
    pub async fn resolve_all(
        &self,
        references: &[Reference],
        concurrency: usize,
    ) -> Vec<(Arc<dyn Source>, Result<Resolved>)> {
        let permits = Arc::new(Semaphore::new(concurrency.max(1)));
        let mut running = JoinSet::new();
        let mut results = Vec::with_capacity(references.len());
        for (place, reference) in references.iter().enumerate() {
            let source = self.open(reference);
            let cut_short = SourceError::new(ErrorKind::Other, "resolving was cut short");
            results.push((source.clone(), Err(cut_short)));
            let permits = permits.clone();
            running.spawn(async move {
                let _permit = permits.acquire_owned().await;
                (place, source.resolve().await)
            });
        }
        while let Some(joined) = running.join_next().await {
            // A panic in there leaves the prepared error in place.
            if let Ok((place, resolved)) = joined {
                results[place].1 = resolved;
            }
        }
        results
    }

    /// Ends the skopeo processes: in good order where they are idle, so that they remove their temporary files
    /// (an unpacked `oci-archive:`), by force after two seconds. To be called at the end of a run, cancelled or not,
    /// when all sources and readers are dropped.
    pub async fn close(self) {
        self.pool.close().await;
        self.unshared.close().await;
    }
}
