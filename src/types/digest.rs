//! Content digests as OCI writes them (`sha256:<hex>`). Knows their text form; ignores what they name.

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The sha256 of some bytes: a blob, a tar (`diff_id`), a manifest or a config.
///
/// Source: OCI image-spec, descriptor.md, "Digests". Other algorithms are legal there and used by nobody we
/// know; they are refused by name when parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest that we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// Not `algorithm:hex`, or not 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a digest (expected sha256: and 64 hexadecimal digits)")]
    Malformed(String),
    /// A registered algorithm that this program does not compute.
    #[error("digest algorithm {0:?} is not supported (only sha256)")]
    Algorithm(String),
}

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sha2::Sha256::digest(data).into())
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseDigestError::Malformed(text.to_owned());
        let (algorithm, digits) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            return Err(ParseDigestError::Algorithm(algorithm.to_owned()));
        }
        let mut bytes = [0; 32];
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(malformed());
        }
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| malformed())?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a name could be taken for a digest: an algorithm of the OCI specification, a colon and only
/// hexadecimal digits, however many.
///
/// Commands that take an image take a name or a digest, so an image with such a name would be mistaken for
/// another one. `app:0123abcd`, a name with a commit as its tag, is not meant.
pub fn looks_like_digest(name: &str) -> bool {
    let Some((algorithm, digits)) = name.split_once(':') else { return false };
    let known =
        ["sha256", "sha384", "sha512", "blake3"].iter().any(|known| algorithm.eq_ignore_ascii_case(known));
    known && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A sha256 in progress.
#[derive(Clone, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Takes in more bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Sha256 {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn what_is_no_sha256_is_refused_by_name() {
        assert!(
            matches!("sha512:00".parse::<Digest>(), Err(ParseDigestError::Algorithm(a)) if a == "sha512")
        );
        for bad in ["", "sha256", "sha256:", "sha256:00", "sha256:zz", "00"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = Digest::of(b"x").to_string().to_uppercase().replace("SHA", "sha");
        assert!(upper.parse::<Digest>().is_err());
    }
}
