//! The index of a sealed run: where each partition's segment lies, and what it must contain.
//!
//! ```text
//! index   magic: 8 bytes │ partitions: u32 │ page digests: 32 bytes × pages │ pages
//! page    up to 64 entries, one per partition
//! entry   records: u64 │ content bytes: u64 │ content digest: 16 bytes │ offset: u64 │ stored bytes: u64
//! ```
//! A page's digest is BLAKE3 over what its entries say of the content, the index digest is BLAKE3 over the page digests. Neither knows where
//! bytes lie, so the same range mapped twice has the same index digest. Whoever fetches a few partitions reads the page digests and the
//! pages it needs, and checks them against the one digest that it was told.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::run::Segment;

const MAGIC: &[u8; 8] = b"SMINDEX2";
const HEAD_BYTES: usize = MAGIC.len() + 4;
/// Entries in a page.
pub const PAGE_ENTRIES: usize = 64;
const CONTENT_BYTES: usize = 32;
const ENTRY_BYTES: usize = CONTENT_BYTES + 16;

/// Why bytes are not the index that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// They are no index, or cut short.
    #[error("the index of a sealed run is cut short or none at all")]
    Malformed,
    /// They are another one.
    #[error("the index of a sealed run does not match its digest")]
    Digest,
}

/// Encodes the index of a sealed run.
pub fn encode(segments: &[Segment]) -> Vec<u8> {
    let pages: Vec<Vec<u8>> = segments.chunks(PAGE_ENTRIES).map(encode_page).collect();
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(segments.len() as u32).to_le_bytes());
    pages.iter().for_each(|page| out.extend_from_slice(&page_digest(page)));
    pages.iter().for_each(|page| out.extend_from_slice(page));
    out
}

/// The index digest of a sealed run.
pub fn digest(segments: &[Segment]) -> [u8; 32] {
    let mut root = blake3::Hasher::new();
    segments.chunks(PAGE_ENTRIES).for_each(|page| {
        root.update(&page_digest(&encode_page(page)));
    });
    *root.finalize().as_bytes()
}

/// Reads as much of an index file as [`Index::open_part`] needs for some partitions: all but the pages of others.
///
/// The partitions must be the index's; an error of the kind `InvalidInput` says that they are not.
pub fn read_part(file: &File, partitions: Range<usize>) -> io::Result<Vec<u8>> {
    let mut part = vec![0; HEAD_BYTES];
    file.read_exact_at(&mut part, 0)?;
    let count = u32::from_le_bytes(part[MAGIC.len()..].try_into().expect("four bytes")) as usize;
    let digests_end = HEAD_BYTES + count.div_ceil(PAGE_ENTRIES) * 32;
    // Nothing is allocated for a count that the file does not bear out.
    if file.metadata()?.len() != (digests_end + count * ENTRY_BYTES) as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, IndexError::Malformed));
    }
    if partitions.start > partitions.end || partitions.end > count {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the index has {count} partitions")));
    }
    let pages = page_range(&partitions, count);
    part.resize(digests_end + pages.len() * ENTRY_BYTES, 0);
    file.read_exact_at(&mut part[HEAD_BYTES..digests_end], HEAD_BYTES as u64)?;
    file.read_exact_at(&mut part[digests_end..], (digests_end + pages.start * ENTRY_BYTES) as u64)?;
    Ok(part)
}

/// The entries on the pages that hold some of `count` partitions.
fn page_range(partitions: &Range<usize>, count: usize) -> Range<usize> {
    let start = partitions.start / PAGE_ENTRIES * PAGE_ENTRIES;
    start..partitions.end.next_multiple_of(PAGE_ENTRIES).min(count).max(start)
}

/// An index whose page digests are those that its digest stands for; pages are checked as they are read.
#[derive(Clone, Debug)]
pub struct Index<'a> {
    partitions: usize,
    page_digests: &'a [u8],
    /// The partitions that `pages` are of.
    on_pages: Range<usize>,
    pages: &'a [u8],
}

impl<'a> Index<'a> {
    /// Reads an index that must have this digest.
    pub fn open(bytes: &'a [u8], expected: &[u8; 32]) -> Result<Self, IndexError> {
        Self::open_pages(bytes, expected, None)
    }

    /// Reads as much of an index as [`read_part`] gives for some partitions. The index must have this digest.
    pub fn open_part(bytes: &'a [u8], expected: &[u8; 32], partitions: &Range<usize>) -> Result<Self, IndexError> {
        Self::open_pages(bytes, expected, Some(partitions))
    }

    fn open_pages(bytes: &'a [u8], expected: &[u8; 32], wanted: Option<&Range<usize>>) -> Result<Self, IndexError> {
        let head = bytes.get(..HEAD_BYTES).filter(|head| head.starts_with(MAGIC)).ok_or(IndexError::Malformed)?;
        let partitions = u32::from_le_bytes(head[MAGIC.len()..].try_into().expect("four bytes")) as usize;
        let digests = HEAD_BYTES..HEAD_BYTES + partitions.div_ceil(PAGE_ENTRIES) * 32;
        let page_digests = bytes.get(digests.clone()).ok_or(IndexError::Malformed)?;
        if wanted.is_some_and(|wanted| wanted.start > wanted.end || wanted.end > partitions) {
            return Err(IndexError::Malformed);
        }
        let on_pages = wanted.map_or(0..partitions, |wanted| page_range(wanted, partitions));
        let pages = &bytes[digests.end..];
        if pages.len() != on_pages.len() * ENTRY_BYTES {
            return Err(IndexError::Malformed);
        }
        if blake3::hash(page_digests).as_bytes() != expected {
            return Err(IndexError::Digest);
        }
        Ok(Self { partitions, page_digests, on_pages, pages })
    }

