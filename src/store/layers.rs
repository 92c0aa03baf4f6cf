//! Layers that are stored already: which can be adopted, and what is in them. Knows streams and gc's habits;
//! ignores where layers come from.
//!
//! A link proves little: a gc that was killed half-way leaves links whose files are gone. What a
//! tagged image reaches is spared by every gc and is believed; anything else is walked, object by
//! object, before it is adopted.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Write as _},
    sync::PoisonError,
};

use composefs::{
    fsverity::FsVerityHashValue,
    splitstream::{SplitStreamData, SplitStreamReader},
    tree::{LeafContent, RegularFile},
};
use composefs_oci::tar::{TarEntry, TarItem, get_entry};
use rustix::{fs::Stat, io::Errno};

use super::{
    Content, Store, StoreError, StreamName,
    error::{errno_in, shortage_in},
    objects::object_path,
    stream::Opened,
};
use crate::types::{Digest, LayerKind, Sha256};

/// What is stored of a layer. `name` is the link that it has, or that it would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredLayer<H> {
    /// Nothing.
    Missing {
        /// The link to make.
        name: StreamName,
    },
    /// A stream that may be adopted: it opens, has the right content, and all its objects are there.
    Whole {
        /// Its link.
        name: StreamName,
        /// The stream.
        id: H,
        /// What it holds.
        content: Content,
    },
    /// A link whose stream or objects are gone or truncated: split again, the same id results.
    Broken {
        /// The link; it may be replaced.
        name: StreamName,
        /// What it points to.
        id: H,
        /// What is wrong.
        fault: Fault,
    },
    /// The link is taken by content of the other kind, which stays: this layer cannot be stored here.
    Foreign {
        /// The link.
        name: StreamName,
    },
}

/// What is wrong with something that is linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This is missing or cannot be read.
    Missing(String),
    /// This object has another size than it should.
    Size(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => f.write_str(what),
            Self::Size(object) => write!(f, "{object} has another size than it should"),
        }
    }
}

/// What a linked stream is worth.
pub(super) enum Examined {
    Whole(Content),
    Broken(Fault),
}

impl<H: FsVerityHashValue> Store<H> {
    /// What is stored of the layer `digest`: a `diff_id`, or an artifact's blob digest. Writes nothing.
    ///
    /// # Errors
    /// Failures that say nothing about the layer.
    pub fn layer(&self, digest: &Digest, kind: LayerKind) -> Result<StoredLayer<H>, StoreError> {
        let name = StreamName::Layer(*digest);
        let allowed: &[Content] = match kind {
            LayerKind::Tar => &[Content::Layer],
            // Raw if it turned out to be no tar.
            LayerKind::ArtifactTar => &[Content::Layer, Content::Blob],
            LayerKind::Raw => &[Content::Blob],
        };
        match self.stored_under(name, allowed)? {
            StoredLayer::Foreign { .. } if kind == LayerKind::Raw => {
                self.stored_under(StreamName::Blob(*digest), allowed)
            }
            stored => Ok(stored),
        }
    }

    fn stored_under(&self, name: StreamName, allowed: &[Content]) -> Result<StoredLayer<H>, StoreError> {
        let Some(id) = self.linked(&name)? else { return Ok(StoredLayer::Missing { name }) };
        Ok(match self.examine(&id)? {
            Examined::Whole(content) if allowed.contains(&content) => {
                StoredLayer::Whole { name, id, content }
            }
            Examined::Whole(_) => StoredLayer::Foreign { name },
            Examined::Broken(fault) => StoredLayer::Broken { name, id, fault },
        })
    }

