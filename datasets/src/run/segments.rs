//! Where the segments of a run lie: known in memory if they are few, else kept in the file behind the run.
//!
//! What is said of a segment takes 64 bytes in memory; with ten thousand partitions and a hundred runs that is more than many a memory
//! budget. So a run that was spilled keeps only the page that was looked at last: whoever reduces goes through partitions in order.
//!
//! ```text
//! index    page*                              behind the run's last block
//! page     entry × 16, fewer in the last one │ xxh3-64 of the entries: u64
//! entry    offset: u64 │ stored bytes: u64 │ records: u64 │ content bytes: u64        no digest: only runs without them are kept so
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use xxhash_rust::xxh3::xxh3_64;

use super::{RunError, Segment};

const PAGE_ENTRIES: usize = 16;
const ENTRY_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;
const PAGE_BYTES: usize = PAGE_ENTRIES * ENTRY_BYTES + CHECKSUM_BYTES;

/// The segments of a run.
#[derive(Clone, Debug)]
pub(super) enum Segments {
    Kept(Arc<[Segment]>),
    Stored(Arc<Stored>),
}

/// Segments that stand in the file.
#[derive(Debug)]
pub(super) struct Stored {
    /// Where the index begins.
    start: u64,
    count: usize,
    /// The page that was looked at last: its number and its entries.
    page: Mutex<Option<(usize, Vec<u8>)>>,
}

impl Segments {
    /// Segments that are stored in an index at `start`; with the bytes of that. None where keeping them takes no more than a page.
    pub(super) fn stored(segments: &[Segment], start: u64) -> Option<(Self, Vec<u8>)> {
        if segments.len() <= PAGE_ENTRIES {
            return None;
        }
        let mut index = Vec::with_capacity(segments.len().div_ceil(PAGE_ENTRIES) * PAGE_BYTES);
        for page in segments.chunks(PAGE_ENTRIES) {
            let begin = index.len();
            for Segment { offset, stored_bytes, records, content_bytes, .. } in page {
                [offset, stored_bytes, records, content_bytes].iter().for_each(|number| index.extend_from_slice(&number.to_le_bytes()));
            }
            let checksum = xxh3_64(&index[begin..]);
            index.extend_from_slice(&checksum.to_le_bytes());
        }
        Some((Self::Stored(Arc::new(Stored { start, count: segments.len(), page: Mutex::default() })), index))
    }

    /// The segment of a partition.
    pub(super) fn get(&self, partition: usize, file: &File, path: &Path) -> Result<Segment, RunError> {
        match self {
            Self::Kept(segments) => Ok(segments[partition].clone()),
            Self::Stored(stored) => stored.get(partition, file, path),
        }
    }
}

impl Stored {
    fn get(&self, partition: usize, file: &File, path: &Path) -> Result<Segment, RunError> {
        assert!(partition < self.count, "the run has {} partitions", self.count);
        let number = partition / PAGE_ENTRIES;
        let mut page = self.page.lock().expect("nothing panics while it holds a page");
        if page.as_ref().is_none_or(|(at_hand, _)| *at_hand != number) {
            // What cannot be read leaves none, so that nobody takes it for a page.
            let mut bytes = page.take().map(|(_, bytes)| bytes).unwrap_or_default();
            self.read_page(number, &mut bytes, file, path)?;
            *page = Some((number, bytes));
        }
        let (_, entries) = page.as_ref().expect("just read");
        let entry = &entries[partition % PAGE_ENTRIES * ENTRY_BYTES..][..ENTRY_BYTES];
        let number = |at: usize| u64::from_le_bytes(*entry[8 * at..].first_chunk().expect("an entry has four numbers"));
        Ok(Segment { offset: number(0), stored_bytes: number(1), records: number(2), content_bytes: number(3), digest: [0; 16] })
    }

