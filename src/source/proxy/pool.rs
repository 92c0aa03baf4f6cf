//! The skopeo processes of a run. Knows which is free and how many there may be; ignores
//! what is asked of them.
//!
//! One would do, but it answers one request after the other, and an `OpenImage` is three round trips to a
//! registry: a hundred images would resolve one by one. So there are several for each registry, and none
//! serves two: one that waits for a registry that hangs would hold up the images of another that it has open.
//! Where there are more registries than processes, those that have nothing to do go; so more silent
//! registries than processes hold up the others.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    pin::pin,
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use containers_image_proxy::{Error as ProxyError, ImageProxy, OpenedImage};
use tokio::{
    sync::{AcquireError, Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use super::{
    super::{BoxFuture, Patience, Reference, Result, Site, SourceError, Transport},
    below,
    process::{Fault, Launch, Process, Turn, Use, exited},
};

/// Processes for one registry at most: four requests at once hide its latency.
const PER_HOST: usize = 4;

/// Processes in all at most. skopeo takes about 30 MB each.
const MOST: usize = 16;

/// Processes besides that fetch one document each, which few images need.
const RAW: usize = 4;

/// How long an idle process may take to remove its temporary files and leave.
const GRACE: Duration = Duration::from_secs(2);

/// What processes have in common that can stand in for one another.
type Key = (Site, Option<String>, bool);

/// All processes, by what they are for.
pub(in crate::source) struct Pools {
    patience: Patience,
    per_pool: usize,
    shared: Arc<Shared>,
}

/// What all pools of a run share.
struct Shared {
    /// One for each process that lives: one that was killed has its own until it is gone.
    permits: Arc<Semaphore>,
    pools: StdMutex<HashMap<Key, Arc<Pool>>>,
    /// Told when a process has nothing more to do.
    idle: Arc<Notify>,
    /// One for each process that fetches a document as it is.
    raw: Semaphore,
}

/// The right of one process to live.
pub(super) struct Place {
    // Given back before those hear of it who wait.
    _permit: OwnedSemaphorePermit,
    gone: watch::Sender<()>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit, gone: watch::channel(()).0 }
    }

    /// Ends when the place has been given back.
    pub(super) fn gone(&self) -> Gone {
        Gone(self.gone.subscribe())
    }

    /// Keeps the place until the process has ended.
    pub(super) async fn kept_until_exit(self, pidfd: OwnedFd) {
        // If it cannot be watched, it may be one too many for a moment.
        let _ = exited(&pidfd).await;
    }
}

/// Hears when a process has given its place back.
#[derive(Clone)]
pub(super) struct Gone(watch::Receiver<()>);

impl Gone {
    async fn heard(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Shared {
    fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The right to start one more process for a registry that has some, if enough is left for all others to
    /// have their first: those that are silent must not take everything.
    fn spare_place(&self) -> Option<Place> {
        let others = self.pools().iter().filter(|pool| !pool.has_one.load(Ordering::Relaxed)).count();
        let permit = self.permits.clone().try_acquire_owned().ok();
        permit.filter(|_| self.permits.available_permits() >= others).map(Place::new)
    }

    /// The right to start the first process for a registry. Where there are too many, one that is idle
    /// has to go, and to be gone.
    async fn first_place(&self) -> Result<Place> {
        // In the queue from the beginning, whatever else is waited for.
        let mut permit = pin!(self.permits.clone().acquire_owned());
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            let now = std::future::ready(());
            if let Some(place) = self.place_before(permit.as_mut(), now).await? {
                return Ok(place);
            }
            let given_up = self.pools().iter().find_map(|pool| pool.give_one_up());
            let place = match given_up {
                Some(gone) => self.place_before(permit.as_mut(), gone.heard()).await?,
                None => self.place_before(permit.as_mut(), idle).await?,
            };
            if let Some(place) = place {
                return Ok(place);
            }
        }
    }

    /// The place that `permit` gives, unless `other` comes first.
    async fn place_before(
        &self,
        permit: impl Future<Output = std::result::Result<OwnedSemaphorePermit, AcquireError>>,
        other: impl Future<Output = ()>,
    ) -> Result<Option<Place>> {
        tokio::select! {
            biased;
            permit = permit => {
                let permit = permit.map_err(|_| SourceError::local("no skopeo could be started"))?;
                Ok(Some(Place::new(permit)))
            }
            () = other => Ok(None),
        }
    }
}

impl Pools {
    pub(in crate::source) fn new(patience: Patience, per_host: usize) -> Self {
        let permits = Arc::new(Semaphore::new(MOST));
        let shared =
            Shared { permits, pools: StdMutex::default(), idle: Arc::default(), raw: Semaphore::new(RAW) };
        Self { patience, per_pool: per_host.clamp(1, PER_HOST), shared: Arc::new(shared) }
    }

    /// The pool for images of `site` at `host`.
    pub(in crate::source) fn pool(&self, site: &Site, host: Option<&str>, unshare: bool) -> Arc<Pool> {
        let key = (site.clone(), host.map(str::to_owned), unshare);
        let mut pools = self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Pool {
                launch: Launch { site: site.clone(), unshare },
                patience: self.patience,
                most: self.per_pool,
                is_remote: host.is_some(),
                processes: Mutex::default(),
                has_one: AtomicBool::new(false),
                shared: self.shared.clone(),
            })
        };
        pools.entry(key).or_insert_with(new).clone()
    }

    /// Ends all processes.
    pub(in crate::source) async fn close(&self) {
        // Side by side: one that a registry keeps waiting takes all of its grace.
        let mut ending = JoinSet::new();
        for pool in self.shared.pools() {
            for process in std::mem::take(&mut *pool.processes.lock().await) {
                ending.spawn(process.end(GRACE));
            }
        }
        ending.join_all().await;
    }
}

