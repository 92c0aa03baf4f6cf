//! Lines that stay in place on a terminal, and lines above them that go by. Knows how the cursor is moved;
//! ignores what the lines say.
//!
//! A frame is one write: each of its lines is written over the one that stood there, and what was longer is
//! erased after it, so there is never a moment without text and nothing flickers. Lines are cut to the width
//! beforehand. Only a terminal that is made narrower at that very moment, or that shows a character wider
//! than we think, could break one: so breaking is off while a frame is written.
//!
//! A terminal that breaks lines when it is made narrower keeps pieces of the last frame above the next:
//! taking them away would, on one that does not break lines, take away what others wrote there (tried).

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What a screen is drawn on.
pub trait Terminal: Send {
    /// Columns and rows as they are now.
    fn size(&self) -> (usize, usize);

    /// Writes all of `bytes` at once.
    ///
    /// # Errors
    /// The terminal is gone.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The terminal at this process's stderr.
pub struct Stderr;

impl Terminal for Stderr {
    fn size(&self) -> (usize, usize) {
        /// What terminals had before they could tell.
        const USUAL: (usize, usize) = (80, 24);
        let size = rustix::termios::tcgetwinsize(io::stderr());
        let size = size.ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().write_all(bytes)
    }
}

/// A few lines of a terminal; the cursor stays at the end of the last one.
pub(super) struct Screen<T> {
    /// Gone after the first failure: what cannot be shown is no reason to stop a pull.
    term: Option<T>,
    frame: Vec<String>,
    size: (usize, usize),
}

impl<T: Terminal> Screen<T> {
    /// Nothing drawn yet; the cursor is at the beginning of a line.
    pub fn new(term: T) -> Self {
        Self { term: Some(term), frame: Vec::new(), size: (0, 0) }
    }

    /// Columns and rows as they are now; nothing on a terminal that is gone.
    pub fn size(&self) -> (usize, usize) {
        self.term.as_ref().map_or((0, 0), Terminal::size)
    }

    /// Shows `frame` in place of the last one, and `above` it lines that go by. Lines of a frame must be
    /// shorter than the terminal is wide. Nothing is written if nothing has changed.
    pub fn show(&mut self, above: &[String], frame: Vec<String>) {
        let size = self.size();
        if above.is_empty() && frame == self.frame && size == self.size {
            return;
        }
        let text = text(self.frame.len(), above, &frame);
        if self.term.as_mut().is_some_and(|term| term.write(text.as_bytes()).is_err()) {
            self.term = None;
        }
        (self.frame, self.size) = (frame, size);
    }
}

/// What replaces `rows` lines by `frame`.
fn text(rows: usize, above: &[String], frame: &[String]) -> String {
    const NO_BREAKS: &str = "\x1b[?7l";
    const BREAKS: &str = "\x1b[?7h";
    const ERASE_LINE_FROM_HERE: &str = "\x1b[K";
    const ERASE_ALL_FROM_HERE: &str = "\x1b[J";
    let mut text = String::new();
    if rows > 1 {
        text += &format!("\x1b[{}A", rows - 1);
    }
    text.push('\r');
    // These are whole, and may take several rows.
    for line in above {
        text = text + line + ERASE_LINE_FROM_HERE + "\r\n";
    }
    text += NO_BREAKS;
    for (place, line) in frame.iter().enumerate() {
        let before = if place > 0 { "\r\n" } else { "" };
        text = text + before + line + ERASE_LINE_FROM_HERE;
    }
    text + ERASE_ALL_FROM_HERE + BREAKS
}

/// As much of `line` as fits into `width` columns with one to spare: some terminals go to the next line when
/// the last column is written.
pub(super) fn cut(line: &str, width: usize) -> String {
    line.chars().take(fitting(line.chars(), width.saturating_sub(1))).collect()
}

/// `text` in `width` columns; of a longer one the end, which tells names of images apart.
pub(super) fn cut_front(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let kept = fitting(text.chars().rev(), width.saturating_sub(1));
    let end = text.chars().skip(text.chars().count() - kept);
    "…".chars().take(width).chain(end).collect()
}

/// How many of `chars` fit into `columns`.
fn fitting(chars: impl Iterator<Item = char>, columns: usize) -> usize {
    let ends = chars.scan(0, |end, c| {
        *end += c.width().unwrap_or(0);
        Some(*end)
    });
    ends.take_while(|end| *end <= columns).count()
}

#[cfg(test)]
pub(super) mod testing {
    use std::{
        io,
        sync::{Arc, Mutex, MutexGuard},
    };

