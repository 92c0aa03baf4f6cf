//! Indexes: what they list, and which entry is for a platform. Knows one document at a time; ignores where
//! others are.

use std::{collections::HashMap, fmt};

use containers_image_proxy::oci_spec::image as oci;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    ErrorKind, Platform, Result, SourceError,
    json::{Form, check_form, embedded},
    resolved::{DOCKER_LIST, DOCKER_MANIFEST, blob_descriptor, capped, one_at_a_time, verify},
};
use crate::types::Descriptor;

/// How deep indexes may be nested. Real ones are nested once.
pub(super) const MAX_DEPTH: usize = 4;

/// How many names an error lists.
const MAX_LISTED: usize = 20;

/// What an entry says that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// This platform.
    Platform(Platform),
    /// `unknown/unknown`: what buildx writes beside an image to describe it. Never chosen.
    Attestation,
    /// Nothing: there is no platform, or a null.
    Nothing,
    /// Something that is not a platform: empty, without a part, not an object.
    Unusable(&'static str),
}

/// One line of an index.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) blob: Descriptor,
    pub(super) tag: Option<String>,
    pub(super) claim: Claim,
    /// The document itself in base64, if the entry carries it.
    pub(super) data: Option<String>,
}

impl Entry {
    /// The document that the entry carries, checked; `None` if it carries none.
    pub(super) fn embedded(&self) -> Result<Option<Vec<u8>>> {
        let Some(data) = &self.data else { return Ok(None) };
        let bytes = embedded(data)?;
        verify("the descriptor's data", &self.blob, &bytes)?;
        Ok(Some(bytes))
    }

    pub(super) fn is_index(&self) -> bool {
        self.blob.media_type == oci::MediaType::ImageIndex.as_ref() || self.blob.media_type == DOCKER_LIST
    }

    pub(super) fn is_manifest(&self) -> bool {
        self.blob.media_type == oci::MediaType::ImageManifest.as_ref()
            || self.blob.media_type == DOCKER_MANIFEST
    }
}

/// An index that parses; entries that do not are told, not kept.
#[derive(Debug)]
pub(super) struct Index {
    /// What it is, for people.
    what: String,
    pub(super) entries: Vec<Entry>,
    /// Names of entries that cannot be read, and why not.
    pub(super) unread: Vec<(Option<String>, SourceError)>,
}

/// What an index offers for a platform.
#[derive(Debug)]
pub(super) enum Offer<'a> {
    /// This entry says that it is for it.
    Fits(&'a Entry),
    /// None says so, and these say nothing.
    Silent(Vec<&'a Entry>),
}

impl Index {
    /// Parses `bytes`. A bad entry spoils no other.
    ///
    /// # Errors
    /// Too large, not an index, or ambiguous.
    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            manifests: Option<Entries>,
        }
        capped(what, bytes.len() as u64)?;
        check_form(what, Form::Index, bytes)?;
        let document: Document = one_at_a_time(|| serde_json::from_slice(bytes))
            .map_err(|error| SourceError::corrupt(format!("{what} is malformed: {error}")))?;
        let Entries { entries, unread } = document.manifests.unwrap_or_default();
        let told = |(at, tag, error): (usize, Option<String>, SourceError)| {
            let error = error.within(format_args!("{what}: entry {}", at + 1));
            tracing::info!("passed over: {error}");
            (tag, error)
        };
        Ok(Self { what: what.to_owned(), entries, unread: unread.into_iter().map(told).collect() })
    }

    /// What there is for `wanted`: the best of those entries that name a platform, or all that name none.
    ///
    /// # Errors
    /// Nothing fits, or there is nothing at all.
    pub(super) fn offer(&self, wanted: &Platform) -> Result<Offer<'_>> {
        let usable = || self.entries.iter().filter(|entry| entry.is_manifest() || entry.is_index());
        let mut best: Option<(usize, &Entry)> = None;
        for entry in usable() {
            if let Claim::Platform(platform) = &entry.claim
                && let Some(rank) = wanted.rank(platform)
                && best.is_none_or(|(so_far, _)| rank < so_far)
            {
                best = Some((rank, entry));
            }
        }
        if let Some((_, chosen)) = best {
            self.tell_passed_over(chosen);
            return Ok(Offer::Fits(chosen));
        }
        let silent: Vec<&Entry> = usable().filter(|entry| entry.claim == Claim::Nothing).collect();
        if silent.is_empty() { Err(self.nothing_for(wanted, Vec::new())) } else { Ok(Offer::Silent(silent)) }
    }

    /// Whether some entry names a platform that images are for.
    pub(super) fn names_platforms(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.claim, Claim::Platform(_)))
    }

    /// Says that nothing is for `wanted`, and what there is; `more` are platforms that are not in the index.
    pub(super) fn nothing_for(&self, wanted: &Platform, more: Vec<String>) -> SourceError {
        let claimed = self.entries.iter().filter_map(|entry| match &entry.claim {
            Claim::Platform(platform) => Some(platform.to_string()),
            _ => None,
        });
        let mut there: Vec<String> = claimed.chain(more).collect();
        there.dedup();
        if !there.is_empty() {
            return SourceError::not_found(format!("no image for {wanted}: there are {}", listed(&there)));
        }
        let empty = |why: &str| SourceError::new(ErrorKind::Empty, format!("nothing to store: {why}"));
        let is_attestation = |entry: &Entry| entry.claim == Claim::Attestation;
        match (self.entries.as_slice(), self.unread.as_slice()) {
            ([], []) => empty("an empty index"),
            (entries, []) if entries.iter().all(is_attestation) => {
                empty("an index of attestations alone, without the images that they are about")
            }
            (_, [(_, error), ..]) => error.clone(),
            _ => SourceError::not_found(format!(
                "no image for {wanted}: no entry of {} names a platform that can be used",
                self.what
            )),
        }
    }

    /// Names the entries that could not be looked at, now that another one is taken.
    pub(super) fn tell_passed_over(&self, chosen: &Entry) {
        for entry in self.entries.iter().filter(|entry| entry.blob.digest != chosen.blob.digest) {
            let why = match entry.claim {
                Claim::Nothing => "names no platform",
                Claim::Unusable(why) => why,
                Claim::Platform(_) | Claim::Attestation => continue,
            };
            tracing::info!("passed over in {}: {}: {why}", self.what, entry.blob.digest);
        }
    }
}

