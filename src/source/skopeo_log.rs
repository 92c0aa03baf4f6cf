//! What skopeo logs with `--debug`: waits that a registry asked for, pages of tags, last words. Knows
//! logrus's lines; ignores which process writes them.
//!
//! skopeo keeps 429 to itself: it sleeps and asks again, five times, and nothing but its log says so.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Longest line that is read; the rest of a longer one is passed over. A registry
/// decides how long an address is.
const LONGEST_LINE: usize = 8 << 10;

/// Most bytes kept of lines that are not for debugging.
const MOST_WORDS: usize = 16 << 10;

/// How long the end of the log is waited for once skopeo has ended.
const END: Duration = Duration::from_secs(1);

/// What one skopeo has logged so far.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// When it last began to wait because the registry answered 429.
    throttled: Option<Instant>,
    /// What the registry asked for then.
    retry_after: Option<Duration>,
    /// Pages of tags that were asked for.
    pub(super) pages: u64,
    /// Lines that are not for debugging, as they are.
    pub(super) words: String,
}

impl Logged {
    /// How long the registry asked skopeo to wait, if it has throttled it since `began`:
    /// zero where it did not say.
    pub(super) fn throttled_since(&self, began: Instant) -> Option<Duration> {
        self.throttled.filter(|at| *at >= began).map(|_| self.retry_after.unwrap_or_default())
    }

    fn line(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once("level=debug msg=") else {
            if self.words.len() + line.len() <= MOST_WORDS {
                self.words.push_str(line);
                self.words.push('\n');
            }
            return;
        };
        let text: String = serde_json::from_str(rest.trim_end()).unwrap_or_else(|_| rest.to_owned());
        let is_tags = text.contains("/tags/list");
        if let Some(value) = text.strip_prefix("Detected 'Retry-After' header ") {
            self.retry_after = value.trim_matches('"').parse().ok().map(Duration::from_secs);
        } else if text.starts_with("Too many requests to ") {
            self.throttled = Some(Instant::now());
            // The same page is asked for again.
            self.pages -= u64::from(is_tags).min(self.pages);
        } else if text.starts_with("GET ") && is_tags {
            self.pages += 1;
        }
    }
}

/// The reading end of a log.
#[derive(Debug, Clone)]
pub(super) struct SkopeoLog(watch::Receiver<Logged>);

/// The writing end: takes skopeo's standard error as it comes.
#[derive(Debug)]
pub(super) struct LogWriter {
    logged: watch::Sender<Logged>,
    line: Vec<u8>,
}

/// An empty log.
pub(super) fn skopeo_log() -> (LogWriter, SkopeoLog) {
    let (logged, reader) = watch::channel(Logged::default());
    (LogWriter { logged, line: Vec::new() }, SkopeoLog(reader))
}

impl LogWriter {
    /// Takes what came next.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.part(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.part(bytes);
    }

    fn part(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.logged.send_modify(|logged| logged.line(&String::from_utf8_lossy(&line)));
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

impl SkopeoLog {
    /// What has been logged by now.
    pub(super) fn now(&self) -> watch::Ref<'_, Logged> {
        self.0.borrow()
    }

    /// Waits until it is `so`; for ever if the log ends before.
    pub(super) async fn until(&mut self, so: impl FnMut(&Logged) -> bool) {
        if self.0.wait_for(so).await.is_err() {
            std::future::pending().await
        }
    }

    /// The words of a skopeo that has ended, once all are here.
    pub(super) async fn last_words(&self) -> String {
        let mut log = self.0.clone();
        let ended = async { while log.changed().await.is_ok() {} };
        // A process that inherited the other end may keep it open.
        let _ = timeout(END, ended).await;
        self.now().words.clone()
    }
}

/// How long skopeo was asked to wait, in words for people; nothing where the registry did not say.
pub(super) fn asked_to_wait(retry_after: Duration) -> Option<String> {
    (!retry_after.is_zero()).then(|| format!("the registry asks to wait {retry_after:?} (Retry-After)"))
}

/// Says that `limit` was over while skopeo waited because it was told 429.
pub(super) fn throttled_for(limit: Duration, retry_after: Duration) -> String {
    let asks = asked_to_wait(retry_after);
    let asks = match asks {
        Some(asks) if retry_after > limit => {
            format!("{asks}, longer than the {limit:?} that an answer may take")
        }
        Some(asks) => asks,
        None => "run this again later, or with a lower --downloads-per-host".to_owned(),
    };
    format!("too many requests (429): skopeo waited for {limit:?} as the registry asked: {asks}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debug(text: &str) -> String {
        let text = serde_json::to_string(text).unwrap();
        format!("time=\"2026-01-01T00:00:00Z\" level=debug msg={text}\n")
    }

    fn throttled(path: &str) -> String {
        debug("Detected 'Retry-After' header \"300\"")
            + &debug(&format!("Too many requests to http://r/v2/{path}: sleeping for 60.000000 seconds"))
    }

    #[tokio::test]
    async fn a_wait_that_the_registry_asked_for_is_known_with_its_length() {
        let (mut writer, log) = skopeo_log();
        let began = Instant::now();
        assert_eq!(log.now().throttled_since(began), None);
        // In pieces, as pipes give them.
        throttled("app/manifests/v1").as_bytes().chunks(7).for_each(|piece| writer.push(piece));
        assert_eq!(log.now().throttled_since(began), Some(Duration::from_secs(300)));
        assert_eq!(log.now().throttled_since(Instant::now() + END), None, "an earlier request");
        writer.push(debug("Detected 'Retry-After' header \"Mon, 30 Nov 2026 19:00:00 GMT\"").as_bytes());
        assert_eq!(log.now().throttled_since(began), Some(Duration::ZERO), "a date");
    }

    #[tokio::test]
    async fn pages_of_tags_are_counted_and_a_page_asked_for_again_counts_once() {
        let (mut writer, mut log) = skopeo_log();
        let page = |last: u32| debug(&format!("GET http://r/v2/app/tags/list?last={last}"));
        writer
            .push((debug("GET http://r/v2/") + &page(0) + &throttled("app/tags/list") + &page(0)).as_bytes());
        assert_eq!(log.now().pages, 1);
        writer.push(page(1).as_bytes());
        log.until(|logged| logged.pages > 1).await;
    }

    #[tokio::test]
    async fn other_lines_are_last_words_within_a_bound() {
        let (mut writer, log) = skopeo_log();
        writer.push(&vec![b'x'; 10 * LONGEST_LINE]);
        writer.push(b"\n");
        (0..100).for_each(|_| writer.push(debug(&"y".repeat(1000)).as_bytes()));
        // The last line has no end.
        writer.push(b"level=fatal msg=\"no\"");
        drop(writer);
        let words = log.last_words().await;
        assert!(words.ends_with("level=fatal msg=\"no\"\n"), "{words}");
        assert!(words.len() <= MOST_WORDS && !words.contains('y'));
    }

    #[test]
    fn a_wait_longer_than_the_patience_is_said() {
        let limit = Duration::from_secs(3);
        let text = throttled_for(limit, Duration::from_secs(300));
        assert!(text.contains("asks to wait 300s (Retry-After), longer than the 3s"), "{text}");
        assert!(!throttled_for(limit, Duration::from_secs(1)).contains("longer"));
        assert!(throttled_for(limit, Duration::ZERO).contains("--downloads-per-host"));
    }
}
