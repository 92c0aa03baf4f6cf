//! Law 2 as a test can see it: nothing gets a link before it is durable. Knows the order in which things
//! happened and what links reach; ignores who did them.

use std::collections::{HashMap, HashSet};

use composefs::fsverity::FsVerityHashValue;

use super::{Store, StoreError, beneath, stream::Opened};

/// One step that the law is about. Ids are in hexadecimal, paths relative to the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The object is written.
    Complete(String),
    /// It has fs-verity: no wrong bytes can be read under its name.
    Verity(String),
    /// It gets its name.
    Named(String),
    /// An object with this name is there and looks right; whoever named it answers for its bytes.
    Found(String),
    /// A `syncfs` is about to begin.
    SyncBegin,
    /// It has ended well.
    SyncEnd,
    /// A barrier has ended well.
    Barrier,
    /// A link is there.
    Linked {
        /// Its path.
        path: String,
        /// What it says.
        target: String,
    },
    /// Someone else's link is used instead of ours; whoever made it answers for its durability.
    Adopted(String),
    /// A directory's names are durable.
    DirSynced(String),
}

/// Sees every step as it happens; called from any thread.
pub trait Recorder: Send + Sync {
    /// Takes one step. Completion is recorded after the fact and a sync before it begins, so that a record
    /// never looks safer than what happened.
    fn record(&self, op: Op);
}

/// Keeps all steps in order.
#[derive(Debug, Default)]
pub struct Journal(std::sync::Mutex<Vec<Op>>);

impl Journal {
    /// The steps so far.
    pub fn ops(&self) -> Vec<Op> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How many barriers there were.
    pub fn barriers(&self) -> usize {
        self.ops().iter().filter(|op| **op == Op::Barrier).count()
    }
}

impl Recorder for Journal {
    fn record(&self, op: Op) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(op);
    }
}

/// A repository's links before a run; what they reach is taken to be durable.
#[derive(Debug, Default)]
pub struct Before {
    durable: HashSet<String>,
    /// Path to hexadecimal id of the object.
    links: HashMap<String, String>,
}

impl Before {
    /// Reads all links of the repository.
    ///
    /// # Errors
    /// Whatever keeps a link or what it reaches from being read.
    pub fn of<H: FsVerityHashValue>(store: &Store<H>) -> Result<Self, StoreError> {
        let mut before = Self::default();
        for dir in ["streams", "images"] {
            for name in beneath::names(store.root(), dir).map_err(|errno| store.fault(dir, errno))? {
                let path = format!("{dir}/{}", name.to_string_lossy());
                if path == "streams/refs" || path == "images/refs" {
                    continue;
                }
                if let Some(id) = store.linked_object(&path)? {
                    reach(store, &id, &mut before.durable)?;
                    before.links.insert(path, id.to_hex());
                }
            }
        }
        Ok(before)
    }
}

/// The breaches of law 2 in `ops`, as sentences; none is what a test wants.
///
/// Reads what links reach from the repository as it is after the run.
///
/// # Errors
/// Whatever keeps the repository from being read.
pub fn breaches<H: FsVerityHashValue>(
    store: &Store<H>,
    before: Before,
    ops: &[Op],
) -> Result<Vec<String>, StoreError> {
    let Before { mut durable, mut links } = before;
    let mut breaches = Vec::new();
    let (mut complete, mut named): (HashSet<String>, HashSet<String>) = Default::default();
    let mut syncing = (HashSet::new(), HashSet::new());
    let mut written = durable.clone();
    for op in ops {
        match op {
            Op::Complete(id) => {
                complete.insert(id.clone());
            }
            Op::Verity(id) => {
                written.insert(id.clone());
            }
            Op::Named(id) => {
                if !written.contains(id) {
                    breaches.push(format!("object {id} was named before a sync"));
                }
                named.insert(id.clone());
            }
            Op::Found(id) => {
                complete.insert(id.clone());
                named.insert(id.clone());
            }
            Op::SyncBegin => syncing = (complete.clone(), named.clone()),
            Op::SyncEnd => {
                written.extend(syncing.0.drain());
                durable.extend(syncing.1.drain());
            }
            Op::Barrier | Op::DirSynced(_) => {}
            Op::Adopted(path) => {
                if let Some(id) = store.linked_object(path)? {
                    reach(store, &id, &mut durable)?;
                    links.insert(path.clone(), id.to_hex());
                }
            }
            Op::Linked { path, target } => {
                let id = match target.strip_prefix("../../") {
                    Some(stream) => links.get(&format!("streams/{stream}")).cloned(),
                    None => target.strip_prefix("../objects/").map(|path| path.replace('/', "")),
                };
                let Some(id) = id else {
                    breaches.push(format!("{path} was linked to {target}, which had no link"));
                    continue;
                };
                check_link(store, path, &id, &durable, &links, &mut breaches)?;
                links.insert(path.clone(), id);
            }
        }
    }
    breaches.extend(unsynced(ops));
    Ok(breaches)
}

/// Everything that the link reaches must be durable, and the streams and images that it names must be linked.
fn check_link<H: FsVerityHashValue>(
    store: &Store<H>,
    path: &str,
    id: &str,
    durable: &HashSet<String>,
    links: &HashMap<String, String>,
    breaches: &mut Vec<String>,
) -> Result<(), StoreError> {
    let Ok(id) = H::from_hex(id) else {
        breaches.push(format!("{path} was linked to something that is no object"));
        return Ok(());
    };
    let mut reached = HashSet::new();
    let named = reach(store, &id, &mut reached)?;
    for object in reached.difference(durable) {
        breaches.push(format!("{path} was linked before a barrier for object {object}"));
    }
    for name in named {
        if !links.values().any(|linked| *linked == name) {
            breaches.push(format!("{path} was linked before {name}, which it names"));
        }
    }
    Ok(())
}

/// Adds all objects that `id` reaches to `reached`; gives back the ids that it names itself.
fn reach<H: FsVerityHashValue>(
    store: &Store<H>,
    id: &H,
    reached: &mut HashSet<String>,
) -> Result<Vec<String>, StoreError> {
    if !reached.insert(id.to_hex()) {
        return Ok(Vec::new());
    }
    let mut named = Vec::new();
    match store.open_stream(id)? {
        Opened::Stream(mut stream) => {
            stream
                .get_object_refs(|object| {
                    reached.insert(object.to_hex());
                })
                .map_err(|error| StoreError::upstream("reading a stream", &error))?;
            for (_, other) in stream.iter_named_refs() {
                named.push(other.clone());
            }
        }
        // No stream: a filesystem image, or an object of its own.
        Opened::Broken(_) => {
            if let Ok(objects) = store.repo.objects_for_image(&id.to_hex()) {
                reached.extend(objects.iter().map(|object| object.to_hex()));
            }
        }
    }
    for other in &named {
        reach(store, other, reached)?;
    }
    Ok(named.iter().map(|other| other.to_hex()).collect())
}

/// Directories in which links were made and not synced afterwards.
fn unsynced(ops: &[Op]) -> Vec<String> {
    let mut dirty: HashSet<&str> = HashSet::new();
    for op in ops {
        match op {
            Op::Linked { path, .. } => {
                dirty.extend(path.rsplit_once('/').map(|(dir, _)| dir));
            }
            Op::DirSynced(dir) => {
                dirty.remove(dir.as_str());
            }
            _ => {}
        }
    }
    dirty.into_iter().map(|dir| format!("{dir} has new links and was not synced")).collect()
}
