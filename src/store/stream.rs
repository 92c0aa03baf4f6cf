//! Splitstreams that stand for one object: configs, manifests, raw layers. Knows the format (composefs
//! `splitstream_format`); ignores what the object says.
//!
//! Reading is upstream's, behind a check that a corrupt header cannot ask for more
//! memory than the file has bytes.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    os::unix::fs::FileExt,
};

use composefs::{
    fsverity::{FsVerityHashValue, MeasureVerityError, measure_verity},
    splitstream::SplitStreamReader,
};
use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use super::{Content, Store, StoreError, objects::object_path, splitstream::StreamWriter};

const MAGIC: &[u8; 11] = b"SplitStream";
const HEADER_SIZE: u64 = 32;
const INFO_SIZE: u64 = 80;
/// Where the content type is in the info section: after the ranges of four others.
const CONTENT_TYPE: usize = 64;

/// The bytes of a splitstream whose whole content is one object of `size` bytes. `refs` are its named references
/// in order; a name may repeat, a later id wins.
pub(super) fn encode<H: FsVerityHashValue>(
    content: Content,
    refs: &[(String, H)],
    object: &H,
    size: u64,
) -> io::Result<Vec<u8>> {
    // One reference never outgrows memory.
    let no_spool = || Err(io::Error::from(io::ErrorKind::Unsupported));
    let mut stream = StreamWriter::new(content.code(), Box::new(no_spool));
    for (name, id) in refs {
        stream.named_ref(name, id);
    }
    stream.external(object, size)?;
    let mut bytes = Vec::new();
    stream.finish()?.read(|piece| bytes.write_all(piece))?;
    Ok(bytes)
}

/// What came of opening a stream.
pub(super) enum Opened<H: FsVerityHashValue> {
    /// It can be read.
    Stream(SplitStreamReader<H>),
    /// Its object is missing, truncated or no stream; the text says which.
    Broken(String),
}

impl<H: FsVerityHashValue> Store<H> {
    /// Opens the splitstream in object `id`. Failures that say nothing about the object (too many open files,
    /// say) are errors, not a broken stream: a broken one may be replaced.
    pub(super) fn open_stream(&self, id: &H) -> Result<Opened<H>, StoreError> {
        let file = match self.open_verified(id)? {
            Ok(file) => file,
            Err(why) => return Ok(Opened::Broken(why)),
        };
        let fault = |cause| StoreError::Io { what: object_path(id), cause };
        if let Err(why) = read_header(&file).map_err(fault)? {
            return Ok(Opened::Broken(why));
        }
        Ok(match SplitStreamReader::new(file, None) {
            Ok(reader) => Opened::Stream(reader),
            Err(error) => Opened::Broken(format!("{error:#}")),
        })
    }

    /// What the splitstream in object `id` says that it holds; the inner error says why it cannot be right. Reads no more
    /// than that: opening a large layer takes a millisecond, most of it for its references.
    pub(super) fn peek_stream(&self, id: &H) -> Result<Result<u64, String>, StoreError> {
        let file = match self.open_verified(id)? {
            Ok(file) => file,
            Err(why) => return Ok(Err(why)),
        };
        read_header(&file).map_err(|cause| StoreError::Io { what: object_path(id), cause })
    }

    /// Opens an object for reading; the inner error says why it cannot be right. A secure repository's objects
    /// are measured.
    pub(super) fn open_verified(&self, id: &H) -> Result<Result<File, String>, StoreError> {
        let path = object_path(id);
        let file = match fs::openat(self.root(), &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Err("its object is missing".into())),
            Err(errno) => return Err(self.fault(path, errno)),
        };
        if self.is_insecure() {
            return Ok(Ok(file));
        }
        match measure_verity::<H>(file.as_fd()) {
            Ok(found) if found == *id => Ok(Ok(file)),
            Ok(found) => Ok(Err(format!("its object measures {}", found.to_hex()))),
            Err(MeasureVerityError::Io(cause)) => Err(StoreError::Io { what: path, cause }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

/// Checks that every section lies inside the file, and gives the content type; the inner error says what does not.
fn read_header(file: &File) -> std::io::Result<Result<u64, String>> {
    let size = file.metadata()?.len();
    let mut header = [0; HEADER_SIZE as usize];
    let mut info = [0; INFO_SIZE as usize];
    if size < HEADER_SIZE + INFO_SIZE {
        return Ok(Err(format!("its object has only {size} bytes")));
    }
    file.read_exact_at(&mut header, 0)?;
    let number = |bytes: &[u8], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let inside = |bytes: &[u8], at: usize| {
        let (start, end) = (number(bytes, at), number(bytes, at + 8));
        start <= end && end <= size
    };
    // Versions of upstream before 0.8 wrote the range first and the magic last.
    let info_range = if header.starts_with(MAGIC) { 16 } else { 0 };
    let info_at = number(&header, info_range);
    if !inside(&header, info_range) || size - info_at < INFO_SIZE {
        return Ok(Err("its object is no splitstream, or a truncated one".into()));
    }
    file.read_exact_at(&mut info, info_at)?;
    if (0..CONTENT_TYPE).step_by(16).all(|at| inside(&info, at)) {
        Ok(Ok(number(&info, CONTENT_TYPE)))
    } else {
        Ok(Err("its object is truncated".into()))
    }
}
