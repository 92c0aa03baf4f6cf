//! Which manifest of a layout is meant. Knows indexes, tags and platforms; ignores what is in a manifest,
//! except where only its config says what it runs on.

use std::collections::HashSet;

use containers_image_proxy::oci_spec::image as oci;

use super::{
    super::{
        Platform, Result, Selector, SourceError,
        resolved::{
            DOCKER_LIST, DOCKER_MANIFEST, Manifest, descriptor, one_at_a_time, plain, platform_of_config,
        },
    },
    Layout,
};
use crate::types::{Descriptor, Digest};

/// How deep indexes may be nested below `index.json`. Real ones are nested once.
const MAX_DEPTH: usize = 4;

/// How many names an error lists.
const MAX_LISTED: usize = 20;

/// One line of an index.
#[derive(Debug, Clone)]
struct Entry {
    blob: Descriptor,
    tag: Option<String>,
    platform: Option<Platform>,
}

impl Entry {
    fn is_index(&self) -> bool {
        self.blob.media_type == oci::MediaType::ImageIndex.as_ref() || self.blob.media_type == DOCKER_LIST
    }

    fn is_manifest(&self) -> bool {
        self.blob.media_type == oci::MediaType::ImageManifest.as_ref()
            || self.blob.media_type == DOCKER_MANIFEST
    }
}

/// The manifest that `selector` means on `platform`.
///
/// # Errors
/// There is none, there are several, or an index on the way is broken.
pub(super) fn choose(layout: &Layout, selector: &Selector, platform: &Platform) -> Result<Descriptor> {
    let top = parse("index.json", &layout.small_file("index.json")?)?;
    let candidates = match selector {
        Selector::Only => only(top)?,
        Selector::Tag(tag) => tagged(top, tag)?,
        Selector::Digest(digest) => vec![with_digest(layout, top, *digest)?],
    };
    descend(layout, candidates, platform)
}

fn only(entries: Vec<Entry>) -> Result<Vec<Entry>> {
    if entries.is_empty() {
        return Err(SourceError::not_found("the layout holds no image"));
    }
    // Several entries without any tag are one image for several platforms.
    if entries.len() > 1 && entries.iter().any(|entry| entry.tag.is_some()) {
        let tags = tags(&entries);
        return Err(SourceError::not_found(format!(
            "the layout holds several images: name one of the tags {tags}"
        )));
    }
    Ok(entries)
}

fn tagged(entries: Vec<Entry>, tag: &str) -> Result<Vec<Entry>> {
    let all = tags(&entries);
    let found: Vec<Entry> = entries.into_iter().filter(|entry| entry.tag.as_deref() == Some(tag)).collect();
    match (found.is_empty(), all.is_empty()) {
        (false, _) => Ok(found),
        (true, false) => Err(SourceError::not_found(format!("no tag {tag:?} in the layout: it has {all}"))),
        (true, true) => Err(SourceError::not_found(format!("no tag {tag:?} in the layout: it has no tags"))),
    }
}

/// Looks for a digest in the indexes, breadth first, and in each index once: one that names itself, or the same one many
/// thousand times, four deep, would never be done.
fn with_digest(layout: &Layout, top: Vec<Entry>, digest: Digest) -> Result<Entry> {
    let mut seen = HashSet::new();
    let mut search = |entries: Vec<Entry>, indexes: &mut Vec<Entry>| {
        let found = entries.iter().find(|entry| entry.blob.digest == digest).cloned();
        indexes
            .extend(entries.into_iter().filter(|entry| entry.is_index() && seen.insert(entry.blob.digest)));
        found
    };
    let mut level = Vec::new();
    if let Some(found) = search(top, &mut level) {
        return Ok(found);
    }
    for _ in 1..MAX_DEPTH {
        let mut below = Vec::new();
        for index in &level {
            if let Some(found) = search(nested(layout, index)?, &mut below) {
                return Ok(found);
            }
        }
        level = below;
    }
    Err(SourceError::not_found(format!("no image {digest} in the layout")))
}

