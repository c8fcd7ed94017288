//! The journal's file: facts and the history of ended jobs, in redb.
//!
//! ```text
//! facts     number: u64 → record(number, Fact)     all that a restart needs
//! history   job: u128   → record(low half of the job, Ended)    the last ended jobs, as they are shown
//! meta      "version", "last" → u64                the format, and the number of the last fact ever written
//! record    number: u64 │ digest: 16 bytes of BLAKE3 over number and value │ value: postcard
//! ```
//! Redb's own reads check nothing, so every page is verified when the file is opened, and each record again whenever it is
//! read. Commits are of two phases: a file whose newest state is damaged is then known as such, and is refused; with commits of
//! one phase, redb would quietly take the state before.
//!
//! Facts that are of no more use are removed in the commit that makes them so: an older epoch, a worker that is forgotten, and
//! all of a job that has become history.

use std::collections::BTreeMap;
use std::io::ErrorKind::{InvalidData, UnexpectedEof};
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTableMetadata, StorageError, Table, TableDefinition, TableError,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shardmill_protocol::view::JobView;
use shardmill_protocol::{JobId, WorkerId};
use shardmill_scheduler::Fact;

use super::JournalError;

const FACTS: TableDefinition<u64, &[u8]> = TableDefinition::new("facts");
const HISTORY: TableDefinition<u128, &[u8]> = TableDefinition::new("history");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Goes up whenever a fact or a view changes its encoding.
const VERSION: u64 = 2;
const CACHE_BYTES: usize = 4 << 20;
const DIGEST_BYTES: usize = 16;

/// A job that has ended, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// The client's key for the submission.
    pub(crate) key: String,
    /// All that is shown of it.
    pub(crate) view: JobView,
}

/// Something to be written.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A fact with its number.
    Fact(u64, Box<Fact>),
    /// A job has become history: its facts are of no more use.
    Retired(JobId, Box<Ended>),
}

/// The open file.
pub(super) struct Store {
    path: PathBuf,
    database: Arc<Database>,
    history_jobs: usize,
    /// The facts of each job, so that they can be removed together.
    of_job: BTreeMap<JobId, Vec<u64>>,
    of_worker: BTreeMap<WorkerId, u64>,
    epoch: Option<u64>,
    last: u64,
}

/// Reads the history beside whoever writes.
#[derive(Clone)]
pub(crate) struct History {
    path: PathBuf,
    database: Arc<Database>,
}

impl Store {
    /// Opens the file, or makes it, and verifies all of it.
    pub(super) fn open(path: &Path, history_jobs: usize) -> Result<Self, JournalError> {
        // Redb promises errors and no panics for damage that is looked for; a promise broken is no reason to run on.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path)
        }));
        let damaged = |cause: String| JournalError::Damaged { path: path.to_owned(), cause };
        let database = match opened {
            Ok(Ok(database)) => database,
            // The file ends too early, or is none of redb's: that is damage, and not the system's refusal.
            Ok(Err(DatabaseError::Storage(StorageError::Io(source)))) if !matches!(source.kind(), InvalidData | UnexpectedEof) => {
                return Err(JournalError::Open { path: path.to_owned(), source });
            }
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("it cannot be understood".to_owned())),
        };
        let database = Arc::new(database);
        let (of_job, of_worker) = (BTreeMap::new(), BTreeMap::new());
        let mut store = Self { path: path.to_owned(), database, history_jobs, of_job, of_worker, epoch: None, last: 0 };
        store.read_meta()?;
        Ok(store)
    }

    /// The number of the last fact ever written.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn history(&self) -> History {
        History { path: self.path.clone(), database: Arc::clone(&self.database) }
    }

    fn read_meta(&mut self) -> Result<(), JournalError> {
        let failed = failed(&self.path);
        let read = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        };
        let number = |key| meta.get(key).map(|value| value.map(|value| value.value())).map_err(|error| failed(error.into()));
        let version = number("version")?.unwrap_or(0);
        if version != VERSION {
            return Err(JournalError::Version { path: self.path.clone(), found: version, known: VERSION });
        }
        self.last = number("last")?.unwrap_or(0);
        Ok(())
    }

    /// Reads all facts, in their order.
    pub(super) fn replay(&mut self, mut to: impl FnMut(u64, Fact)) -> Result<(), JournalError> {
        let failed = failed(&self.path);
        let read = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let facts = match read.open_table(FACTS) {
            Ok(facts) => facts,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        };
        for entry in facts.range::<u64>(..).map_err(|error| failed(error.into()))? {
            let (key, value) = entry.map_err(|error| failed(error.into()))?;
            let number = key.value();
            let fact = decode(number, value.value()).ok_or_else(|| self.damaged(format!("fact {number} is not what was written")))?;
            if number > self.last {
                return Err(self.damaged(format!("fact {number} is beyond the last one, {}", self.last)));
            }
            // What the fact makes useless was removed when it was written, so only the index is of interest.
            self.note(number, &fact);
            to(number, fact);
        }
        Ok(())
    }

    fn damaged(&self, cause: String) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), cause }
    }

    /// Puts entries on the disk, all together, and tells which jobs have dropped out of the history.
    pub(super) fn commit(&mut self, entries: &[Entry]) -> Result<Vec<JobId>, JournalError> {
        let path = self.path.clone();
        self.write(entries).map_err(|source| JournalError::Write { path, source: Box::new(source) })
    }

    fn write(&mut self, entries: &[Entry]) -> Result<Vec<JobId>, redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_two_phase_commit(true);
        let mut dropped = vec![];
        {
            let mut facts = write.open_table(FACTS)?;
            let mut history = write.open_table(HISTORY)?;
            for entry in entries {
                match entry {
                    Entry::Fact(number, fact) => {
                        self.last = self.last.max(*number);
                        let undone = self.note(*number, fact);
                        if !matches!(**fact, Fact::WorkerForgotten(_)) {
                            facts.insert(number, encode(*number, &**fact).as_slice())?;
                        }
                        if let Some(undone) = undone {
                            facts.remove(undone)?;
                        }
                    }
                    Entry::Retired(job, ended) => {
                        for number in self.of_job.remove(job).unwrap_or_default() {
                            facts.remove(number)?;
                        }
                        history.insert(job.0, encode(low_half(*job), &**ended).as_slice())?;
                    }
                }
            }
            while history.len()? > self.history_jobs as u64 {
                dropped.extend(history.pop_first()?.map(|(job, _)| JobId(job.value())));
            }
            let mut meta: Table<&str, u64> = write.open_table(META)?;
            meta.insert("version", VERSION)?;
            meta.insert("last", self.last)?;
        }
        write.commit()?;
        Ok(dropped)
    }

    /// Takes note of a fact, and tells which earlier one it makes useless.
    fn note(&mut self, number: u64, fact: &Fact) -> Option<u64> {
        let job = match fact {
            Fact::Epoch(_) => return self.epoch.replace(number).filter(|before| *before != number),
            Fact::WorkerKnown(worker) => return self.of_worker.insert(*worker, number).filter(|before| *before != number),
            Fact::WorkerForgotten(worker) => return self.of_worker.remove(worker),
            Fact::Submitted(submission) => submission.job,
            Fact::Done { attempt, .. } | Fact::OutputLost { attempt, .. } => attempt.job,
            Fact::Charged { job, .. }
            | Fact::SetAside { job, .. }
            | Fact::CommitBegun { job, .. }
            | Fact::Ended { job, .. }
            | Fact::Swept { job } => *job,
        };
        self.of_job.entry(job).or_default().push(number);
        None
    }
}

