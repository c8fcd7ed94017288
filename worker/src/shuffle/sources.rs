//! The sources of a reduce task: which map outputs it reads, who has them, and where their segments can be read.
//!
//! ```text
//! own output, or on a disk that is seen     read in place, on disk or in memory; the job process checks it while it reads
//! any other                                 fetched and checked, unless an attempt that failed has done so already
//! ```
//! The list of outputs comes from the coordinator in pages, and has a digest that the task's report must carry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use shardmill_datasets::index::{self, Index};
use shardmill_datasets::run::Segment;
use shardmill_protocol::process::{ExchangeError, SourceEntry, SourceSegment, write_message};
use shardmill_protocol::rpc::api::{Holder, SourcesPage};
use shardmill_protocol::task::{MapOutput, list_digest};
use shardmill_protocol::{AttemptId, Digest, Fault, WorkerId};
use tokio::task::spawn_blocking;

use super::fetch::{Fetched, Fetcher, Wish};
use crate::disk::{self, MAP_INDEX, MAP_RUN};
use crate::memory;

/// The file of fetched segments, in an attempt's directory.
const FETCHED: &str = "fetched";
/// The file that says where all segments lie.
const SOURCES: &str = "sources";

/// The map outputs that a reduce task reads, in the order of their shards.
#[derive(Debug)]
pub(crate) struct List {
    /// Its digest.
    pub(crate) digest: Digest,
    outputs: Vec<(MapOutput, Arc<Holder>)>,
}

/// Pages that do not make a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// The list has changed since the first page.
    #[error("the list of map outputs has changed")]
    Changed,
    /// A page is not in order, or the whole does not have its digest.
    #[error("the list of map outputs is not what its digest says")]
    Damaged,
}

/// A list of which some pages have come.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    digest: Option<Digest>,
    outputs: Vec<(MapOutput, Arc<Holder>)>,
}

impl Pages {
    /// Adds the next page.
    pub(crate) fn push(&mut self, page: SourcesPage) -> Result<(), ListError> {
        if *self.digest.get_or_insert(page.list) != page.list {
            return Err(ListError::Changed);
        }
        let holders: Vec<Arc<Holder>> = page.holders.into_iter().map(Arc::new).collect();
        for (output, holder) in page.outputs {
            let holder = holders.get(holder as usize).ok_or(ListError::Damaged)?;
            self.outputs.push((output, Arc::clone(holder)));
        }
        Ok(())
    }

    /// The whole list, if it is that.
    pub(crate) fn end(self) -> Result<List, ListError> {
        let digest = self.digest.ok_or(ListError::Damaged)?;
        match list_digest(self.outputs.iter().map(|(output, _)| (&output.shards, &output.index))) {
            made if made == digest => Ok(List { digest, outputs: self.outputs }),
            _ => Err(ListError::Damaged),
        }
    }
}

/// Whose outputs are read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// This worker, whose own outputs always are.
    pub(crate) me: WorkerId,
    /// Those of others are not, whatever can be seen.
    pub(crate) fetch_always: bool,
}

/// Segments that attempts have fetched before they failed: what is verified is not fetched twice.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Vec<KeptFile>>);

#[derive(Debug)]
struct KeptFile {
    partitions: Range<u32>,
    data: PathBuf,
    segments: BTreeMap<AttemptId, Vec<SourceSegment>>,
}

impl Kept {
    /// The segments of an output, if these very partitions of it were fetched.
    fn find(&self, output: AttemptId, partitions: &Range<u32>) -> Option<(PathBuf, Vec<SourceSegment>)> {
        let files = self.0.lock().expect("no holder panics");
        let mut of_partitions = files.iter().filter(|file| file.partitions == *partitions);
        of_partitions.find_map(|file| Some((file.data.clone(), file.segments.get(&output)?.clone())))
    }

    /// Moves what an attempt has fetched to where the attempt's end does not touch it: beside its directory, until the job ends.
    fn keep(&self, fetched: &Path, partitions: &Range<u32>, segments: BTreeMap<AttemptId, Vec<SourceSegment>>) {
        let Some((attempt, job)) = fetched.parent().and_then(|attempt| Some((attempt.file_name()?, attempt.parent()?))) else { return };
        let data = job.join(format!("kept-{}", attempt.display()));
        if !segments.is_empty() && std::fs::rename(fetched, &data).is_ok() {
            self.0.lock().expect("no holder panics").push(KeptFile { partitions: partitions.clone(), data, segments });
        }
    }
}

