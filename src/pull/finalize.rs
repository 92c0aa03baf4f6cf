//! The finalize step: a layer's complete stream becomes an object, and is handed in to be linked. Knows the
//! stream as bytes; ignores what is in it.

use std::{io, io::IoSlice, io::Write, sync::Arc};

use composefs::fsverity::FsVerityHashValue;

use super::{context::Context, layer::Layer};
use crate::{
    exec::Failure,
    graph::{Key, Kind},
    layer::verity::{self, SEGMENT, SegmentDigests},
    store::{FinishedStream, LinkSet, Output, Record, StoreError},
};

/// Streams up to this many bytes are stored out of memory.
const IN_MEMORY: u64 = 4 << 20;

/// Stores the stream of `layer` and asks for its link, so that a run that ends early need not do it again.
pub(super) fn finalize<H: FsVerityHashValue>(
    context: &Context<H>,
    layer: &Arc<Layer<H>>,
    key: Key,
) -> Result<(), Failure> {
    let Some(stream) = layer.take_stream() else { return Err(NoStream.into()) };
    let fault = |cause: io::Error| context.store.explain("storing a layer's stream", cause);
    let stream = stream.finish().map_err(fault)?;
    let id = if stream.len() <= IN_MEMORY {
        let mut bytes = Vec::with_capacity(stream.len() as usize);
        stream.read(|piece| bytes.write_all(piece)).map_err(fault)?;
        let id: H = verity::digest(&[&bytes]);
        context.store.put(&id, &[IoSlice::new(&bytes)])?;
        id
    } else {
        store_spooled(context, &stream)?
    };
    layer.set_id(id.clone(), layer.new_content());
    let claim = layer.take_claim();
    layer.release();
    let ambiguities = layer.ambiguities();
    if !ambiguities.is_empty() {
        context.store.note_ambiguities(&layer.name, &ambiguities)?;
    }
    remember(context, layer, key, Output { id: id.to_hex(), size: stream.len() });
    // Whoever needs the link hands it in again and hears what became of it.
    let layers = layer.link().into_iter().collect();
    context.commit.submit(LinkSet { layers, ..LinkSet::default() }, |_| drop(claim));
    Ok(())
}

/// Notes what the layer was and cost, for estimates and reports. A lost note costs nothing but that.
fn remember<H: FsVerityHashValue>(context: &Context<H>, layer: &Layer<H>, key: Key, stream: Output) {
    let counts = layer.counts.named().map(|(name, count)| (name.to_owned(), count)).into();
    let links = layer.link().map(|link| format!("streams/{}", link.name)).into_iter().collect();
    let kind = Kind::Finalize.name().to_owned();
    let record = Record { kind, outputs: vec![stream], links, counts, millis: layer.millis() };
    let _ = context.store.remember(&key.hex(), &record);
}

fn store_spooled<H: FsVerityHashValue>(
    context: &Context<H>,
    stream: &FinishedStream<H>,
) -> Result<H, StoreError> {
    let fault = |cause: io::Error| context.store.explain("storing a layer's stream", cause);
    let mut file = context.store.spool().map_err(fault)?;
    let mut digests: Vec<SegmentDigests<H>> = Vec::new();
    let mut segment = Vec::with_capacity(SEGMENT);
    let each = |mut piece: &[u8]| {
        file.write_all(piece)?;
        while !piece.is_empty() {
            let take = piece.len().min(SEGMENT - segment.len());
            segment.extend_from_slice(&piece[..take]);
            piece = &piece[take..];
            if segment.len() == SEGMENT {
                digests.push(verity::segment(&[&segment]));
                segment.clear();
            }
        }
        Ok(())
    };
    stream.read(each).map_err(fault)?;
    if !segment.is_empty() {
        digests.push(verity::segment(&[&segment]));
    }
    let id = verity::join(&digests, stream.len());
    context.store.put_file(&id, file, stream.len())?;
    Ok(id)
}

#[derive(Debug, thiserror::Error)]
#[error("the layer's stream was not encoded (a defect in this program, please report it)")]
struct NoStream;
