//! What every JSON document of an image must keep to before it is read: one reading alone. Knows what other
//! programs make of a document; ignores what is in it.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{Result, SourceError};

/// What a document is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Manifest,
    Index,
}

/// Names that decide what a document is. Go's JSON, in which most programs of the field are written, reads
/// them whatever their case.
const DECIDING: [&str; 5] = ["config", "layers", "manifests", "fsLayers", "schemaVersion"];

impl Form {
    /// Names that a document of this form may not have, as containers/image refuses them
    /// (`validateUnambiguousManifestFormat`).
    fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Manifest => &["manifests", "fsLayers"],
            Self::Index => &["config", "layers", "fsLayers"],
        }
    }
}

/// What is wrong with a document before it is looked into.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Foreign(&'static str),
    Spelling(String, &'static str),
    SchemaOne,
}

/// Refuses a document that another program would read as something else: a manifest for one and an index for
/// the other (CVE-2021-41190), or with other layers, since names differ in their case alone. The digest says
/// nothing of that.
///
/// # Errors It can be read in two ways, begins with a byte order mark, or is of docker's schema 1. One that
/// is not JSON is left to its reader.
pub(super) fn check_form(what: &str, form: Form, bytes: &[u8]) -> Result<()> {
    let corrupt = |why: String| Err(SourceError::corrupt(format!("{what} {why}")));
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return corrupt("begins with a byte order mark, which JSON does not allow: write it without".into());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match json.deserialize_map(Names(form)) {
        Ok(Some(Fault::Foreign(name))) => {
            let other = if form == Form::Manifest { "an index" } else { "a manifest" };
            corrupt(format!(
                "has {name:?} as well: other programs may take it for {other}, so it is refused as ambiguous"
            ))
        }
        Ok(Some(Fault::Spelling(found, name))) => corrupt(format!(
            "has {found:?}, which other programs read as {name:?}: it is refused as ambiguous"
        )),
        Ok(Some(Fault::SchemaOne)) => corrupt(
            "is of docker's schema 1, which is not supported: push the image again with a current program"
                .into(),
        ),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Looks at the names of a document alone; gives the first fault.
struct Names(Form);

impl<'de> Visitor<'de> for Names {
    type Value = Option<Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let (mut fault, mut schema_one) = (None, false);
        while let Some(name) = map.next_key::<String>()? {
            let found = match DECIDING.iter().find(|deciding| deciding.eq_ignore_ascii_case(&name)) {
                Some(deciding) if **deciding != name => Some(Fault::Spelling(name, deciding)),
                Some(&"schemaVersion") => {
                    let version: serde_json::Value = map.next_value()?;
                    schema_one |= version == 1;
                    continue;
                }
                Some(deciding) if self.0.foreign().contains(deciding) => Some(Fault::Foreign(deciding)),
                _ => None,
            };
            // All readers treat a null like an absent name.
            let is_there = map.next_value::<Option<IgnoredAny>>().map_err(A::Error::custom)?.is_some();
            fault = fault.or(found.filter(|_| is_there));
        }
        Ok(if schema_one { Some(Fault::SchemaOne) } else { fault })
    }
}

/// The bytes that a descriptor carries as `data`.
///
/// # Errors
/// It is not base64 (RFC 4648).
pub(super) fn embedded(data: &str) -> Result<Vec<u8>> {
    STANDARD.decode(data).map_err(|error| {
        SourceError::corrupt(format!("the descriptor's data is not base64: {error}").to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(form: Form, text: &str) -> Option<String> {
        check_form("the manifest", form, text.as_bytes()).err().map(|error| error.to_string())
    }

    #[test]
    fn a_document_that_can_be_read_in_two_ways_is_refused() {
        for (form, text, part) in [
            (Form::Manifest, r#"{"layers":[],"manifests":[]}"#, "\"manifests\" as well"),
            (Form::Manifest, r#"{"layers":[],"fsLayers":[{}]}"#, "\"fsLayers\" as well"),
            (Form::Manifest, r#"{"layers":[],"Layers":[]}"#, "\"Layers\", which other programs read as"),
            (Form::Manifest, r#"{"layers":[],"MANIFESTS":[]}"#, "\"MANIFESTS\""),
            (Form::Index, r#"{"manifests":[],"layers":[]}"#, "for a manifest"),
            (Form::Index, r#"{"config":{},"manifests":[]}"#, "\"config\" as well"),
            (Form::Manifest, r#"{"fsLayers":[],"schemaVersion":1,"tag":"x"}"#, "docker's schema 1"),
            (Form::Manifest, r#"{"fsLayers":[],"schemaVersion":1}"#, "docker's schema 1"),
            (Form::Manifest, "\u{feff}{}", "byte order mark"),
        ] {
            let error = fault(form, text).unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn names_that_decide_nothing_and_nulls_are_passed_over() {
        for text in [
            r#"{"schemaVersion":2,"layers":[],"config":{"manifests":[]},"manifests":null}"#,
            r#"{"layers":[],"Annotations":{},"history":[]}"#,
            "[]",
            "{",
            "",
        ] {
            assert_eq!(fault(Form::Manifest, text), None, "{text}");
        }
    }
}