    /// Reads the entries of a page, and checks that they are those that were written.
    fn read_page(&self, number: usize, bytes: &mut Vec<u8>, file: &File, path: &Path) -> Result<(), RunError> {
        let entries = (self.count - number * PAGE_ENTRIES).min(PAGE_ENTRIES) * ENTRY_BYTES;
        let offset = self.start + (number * PAGE_BYTES) as u64;
        bytes.resize(entries + CHECKSUM_BYTES, 0);
        file.read_exact_at(bytes, offset).map_err(|source| RunError::Read { path: path.into(), offset, source })?;
        let checksum = xxh3_64(&bytes[..entries]).to_le_bytes();
        if bytes[entries..] != checksum {
            return Err(RunError::Damaged { path: path.into(), offset, what: "a page of the index does not match its checksum" });
        }
        bytes.truncate(entries);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, Run, RunWriter};
    use super::*;
    use crate::merge::Source;

    const LAYOUT: Layout = Layout { sequenced: true, digested: false };
    const RUNS: u64 = 3;

    /// Runs one behind the other, each with a record in every partition but each seventh, of another length.
    fn write(path: &Path, partitions: u64, stores: bool) -> Vec<Run> {
        let mut writer = RunWriter::create(path, LAYOUT, 100).unwrap();
        if stores {
            writer.store_segments();
        }
        let mut run = |run: u64| {
            for partition in 0..partitions {
                if partition % 7 != 0 {
                    writer.push(&partition.to_be_bytes(), run, &vec![run as u8; partition as usize % 50]).unwrap();
                }
                writer.end_segment().unwrap();
            }
            writer.end_run().unwrap()
        };
        (0..RUNS).map(&mut run).collect()
    }

    fn read(run: &Run, partition: u64) -> Result<Option<(u64, usize)>, RunError> {
        let mut reader = run.reader(&run.segment(partition as usize)?, 0);
        if !reader.advance()? {
            return Ok(None);
        }
        assert_eq!(reader.key(), partition.to_be_bytes());
        let found = (reader.sequence(), reader.value().len());
        assert!(!reader.advance()?);
        Ok(Some(found))
    }

    #[test]
    fn segments_that_are_stored_are_those_that_would_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        for partitions in [1, 15, 16, 17, 32, 33, 1_000] {
            let [kept, stored] =
                [false, true].map(|stores| write(&directory.path().join(format!("{partitions}-{stores}")), partitions, stores));
            for (number, (kept, stored)) in kept.iter().zip(&stored).enumerate() {
                assert_eq!(matches!(stored.segments, Segments::Stored(_)), partitions > 16);
                assert_eq!((kept.stored_bytes(), kept.content_bytes()), (stored.stored_bytes(), stored.content_bytes()));
                // From both ends, so that pages change and are read again.
                for partition in (0..partitions).zip((0..partitions).rev()).flat_map(|(up, down)| [up, down]) {
                    let expected = (partition % 7 != 0).then_some((number as u64, partition as usize % 50));
                    assert_eq!(read(stored, partition).unwrap(), expected);
                    let (kept, stored) = (kept.segment(partition as usize).unwrap(), stored.segment(partition as usize).unwrap());
                    assert_eq!(Segment { offset: 0, ..kept }, Segment { offset: 0, ..stored });
                }
            }
        }
    }

    #[test]
    fn every_flipped_byte_of_an_index_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let run = write(&path, 40, true).pop().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read_all = || (0..40).try_for_each(|partition| read(&run, partition).map(|_| ()));
        read_all().unwrap();
        let start = whole.len() - 40 * ENTRY_BYTES - 3 * CHECKSUM_BYTES;
        for at in start..whole.len() {
            for mask in [1, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= mask;
                std::fs::write(&path, &damaged).unwrap();
                assert!(matches!(read_all(), Err(RunError::Damaged { .. })), "byte {at}");
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read_all(), Err(RunError::Read { .. })), "cut at {at}");
        }
    }
}
