//! Making things visible: group commit. Knows barriers and the order of links; ignores how
//! what is linked came to be.
//!
//! One thread owns the barrier. It takes every request that is waiting, makes one barrier for all of them,
//! makes their links bottom-up, and answers; what arrives meanwhile waits for the next round. So a barrier
//! serves all images that are ready, nothing is linked that was not complete before it began, and no worker
//! waits for it. Between barriers the thread gives objects their names when many wait.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
};

use composefs::fsverity::FsVerityHashValue;

use super::{
    Content, Store, StoreError, StreamName, Tag,
    barrier::Durable,
    claims,
    law::Op,
    layers::Examined,
    links::{Link, Made},
    scratch,
};
use crate::types::Digest;

/// What one image (or part of one) wants to be visible. By handing it over the caller says that everything it
/// reaches is complete.
#[derive(Debug, Clone)]
pub struct LinkSet<H> {
    /// Layer streams; the first writer of a name wins.
    pub layers: Vec<LayerLink<H>>,
    /// Filesystem images.
    pub images: Vec<H>,
    /// Configs and manifests, each after what it names.
    pub documents: Vec<DocumentLink<H>>,
    /// Tags and the manifests that they name, linked here or before.
    pub tags: Vec<(Tag, Digest)>,
}

impl<H> Default for LinkSet<H> {
    fn default() -> Self {
        Self { layers: Vec::new(), images: Vec::new(), documents: Vec::new(), tags: Vec::new() }
    }
}

/// A layer stream and its name.
#[derive(Debug, Clone)]
pub struct LayerLink<H> {
    /// [`StreamName::Layer`] or [`StreamName::Blob`].
    pub name: StreamName,
    /// What the stream holds.
    pub content: Content,
    /// The stream.
    pub id: H,
    /// What the tar in it must have, for the layer of an image.
    pub diff_id: Option<Digest>,
}

/// A config or manifest stream and its name.
#[derive(Debug, Clone)]
pub struct DocumentLink<H> {
    /// [`StreamName::Config`] or [`StreamName::Manifest`].
    pub name: StreamName,
    /// The stream.
    pub id: H,
    /// What was linked under the name when `id` was made: that alone is replaced. `None`: nothing was.
    pub seen: Option<H>,
}

/// What became of a [`LinkSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<H> {
    /// All of it is linked.
    Linked,
    /// Another stream has this name by now and stays. Nothing after it in the set was linked: look at it,
    /// make the documents anew and hand in the set again.
    Adopted {
        /// The link.
        name: StreamName,
        /// What it names.
        id: H,
    },
    /// The name is taken by a layer of the other kind (split and raw), which stays. Nothing after
    /// it in the set was linked.
    Taken {
        /// The link.
        name: StreamName,
    },
}

/// Receives what became of a set, on the commit thread; must be quick.
pub type Notify<H> = Box<dyn FnOnce(Result<Outcome<H>, StoreError>) + Send>;

