//! References, platforms, repositories, constraints and digests out of any text. Knows that what was read is written as
//! it was; ignores what it names.

use std::{fmt::Display, str::FromStr};

use cfs_dag::{
    list::{Constraint, Repository},
    source::{Platform, Reference, Selector, Transport},
    types::Digest,
};

/// Reads a text as each of them.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<Platform>(text);
    if let Some(repository) = read::<Repository>(text) {
        // Shown with its transport, read without.
        assert_eq!((repository.name(), repository.to_string()), (text, format!("docker://{text}")));
    }
    round_trip::<Digest>(text);
    if let Some(constraint) = read::<Constraint>(text) {
        assert_eq!(constraint.to_string().parse(), Ok(constraint));
    }
    let Some(reference) = read::<Reference>(text) else { return };
    assert_eq!(reference.default_name(), text);
    round_trip::<Reference>(text);
    let skopeo = reference.for_skopeo();
    assert!(!skopeo.starts_with('-') && !skopeo.chars().any(char::is_control), "{skopeo:?}");
    let again = read::<Reference>(&skopeo);
    assert!(again.is_some_and(|again| again.transport() == reference.transport()), "{skopeo:?}");
    assert_eq!(reference.host().is_some(), reference.transport() == Transport::Registry);
    if reference.transport() == Transport::Oci {
        let (path, selector) = reference.layout();
        assert!(!path.as_os_str().is_empty() && selector != Selector::Tag(String::new()));
    }
    let digest = Digest::of(data);
    let Some(pinned) = reference.pinned_to(digest) else { return };
    assert_eq!(pinned.pinned(), Some(digest));
    assert_eq!((pinned.transport(), pinned.host()), (reference.transport(), reference.host()));
    assert_eq!(pinned.to_string().parse().as_ref(), Ok(&pinned));
    assert_eq!(pinned.pinned_to(digest), Some(pinned));
}

/// What `text` stands for; if nothing, the error is one line for people.
fn read<T: FromStr<Err: Display>>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => Some(value),
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.is_empty() && !shown.contains('\n'), "{shown:?}");
            None
        }
    }
}

fn round_trip<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) {
    let Some(value) = read::<T>(text) else { return };
    let again = read::<T>(&value.to_string());
    assert!(again.is_some_and(|again| again == value), "{value} does not read back");
}
