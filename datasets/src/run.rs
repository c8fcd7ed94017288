//! Runs: sorted records on disk, cut into one segment per partition.
//!
//! One layout serves spilled, merged and sealed data. This module writes and reads it and notices damage; what order the records
//! come in, and what becomes of equal keys, is the caller's business (`merge.rs` reads many segments as one).
//!
//! ```text
//! file     run*                                   one file per thread, or one per sealed map attempt
//! run      segment* [index]                       one per partition, in order, empty ones included; located by `Segment`s
//! segment  block*                                 a block never spans partitions
//! block    length: u32 │ zero: u32 │ xxh3-64 of the payload: u64 │ payload       at most 1 MiB of payload
//! payload  record*                                a record that is larger than a block goes on in the next ones
//! record   lengths │ key, unless the value begins with it │ sequence: u64, if the run carries them │ value
//! lengths  key length · 2, + 1 if the value begins with the key: varint │ value length: varint
//! ```
//! A value that begins with its key is what sorting records by their first bytes makes: that need not be carried twice.
//! A segment's length, record count and content bytes are kept outside of it (in memory, or in an index behind the run: `segments.rs`),
//! so that a file cut short at a block's edge is noticed like any other damage. The content digest is xxh3-128 over the headers of its
//! blocks, whose checksums stand for the rest. Where a block ends depends on its records and the size of blocks alone, so two segments with
//! the same records and blocks of one size have the same digest. Readers of digested runs check it.

mod check;
mod segments;
mod together;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::merge::Source;
pub use check::{Check, Mismatch};
use segments::Segments;
pub use together::{OpenSegment, SharedRun};

/// The largest payload of a block.
pub const BLOCK_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 16;
/// Finished blocks are gathered to writes of about this size.
const WRITE_BYTES: usize = 256 << 10;

/// Why a run could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system refused to write.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file that was written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused to read.
    #[error("cannot read {} at byte {offset}", path.display())]
    Read {
        /// The file that was read.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// What was read is not what was written.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file that was read.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// Another thread that writes the same run has failed, and knows why.
    #[error("{} was given up", path.display())]
    GivenUp {
        /// The file that was written.
        path: PathBuf,
    },
}

/// Where one partition's records lie in a run, and what they add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file, block headers included.
    pub stored_bytes: u64,
    /// Number of records.
    pub records: u64,
    /// Bytes of the records, block headers not included.
    pub content_bytes: u64,
    /// xxh3-128 of the block headers, big-endian; zero where the run was written without digests.
    pub digest: [u8; 16],
}

/// The digest of a segment's content, as it grows.
///
/// Not a cryptographic one: whoever makes a segment could as well have made another, and what guards it on its way is TLS. It must
/// notice damage and mistakes, and cost little: all that crosses the shuffle goes through it twice.
#[derive(Default)]
struct Content(Xxh3);

impl Content {
    /// Adds a block, for which its header stands.
    fn add(&mut self, header: &[u8]) {
        self.0.update(header);
    }

    /// The digest; the next content begins.
    fn finish(&mut self) -> [u8; 16] {
        let digest = self.0.digest128().to_be_bytes();
        self.0.reset();
        digest
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

/// What the records of a run look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Each record carries its place in the input, by which equal keys are ordered.
    pub sequenced: bool,
    /// Content digests are computed, and checked by readers.
    pub digested: bool,
}

/// A finished run: readable by any number of readers at once, through one shared descriptor.
#[derive(Clone, Debug)]
pub struct Run {
    file: Arc<File>,
    path: Arc<Path>,
    layout: Layout,
    /// The largest block, header included: what a reader's buffer must hold.
    largest_block: usize,
    /// The largest record that stands in several blocks; zero if there is none.
    largest_record: usize,
    segments: Segments,
    stored_bytes: u64,
    content_bytes: u64,
    /// Counts content bytes as they are read.
    meter: Option<Arc<AtomicU64>>,
}

impl Run {
    /// A run with these segments, which are known in memory.
    fn of(file: Arc<File>, path: Arc<Path>, layout: Layout, largest_block: usize, largest_record: usize, segments: Vec<Segment>) -> Self {
        let stored_bytes = segments.iter().map(|segment| segment.stored_bytes).sum();
        let content_bytes = segments.iter().map(|segment| segment.content_bytes).sum();
        let segments = Segments::Kept(segments.into());
        Self { file, path, layout, largest_block, largest_record, segments, stored_bytes, content_bytes, meter: None }
    }