/// The entries that can be read, and of the others their places, their names and what is wrong: of those
/// without a name the first few, since there may be a million in 4 MiB.
#[derive(Default)]
struct Entries {
    entries: Vec<Entry>,
    unread: Vec<(usize, Option<String>, SourceError)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of descriptors")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Entries, A::Error> {
                let mut all = Entries::default();
                let mut at = 0;
                while let Some(listed) = list.next_element::<Listed>()? {
                    let tag = listed.tag();
                    match listed.entry() {
                        Ok(entry) => all.entries.push(entry),
                        Err(error) if tag.is_some() || all.unread.len() < MAX_LISTED => {
                            all.unread.push((at, tag, error));
                        }
                        Err(_) => {}
                    }
                    at += 1;
                }
                Ok(all)
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

/// An entry as it stands there. What may be wrong without spoiling the others is taken as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    media_type: Value,
    #[serde(default)]
    digest: Value,
    #[serde(default)]
    size: Value,
    #[serde(default)]
    platform: Value,
    #[serde(default)]
    annotations: Option<HashMap<String, Value>>,
    #[serde(default)]
    data: Value,
}

impl Listed {
    fn tag(&self) -> Option<String> {
        let tag = self.annotations.as_ref()?.get("org.opencontainers.image.ref.name")?;
        tag.as_str().map(str::to_owned)
    }

    fn entry(self) -> Result<Entry> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let digest = text(&self.digest).ok_or_else(|| SourceError::corrupt("it has no digest"))?;
        let size = self.size.as_u64();
        let size = size.ok_or_else(|| SourceError::corrupt(format!("its size is {}", self.size)))?;
        let media_type = text(&self.media_type).unwrap_or_default();
        let blob = blob_descriptor(&media_type, &digest, size)?;
        Ok(Entry { blob, tag: self.tag(), claim: claim(&self.platform), data: text(&self.data) })
    }
}

fn claim(platform: &Value) -> Claim {
    let Value::Object(parts) = platform else {
        return if platform.is_null() {
            Claim::Nothing
        } else {
            Claim::Unusable("its platform is malformed")
        };
    };
    let part = |name| match parts.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(part)) => Ok(Some(part.clone()).filter(|part| !part.is_empty())),
        Some(_) => Err(Claim::Unusable("its platform is malformed")),
    };
    let parts = part("os").and_then(|os| Ok((os, part("architecture")?, part("variant")?)));
    match parts {
        Err(claim) => claim,
        Ok((None, None, _)) => Claim::Unusable("its platform is empty"),
        Ok((None, ..)) => Claim::Unusable("its platform has no os"),
        Ok((_, None, _)) => Claim::Unusable("its platform has no architecture"),
        Ok((Some(os), Some(architecture), _)) if os == "unknown" || architecture == "unknown" => {
            Claim::Attestation
        }
        Ok((Some(os), Some(architecture), variant)) => {
            Claim::Platform(Platform { os, architecture, variant })
        }
    }
}

/// Names for people, not too many.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_LISTED)].join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
