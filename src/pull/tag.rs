//! The tag step: an image becomes visible, bottom-up, after one barrier. Knows what one image reaches;
//! ignores how links and barriers are made.

use std::sync::Arc;

use composefs::fsverity::FsVerityHashValue;
use tokio::sync::oneshot;

use super::{
    context::Context,
    documents::Manifest,
    layer::{Layer, LinkTaken},
};
use crate::{
    exec::{Failure, Ticket},
    store::{LinkSet, Outcome, StoreError, StoredLayer, StreamName, Tag},
    types::{Ambiguity, Digest, LayerKind},
};

/// How often another program may link something of ours just before we do.
const ATTEMPTS: usize = 16;

/// A name and the image that shall have it.
pub(super) struct Name<H: FsVerityHashValue> {
    pub(super) tag: Tag,
    pub(super) manifest: Arc<Manifest<H>>,
    /// Whether the image's ambiguous entries are taken as upstream takes them.
    pub(super) as_upstream: bool,
}

/// One of the layers has an entry that tar readers read differently, and another image of the run took it.
#[derive(Debug, thiserror::Error)]
#[error("layer {place} of {count} (diff_id sha256:{}…): {}", .diff_id.short(), .entry.refusal())]
struct Refused {
    place: usize,
    count: usize,
    diff_id: Digest,
    entry: Ambiguity,
}

#[derive(Debug, thiserror::Error)]
#[error("another program keeps changing {0} while we link it: run again when it has ended")]
struct Contended(StreamName);

impl<H: FsVerityHashValue> Name<H> {
    /// Links everything and sets the name. Waits for the barrier, not on a worker.
    pub(super) async fn publish(self: Arc<Self>, context: Arc<Context<H>>, ticket: Ticket) {
        if ticket.cancel().is_raised() {
            return ticket.cancelled();
        }
        ticket.begin();
        let result = self.link_all(&context).await;
        ticket.finish(result);
    }

    /// Why the image gets no name, if a layer is ambiguous that this run took for another image.
    fn refused(&self) -> Option<Refused> {
        let layers = self.manifest.layers.iter().enumerate();
        let read = layers.filter(|(_, layer)| layer.kind == LayerKind::Tar && !self.as_upstream);
        let mut found = read.filter_map(|(ix, layer)| {
            let entry = layer.ambiguities().into_iter().next()?;
            let count = self.manifest.layers.len();
            Some(Refused { place: ix + 1, count, diff_id: layer.name, entry })
        });
        found.next()
    }

    async fn link_all(&self, context: &Arc<Context<H>>) -> Result<(), Failure> {
        let mut contended = None;
        for _ in 0..ATTEMPTS {
            if let Some(refused) = self.refused() {
                return Err(refused.into());
            }
            let set = self.links(context)?;
            match commit(context, set).await? {
                Outcome::Linked => return Ok(()),
                Outcome::Taken { name } => return Err(LinkTaken(name).into()),
                Outcome::Adopted { name, id } => {
                    self.adopt(context, &name, id)?;
                    contended = Some(name);
                }
            }
        }
        let name = contended.unwrap_or(StreamName::Manifest(self.manifest.digest));
        Err(Contended(name).into())
    }

    fn links(&self, context: &Context<H>) -> Result<LinkSet<H>, Failure> {
        let tree = self.manifest.config.tree.as_ref().and_then(|tree| tree.images());
        Ok(LinkSet {
            layers: self.manifest.layers.iter().filter_map(|layer| layer.link()).collect(),
            images: tree.iter().flat_map(|images| images.iter().cloned()).collect(),
            documents: self.manifest.links(context)?,
            tags: vec![(self.tag.clone(), self.manifest.digest)],
        })
    }

    /// Takes over what someone else linked, and makes the documents anew.
    fn adopt(&self, context: &Context<H>, name: &StreamName, id: H) -> Result<(), Failure> {
        let ours = |layer: &&Arc<Layer<H>>| layer.link().is_some_and(|link| link.name == *name);
        for layer in self.manifest.layers.iter().filter(ours) {
            let content = match context.store.layer(&layer.name, layer.kind)? {
                StoredLayer::Whole { content, .. } => content,
                _ => layer.new_content(),
            };
            layer.set_id(id.clone(), content);
            if layer.kind == LayerKind::Tar {
                layer.add_ambiguities(&context.store.ambiguities(&layer.name)?);
            }
        }
        self.manifest.rewrite(context)
    }
}

async fn commit<H: FsVerityHashValue>(
    context: &Context<H>,
    set: LinkSet<H>,
) -> Result<Outcome<H>, StoreError> {
    let (tell, told) = oneshot::channel();
    // A receiver that has gone away wants no answer.
    context.commit.submit(set, move |result| drop(tell.send(result)));
    told.await.unwrap_or(Err(StoreError::Ended))
}
