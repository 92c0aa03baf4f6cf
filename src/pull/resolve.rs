//! References become images: manifests and configs, fetched side by side. Knows names and their clashes, and
//! what the repository can tell instead of a registry; ignores how a transport works.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    graph::{ImageInput, Inputs, LayerInput},
    source::{
        Answers, DocumentCache, Documents, ErrorKind, Reference, Resolved, Result as SourceResult, Site,
        Source, SourceError, Sources,
    },
    store::{AnyStore, FsVerityHashValue, Store, StoreError, StreamName, Tag},
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
    /// Whether entries that tar readers read differently are taken as upstream takes them;
    /// otherwise they are refused.
    pub as_upstream: bool,
}

/// An image whose manifest and config are here.
pub struct ResolvedImage {
    /// Its place in the request: results are told in the order of places.
    pub place: u64,
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
    pub place: u64,
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

/// What became of images that were given up before a run.
pub struct GivenUp {
    /// Those that had failed by themselves.
    pub failed: Vec<Unresolved>,
    /// All others.
    pub others: Vec<Unresolved>,
}

/// What the repository of a run can tell, if there is one.
pub struct Stored(Option<AnyStore>);

impl Stored {
    /// What `store` can tell.
    pub fn of(store: Option<&AnyStore>) -> Self {
        Self(store.cloned())
    }

    /// The image that has this name, if no registry could say anything else about it: its tag is not expected
    /// to move, or its digest is in the reference; and it is whole, and for the platform that is asked for.
    /// With a signature policy nobody but skopeo can say.
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

/// Images on their way: asked for, heard of as they come, and handed out when there is time for them. They go
/// on while nobody listens.
pub struct Resolving<'a> {
    sources: &'a Sources,
    stored: Arc<Stored>,
    held: Arc<DocumentCache>,
    answers: Answers<Question, Resolved>,
    here: Resolution,
}

/// An image that was asked for, and everyone who did so, by their places in the request:
/// nobody is asked twice.
struct Question {
    source: Arc<dyn Source>,
    askers: Vec<(u64, Asked)>,
}

impl<'a> Resolving<'a> {
    /// Nothing is asked for yet; what `stored` can tell is not asked of anyone.
    pub fn new(sources: &'a Sources, stored: Arc<Stored>) -> Self {
        let held = Arc::new(sources.held(stored.clone()));
        Self { sources, stored, held, answers: Answers::default(), here: Resolution::default() }
    }

    /// Asks for images, each with its place in the request; `owed` hears of each answer that has to come, by
    /// its registry. Must be called inside a tokio runtime.
    pub fn ask(&mut self, asked: Vec<(u64, Asked)>, mut owed: impl FnMut(Option<&str>)) {
        let mut questions: Vec<Question> = Vec::new();
        let mut alike = HashMap::new();
        for (place, asked) in asked {
            if let Some(mut resolved) = self.stored.image(&asked) {
                let source = self.sources.open(&asked.reference, &asked.site);
                let answer = self.held.hold(&mut resolved).map(|()| resolved);
                self.here.add(place, asked, source, answer);
                continue;
            }
            let at = *alike.entry((asked.reference.for_skopeo(), asked.site.clone())).or_insert_with(|| {
                let source = self.sources.open(&asked.reference, &asked.site);
                questions.push(Question { source, askers: Vec::new() });
                questions.len() - 1
            });
            questions[at].askers.push((place, asked));
        }
        for question in questions {
            owed(question.source.host().name());
            let resolved = self.sources.resolve(question.source.clone(), self.held.clone());
            self.answers.ask(question, resolved);
        }
    }

    /// Waits for the next answer: the name of the registry that gave it, if it has one, and whether it is an
    /// image; or `None` if all have come. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(Option<String>, bool)> {
        let (Question { source, askers }, answer) = self.answers.next().await?;
        for (place, asked) in askers {
            self.here.add(place, asked, source.clone(), answer.clone());
        }
        Some((source.host().name().map(str::to_owned), answer.is_ok()))
    }

    /// Whether all that was asked for is here.
    pub fn is_complete(&self) -> bool {
        self.answers.is_empty()
    }

    /// Hands out what is here, in the order of the request.
    pub fn take(&mut self) -> Resolution {
        let mut here = std::mem::take(&mut self.here);
        here.images.sort_by_key(|image| image.place);
        here.failed.sort_by_key(|failed| failed.place);
        for image in &here.images {
            tracing::info!("{} is {}", image.asked.text, image.resolved.manifest_digest);
        }
        here
    }

    /// Gives up what was not handed out: what failed by itself is told with its own error, and all else, here
    /// or on its way, with `error`.
    pub fn give_up(&mut self, error: &SourceError) -> GivenUp {
        let Resolution { images, failed } = self.take();
        let late = self.late().map(|(place, asked)| Unresolved::new(*place, asked, error.clone()));
        let late: Vec<Unresolved> = late.collect();
        let others = images.iter().map(|image| image.given_up(error.clone())).chain(late).collect();
        GivenUp { failed, others }
    }

    /// What has not been heard of, with its place.
    pub fn late(&self) -> impl Iterator<Item = &(u64, Asked)> {
        self.answers.unanswered().flat_map(|question| &question.askers)
    }
}

impl Unresolved {
    /// What was asked for at a place of the request, and why it could not be had.
    pub fn new(place: u64, asked: &Asked, error: SourceError) -> Self {
        Self { place, name: asked.name.clone(), text: asked.text.clone(), error }
    }
}

impl Resolution {
    fn add(&mut self, place: u64, asked: Asked, source: Arc<dyn Source>, answer: SourceResult<Resolved>) {
        match answer {
            Ok(resolved) => self.images.push(ResolvedImage { place, asked, source, resolved }),
            Err(error) => self.failed.push(Unresolved::new(place, &asked, error)),
        }
    }

    /// Gives up the images that have a layer which is stored and was noted as ambiguous, unless they take
    /// such layers as upstream does.
    pub fn refuse_ambiguous<H: FsVerityHashValue>(&mut self, store: &Store<H>) -> Result<(), StoreError> {
        if !store.has_ambiguous_layers() {
            return Ok(());
        }
        let images = std::mem::take(&mut self.images);
        for image in images {
            match image.noted(store)?.filter(|_| !image.asked.as_upstream) {
                Some(line) => self.failed.push(image.given_up(SourceError::new(ErrorKind::Corrupt, line))),
                None => self.images.push(image),
            }
        }
        self.failed.sort_by_key(|failed| failed.place);
        Ok(())
    }

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
    /// The same as an image that could not be had, because of `error`.
    pub fn given_up(&self, error: SourceError) -> Unresolved {
        Unresolved::new(self.place, &self.asked, error)
    }

    /// What was noted about one of its stored layers, as an error's text.
    fn noted<H: FsVerityHashValue>(&self, store: &Store<H>) -> Result<Option<String>, StoreError> {
        let layers = self.resolved.layers.iter().zip(self.resolved.diff_ids.iter().flatten());
        for (ix, (blob, diff_id)) in layers.enumerate() {
            if let Some(ambiguity) = store.ambiguities(diff_id)?.first()
                && store.linked(&StreamName::Layer(*diff_id))?.is_some()
            {
                let (place, count, blob) = (ix + 1, self.resolved.layers.len(), blob.digest.short());
                return Ok(Some(format!(
                    "layer {place} of {count} (sha256:{blob}…): {}",
                    ambiguity.refusal()
                )));
            }
        }
        Ok(None)
    }

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
            config_lists_layers: resolved.config_lists_layers,
            platform: own_platform.filter(|own| platform != Some(own)),
        }
    }
}
