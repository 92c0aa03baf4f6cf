//! How an answer is sent, and how it goes wrong. Knows bodies, faults and what they
//! cost; ignores what was asked.

use std::{
    io::{self, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use cfs_dag::types::Digest;
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{Fault, Kind, Shared, http::Answer};

/// Bytes of a body that are counted and sent at a time.
const CHUNK: usize = 64 << 10;

/// How often who waits looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(20);

/// What becomes of the connection after an answer.
#[derive(PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
    Reset,
}

/// What follows the bytes that are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More bytes, or trouble.
    More,
    /// The end of a body that is whole and true.
    End,
    /// The end of another one.
    FalseEnd,
}

/// An answer on its way.
///
/// What is about to be sent counts as sent, and what is about to end as ended: when a client has all of an
/// answer, it was counted, and the client's next request does not seem to come beside it.
pub struct Sending<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    kind: Kind,
    has_fault: bool,
    goes_on: bool,
    /// Whose bytes these are, and how many there should be.
    body: Option<(Digest, u64)>,
    sent: u64,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<'a> Sending<'a> {
    /// An answer to a request that was counted.
    pub fn new(shared: &'a Shared, stream: &'a TcpStream, kind: Kind, has_fault: bool) -> Self {
        Self { shared, stream, kind, has_fault, goes_on: true, body: None, sent: 0 }
    }

    /// Sends the answer, or what the fault makes of it.
    pub fn play(mut self, answer: Answer, fault: Option<Fault>, only_head: bool) -> io::Result<After> {
        let Ok(bytes) = answer.body.read() else {
            // Its file is gone.
            let missing = Answer::error(404, self.kind);
            return self.instead(&missing);
        };
        if only_head && !matches!(fault, Some(Fault::Reset | Fault::Silence | Fault::Raw(_))) {
            let answer = match fault {
                Some(Fault::Status(status, _)) | Some(Fault::Answer { status, .. }) => {
                    Answer { status, ..answer }
                }
                _ => answer,
            };
            return self.finish(&announcing(&answer, bytes.len()), &[], Then::FalseEnd);
        }
        self.body = answer.digest.map(|digest| (digest, bytes.len() as u64));
        let head = announcing(&answer, bytes.len());
        // A fault leaves at least the last byte out.
        let part = |count: usize| &bytes[..count.min(bytes.len().saturating_sub(1))];
        match fault {
            None => self.finish(&head, &bytes, Then::End),
            Some(Fault::Status(status, header)) => {
                let mut error = Answer::error(status, self.kind);
                error.headers.extend(header);
                self.instead(&error)
            }
            Some(Fault::Answer { status, headers, body }) => {
                self.instead(&Answer { status, headers, body: body.into(), digest: None })
            }
            Some(Fault::DelayThen(time)) => {
                self.wait(Some(time));
                self.finish(&head, &bytes, Then::End)
            }
            Some(Fault::Throttle(rate)) => self.slowly(&head, &bytes, rate),
            Some(Fault::CutAfter(count)) => {
                self.send(&head, part(count), Then::FalseEnd)?;
                Ok(After::Close)
            }
            Some(Fault::ResetAfter(count)) => {
                self.send(&head, part(count), Then::FalseEnd)?;
                Ok(After::Reset)
            }
            Some(Fault::StallAfter(count)) => {
                let first = part(count);
                self.send(&head, first, Then::More)?;
                match self.wait(None) {
                    true => self.finish("", &bytes[first.len()..], Then::End),
                    false => Ok(After::Close),
                }
            }
            Some(Fault::ShortHonest(count)) => {
                let short = part(count);
                self.finish(&announcing(&answer, short.len()), short, Then::FalseEnd)
            }
            Some(Fault::Corrupt(place)) => {
                let mut changed = bytes.to_vec();
                if let Some(byte) = changed.get_mut(place.min(bytes.len().saturating_sub(1))) {
                    *byte ^= 1;
                }
                self.finish(&head, &changed, Then::FalseEnd)
            }
            Some(Fault::Bytes(other)) => {
                self.finish(&announcing(&answer, other.len()), &other, Then::FalseEnd)
            }
            Some(Fault::Longer(more)) => {
                let all = [&*bytes, &more].concat();
                self.finish(&announcing(&answer, all.len()), &all, Then::FalseEnd)
            }
            Some(Fault::ChunkedAndLonger(more)) => self.in_chunks(&answer, &bytes, &more),
            Some(Fault::MediaType(media_type)) => {
                let headers = vec![("Content-Type".to_owned(), media_type)];
                self.finish(&announcing(&Answer { headers, ..answer }, bytes.len()), &bytes, Then::FalseEnd)
            }
            Some(Fault::Raw(raw)) => {
                self.body = None;
                self.send("", &raw, Then::FalseEnd)?;
                Ok(After::Close)
            }
            Some(Fault::Reset) => Ok(After::Reset),
            Some(Fault::Silence) => {
                self.wait(None);
                Ok(After::Close)
            }
        }
    }

    /// An answer that is none of the body.
    fn instead(mut self, answer: &Answer) -> io::Result<After> {
        self.body = None;
        let bytes = answer.body.read()?;
        self.finish(&announcing(answer, bytes.len()), &bytes, Then::FalseEnd)
    }

    fn finish(mut self, head: &str, bytes: &[u8], then: Then) -> io::Result<After> {
        self.send(head, bytes, then)?;
        Ok(After::Keep)
    }

    fn slowly(mut self, head: &str, bytes: &[u8], rate: u64) -> io::Result<After> {
        let piece = (rate * LOOK.as_millis() as u64 / 1000).clamp(1, CHUNK as u64) as usize;
        let pause = Duration::from_secs_f64(piece as f64 / rate.max(1) as f64);
        self.send(head, &[], Then::More)?;
        let mut rest = bytes;
        while rest.len() > piece {
            let (now, later) = rest.split_at(piece);
            self.send("", now, Then::More)?;
            rest = later;
            self.wait(Some(pause));
        }
        self.finish("", rest, Then::End)
    }

    fn in_chunks(mut self, answer: &Answer, bytes: &[u8], more: &[u8]) -> io::Result<After> {
        let all = [bytes, more].concat();
        self.send(&answer.head("Transfer-Encoding: chunked"), &[], Then::More)?;
        for chunk in all.chunks(100_000) {
            self.send(&format!("{:x}\r\n", chunk.len()), chunk, Then::More)?;
            self.send("\r\n", &[], Then::More)?;
        }
        let then = if more.is_empty() { Then::End } else { Then::FalseEnd };
        self.finish("0\r\n\r\n", &[], then)
    }

    /// Sends `bytes` behind `head`; both may be empty.
    fn send(&mut self, head: &str, bytes: &[u8], then: Then) -> io::Result<()> {
        let mut out = self.stream;
        let (mut head, mut rest) = (head.as_bytes(), bytes);
        loop {
            let (chunk, later) = rest.split_at(rest.len().min(CHUNK));
            self.count(chunk.len() as u64, if later.is_empty() { then } else { Then::More });
            out.write_all(std::mem::take(&mut head))?;
            out.write_all(chunk)?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    fn count(&mut self, bytes: u64, then: Then) {
        self.sent += bytes;
        if let Some((digest, size)) = self.body {
            let mut state = self.shared.lock();
            let sent = state.counts.body(self.kind, digest);
            sent.size = size;
            sent.bytes += bytes;
            if self.has_fault {
                sent.spoiled += bytes;
            }
            if then == Then::End {
                sent.whole += 1;
                // The fault did no harm after all.
                sent.spoiled -= if self.has_fault { self.sent.min(sent.spoiled) } else { 0 };
            }
        }
        if then != Then::More {
            self.end();
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.goes_on) {
            self.shared.lock().counts.end(self.kind);
        }
    }

    /// Sends nothing for `time`, or without one until the release. Whether the client is still there.
    fn wait(&self, time: Option<Duration>) -> bool {
        let end = time.map(|time| Instant::now() + time);
        let mut state = self.shared.lock();
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if state.ended || (state.released && end.is_none()) || left == Some(Duration::ZERO) {
                return !state.ended;
            }
            if has_hung_up(self.stream) {
                return false;
            }
            let look = left.map_or(LOOK, |left| left.min(LOOK));
            state = self.shared.changed.wait_timeout(state, look).unwrap().0;
        }
    }
}

fn announcing(answer: &Answer, length: usize) -> String {
    answer.head(&format!("Content-Length: {length}"))
}

fn has_hung_up(stream: &TcpStream) -> bool {
    match recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, count)) => count == 0,
        Err(error) => error != Errno::AGAIN,
    }
}