/// Makes all of a task's segments readable, and a file that says where they lie. Returns its path.
pub(crate) async fn gather(
    fetcher: &Fetcher,
    kept: &Kept,
    sight: Sight,
    wish: &Wish,
    list: &List,
    directory: &Path,
) -> Result<PathBuf, Fault> {
    let (outputs, partitions) = (list.outputs.clone(), wish.partitions.clone());
    let mut found = spawn_blocking(move || look(&outputs, &partitions, sight)).await.expect("looking does not panic")?;
    for ((output, _), found) in list.outputs.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
        *found = kept.find(output.attempt, &wish.partitions);
    }
    let missing = list.outputs.iter().zip(&found).filter(|(_, found)| found.is_none());
    let missing: Vec<(MapOutput, Arc<Holder>)> = missing.map(|(output, _)| output.clone()).collect();
    let (fetched_path, fetched) = (directory.join(FETCHED), Fetched::default());
    if !missing.is_empty() {
        let result = fetcher.fetch(wish, &missing, &fetched_path, &fetched).await;
        if let Err(fault) = result {
            kept.keep(&fetched_path, &wish.partitions, fetched.into_inner().expect("no holder panics"));
            return Err(fault);
        }
    }
    let mut fetched = fetched.into_inner().expect("no holder panics");
    let entry = |((output, _), found): (&(MapOutput, Arc<Holder>), Found)| {
        let fetched = || (fetched_path.clone(), fetched.remove(&output.attempt).expect("all that is not found is fetched"));
        let (data, segments) = found.unwrap_or_else(fetched);
        SourceEntry { data, output: output.attempt, segments }
    };
    let entries: Vec<SourceEntry> = list.outputs.iter().zip(found).map(entry).collect();
    let path = directory.join(SOURCES);
    let written = path.clone();
    spawn_blocking(move || write(&written, &entries)).await.expect("writing does not panic")?;
    Ok(path)
}

/// Where an output's segments lie: the file, and the places in it.
type Found = Option<(PathBuf, Vec<SourceSegment>)>;

/// Finds out which outputs can be read in place. An own one that cannot is lost.
fn look(outputs: &[(MapOutput, Arc<Holder>)], partitions: &Range<u32>, sight: Sight) -> Result<Vec<Found>, Fault> {
    let mut seen: BTreeMap<WorkerId, bool> = BTreeMap::new();
    let mut found = Vec::with_capacity(outputs.len());
    for (output, holder) in outputs {
        let is_own = holder.worker == sight.me;
        let in_place = is_own || !sight.fetch_always && *seen.entry(holder.worker).or_insert_with(|| disk::is_seen(&holder.disk));
        found.push(match in_place.then(|| look_at(output, holder, partitions)) {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(error)) if is_own => {
                tracing::warn!(output = %output.attempt, %error, "an output of this worker's is lost");
                let damaged = error.kind() != io::ErrorKind::NotFound;
                return Err(Fault::OutputLost { output: output.attempt, damaged });
            }
            // Its holder is asked, and says what is wrong.
            Some(Err(_)) => None,
        });
    }
    Ok(found)
}

fn look_at(output: &MapOutput, holder: &Holder, partitions: &Range<u32>) -> io::Result<(PathBuf, Vec<SourceSegment>)> {
    let directory = disk::attempt_directory(&holder.disk.directory, output.attempt);
    let data = directory.join(MAP_RUN);
    memory::check(&data, output.attempt)?;
    let partitions = partitions.start as usize..partitions.end as usize;
    let part = index::read_part(&File::open(directory.join(MAP_INDEX))?, partitions.clone())?;
    let segments = Index::open_part(&part, &output.index.0, &partitions).and_then(|index| index.segments(partitions));
    let segments = segments.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    // What is cut short is noticed here already, where it is known whose it is.
    let end = segments.iter().map(|segment| segment.offset.saturating_add(segment.stored_bytes)).max().unwrap_or(0);
    if std::fs::metadata(&data)?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((data, segments.iter().map(place).collect()))
}

fn place(segment: &Segment) -> SourceSegment {
    let Segment { offset, stored_bytes, records, content_bytes, digest } = *segment;
    SourceSegment { offset, stored_bytes, records, content_bytes, digest }
}

fn write(path: &Path, entries: &[SourceEntry]) -> Result<(), Fault> {
    let file = File::create_new(path).map_err(|error| disk::fault(path, &error))?;
    let mut out = io::BufWriter::new(file);
    let written = entries.iter().try_for_each(|entry| write_message(&mut out, entry));
    let flushed = written.and_then(|()| io::Write::flush(&mut out).map_err(ExchangeError::from));
    flushed.map_err(|error| match error {
        ExchangeError::Io(error) => disk::fault(path, &error),
        error => Fault::DiskFailed { path: path.to_owned(), cause: error.to_string() },
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
