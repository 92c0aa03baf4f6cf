//! A scripted registry: serves manifests and blobs from memory on a loopback port, with faults where a test wants
//! them. Knows enough HTTP/1.1 for skopeo; ignores uploads, tokens and TLS.
//!
//! ```text
//! let registry = Registry::start();
//! let image = registry.image("app", "v1", "amd64", &[b"layer"]);
//! registry.fault("app", image.layers[0], Fault::CutAfter(100));
//! ... docker://{registry.host()}/app:v1 ...
//! assert_eq!(registry.requests_for(image.layers[0]), 1);
//! ```
//!
//! One thread a connection; all end with the registry, stalled ones too.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

use cfs_dag::types::Digest;

use super::layout;

/// What goes wrong with one path.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status, an error body as registries write it, and perhaps a further header.
    Status(u16, Option<(String, String)>),
    /// Promises the whole body and closes the connection after so many bytes.
    CutAfter(usize),
    /// Promises the whole body, sends so many bytes and then nothing until [`Registry::release`] or the end.
    StallAfter(usize),
    /// Sends these bytes instead, honestly announced.
    Bytes(Vec<u8>),
    /// Sends the whole body and these bytes after it, announced together.
    Longer(Vec<u8>),
    /// Sends the body in chunks, its length not announced, and these bytes after it.
    ChunkedAndLonger(Vec<u8>),
    /// Accepts the request and never answers, until [`Registry::release`] or the end.
    Silence,
}

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

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Path below `/v2/` → media type and bytes.
    content: HashMap<String, (String, Vec<u8>)>,
    /// Path → faults, used up in order; the last one stays if it is `for_ever`.
    faults: HashMap<String, Vec<(Fault, bool)>>,
    /// Every request, as `METHOD path`.
    log: Vec<String>,
    released: bool,
    ended: bool,
    connections: Vec<TcpStream>,
}

impl Registry {
    /// An empty registry.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = serving.lock();
                if state.ended {
                    break;
                }
                state.connections.push(stream.try_clone().unwrap());
                drop(state);
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
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

    /// Serves `bytes` as a blob of `repository`.
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.put(format!("{repository}/blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    /// Serves `bytes` as a manifest or an index under its digest, and under `tag` if one is given.
    pub fn manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let name = digest.to_string();
        for name in tag.into_iter().chain([name.as_str()]) {
            self.put(format!("{repository}/manifests/{name}"), media_type, bytes);
        }
        digest
    }

    /// Serves an OCI image over uncompressed `layers`.
    pub fn image(&self, repository: &str, tag: &str, architecture: &str, layers: &[&[u8]]) -> Image {
        let config = layout::config(architecture, layers);
        let manifest = layout::manifest(&config, layers);
        Image {
            manifest: self.manifest(repository, Some(tag), layout::OCI_MANIFEST, &manifest),
            config: self.blob(repository, &config),
            layers: layers.iter().map(|layer| self.blob(repository, layer)).collect(),
        }
    }

    /// Makes the next request for a blob go wrong.
    pub fn fault(&self, repository: &str, blob: Digest, fault: Fault) {
        self.fault_at(&format!("{repository}/blobs/{blob}"), fault, false);
    }

    /// Makes all requests for a path below `/v2/` go wrong (`app/manifests/v1`; empty for the ping).
    pub fn fault_always(&self, path: &str, fault: Fault) {
        self.fault_at(path, fault, true);
    }

    fn fault_at(&self, path: &str, fault: Fault, for_ever: bool) {
        self.shared.lock().faults.entry(path.to_owned()).or_default().push((fault, for_ever));
    }

    /// Lets everything that stalls go on.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.changed.notify_all();
    }

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

