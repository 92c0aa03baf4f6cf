//! References become images: manifests and configs, fetched side by side. Knows names and their clashes, and what the
//! repository can tell instead of a registry; ignores how a transport works.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    graph::{ImageInput, Inputs, LayerInput},
    source::{Documents, Reference, Resolved, Result as SourceResult, Site, Source, SourceError, Sources},
    store::{AnyStore, Tag},
    types::{Digest, LayerKind},
    with_store,
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
    /// How it is reached, and for which platform.
    pub site: Arc<Site>,
    /// Its name stands for the same image for ever: if it is there, nobody is asked.
    pub immutable: bool,
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

/// Something that could not be resolved.
pub struct Unresolved {
    /// Its place in the request.
    pub place: usize,
    /// The name that it would have got.
    pub name: String,
    /// What was asked for, as the user wrote it.
    pub text: String,
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

/// What the repository of a run can tell, if there is one.
pub struct Stored(Option<AnyStore>);

impl Stored {
    /// What `store` can tell.
    pub fn of(store: Option<&AnyStore>) -> Self {
        Self(store.cloned())
    }

    /// The image that has this name, if no registry could say anything else about it: its tag is not expected to move, or
    /// its digest is in the reference; and it is whole, and for the platform that is asked for. With a signature policy
    /// nobody but skopeo can say.
    fn image(&self, asked: &Asked) -> Option<Resolved> {
        let pinned = asked.reference.pinned();
        if !(asked.immutable || pinned.is_some()) || asked.site.access.policy.is_some() {
            return None;
        }
        let tag = Tag::new(&asked.name).ok()?;
        let found = with_store!(self.0.as_ref()?, store => store.tagged_image(&tag)).ok()??;
        let stored =
            Resolved::from_documents(found.manifest, found.config, asked.site.platform.as_ref()).ok()?;
        Some(stored).filter(|stored| pinned.is_none_or(|pinned| pinned == stored.manifest_digest))
    }
}

impl Documents for Stored {
    fn config(&self, digest: &Digest) -> Option<Vec<u8>> {
        with_store!(self.0.as_ref()?, store => store.config_bytes(digest)).ok()?
    }
}

/// Resolves all images; `done` hears of each as it comes, by its place.
pub async fn resolve(
    asked: Vec<Asked>,
    sources: &Sources,
    stored: Arc<Stored>,
    mut done: impl FnMut(usize, &SourceResult<Resolved>),
) -> Resolution {
    let firsts = firsts(&asked);
    let mut opened: Vec<Arc<dyn Source>> = Vec::with_capacity(asked.len());
    for (place, asked) in asked.iter().enumerate() {
        let alike = opened.get(firsts[place]).cloned();
        opened.push(alike.unwrap_or_else(|| sources.open(&asked.reference, &asked.site)));
    }
    let mut results: Vec<Option<SourceResult<Resolved>>> =
        asked.iter().map(|asked| stored.image(asked).map(Ok)).collect();
    let is_unknown = |place: &usize| results[*place].is_none();
    let mut places: Vec<usize> = (0..asked.len()).filter(is_unknown).map(|place| firsts[place]).collect();
    places.sort_unstable();
    places.dedup();
    let unknown: Vec<Arc<dyn Source>> = places.iter().map(|place| opened[*place].clone()).collect();
    let found = sources.resolve_all(&unknown, stored, |at, result| done(places[at], result)).await;
    let found: HashMap<usize, SourceResult<Resolved>> = places.into_iter().zip(found).collect();
    for (result, first) in results.iter_mut().zip(&firsts).filter(|(result, _)| result.is_none()) {
        *result = found.get(first).cloned();
    }
    let mut resolution = Resolution::default();
    for (place, ((asked, source), result)) in asked.into_iter().zip(opened).zip(results).enumerate() {
        match result {
            Some(Ok(resolved)) => {
                tracing::info!("{} is {}", asked.text, resolved.manifest_digest);
                resolution.images.push(ResolvedImage { place, asked, source, resolved });
            }
            Some(Err(error)) => {
                resolution.failed.push(Unresolved { place, name: asked.name, text: asked.text, error })
            }
            None => {}
        }
    }
    resolution
}

/// For each image the place of the first one that is the same, whatever its name: nobody is asked twice.
fn firsts(asked: &[Asked]) -> Vec<usize> {
    let mut places = HashMap::new();
    let first = |(place, asked): (usize, &Asked)| {
        *places.entry((asked.reference.for_skopeo(), asked.site.clone())).or_insert(place)
    };
    asked.iter().enumerate().map(first).collect()
}

impl Resolution {
    /// What a plan for these images is made from; `repository` and `platform` as in [`Inputs`].
    pub fn inputs(&self, repository: String, platform: Option<String>) -> Inputs {
        let images = self.images.iter().map(|image| image.input(platform.as_deref())).collect();
        Inputs { images, repository, platform, ..Inputs::default() }
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
    fn input(&self, platform: Option<&str>) -> ImageInput {
        let resolved = &self.resolved;
        let own_platform = self.asked.site.platform.as_ref().map(|platform| platform.to_string());
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
            platform: own_platform.filter(|own| platform != Some(own)),
        }
    }
}
