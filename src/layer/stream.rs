//! Writes splitstreams byte for byte as composefs 0.9.4 does, in bounded memory. Knows the format (composefs
//! `splitstream_format`); ignores tar, objects and when an id becomes known.

use std::{fs::File, io};

use composefs::fsverity::FsVerityHashValue;

/// Gives an anonymous file for what outgrows memory.
pub type Spool = Box<dyn Fn() -> io::Result<File> + Send>;

/// A splitstream being written. Inline bytes and references must come in stream order.
pub struct StreamWriter<H> {
    _h: std::marker::PhantomData<H>,
}

impl<H: FsVerityHashValue> StreamWriter<H> {
    /// An empty stream of `content_type` (little-endian ASCII, like `ocilayer`).
    pub fn new(_content_type: u64, _spool: Spool) -> Self {
        todo!()
    }

    /// Adds inline bytes; neighbours become one chunk, as upstream has it.
    pub fn inline(&mut self, _bytes: &[u8]) -> io::Result<()> {
        todo!()
    }

    /// Adds a reference to an object of `size` bytes.
    pub fn external(&mut self, _id: &H, _size: u64) -> io::Result<()> {
        todo!()
    }

    /// Adds a named reference to another stream, in the order of the calls.
    pub fn named_ref(&mut self, _name: &str, _id: &H) {
        todo!()
    }

    /// Ends the stream.
    pub fn finish(self) -> io::Result<FinishedStream<H>> {
        todo!()
    }
}

/// The bytes of a finished splitstream: some in memory, the rest in memory or in an anonymous file.
pub struct FinishedStream<H> {
    _h: std::marker::PhantomData<H>,
}

impl<H: FsVerityHashValue> FinishedStream<H> {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// The ids that it refers to as objects, each once, in order of first use.
    pub fn object_refs(&self) -> &[H] {
        todo!()
    }

    /// Hands over all bytes in order, in pieces of at most 1 MiB.
    pub fn read(&self, _each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        todo!()
    }
}
