//! The bars as a terminal shows them: the real program in a real pseudo-terminal, read by a terminal
//! emulator, with transfers that stop where the test wants to look.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use support::{
    oracle,
    registry::{Fault, Image, Registry},
    repo::{Scratch, program, scratch},
    source::host,
    tar::{dir, file, noise, tar},
};

/// Bytes are reported by whole buffers: so many of these have come when a transfer stops.
const BUFFER: usize = 256 << 10;

/// How much of a layer comes before it stops.
const HALF: usize = 2 * BUFFER;

/// A pull in a terminal.
struct Session {
    child: Child,
    /// Our end.
    terminal: File,
    /// What the user sees.
    screen: Screen,
    /// All that was written.
    all: Vec<u8>,
}

/// The emulator knows no `?7l` (long lines are cut, not broken), so that is done here, and counted.
struct Screen {
    vt: vt100::Parser,
    breaks: bool,
    /// The control sequence that has begun.
    sequence: Vec<u8>,
    /// Characters that did not fit.
    cut: usize,
}

impl Screen {
    fn new(columns: u16, rows: u16) -> Self {
        Self { vt: vt100::Parser::new(rows, columns, 0), breaks: true, sequence: Vec::new(), cut: 0 }
    }

    fn process(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == 0x1b || !self.sequence.is_empty() {
                self.sequence.push(byte);
                if self.sequence.len() > 2 && (0x40..0x7f).contains(&byte) {
                    match &*std::mem::take(&mut self.sequence) {
                        b"\x1b[?7l" => self.breaks = false,
                        b"\x1b[?7h" => self.breaks = true,
                        _ => (),
                    }
                }
            } else if byte >= b' ' && !self.breaks && self.is_at_the_edge() {
                self.cut += 1;
                continue;
            }
            self.vt.process(&[byte]);
        }
    }

    fn is_at_the_edge(&self) -> bool {
        let screen = self.vt.screen();
        screen.cursor_position().1 >= screen.size().1
    }

    fn contents(&self) -> String {
        self.vt.screen().contents()
    }

    fn lines(&self) -> Vec<String> {
        self.contents().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// While there are bars: what comes after them is text as any other.
    fn assert_unbroken(&self) {
        let screen = self.vt.screen();
        let broken: Vec<u16> = (0..screen.size().0).filter(|&row| screen.row_wrapped(row)).collect();
        let bars = self.contents().contains('%');
        assert!(!bars || broken.is_empty(), "rows {broken:?} are broken:\n{}", self.contents());
    }
}

