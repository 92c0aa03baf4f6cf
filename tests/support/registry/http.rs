//! One connection to a scripted registry. Knows HTTP/1.1, tokens and pages; ignores how an answer goes wrong.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::Duration,
};

use cfs_dag::types::Digest;
use rustix::net::sockopt::set_socket_linger;

use super::{
    Kind, Shared, State,
    content::{Body, Item},
    play::{After, Sending},
};

struct Request {
    method: String,
    /// Below `/v2/`; a path elsewhere begins with a slash.
    path: String,
    query: String,
    /// What stands after `Bearer`.
    token: Option<String>,
}

/// An answer as it would be without faults.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// Of the body, if it is a manifest or a blob.
    pub digest: Option<Digest>,
}

/// Answers requests until either side has enough.
pub fn serve(shared: &Shared, number: usize, stream: Arc<TcpStream>) {
    let after = converse(shared, &stream);
    if after == After::Reset {
        // Closing then throws away what was not sent yet and tells the client so.
        let _ = set_socket_linger(&*stream, Some(Duration::ZERO));
    }
    shared.lock().connections.remove(&number);
    if after != After::Reset {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn converse(shared: &Shared, stream: &TcpStream) -> After {
    // Head and body are written one after the other: the second must not wait until the
    // first is acknowledged.
    let _ = stream.set_nodelay(true);
    let mut input = BufReader::new(stream);
    // The first byte of a TLS handshake: Go's servers answer it in plain HTTP, and Go's clients know.
    if matches!(input.fill_buf(), Ok([0x16, ..])) {
        let mut out = stream;
        let _ = out.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        return After::Close;
    }
    while let Some(request) = read_request(&mut input) {
        match answer(shared, stream, &request) {
            Ok(After::Keep) => {}
            Ok(after) => return after,
            Err(_) => break,
        }
    }
    After::Close
}

/// The next request; `None` at the end.
fn read_request(input: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    input.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let (mut header, mut token) = (String::new(), None);
    while input.read_line(&mut header).ok()? > 2 {
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            token = value.trim().strip_prefix("Bearer ").map(str::to_owned);
        }
        header.clear();
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix("/v2/").unwrap_or(path);
    Some(Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), token })
}

impl Request {
    fn kind(&self, state: &State) -> Kind {
        let path = self.path.as_str();
        match path.rsplit_once("/blobs/") {
            _ if path.is_empty() => Kind::Ping,
            _ if path == "/token" => Kind::Token,
            _ if path.starts_with('/') => Kind::Other,
            _ if path.ends_with("/tags/list") => Kind::Tags,
            _ if path.contains("/manifests/") => Kind::Manifest,
            Some((_, digest)) if digest.parse().is_ok_and(|digest| state.content.is_config(digest)) => {
                Kind::Config
            }
            Some(_) => Kind::Layer,
            None => Kind::Other,
        }
    }

    /// The repository that it is about.
    fn repository(&self) -> Option<&str> {
        ["/manifests/", "/blobs/", "/tags/list"].iter().find_map(|part| Some(self.path.rsplit_once(part)?.0))
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

fn answer(shared: &Shared, stream: &TcpStream, request: &Request) -> io::Result<After> {
    let host = stream.local_addr()?.to_string();
    let mut state = shared.lock();
    let kind = request.kind(&state);
    let fault = state.faults.next(kind, &request.path);
    state.log.push(format!("{} {}", request.method, request.path));
    state.counts.begin(kind, &request.path, fault.is_some());
    let answer = look_up(&state, request, kind, &host);
    drop(state);
    shared.changed.notify_all();
    let sending = Sending::new(shared, stream, kind, fault.is_some());
    sending.play(answer, fault, request.method == "HEAD")
}

/// What stands at the path, or what this request deserves instead.
fn look_up(state: &State, request: &Request, kind: Kind, host: &str) -> Answer {
    let token = state.token.map(|token| format!("token-{token}"));
    if kind == Kind::Token {
        let token = token.unwrap_or_default();
        return Answer::json(format!(r#"{{"token":"{token}","access_token":"{token}","expires_in":300}}"#));
    }
    if token.is_some() && request.token != token && kind != Kind::Other {
        let scope = request.repository().map(|name| format!(",scope=\"repository:{name}:pull\""));
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"scripted\"");
        let header = ("WWW-Authenticate".into(), challenge + &scope.unwrap_or_default());
        return Answer::error(401, kind).with(header);
    }
    match kind {
        Kind::Ping => Answer::json("{}".into()),
        Kind::Tags => tags(state, request),
        _ => match state.content.get(&request.path) {
            Some(item) => Answer::of(item, kind),
            None => Answer::error(404, kind),
        },
    }
}

/// A page of a list of tags. Source: distribution-spec, "Listing Tags".
fn tags(state: &State, request: &Request) -> Answer {
    let name = request.repository().unwrap_or_default();
    let Some(mut tags) = state.content.tags(name, request.parameter("last")) else {
        return Answer::error(404, Kind::Tags);
    };
    let asked = request.parameter("n").and_then(|n| n.parse().ok());
    let most = asked.into_iter().chain(state.tag_page).min().unwrap_or(usize::MAX);
    let has_more = tags.len() > most;
    tags.truncate(most);
    let answer = Answer::json(serde_json::json!({"name": name, "tags": tags}).to_string());
    match tags.last().filter(|_| has_more) {
        Some(last) => {
            answer.with(("Link".into(), format!("</v2/{name}/tags/list?last={last}&n={most}>; rel=\"next\"")))
        }
        None => answer,
    }
}

impl Answer {
    fn of(item: Item, kind: Kind) -> Self {
        let headers = vec![("Content-Type".to_owned(), item.media_type.to_string())];
        let answer = Self { status: 200, headers, body: item.body, digest: Some(item.digest) };
        match kind {
            Kind::Manifest => answer.with(("Docker-Content-Digest".into(), item.digest.to_string())),
            _ => answer,
        }
    }

    fn json(text: String) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { status: 200, headers, body: text.into_bytes().into(), digest: None }
    }

    fn with(mut self, header: (String, String)) -> Self {
        self.headers.push(header);
        self
    }

    /// An error as the distribution-spec has it.
    pub fn error(status: u16, kind: Kind) -> Self {
        let code = match (status, kind) {
            (401, _) => "UNAUTHORIZED",
            (403, _) => "DENIED",
            (404, Kind::Tags) => "NAME_UNKNOWN",
            (404, Kind::Config | Kind::Layer) => "BLOB_UNKNOWN",
            (404, _) => "MANIFEST_UNKNOWN",
            (429, _) => "TOOMANYREQUESTS",
            (503, _) => "UNAVAILABLE",
            _ => "UNKNOWN",
        };
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as scripted"}}]}}"#);
        Self { status, ..Self::json(body) }
    }

    /// The head, with what says how long the body is.
    pub fn head(&self, length: &str) -> String {
        let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n");
        let headers: String = self.headers.iter().map(line).collect();
        format!("HTTP/1.1 {} {}\r\n{headers}{length}\r\n\r\n", self.status, reason(self.status))
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        416 => "Requested Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "as scripted",
    }
}
