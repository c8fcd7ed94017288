//! Blocks: the whole records of one shard, a buffer at a time.
//!
//! A record belongs to the shard in which its first byte lies. So a shard `start..end` holds the bytes from the first
//! record boundary at or behind `start` up to the first one at or behind `end`; the shards of a file cut it without gap
//! or overlap, wherever they are cut. Each [`BlockReader`] owns one buffer and hands out what lies between boundaries in it:
//!
//! ```text
//!  buffer  │ whole records ················· │ tail of a record │ padding │
//!            └── handed out as a Block ────┘   └─ moved to the front, then the buffer is filled up
//! ```
//!
//! The file is read in place (`pread`), never mapped: a file that shrinks must be an error and not a signal. Nothing is
//! copied but the tail. What a record means is left to those who are given the blocks.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;

use memchr::{memchr, memrchr};

use crate::error::ReadError;
use crate::format::Compression;
use crate::format::csv::{CsvState, Dialect};
use crate::limits::{Limits, Room};
use crate::listing::InputFile;
use crate::shard::Piece;
use crate::stream::Stream;

/// How many bytes can be read behind the end of every block, so that vector loads need no special case there.
pub const PADDING: usize = 64;

/// How far behind a shard's end the first read goes: most last records end there.
const SLACK: u64 = 4 << 10;

pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

/// How records are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// They end at `\n`.
    Lines,
    /// They have so many bytes each.
    Fixed(NonZeroU32),
    /// They end at a `\r` or `\n` outside quotes.
    Csv {
        /// The separator of fields.
        delimiter: u8,
        /// Whether quotes have a meaning.
        quotes: bool,
    },
}

/// Whole records of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The records with their terminators; only the last one of a file may be without. Never a byte order mark.
    pub bytes: &'a [u8],
    /// Where they begin in the (decompressed) file.
    pub offset: u64,
    padded: &'a [u8],
}

impl<'a> Block<'a> {
    /// Returns the same bytes with at least [`PADDING`] more behind them, of no meaning.
    pub fn padded(&self) -> &'a [u8] {
        self.padded
    }
}

/// Reads shards, one after the other, as blocks of whole records.
///
/// ```
/// use shardmill_datasets::{BlockReader, Framing, InputFile, Piece, lines};
/// # let path = tempfile::NamedTempFile::new()?.into_temp_path();
/// std::fs::write(&path, "one\ntwo\n")?;
/// let file = InputFile::at(&path, None)?;
/// let mut blocks = BlockReader::new(256 << 10, 16 << 20);
/// blocks.open(&file, &Piece::Whole { start: 0 }, Framing::Lines)?;
/// let mut seen = vec![];
/// while let Some(block) = blocks.next()? {
///     seen.extend(lines(block.bytes).map(|(start, line)| (block.offset + start as u64, line.to_vec())));
/// }
/// assert_eq!(seen, [(0, b"one".to_vec()), (4, b"two".to_vec())]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BlockReader {
    block_bytes: usize,
    limits: Limits,
    room: Room,
    /// What was read: `taken` bytes are handed out, those up to `filled` are not.
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    shard: Option<Reading>,
}

/// The shard that is being read.
struct Reading {
    input: InputFile,
    source: Source,
    framing: Framing,
    /// Where the piece begins.
    start: u64,
    /// Where `buffer[0]` lies in the (decompressed) file.
    offset: u64,
    /// Where the shard ends: the first record that begins there is the next shard's.
    end: u64,
    /// Nothing comes behind what is in the buffer.
    at_eof: bool,
}

enum Source {
    Plain(File),
    Stream(Box<Stream>),
}

impl BlockReader {
    /// Makes a reader of blocks of about `block_bytes`, or of one record where that is longer, up to `record_limit`.
    pub fn new(block_bytes: usize, record_limit: usize) -> Self {
        Self::with_limits(block_bytes, Limits { record_bytes: record_limit, ..Limits::default() })
    }

    /// Makes a reader of blocks of about `block_bytes` that keeps to all of `limits`.
    pub fn with_limits(block_bytes: usize, limits: Limits) -> Self {
        let limits = Limits { record_bytes: limits.record_bytes.max(BOM.len()), ..limits };
        // Within a block no record is above the limit, so nothing needs to be measured.
        let block_bytes = block_bytes.clamp(1, limits.record_bytes);
        Self { block_bytes, limits, room: Room::ENDLESS, buffer: vec![], taken: 0, filled: 0, shard: None }
    }

