//! OCI layout directories (`oci:`), read directly. Knows the layout's files; ignores registries and skopeo.
//!
//! A layout may be hostile: every file is opened below the layout's directory (a link may point elsewhere in
//! the layout, never out of it), must be a regular file, and documents are capped. Files are read on the
//! blocking pool, straight into the caller's buffer.

mod select;

use std::{
    collections::HashMap,
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustix::{
    fs::{Advice, Mode, OFlags, ResolveFlags},
    io::{Errno, retry_on_intr},
};

use super::{
    BlobReader, BoxFuture, DocumentCache, Host, Platform, Reference, Resolved, Result, Selector, Source,
    SourceError,
    json::embedded,
    resolved::{Manifest, capped, verify},
};
use crate::types::{Buffer, Descriptor, Digest, remedy};

/// An image in an OCI layout directory.
#[derive(Clone)]
pub struct LayoutSource {
    reference: Reference,
    /// Path and image, once the disk has told which colon of the reference ends the path.
    place: Arc<OnceLock<(PathBuf, Selector)>>,
    platform: Option<Platform>,
    host: Arc<Host>,
    /// Layers that the layout lacks and the manifest carries, in base64.
    carried: Arc<Mutex<HashMap<Digest, String>>>,
}

impl LayoutSource {
    /// The image that `reference` (of [`super::Transport::Oci`]) names, for `platform`
    /// or else for this machine.
    ///
    /// Nothing is opened yet.
    pub fn new(reference: &Reference, platform: Option<Platform>) -> Self {
        let (reference, host) = (reference.clone(), Arc::new(Host::unlimited()));
        Self { reference, place: Arc::default(), platform, host, carried: Arc::default() }
    }

    fn place(&self) -> &(PathBuf, Selector) {
        self.place.get_or_init(|| locate(&self.reference))
    }

    fn resolve_blocking(&self) -> Result<Resolved> {
        let (path, selector) = self.place();
        let layout = Layout::open(path)?;
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let chosen = select::choose(&layout, selector, &wanted)?;
        let mut manifest = layout.manifest(&chosen)?.into_oci()?;
        let config = layout.config(&manifest)?;
        let mut carried = manifest.embedded_layers();
        carried.retain(|digest, _| layout.lacks(digest));
        *self.carried.lock().unwrap_or_else(PoisonError::into_inner) = carried;
        manifest.with_config(config.into(), None)?.expect_platform(self.platform.as_ref())
    }

    /// A layer that the manifest carries, as a reader; `None` if it carries none.
    fn carried(&self, blob: &Descriptor) -> Result<Option<Vec<u8>>> {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(data) = carried.get(&blob.digest) else { return Ok(None) };
        let bytes = embedded(data)?;
        verify("the descriptor's data", blob, &bytes)?;
        Ok(Some(bytes))
    }
}

/// Where a reference splits into a layout's path and the name of an image: see [`Reference::layouts`].
///
/// The first colon after which the layout before it has an image of the whole name that follows; where none
/// is, the last one, as upstream reads it; and where that is no directory, the last one before which there is
/// a layout.
pub(super) fn locate(reference: &Reference) -> (PathBuf, Selector) {
    let usual = reference.layout();
    let is_layout = |path: &Path| path.join("oci-layout").exists();
    let (mut found, mut last) = (None, None);
    for (path, selector) in reference.layouts() {
        if (&path, &selector) == (&usual.0, &usual.1) || !is_layout(&path) {
            continue;
        }
        let has = match &selector {
            Selector::Tag(tag) => Layout::open(&path).is_ok_and(|layout| select::has_tag(&layout, tag)),
            Selector::Only | Selector::Digest(_) => false,
        };
        if has && found.is_none() {
            found = Some((path.clone(), selector.clone()));
        }
        last = Some((path, selector));
    }
    found.or_else(|| last.filter(|_| !usual.0.is_dir())).unwrap_or(usual)
}

impl Source for LayoutSource {
    fn resolve<'a>(&'a self, _: &'a DocumentCache) -> BoxFuture<'a, Result<Resolved>> {
        let source = self.clone();
        Box::pin(blocking(move || source.resolve_blocking()))
    }

    fn open_blob(&self, blob: &Descriptor) -> BoxFuture<'_, Result<Box<dyn BlobReader>>> {
        let (source, blob) = (self.clone(), blob.clone());
        Box::pin(blocking(move || {
            let layout = Layout::open(&source.place().0)?;
            if let Some(bytes) = source.carried(&blob)? {
                return Ok(Box::new(Carried { bytes, read: 0 }) as Box<dyn BlobReader>);
            }
            let file = layout.blob(&blob)?;
            // Doubles the kernel's read-ahead; a file system that cannot take advice loses nothing.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
            Ok(Box::new(FileBlob { file: Arc::new(file), offset: 0, size: blob.size }) as Box<dyn BlobReader>)
        }))
    }

    fn describe(&self) -> String {
        self.reference.to_string()
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

/// Runs `work` where it may wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(SourceError::local("reading was cut short: the program is ending")))
}

/// An opened layout directory.
struct Layout {
    path: PathBuf,
    dir: OwnedFd,
}

impl Layout {
    fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let shown = path.display();
        let dir = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(|error| match error {
            Errno::NOENT => SourceError::not_found(format!("{shown}: no such directory")),
            Errno::NOTDIR => SourceError::not_found(format!(
                "{shown}: is a file, not a layout directory: for a layout in a tar write oci-archive:{shown}"
            )),
            error => failed(&shown, &error.into()),
        })?;
        let layout = Self { path: path.to_owned(), dir };
        layout.check_version().map_err(|error| error.within(shown))?;
        Ok(layout)
    }

    /// Source: OCI image-spec, image-layout.md, "oci-layout file".
    fn check_version(&self) -> Result<()> {
        let header = self.small_file("oci-layout").map_err(|error| match error.kind() {
            super::ErrorKind::NotFound => {
                SourceError::not_found("is no OCI layout: it has no file oci-layout")
            }
            _ => error,
        })?;
        let header: serde_json::Value = serde_json::from_slice(&header)
            .map_err(|error| SourceError::corrupt(format!("oci-layout: {error}")))?;
        match header["imageLayoutVersion"].as_str() {
            Some(version) if version.starts_with("1.") => Ok(()),
            Some(version) => {
                Err(SourceError::corrupt(format!("OCI layout version {version:?} is not supported")))
            }
            None => Err(SourceError::corrupt("oci-layout names no version")),
        }
    }

    /// The bytes of a small blob, verified; where there is none, what its descriptor `carries`. `what` names
    /// it in errors.
    fn document(
        &self,
        what: &str,
        blob: &Descriptor,
        carries: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Vec<u8>> {
        capped(what, blob.size)?;
        let file = match self.blob(blob) {
            Err(error) if error.kind() == super::ErrorKind::NotFound => {
                let carried = carries().map_err(|fault| fault.within(&error).within(what))?;
                return carried.ok_or_else(|| error.within(what));
            }
            file => file.map_err(|error| error.within(what))?,
        };
        let mut bytes = vec![0; blob.size as usize];
        let filled = fill(&file, 0, &mut bytes).map_err(|error| failed(&what, &error))?;
        bytes.truncate(filled);
        verify(what, blob, &bytes)?;
        Ok(bytes)
    }

    /// The config of a manifest.
    fn config(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        self.document("the config", &manifest.config, || manifest.embedded_config())
    }

    fn lacks(&self, digest: &Digest) -> bool {
        let found = self.file(&format!("blobs/sha256/{}", digest.hex()));
        found.is_err_and(|error| error.kind() == super::ErrorKind::NotFound)
    }

    /// Opens a blob and checks its length.
    fn blob(&self, blob: &Descriptor) -> Result<File> {
        let digest = blob.digest;
        let file =
            self.file(&format!("blobs/sha256/{}", digest.hex())).map_err(|error| match error.kind() {
                super::ErrorKind::NotFound => {
                    SourceError::not_found(format!("the layout lacks the blob {digest}"))
                }
                _ => error,
            })?;
        check_length(&file, blob.size)?;
        Ok(file)
    }

    /// A file of unknown length, capped.
    fn small_file(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.file(name)?;
        let failed = |error| failed(&name, &error);
        let size = file.metadata().map_err(failed)?.len();
        capped(name, size)?;
        let mut bytes = vec![0; size as usize];
        let filled = fill(&file, 0, &mut bytes).map_err(failed)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Opens a regular file below the layout. `O_NONBLOCK`, because a fifo would hang the open itself.
    fn file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = retry_on_intr(|| rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), below));
        let file = File::from(opened.map_err(|error| match error {
            Errno::NOENT => SourceError::not_found(format!("{name} is missing")),
            Errno::XDEV => SourceError::corrupt(format!("{name} is a link that leads out of the layout")),
            Errno::LOOP => SourceError::corrupt(format!("{name} is a link that leads nowhere")),
            error => failed(&name, &error.into()),
        })?);
        let meta = file.metadata().map_err(|error| failed(&name, &error))?;
        if !meta.is_file() {
            return Err(SourceError::corrupt(format!("{name} is no regular file")));
        }
        Ok(file)
    }
}

