//! The skopeo processes of a run. Knows which is free; ignores what is asked of them.
//!
//! One would do, but it answers one request after the other, and an `OpenImage` is three round trips to a
//! registry: a hundred images would resolve one by one, and one registry that hangs would hold up all others.

use std::{sync::Arc, time::Duration};

use containers_image_proxy::{Error as ProxyError, ImageProxy, OpenedImage};
use tokio::sync::Mutex;

use super::{
    super::{BoxFuture, Reference, Result, SourceError, Transport},
    process::{Fault, Launch, Process, Turn},
};

/// Processes in use at most. skopeo takes about 30 MB each, and four requests at once hide a registry's latency.
const MOST: usize = 4;

/// How long an idle process may take to remove its temporary files and leave.
const GRACE: Duration = Duration::from_secs(2);

/// Processes started alike.
pub(in crate::source) struct Pool {
    launch: Launch,
    pub(super) limit: Duration,
    processes: Mutex<Vec<Arc<Process>>>,
}

impl Pool {
    pub(in crate::source) fn new(launch: Launch, limit: Duration) -> Self {
        Self { launch, limit, processes: Mutex::default() }
    }

    /// Opens an image on whichever process is free.
    pub(super) async fn open(&self, reference: &Reference) -> std::result::Result<Arc<Image>, Fault> {
        let (process, turn) = self.process().await?;
        let turn = turn.ok_or(Fault::Retired)?;
        if reference.transport() == Transport::ContainersStorage {
            process.require((0, 2, 5), "containers-storage:")?;
        }
        // Opening an archive unpacks it first, and a disk is not a network that hangs.
        let limit = if reference.transport() == Transport::Registry { self.limit } else { self.limit * 10 };
        let text = reference.for_skopeo();
        let id = process
            .request(turn, "OpenImage", limit, move |proxy| {
                Box::pin(async move { proxy.open_image(&text).await })
            })
            .await?;
        Ok(Arc::new(Image { process, id: Arc::new(id), limit: self.limit }))
    }

    /// A process and the turn to ask it, if it lives that long.
    async fn process(&self) -> Result<(Arc<Process>, Option<Turn>)> {
        let mut processes = self.processes.lock().await;
        processes.retain(|process| !process.is_retired());
        if let Some(free) =
            processes.iter().find_map(|process| Some((process.clone(), Some(process.try_turn()?))))
        {
            return Ok(free);
        }
        if processes.len() < MOST {
            let process = Arc::new(Process::start(&self.launch, self.limit).await?);
            processes.push(process.clone());
            let turn = process.try_turn();
            return Ok((process, turn));
        }
        let least = processes.iter().min_by_key(|process| process.load()).cloned();
        drop(processes);
        let process = least.ok_or_else(|| SourceError::local("no skopeo could be started"))?;
        let turn = process.turn().await;
        Ok((process, turn))
    }

    /// Ends all processes.
    pub(in crate::source) async fn close(&self) {
        let processes = std::mem::take(&mut *self.processes.lock().await);
        for process in processes {
            process.end(GRACE).await;
        }
    }
}

/// An image that a process has open. Closed when nobody uses it any more: an archive's temporary files go then.
pub(super) struct Image {
    pub(super) process: Arc<Process>,
    pub(super) id: Arc<OpenedImage>,
    pub(super) limit: Duration,
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
        let id = self.id.clone();
        let answer = self
            .process
            .request(turn, what, self.limit, move |proxy| Box::pin(async move { ask(proxy, &id).await }));
        Ok(answer.await?)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.process.is_retired() {
            return;
        }
        let (process, id, limit) = (self.process.clone(), self.id.clone(), self.limit);
        runtime.spawn(async move {
            if let Some(_turn) = process.turn().await {
                // If it fails there is nothing to be done, and nothing depends on it.
                let _ = process.exchange("CloseImage", limit, process.proxy().close_image(&id)).await;
            }
        });
    }
}
