//! A scripted registry: serves manifests, blobs, tags and tokens on a loopback port, with faults
//! where a test wants them, and counts what it was asked. Knows enough HTTP/1.1 for skopeo; ignores
//! uploads, ranges and TLS.
//!
//! ```text
//! let registry = Registry::start();
//! let image = registry.image("app", "v1", "amd64", &[b"layer"]);
//! registry.fault("app", image.layers[0], Fault::CutAfter(100));          // once, one path
//! registry.fault_kind(Kind::Manifest, 3, Fault::Reset);                  // the next three of a kind
//! registry.mix(Mix { seed: 7, per_mille: 200, ..Mix::of(faults) });      // any, by chance
//! ... docker://{registry.host()}/app:v1 ...
//! assert_eq!(registry.requests_for(image.layers[0]), 2);
//! assert_eq!(registry.counts().surplus(), []);      // no byte twice, but for the faults
//! ```
//!
//! One thread a connection; all end with the registry, stalled ones too.

mod content;
mod counts;
mod faults;
mod http;
mod play;

use std::{
    collections::HashMap,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use cfs_dag::types::Digest;

use self::content::{Content, Item};
pub use self::{
    counts::{Counts, Kind},
    faults::{Fault, Mix},
};
use super::layout;

/// Digests of an image that was put into the registry.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// A registry on 127.0.0.1; ends when dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the threads of a registry share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    content: Content,
    faults: faults::Faults,
    counts: Counts,
    /// Every request, as `METHOD path`.
    log: Vec<String>,
    /// The token that is good now, if one is needed.
    token: Option<usize>,
    /// The most tags in one answer.
    tag_page: Option<usize>,
    released: bool,
    ended: bool,
    /// Open connections by number, to end them.
    connections: HashMap<usize, Arc<TcpStream>>,
    accepted: usize,
}

impl Registry {
    /// An empty registry.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok).map(Arc::new) {
                let mut state = serving.lock();
                if state.ended {
                    break;
                }
                state.accepted += 1;
                let number = state.accepted;
                state.connections.insert(number, stream.clone());
                drop(state);
                let serving = serving.clone();
                thread::spawn(move || http::serve(&serving, number, stream));
            }
        });
        Self { address, shared }
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `docker://host/repository:tag`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("docker://{}/{repository}:{tag}", self.host())
    }

    /// `docker://host/repository@digest`.
    pub fn pinned(&self, repository: &str, digest: Digest) -> String {
        format!("docker://{}/{repository}@{digest}", self.host())
    }
}

/// What is served.
impl Registry {
    /// Serves `bytes` as a blob of `repository`.
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        self.shared.lock().content.blob(repository, Digest::of(bytes), bytes.into())
    }

    /// Serves `bytes` as a manifest or an index under its digest, and under `tag` if one is given.
    pub fn manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Digest {
        self.shared.lock().content.manifest(repository, tag, media_type, bytes)
    }

    /// Serves an OCI image over uncompressed `layers`.
    pub fn image(&self, repository: &str, tag: &str, architecture: &str, layers: &[&[u8]]) -> Image {
        let config = layout::config(architecture, layers);
        let manifest = layout::manifest(&config, layers);
        self.image_of(repository, tag, layout::OCI_MANIFEST, &manifest, &config, layers)
    }

    /// The same in docker's words (schema 2).
    pub fn docker_image(&self, repository: &str, tag: &str, architecture: &str, layers: &[&[u8]]) -> Image {
        let config = layout::config(architecture, layers);
        let manifest = layout::docker_manifest(&config, layers);
        self.image_of(repository, tag, layout::DOCKER_MANIFEST, &manifest, &config, layers)
    }

    /// Serves an index over images that are there, each with its architecture.
    pub fn index(&self, repository: &str, tag: &str, images: &[(&Image, &str)]) -> Digest {
        let entry = |(image, architecture): &(&Image, &str)| {
            let state = self.shared.lock();
            let path = format!("{repository}/manifests/{}", image.manifest);
            let Item { body, media_type, .. } = state.content.get(&path).expect("the image is there");
            let entry = layout::descriptor(&media_type, &body.read().unwrap());
            layout::on_platform(entry, architecture, None)
        };
        let manifests: Vec<_> = images.iter().map(entry).collect();
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": layout::OCI_INDEX, "manifests": manifests,
        });
        self.manifest(repository, Some(tag), layout::OCI_INDEX, index.to_string().as_bytes())
    }

    /// Serves every image of the OCI layout at `path`, and returns the tags. Blobs stay where they are and
    /// are read when they are asked for, so that many images in many repositories cost little.
    pub fn serve_layout(&self, repository: &str, path: &Path) -> Vec<String> {
        self.shared.lock().content.layout(repository, path)
    }

    /// From now on everything below `/v2/` needs a token, which `/token` gives to everyone. Tokens given
    /// before are no longer good: called in the middle of a pull, it lets them expire.
    pub fn require_token(&self) {
        let mut state = self.shared.lock();
        state.token = Some(state.token.map_or(1, |token| token + 1));
    }

    /// Lists of tags come in pages of at most `most`, with a `Link` to the next, as
    /// large registries do unasked.
    pub fn page_tags(&self, most: usize) {
        self.shared.lock().tag_page = Some(most);
    }

    fn image_of(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &[u8],
        config: &[u8],
        layers: &[&[u8]],
    ) -> Image {
        Image {
            manifest: self.manifest(repository, Some(tag), media_type, manifest),
            config: self.blob(repository, config),
            layers: layers.iter().map(|layer| self.blob(repository, layer)).collect(),
        }
    }
}

