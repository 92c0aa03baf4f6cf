//! The tags of a repository, as its registry lists them. Knows `skopeo list-tags`; ignores
//! which of them are wanted.

use std::{
    io::Read,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use rustix::process::{PidfdFlags, Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde::Deserialize;
use tokio::{
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, timeout},
};

use super::{
    Access, ErrorKind, Patience, Reference, Result, SourceError,
    access::tie,
    proxy::{in_starter, missing_program},
    skopeo_log::{LogWriter, SkopeoLog, skopeo_log, throttled_for},
};

/// The longest answer that is read, in bytes: a hundred thousand tags of 60 characters.
/// Many are read side by side.
const LONGEST: u64 = 8 << 20;

/// Memory that a skopeo may take while it lists tags, in bytes: several times what the longest answer needs.
/// It keeps all pages until the last one has come, and a registry may have no last one.
const MEMORY: u64 = 512 << 20;

/// The largest stack of a thread of that skopeo, in bytes: each counts as memory, and a
/// user's limit may be anything.
const STACK: u64 = 8 << 20;

/// What is said of a list of tags that is too long.
const NAME_THEM: &str = "name the tags that are wanted in the list";

/// Lists the tags of the repository that `reference` names.
///
/// The first page may take as long as any answer, all others together as long as a transfer may stall: pages
/// that have no end are a defect of this repository, and nothing that passes.
pub(super) async fn list(reference: &Reference, access: &Access, patience: Patience) -> Result<Vec<String>> {
    access.check_paths()?;
    let command = command(reference, access)?;
    let program = access.skopeo.clone();
    let mut child = in_starter(move || { command }.spawn())
        .await?
        .map_err(|error| missing_program(&program, &error, "name the tags in the list"))?;
    // Killed when this function ends, however that may be.
    let _handle = Handle::of(&child)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (writer, log) = skopeo_log();
    let heard = log.clone();
    let reading = tokio::task::spawn_blocking(move || read(child, out, err, writer, &log));
    in_time(reading, heard, patience).await
}

/// Waits for the end of `reading` as long as it may take.
async fn in_time(
    mut reading: JoinHandle<Result<Vec<String>>>,
    mut log: SkopeoLog,
    patience: Patience,
) -> Result<Vec<String>> {
    let cut_short = |_: JoinError| SourceError::local("listing tags was cut short: the program is ending");
    let (began, limit) = (Instant::now(), patience.answer());
    tokio::select! {
        biased;
        read = &mut reading => return read.map_err(cut_short)?,
        // The second page is asked for when the first one is here.
        () = log.until(|logged| logged.pages > 1) => {}
        () = sleep(limit) => {
            return Err(match log.now().throttled_since(began) {
                Some(wait) => SourceError::new(ErrorKind::Transient, throttled_for(limit, wait)),
                None => late(limit),
            });
        }
    }
    let limit = patience.stall;
    match timeout(limit, reading).await {
        Ok(read) => read.map_err(cut_short)?,
        Err(_) => Err(match log.now().pages {
            ..=2 => late(limit),
            pages => SourceError::new(
                ErrorKind::Other,
                format!(
                    "the registry lists tags on page after page, {pages} pages in {limit:?} and no end: \
                     {NAME_THEM}, or \
                     give it more time with --stall-timeout"
                ),
            ),
        }),
    }
}

fn late(limit: std::time::Duration) -> SourceError {
    let text = format!(
        "skopeo took longer than {limit:?} to list the tags: the registry is down, silent, or makes skopeo \
         wait"
    );
    SourceError::new(ErrorKind::Stalled, text)
}

/// Kills the process when dropped, also because nobody waits for it any more.
pub(super) struct Handle(OwnedFd);

impl Handle {
    pub(super) fn of(child: &Child) -> Result<Self> {
        let pid = rustix::process::Pid::from_child(child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        Ok(Self(pidfd.map_err(|errno| SourceError::local(format!("skopeo cannot be watched: {errno}")))?))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }
}

fn command(reference: &Reference, access: &Access) -> Result<Command> {
    let mut command = Command::new(&access.skopeo);
    command.arg("--debug");
    // It waits for a network; each thread of more would take a stack from its memory.
    command.env("GOMAXPROCS", "2");
    if let Some(policy) = &access.policy {
        command.arg("--policy").arg(policy);
    }
    command.arg("list-tags");
    add_reference(&mut command, reference, access)?;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are plain system calls
    // (prlimit) without allocation or locks.
    unsafe {
        command.pre_exec(|| {
            // What Go reserves and does not use counts as address space, so that cannot be limited.
            limit(Resource::Data, MEMORY)?;
            limit(Resource::Stack, STACK)
        });
    }
    Ok(command)
}

/// Adds how the registry is reached, the reference, and pipes for what the child writes.
pub(super) fn add_reference(command: &mut Command, reference: &Reference, access: &Access) -> Result<()> {
    command.arg(format!("--tls-verify={}", access.tls_verify));
    if let Some(dir) = &access.cert_dir {
        command.arg("--cert-dir").arg(dir);
    }
    let (authfile, credentials) = access.authfile()?;
    if let Some(authfile) = authfile {
        command.arg("--authfile").arg(authfile);
    }
    command.arg(reference.for_skopeo());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tie(command, credentials);
    Ok(())
}

/// Lowers a limit of this process to `most`.
fn limit(resource: Resource, most: u64) -> std::io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(resource);
    let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    Ok(setrlimit(resource, Rlimit { current: lower(current), maximum: lower(maximum) })?)
}

/// Reads what the child has to say, both streams at once, and waits for its end.
fn read(
    mut child: Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    mut writer: LogWriter,
    log: &SkopeoLog,
) -> Result<Vec<String>> {
    let errors = std::thread::spawn(move || {
        let Some(mut err) = err else { return };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = err.read(&mut buffer) {
            writer.push(&buffer[..count]);
        }
    });
    let mut text = Vec::new();
    let read = out.map_or(Ok(0), |out| out.take(LONGEST + 1).read_to_end(&mut text));
    if text.len() as u64 > LONGEST {
        let _ = child.kill();
    }
    let status = child.wait();
    let _ = errors.join();
    let errors = log.now().words.clone();
    read.map_err(|error| SourceError::local(format!("reading from skopeo failed: {error}")))?;
    if text.len() as u64 > LONGEST {
        return Err(SourceError::new(
            ErrorKind::Other,
            format!("the registry lists more than 8 MiB of tags: {NAME_THEM}"),
        ));
    }
    match status {
        Ok(status) if status.success() => parse(&text),
        Ok(status) if errors.trim().is_empty() => {
            Err(SourceError::new(ErrorKind::Transient, format!("skopeo died while it listed tags: {status}")))
        }
        Ok(_) if is_out_of_memory(&errors) => Err(SourceError::new(
            ErrorKind::Other,
            format!("listing tags took skopeo more than {} MiB of memory: {NAME_THEM}", MEMORY >> 20),
        )),
        Ok(_) => Err(SourceError::from_skopeo(&message(&errors)).within("listing tags")),
        Err(error) => Err(SourceError::local(format!("waiting for skopeo failed: {error}"))),
    }
}

/// Whether Go's runtime says that it got no memory, for a heap or for a thread.
fn is_out_of_memory(errors: &str) -> bool {
    let marks = ["out of memory", "cannot allocate memory", "pthread_create failed"];
    errors
        .lines()
        .filter(|line| !line.contains("level="))
        .any(|line| marks.iter().any(|mark| line.contains(mark)))
}

/// The message of skopeo's last log line, `time="…" level=fatal msg="…"`, its quotes taken off.
pub(super) fn message(errors: &str) -> String {
    let line = errors.lines().rfind(|line| line.contains("level=fatal")).unwrap_or(errors);
    let quoted = line.split_once("msg=").map(|(_, rest)| rest.trim());
    let text: String =
        quoted.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| line.to_owned());
    // What we say ourselves.
    text.strip_prefix("Error listing repository tags: ").map_or(text.clone(), str::to_owned)
}

fn parse(text: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let answer: Answer = serde_json::from_slice(text)
        .map_err(|error| SourceError::corrupt(format!("the list of tags is malformed: {error}")))?;
    Ok(answer.tags.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_what_skopeo_logged_last() {
        let text = "time=\"2026-01-01T00:00:00Z\" level=warning msg=\"something\"\n\
                    time=\"2026-01-01T00:00:00Z\" level=fatal msg=\"Error listing: \\\"x\\\": manifest \
                    unknown\"\n";
        assert_eq!(message(text), "Error listing: \"x\": manifest unknown");
        let text = "level=fatal msg=\"Error listing repository tags: fetching tags list: no\"";
        assert_eq!(message(text), "fetching tags list: no");
        assert_eq!(message("exec format error"), "exec format error");
    }

    #[test]
    fn an_answer_may_have_no_tags() {
        assert_eq!(parse(br#"{"Repository":"r/x","Tags":["v1","v2"]}"#).unwrap(), ["v1", "v2"]);
        assert!(parse(br#"{"Repository":"r/x","Tags":null}"#).unwrap().is_empty());
        assert!(parse(br#"{"Repository":"r/x"}"#).unwrap().is_empty());
        assert_eq!(parse(b"<html>").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
