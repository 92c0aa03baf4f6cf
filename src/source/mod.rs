//! Where bytes come from. Knows transports and references; ignores graphs, repositories
//! and what is inside a layer.
//!
//! [`Sources`] opens [`Reference`]s, each as a [`Source`]: its manifest and config come back
//! verified, as [`Resolved`]; its blobs come through [`BlobReader`]s, unverified, since whoever
//! splits a blob hashes it anyway.

mod access;
mod answers;
mod breaker;
mod document_cache;
mod error;
mod host;
mod index;
mod json;
mod layout;
mod platform;
mod proxy;
mod reference;
mod registry_name;
mod resolved;
mod retry;
mod skopeo_log;
mod sources;
mod tags;

use std::{future::Future, pin::Pin, sync::Arc};

pub use access::{Access, Credentials, Site};
pub use answers::Answers;
pub use document_cache::{DocumentCache, Documents};
pub use error::{ErrorKind, Result, SourceError};
pub use host::{Host, HostSlot, Tries};
pub use layout::LayoutSource;
pub use platform::{ParsePlatformError, Platform};
pub use proxy::ProxySource;
pub use reference::{ParseReferenceError, Reference, Selector, Transport};
pub(crate) use registry_name::{
    TAG_GRAMMAR, has_login, is_explicit_host, is_host, is_path, is_tag, without_login,
};
pub use resolved::Resolved;
pub use retry::{Retries, Tell};
pub use sources::{Options, Patience, Sources};

use crate::types::{Buffer, Descriptor};

/// A future on the heap, so that traits with async functions can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One image, wherever it is.
pub trait Source: Send + Sync {
    /// Fetches and verifies the manifest and the config; one that is `held` is not asked for.
    fn resolve<'a>(&'a self, held: &'a DocumentCache) -> BoxFuture<'a, Result<Resolved>>;

    /// Begins the transfer of one of the image's layers, as listed in [`Resolved::layers`].
    ///
    /// # Errors
    /// The blob is not there, cannot be had now, or is known to have another size than `blob` says.
    fn open_blob(&self, blob: &Descriptor) -> BoxFuture<'_, Result<Box<dyn BlobReader>>>;

    /// The reference as the user wrote it.
    fn describe(&self) -> String;

    /// The registry that it is at, which can bear only so much at once.
    fn host(&self) -> &Arc<Host>;
}

/// One blob on its way. Gives as many bytes as the descriptor says or fails; their
/// digest is not checked here.
///
/// Dropping it cancels the transfer; so does dropping a pending read.
pub trait BlobReader: Send {
    /// Fills `buffer` as far as the blob goes and gives it back with the number of bytes in it.
    ///
    /// Less than a full buffer is the end of the blob; so is 0. Only time spent here counts as a stall.
    ///
    /// # Errors
    /// The transfer failed, stalled, or ended before the descriptor's size. The reader
    /// is of no use afterwards.
    fn read(&mut self, buffer: Buffer) -> BoxFuture<'_, Result<(Buffer, usize)>>;

    /// Ends the transfer after the last byte was read.
    ///
    /// # Errors
    /// The blob goes on after the descriptor's size, or the other side says that something was wrong with it.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}