    use super::Terminal;

    /// A terminal in memory, which counts what is written to it. Closed when it has no columns.
    #[derive(Clone)]
    pub(crate) struct Fake(Arc<Mutex<(vt100::Parser, Vec<Vec<u8>>)>>);

    impl Fake {
        pub(crate) fn new(columns: u16, rows: u16) -> Self {
            Self(Arc::new(Mutex::new((vt100::Parser::new(rows, columns, 0), Vec::new()))))
        }

        pub(crate) fn resize(&self, columns: u16, rows: u16) {
            self.lock().0.screen_mut().set_size(rows, columns);
        }

        /// What stands there, without blanks at the ends.
        pub(crate) fn contents(&self) -> String {
            self.lock().0.screen().contents()
        }

        pub(crate) fn writes(&self) -> Vec<Vec<u8>> {
            self.lock().1.clone()
        }

        /// Whether a line was too long for its row.
        pub(crate) fn wrapped(&self) -> bool {
            let inner = self.lock();
            let screen = inner.0.screen();
            (0..screen.size().0).any(|row| screen.row_wrapped(row))
        }

        fn lock(&self) -> MutexGuard<'_, (vt100::Parser, Vec<Vec<u8>>)> {
            self.0.lock().unwrap()
        }
    }

    impl Terminal for Fake {
        fn size(&self) -> (usize, usize) {
            let (rows, columns) = self.lock().0.screen().size();
            (columns.into(), rows.into())
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut inner = self.lock();
            inner.0.process(bytes);
            inner.1.push(bytes.to_vec());
            Ok(())
        }
    }

    /// A terminal that is gone.
    pub(crate) struct Gone;

    impl Terminal for Gone {
        fn size(&self) -> (usize, usize) {
            (80, 24)
        }

        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};

    fn lines<const N: usize>(lines: [&str; N]) -> Vec<String> {
        lines.map(str::to_owned).into()
    }

    #[test]
    fn lines_are_written_over_and_others_go_by_above() {
        let term = Fake::new(20, 6);
        let mut screen = Screen::new(term.clone());
        screen.show(&[], lines(["one", "two, longer", "three"]));
        assert_eq!(term.contents(), "one\ntwo, longer\nthree");
        screen.show(&lines(["gone by", "and this, which is more than a row"]), lines(["1", "2"]));
        assert_eq!(term.contents(), "gone by\nand this, which is more than a row\n1\n2");
        screen.show(&[], lines(["1", "2"]));
        assert_eq!(term.writes().len(), 2, "nothing is written when nothing has changed");
        screen.show(&[], Vec::new());
        assert_eq!(term.contents().trim_end(), "gone by\nand this, which is more than a row");
        let all = String::from_utf8(term.writes().concat()).unwrap();
        assert!(!all.contains("[2J") && !all.contains("[2K"), "nothing is cleared before it is written");
    }

    #[test]
    fn the_cursor_never_goes_above_the_first_line() {
        let term = Fake::new(20, 10);
        let mut other = term.clone();
        other.write(b"of others\r\n").unwrap();
        let mut screen = Screen::new(term.clone());
        for rows in [3, 1, 0, 4, 2] {
            screen.show(&[], (0..rows).map(|row| format!("{rows} {row}")).collect());
            assert!(term.contents().starts_with("of others"), "{}", term.contents());
        }
        assert_eq!(term.contents(), "of others\n2 0\n2 1");
    }

    #[test]
    fn a_line_is_cut_by_columns() {
        assert_eq!(
            (cut("abcdef", 4), cut("abc", 4), cut("a", 1), cut("a", 0)),
            ("abc".into(), "abc".into(), String::new(), String::new())
        );
        // Each of these takes two columns.
        assert_eq!(cut("猫猫x", 4), "猫");
    }

    #[test]
    fn of_a_name_the_end_is_kept() {
        let cuts = [5, 4, 1, 0].map(|width| cut_front("abcde", width));
        assert_eq!(cuts, ["abcde", "…cde", "…", ""]);
        assert_eq!(cut_front("猫猫x", 4), "…猫x");
    }

    #[test]
    fn a_terminal_that_is_gone_stops_nothing() {
        let mut screen = Screen::new(Gone);
        screen.show(&[], lines(["lost"]));
        screen.show(&[], lines(["not even tried"]));
        assert_eq!(screen.size(), (0, 0));
    }
}