/// What goes wrong. Faults of a path come before those of a kind, and these before chance.
impl Registry {
    /// Makes the next request for a blob go wrong.
    pub fn fault(&self, repository: &str, blob: Digest, fault: Fault) {
        self.fault_next(&format!("{repository}/blobs/{blob}"), fault);
    }

    /// Makes the next request for a path below `/v2/` go wrong; called again, the one after that.
    pub fn fault_next(&self, path: &str, fault: Fault) {
        self.shared.lock().faults.at_path(path, fault, false);
    }

    /// Makes all requests for a path below `/v2/` go wrong (`app/manifests/v1`; empty
    /// for the ping, `/token`).
    pub fn fault_always(&self, path: &str, fault: Fault) {
        self.shared.lock().faults.at_path(path, fault, true);
    }

    /// Makes the next `count` requests of a kind go wrong, whatever their path.
    pub fn fault_kind(&self, kind: Kind, count: usize, fault: Fault) {
        self.shared.lock().faults.at_kind(kind, Some(count), fault);
    }

    /// Makes every request of a kind go wrong.
    pub fn fault_kind_always(&self, kind: Kind, fault: Fault) {
        self.shared.lock().faults.at_kind(kind, None, fault);
    }

    /// Lets chance decide from now on, in place of the mix before.
    pub fn mix(&self, mix: Mix) {
        self.shared.lock().faults.mix(mix);
    }

    /// Takes all faults away that have not begun.
    pub fn heal(&self) {
        self.shared.lock().faults = faults::Faults::default();
    }

    /// Lets everything that stalls go on, now and later.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.changed.notify_all();
    }

    /// Lets what stalls from now on wait for another release. Only when nothing is left
    /// that the last one let go.
    pub fn hold(&self) {
        self.shared.lock().released = false;
    }
}

/// What was asked.
impl Registry {
    /// How many requests so far named this digest or this path.
    pub fn requests_for(&self, what: impl ToString) -> usize {
        let what = what.to_string();
        self.shared.lock().log.iter().filter(|line| line.contains(&what)).count()
    }

    /// Waits until some request named this digest or this path.
    pub fn wait_for(&self, what: impl ToString) {
        let what = what.to_string();
        let mut state = self.shared.lock();
        while !state.log.iter().any(|line| line.contains(&what)) {
            state = self.shared.changed.wait(state).unwrap();
        }
    }

    /// Waits until the counts are so.
    ///
    /// # Panics
    /// When they are not after two minutes.
    #[track_caller]
    pub fn until(&self, mut so: impl FnMut(&Counts) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut state = self.shared.lock();
        while !so(&state.counts) {
            if Instant::now() > deadline {
                let counts = state.counts.clone();
                drop(state);
                panic!("it has not come to that: {counts:?}");
            }
            // The end of an answer is told to nobody.
            state = self.shared.changed.wait_timeout(state, Duration::from_millis(20)).unwrap().0;
        }
    }

    /// Every request so far, as `METHOD path`, in the order in which they came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().log.clone()
    }

    /// What was asked and sent so far. What a client has received is in there.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Forgets what was asked until now.
    pub fn forget_requests(&self) {
        let mut state = self.shared.lock();
        state.log.clear();
        state.counts.forget();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.connections.values().for_each(|connection| drop(connection.shutdown(Shutdown::Both)));
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