/// From candidates to one manifest: a single one is taken as it is, among several the platform decides.
fn descend(layout: &Layout, mut candidates: Vec<Entry>, platform: &Platform) -> Result<Descriptor> {
    for _ in 0..MAX_DEPTH {
        let chosen = match candidates.as_slice() {
            [single] => single.clone(),
            several => best(layout, several, platform)?,
        };
        if chosen.is_manifest() {
            return Ok(chosen.blob);
        }
        if !chosen.is_index() {
            let media_type = &chosen.blob.media_type;
            return Err(SourceError::corrupt(format!(
                "neither a manifest nor an index: media type {media_type:?}"
            )));
        }
        let entries = nested(layout, &chosen)?;
        // An index of one image still says for which platform that is.
        candidates = vec![best(layout, &entries, platform)?];
    }
    Err(SourceError::corrupt(format!("indexes are nested more than {MAX_DEPTH} deep")))
}

fn best(layout: &Layout, entries: &[Entry], wanted: &Platform) -> Result<Entry> {
    let mut there = Vec::new();
    let mut best: Option<(usize, &Entry)> = None;
    // Each document is read once, however often it is named.
    let mut seen = HashSet::new();
    for entry in entries.iter().filter(|entry| entry.is_manifest() || entry.is_index()) {
        if entry.platform.is_none() && !seen.insert(entry.blob.digest) {
            continue;
        }
        let Some(platform) = platform_of(layout, entry)? else { continue };
        if let Some(rank) = wanted.rank(&platform)
            && best.is_none_or(|(so_far, _)| rank < so_far)
        {
            best = Some((rank, entry));
        }
        there.push(platform.to_string());
    }
    // What buildx writes beside an image to describe it; not for people.
    there.retain(|platform| platform != "unknown/unknown");
    there.dedup();
    match best {
        Some((_, entry)) => Ok(entry.clone()),
        None if there.is_empty() => {
            Err(SourceError::not_found(format!("no image for {wanted}: the index is empty")))
        }
        None => Err(SourceError::not_found(format!("no image for {wanted}: there are {}", listed(&there)))),
    }
}

/// What an entry says that it is for; failing that, what its config says. `None` for an artifact.
fn platform_of(layout: &Layout, entry: &Entry) -> Result<Option<Platform>> {
    if entry.platform.is_some() || !entry.is_manifest() {
        return Ok(entry.platform.clone());
    }
    let manifest = Manifest::parse(layout.document("the manifest", &entry.blob)?)?.into_oci()?;
    if manifest.config.media_type != oci::MediaType::ImageConfig.as_ref() {
        return Ok(None);
    }
    platform_of_config(&layout.document("the config", &manifest.config)?).map(Some)
}

fn nested(layout: &Layout, index: &Entry) -> Result<Vec<Entry>> {
    parse("the index", &layout.document("the index", &index.blob)?)
}

fn parse(what: &str, bytes: &[u8]) -> Result<Vec<Entry>> {
    let index = one_at_a_time(|| oci::ImageIndex::from_reader(bytes))
        .map_err(|error| SourceError::corrupt(format!("{what} is malformed: {}", plain(&error))))?;
    let entry = |from: &oci::Descriptor| {
        let annotations = from.annotations().as_ref();
        Ok(Entry {
            blob: descriptor(from).map_err(|error| error.within(what))?,
            tag: annotations.and_then(|all| all.get("org.opencontainers.image.ref.name")).cloned(),
            platform: from.platform().as_ref().map(Platform::from),
        })
    };
    index.manifests().iter().map(entry).collect()
}

fn tags(entries: &[Entry]) -> String {
    let mut tags: Vec<String> = entries.iter().filter_map(|entry| entry.tag.clone()).collect();
    tags.dedup();
    listed(&tags)
}

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_LISTED)].join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
