//! What the first bytes of a blob that went wrong tell about why. Knows web pages and tars; ignores digests.

use super::super::SourceError;

/// Bytes that tell: the magic of a tar ends there.
const TELLING: usize = 263;

/// Where the magic of a tar stands, and what it is.
const MAGIC: (usize, &[u8]) = (257, b"ustar");

/// The first bytes of a blob.
pub(super) struct Start {
    is_gzip: bool,
    bytes: Vec<u8>,
}

impl Start {
    /// Of a blob of this media type; nothing has come yet.
    pub(super) fn of(media_type: &str) -> Self {
        Self { is_gzip: media_type.ends_with("gzip"), bytes: Vec::new() }
    }

    /// Takes what came next.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let room = TELLING - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The same error, with what came in place of the blob.
    pub(super) fn explain(&self, error: SourceError) -> SourceError {
        if self.is_page() {
            return error
                .within("a web page came in place of the blob (does this network want a login first?)");
        }
        if self.is_unpacked() {
            let why = "the blob came unpacked: the registry, or a proxy in front of it, marks it with \
                       Content-Encoding: gzip, which is undone on the way";
            return error.within(why);
        }
        error
    }

    fn is_page(&self) -> bool {
        let text = self.bytes.trim_ascii_start();
        let begins = |mark: &[u8]| text.len() >= mark.len() && text[..mark.len()].eq_ignore_ascii_case(mark);
        begins(b"<!doctype html") || begins(b"<html")
    }

    fn is_unpacked(&self) -> bool {
        self.is_gzip && self.bytes.get(MAGIC.0..).is_some_and(|rest| rest.starts_with(MAGIC.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(media_type: &str, bytes: &[u8]) -> String {
        let mut start = Start::of(media_type);
        bytes.chunks(100).for_each(|chunk| start.add(chunk));
        start.explain(SourceError::corrupt("wrong")).to_string()
    }

    #[test]
    fn web_pages_and_unpacked_tars_are_told_from_other_bytes() {
        let mut tar = vec![b'x'; 5000];
        tar[257..262].copy_from_slice(b"ustar");
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert!(explained(gzip, &tar).contains("Content-Encoding: gzip"));
        assert_eq!(explained("application/vnd.oci.image.layer.v1.tar", &tar), "wrong");
        for page in ["<!DOCTYPE html>\n<html>", "\r\n <HTML lang=en>"] {
            assert!(explained(gzip, page.as_bytes()).starts_with("a web page came"), "{page}");
        }
        for other in ["", "<htm", "<?xml version=\"1.0\"?>", "{}"] {
            assert_eq!(explained(gzip, other.as_bytes()), "wrong", "{other}");
        }
    }
}