/// The commit thread of a run.
pub struct Commit<H: FsVerityHashValue> {
    store: Arc<Store<H>>,
    queue: Arc<Queue<H>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<H: FsVerityHashValue> Commit<H> {
    /// Starts the thread and removes what dead runs left behind.
    ///
    /// # Errors
    /// A repository that cannot be written.
    pub fn start(store: &Arc<Store<H>>) -> Result<Self, StoreError> {
        store.require_writable()?;
        store.require_suitable()?;
        scratch::sweep(store.root()).map_err(|errno| store.fault("cleaning cfs-dag/tmp", errno))?;
        claims::sweep(store.root());
        let queue = Arc::new(Queue::default());
        let thread = thread::Builder::new().name("commit".into()).spawn({
            let (store, queue) = (store.clone(), queue.clone());
            move || serve(&store, &queue)
        });
        let thread = thread.map_err(|cause| StoreError::Io {
            what: "starting a thread (the limit may be that of processes, ulimit -u, or of memory)".into(),
            cause,
        })?;
        store.objects.staged.tell(Some(Box::new({
            let queue = queue.clone();
            move || queue.crowded()
        })));
        Ok(Self { store: store.clone(), queue, thread: Mutex::new(Some(thread)) })
    }

    /// Hands in a set; `notify` is called exactly once, usually on the commit thread.
    pub fn submit(
        &self,
        set: LinkSet<H>,
        notify: impl FnOnce(Result<Outcome<H>, StoreError>) + Send + 'static,
    ) {
        self.queue.push(Request { set, notify: Some(Box::new(notify)) });
    }

    /// Waits for all sets and makes all links durable, also those that were in place; sets handed in later
    /// are refused. Only after this may a run report success.
    ///
    /// # Errors
    /// A directory that cannot be synced; sets have had their own answers.
    pub fn finish(&self) -> Result<(), StoreError> {
        self.queue.close();
        let Some(thread) = self.take_thread() else { return Ok(()) };
        thread.join().map_err(|_| StoreError::Ended)?;
        self.store.sync_links()
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.store.objects.staged.tell(None);
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<H: FsVerityHashValue> Drop for Commit<H> {
    /// An aborted run: what no barrier serves yet is refused, the current round ends as usual.
    fn drop(&mut self) {
        self.queue.abandon();
        // The last handle may go in a callback, on the very thread that would be waited for.
        if let Some(thread) =
            self.take_thread().filter(|thread| thread.thread().id() != thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

/// A set that waits for its answer.
struct Request<H> {
    set: LinkSet<H>,
    notify: Option<Notify<H>>,
}

impl<H> Request<H> {
    fn answer(mut self, result: Result<Outcome<H>, StoreError>) {
        if let Some(notify) = self.notify.take() {
            notify(result);
        }
    }
}

impl<H> Drop for Request<H> {
    fn drop(&mut self) {
        if let Some(notify) = self.notify.take() {
            notify(Err(StoreError::Ended));
        }
    }
}

struct Queue<H> {
    state: Mutex<State<H>>,
    filled: Condvar,
}

impl<H> Default for Queue<H> {
    fn default() -> Self {
        let state = State { waiting: Vec::new(), crowded: false, open: true };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }
}

struct State<H> {
    waiting: Vec<Request<H>>,
    /// Set when many objects wait for their names.
    crowded: bool,
    open: bool,
}

impl<H> Queue<H> {
    fn state(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, request: Request<H>) {
        let mut state = self.state();
        if state.open {
            state.waiting.push(request);
            self.filled.notify_one();
        } else {
            // Its answer may do anything, so it comes without the lock.
            drop(state);
            drop(request);
        }
    }

    fn crowded(&self) {
        self.state().crowded = true;
        self.filled.notify_one();
    }

    /// What is to be done, as soon as there is something.
    fn take(&self) -> Work<H> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.crowded && state.open {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A round gives names, too.
        let crowded = mem::take(&mut state.crowded);
        match mem::take(&mut state.waiting) {
            requests if !requests.is_empty() => Work::Requests(requests),
            _ if state.open && crowded => Work::Names,
            _ => Work::Over,
        }
    }

    fn close(&self) {
        self.state().open = false;
        self.filled.notify_one();
    }

    fn abandon(&self) {
        let abandoned = {
            let mut state = self.state();
            state.open = false;
            mem::take(&mut state.waiting)
        };
        self.filled.notify_one();
        drop(abandoned);
    }
}

/// What the thread is to do next.
enum Work<H> {
    Requests(Vec<Request<H>>),
    /// Give objects their names.
    Names,
    /// Nothing: the queue is closed and empty.
    Over,
}

/// Refuses all requests once the thread is gone, for whatever reason: nobody may wait for ever.
struct Attended<'a, H>(&'a Queue<H>);

impl<H> Drop for Attended<'_, H> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The commit thread.
fn serve<H: FsVerityHashValue>(store: &Store<H>, queue: &Queue<H>) {
    let attended = Attended(queue);
    loop {
        let requests = match attended.0.take() {
            Work::Requests(requests) => requests,
            Work::Names => {
                // Whoever asks for a barrier hears of what failed.
                let _ = store.name_all(&store.naming_turn());
                continue;
            }
            Work::Over => {
                // What is tagged now counts. Failing is harmless: the next run tries again.
                let _ = store.release_all();
                return;
            }
        };
        if let Some(errno) = store.lost.get() {
            requests.into_iter().for_each(|request| request.answer(Err(StoreError::AfterFailedSync(*errno))));
        } else {
            round(store, requests);
        }
    }
}

/// One barrier and the links that it allows.
fn round<H: FsVerityHashValue>(store: &Store<H>, requests: Vec<Request<H>>) {
    let mut waiting = Vec::with_capacity(requests.len());
    for request in requests {
        match store.prepare(&request.set) {
            Ok(true) => waiting.push(request),
            Ok(false) => request.answer(Ok(Outcome::Linked)),
            Err(error) => request.answer(Err(error)),
        }
    }
    if waiting.is_empty() {
        return;
    }
    match store.barrier(waiting) {
        Ok(durable) => {
            for request in durable.into_each() {
                let result = store.make_links(&request);
                request.into_inner().answer(result);
            }
        }
        Err((requests, error)) => {
            requests.into_iter().for_each(|request| request.answer(Err(error.again())));
        }
    }
}

impl<H: FsVerityHashValue> Store<H> {
    /// Whether a barrier is needed: anything of the set is still to be linked, and then its
    /// directories are made; or all of it is, but what it reaches was mended, and who hears that it is
    /// linked may report success.
    fn prepare(&self, set: &LinkSet<H>) -> Result<bool, StoreError> {
        let mut dirs = BTreeSet::new();
        for link in set.links() {
            if !dirs.contains(link.dir) && !self.in_place(&link)? {
                dirs.insert(link.dir);
            }
        }
        dirs.iter().try_for_each(|dir| self.make_link_dir(dir))?;
        let unsynced = self.objects.unsynced.load(Ordering::SeqCst) || self.objects.staged.len() > 0;
        Ok(!dirs.is_empty() || unsynced)
    }

    fn make_links(&self, request: &Durable<Request<H>>) -> Result<Outcome<H>, StoreError> {
        let set = &request.get().set;
        for layer in &set.layers {
            if let Some(other) = self.link_layer(request, layer)? {
                return Ok(other);
            }
        }
        for id in &set.images {
            self.link_exactly(request, &Link::image(id))?;
        }
        for document in &set.documents {
            if let Some(other) = self.link_document(request, document)? {
                return Ok(other);
            }
        }
        for (tag, manifest) in &set.tags {
            self.link_exactly(request, &Link::tag(tag, manifest))?;
        }
        Ok(Outcome::Linked)
    }

    /// Law 3: a layer link is never replaced, unless its stream is broken. So is one of another tar than its
    /// name says: not everybody who stores a layer checks it.
    fn link_layer(
        &self,
        request: &Durable<Request<H>>,
        layer: &LayerLink<H>,
    ) -> Result<Option<Outcome<H>>, StoreError> {
        let link = Link::stream(&layer.name, &layer.id);
        if self.make_link(request, &link)? == Made::New {
            return Ok(None);
        }
        let Some(id) = self.linked(&layer.name)?.filter(|id| *id != layer.id) else { return Ok(None) };
        match self.examine(&id)? {
            Examined::Whole(content) if content == layer.content => {
                if let Some(diff_id) = layer.diff_id
                    && !self.is_tar(&id, &diff_id)?
                {
                    tracing::warn!("{} was another layer than its name says: stored anew", layer.name);
                    // Images that have a tag name it.
                    self.keep(request, &id)?;
                    return self.replace_link(request, &link).map(|()| None);
                }
                Ok(Some(self.adopted(&link, layer.name, id)))
            }
            Examined::Whole(_) => Ok(Some(Outcome::Taken { name: layer.name })),
            Examined::Broken(_) => self.replace_link(request, &link).map(|()| None),
        }
    }

    fn adopted(&self, link: &Link, name: StreamName, id: H) -> Outcome<H> {
        self.record(|| Op::Adopted(link.path()));
        Outcome::Adopted { name, id }
    }

    fn link_document(
        &self,
        request: &Durable<Request<H>>,
        document: &DocumentLink<H>,
    ) -> Result<Option<Outcome<H>>, StoreError> {
        let link = Link::stream(&document.name, &document.id);
        if self.make_link(request, &link)? == Made::New {
            return Ok(None);
        }
        match self.linked(&document.name)? {
            Some(id) if id == document.id => Ok(None),
            Some(id) if document.seen.as_ref() == Some(&id) => {
                if let StreamName::Config(digest) = document.name {
                    let in_set = |name| request.get().set.documents.iter().any(|other| other.name == name);
                    // Something that got a name meanwhile names the config as it was.
                    if !self.manifests_naming(&digest)?.iter().all(|manifest| in_set(manifest.name)) {
                        return Ok(Some(self.adopted(&link, document.name, id)));
                    }
                    self.keep(request, &id)?;
                }
                self.replace_link(request, &link).map(|()| None)
            }
            Some(id) => Ok(Some(self.adopted(&link, document.name, id))),
            None => self.replace_link(request, &link).map(|()| None),
        }
    }

    /// Links whose right target follows from their name or is the caller's to say.
    fn link_exactly(&self, request: &Durable<Request<H>>, link: &Link) -> Result<(), StoreError> {
        if self.in_place(link)? { Ok(()) } else { self.replace_link(request, link) }
    }
}

impl<H: FsVerityHashValue> LinkSet<H> {
    fn links(&self) -> impl Iterator<Item = Link> {
        let layers = self.layers.iter().map(|layer| Link::stream(&layer.name, &layer.id));
        let images = self.images.iter().map(Link::image);
        let documents = self.documents.iter().map(|document| Link::stream(&document.name, &document.id));
        let tags = self.tags.iter().map(|(tag, manifest)| Link::tag(tag, manifest));
        layers.chain(images).chain(documents).chain(tags)
    }
}