    /// The run's segments, one per partition.
    ///
    /// # Panics
    /// If they are stored in the file, as [`RunWriter::store_segments`] says: then there may be too many.
    pub fn segments(&self) -> &[Segment] {
        match &self.segments {
            Segments::Kept(segments) => segments,
            Segments::Stored(_) => panic!("the segments of {} are in the file", self.path.display()),
        }
    }

    /// The segment of a partition, wherever it is known. Cheapest for one partition after the other.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn segment(&self, partition: usize) -> Result<Segment, RunError> {
        self.segments.get(partition, &self.file, &self.path)
    }

    /// Bytes on disk, those of an index aside.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Bytes of all records.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Memory that a reader of this run needs at least: for a block, and for a record that stands in several.
    pub fn reader_bytes(&self) -> usize {
        self.largest_block + self.largest_record
    }

    /// Attaches to segments that another process has written, with blocks of at most `block_bytes`, in a file that may hold others too.
    ///
    /// Content bytes are added to `meter` as they are read.
    pub fn attach(
        file: Arc<File>,
        path: Arc<Path>,
        layout: Layout,
        block_bytes: usize,
        segments: Vec<Segment>,
        meter: Arc<AtomicU64>,
    ) -> Self {
        Self::of(file, path, layout, HEADER_BYTES + block_bytes, 0, segments).metered(meter)
    }