/// The system refuses something that is not the layout's fault.
fn failed(what: &dyn std::fmt::Display, error: &std::io::Error) -> SourceError {
    SourceError::local(format!("{what}: {error}{}", remedy(error)))
}

fn check_length(file: &File, claimed: u64) -> Result<()> {
    let found = file.metadata().map_err(|error| failed(&"the blob", &error))?.len();
    if found != claimed {
        return Err(SourceError::corrupt(format!(
            "the blob has {found} bytes, its descriptor says {claimed}"
        )));
    }
    Ok(())
}

/// Reads from `offset` until `out` is full or the file ends.
fn fill(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_at(&mut out[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A blob that is a file.
struct FileBlob {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl BlobReader for FileBlob {
    fn read(&mut self, mut buffer: Buffer) -> BoxFuture<'_, Result<(Buffer, usize)>> {
        Box::pin(async move {
            let (file, offset) = (self.file.clone(), self.offset);
            let wanted = (self.size - offset).min(buffer.bytes_mut().len() as u64) as usize;
            let (buffer, filled) = blocking(move || {
                let filled = fill(&file, offset, &mut buffer.bytes_mut()[..wanted]);
                Ok((buffer, filled.map_err(|error| failed(&"reading failed", &error))?))
            })
            .await?;
            if filled < wanted {
                let (found, claimed) = (offset + filled as u64, self.size);
                return Err(SourceError::corrupt(format!("the blob ends after {found} of {claimed} bytes")));
            }
            self.offset += filled as u64;
            Ok((buffer, filled))
        })
    }

    /// Looks at the length again: the file may have grown since it was opened.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(blocking(move || check_length(&self.file, self.size)))
    }
}

/// A blob that came with the manifest.
struct Carried {
    bytes: Vec<u8>,
    read: usize,
}

impl BlobReader for Carried {
    fn read(&mut self, mut buffer: Buffer) -> BoxFuture<'_, Result<(Buffer, usize)>> {
        Box::pin(async move {
            let out = buffer.bytes_mut();
            let count = out.len().min(self.bytes.len() - self.read);
            out[..count].copy_from_slice(&self.bytes[self.read..][..count]);
            self.read += count;
            Ok((buffer, count))
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
