//! Checking segments while they pass by, as whoever fetches them does: block by block, without holding any of them.
//!
//! Everything is checked but what stands in the records, which the checksums of their blocks cover.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::{BLOCK_BYTES, Content, HEADER_BYTES, Segment};

/// Checks digested segments that come one after the other, in pieces of any size.
///
/// ```
/// use shardmill_datasets::run::{Check, Layout, RunWriter};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("run");
/// let mut writer = RunWriter::create(&path, Layout { sequenced: false, digested: true }, 64)?;
/// writer.push(b"key", 0, b"value")?;
/// writer.end_segment()?;
/// let segments = writer.end_run()?.segments().to_vec();
///
/// let mut bytes = std::fs::read(&path)?;
/// let mut check = Check::new(segments.clone());
/// bytes.chunks(7).try_for_each(|piece| check.push(piece))?;
/// check.end()?;
///
/// bytes[20] ^= 1;
/// assert!(Check::new(segments).push(&bytes).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Check {
    segments: std::vec::IntoIter<Segment>,
    segment: Segment,
    /// Bytes of the segment that are still to come.
    stored_left: u64,
    content_bytes: u64,
    content: Content,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Bytes of the block's payload that are still to come.
    payload_left: usize,
    payload: Xxh3,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("segment", &self.segment).field("stored_left", &self.stored_left).finish_non_exhaustive()
    }
}

/// What passed by is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A block's header is none, or reaches beyond its segment.
    #[error("a block header is not one")]
    Header,
    /// A block is not as it was written.
    #[error("a block does not match its checksum")]
    Checksum,
    /// A segment's blocks are whole, and not those of this segment.
    #[error("the content of a segment does not match its digest")]
    Content,
    /// There is more, or less, than the segments.
    #[error("the segments have another length")]
    Length,
}

impl Check {
    /// Expects these segments.
    pub fn new(segments: Vec<Segment>) -> Self {
        let mut segments = segments.into_iter();
        let segment = segments.next().unwrap_or_else(Self::nothing);
        Self {
            segments,
            stored_left: segment.stored_bytes,
            segment,
            content_bytes: 0,
            content: Content::default(),
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            payload_left: 0,
            payload: Xxh3::new(),
        }
    }

    fn nothing() -> Segment {
        Segment { digest: Content::default().finish(), ..Segment::default() }
    }

    /// Checks the next piece.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            while self.stored_left == 0 {
                self.end_segment()?;
                self.segment = self.segments.next().ok_or(Mismatch::Length)?;
                self.stored_left = self.segment.stored_bytes;
            }
            let taken = if self.payload_left == 0 { self.push_header(bytes)? } else { self.push_payload(bytes)? };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn push_header(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let taken = bytes.len().min(HEADER_BYTES - self.header_bytes);
        self.header[self.header_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        self.header_bytes += taken;
        if self.header_bytes == HEADER_BYTES {
            let length = u32::from_le_bytes(self.header[..4].try_into().expect("four bytes")) as usize;
            let whole = (HEADER_BYTES + length) as u64;
            if self.header[4..8] != [0; 4] || length == 0 || length > BLOCK_BYTES || whole > self.stored_left {
                return Err(Mismatch::Header);
            }
            self.stored_left -= whole;
            self.content_bytes += length as u64;
            (self.header_bytes, self.payload_left) = (0, length);
            self.payload.reset();
            self.content.add(&self.header);
            // The segment is not over while its last payload is to come.
            self.stored_left += length as u64;
        }
        Ok(taken)
    }

    fn push_payload(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let taken = bytes.len().min(self.payload_left);
        self.payload.update(&bytes[..taken]);
        self.payload_left -= taken;
        self.stored_left -= taken as u64;
        let checksum = u64::from_le_bytes(self.header[8..].try_into().expect("eight bytes"));
        if self.payload_left == 0 && self.payload.digest() != checksum {
            return Err(Mismatch::Checksum);
        }
        Ok(taken)
    }

    fn end_segment(&mut self) -> Result<(), Mismatch> {
        let is_whole = self.content_bytes == self.segment.content_bytes && self.content.finish() == self.segment.digest;
        self.content_bytes = 0;
        if is_whole { Ok(()) } else { Err(Mismatch::Content) }
    }

    /// Checks that nothing is missing.
    pub fn end(mut self) -> Result<(), Mismatch> {
        loop {
            if self.stored_left > 0 {
                return Err(Mismatch::Length);
            }
            self.end_segment()?;
            let Some(segment) = self.segments.next() else { return Ok(()) };
            self.stored_left = segment.stored_bytes;
            self.segment = segment;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, RunWriter};
    use super::*;
    use proptest::prelude::*;

    /// A run of some segments, two of them empty, and its bytes.
    fn run(blocks: usize) -> (Vec<Segment>, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let mut writer = RunWriter::create(&path, Layout { sequenced: false, digested: true }, 64).unwrap();
        for records in [0, 3, blocks, 0, 1] {
            for record in 0..records {
                writer.push(format!("key {record}").as_bytes(), 0, &vec![record as u8; 11 * (record % 9)]).unwrap();
            }
            writer.end_segment().unwrap();
        }
        (writer.end_run().unwrap().segments().to_vec(), std::fs::read(&path).unwrap())
    }

    fn check(segments: &[Segment], bytes: &[u8], piece: usize) -> Result<(), Mismatch> {
        let mut check = Check::new(segments.to_vec());
        bytes.chunks(piece).try_for_each(|piece| check.push(piece))?;
        check.end()
    }

    #[test]
    fn what_was_written_passes_in_pieces_of_any_size() {
        let (segments, bytes) = run(40);
        for piece in [1, 2, 15, 16, 17, 100, bytes.len()] {
            assert_eq!(check(&segments, &bytes, piece), Ok(()), "{piece}");
        }
        assert_eq!(check(&[], &[], 1), Ok(()));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        let (segments, bytes) = run(10);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(check(&segments, &damaged, 50).is_err(), "a flip at {at}");
            assert!(check(&segments, &bytes[..at], 50).is_err(), "a cut at {at}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(check(&segments, &longer, 50), Err(Mismatch::Length));
    }

    #[test]
    fn whole_blocks_of_another_segment_do_not_pass() {
        let (segments, bytes) = run(10);
        let swapped =
            [&bytes[segments[2].offset as usize..][..segments[2].stored_bytes as usize], &bytes[..segments[1].stored_bytes as usize]];
        let lengths: Vec<Segment> = [(1, 2), (2, 1)]
            .map(|(content, place)| Segment { stored_bytes: segments[place].stored_bytes, ..segments[content].clone() })
            .to_vec();
        assert_eq!(check(&lengths, &swapped.concat(), 1000), Err(Mismatch::Content));
    }

    proptest! {
        #[test]
        fn any_bytes_pass_or_do_not(bytes: Vec<u8>, piece in 1usize..100) {
            let (segments, whole) = run(5);
            prop_assert_eq!(check(&segments, &bytes, piece).is_ok(), bytes == whole);
        }
    }
}
