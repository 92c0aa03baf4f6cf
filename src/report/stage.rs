//! What the tracker tells the views: layers and images in work, and how they end. Knows the words;
//! ignores how they are found out.

use std::{sync::Arc, time::Duration};

use crate::graph::{ImageIx, Kind, NodeId};

/// What an event meant for layers and images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A layer is stored.
    LayerDone(ActiveLayer),
    /// An image has its name.
    ImageDone(ImageIx),
    /// An image will not be there; the text is one line for people. Said once an image.
    ImageFailed(ImageIx, Arc<str>),
}

/// A layer in work, or just done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveLayer {
    /// Its last node.
    pub finalize: NodeId,
    /// The first image that wants it.
    pub image: Option<ImageIx>,
    /// When its first node started.
    pub since: Duration,
    /// The step that holds it up.
    pub stage: Stage,
    /// Bytes of its present blob that have come.
    pub bytes: u64,
    /// The size of that blob; 0 if not known.
    pub size_bytes: u64,
}

/// What a layer is held up by: its first step that has not ended. The later ones may have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A blob of it comes.
    Fetching,
    /// The blob is here and is inflated and cut into pieces.
    Splitting,
    /// Its files are hashed and written.
    Writing,
    /// Its stream is put together.
    Encoding,
    /// Its stream is stored, or will be when a worker is free.
    Finalizing,
}

impl Stage {
    /// The stage that a step between the first and the last one makes.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Split => Some(Stage::Splitting),
            Kind::Write => Some(Stage::Writing),
            Kind::Encode => Some(Stage::Encoding),
            Kind::Fetch | Kind::Finalize | Kind::Config | Kind::Manifest | Kind::Filesystem | Kind::Tag => {
                None
            }
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Fetching => "fetching",
            Stage::Splitting => "splitting",
            Stage::Writing => "writing",
            Stage::Encoding => "encoding",
            Stage::Finalizing => "finalizing",
        }
    }
}

/// A step of images, not of a layer, that is in work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStep {
    /// The filesystem of these images is being built.
    Building(Vec<ImageIx>),
    /// These images are written to the disk and get their names.
    Committing(Vec<ImageIx>),
}