    /// The same run; content bytes are added to `meter` as they are read.
    pub fn metered(self, meter: Arc<AtomicU64>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Reads the records of `partition`, whose segment must be known in memory, as [`reader`](Self::reader) does.
    pub fn read(&self, partition: usize, bytes: usize) -> SegmentReader {
        self.reader(&self.segments()[partition], bytes)
    }

    /// Reads the records of one of the run's segments, in order, in `bytes` of memory or what [`reader_bytes`](Self::reader_bytes) says if
    /// that is more.
    pub fn reader(&self, segment: &Segment, bytes: usize) -> SegmentReader {
        let beside_gathered = bytes.saturating_sub(self.largest_record);
        let capacity = beside_gathered.max(self.largest_block).min(segment.stored_bytes as usize);
        SegmentReader {
            file: Arc::clone(&self.file),
            path: Arc::clone(&self.path),
            sequenced: self.layout.sequenced,
            next_read: segment.offset,
            end: segment.offset + segment.stored_bytes,
            records_left: segment.records,
            buffer: Vec::with_capacity(capacity),
            filled: 0,
            capacity,
            block_end: 0,
            position: 0,
            sequence: 0,
            key: 0..0,
            value: 0..0,
            gathered: Vec::new(),
            is_gathered: false,
            content_left: segment.content_bytes,
            digest: self.layout.digested.then(|| Box::new((Content::default(), segment.digest))),
            meter: self.meter.clone(),
        }
    }
}

/// Writes runs one behind the other into a file of its own.
#[derive(Debug)]
pub struct RunWriter {
    file: Arc<File>,
    path: Arc<Path>,
    layout: Layout,
    block_bytes: usize,
    /// Finished blocks, then the open one.
    buffer: Vec<u8>,
    /// Where the open block's header begins in `buffer`.
    block_start: usize,
    /// Finished blocks are written once there are so many bytes of them.
    write_bytes: usize,
    /// File offset of `buffer[0]`.
    written: u64,
    largest_block: usize,
    largest_record: usize,
    digest: Content,
    open: Segment,
    segments: Vec<Segment>,
    stores_segments: bool,
}

impl RunWriter {
    /// Creates the file at `path`, which must not exist. Blocks are closed once they hold `block_bytes`.
    pub fn create(path: &Path, layout: Layout, block_bytes: usize) -> Result<Self, RunError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|source| RunError::Write { path: path.into(), source })?;
        Ok(Self::on(Arc::new(file), path.into(), layout, block_bytes))
    }

    /// A writer that begins at the start of `file`.
    fn on(file: Arc<File>, path: Arc<Path>, layout: Layout, block_bytes: usize) -> Self {
        Self {
            file,
            path,
            layout,
            block_bytes: block_bytes.clamp(64, BLOCK_BYTES),
            buffer: vec![0; HEADER_BYTES],
            block_start: 0,
            write_bytes: WRITE_BYTES,
            written: 0,
            largest_block: 0,
            largest_record: 0,
            digest: Content::default(),
            open: Segment::default(),
            segments: Vec::new(),
            stores_segments: false,
        }
    }

    /// From now on runs that end keep what is known of their segments in the file, behind them, unless it is a handful.
    ///
    /// # Panics
    /// If the runs are digested: such digests are asked for all at once.
    pub fn store_segments(&mut self) {
        assert!(!self.layout.digested, "what is stored of a segment has no digest");
        self.stores_segments = true;
    }

    /// An upper bound of the memory that a writer with blocks of `block_bytes` holds, records larger than a block aside.
    pub fn memory_bytes(block_bytes: usize) -> usize {
        WRITE_BYTES + 2 * block_bytes
    }

    /// Adds a record to the open segment. `sequence` is written only if the layout asks for it.
    #[inline]
    pub fn push(&mut self, key: &[u8], sequence: u64, value: &[u8]) -> Result<(), RunError> {
        let bytes = 2 * MAX_VARINT + key.len() + 8 + value.len();
        let filled = self.buffer.len() - self.block_start - HEADER_BYTES;
        if filled > 0 && filled + bytes > self.block_bytes {
            self.close_block()?;
        }
        if bytes <= self.block_bytes {
            let start = self.buffer.len();
            let key = put_lengths(&mut self.buffer, key, value);
            self.buffer.extend_from_slice(key);
            if self.layout.sequenced {
                self.buffer.extend_from_slice(&sequence.to_le_bytes());
            }
            self.buffer.extend_from_slice(value);
            self.open.content_bytes += (self.buffer.len() - start) as u64;
        } else {
            self.push_large(key, sequence, value)?;
        }
        self.open.records += 1;
        Ok(())
    }

    /// Adds a record that goes on over several blocks.
    #[cold]
    fn push_large(&mut self, key: &[u8], sequence: u64, value: &[u8]) -> Result<(), RunError> {
        let mut head = Vec::with_capacity(2 * MAX_VARINT + key.len() + 8);
        let key = put_lengths(&mut head, key, value);
        head.extend_from_slice(key);
        if self.layout.sequenced {
            head.extend_from_slice(&sequence.to_le_bytes());
        }
        self.largest_record = self.largest_record.max(head.len() + value.len());
        for mut rest in [&head[..], value] {
            self.open.content_bytes += rest.len() as u64;
            while !rest.is_empty() {
                let room = self.block_bytes - (self.buffer.len() - self.block_start - HEADER_BYTES);
                if room == 0 {
                    self.close_block()?;
                    continue;
                }
                let (now, later) = rest.split_at(room.min(rest.len()));
                self.buffer.extend_from_slice(now);
                rest = later;
            }
        }
        Ok(())
    }

    /// Ends the open segment and begins that of the next partition.
    pub fn end_segment(&mut self) -> Result<(), RunError> {
        self.close_block()?;
        let mut segment = std::mem::take(&mut self.open);
        let end = self.written + self.block_start as u64;
        segment.stored_bytes = end - segment.offset;
        if self.layout.digested {
            segment.digest = self.digest.finish();
        }
        self.open.offset = end;
        self.segments.push(segment);
        Ok(())
    }

    /// Ends the run after its last segment; the writer can go on with another one behind it.
    pub fn end_run(&mut self) -> Result<Run, RunError> {
        self.flush()?;
        let segments = std::mem::take(&mut self.segments);
        let stored = if self.stores_segments { Segments::stored(&segments, self.written) } else { None };
        let (file, path) = (Arc::clone(&self.file), Arc::clone(&self.path));
        let mut run = Run::of(file, path, self.layout, self.largest_block, self.largest_record, segments);
        if let Some((segments, index)) = stored {
            self.write(&index)?;
            self.written += index.len() as u64;
            self.open.offset = self.written;
            run.segments = segments;
        }
        Ok(run)
    }

    fn close_block(&mut self) -> Result<(), RunError> {
        let payload_start = self.block_start + HEADER_BYTES;
        let payload = &self.buffer[payload_start..];
        if payload.is_empty() {
            return Ok(());
        }
        let (length, checksum) = (payload.len() as u32, xxh3_64(payload));
        let header = &mut self.buffer[self.block_start..payload_start];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..8].fill(0);
        header[8..].copy_from_slice(&checksum.to_le_bytes());
        if self.layout.digested {
            self.digest.add(header);
        }
        self.largest_block = self.largest_block.max(HEADER_BYTES + length as usize);
        self.block_start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        if self.block_start >= self.write_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the finished blocks; an open one stays.
    fn flush(&mut self) -> Result<(), RunError> {
        self.write(&self.buffer[..self.block_start])?;
        self.written += self.block_start as u64;
        self.buffer.drain(..self.block_start);
        self.block_start = 0;
        Ok(())
    }

    /// Writes behind what was written.
    fn write(&self, bytes: &[u8]) -> Result<(), RunError> {
        self.file.write_all_at(bytes, self.written).map_err(|source| RunError::Write { path: self.path.to_path_buf(), source })
    }
}

