//! Writing one run on several threads: each segment by one of them, all in one file, in the order of their partitions.
//!
//! Where a segment begins is known once all before it have ended. Until then its blocks stay in memory; when there are too many of them,
//! their thread waits for its turn, and then goes on as a writer with a file of its own does. The first segment that has not ended never
//! waits, so one thread always goes on.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::{Layout, Run, RunError, RunWriter, Segment, WRITE_BYTES};

/// A run that several threads write.
///
/// ```
/// use shardmill_datasets::run::{Layout, SharedRun};
///
/// let directory = tempfile::tempdir()?;
/// let layout = Layout { sequenced: false, digested: true };
/// let run = SharedRun::create(&directory.path().join("run"), layout, 64 << 10, 1 << 20, 2)?;
/// std::thread::scope(|scope| {
///     for partition in [1, 0] {
///         let mut segment = run.segment(partition);
///         scope.spawn(move || {
///             segment.push(b"key", 0, b"value")?;
///             segment.end()
///         });
///     }
/// });
/// let run = run.finish();
/// assert_eq!(run.segments()[1].offset, run.segments()[0].stored_bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedRun {
    file: Arc<File>,
    path: Arc<Path>,
    layout: Layout,
    block_bytes: usize,
    held_bytes: usize,
    partitions: usize,
    ended: Mutex<Ended>,
    turn: Condvar,
}

/// The segments that have ended: the first ones, without a gap.
#[derive(Debug, Default)]
struct Ended {
    segments: Vec<Segment>,
    end: u64,
    largest_block: usize,
    largest_record: usize,
    is_given_up: bool,
}

impl SharedRun {
    /// Creates the file at `path`, which must not exist. Each open segment holds about `held_bytes` in memory until its turn comes.
    pub fn create(path: &Path, layout: Layout, block_bytes: usize, held_bytes: usize, partitions: usize) -> Result<Self, RunError> {
        let RunWriter { file, path, .. } = RunWriter::create(path, layout, block_bytes)?;
        Ok(Self::on(file, path, layout, block_bytes, held_bytes, partitions))
    }

    /// The same in the file at `path`, which is there and empty.
    pub fn fill(path: &Path, layout: Layout, block_bytes: usize, held_bytes: usize, partitions: usize) -> Result<Self, RunError> {
        let opened = File::options().read(true).write(true).open(path);
        let file = opened.map_err(|source| RunError::Write { path: path.into(), source })?;
        Ok(Self::on(Arc::new(file), path.into(), layout, block_bytes, held_bytes, partitions))
    }

    fn on(file: Arc<File>, path: Arc<Path>, layout: Layout, block_bytes: usize, held_bytes: usize, partitions: usize) -> Self {
        Self { file, path, layout, block_bytes, held_bytes, partitions, ended: Mutex::default(), turn: Condvar::new() }
    }

    /// Opens the segment of a partition. It must be ended, and each partition opened once: otherwise the run is given up, and whoever
    /// waits for his turn is told so.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn segment(&self, partition: usize) -> OpenSegment<'_> {
        assert!(partition < self.partitions, "the run has {} partitions", self.partitions);
        let mut writer = RunWriter::on(Arc::clone(&self.file), Arc::clone(&self.path), self.layout, self.block_bytes);
        writer.write_bytes = usize::MAX;
        OpenSegment { run: self, partition, writer, is_placed: false, is_ended: false }
    }

    /// Makes the run of all its segments.
    ///
    /// # Panics
    /// If one of them has not ended.
    pub fn finish(self) -> Run {
        let ended = self.ended.into_inner().expect("nothing panics while it holds the list");
        assert_eq!(ended.segments.len(), self.partitions, "every segment was written");
        Run::of(self.file, self.path, self.layout, ended.largest_block, ended.largest_record, ended.segments)
    }

    /// Waits until all segments before that of `partition` have ended, and does with them what is to be done.
    fn at_turn<T>(&self, partition: usize, act: impl FnOnce(&mut Ended) -> T) -> Result<T, RunError> {
        let ended = self.ended.lock().expect("nothing panics while it holds the list");
        let is_early = |ended: &mut Ended| !ended.is_given_up && ended.segments.len() < partition;
        let mut ended = self.turn.wait_while(ended, is_early).expect("nothing panics while it holds the list");
        if ended.is_given_up || ended.segments.len() != partition {
            return Err(RunError::GivenUp { path: self.path.to_path_buf() });
        }
        Ok(act(&mut ended))
    }
}

