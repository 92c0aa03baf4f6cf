//! What other readers read differently although it is accepted, each with its reason.
//! docs/layers.md has the same list.

/// A reason, and the odd entries that are read differently for it.
type Reason = (&'static str, &'static [&'static str]);

/// Harmless, or only of Python.
const HARMLESS: &[Reason] = &[
    ("Records of global headers are ignored, by Go as well.", &["global-mtime", "global-path", "global-uid"]),
    (
        "Python takes bytes in the place of the prefix for one whatever the magic says.",
        &[
            "gnu-times-for-prefix",
            "magic-no-nul-prefix",
            "magic-no-nul-prefix-after-records",
            "magic-other-prefix",
            "magic-other-prefix-after-records",
            "magic-space-00-prefix",
            "magic-space-00-prefix-after-records",
            "magic-spaces-prefix",
            "magic-spaces-prefix-after-records",
            "magic-upper-prefix",
            "magic-upper-prefix-after-records",
            "magic-v7-prefix",
            "magic-v7-prefix-after-records",
        ],
    ),
    (
        "GNU tar does not read numbers with a plus sign in records.",
        &["time-+5", "record-uid-plus", "record-gid-plus", "record-size-plus"],
    ),
];

/// The names of all of them.
pub fn all() -> impl Iterator<Item = &'static str> {
    HARMLESS.iter().flat_map(|(_, names)| names.iter().copied())
}
