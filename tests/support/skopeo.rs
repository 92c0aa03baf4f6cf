//! A scripted skopeo: speaks the proxy protocol of any version over a tiny OCI layout, and misbehaves on
//! request. Debian's skopeo is old and well behaved; this one is new, or slow, or dies.
//!
//! A test program that uses it must have at its root a test that calls [`run_if_asked`], since the program
//! itself is started again as skopeo: `#[test] fn fake_skopeo() { support::skopeo::run_if_asked() }`.

use std::{
    fs::{self, File},
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

/// A scripted skopeo that tests start through [`FakeSkopeo::program`].
pub struct FakeSkopeo {
    dir: tempfile::TempDir,
}

/// What goes wrong, once, at the next occasion.
#[derive(Debug)]
pub enum Trouble {
    /// Dies when it gets this request.
    DieAt(&'static str),
    /// Never answers this request, nor any later one.
    HangAt(&'static str),
    /// Sends so many bytes of the next blob, then dies.
    DieAfter(usize),
    /// Sends so many bytes of the next blob, then no more.
    StallAfter(usize),
    /// Sends so many bytes of the next blob, then ends it: with an error of this code and text, or silently.
    EndAfter(usize, Option<(&'static str, &'static str)>),
    /// Sends the next blob and then this many bytes more.
    GoOnFor(usize),
}

impl FakeSkopeo {
    /// One that speaks `version` and serves the image tagged `v1` of the layout at `layout`.
    pub fn new(version: &str, layout: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let this = Self { dir };
        fs::write(this.file("version"), version).unwrap();
        fs::write(this.file("layout"), layout.to_str().unwrap()).unwrap();
        let exe = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{dir}/arguments\necho $$ >>{dir}/pids\n\
             FAKE_SKOPEO={dir} exec {exe} --exact fake_skopeo --nocapture\n",
            dir = this.dir.path().display(),
            exe = exe.display()
        );
        fs::write(this.program(), script).unwrap();
        fs::set_permissions(this.program(), fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    /// What to start instead of skopeo.
    pub fn program(&self) -> PathBuf {
        self.file("skopeo")
    }

    /// Lets something go wrong.
    pub fn trouble(&self, trouble: Trouble) {
        let trouble = match trouble {
            Trouble::DieAt(method) => json!({"at": method, "then": "die"}),
            Trouble::HangAt(method) => json!({"at": method, "then": "hang"}),
            Trouble::DieAfter(count) => json!({"at": "blob", "count": count, "then": "die"}),
            Trouble::StallAfter(count) => json!({"at": "blob", "count": count, "then": "hang"}),
            Trouble::EndAfter(count, error) => {
                json!({"at": "blob", "count": count, "then": "end", "error": error})
            }
            Trouble::GoOnFor(more) => json!({"at": "blob", "more": more, "then": "end"}),
        };
        fs::write(self.file("trouble"), trouble.to_string()).unwrap();
    }

    /// The command lines so far.
    pub fn command_lines(&self) -> Vec<String> {
        fs::read_to_string(self.file("arguments")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The processes that were started so far.
    pub fn pids(&self) -> Vec<i32> {
        fs::read_to_string(self.file("pids"))
            .unwrap_or_default()
            .lines()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Is skopeo, if this program was started as one.
pub fn run_if_asked() {
    let Ok(dir) = std::env::var("FAKE_SKOPEO") else { return };
    let dir = PathBuf::from(dir);
    let layout = PathBuf::from(fs::read_to_string(dir.join("layout")).unwrap());
    let mut server = Server { pipes: Vec::new(), layout, dir };
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count =
            rustix::net::recv(std::io::stdin(), &mut buffer[..], RecvFlags::empty()).map_or(0, |(_, n)| n);
        if count == 0 {
            std::process::exit(0);
        }
        let request: Value = serde_json::from_slice(&buffer[..count]).unwrap();
        server.answer(request["method"].as_str().unwrap(), &request["args"]);
    }
}

struct Server {
    dir: PathBuf,
    layout: PathBuf,
    /// Writers and write ends that wait for a `FinishPipe`; the pipe's id is the place plus one.
    pipes: Vec<Option<(Writer, OwnedFd)>>,
}

type Writer = thread::JoinHandle<Result<(), String>>;

impl Server {
    fn answer(&mut self, method: &str, args: &Value) {
        if self.trouble_at(method).is_some_and(|trouble| trouble["then"] == "hang") {
            loop {
                thread::park();
            }
        }
        match method {
            "Initialize" => reply(json!(fs::read_to_string(self.dir.join("version")).unwrap()), &[], 0),
            "OpenImage" => reply(json!(1), &[], 0),
            "CloseImage" => reply(Value::Null, &[], 0),
            "GetManifest" => {
                let entry = self.entry();
                let bytes = self.blob(entry["digest"].as_str().unwrap());
                self.piped(entry["digest"].clone(), bytes, None);
            }
            "GetLayerInfo" => reply(self.layer_info(), &[], 0),
            "GetLayerInfoPiped" => self.piped(Value::Null, self.layer_info().to_string().into(), None),
            "GetBlob" => {
                let bytes = self.blob(args[1].as_str().unwrap());
                let trouble = self.trouble_in(&bytes);
                self.piped(json!(bytes.len()), bytes, trouble);
            }
            "GetRawBlob" => self.raw_blob(args[1].as_str().unwrap()),
            "FinishPipe" => {
                let (writer, pipe) = self.pipes[args[0].as_u64().unwrap() as usize - 1].take().unwrap();
                let written = writer.join().unwrap();
                drop(pipe);
                match written {
                    Ok(()) => reply(Value::Null, &[], 0),
                    Err(error) => {
                        send(json!({"success": false, "error": error, "pipeid": 0, "value": null}), &[])
                    }
                }
            }
            unknown => panic!("{unknown}"),
        }
    }

    fn piped(&mut self, value: Value, bytes: Vec<u8>, trouble: Option<Value>) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let out = File::from(write.try_clone().unwrap());
        let writer = thread::spawn(move || send_blob(out, &bytes, trouble).map_err(|(_, text)| text));
        self.pipes.push(Some((writer, write)));
        reply(value, &[read], self.pipes.len());
    }

    fn raw_blob(&mut self, digest: &str) {
        let bytes = self.blob(digest);
        let trouble = self.trouble_in(&bytes);
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (errors, errors_out) = rustix::pipe::pipe().unwrap();
        reply(json!(-1), &[read, errors], 0);
        thread::spawn(move || {
            if let Err((code, message)) = send_blob(write.into(), &bytes, trouble) {
                let error = json!({"code": code, "message": message}).to_string();
                File::from(errors_out).write_all(error.as_bytes()).unwrap();
            }
        });
    }

    /// The trouble for this blob. One that comes after so many bytes waits for a blob that has as many.
    fn trouble_in(&self, bytes: &[u8]) -> Option<Value> {
        let trouble: Value = serde_json::from_slice(&fs::read(self.dir.join("trouble")).ok()?).unwrap();
        let fits = trouble["count"].as_u64().is_none_or(|count| count <= bytes.len() as u64);
        fits.then(|| self.trouble_at("blob")).flatten()
    }

    /// The trouble for this occasion, taken from the file; dies of it if it is that kind.
    fn trouble_at(&self, occasion: &str) -> Option<Value> {
        let file = self.dir.join("trouble");
        let trouble: Value = serde_json::from_slice(&fs::read(&file).ok()?).unwrap();
        if trouble["at"] != occasion {
            return None;
        }
        fs::remove_file(file).unwrap();
        if trouble["then"] == "die" && trouble["count"].is_null() {
            std::process::exit(1);
        }
        Some(trouble)
    }

    fn entry(&self) -> Value {
        let index: Value =
            serde_json::from_slice(&fs::read(self.layout.join("index.json")).unwrap()).unwrap();
        index["manifests"][0].clone()
    }

    fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
    }

    /// As containers-storage has it: each layer by the digest of its tar.
    fn layer_info(&self) -> Value {
        let manifest: Value =
            serde_json::from_slice(&self.blob(self.entry()["digest"].as_str().unwrap())).unwrap();
        let config: Value =
            serde_json::from_slice(&self.blob(manifest["config"]["digest"].as_str().unwrap())).unwrap();
        let layer = |id: &Value| {
            let size = self.blob(id.as_str().unwrap()).len();
            json!({"digest": id, "size": size, "media_type": super::layout::OCI_LAYER})
        };
        config["rootfs"]["diff_ids"].as_array().unwrap().iter().map(layer).collect()
    }
}

/// Writes a blob, or what the trouble makes of it; an error is a code and a text.
fn send_blob(mut out: File, bytes: &[u8], trouble: Option<Value>) -> Result<(), (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let other = |error: std::io::Error| ("other".to_owned(), error.to_string());
    let trouble = trouble.unwrap_or_default();
    let count = trouble["count"].as_u64().map_or(bytes.len(), |count| count as usize);
    out.write_all(&bytes[..count]).map_err(other)?;
    if let Some(more) = trouble["more"].as_u64() {
        out.write_all(&vec![0; more as usize]).map_err(other)?;
    }
    match (trouble["then"].as_str(), &trouble["error"]) {
        (Some("die"), _) => std::process::exit(1),
        (Some("hang"), _) => loop {
            thread::park();
        },
        (_, Value::Array(error)) => Err((text(&error[0]), text(&error[1]))),
        _ => Ok(()),
    }
}

fn reply(value: Value, fds: &[OwnedFd], pipe: usize) {
    send(json!({"success": true, "error": "", "pipeid": pipe, "value": value}), fds);
}

fn send(message: Value, fds: &[OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let message = message.to_string();
    rustix::net::sendmsg(
        std::io::stdin(),
        &[IoSlice::new(message.as_bytes())],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}
