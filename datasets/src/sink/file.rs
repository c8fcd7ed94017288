//! The file under a part: buffered, digested while it is written, optionally compressed.
//!
//! ```text
//! formats ─▶ Stream: buffer ─▶ [gzip | zstd] ─▶ PartFile: buffer ─▶ BLAKE3 ─▶ file
//! ```
//! Without compression the two buffers are one. What the bytes mean is left to the formats.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use flate2::write::GzEncoder;

use crate::format::Compression;

/// How much is gathered before the file sees it. Large enough that the system call and the digest
/// (which works on many chunks at once) cost nothing, small enough to stay in a core's cache.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// What one more record may add before a buffer is looked at again, without moving it.
const SLACK_BYTES: usize = 16 << 10;

/// gzip's usual trade of time for size.
const GZIP_LEVEL: u32 = 6;

/// Zstandard's usual one.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// A file that knows its length and digest when it is finished.
pub(super) struct PartFile {
    file: File,
    buffer: Vec<u8>,
    digest: blake3::Hasher,
    bytes: u64,
}

/// Length and digest of what was written.
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) digest: [u8; 32],
}

impl PartFile {
    /// Makes a new file. One that exists is an error: a part's name is unique to its attempt.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Self { file, buffer: Vec::with_capacity(BUFFER_BYTES + SLACK_BYTES), digest: blake3::Hasher::new(), bytes: 0 })
    }

    fn drain(&mut self) -> io::Result<()> {
        self.digest.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        // One enormous record must not keep its memory for the rest of the part.
        self.buffer.shrink_to(BUFFER_BYTES + SLACK_BYTES);
        written
    }

    #[inline]
    fn settle(&mut self) -> io::Result<()> {
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.drain() }
    }

    /// Writes what is left. The file is complete after this, though not yet on the disk.
    pub(super) fn finish(mut self) -> io::Result<(File, Written)> {
        self.drain()?;
        let written = Written { bytes: self.bytes, digest: *self.digest.finalize().as_bytes() };
        Ok((self.file, written))
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Encoders hand over whole pages and bodies. The buffer never grows past its size for them.
        let room = BUFFER_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.settle()?;
        Ok(taken)
    }

    /// Does nothing: encoders flush far more often than a file should be written to.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A growing text: records are appended to its buffer, which goes to the file piece by piece.
pub(super) enum Stream {
    Plain(PartFile),
    Gzip(Vec<u8>, GzEncoder<PartFile>),
    #[cfg(feature = "zstd")]
    Zstd(Vec<u8>, zstd::Encoder<'static, PartFile>),
}

impl Stream {
    pub(super) fn new(file: PartFile, compression: Compression) -> io::Result<Self> {
        let buffer = || Vec::with_capacity(BUFFER_BYTES + SLACK_BYTES);
        Ok(match compression {
            Compression::None => Self::Plain(file),
            // The header that this writes holds neither a time nor a name.
            Compression::Gzip => Self::Gzip(buffer(), GzEncoder::new(file, flate2::Compression::new(GZIP_LEVEL))),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(buffer(), zstd::Encoder::new(file, ZSTD_LEVEL)?),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => return Err(io::ErrorKind::Unsupported.into()),
            Compression::Bzip2 => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// The text not yet passed on. Whole records are appended; `settle` follows each.
    #[inline]
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(file) => &mut file.buffer,
            Self::Gzip(buffer, _) => buffer,
            #[cfg(feature = "zstd")]
            Self::Zstd(buffer, _) => buffer,
        }
    }

    /// Passes the buffer on when it is full.
    #[inline]
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.buffer().len() < BUFFER_BYTES { Ok(()) } else { self.drain() }
    }

    #[cold]
    fn drain(&mut self) -> io::Result<()> {
        fn pass_on(buffer: &mut Vec<u8>, to: &mut impl Write) -> io::Result<()> {
            let written = to.write_all(buffer);
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES + SLACK_BYTES);
            written
        }
        match self {
            Self::Plain(file) => file.drain(),
            Self::Gzip(buffer, encoder) => pass_on(buffer, encoder),
            #[cfg(feature = "zstd")]
            Self::Zstd(buffer, encoder) => pass_on(buffer, encoder),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<PartFile> {
        self.drain()?;
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(_, encoder) => encoder.finish(),
            #[cfg(feature = "zstd")]
            Self::Zstd(_, encoder) => encoder.finish(),
        }
    }

    /// An upper estimate of the memory of one open stream.
    pub(super) fn memory_bytes(compression: Compression) -> usize {
        let buffer = BUFFER_BYTES + SLACK_BYTES;
        match compression {
            Compression::None => buffer,
            // Window, hash chains and pending output of deflate at its usual level.
            Compression::Gzip => 2 * buffer + (384 << 10),
            // Window of 2 MiB at level 3, tables, and two blocks.
            Compression::Zstd => 2 * buffer + (5 << 20),
            Compression::Bzip2 => 0,
        }
    }
}
