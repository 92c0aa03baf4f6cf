//! Stored streams of any bytes: what a repository that others damaged makes us read. Knows that reading ends with entries
//! or with an error; ignores how streams are written.

use cfs_dag::{
    store::{Content, Sha256HashValue, StoredDocument, StoredImage, StoredLayer},
    types::{Digest, LayerKind},
};
use composefs::fsverity::FsVerityHashValue;

use super::{
    input,
    store::{OBJECT_BYTES, with_repository},
};

/// Puts the bytes where the stream of a layer, a config and a manifest is, and reads one of them.
///
/// The first byte chooses which, and whether the rest is a file or what one is made of: references, names and chunks.
pub fn stream(data: &[u8]) {
    is_whole_stream(data);
}

/// Whether what [`stream`] reads counts as whole.
pub fn is_whole_stream(data: &[u8]) -> bool {
    let ([flags], data) = input::head(data);
    let bytes = if flags & 1 == 0 { packed(flags, data) } else { data.to_vec() };
    let (digest, id) = (Digest::of(OBJECT_BYTES), Sha256HashValue::from([7; 32]));
    with_repository(|repository| {
        let store = &repository.store;
        let object = format!("objects/{}", id.to_object_pathname());
        repository.put(&object, &bytes);
        for kind in ["layer", "config", "manifest"] {
            repository.link(&format!("streams/oci-{kind}-{digest}"), &format!("../{object}"));
        }
        match flags >> 1 & 3 {
            0 => {
                let layer = store.layer(&digest, LayerKind::Tar).expect("damage is no failure");
                let tree = store.read_tree(&id);
                let whole = matches!(layer, StoredLayer::Whole { .. });
                assert!(
                    tree.is_ok() || !whole,
                    "a layer that counts as whole cannot be read: {:?}",
                    tree.err()
                );
                whole
            }
            1 => matches!(store.config(&digest).expect("damage is no failure"), StoredDocument::Whole(_)),
            2 => matches!(store.image(&digest).expect("damage is no failure"), StoredImage::Whole(_)),
            _ => {
                let layer = store.layer(&digest, LayerKind::Raw).expect("damage is no failure");
                matches!(layer, StoredLayer::Whole { .. })
            }
        }
    })
}

/// A stream as composefs packs it, of what `data` says: references to streams and to objects, names, chunks.
fn packed(flags: u8, data: &[u8]) -> Vec<u8> {
    let ([streams, objects, names], data) = input::head::<3>(data);
    let mut rest = data;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count.min(rest.len()));
        rest = left;
        taken
    };
    let sections =
        [take(32 * usize::from(streams % 4)), take(32 * usize::from(objects % 8)), take(names.into())];
    let [streams, objects, names] = sections;
    let chunks = take(usize::MAX);
    let contents = [Content::Layer, Content::Config, Content::Manifest, Content::Blob];
    let content = contents[usize::from(flags >> 1) % 4];
    let compress = |bytes| zstd::bulk::compress(bytes, 1).expect("memory takes it");
    let mut body = Vec::new();
    let mut ranges = Vec::new();
    for section in [streams.to_vec(), objects.to_vec(), compress(chunks), compress(names)] {
        let start = 112 + body.len() as u64;
        body.extend(section);
        ranges.push((start, 112 + body.len() as u64));
    }
    let mut file = b"SplitStream\0\0\0\x01\x0c".to_vec();
    for (start, end) in std::iter::once((32, 112)).chain(ranges) {
        file.extend(start.to_le_bytes());
        file.extend(u64::to_le_bytes(end));
    }
    file.extend(content.code().to_le_bytes());
    file.extend((chunks.len() as u64).to_le_bytes());
    file.extend(body);
    file
}
