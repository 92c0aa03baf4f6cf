//! References become images: manifests and configs, fetched side by side. Knows names and their clashes;
//! ignores how a transport works.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    graph::{ImageInput, Inputs, LayerInput},
    source::{Reference, Resolved, Source, SourceError, Sources},
    types::LayerKind,
};

/// An image that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where it is.
    pub reference: Reference,
    /// The reference as the user wrote it.
    pub text: String,
    /// The name that it shall get.
    pub name: String,
}

/// An image whose manifest and config are here.
pub struct ResolvedImage {
    /// Its place in the request.
    pub place: usize,
    /// What was asked for.
    pub asked: Asked,
    /// Where its blobs come from.
    pub source: Arc<dyn Source>,
    /// Manifest, config and layers, verified.
    pub resolved: Resolved,
}

/// An image that could not be resolved.
pub struct Unresolved {
    /// Its place in the request.
    pub place: usize,
    /// What was asked for.
    pub asked: Asked,
    /// Why not.
    pub error: SourceError,
}

/// What became of a request's references.
#[derive(Default)]
pub struct Resolution {
    /// In the order of the request.
    pub images: Vec<ResolvedImage>,
    /// In the order of the request.
    pub failed: Vec<Unresolved>,
}

/// Resolves all images, `at_once` at a time.
pub async fn resolve(asked: Vec<Asked>, sources: &Sources, at_once: usize) -> Resolution {
    let references: Vec<Reference> = asked.iter().map(|asked| asked.reference.clone()).collect();
    let results = sources.resolve_all(&references, at_once).await;
    let mut resolution = Resolution::default();
    for (place, (asked, (source, result))) in asked.into_iter().zip(results).enumerate() {
        match result {
            Ok(resolved) => {
                tracing::info!("{} is {}", asked.text, resolved.manifest_digest);
                resolution.images.push(ResolvedImage { place, asked, source, resolved })
            }
            Err(error) => resolution.failed.push(Unresolved { place, asked, error }),
        }
    }
    resolution
}

impl Resolution {
    /// What a plan for these images is made from; `repository` as in [`Inputs`].
    pub fn inputs(&self, repository: String) -> Inputs {
        let images = self.images.iter().map(ResolvedImage::input).collect();
        Inputs { images, repository, ..Inputs::default() }
    }

    /// A name that two different images of the request would get, with their references.
    pub fn clash(&self) -> Option<(&str, &str, &str)> {
        let mut names: BTreeMap<&str, &ResolvedImage> = BTreeMap::new();
        for image in &self.images {
            let first = *names.entry(&image.asked.name).or_insert(image);
            if first.resolved.manifest_digest != image.resolved.manifest_digest {
                return Some((&image.asked.name, &first.asked.text, &image.asked.text));
            }
        }
        None
    }
}

impl ResolvedImage {
    fn input(&self) -> ImageInput {
        let resolved = &self.resolved;
        let layers = resolved.layers.iter().enumerate().map(|(ix, blob)| {
            let diff_id = resolved.diff_ids.as_ref().and_then(|ids| ids.get(ix)).copied();
            let kind = match diff_id {
                Some(_) => LayerKind::Tar,
                None if LayerKind::is_tar_media_type(&blob.media_type) => LayerKind::ArtifactTar,
                None => LayerKind::Raw,
            };
            LayerInput { name: diff_id.unwrap_or(blob.digest), kind, blob: blob.clone() }
        });
        ImageInput {
            name: self.asked.name.clone(),
            reference: self.asked.text.clone(),
            manifest: (resolved.manifest_digest, resolved.manifest.len() as u64),
            config: (resolved.config_digest, resolved.config.len() as u64),
            layers: layers.collect(),
            container: resolved.is_container,
            platform: None,
        }
    }
}
