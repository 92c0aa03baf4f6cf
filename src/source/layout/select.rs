//! Which manifest of a layout is meant. Knows tags, platforms and how indexes hang together; ignores what is
//! in a manifest, except where only its config says what it runs on.

use std::collections::HashSet;

use super::{
    super::{
        Platform, Result, Selector, SourceError,
        index::{Claim, Entry, Index, MAX_DEPTH, Offer, listed},
        resolved::{Manifest, platform_of_config},
    },
    Layout,
};
use crate::types::{Digest, is_container_image};

/// The manifest that `selector` means on `platform`.
///
/// # Errors
/// There is none, there are several, or an index on the way is broken.
pub(super) fn choose(layout: &Layout, selector: &Selector, platform: &Platform) -> Result<Entry> {
    let top = Index::parse("index.json", &layout.small_file("index.json")?)?;
    let mut choice = Choice { layout, platform, seen: HashSet::new() };
    match selector {
        Selector::Only => choice.of_candidates(only(top)?, None),
        Selector::Tag(tag) => choice.of_candidates(tagged(top, tag)?, Some(tag)),
        Selector::Digest(digest) => {
            let entry = with_digest(layout, top.entries, *digest)?;
            choice.follow(&entry, MAX_DEPTH)
        }
    }
}

/// Whether the layout has an image of this name.
pub(super) fn has_tag(layout: &Layout, tag: &str) -> bool {
    let top = layout.small_file("index.json").and_then(|bytes| Index::parse("index.json", &bytes));
    top.is_ok_and(|top| top.entries.iter().any(|entry| entry.tag.as_deref() == Some(tag)))
}

fn only(top: Index) -> Result<Vec<Entry>> {
    if let ([], [(_, error), ..]) = (top.entries.as_slice(), top.unread.as_slice()) {
        return Err(error.clone());
    }
    if top.entries.is_empty() {
        return Err(SourceError::not_found("the layout holds no image"));
    }
    // Several entries without any tag are one image for several platforms.
    if top.entries.len() > 1 && top.entries.iter().any(|entry| entry.tag.is_some()) {
        let tags = tags(&top.entries);
        return Err(SourceError::not_found(format!(
            "the layout holds several images: name one of the tags {tags}"
        )));
    }
    Ok(top.entries)
}

fn tagged(top: Index, tag: &str) -> Result<Vec<Entry>> {
    let all = tags(&top.entries);
    let mut found = top.entries;
    found.retain(|entry| entry.tag.as_deref() == Some(tag));
    let unread = top.unread.into_iter().find(|(name, _)| name.as_deref() == Some(tag));
    match (found.is_empty(), unread, all.is_empty()) {
        (false, ..) => Ok(found),
        (true, Some((_, error)), _) => Err(error),
        (true, None, false) => {
            Err(SourceError::not_found(format!("no tag {tag:?} in the layout: it has {all}")))
        }
        (true, None, true) => {
            Err(SourceError::not_found(format!("no tag {tag:?} in the layout: it has no tags")))
        }
    }
}

/// Looks for a digest in the indexes, breadth first, and in each index once: one that names itself, or the
/// same one many thousand times, four deep, would never be done.
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
            if let Some(found) = search(nested(layout, index)?.entries, &mut below) {
                return Ok(found);
            }
        }
        level = below;
    }
    Err(SourceError::not_found(format!("no image {digest} in the layout")))
}

/// The choice among the entries of a layout.
struct Choice<'a> {
    layout: &'a Layout,
    platform: &'a Platform,
    /// Documents without a platform that were looked into: each is read once, however often and deep it is
    /// named.
    seen: HashSet<Digest>,
}

/// What an entry without a platform turns out to be.
enum Found {
    Image(Platform),
    Artifact,
}

