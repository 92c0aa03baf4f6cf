//! What a registry's index leads to where skopeo does not get there: nested indexes, entries that it cannot
//! parse, nothing for the platform. Knows the words with which skopeo gives up; ignores what is in a
//! manifest.

use std::{
    io::Read,
    os::fd::OwnedFd,
    process::{ChildStdout, Command},
    time::Duration,
};

use containers_image_proxy::oci_spec::image::MediaType;

use super::{
    super::{
        Access, ErrorKind, Platform, Reference, Result, SourceError, Transport,
        index::{Claim, Entry, Index, MAX_DEPTH, Offer},
        json::{Form, check_form},
        resolved::DOCKER_LIST,
        tags::{self, Handle},
    },
    in_starter, missing_program,
    pool::Pool,
};
use crate::types::{Digest, MAX_DOCUMENT};

/// What containers/image says of documents that it cannot follow: in this order of an index in which nothing
/// is for the platform, of one in another, of one that it cannot parse, and of docker's schema 1, which it
/// cannot convert.
const LOST: [&str; 6] = [
    "no image found in image index",
    "no image found in manifest list",
    "unsupported manifest MIME type: application/vnd.",
    "unmarshaling OCI1Index",
    "unmarshaling Schema2List",
    "image ID ",
];

/// Whether skopeo has failed at `reference` in a way that a look at the registry's own document may mend or
/// explain.
pub(super) fn may_be_found(reference: &Reference, error: &SourceError) -> bool {
    let message = error.to_string();
    reference.transport() == Transport::Registry && LOST.iter().any(|lost| message.contains(lost))
}

/// The manifest that `reference` leads to on `wanted`, pinned by its digest, through at most [`MAX_DEPTH`]
/// indexes. They name each other by digests, so there is no circle. `None` if there is no index: then
/// skopeo's word stands.
///
/// # Errors
/// Nothing is for the platform, or a document is not what its name says.
pub(super) async fn find(reference: &Reference, wanted: &Platform, pool: &Pool) -> Result<Option<Reference>> {
    let (mut at, mut digest) = (reference.clone(), reference.pinned());
    for _ in 0..MAX_DEPTH {
        let bytes = pool.raw(&at).await?;
        if let Some(digest) = digest.filter(|digest| *digest != Digest::of(&bytes)) {
            return Err(SourceError::corrupt(format!(
                "what the registry has as {digest} has another digest"
            )));
        }
        let index = match is_index(&bytes) {
            true => Index::parse("the index", &bytes)?,
            false => return check_form("the manifest", Form::Manifest, &bytes).map(|()| None),
        };
        let entry = chosen(&index, wanted)?;
        let Some(child) = reference.pinned_to(entry.blob.digest) else { return Ok(None) };
        if !entry.is_index() {
            return Ok(Some(child));
        }
        (at, digest) = (child, Some(entry.blob.digest));
    }
    Err(SourceError::corrupt(format!("indexes are nested more than {MAX_DEPTH} deep")))
}

/// The entry for `wanted`. Among those that name no platform the first, as containers/image does: unlike a
/// layout's, their configs would each be a request.
fn chosen<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Entry> {
    match index.offer(wanted)? {
        Offer::Fits(entry) => Ok(entry),
        Offer::Silent(silent) => {
            let manifest = silent.iter().find(|entry| entry.claim == Claim::Nothing && entry.is_manifest());
            let first = manifest.or(silent.first()).copied();
            let first = first.ok_or_else(|| index.nothing_for(wanted, Vec::new()))?;
            index.tell_passed_over(first);
            Ok(first)
        }
    }
}

/// Whether a document is an index, by what it has or else by what it calls itself: some write an empty list
/// as null.
fn is_index(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Names {
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let is_type = |name: String| name == MediaType::ImageIndex.to_string() || name == DOCKER_LIST;
    let names = serde_json::from_slice::<Names>(bytes);
    names.is_ok_and(|names| names.manifests.is_some() || names.media_type.is_some_and(is_type))
}

/// The document that `reference` names, as the registry has it.
pub(super) async fn raw(reference: &Reference, access: &Access, limit: Duration) -> Result<Vec<u8>> {
    let mut command = Command::new(&access.skopeo);
    command.args(["inspect", "--raw"]);
    tags::add_reference(&mut command, reference, access)?;
    let program = access.skopeo.clone();
    let mut child = in_starter(move || command.spawn())
        .await?
        .map_err(|error| missing_program(&program, &error, "use oci:, which needs none"))?;
    let handle = Handle::of(&child)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = tokio::task::spawn_blocking(move || {
        let read = read(out, err.map(OwnedFd::from));
        if read.is_err() {
            // One that has more to say than is read would wait for ever.
            let _ = child.kill();
        }
        match child.wait() {
            Ok(status) if read.is_ok() && !status.success() => {
                let text = format!("skopeo died while it fetched an index: {status}");
                Err(SourceError::new(ErrorKind::Transient, text))
            }
            _ => read,
        }
    });
    match tokio::time::timeout(limit, reading).await {
        Ok(read) => read.unwrap_or_else(|_| Err(SourceError::local("reading was cut short"))),
        Err(_) => {
            drop(handle);
            let text = format!("skopeo took longer than {limit:?} to fetch an index: is the registry up?");
            Err(SourceError::new(ErrorKind::Stalled, text))
        }
    }
}

/// Reads both streams to their end, or to what is too long for a document.
fn read(out: Option<ChildStdout>, err: Option<OwnedFd>) -> Result<Vec<u8>> {
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.map(|err| std::fs::File::from(err).take(1 << 16).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut bytes = Vec::new();
    let read = out.map_or(Ok(0), |out| out.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes));
    read.map_err(|error| SourceError::local(format!("reading from skopeo failed: {error}")))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(SourceError::corrupt(format!("the index has more than {MAX_DOCUMENT} bytes")));
    }
    if !bytes.is_empty() {
        return Ok(bytes);
    }
    let errors = errors.join().unwrap_or_default();
    Err(SourceError::from_skopeo(&tags::message(&errors)).within("fetching the index"))
}
