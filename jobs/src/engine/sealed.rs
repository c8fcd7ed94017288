//! Sealed outputs of map attempts, as a reduce task reads them, and the sorted stretches that a merge is made of.
//!
//! Where the segments lie is known from a file that the worker has written, what they hold from digests that came from the coordinator.
//! Whatever does not fit is the loss of that output, by name: it will be made again. Thousands of segments may lie in few files, so a file
//! is opened once for all of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};

use shardmill_datasets::merge::Source;
use shardmill_datasets::run::{Run, RunError, Segment, SegmentReader};
use shardmill_protocol::AttemptId;
use shardmill_protocol::process::{ExchangeError, SourceEntry, read_message};

use super::seal::{SEALED, SEALED_BLOCK_BYTES};
use crate::fault::Fault;

/// Descriptors that a process needs for other things than map outputs: parts, passes of merges, the job's own.
const OTHER_DESCRIPTORS: usize = 128;

/// The outputs that a reduce task reads, in the order of their shards.
pub(crate) struct SealedOutputs {
    partitions: Range<u32>,
    outputs: Vec<SealedOutput>,
    files: Vec<DataFile>,
    /// There are so few files that all may stay open; else each is open while it is read.
    keeps_open: bool,
    /// How many descriptors there may be.
    descriptors: usize,
    meter: Arc<AtomicU64>,
}

/// One of them.
pub(super) struct SealedOutput {
    attempt: AttemptId,
    file: usize,
    /// One for each partition of the task.
    segments: Box<[Segment]>,
}

struct DataFile {
    path: Arc<Path>,
    open: Mutex<OpenFile>,
}

#[derive(Default)]
struct OpenFile {
    shared: Weak<File>,
    kept: Option<Arc<File>>,
}

impl SealedOutputs {
    /// Reads the file of sources of a task for `partitions`. Bytes are added to `meter` as they are reduced.
    pub(crate) fn read(path: &Path, partitions: Range<u32>, meter: Arc<AtomicU64>) -> Result<Self, Fault> {
        let unusable = |detail: String| Fault::DiskFailed { path: path.into(), detail };
        let mut from = BufReader::new(File::open(path).map_err(|source| Fault::disk(path, source))?);
        let (mut outputs, mut files, mut numbers) = (Vec::new(), Vec::new(), HashMap::<PathBuf, usize>::new());
        loop {
            let SourceEntry { data, output, segments } = match read_message(&mut from) {
                Ok(entry) => entry,
                Err(ExchangeError::Closed) => break,
                Err(error) => return Err(unusable(error.to_string())),
            };
            if segments.len() != partitions.len() {
                return Err(unusable(format!("{} segments of attempt {output} are not one for each partition", segments.len())));
            }
            let file = *numbers.entry(data).or_insert_with_key(|data| {
                files.push(DataFile { path: data.as_path().into(), open: Mutex::default() });
                files.len() - 1
            });
            let segments = segments.into_iter().map(|segment| Segment {
                offset: segment.offset,
                stored_bytes: segment.stored_bytes,
                records: segment.records,
                content_bytes: segment.content_bytes,
                digest: segment.digest,
            });
            outputs.push(SealedOutput { attempt: output, file, segments: segments.collect() });
        }
        let descriptors = open_files_allowed().saturating_sub(OTHER_DESCRIPTORS).max(2);
        Ok(Self { partitions, outputs, keeps_open: files.len() <= descriptors, files, descriptors, meter })
    }

    /// Whether there is no output at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// How many stretches each of so many threads may have open at once.
    pub(super) fn fan_in(&self, threads: usize) -> usize {
        if self.keeps_open { usize::MAX } else { self.descriptors / threads }
    }

    /// What there is of a partition, in order.
    pub(super) fn stretches(&self, partition: u32) -> Vec<Stretch<'_>> {
        let place = (partition - self.partitions.start) as usize;
        let with_records = self.outputs.iter().filter(|output| output.segments[place].records > 0);
        with_records.map(|output| Stretch::Sealed(self, output, place)).collect()
    }

    fn open(&self, number: usize) -> io::Result<Arc<File>> {
        let DataFile { path, open } = &self.files[number];
        let mut open = open.lock().expect("nothing panics while it holds a file");
        if let Some(file) = open.shared.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(File::open(path)?);
        open.shared = Arc::downgrade(&file);
        open.kept = self.keeps_open.then(|| Arc::clone(&file));
        Ok(file)
    }
}

/// A sorted piece of one partition.
pub(super) enum Stretch<'a> {
    /// A segment of a run of this process's own.
    Run(Run, Segment),
    /// The segment of a sealed output that stands at this place among those of the task.
    Sealed(&'a SealedOutputs, &'a SealedOutput, usize),
}

impl Stretch<'_> {
    /// What there is of a partition in some runs.
    pub(super) fn of_runs(runs: &[Run], partition: u32) -> Result<Vec<Self>, Fault> {
        let mut stretches = Vec::new();
        for run in runs {
            let segment = run.segment(partition as usize)?;
            if segment.records > 0 {
                stretches.push(Self::Run(run.clone(), segment));
            }
        }
        Ok(stretches)
    }

    /// Its segment.
    pub(super) fn segment(&self) -> &Segment {
        match self {
            Self::Run(_, segment) => segment,
            Self::Sealed(_, output, place) => &output.segments[*place],
        }
    }

    /// Memory that reading it needs at least.
    pub(super) fn reader_bytes(&self) -> usize {
        match self {
            Self::Run(run, _) => run.reader_bytes(),
            Self::Sealed(..) => SEALED_BLOCK_BYTES.min(self.segment().stored_bytes as usize),
        }
    }

    /// Reads its records in about so much memory.
    pub(super) fn read(&self, bytes: usize) -> Result<StretchReader, Fault> {
        match self {
            Self::Run(run, segment) => Ok(StretchReader { reader: run.reader(segment, bytes), output: None }),
            Self::Sealed(outputs, output, _) => {
                let lost = |source: io::Error| Fault::OutputLost {
                    output: output.attempt,
                    damaged: source.kind() != io::ErrorKind::NotFound,
                    detail: source.to_string(),
                };
                let file = outputs.open(output.file).map_err(lost)?;
                let path = Arc::clone(&outputs.files[output.file].path);
                let segment = vec![self.segment().clone()];
                let run = Run::attach(file, path, SEALED, SEALED_BLOCK_BYTES, segment, Arc::clone(&outputs.meter));
                Ok(StretchReader { reader: run.read(0, bytes), output: Some(output.attempt) })
            }
        }
    }
}

/// Reads the records of a stretch.
pub(super) struct StretchReader {
    reader: SegmentReader,
    /// The attempt whose output is lost if it cannot be read; a run of one's own is the disk's fault.
    output: Option<AttemptId>,
}

impl StretchReader {
    #[cold]
    fn fault(&self, error: RunError) -> Fault {
        match self.output {
            Some(output) => Fault::OutputLost { output, damaged: true, detail: error.to_string() },
            None => error.into(),
        }
    }
}

impl Source for StretchReader {
    type Error = Fault;

    #[inline]
    fn advance(&mut self) -> Result<bool, Fault> {
        self.reader.advance().map_err(|error| self.fault(error))
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.reader.key()
    }

    #[inline]
    fn sequence(&self) -> u64 {
        self.reader.sequence()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.reader.value()
    }
}

/// How many files this process may have open.
fn open_files_allowed() -> usize {
    // SAFETY: `getrlimit` fills the struct that it is given, for which all zeroes are valid.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 { limit.rlim_cur } else { 0 }
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}