impl Drop for Pools {
    /// The pools know what they share, which knows the pools: this ends the circle.
    fn drop(&mut self) {
        self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Processes started alike, for one registry.
pub(in crate::source) struct Pool {
    launch: Launch,
    patience: Patience,
    most: usize,
    is_remote: bool,
    processes: Mutex<Vec<Arc<Process>>>,
    /// Whether it has a process, or the right to one; told here since a pool that starts one keeps its lock.
    has_one: AtomicBool,
    shared: Arc<Shared>,
}

impl Pool {
    /// Opens an image on whichever process is free, and keeps that from being taken for idle.
    pub(super) async fn open(&self, reference: &Reference) -> std::result::Result<(Arc<Image>, Use), Fault> {
        let (process, turn) = self.process().await?;
        let turn = turn.ok_or(Fault::Retired)?;
        let used = process.in_use();
        if reference.transport() == Transport::ContainersStorage {
            process.require((0, 2, 5), "containers-storage:")?;
        }
        let limit = self.patience.answer();
        // Opening an archive unpacks it first, and a disk is not a network that hangs.
        let limit = if self.is_remote { limit } else { limit * 4 };
        let text = reference.for_skopeo();
        let id = process
            .request(turn, "OpenImage", limit, move |proxy| {
                Box::pin(async move { proxy.open_image(&text).await })
            })
            .await?;
        let runtime = tokio::runtime::Handle::current();
        Ok((Arc::new(Image { process, id: Arc::new(id), patience: self.patience, runtime }), used))
    }

    /// The manifest or index that `reference` names, as the registry has it: one that skopeo cannot follow.
    pub(super) async fn raw(&self, reference: &Reference) -> Result<Vec<u8>> {
        let _permit = self.shared.raw.acquire().await;
        below::raw(reference, &self.launch.site.access, self.patience.answer()).await
    }

    /// A process and the turn to ask it, if it lives that long.
    async fn process(&self) -> Result<(Arc<Process>, Option<Turn>)> {
        let mut processes = self.processes.lock().await;
        // What still streams from a retired process goes on; nobody asks it any more.
        processes.retain(|process| !(process.is_retired() && process.dismiss()));
        self.has_one.store(!processes.is_empty(), Ordering::Relaxed);
        if let Some(free) =
            processes.iter().find_map(|process| Some((process.clone(), Some(process.try_turn()?))))
        {
            return Ok(free);
        }
        let place = match processes.iter().filter(|process| !process.is_retired()).count() {
            0 => Some(self.shared.first_place().await?),
            asked if asked < self.most => self.shared.spare_place(),
            _ => None,
        };
        if let Some(place) = place {
            self.has_one.store(true, Ordering::Relaxed);
            let idle = self.shared.idle.clone();
            let process = Process::start(&self.launch, self.patience.answer(), place, idle).await?;
            let process = Arc::new(process);
            processes.push(process.clone());
            let turn = process.try_turn();
            return Ok((process, turn));
        }
        let asked = processes.iter().filter(|process| !process.is_retired());
        let least = asked.min_by_key(|process| process.load()).cloned();
        drop(processes);
        let process = least.ok_or_else(|| SourceError::local("no skopeo could be started"))?;
        let turn = process.turn().await;
        Ok((process, turn))
    }

    /// Ends a process that has nothing to do, if there is one; images that it has open are opened again when
    /// they are needed. An archive's stay: it was unpacked for them.
    fn give_one_up(&self) -> Option<Gone> {
        let mut processes = self.processes.try_lock().ok().filter(|_| self.is_remote)?;
        let idle = processes.iter().position(|process| process.is_idle() && process.dismiss())?;
        let given_up = processes.swap_remove(idle);
        self.has_one.store(!processes.is_empty(), Ordering::Relaxed);
        Some(given_up.gone())
    }
}

/// An image that a process has open. Closed when nobody uses it any more: an archive's
/// temporary files go then.
pub(super) struct Image {
    pub(super) process: Arc<Process>,
    pub(super) id: Arc<OpenedImage>,
    pub(super) patience: Patience,
    /// Where it is closed: who drops it last need not be there.
    runtime: tokio::runtime::Handle,
}

impl Image {
    /// Asks about the image; waits for a turn first.
    pub(super) async fn request<T, F>(&self, what: &'static str, ask: F) -> std::result::Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(
                &'a ImageProxy,
                &'a OpenedImage,
            ) -> BoxFuture<'a, std::result::Result<T, ProxyError>>
            + Send
            + 'static,
    {
        let turn = self.process.turn().await.ok_or(Fault::Retired)?;
        let (id, limit) = (self.id.clone(), self.patience.answer());
        let answer = self
            .process
            .request(turn, what, limit, move |proxy| Box::pin(async move { ask(proxy, &id).await }));
        Ok(answer.await?)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.process.is_retired() {
            return;
        }
        let (process, id, limit) = (self.process.clone(), self.id.clone(), self.patience.answer());
        self.runtime.spawn(async move {
            if let Some(_turn) = process.turn().await {
                // If it fails there is nothing to be done, and nothing depends on it.
                let _ = process.exchange("CloseImage", limit, process.proxy().close_image(&id)).await;
            }
        });
    }
}
