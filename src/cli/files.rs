//! Files that the command line names: read within bounds, checked before a run, written whole. Knows kinds of
//! files and their places; ignores what is in them.

use std::{
    fs::{File, Metadata},
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD},
    io::Errno,
};

use super::Problem;
use crate::types::{errno_in_text, remedy};

/// Bytes of a list or a lock: a million images of 60 characters, which is more than one run could mirror.
/// Reading takes up to ten times as much memory.
pub(super) const MAX_LIST: u64 = 64 << 20;

/// Bytes of a saved plan: some hundred thousand layers.
pub(super) const MAX_PLAN: u64 = 256 << 20;

/// Why a file that was named is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What may be endless, or is not a file at all.
    #[error("this is {0}: a file is expected")]
    Kind(&'static str),
    /// More than what it is for could need.
    #[error("longer than {} MiB: split it", .0 >> 20)]
    TooLong(u64),
    /// Not a text.
    #[error("line {line}: the text is not UTF-8")]
    NotText { line: usize },
}

/// What may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// Regular files.
    Files,
    /// Pipes as well, which end when their writers do: `<(…)` of a shell.
    FilesAndPipes,
}

/// Reads the file at `path`, of `limit` bytes at most.
pub(super) fn read_text(path: &Path, accept: Accept, limit: u64) -> Result<String, ReadError> {
    let kind = std::fs::metadata(path)?;
    // Opening a pipe waits for its writer, and is not done by mistake.
    let is_pipe = kind.file_type().is_fifo() && accept == Accept::FilesAndPipes;
    if !is_pipe {
        check_kind(&kind)?;
    }
    let flags = if is_pipe { 0 } else { rustix::fs::OFlags::NONBLOCK.bits() as i32 };
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !(is_pipe && found.file_type().is_fifo()) {
        check_kind(&found)?;
        if found.len() > limit {
            return Err(ReadError::TooLong(limit));
        }
    }
    text_of(file, limit)
}

/// Reads all of `source`, `limit` bytes at most.
pub(super) fn text_of(source: impl Read, limit: u64) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLong(limit));
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        ReadError::NotText { line: sound.iter().filter(|byte| **byte == b'\n').count() + 1 }
    })
}

fn check_kind(found: &Metadata) -> Result<(), ReadError> {
    if found.is_file() { Ok(()) } else { Err(ReadError::Kind(kind_of(found))) }
}

fn kind_of(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// A file that the command line names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// What it is named with, or what it is: `--lock`, `the list`.
    pub(super) what: &'static str,
    /// Where.
    pub(super) path: &'a Path,
}

/// The files that a verb reads and those that it writes.
#[derive(Debug, Default)]
pub(super) struct Files<'a> {
    /// Read, and not to be overwritten. `-` is standard input.
    pub(super) inputs: Vec<Named<'a>>,
    /// Written, each for itself.
    pub(super) outputs: Vec<Named<'a>>,
}

impl<'a> Files<'a> {
    /// Adds an input, if it is named.
    pub(super) fn read(&mut self, what: &'static str, path: Option<&'a PathBuf>) {
        self.inputs.extend(path.map(|path| Named { what, path }));
    }

    /// Adds an output, if it is named.
    pub(super) fn write(&mut self, what: &'static str, path: Option<&'a PathBuf>) {
        self.outputs.extend(path.map(|path| Named { what, path }));
    }

    /// Refuses outputs that would destroy an input or each other, or that cannot be written: what a run has
    /// done must not be lost at its end.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let mut taken: Vec<(Named<'_>, Identity, bool)> = Vec::new();
        taken.extend(self.inputs.iter().filter_map(|input| Some((*input, input.identity()?, true))));
        for output in &self.outputs {
            let shown = format!("{} {}", output.what, output.path.display());
            let cannot = |why: String| match errno_in_text(&why) {
                // The system has failed, not the command line.
                Some(Errno::IO | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
                    Problem::from(format!("{shown}: {why}"))
                }
                _ => Problem::usage(format!("{shown}: {why}")),
            };
            let Some(identity) = output.destination().map_err(cannot)? else { continue };
            if let Some((other, _, is_input)) = taken.iter().find(|(_, other, _)| other.is(&identity)) {
                return Err(cannot(match is_input {
                    true => format!("this is {} and would be overwritten: name another file", other.what),
                    false => format!("{} names this file, too: name another one", other.what),
                }));
            }
            taken.push((*output, identity, false));
        }
        Ok(())
    }
}

/// What tells a file from others, whatever it is called.
#[derive(Debug)]
struct Identity {
    /// Its place, without links.
    place: Option<PathBuf>,
    /// Device and inode, if it is there: one file may have several places.
    inode: Option<(u64, u64)>,
}