/// The segment of one partition, being written.
#[derive(Debug)]
pub struct OpenSegment<'a> {
    run: &'a SharedRun,
    partition: usize,
    writer: RunWriter,
    /// Its place in the file is known.
    is_placed: bool,
    is_ended: bool,
}

impl OpenSegment<'_> {
    /// Adds a record, as [`RunWriter::push`] does.
    #[inline]
    pub fn push(&mut self, key: &[u8], sequence: u64, value: &[u8]) -> Result<(), RunError> {
        self.writer.push(key, sequence, value)?;
        if !self.is_placed && self.writer.block_start >= self.run.held_bytes { self.write_on() } else { Ok(()) }
    }

    /// Waits for its turn; from then on blocks go to the file as they are finished.
    #[cold]
    fn write_on(&mut self) -> Result<(), RunError> {
        let start = self.run.at_turn(self.partition, |ended| ended.end)?;
        (self.writer.written, self.writer.open.offset, self.writer.write_bytes) = (start, start, WRITE_BYTES);
        self.is_placed = true;
        self.writer.flush()
    }

    /// Ends the segment. What is not written yet is written while those behind it go on.
    pub fn end(mut self) -> Result<(), RunError> {
        self.writer.end_segment()?;
        let mut segment = self.writer.segments.pop().expect("it was just ended");
        let (largest_block, largest_record) = (self.writer.largest_block, self.writer.largest_record);
        let start = self.run.at_turn(self.partition, |ended| {
            let start = ended.end;
            segment.offset = start;
            ended.end += segment.stored_bytes;
            ended.segments.push(segment);
            ended.largest_block = ended.largest_block.max(largest_block);
            ended.largest_record = ended.largest_record.max(largest_record);
            start
        })?;
        self.run.turn.notify_all();
        if !self.is_placed {
            self.writer.written = start;
        }
        self.writer.flush()?;
        self.is_ended = true;
        Ok(())
    }
}

impl Drop for OpenSegment<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            // A thread that has panicked while it held the list has left nobody who could be told.
            if let Ok(mut ended) = self.run.ended.lock() {
                ended.is_given_up = true;
            }
            self.run.turn.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const LAYOUT: Layout = Layout { sequenced: false, digested: true };
    const PARTITIONS: usize = 23;

    fn records(partition: usize) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let record = move |n: usize| (format!("{partition}-{n:06}").into_bytes(), vec![n as u8; n * 7 % 90]);
        (0..partition * 791 % 3000).map(record)
    }

    fn shared(path: &Path, threads: usize, held_bytes: usize) -> Run {
        let run = SharedRun::create(path, LAYOUT, 512, held_bytes, PARTITIONS).unwrap();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let partition = next.fetch_add(1, Relaxed);
                        if partition >= PARTITIONS {
                            break;
                        }
                        let mut segment = run.segment(partition);
                        records(partition).for_each(|(key, value)| segment.push(&key, 0, &value).unwrap());
                        segment.end().unwrap();
                    }
                });
            }
        });
        run.finish()
    }

    #[test]
    fn several_threads_write_the_file_that_one_writes() {
        let directory = tempfile::tempdir().unwrap();
        let alone = directory.path().join("alone");
        let mut writer = RunWriter::create(&alone, LAYOUT, 512).unwrap();
        for partition in 0..PARTITIONS {
            records(partition).for_each(|(key, value)| writer.push(&key, 0, &value).unwrap());
            writer.end_segment().unwrap();
        }
        let expected = writer.end_run().unwrap();
        for (threads, held_bytes) in [(1, 0), (3, 0), (3, 5_000), (5, 1 << 30)] {
            let path = directory.path().join(format!("{threads}-{held_bytes}"));
            let run = shared(&path, threads, held_bytes);
            assert_eq!(run.segments(), expected.segments(), "{threads} threads that hold {held_bytes} bytes");
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&alone).unwrap());
        }
    }

    #[test]
    fn whoever_waits_for_a_segment_that_is_dropped_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let run = SharedRun::create(&directory.path().join("run"), LAYOUT, 512, 0, 2).unwrap();
        std::thread::scope(|scope| {
            let first = run.segment(0);
            let second = scope.spawn(|| run.segment(1).end());
            drop(first);
            assert!(matches!(second.join().unwrap(), Err(RunError::GivenUp { .. })));
        });
    }
}