/// Reads the records of one segment in order, with one block in memory at a time.
#[derive(Debug)]
pub struct SegmentReader {
    file: Arc<File>,
    path: Arc<Path>,
    sequenced: bool,
    /// File offset behind what was read.
    next_read: u64,
    end: u64,
    records_left: u64,
    /// What was read stands in the first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
    capacity: usize,
    /// End of the current block's payload in `buffer`; the next block's header follows.
    block_end: usize,
    position: usize,
    sequence: u64,
    key: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    /// A record that stands in several blocks, put together.
    gathered: Vec<u8>,
    is_gathered: bool,
    /// Content bytes that are still to come.
    content_left: u64,
    /// The digest of the content so far, and what it must be in the end, where there is one.
    digest: Option<Box<(Content, [u8; 16])>>,
    meter: Option<Arc<AtomicU64>>,
}

impl SegmentReader {
    /// Makes the next block the current one; its checksum is verified first.
    fn next_block(&mut self) -> Result<(), RunError> {
        self.fill(HEADER_BYTES)?;
        let header = &self.buffer[self.block_end..self.block_end + HEADER_BYTES];
        let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let checksum = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        if header[4..8] != [0; 4] || length == 0 || length > BLOCK_BYTES {
            return Err(self.damaged("a block header is not one"));
        }
        self.fill(HEADER_BYTES + length)?;
        self.position = self.block_end + HEADER_BYTES;
        let payload_end = self.position + length;
        if xxh3_64(&self.buffer[self.position..payload_end]) != checksum {
            return Err(self.damaged("a block does not match its checksum"));
        }
        let Some(content_left) = self.content_left.checked_sub(length as u64) else {
            return Err(self.damaged("more content than there should be"));
        };
        self.content_left = content_left;
        if let Some(digest) = &mut self.digest {
            digest.0.add(&self.buffer[self.position - HEADER_BYTES..self.position]);
        }
        if let Some(meter) = &self.meter {
            meter.fetch_add(length as u64, Relaxed);
        }
        self.block_end = payload_end;
        Ok(())
    }

    /// Checks that what was read is all there is, and what it should be.
    #[cold]
    fn check_end(&mut self) -> Result<(), RunError> {
        if self.position != self.block_end || self.block_end != self.filled || self.next_read != self.end {
            return Err(self.damaged("more bytes than records"));
        }
        if self.content_left > 0 {
            return Err(self.damaged("less content than there should be"));
        }
        if let Some(mut digest) = self.digest.take()
            && digest.0.finish() != digest.1
        {
            return Err(self.damaged("the content does not match its digest"));
        }
        Ok(())
    }