impl Identity {
    fn is(&self, other: &Self) -> bool {
        (self.place.is_some() && self.place == other.place)
            || (self.inode.is_some() && self.inode == other.inode)
    }
}

impl Named<'_> {
    /// What an input is, if it is a file that is there.
    fn identity(&self) -> Option<Identity> {
        if self.path == Path::new("-") {
            return Some(Identity { place: None, inode: Some(inode_of(std::io::stdin())?) });
        }
        let found = std::fs::metadata(self.path).ok().filter(Metadata::is_file)?;
        Some(Identity {
            place: std::fs::canonicalize(self.path).ok(),
            inode: Some((found.dev(), found.ino())),
        })
    }

    /// Where an output goes; `None` for what is not replaced but written to as it is:
    /// pipes, terminals, `/dev/null`.
    fn destination(&self) -> Result<Option<Identity>, String> {
        let found = match std::fs::metadata(self.path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.to_string()),
        };
        if let Some(found) = found.as_ref().filter(|found| !found.is_file()) {
            if found.is_dir() || found.file_type().is_socket() {
                return Err(format!("this is {}: a file is expected", kind_of(found)));
            }
            return allowed(self.path, Access::WRITE_OK).map(|()| None);
        }
        if found.as_ref().is_some_and(|found| stream_of(found).is_some()) {
            return Ok(None);
        }
        if found.is_some() && std::fs::canonicalize(self.path).is_err() {
            return allowed(self.path, Access::WRITE_OK).map(|()| None);
        }
        let place = place_of(self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => "its folder is not there".to_owned(),
            _ => error.to_string(),
        })?;
        let folder = place.parent().unwrap_or(Path::new("/"));
        // A file is written beside and takes its place.
        allowed(folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| format!("its folder cannot be written: {error}"))?;
        Ok(Some(Identity { place: Some(place), inode: found.map(|found| (found.dev(), found.ino())) }))
    }
}

fn allowed(path: &Path, how: Access) -> Result<(), String> {
    let answer = rustix::fs::accessat(CWD, path, how, AtFlags::EACCESS);
    answer.map_err(|errno| std::io::Error::from(errno).to_string())
}

/// Where a file is or will be, without links: also where a link leads that leads to nothing so far.
fn place_of(path: &Path) -> std::io::Result<PathBuf> {
    /// As many links as Linux follows.
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match std::fs::canonicalize(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            place => return place,
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let place = std::fs::canonicalize(folder)?.join(name);
        match std::fs::read_link(&place) {
            Ok(target) => path = place.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// A standard stream that a file is behind: `/dev/stdout` of `cfs-dag … >out`.
enum Stream {
    Out,
    Err,
}

fn stream_of(found: &Metadata) -> Option<Stream> {
    let inode = Some((found.dev(), found.ino()));
    if inode_of(std::io::stdout()) == inode {
        Some(Stream::Out)
    } else if inode_of(std::io::stderr()) == inode {
        Some(Stream::Err)
    } else {
        None
    }
}

/// Device and inode of an open regular file.
fn inode_of(file: impl AsFd) -> Option<(u64, u64)> {
    let found = File::from(file.as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    found.is_file().then(|| (found.dev(), found.ino()))
}

/// Writes a file that was asked for, whole or not at all.
pub(super) fn write_file(path: &Path, what: &str, text: &str) -> Result<(), Problem> {
    let fault = |error: std::io::Error| {
        Problem::from(format!("{}: {what} cannot be written: {error}{}", path.display(), remedy(&error)))
    };
    if let Ok(found) = std::fs::metadata(path) {
        if !found.is_file() || (stream_of(&found).is_none() && std::fs::canonicalize(path).is_err()) {
            // A pipe is written as it is, and so is a file without a name, which /dev/fd/9 can lead to: what
            // would be replaced is the link in /dev.
            return std::fs::write(path, text).map_err(fault);
        }
        // Replaced, it would no longer be the file that the stream writes to.
        let written = match stream_of(&found) {
            Some(Stream::Out) => Some(write_to(std::io::stdout(), text)),
            Some(Stream::Err) => Some(write_to(std::io::stderr(), text)),
            None => None,
        };
        if let Some(written) = written {
            return written.map_err(fault);
        }
    }
    // Beside it, so that it can take its place; a link stays one.
    let path = &place_of(path).map_err(fault)?;
    let beside = path.with_file_name(format!(".cfs-dag-{}.tmp", std::process::id()));
    // Never through a link at this place; what a killed run of the same process id left is removed.
    let _ = std::fs::remove_file(&beside);
    let mut file = File::create_new(&beside).map_err(fault)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // Not before its bytes are on the disk: a power cut must not leave an empty file in the
    // place of the one before.
    let written = written.and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        fault(error)
    })
}

fn write_to(mut stream: impl Write, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush())
}
