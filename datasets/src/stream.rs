//! Compressed files, decompressed from the beginning.
//!
//! A stream ends where the compressed data says so, checksums included, or it is an error: never a shorter file.
//! What comes out is compared with what went in, so a bomb is stopped after `expansion` times its size.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use crate::error::ReadError;
use crate::format::Compression;
use crate::limits::{Limits, Room};
use crate::listing::InputFile;

/// What a stream may expand to whatever its size: the ratio of a tiny file says nothing, and so much does no harm.
const FREE_BYTES: u64 = 16 << 20;

/// A compressed file being read.
pub(crate) struct Stream {
    codec: Codec,
    produced: u64,
    limits: Limits,
    room: Room,
}

#[allow(clippy::large_enum_variant, reason = "a stream is boxed, and there is one per reader")]
enum Codec {
    Gzip(flate2::bufread::MultiGzDecoder<BufReader<Counted>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Decoder<'static, BufReader<Counted>>),
    #[cfg(feature = "bzip2")]
    Bzip2(bzip2::bufread::MultiBzDecoder<BufReader<Counted>>),
}

/// The compressed side: how much of it was read, and whether it was the system that failed.
struct Counted {
    file: File,
    /// How much there is of it.
    bytes: u64,
    consumed: u64,
    failed: bool,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What was added since the file was listed is not read.
        let left = buffer.len().min(usize::try_from(self.bytes - self.consumed).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..left]);
        match &read {
            Ok(bytes) => self.consumed += *bytes as u64,
            Err(error) => self.failed |= error.kind() != io::ErrorKind::Interrupted,
        }
        read
    }
}

impl Stream {
    /// Begins to decompress `input`, whose file is open as `file` and is compressed.
    pub(crate) fn new(input: &InputFile, file: File, limits: Limits, room: Room) -> Result<Self, ReadError> {
        let window = window_bytes(input, &file, limits)?;
        let source = BufReader::with_capacity(128 << 10, Counted { file, bytes: input.bytes, consumed: 0, failed: false });
        let codec = match input.compression {
            Compression::Gzip => Codec::Gzip(flate2::bufread::MultiGzDecoder::new(source)),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                let fail = |source| input.io_error(0, source);
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(fail)?;
                // The first frame was looked at before; those behind it are bound by this.
                let behind = limits.window_bytes.min(room.window_bytes()).max(1 << 10).ilog2();
                decoder.window_log_max(behind.max(window.next_power_of_two().ilog2()).min(31)).map_err(fail)?;
                Codec::Zstd(decoder)
            }
            #[cfg(feature = "bzip2")]
            Compression::Bzip2 => Codec::Bzip2(bzip2::bufread::MultiBzDecoder::new(source)),
            #[cfg(not(feature = "bzip2"))]
            Compression::Bzip2 => return Err(ReadError::Unsupported { path: input.path.clone(), feature: "bzip2" }),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => {
                let _ = window;
                return Err(ReadError::Unsupported { path: input.path.clone(), feature: "zstd" });
            }
            Compression::None => unreachable!("plain files are read in place"),
        };
        Ok(Self { codec, produced: 0, limits, room })
    }

    /// Reads the next bytes; none at the end of the stream.
    pub(crate) fn read(&mut self, input: &InputFile, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let read = loop {
            let read = match &mut self.codec {
                Codec::Gzip(decoder) => decoder.read(buffer),
                #[cfg(feature = "zstd")]
                Codec::Zstd(decoder) => decoder.read(buffer),
                #[cfg(feature = "bzip2")]
                Codec::Bzip2(decoder) => decoder.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| self.error(input, error))?,
            }
        };
        self.produced += read as u64;
        let allowed = input.bytes.saturating_mul(self.limits.expansion).max(FREE_BYTES);
        if self.produced > allowed {
            return Err(ReadError::Bomb { path: input.path.clone(), limit: self.limits.expansion });
        }
        Ok(read)
    }

    /// The compressed file.
    pub(crate) fn file(&self) -> &File {
        &self.source().file
    }

    /// How much of the compressed file was read.
    pub(crate) fn consumed(&self) -> u64 {
        self.source().consumed
    }

    fn source(&self) -> &Counted {
        match &self.codec {
            Codec::Gzip(decoder) => decoder.get_ref().get_ref(),
            #[cfg(feature = "zstd")]
            Codec::Zstd(decoder) => decoder.get_ref().get_ref(),
            #[cfg(feature = "bzip2")]
            Codec::Bzip2(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn error(&self, input: &InputFile, source: io::Error) -> ReadError {
        let (path, offset) = (input.path.clone(), self.produced);
        if self.source().failed {
            ReadError::Io { path, offset, source }
        } else if self.room.window_bytes() < self.limits.window_bytes && source.to_string() == ZSTD_WINDOW_TOO_LARGE {
            let (room, enough) = (self.room.window_bytes(), self.room.enough_for_window(self.limits.window_bytes));
            ReadError::NoRoom { path, what: "a zstd window", offset, room, enough }
        } else if source.kind() == io::ErrorKind::UnexpectedEof {
            ReadError::Truncated { path, offset }
        } else {
            ReadError::Corrupt { path, offset, source }
        }
    }
}

/// What zstd says of a frame whose window is above the maximum; its bindings pass the text on alone.
const ZSTD_WINDOW_TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// Returns the window that the first frame of a zstd file needs, and refuses one above the limit. None for other files.
pub(crate) fn window_bytes(input: &InputFile, file: &File, limits: Limits) -> Result<u64, ReadError> {
    if input.compression != Compression::Zstd {
        return Ok(0);
    }
    let bytes = zstd_window(file).map_err(|source| input.io_error(0, source))?.unwrap_or(0);
    if bytes > limits.window_bytes {
        return Err(ReadError::WindowTooLarge { path: input.path.clone(), bytes, limit: limits.window_bytes });
    }
    Ok(bytes)
}

/// Reads from the header of the first zstd frame how large a window decompression takes.
///
/// ```text
/// magic u32 = FD2FB528 · descriptor u8: ssss=size of content size (7-6), single segment (5), dictionary id (1-0)
/// · unless single segment: window u8, exponent (7-3) and eighths (2-0) · dictionary id 0, 1, 2, 4 · content size 0/1, 2, 4, 8
/// ```
fn zstd_window(file: &File) -> io::Result<Option<u64>> {
    let mut header = [0; 18];
    let read = file.read_at(&mut header, 0)?;
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = &header[..] else { return Ok(None) };
    if read < 6 {
        return Ok(None);
    }
    let single_segment = descriptor >> 5 & 1 == 1;
    if !single_segment {
        let base = 1u64 << (10 + (rest[0] >> 3));
        return Ok(Some(base + base / 8 * u64::from(rest[0] & 7)));
    }
    // A single segment is its own window.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut content = [0; 8];
    content[..size].copy_from_slice(&rest[dictionary..dictionary + size]);
    Ok(Some(u64::from_le_bytes(content) + if size == 2 { 256 } else { 0 }))
}
