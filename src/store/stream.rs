//! Splitstreams that stand for one object: configs, manifests, raw layers. Knows the format (composefs
//! `splitstream_format`); ignores what the object says.
//!
//! Reading is upstream's, behind a check that a corrupt header cannot ask for more
//! memory than the file has bytes.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::fd::AsFd,
    os::unix::fs::FileExt,
};

use composefs::{
    fsverity::{FsVerityHashValue, MeasureVerityError, measure_verity},
    splitstream::SplitStreamReader,
};
use rustix::io::Errno;

use super::{
    Content, Store, StoreError, beneath,
    error::{errno_in, shortage_in},
    objects::{VERITY_ERROR, object_path},
    splitstream::StreamWriter,
};

const MAGIC: &[u8; 11] = b"SplitStream";
const HEADER_SIZE: u64 = 32;
const INFO_SIZE: u64 = 80;
/// Where versions of upstream before 0.8 have the range of the info section, the magic, and version,
/// algorithm and block size.
const OLD: (usize, usize, [usize; 3]) = (0, 18, [29, 30, 31]);
/// Where the content type is in the info section: after the ranges of four others.
const CONTENT_TYPE: usize = 64;

/// The bytes of a splitstream whose whole content is one object of `size` bytes. `refs` are its named
/// references in order; a name may repeat, a later id wins.
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

/// A stream whose header is right.
pub(super) struct Peeked {
    file: File,
    /// What it says that it holds.
    pub(super) content_type: u64,
}

impl Peeked {
    /// Reads its references. Failures that say nothing about the object are errors, not a broken stream.
    pub(super) fn open<H: FsVerityHashValue>(self) -> Result<Opened<H>, StoreError> {
        let refused = |cause| StoreError::Io { what: "reading a stream".into(), cause };
        loop {
            // The copies share their place in the file, and a reader that failed has moved it.
            (&self.file).rewind().map_err(refused)?;
            let error = match SplitStreamReader::new(self.file.try_clone().map_err(refused)?, None) {
                Ok(reader) => return Ok(Opened::Stream(reader)),
                Err(error) => error,
            };
            if let Some(errno) = shortage_in(&error) {
                return Err(refused(errno.into()));
            }
            if errno_in(&error) != Some(Errno::INTR) {
                return Ok(Opened::Broken(format!("{error:#}")));
            }
        }
    }
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
        Ok(match self.peek_stream(id)? {
            Ok(peeked) => peeked.open()?,
            Err(why) => Opened::Broken(why),
        })
    }

    /// Opens the splitstream in object `id` as far as its header, which is checked as upstream's reader
    /// does; the inner error says what is wrong. Reading on takes a millisecond for a large layer, most
    /// of it for its references.
    pub(super) fn peek_stream(&self, id: &H) -> Result<Result<Peeked, String>, StoreError> {
        let file = match self.open_verified(id)? {
            Ok(file) => file,
            Err(why) => return Ok(Err(why)),
        };
        let header = read_header::<H>(&file);
        let content_type = header.map_err(|cause| self.explain(object_path(id), cause))?;
        Ok(content_type.map(|content_type| Peeked { file, content_type }))
    }

    /// Opens an object for reading; the inner error says why it cannot be right. A secure
    /// repository's objects are measured.
    pub(super) fn open_verified(&self, id: &H) -> Result<Result<File, String>, StoreError> {
        let path = object_path(id);
        // In this order: it may get its name in between.
        let opened = match self.open_staged(id)? {
            Some(file) => Ok(file),
            None => beneath::file(self.root(), &*path),
        };
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Err("its object is missing".into())),
            Err(beneath::NO_FILE) => return Ok(Err("its object is no file".into())),
            Err(Errno::LOOP) => return Ok(Err("its object is a link".into())),
            Err(VERITY_ERROR) if !self.is_insecure() => {
                return Ok(Err("its object does not have the size that its fs-verity digest covers".into()));
            }
            Err(errno) if self.shows_damage(&errno.into()) => return Ok(Err(format!("its object: {errno}"))),
            Err(errno) => return Err(self.fault(path, errno)),
        };
        if !self.is_insecure() {
            match measure_verity::<H>(file.as_fd()) {
                Ok(found) if found == *id => {}
                Ok(found) => return Ok(Err(format!("its object measures {}", found.to_hex()))),
                Err(MeasureVerityError::Io(cause)) if !self.shows_damage(&cause) => {
                    return Err(self.explain(path, cause));
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        let sound = self.is_sound(id, &file)?;
        Ok(if sound { Ok(file) } else { Err("its object is not what its name says".into()) })
    }
}

/// Checks the format and that every section lies inside the file, and gives the content type; the inner
/// error says what is wrong.
fn read_header<H: FsVerityHashValue>(file: &File) -> std::io::Result<Result<u64, String>> {
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
    let (info_range, magic, rest) = if header.starts_with(MAGIC) { (16, 0, [11, 14, 15]) } else { OLD };
    let info_at = number(&header, info_range);
    if !header[magic..].starts_with(MAGIC) || !inside(&header, info_range) || size - info_at < INFO_SIZE {
        return Ok(Err("its object is no splitstream, or a truncated one".into()));
    }
    if rest.map(|at| header[at]) != [0, H::ALGORITHM.kernel_id(), H::ALGORITHM.lg_blocksize()] {
        return Ok(Err("its object is a splitstream of another version or algorithm".into()));
    }
    file.read_exact_at(&mut info, info_at)?;
    let refs = |at: usize| (number(&info, at + 8).saturating_sub(number(&info, at))) % size_of::<H>() as u64;
    if !(0..CONTENT_TYPE).step_by(16).all(|at| inside(&info, at)) || refs(0) + refs(16) != 0 {
        return Ok(Err("its object is truncated".into()));
    }
    Ok(Ok(number(&info, CONTENT_TYPE)))
}
