//! Colours on a terminal. Knows escape sequences; ignores what is painted.

/// Whether text is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// For a terminal.
    On,
    /// For everything else.
    Off,
}

impl Colour {
    /// What the eye should find first.
    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What has to be done.
    pub(super) fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// What can be passed over.
    pub(super) fn quiet(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What went wrong.
    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}