    /// The number of partitions.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// The segments of some partitions.
    ///
    /// # Panics
    /// If there are no such partitions, or their pages were not asked for.
    pub fn segments(&self, partitions: Range<usize>) -> Result<Vec<Segment>, IndexError> {
        let Range { start, end } = self.on_pages;
        assert!(start <= partitions.start && partitions.end <= end, "there are pages for the partitions {start}..{end}");
        let mut segments = Vec::with_capacity(partitions.len());
        let mut next = partitions.start;
        while next < partitions.end {
            let page = next / PAGE_ENTRIES;
            let first = page * PAGE_ENTRIES;
            let page_end = (first + PAGE_ENTRIES).min(self.partitions);
            let bytes = &self.pages[(first - start) * ENTRY_BYTES..(page_end - start) * ENTRY_BYTES];
            if page_digest(bytes) != self.page_digests[page * 32..page * 32 + 32] {
                return Err(IndexError::Digest);
            }
            let until = partitions.end.min(page_end);
            segments.extend((next..until).map(|partition| decode_entry(&bytes[(partition - first) * ENTRY_BYTES..])));
            next = until;
        }
        Ok(segments)
    }
}

fn encode_page(segments: &[Segment]) -> Vec<u8> {
    let mut page = Vec::with_capacity(segments.len() * ENTRY_BYTES);
    for segment in segments {
        page.extend_from_slice(&segment.records.to_le_bytes());
        page.extend_from_slice(&segment.content_bytes.to_le_bytes());
        page.extend_from_slice(&segment.digest);
        page.extend_from_slice(&segment.offset.to_le_bytes());
        page.extend_from_slice(&segment.stored_bytes.to_le_bytes());
    }
    page
}

/// The digest of what a page says of the content. Places are left out: a wrong one leads to bytes with another digest.
fn page_digest(page: &[u8]) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    page.chunks_exact(ENTRY_BYTES).for_each(|entry| {
        digest.update(&entry[..CONTENT_BYTES]);
    });
    *digest.finalize().as_bytes()
}

fn decode_entry(entry: &[u8]) -> Segment {
    let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    Segment {
        records: number(0),
        content_bytes: number(8),
        digest: entry[16..CONTENT_BYTES].try_into().expect("16 bytes"),
        offset: number(CONTENT_BYTES),
        stored_bytes: number(CONTENT_BYTES + 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        let segment = (any::<u64>(), any::<u64>(), any::<[u8; 16]>(), any::<u64>(), any::<u64>());
        let segment = segment.prop_map(|(records, content_bytes, digest, offset, stored_bytes)| Segment {
            records,
            content_bytes,
            digest,
            offset,
            stored_bytes,
        });
        prop::collection::vec(segment, 0..200)
    }

    proptest! {
        #[test]
        fn an_index_gives_the_segments_it_was_made_of(segments in segments(), from in 0usize..200, count in 0usize..200) {
            let bytes = encode(&segments);
            let index = Index::open(&bytes, &digest(&segments)).unwrap();
            prop_assert_eq!(index.partitions(), segments.len());
            let from = from.min(segments.len());
            let range = from..(from + count).min(segments.len());
            prop_assert_eq!(&index.segments(range.clone()).unwrap(), &segments[range]);
        }

        #[test]
        fn a_part_of_an_index_gives_the_same_segments(segments in segments(), from in 0usize..200, count in 0usize..200) {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &encode(&segments)).unwrap();
            let from = from.min(segments.len());
            let range = from..(from + count).min(segments.len());
            let part = read_part(&file, range.clone()).unwrap();
            let index = Index::open_part(&part, &digest(&segments), &range).unwrap();
            prop_assert_eq!(&index.segments(range.clone()).unwrap(), &segments[range]);
            prop_assert!(read_part(&file, 0..segments.len() + 1).is_err());
            prop_assert!(Index::open_part(&part, &digest(&segments), &(0..segments.len() + 1)).is_err());
        }

        #[test]
        fn a_change_of_content_is_noticed_and_a_change_of_place_is_not_one(segments in segments(), at in any::<prop::sample::Index>()) {
            prop_assume!(!segments.is_empty());
            let known = digest(&segments);
            let mut moved = segments.clone();
            at.get_mut(&mut moved).offset ^= 1;
            prop_assert_eq!(digest(&moved), known);
            let mut changed = segments.clone();
            at.get_mut(&mut changed).records ^= 1;
            prop_assert!(digest(&changed) != known);
            let bytes = encode(&changed);
            prop_assert!(Index::open(&bytes, &known).is_err());
        }

        #[test]
        fn damage_gives_an_error_or_the_same_content(segments in segments(), at in any::<prop::sample::Index>(), bit in 0u32..8, cut in any::<bool>()) {
            let mut bytes = encode(&segments);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            if let Ok(read) = Index::open(&bytes, &digest(&segments)).and_then(|index| index.segments(0..index.partitions())) {
                prop_assert_eq!(digest(&read), digest(&segments));
            }
        }
    }
}