    /// Keeps to `room` as well: a record above it is an error, whatever the limits.
    pub fn within(mut self, room: Room) -> Self {
        self.block_bytes = usize::try_from(room.record_bytes()).map_or(self.block_bytes, |most| self.block_bytes.min(most.max(1)));
        self.room = room;
        self
    }

    /// Opens a shard, in place of the one before it.
    ///
    /// # Panics
    /// If `piece` consists of row groups: those are no bytes.
    pub fn open(&mut self, file: &InputFile, piece: &Piece, framing: Framing) -> Result<(), ReadError> {
        self.shard = None;
        self.forget(0);
        // A record longer than a block was met; its room is given back.
        self.buffer.truncate(self.block_bytes + PADDING);
        self.buffer.shrink_to_fit();
        let handle = file.open()?;
        let (source, start, end, csv) = match *piece {
            Piece::Groups { .. } => panic!("row groups of {} are not read as blocks", file.path.display()),
            Piece::Bytes { start, end, csv } => (Source::Plain(handle), start, end, csv),
            Piece::Whole { start } if file.compression == Compression::None => (Source::Plain(handle), start, u64::MAX, CsvState::Record),
            Piece::Whole { start } => {
                let stream = Stream::new(file, handle, self.limits, self.room)?;
                (Source::Stream(Box::new(stream)), start, u64::MAX, CsvState::Record)
            }
        };
        self.shard = Some(Reading { input: file.clone(), source, framing, start, offset: 0, end, at_eof: false });
        self.seek(start, csv)
    }