    /// Reads a stored layer back: the entries of its tar in order, as they are asked for.
    ///
    /// # Errors
    /// A stream that is missing, corrupt or no layer; some of that is found when an entry is asked for.
    pub fn read_tree(
        &self,
        id: &H,
    ) -> Result<impl Iterator<Item = Result<TarEntry<H>, StoreError>> + use<H>, StoreError> {
        let what = object_path(id);
        let damaged = move |detail| StoreError::Damaged { what: what.clone(), detail };
        let mut stream = match self.open_stream(id)? {
            Opened::Stream(stream) if stream.content_type == Content::Layer.code() => stream,
            Opened::Stream(_) => return Err(damaged("it is no layer".into())),
            Opened::Broken(why) => return Err(damaged(why)),
        };
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let entry = get_entry(&mut stream).map_err(|error| damaged(format!("{error:#}")));
            failed = entry.is_err();
            entry.transpose()
        }))
    }

    /// Whether the tar in a layer's stream, which is read whole, has this digest.
    ///
    /// # Errors
    /// Failures that say nothing about the stream.
    pub(super) fn is_tar(&self, id: &H, digest: &Digest) -> Result<bool, StoreError> {
        loop {
            let Opened::Stream(mut stream) = self.open_stream(id)? else { return Ok(false) };
            let (mut found, mut fault) = (Sha256::default(), None);
            // Upstream's own way of reading it all follows links and waits for pipes.
            let walked = stream.for_each_chunk(|chunk| {
                match chunk {
                    SplitStreamData::Inline(bytes) => found.write_all(&bytes)?,
                    SplitStreamData::External(object) => match self.open_verified(&object) {
                        Ok(Ok(mut file)) => drop(io::copy(&mut file, &mut found)?),
                        Ok(Err(why)) => anyhow::bail!(why),
                        Err(error) => {
                            fault = Some(error);
                            anyhow::bail!("an object cannot be read");
                        }
                    },
                }
                Ok(())
            });
            if let Some(fault) = fault {
                return Err(fault);
            }
            let Err(error) = walked else { return Ok(found.finish() == *digest) };
            if let Some(errno) = shortage_in(&error) {
                return Err(self.fault(object_path(id), errno));
            }
            if errno_in(&error) != Some(Errno::INTR) {
                return Ok(false);
            }
        }
    }

    /// Whether a tagged image reaches the stream or filesystem image `id`, so that every gc spares it.
    ///
    /// As of the first question in this run: what is tagged meanwhile was checked by whoever tagged it. Of a
    /// repository in which a check has found damage nothing is believed.
    ///
    /// # Errors
    /// The system's.
    pub fn is_reached(&self, id: &H) -> Result<bool, StoreError> {
        if self.is_doubted() {
            return Ok(false);
        }
        let mut slot = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.read_reached()?);
        }
        Ok(slot.as_ref().is_some_and(|reached| reached.contains(id)))
    }

    /// All streams and filesystem images that tagged manifests and their configs name, and they themselves.
    pub(super) fn read_reached(&self) -> Result<HashSet<H>, StoreError> {
        let mut reached = HashSet::new();
        let manifests: HashSet<Digest> = self.tags()?.into_iter().map(|(_, manifest)| manifest).collect();
        for manifest in manifests {
            // What does not open keeps nothing alive.
            let Some(id) = self.linked(&StreamName::Manifest(manifest))? else { continue };
            let Opened::Stream(manifest) = self.open_stream(&id)? else { continue };
            reached.insert(id);
            for (name, id) in manifest.iter_named_refs() {
                reached.insert(id.clone());
                if name.starts_with("config:")
                    && let Opened::Stream(config) = self.open_stream(id)?
                {
                    reached.extend(config.iter_named_refs().map(|(_, id)| id.clone()));
                }
            }
        }
        Ok(reached)
    }

    /// Opens a stream that has a link and, unless a tagged image reaches it, walks it.
    pub(super) fn examine(&self, id: &H) -> Result<Examined, StoreError> {
        let stream = match self.peek_stream(id)? {
            Ok(stream) => stream,
            Err(why) => return Ok(Examined::Broken(Fault::Missing(why))),
        };
        let known = [Content::Layer, Content::Blob, Content::Config, Content::Manifest];
        let Some(content) = known.into_iter().find(|content| content.code() == stream.content_type) else {
            return Ok(Examined::Broken(Fault::Missing("it holds something unknown".into())));
        };
        if self.is_reached(id)? {
            return Ok(Examined::Whole(content));
        }
        let mut stream = match stream.open()? {
            Opened::Stream(stream) => stream,
            Opened::Broken(why) => return Ok(Examined::Broken(Fault::Missing(why))),
        };
        let fault = match content {
            Content::Layer => self.find_fault(&mut stream)?,
            _ => self.find_blob_fault(&mut stream)?,
        };
        Ok(fault.map_or(Examined::Whole(content), Examined::Broken))
    }

    /// The first thing wrong with a layer's objects.
    fn find_fault(&self, stream: &mut SplitStreamReader<H>) -> Result<Option<Fault>, StoreError> {
        let mut unseen = references(stream);
        loop {
            let entry = match get_entry(stream) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => return Ok(Some(Fault::Missing(format!("{error:#}")))),
            };
            if let TarItem::Leaf(LeafContent::Regular(RegularFile::External(id, size))) = &entry.item
                && unseen.remove(id)
                && !self.contains(id, *size)?
            {
                return self.fault_of(id, *size).map(Some);
            }
        }
        // References that no entry uses: upstream writes none, but a gc and an fsck would follow them.
        for id in unseen {
            let size = self.stored_size(&id)?;
            let there = match size {
                Some(size) if self.is_doubted() => self.contains(&id, size)?,
                size => size.is_some(),
            };
            if !there {
                return self.fault_of(&id, size.unwrap_or(0)).map(Some);
            }
        }
        Ok(None)
    }

    /// What is wrong with an object that is not there as it should be.
    fn fault_of(&self, id: &H, size: u64) -> Result<Fault, StoreError> {
        let path = object_path(id);
        Ok(match self.stored_size(id)? {
            None => Fault::Missing(format!("{path} is missing")),
            Some(found) if found == size => Fault::Missing(format!("{path} is not what its name says")),
            Some(_) => Fault::Size(path),
        })
    }

    /// The size of the object's file, if there is one.
    fn stored_size(&self, id: &H) -> Result<Option<u64>, StoreError> {
        if let Some(unnamed) = self.objects.staged.get(id) {
            return Ok(Some(unnamed.size));
        }
        let size = |found: Stat| u64::try_from(found.st_size).unwrap_or(0);
        Ok(self.object_stat(id)?.map(size))
    }

    /// The first thing wrong with a stream of one object.
    fn find_blob_fault(&self, stream: &mut SplitStreamReader<H>) -> Result<Option<Fault>, StoreError> {
        let size = stream.total_size;
        for id in references(stream) {
            if !self.contains(&id, size)? {
                return self.fault_of(&id, size).map(Some);
            }
        }
        Ok(None)
    }
}

fn references<H: FsVerityHashValue>(stream: &mut SplitStreamReader<H>) -> HashSet<H> {
    let mut ids = HashSet::new();
    // Cannot fail: it only walks a table in memory.
    let _ = stream.get_object_refs(|id| {
        ids.insert(id.clone());
    });
    ids
}
