//! The colours of pictures. Knows each one for light and for dark; ignores what is coloured.

/// The rules of what is drawn, with `var(--NAME)` for colours.
const RULES: &str = include_str!("picture.css");

/// Name, light, dark. Text on its ground has a contrast of 4.5 or more in both; the
/// browser's tests measure it.
const COLOURS: [(&str, &str, &str); 15] = [
    ("ground", "#fbfbfa", "#14161a"),
    ("card", "#ffffff", "#1b1e24"),
    ("rule", "#e4e4e1", "#2d323b"),
    ("ink", "#1f2328", "#e8eaee"),
    ("soft", "#62676f", "#9aa2ae"),
    ("line", "#bfc3c9", "#4a515d"),
    ("accent", "#3b5bcc", "#8ea4ff"),
    ("accent-track", "#e3e8fa", "#2a3358"),
    ("accent-bar", "#5b78dd", "#6f88ee"),
    ("still-track", "#f1f1ef", "#22262d"),
    ("still-bar", "#d3d5d8", "#3c424d"),
    ("still-line", "#cfd1d4", "#414854"),
    ("bad", "#b3261e", "#ff8a80"),
    ("bad-track", "#fbe4e2", "#4a2222"),
    ("bad-bar", "#d0453b", "#e0625a"),
];

/// Rules for a standalone SVG: colours as themselves, since not every program that shows SVG knows variables.
pub(super) fn standalone() -> String {
    let with = |dark: bool| {
        COLOURS.iter().fold(RULES.to_owned(), |rules, (name, light, night)| {
            rules.replace(&format!("var(--{name})"), if dark { night } else { light })
        })
    };
    format!("{}@media (prefers-color-scheme:dark){{\n{}}}\n", with(false), with(true))
}

/// Rules for a page, whose reader may choose light or dark against the system.
pub(super) fn page() -> String {
    let variables = |dark: bool| -> String {
        let scheme = if dark { "color-scheme:dark;" } else { "color-scheme:light;" };
        let colours = COLOURS.iter().map(|(name, light, night)| {
            let colour = if dark { night } else { light };
            format!("--{name}:{colour};")
        });
        std::iter::once(scheme.to_owned()).chain(colours).collect()
    };
    let (light, dark) = (variables(false), variables(true));
    format!(
        ":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n\
         :root[data-theme=light]{{{light}}}\n:root[data-theme=dark]{{{dark}}}\n{RULES}"
    )
}