impl History {
    /// The jobs with their keys, oldest first.
    pub(crate) fn keys(&self) -> Result<Vec<(JobId, String)>, JournalError> {
        self.range(.., |ended| (ended.view.status.job, ended.key))
    }

    /// One job.
    pub(crate) fn get(&self, job: JobId) -> Result<Option<Ended>, JournalError> {
        Ok(self.range(job.0..=job.0, |ended| ended)?.pop())
    }

    fn range<T>(&self, jobs: impl RangeBounds<u128>, of: impl Fn(Ended) -> T) -> Result<Vec<T>, JournalError> {
        let failed = failed(&self.path);
        let read = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let history = match read.open_table(HISTORY) {
            Ok(history) => history,
            Err(TableError::TableDoesNotExist(_)) => return Ok(vec![]),
            Err(error) => return Err(failed(error.into())),
        };
        let mut ended = vec![];
        for entry in history.range::<u128>(jobs).map_err(|error| failed(error.into()))? {
            let (job, value) = entry.map_err(|error| failed(error.into()))?;
            let job = JobId(job.value());
            let damaged = || JournalError::Damaged { path: self.path.clone(), cause: format!("job {job} is not what was written") };
            ended.push(of(decode(low_half(job), value.value()).ok_or_else(damaged)?));
        }
        Ok(ended)
    }
}

/// What stands for a number in the record of an ended job.
fn low_half(job: JobId) -> u64 {
    job.0 as u64
}

fn failed(path: &Path) -> impl Fn(redb::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| match source {
        redb::Error::Corrupted(cause) => JournalError::Damaged { path: path.clone(), cause },
        source => JournalError::Read { path: path.clone(), source: Box::new(source) },
    }
}

fn digest(number: u64, value: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(value);
    hasher.finalize().as_bytes()[..DIGEST_BYTES].try_into().expect("a digest is longer")
}

fn encode(number: u64, value: &impl Serialize) -> Vec<u8> {
    let value = postcard::to_stdvec(value).expect("facts are plain data");
    [&number.to_le_bytes()[..], &digest(number, &value), &value].concat()
}

fn decode<V: DeserializeOwned>(number: u64, record: &[u8]) -> Option<V> {
    let (written, rest) = record.split_first_chunk()?;
    let (check, value) = rest.split_at_checked(DIGEST_BYTES)?;
    let whole = u64::from_le_bytes(*written) == number && check == digest(number, value);
    whole.then(|| postcard::from_bytes(value).ok()).flatten()
}