impl Choice<'_> {
    /// Of entries that stand for one image in `index.json`, all by the same `name` or all without one: a
    /// single one is taken as it is, among several the platform decides. One image under two entries is one.
    ///
    /// # Errors
    /// None is for the platform, or two are that are not the same: nothing says which of them is meant.
    fn of_candidates(&mut self, mut candidates: Vec<Entry>, name: Option<&str>) -> Result<Entry> {
        let mut seen = HashSet::new();
        candidates.retain(|entry| seen.insert(entry.blob.digest));
        if let [single] = candidates.as_slice() {
            return self.follow(single, MAX_DEPTH);
        }
        let (mut ranked, mut there, mut artifacts) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &candidates {
            let platform = match &entry.claim {
                Claim::Platform(platform) => platform.clone(),
                Claim::Nothing if entry.is_manifest() => match self.look_into(entry) {
                    // It cannot be the image that was meant.
                    Err(error) if error.kind() == super::super::ErrorKind::NotFound => {
                        tracing::info!("index.json: {} is passed over: {error}", entry.blob.digest);
                        continue;
                    }
                    Err(error) => return Err(error),
                    Ok(Found::Image(platform)) => platform,
                    Ok(Found::Artifact) => {
                        artifacts.push(entry);
                        continue;
                    }
                },
                // What such an index holds is known when it is followed; it counts as the best.
                Claim::Nothing if entry.is_index() => match self.follow(entry, MAX_DEPTH) {
                    Ok(_) => self.platform.clone(),
                    Err(error) if error.kind() == super::super::ErrorKind::Corrupt => return Err(error),
                    Err(_) => continue,
                },
                _ => continue,
            };
            there.push(platform.to_string());
            if let Some(rank) = self.platform.rank(&platform) {
                ranked.push((rank, entry));
            }
        }
        let Some(best) = ranked.iter().map(|(rank, _)| *rank).min() else {
            there.dedup();
            return match (there.is_empty(), artifacts.as_slice()) {
                (true, [single]) => self.follow(single, MAX_DEPTH),
                (true, []) => Err(SourceError::not_found(format!(
                    "no image for {}: no entry of index.json names a platform that can be used",
                    self.platform
                ))),
                (true, several) => Err(self.ambiguous(several, name, "artifacts")),
                (false, _) => {
                    let there = listed(&there);
                    Err(SourceError::not_found(format!("no image for {}: there are {there}", self.platform)))
                }
            };
        };
        ranked.retain(|(rank, _)| *rank == best);
        match ranked.as_slice() {
            [(_, single)] => {
                self.seen.clear();
                self.follow(single, MAX_DEPTH)
            }
            several => {
                let several: Vec<&Entry> = several.iter().map(|(_, entry)| *entry).collect();
                Err(self.ambiguous(&several, name, &format!("images for {}", self.platform)))
            }
        }
    }

    fn ambiguous(&self, entries: &[&Entry], name: Option<&str>, what: &str) -> SourceError {
        let digests: Vec<String> = entries.iter().map(|entry| entry.blob.digest.to_string()).collect();
        let (count, path) = (entries.len(), self.layout.path.display());
        let named = name.map_or_else(String::new, |name| format!(" named {name:?}"));
        SourceError::not_found(format!(
            "the layout holds {count} {what}{named}: {}: choose one as oci:{path}@{}",
            listed(&digests),
            digests[0]
        ))
    }

    /// From an entry to a manifest: a manifest is one, in an index the platform decides.
    fn follow(&mut self, entry: &Entry, depth: usize) -> Result<Entry> {
        if entry.is_manifest() {
            return Ok(entry.clone());
        }
        if !entry.is_index() {
            let media_type = &entry.blob.media_type;
            return Err(SourceError::corrupt(format!(
                "neither a manifest nor an index: media type {media_type:?}{}",
                if media_type.contains("manifest.v1+") {
                    " (docker's schema 1 is not supported)"
                } else {
                    ""
                }
            )));
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(SourceError::corrupt(format!("indexes are nested more than {MAX_DEPTH} deep")));
        };
        let index = nested(self.layout, entry)?;
        match index.offer(self.platform)? {
            Offer::Fits(chosen) => self.follow(chosen, depth),
            Offer::Silent(silent) => self.of_silent(&index, &silent, depth),
        }
    }

    /// Chooses among entries of an index that name no platform, where no other fits: an image whose config is
    /// for the platform; else what is in another index; else, if the index names no platform at all, the
    /// first artifact or the only image, as containers/image does.
    fn of_silent(&mut self, index: &Index, silent: &[&Entry], depth: usize) -> Result<Entry> {
        let (mut best, mut there, mut artifacts) = (None, Vec::new(), Vec::new());
        let mut below = None;
        for entry in silent.iter().filter(|entry| self.seen.insert(entry.blob.digest)).collect::<Vec<_>>() {
            if entry.is_index() {
                if let Ok(found) = self.follow(entry, depth) {
                    below.get_or_insert(found);
                }
                continue;
            }
            match self.look_into(entry)? {
                Found::Artifact => artifacts.push(*entry),
                Found::Image(platform) => {
                    if let Some(rank) = self.platform.rank(&platform)
                        && best.is_none_or(|(so_far, _)| rank < so_far)
                    {
                        best = Some((rank, *entry));
                    }
                    there.push(platform.to_string());
                }
            }
        }
        let chosen = match (best, below, silent) {
            (Some((_, entry)), ..) => entry,
            (None, Some(found), _) => return Ok(found),
            (None, None, [single]) if !index.names_platforms() && single.is_manifest() => single,
            (None, None, _) if !index.names_platforms() && there.is_empty() && !artifacts.is_empty() => {
                let (first, count) = (artifacts[0], artifacts.len());
                if count > 1 {
                    let digest = first.blob.digest;
                    tracing::info!("an index of {count} artifacts: the first is taken, {digest}");
                }
                first
            }
            _ => return Err(index.nothing_for(self.platform, there)),
        };
        index.tell_passed_over(chosen);
        Ok(chosen.clone())
    }

    /// What an entry without a platform is, by its manifest and config.
    fn look_into(&self, entry: &Entry) -> Result<Found> {
        let manifest = self.layout.manifest(entry)?.into_oci()?;
        let config = self.layout.config(&manifest)?;
        let types = manifest.layers.iter().map(|layer| layer.media_type.as_str());
        if !is_container_image(&manifest.config.media_type, types, &config) {
            return Ok(Found::Artifact);
        }
        platform_of_config(&config).map(Found::Image)
    }
}

impl Layout {
    /// The manifest of an entry, parsed.
    pub(super) fn manifest(&self, entry: &Entry) -> Result<Manifest> {
        Manifest::parse(self.entry("the manifest", entry)?)
    }

    fn entry(&self, what: &str, entry: &Entry) -> Result<Vec<u8>> {
        self.document(what, &entry.blob, || entry.embedded())
    }
}

fn nested(layout: &Layout, index: &Entry) -> Result<Index> {
    Index::parse("the index", &layout.entry("the index", index)?)
}

fn tags(entries: &[Entry]) -> String {
    let mut tags: Vec<String> = entries.iter().filter_map(|entry| entry.tag.clone()).collect();
    tags.dedup();
    listed(&tags)
}