    fn put(&self, path: String, media_type: &str, bytes: &[u8]) {
        self.shared.lock().content.insert(path, (media_type.to_owned(), bytes.to_vec()));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.connections.iter().for_each(|connection| drop(connection.shutdown(Shutdown::Both)));
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

    /// Answers requests on one connection until either side has enough.
    fn serve(&self, stream: TcpStream) {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        // The first byte of a TLS handshake: Go's servers answer it in plain HTTP, and Go's clients know.
        if matches!(input.fill_buf(), Ok([0x16, ..])) {
            let _ = (&stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        }
        while let Some((method, path)) = read_request(&mut input) {
            let kept = self.answer(&stream, &method, &path);
            if !matches!(kept, Ok(true)) {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Whether the connection can be used again.
    fn answer(&self, stream: &TcpStream, method: &str, path: &str) -> std::io::Result<bool> {
        let (fault, content) = self.look_up(method, path);
        let (media_type, bytes) = match (content, &fault) {
            (Some(content), _) => content,
            (None, Some(Fault::Status(..) | Fault::Silence)) => Default::default(),
            (None, _) if path.is_empty() => ("application/json".into(), b"{}".to_vec()),
            (None, _) => return send_status(stream, 404, None),
        };
        let mut out = stream;
        let announced = |length: usize| head(200, &media_type, &format!("Content-Length: {length}\r\n"));
        match fault {
            _ if method == "HEAD" => out.write_all(announced(bytes.len()).as_bytes()).map(|()| true),
            None => send(out, &announced(bytes.len()), &bytes).map(|()| true),
            Some(Fault::Bytes(other)) => send(out, &announced(other.len()), &other).map(|()| true),
            Some(Fault::Longer(more)) => {
                let all = [bytes, more].concat();
                send(out, &announced(all.len()), &all).map(|()| true)
            }
            Some(Fault::ChunkedAndLonger(more)) => {
                let all = [bytes, more].concat();
                out.write_all(head(200, &media_type, "Transfer-Encoding: chunked\r\n").as_bytes())?;
                for chunk in all.chunks(100_000) {
                    out.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    send(out, "", chunk)?;
                    out.write_all(b"\r\n")?;
                }
                out.write_all(b"0\r\n\r\n").map(|()| true)
            }
            Some(Fault::Status(status, header)) => send_status(stream, status, header),
            Some(Fault::CutAfter(count)) => {
                send(out, &announced(bytes.len()), &bytes[..count]).map(|()| false)
            }
            Some(Fault::StallAfter(count)) => {
                send(out, &announced(bytes.len()), &bytes[..count])?;
                self.stall();
                send(out, "", &bytes[count..]).map(|()| true)
            }
            Some(Fault::Silence) => {
                self.stall();
                Ok(false)
            }
        }
    }

    fn look_up(&self, method: &str, path: &str) -> (Option<Fault>, Option<(String, Vec<u8>)>) {
        let mut state = self.lock();
        state.log.push(format!("{method} {path}"));
        self.changed.notify_all();
        let content = state.content.get(path).cloned();
        let fault = match state.faults.get_mut(path) {
            Some(faults) if !faults.is_empty() && !faults[0].1 => Some(faults.remove(0).0),
            Some(faults) => faults.first().map(|(fault, _)| fault.clone()),
            None => None,
        };
        (fault, content)
    }

    fn stall(&self) {
        let mut state = self.lock();
        while !state.released && !state.ended {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Method and path below `/v2/` of the next request; `None` at the end.
fn read_request(input: &mut impl BufRead) -> Option<(String, String)> {
    let mut first = String::new();
    input.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let mut header = String::new();
    while input.read_line(&mut header).ok()? > 2 {
        header.clear();
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?.strip_prefix("/v2/").unwrap_or("nowhere");
    Some((method.to_owned(), path.to_owned()))
}

fn head(status: u16, media_type: &str, length: &str) -> String {
    format!("HTTP/1.1 {status} as scripted\r\nContent-Type: {media_type}\r\n{length}\r\n")
}

fn send(mut out: &TcpStream, head: &str, body: &[u8]) -> std::io::Result<()> {
    out.write_all(head.as_bytes())?;
    out.write_all(body)?;
    out.flush()
}

/// An error as the distribution-spec has it.
fn send_status(out: &TcpStream, status: u16, header: Option<(String, String)>) -> std::io::Result<bool> {
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "MANIFEST_UNKNOWN",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as scripted"}}]}}"#);
    let extra = header.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
    let length = format!("{extra}Content-Length: {}\r\n", body.len());
    send(out, &head(status, "application/json", &length), body.as_bytes()).map(|()| true)
}
