//! Reading from a source in tests. Knows the room's public interface; ignores transports.

use std::{fmt::Debug, sync::Arc, time::Duration};

use cfs_dag::{
    source::{
        Answers, BlobReader, DocumentCache, ErrorKind, Options, Patience, Platform, Reference, Resolved,
        Result, Retries, Site, Source, Sources,
    },
    types::{Budget, Descriptor},
};

/// Sources that are all reached alike, and that try nothing twice.
pub struct AlikeSources {
    sources: Sources,
    site: Site,
}

impl AlikeSources {
    pub fn new(site: Site, stall: Duration) -> Self {
        let retries = Retries { count: 0, ..Retries::default() };
        let options = Options { patience: Patience { stall }, retries, ..Options::default() };
        Self { sources: Sources::new(options), site }
    }

    pub fn open(&self, reference: &Reference) -> Arc<dyn Source> {
        self.sources.open(reference, &self.site)
    }

    /// All of them, opened and resolved, in their order.
    pub async fn resolve_all(&self, references: &[Reference]) -> Vec<(Arc<dyn Source>, Result<Resolved>)> {
        let held = Arc::new(DocumentCache::default());
        let mut answers = Answers::default();
        for (place, reference) in references.iter().enumerate() {
            let source = self.open(reference);
            let resolved = self.sources.resolve(source.clone(), held.clone());
            answers.ask((place, source), resolved);
        }
        let mut heard = Vec::new();
        while let Some(((place, source), result)) = answers.next().await {
            heard.push((place, source, result));
        }
        heard.sort_by_key(|(place, ..)| *place);
        heard.into_iter().map(|(_, source, result)| (source, result)).collect()
    }

    pub async fn close(self) {
        self.sources.close().await;
    }
}

/// Reads a blob in pieces of `piece` bytes.
pub async fn read(source: &dyn Source, blob: &Descriptor, piece: usize) -> Result<Vec<u8>> {
    let mut reader = source.open_blob(blob).await?;
    let mut bytes = Vec::new();
    loop {
        let part = read_part(&mut *reader, piece).await?;
        bytes.extend_from_slice(&part);
        if part.len() < piece {
            break;
        }
    }
    reader.finish().await?;
    Ok(bytes)
}

/// One read into a buffer of `piece` bytes.
pub async fn read_part(reader: &mut dyn BlobReader, piece: usize) -> Result<Vec<u8>> {
    let account = Budget::new(piece).open(piece, Arc::new(|| {})).unwrap();
    let (mut buffer, filled) = reader.read(account.buffer(piece).unwrap()).await?;
    Ok(buffer.bytes_mut()[..filled].to_vec())
}

/// Checks kind and text of an error, and that it is one line.
#[track_caller]
pub fn failure<T: Debug>(result: Result<T>, kind: ErrorKind, part: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

/// This machine, in OCI's terms.
pub fn host() -> String {
    Platform::host().architecture
}
