//! Images through skopeo: registries, archives, directories and the storage of podman. Knows the order of
//! requests; ignores how processes are kept and bytes are moved.

mod below;
mod pool;
mod process;
mod start;
mod transfer;

use std::{
    future::Future,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use containers_image_proxy::ConvertedLayerInfo;
use tokio::{sync::Mutex, time::timeout};

pub(super) use self::{
    pool::Pools,
    process::{in_starter, missing_program},
};
use self::{
    pool::{Image, Pool},
    process::{Fault, Use},
    transfer::Transfer,
};
use super::{
    BlobReader, BoxFuture, DocumentCache, ErrorKind, Host, Platform, Reference, Resolved, Result, Source,
    SourceError, Transport,
    resolved::{Manifest, blob_descriptor, numbered, verify},
};
use crate::types::{Descriptor, Digest};

/// How often a request moves to another process because its own was retired before it was asked.
const MOVES: usize = 4;

/// An image that skopeo can open.
pub struct ProxySource {
    reference: Reference,
    platform: Option<Platform>,
    pool: Arc<Pool>,
    host: Arc<Host>,
    /// What is opened: the reference, or what it leads to where skopeo cannot follow it.
    target: StdMutex<Reference>,
    /// Where the image is open; opened again elsewhere when that process is retired.
    image: Mutex<Option<Arc<Image>>>,
}

impl ProxySource {
    /// Nothing is opened yet. The pool must have been made for the same platform.
    pub(super) fn new(
        reference: &Reference,
        platform: Option<Platform>,
        pool: Arc<Pool>,
        host: Arc<Host>,
    ) -> Self {
        let target = StdMutex::new(reference.clone());
        Self { reference: reference.clone(), platform, pool, host, target, image: Mutex::default() }
    }

    /// The image, open, on a process that nobody sends away while it is used. Others who want it wait, lest
    /// an archive be unpacked twice.
    async fn image(&self) -> std::result::Result<(Arc<Image>, Use), Fault> {
        let mut slot = self.image.lock().await;
        if let Some(image) = slot.as_ref() {
            let used = image.process.in_use();
            if !image.process.is_retired() {
                return Ok((image.clone(), used));
            }
        }
        let (image, used) = self.pool.open(&self.target()).await?;
        Ok((slot.insert(image).clone(), used))
    }

    fn target(&self) -> Reference {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens `target` from now on.
    async fn aim(&self, target: &Reference) {
        *self.image.lock().await = None;
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target.clone();
    }

    /// Resolves the reference by skopeo, and by ourselves where that is lost among indexes.
    async fn resolve_anyhow(&self, held: &DocumentCache) -> Result<Resolved> {
        if self.target() != self.reference {
            // What the tag stood for at the last try it may stand for no more.
            self.aim(&self.reference).await;
        }
        let error = match moving(|| self.resolve_once(held)).await {
            Err(error) if below::may_be_found(&self.reference, &error) => error,
            resolved => return resolved,
        };
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let Some(child) = below::find(&self.reference, &wanted, &self.pool).await? else { return Err(error) };
        self.aim(&child).await;
        moving(|| self.resolve_once(held)).await
    }

    async fn resolve_once(&self, held: &DocumentCache) -> std::result::Result<Resolved, Fault> {
        let (image, _used) = self.image().await?;
        let (name, bytes) =
            image.request("GetManifest", |proxy, id| Box::pin(proxy.fetch_manifest_raw_oci(id))).await?;
        let name: Digest =
            name.parse().map_err(|error| SourceError::corrupt(format!("the manifest's name: {error}")))?;
        // skopeo converts docker's schema 2 and still gives the original's digest. It has checked the
        // original, also against a digest in the reference, which may be that of an index above it.
        let manifest = Manifest::parse(bytes)?.known_as(name);
        let config = if manifest.is_converted() {
            // The registry knows nothing of the converted config. For others this call would write it anew.
            image.request("GetFullConfig", |proxy, id| Box::pin(proxy.fetch_config_raw(id))).await?.into()
        } else {
            let fetch = async {
                let bytes = match document(&image, &manifest.config).await {
                    Err(Fault::Error(error)) if error.kind() == ErrorKind::NotFound => {
                        let carried = manifest.embedded_config();
                        carried.map_err(|fault| fault.within(&error))?.ok_or(Fault::Error(error))
                    }
                    bytes => bytes,
                };
                let bytes = bytes.map_err(|fault| fault.within("the config"))?;
                verify("the config", &manifest.config, &bytes).map(|()| bytes).map_err(Fault::from)
            };
            held.config(self.host.name(), &manifest.config.digest, fetch).await?
        };
        let blobs = match self.reference.transport() {
            Transport::ContainersStorage => Some(stored_layers(&image).await?),
            _ => None,
        };
        Ok(manifest.with_config(config, blobs)?.expect_platform(self.platform.as_ref())?)
    }
}

impl Source for ProxySource {
    fn resolve<'a>(&'a self, held: &'a DocumentCache) -> BoxFuture<'a, Result<Resolved>> {
        Box::pin(async {
            let resolved = self.resolve_anyhow(held).await;
            if resolved.is_err() {
                // skopeo keeps the manifest of an open image, also one that was cut short.
                *self.image.lock().await = None;
            }
            resolved.map_err(in_context)
        })
    }

    fn open_blob(&self, blob: &Descriptor) -> BoxFuture<'_, Result<Box<dyn BlobReader>>> {
        let blob = blob.clone();
        Box::pin(async move {
            let begin = || async {
                let (image, _used) = self.image().await?;
                Transfer::begin(&image, &blob).await
            };
            Ok(Box::new(moving(begin).await?) as Box<dyn BlobReader>)
        })
    }

    fn describe(&self) -> String {
        self.reference.to_string()
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

/// What skopeo says of an image that it cannot read may be a parser's words alone.
fn in_context(error: SourceError) -> SourceError {
    match error.kind() {
        ErrorKind::Other => error.within("skopeo cannot read the image"),
        _ => error,
    }
}

/// Tries again on another process if the first was retired before it was asked.
async fn moving<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = std::result::Result<T, Fault>>,
{
    for _ in 0..MOVES {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(Fault::Error(error)) => return Err(error),
            Err(Fault::Retired) => {}
        }
    }
    Err(SourceError::new(ErrorKind::Transient, "skopeo is held up by other transfers again and again"))
}

/// A small blob, whole, in the time that answers have: an image is not resolved without it, and others wait
/// for that. Its digest is checked by whoever asked.
async fn document(image: &Arc<Image>, blob: &Descriptor) -> std::result::Result<Vec<u8>, Fault> {
    let mut transfer = Transfer::begin(image, blob).await?;
    // The size was capped when the manifest was parsed.
    let mut bytes = vec![0; blob.size as usize];
    let limit = image.patience.answer();
    let filled = timeout(limit, transfer.fill(&mut bytes)).await.map_err(|_| {
        let text = format!("its {} bytes did not come within {limit:?}", blob.size);
        SourceError::new(ErrorKind::Stalled, text)
    })??;
    bytes.truncate(filled);
    transfer.finish().await?;
    Ok(bytes)
}

/// The uncompressed layers that `containers-storage:` serves instead of the manifest's.
async fn stored_layers(image: &Arc<Image>) -> std::result::Result<Vec<Descriptor>, Fault> {
    let layers = image.request("GetLayerInfo", |proxy, id| Box::pin(proxy.get_layer_info(id))).await?;
    let layers =
        layers.ok_or_else(|| SourceError::new(ErrorKind::TooOld, "skopeo does not list stored layers"))?;
    let layer = |layer: &ConvertedLayerInfo| {
        blob_descriptor(layer.media_type.as_ref(), layer.digest.as_ref(), layer.size)
    };
    Ok(numbered(layers.iter().map(layer))?)
}
