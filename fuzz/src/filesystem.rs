//! Filesystems out of any entries: what an image's EROFS is made of. Knows that building one ends with an image or with
//! an error; ignores how entries are split.

use cfs_dag::{
    store::{FilesystemBuilder, FormatVersion},
    types::LayerKind,
};

use super::{input, memory, split};

/// Builds the filesystem of two layers. The first byte says where, in 256ths, the one ends and the other begins.
pub fn filesystem(data: &[u8]) {
    let ([place], data) = input::head(data);
    let blocks = data.len() / 512;
    let (below, above) = data.split_at(blocks * usize::from(place) / 256 * 512);
    let mut builder = FilesystemBuilder::default();
    for tar in [below, above].map(split::mended) {
        builder.begin_layer();
        let Ok(split) = split::cut(&tar, LayerKind::Tar, &mut std::iter::once(tar.len())) else { return };
        for entry in split.entries {
            if builder.add(split::as_upstreams(entry)).is_err() {
                return;
            }
        }
    }
    let parents = usize::try_from(builder.made_parents().entries).unwrap_or(usize::MAX);
    let Ok(filesystem) = builder.finish() else { return };
    for format in [FormatVersion::V1, FormatVersion::V2] {
        // An entry takes up to a few blocks of 4 KiB, and there is at most one in 512 bytes, besides the directories that
        // are made for it.
        let limit = (8 << 20) + 200 * data.len() + parents * (16 << 10);
        let image = memory::bounded("the filesystem image", limit, || filesystem.erofs(format));
        assert!(image.len().is_multiple_of(4096) && image == filesystem.erofs(format));
    }
}
