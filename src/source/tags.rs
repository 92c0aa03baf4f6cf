//! The tags of a repository, as its registry lists them. Knows `skopeo list-tags`; ignores which of them are wanted.

use std::{
    io::Read,
    os::fd::OwnedFd,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::process::{PidfdFlags, Signal};
use serde::Deserialize;

use super::{
    Access, ErrorKind, Reference, Result, SourceError,
    access::tie,
    proxy::{in_starter, missing_program},
};

/// The longest answer that is read, in bytes: a hundred thousand tags of 60 characters. Many are read side by side.
const LONGEST: u64 = 8 << 20;

/// Lists the tags of the repository that `reference` names, within `limit`.
pub(super) async fn list(reference: &Reference, access: &Access, limit: Duration) -> Result<Vec<String>> {
    access.check_paths()?;
    let command = command(reference, access)?;
    let program = access.skopeo.clone();
    let mut child = in_starter(move || { command }.spawn())
        .await?
        .map_err(|error| missing_program(&program, &error, "name the tags in the list"))?;
    let handle = Handle::of(&child)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = tokio::task::spawn_blocking(move || read(child, out, err.map(OwnedFd::from)));
    match tokio::time::timeout(limit, reading).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(SourceError::local("listing tags was cut short: the program is ending")),
        Err(_) => {
            drop(handle);
            let text = format!("skopeo took longer than {limit:?} to list the tags: is the registry up?");
            Err(SourceError::new(ErrorKind::Stalled, text))
        }
    }
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
    if let Some(policy) = &access.policy {
        command.arg("--policy").arg(policy);
    }
    command.arg("list-tags");
    add_reference(&mut command, reference, access)?;
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

/// Reads what the child has to say, both streams at once, and waits for its end.
fn read(mut child: Child, out: Option<ChildStdout>, err: Option<OwnedFd>) -> Result<Vec<String>> {
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.map(|err| std::fs::File::from(err).take(1 << 16).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut text = Vec::new();
    let read = out.map_or(Ok(0), |out| out.take(LONGEST + 1).read_to_end(&mut text));
    if text.len() as u64 > LONGEST {
        let _ = child.kill();
    }
    let status = child.wait();
    let errors = errors.join().unwrap_or_default();
    read.map_err(|error| SourceError::local(format!("reading from skopeo failed: {error}")))?;
    if text.len() as u64 > LONGEST {
        return Err(SourceError::new(
            ErrorKind::Other,
            "the registry lists more than 8 MiB of tags: name those that are wanted in the list",
        ));
    }
    match status {
        Ok(status) if status.success() => parse(&text),
        Ok(status) if errors.trim().is_empty() => {
            Err(SourceError::new(ErrorKind::Transient, format!("skopeo died while it listed tags: {status}")))
        }
        Ok(_) => Err(SourceError::from_skopeo(&message(&errors)).within("listing tags")),
        Err(error) => Err(SourceError::local(format!("waiting for skopeo failed: {error}"))),
    }
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
                    time=\"2026-01-01T00:00:00Z\" level=fatal msg=\"Error listing: \\\"x\\\": manifest unknown\"\n";
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