    /// Makes sure that `bytes` bytes behind the current block are in the buffer.
    fn fill(&mut self, bytes: usize) -> Result<(), RunError> {
        let have = self.filled - self.block_end;
        if have >= bytes {
            return Ok(());
        }
        self.buffer.copy_within(self.block_end..self.filled, 0);
        (self.filled, self.block_end, self.position) = (have, 0, 0);
        let want = (self.capacity.max(bytes) - have).min((self.end - self.next_read) as usize);
        if have + want < bytes {
            return Err(self.damaged("the segment ends too early"));
        }
        if self.buffer.len() < have + want {
            self.buffer.resize(have + want, 0);
        }
        self.file.read_exact_at(&mut self.buffer[have..have + want], self.next_read).map_err(|source| RunError::Read {
            path: self.path.to_path_buf(),
            offset: self.next_read,
            source,
        })?;
        self.next_read += want as u64;
        self.filled += want;
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> RunError {
        let behind = (self.filled - self.block_end) as u64;
        RunError::Damaged { path: self.path.to_path_buf(), offset: self.next_read - behind, what }
    }

    /// Reads the length of a key, whether the value begins with it, and the length of that, in the current block.
    #[inline]
    fn lengths(&mut self) -> Option<(usize, bool, usize)> {
        let (key, value) = match self.buffer[self.position..self.block_end] {
            // Mostly each is a byte.
            [key @ ..0x80, value @ ..0x80, ..] => {
                self.position += 2;
                (key.into(), value.into())
            }
            _ => (self.varint()?, self.varint()?),
        };
        let (key, is_within) = (key >> 1, key & 1 == 1);
        (!is_within || key <= value).then_some((key, is_within, value))
    }

    /// Reads a varint in the current block.
    fn varint(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0u64, 0);
        for &byte in &self.buffer[self.position..self.block_end] {
            self.position += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(value).ok();
            }
            shift += 7;
            if shift > 56 {
                return None;
            }
        }
        None
    }

    /// Puts a record together that goes on over several blocks.
    #[cold]
    fn gather(&mut self, bytes: usize) -> Result<(), RunError> {
        self.gathered.clear();
        let left = self.end - self.next_read + (self.filled - self.position) as u64;
        if bytes as u64 > left {
            return Err(self.damaged("a record is longer than what is left of its segment"));
        }
        self.gathered.reserve_exact(bytes);
        while self.gathered.len() < bytes {
            if self.position == self.block_end {
                self.next_block()?;
            }
            let take = (bytes - self.gathered.len()).min(self.block_end - self.position);
            self.gathered.extend_from_slice(&self.buffer[self.position..self.position + take]);
            self.position += take;
        }
        Ok(())
    }
}

impl Source for SegmentReader {
    type Error = RunError;

    #[inline]
    fn advance(&mut self) -> Result<bool, RunError> {
        if self.records_left == 0 {
            return self.check_end().map(|()| false);
        }
        self.records_left -= 1;
        if self.position == self.block_end {
            self.next_block()?;
        }
        let Some((key, is_within, value)) = self.lengths() else {
            return Err(self.damaged("a record's length is not one"));
        };
        let head = if is_within { 0 } else { key } + if self.sequenced { 8 } else { 0 };
        let bytes = head.saturating_add(value);
        self.is_gathered = bytes > self.block_end - self.position;
        let start = if self.is_gathered {
            self.gather(bytes)?;
            0
        } else {
            let start = self.position;
            self.position += bytes;
            start
        };
        self.value = start + head..start + bytes;
        self.key = if is_within { self.value.start..self.value.start + key } else { start..start + key };
        if self.sequenced {
            let record = if self.is_gathered { &self.gathered } else { &self.buffer };
            self.sequence = u64::from_le_bytes(record[start + head - 8..start + head].try_into().expect("eight bytes"));
        }
        Ok(true)
    }

    #[inline]
    fn key(&self) -> &[u8] {
        let record = if self.is_gathered { &self.gathered } else { &self.buffer };
        &record[self.key.clone()]
    }

    #[inline]
    fn value(&self) -> &[u8] {
        let record = if self.is_gathered { &self.gathered } else { &self.buffer };
        &record[self.value.clone()]
    }

    #[inline]
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

const MAX_VARINT: usize = 9;

/// Writes the lengths of a key and a value, mostly a byte each, and returns what has to stand before the value: the key, or nothing.
#[inline]
fn put_lengths<'k>(out: &mut Vec<u8>, key: &'k [u8], value: &[u8]) -> &'k [u8] {
    let is_within = value.starts_with(key);
    let lengths = [(key.len() as u64) << 1 | u64::from(is_within), value.len() as u64];
    if lengths.iter().all(|length| *length < 0x80) {
        out.extend_from_slice(&lengths.map(|length| length as u8));
    } else {
        lengths.iter().for_each(|length| put_varint(out, *length));
    }
    if is_within { &[] } else { key }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