impl Session {
    /// Starts `cfs-dag pull` with `arguments` in a terminal of this size.
    fn start(columns: u16, rows: u16, arguments: &[String]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        tcsetwinsize(&terminal, size(columns, rows)).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let theirs = rustix::fs::open(
            &*name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let theirs: OwnedFd = theirs.unwrap();
        // The result goes elsewhere, so that all that is read here are bars.
        let child = Command::new(program())
            .args(["pull", "--insecure", "--tls-verify=false", "--progress=tty", "--stall-timeout=20s"])
            .args(arguments)
            .env("TERM", "xterm")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(theirs)
            .spawn();
        let screen = Screen::new(columns, rows);
        Self { child: child.unwrap(), terminal: terminal.into(), screen, all: Vec::new() }
    }

    /// Makes the terminal another size.
    fn resize(&mut self, columns: u16, rows: u16) {
        tcsetwinsize(&self.terminal, size(columns, rows)).unwrap();
        self.screen.vt.screen_mut().set_size(rows, columns);
    }

    /// Reads what comes next; false at the end. Looks at each state of the screen on the way.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let count = match self.terminal.read(&mut bytes) {
            Ok(count) => count,
            // That is how a pseudo-terminal says that nobody has its other end any more.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => panic!("{error}"),
        };
        self.screen.process(&bytes[..count]);
        self.screen.assert_unbroken();
        self.all.extend(&bytes[..count]);
        count > 0
    }

    /// Reads until one line of the screen has all of `words`, and gives the screen's lines.
    fn until(&mut self, words: &[&str]) -> Vec<String> {
        let has = |line: &String| words.iter().all(|word| line.contains(word));
        while !self.screen.lines().iter().any(has) {
            assert!(self.read(), "{words:?} never came:\n{}", self.screen.contents());
        }
        self.screen.lines()
    }

    /// Reads to the end; gives the last screen's lines.
    fn finish(mut self, code: i32) -> Vec<String> {
        while self.read() {}
        let status = self.child.wait().unwrap();
        let lines = self.screen.lines();
        assert_eq!(status.code(), Some(code), "{lines:#?}");
        assert_eq!(self.screen.cut, 0, "lines were longer than the terminal is wide");
        self.assert_calm();
        lines
    }

    /// Asserts that nothing flickers: no line is cleared before it is written, every frame has its end, and
    /// the cursor goes up by as many lines as the frame before had.
    fn assert_calm(&self) {
        let all = String::from_utf8(self.all.clone()).unwrap();
        for clearing in ["\x1b[2J", "\x1b[1J", "\x1b[2K", "\x1b[1K", "\x1b[H", "\x1bc"] {
            assert!(!all.contains(clearing), "{clearing:?} in {all:?}");
        }
        // A frame begins where breaking lines is switched off, and ends where it is on again.
        let mut lines_before = 0;
        let mut frames = all.split("\x1b[?7l");
        let mut before = frames.next().unwrap();
        for rest in frames {
            let (frame, after) = rest.split_once("\x1b[?7h").expect("a frame has an end");
            assert_eq!(up(before), lines_before, "before {frame:?}");
            assert!(!frame.contains("A\x1b") && frame.matches("\x1b[J").count() == 1, "{frame:?}");
            lines_before = frame.matches("\r\n").count();
            before = after;
        }
        assert_eq!(lines_before, 0, "the bars are gone at the end");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// How many lines the cursor goes up at the beginning of `text`.
fn up(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\x1b[") else { return 0 };
    let (count, _) = rest.split_once('A').unwrap();
    count.parse().unwrap()
}

/// A registry with an image of two layers, the second of which stops half-way until it is released.
fn half_way() -> (Scratch, Registry, Image, String) {
    let registry = Registry::start();
    let layer = |seed| tar([dir("usr"), file(format!("usr/file-{seed}"), noise(seed, 2 * HALF))]);
    let image = registry.image("app", "v1", &host(), &[&layer(1), &layer(2)]);
    registry.fault("app", image.layers[1], Fault::StallAfter(HALF));
    let reference = registry.reference("app", "v1");
    (scratch(), registry, image, reference)
}

/// The session after it ended well: the image's line and the totals are left, and nothing of the bars.
fn assert_done(scratch: &Scratch, lines: &[String]) {
    assert!(lines[0].contains("/app:v1: done, 2.10 MB fetched, "), "{lines:#?}");
    assert!(lines[1].starts_with("1 image done in "), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains('%')), "bars are left: {lines:#?}");
    oracle::assert_clean(&scratch.path("repo"));
}

fn arguments(scratch: &Scratch, reference: &str) -> [String; 3] {
    [reference.to_owned(), "--repo".to_owned(), scratch.path("repo").display().to_string()]
}

#[test]
fn a_pull_at_40_80_and_200_columns() {
    for (columns, total, layer) in [
        (40, " 72%  eta --  1.57 MB of 2.10 MB", "fetching   49%  1.05 MB"),
        (80, "[=====>  ]  72%  eta --  1.57 MB of 2.10 MB  ", "fetching  [====>     ]  524 kB of 1.05 MB  "),
        (
            200,
            "[===========================>          ]  72%  eta --  1.57 MB of 2.10 MB  ",
            "fetching  [==========>           ]  524 kB of 1.05 MB  docker://127.0.0.1:",
        ),
    ] {
        let (scratch, registry, _, reference) = half_way();
        let mut session = Session::start(columns, 24, &arguments(&scratch, &reference));
        session.until(&["1.57 MB of 2.10 MB"]);
        let lines = session.until(&[layer]);
        assert!(lines[0].starts_with(total), "{columns}: {lines:#?}");
        assert_eq!(lines.len(), 2, "{columns}: {lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() < columns.into()), "{columns}: {lines:#?}");
        registry.release();
        assert_done(&scratch, &session.finish(0));
    }
}

#[test]
fn a_terminal_may_change_its_size_in_the_middle() {
    let (scratch, registry, _, reference) = half_way();
    let mut session = Session::start(120, 24, &arguments(&scratch, &reference));
    session.until(&["1.57 MB of 2.10 MB", "layers 1/2"]);
    session.until(&["fetching  [==========>           ]"]);
    for (columns, rows, layer) in [
        (40, 5, "fetching   49%  1.05 MB"),
        (80, 3, "fetching  [====>     ]  524 kB of 1.05 MB"),
        (34, 24, "fetching   49%"),
        (200, 50, "fetching  [==========>           ]"),
    ] {
        session.resize(columns, rows);
        let lines = session.until(&[layer]);
        assert_eq!(lines.len(), 2, "{columns}: {lines:#?}");
        // What was written for the old size may have been cut.
        session.screen.cut = 0;
    }
    registry.release();
    assert_done(&scratch, &session.finish(0));
}

#[test]
fn a_failed_image_leaves_one_line_and_is_explained_after_the_bars() {
    let (scratch, registry, image, reference) = half_way();
    registry.fault_always(&format!("app/blobs/{}", image.layers[0]), Fault::Status(404, None));
    let mut session = Session::start(80, 24, &arguments(&scratch, &reference));
    let lines = session.until(&["/app:v1: failed: "]);
    assert!(lines[0].chars().count() < 80, "{lines:#?}");
    let lines = session.finish(1).join("");
    assert!(lines.contains("layer 1 of 2"), "{lines}");
}

#[test]
fn names_from_strangers_do_not_steer_the_terminal() {
    let (scratch, registry, _, reference) = half_way();
    registry.release();
    let name = ["--name".to_owned(), "猫\u{1f431}é\u{9b}2Jx".repeat(8)];
    let arguments: Vec<String> = arguments(&scratch, &reference).into_iter().chain(name).collect();
    let lines = Session::start(40, 24, &arguments).finish(0);
    assert!(lines[0].contains("done, 2.10 MB"), "{lines:#?}");
}
