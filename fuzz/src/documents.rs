//! Manifests, configs and indexes of any bytes, as an OCI layout serves them. Knows that what is resolved is what the
//! documents say; ignores layers.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use cfs_dag::{
    source::{DocumentCache, LayoutSource, Platform, Reference, Resolved, Source},
    types::{Digest, MAX_DOCUMENT},
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::input;

/// More documents than an input needs: each is a file.
const MOST: usize = 8;

struct Layout {
    dir: TempDir,
    runtime: Runtime,
}

thread_local! {
    static LAYOUT: RefCell<Option<Layout>> = const { RefCell::new(None) };
}

/// Resolves the image of a layout whose documents are the parts of `data`, `index.json` first.
///
/// In a part, `@` and a digit stand for the digest of the part of that number, and `#` and a digit for its length; a part
/// can name only those after it. The last bytes of `data` choose what is asked for.
pub fn documents(data: &[u8]) {
    let ([flags], data) = input::head(data);
    let documents = linked(&input::parts(data));
    LAYOUT.with_borrow_mut(|slot| {
        let layout = slot.get_or_insert_with(Layout::new);
        let files: Vec<PathBuf> = documents
            .iter()
            .map(|bytes| layout.put(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes))
            .collect();
        layout.put("index.json", &documents[0]);
        for platform in [None, Some("linux/arm64/v8")] {
            let platform: Option<Platform> = platform.and_then(|text| text.parse().ok());
            if let Some(resolved) = layout.resolve(flags, &documents, platform.clone()) {
                check(resolved, &documents, platform.as_ref());
            }
        }
        for file in files {
            let _ = fs::remove_file(file);
        }
    });
}

/// The parts with their references filled in, from the last to the first.
fn linked(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let parts = &parts[..parts.len().min(MOST)];
    let mut documents = vec![Vec::new(); parts.len()];
    for (at, part) in parts.iter().enumerate().rev() {
        let (mut text, mut rest) = (Vec::new(), *part);
        while let Some((&byte, tail)) = rest.split_first() {
            let named = tail.first().map(|digit| usize::from(digit.wrapping_sub(b'0')));
            let named = named.filter(|named| *named > at && *named < parts.len());
            rest = match (byte, named) {
                (b'@', Some(named)) => {
                    text.extend(Digest::of(&documents[named]).to_string().bytes());
                    &tail[1..]
                }
                (b'#', Some(named)) => {
                    text.extend(documents[named].len().to_string().bytes());
                    &tail[1..]
                }
                _ => {
                    text.push(byte);
                    tail
                }
            };
        }
        documents[at] = text;
    }
    documents
}

impl Layout {
    fn new() -> Self {
        let layout = Self {
            dir: tempfile::tempdir().expect("a scratch folder"),
            runtime: Builder::new_current_thread().build().expect("a runtime"),
        };
        fs::create_dir_all(layout.dir.path().join("blobs/sha256")).expect("a scratch folder");
        layout.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        layout
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(Path::new(name));
        fs::write(&path, bytes).expect("a file of the layout");
        path
    }

    fn resolve(&self, flags: u8, documents: &[Vec<u8>], platform: Option<Platform>) -> Option<Resolved> {
        let path = self.dir.path().display();
        let text = match flags % 3 {
            0 => format!("oci:{path}"),
            1 => format!("oci:{path}:v1"),
            _ => format!("oci:{path}@{}", Digest::of(documents.last()?)),
        };
        let reference: Reference = text.parse().expect("a reference");
        let source = LayoutSource::new(&reference, platform);
        let held = DocumentCache::default();
        match self.runtime.block_on(source.resolve(&held)) {
            Ok(resolved) => Some(resolved),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                None
            }
        }
    }
}

/// That everything of an image is what its documents say, and reads back from them alone.
fn check(resolved: Resolved, documents: &[Vec<u8>], platform: Option<&Platform>) {
    assert_eq!(Digest::of(&resolved.manifest), resolved.manifest_digest);
    assert_eq!(Digest::of(&resolved.config), resolved.config_digest);
    assert!(resolved.manifest.len() as u64 <= MAX_DOCUMENT && resolved.config.len() as u64 <= MAX_DOCUMENT);
    let is_one = |found: &[u8]| documents.iter().any(|bytes| bytes == found);
    assert!(is_one(&resolved.config), "the config is none of the documents");
    match resolved.original_digest {
        Some(original) => assert!(documents.iter().any(|bytes| Digest::of(bytes) == original)),
        None => assert!(is_one(&resolved.manifest), "the manifest is none of the documents"),
    }
    assert_eq!(resolved.is_container, resolved.diff_ids.is_some());
    if let Some(ids) = &resolved.diff_ids {
        assert_eq!(ids.len(), resolved.layers.len());
    }
    let (manifest, config) = (resolved.manifest.to_vec(), resolved.config.to_vec());
    let stored = Resolved::from_documents(manifest, config, platform).expect("it was resolved once");
    assert_eq!(stored, Resolved { original_digest: None, ..resolved });
}