    /// Returns the next block; nothing at the end of the shard, once the file was checked again.
    #[allow(clippy::should_implement_trait, reason = "a block borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Block<'_>>, ReadError> {
        self.drop_taken();
        let Some(shard) = &self.shard else { return Ok(None) };
        if shard.offset >= shard.end || shard.at_eof && self.filled == 0 {
            return self.finish().map(|()| None);
        }
        let mut wanted = self.within_shard(self.block_bytes);
        let cut = loop {
            self.fill(wanted)?;
            if self.filled == 0 {
                return self.finish().map(|()| None);
            }
            if let Some(cut) = self.cut()? {
                break cut;
            }
            let most = self.longest_record();
            if self.filled >= most {
                // Exactly at the limit, and maybe at the end of the file, which a stream shows only when asked for more.
                self.fill(most + 1)?;
                if self.filled > most {
                    return Err(self.too_long());
                }
                continue;
            }
            wanted = self.filled.max(self.block_bytes / 2).saturating_mul(2).min(most);
        };
        self.check_fields(cut)?;
        self.taken = cut;
        let offset = self.shard().offset;
        Ok(Some(Block { bytes: &self.buffer[..cut], offset, padded: &self.buffer[..cut + PADDING] }))
    }

    /// Returns how many bytes of the file, as it lies on disk, were read for the open shard; none if no shard is open.
    ///
    /// For showing progress: a decompressor reads ahead.
    pub fn read_bytes(&self) -> u64 {
        self.shard.as_ref().map_or(0, |shard| match &shard.source {
            Source::Plain(_) => (shard.offset + self.taken as u64).saturating_sub(shard.start),
            Source::Stream(stream) => stream.consumed(),
        })
    }

    /// Returns the bytes of the block that was handed out last; none at the end of the shard.
    pub(crate) fn lent(&self) -> &[u8] {
        &self.buffer[..self.taken]
    }

    /// Finds the shard's first record, given where the shard starts and the state of CSV there.
    fn seek(&mut self, start: u64, csv: CsvState) -> Result<(), ReadError> {
        if let Framing::Fixed(bytes) = self.shard().framing {
            return self.skip_to(start.next_multiple_of(bytes.get().into()));
        }
        if start <= BOM.len() as u64 {
            self.fill(self.within_shard(self.block_bytes).max(BOM.len()))?;
            let first = if self.buffer[..self.filled].starts_with(BOM) { BOM.len() } else { 0 };
            if start <= first as u64 {
                self.taken = first.min(self.filled);
                return Ok(());
            }
        }
        match self.shard().framing {
            // A stream begins at a record: behind nothing, or behind the header.
            _ if matches!(self.shard().source, Source::Stream(_)) => self.skip_to(start),
            Framing::Csv { quotes: true, .. } if csv == CsvState::Record => self.skip_to(start),
            Framing::Csv { quotes: true, .. } => self.skip_record(start, csv),
            // The byte before tells whether a record begins here.
            _ => self.skip_record(start - 1, CsvState::Unquoted),
        }
    }

    /// Goes to byte `position`, where a record begins.
    fn skip_to(&mut self, position: u64) -> Result<(), ReadError> {
        if matches!(self.shard().source, Source::Plain(_)) {
            self.forget(position);
            return Ok(());
        }
        loop {
            self.drop_taken();
            self.fill(self.block_bytes)?;
            let ahead = position.saturating_sub(self.shard().offset);
            self.taken = usize::try_from(ahead).unwrap_or(usize::MAX).min(self.filled);
            if self.taken < self.filled || self.filled == 0 || ahead == 0 {
                return Ok(());
            }
        }
    }

    /// Goes to the first boundary behind byte `position`, or to the shard's end if there is none before it.
    fn skip_record(&mut self, position: u64, mut state: CsvState) -> Result<(), ReadError> {
        self.forget(position);
        loop {
            self.drop_taken();
            let shard = self.shard();
            if shard.offset >= shard.end {
                return Ok(());
            }
            self.fill(self.within_shard(self.block_bytes))?;
            let bytes = &self.buffer[..self.filled];
            let boundary = match self.shard().framing.dialect() {
                Some(dialect) => dialect.first_boundary(bytes, state).map_err(|behind| state = behind).ok(),
                None => memchr(b'\n', bytes).map(|at| at + 1),
            };
            self.taken = boundary.unwrap_or(self.filled);
            if boundary.is_some() || self.filled == 0 {
                return Ok(());
            }
        }
    }

    /// Finds where to cut what is in the buffer, which begins at a boundary: at the last one, or the first behind the end.
    fn cut(&self) -> Result<Option<usize>, ReadError> {
        let shard = self.shard();
        let bytes = &self.buffer[..self.filled];
        // The shard's end, if the buffer reaches it.
        let end = usize::try_from(shard.end - shard.offset).ok().filter(|end| *end <= bytes.len());
        let all = shard.at_eof.then_some(bytes.len());
        Ok(match (shard.framing, shard.framing.dialect()) {
            (Framing::Fixed(size), _) => {
                let size = size.get() as usize;
                let cut = end.unwrap_or(bytes.len() / size * size).next_multiple_of(size).min(bytes.len() / size * size);
                if cut == 0 && shard.at_eof {
                    let offset = shard.offset + bytes.len() as u64;
                    return Err(ReadError::Truncated { path: shard.input.path.clone(), offset });
                }
                (cut > 0).then_some(cut)
            }
            (_, Some(csv)) => match end {
                Some(end) => {
                    let scan = csv.scan(&bytes[..end], CsvState::Record);
                    match scan.state {
                        CsvState::Record => Some(end),
                        state => csv.first_boundary(&bytes[end..], state).ok().map(|at| end + at).or(all).or(scan.last_boundary),
                    }
                }
                None => all.or_else(|| csv.scan(bytes, CsvState::Record).last_boundary),
            },
            _ => match end {
                Some(end) => {
                    let (before, from) = bytes.split_at(end - 1);
                    memchr(b'\n', from).map(|at| end + at).or(all).or_else(|| memrchr(b'\n', before).map(|at| at + 1))
                }
                None => all.or_else(|| memrchr(b'\n', bytes).map(|at| at + 1)),
            },
        })
    }

    /// Refuses a block with a field above the limit. Costs nothing while blocks are smaller than that.
    fn check_fields(&self, cut: usize) -> Result<(), ReadError> {
        let (shard, limit) = (self.shard(), self.limits.field_bytes);
        match shard.framing.dialect() {
            Some(dialect) if cut > limit => match dialect.field_above(&self.buffer[..cut], limit) {
                Some(at) => {
                    Err(ReadError::FieldTooLong { path: shard.input.path.clone(), offset: shard.offset + at as u64, limit: limit as u64 })
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Fills the buffer up to `wanted` bytes, or to the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<(), ReadError> {
        if self.buffer.len() < wanted + PADDING {
            self.buffer.resize(wanted + PADDING, 0);
        }
        let shard = self.shard.as_mut().expect("a shard is open");
        while self.filled < wanted && !shard.at_eof {
            let position = shard.offset + self.filled as u64;
            let free = &mut self.buffer[self.filled..wanted];
            let read = match &mut shard.source {
                Source::Stream(stream) => stream.read(&shard.input, free)?,
                Source::Plain(file) => read_at(&shard.input, file, free, position)?,
            };
            self.filled += read;
            shard.at_eof = match shard.source {
                Source::Stream(_) => read == 0,
                Source::Plain(_) => position + read as u64 >= shard.input.bytes,
            };
        }
        Ok(())
    }

    /// Checks that the file is still the one that was listed, and closes it.
    fn finish(&mut self) -> Result<(), ReadError> {
        let shard = self.shard.take().expect("a shard is open");
        match &shard.source {
            Source::Plain(file) => shard.input.check(file),
            Source::Stream(stream) => shard.input.check(stream.file()),
        }
    }

    /// Moves what is not handed out to the front.
    fn drop_taken(&mut self) {
        if let Some(shard) = &mut self.shard {
            self.buffer.copy_within(self.taken..self.filled, 0);
            shard.offset += self.taken as u64;
            self.filled -= self.taken;
            self.taken = 0;
        }
    }

    /// Forgets what was read; the buffer begins anew at `offset`.
    fn forget(&mut self, offset: u64) {
        (self.taken, self.filled) = (0, 0);
        if let Some(shard) = &mut self.shard {
            shard.offset = offset;
            shard.at_eof = matches!(shard.source, Source::Plain(_)) && offset >= shard.input.bytes;
        }
    }

    /// Bounds a number of bytes by what is left of the shard, and a little more for its last record.
    fn within_shard(&self, bytes: usize) -> usize {
        let shard = self.shard();
        usize::try_from(shard.end.saturating_sub(shard.offset).saturating_add(SLACK)).map_or(bytes, |left| left.min(bytes))
    }

    fn shard(&self) -> &Reading {
        self.shard.as_ref().expect("a shard is open")
    }

    /// The longest record that may be held, by the limits and by what memory there is.
    fn longest_record(&self) -> usize {
        usize::try_from(self.room.record_bytes()).map_or(self.limits.record_bytes, |room| self.limits.record_bytes.min(room.max(BOM.len())))
    }

    fn too_long(&self) -> ReadError {
        let Reading { input, offset, .. } = self.shard();
        let (path, offset, limit) = (input.path.clone(), *offset, self.limits.record_bytes as u64);
        if self.longest_record() == self.limits.record_bytes {
            return ReadError::RecordTooLong { path, offset, limit };
        }
        ReadError::NoRoom { path, what: "the record", offset, room: self.room.record_bytes(), enough: self.room.enough_for_record(limit) }
    }
}

impl Framing {
    fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Csv { delimiter, quotes } => Some(Dialect { delimiter, quotes }),
            Self::Lines | Self::Fixed(_) => None,
        }
    }
}

/// Reads at `position` of a plain file that should go on there, but never behind the end it had when it was listed.
pub(crate) fn read_at(input: &InputFile, file: &File, free: &mut [u8], position: u64) -> Result<usize, ReadError> {
    let left = usize::try_from(input.bytes - position).map_or(free.len(), |left| left.min(free.len()));
    loop {
        match file.read_at(&mut free[..left], position) {
            Ok(0) => {
                input.check(file)?;
                return Err(input.io_error(position, io::ErrorKind::UnexpectedEof.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(|source| input.io_error(position, source)),
        }
    }
}

/// Yields the lines of a block: where each begins, and its bytes without `\n` or `\r\n`.
///
/// ```
/// let lines: Vec<_> = shardmill_datasets::lines(b"a\r\n\nb\rc").collect();
/// assert_eq!(lines, [(0, &b"a"[..]), (3, b""), (4, b"b\rc")]);
/// ```
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).map(|at| (at, at + 1));
    let unended = (!bytes.is_empty() && !bytes.ends_with(b"\n")).then_some((bytes.len(), bytes.len()));
    ends.chain(unended).map(move |(end, next)| {
        let line = &bytes[start..end];
        let line = if next > end { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        (std::mem::replace(&mut start, next), line)
    })
}

#[cfg(test)]
mod tests;
