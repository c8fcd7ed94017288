//! The journal: what is known for good, and survives any death of this process.
//!
//! A thread of its own writes it. All facts that wait while one commit is under way share the next. The scheduler is told that
//! facts are synced, and tells others of them only then. A commit that fails ends the process: what the kernel dropped on a
//! failed sync it will not write later, so only reading the disk anew can tell what is there.
//!
//! The file is verified whenever it is opened (`journal/store.rs`), compared with a mark beside it (`journal/mark.rs`), and has
//! room in reserve for when the disk is full (`journal/reserve.rs`).

mod mark;
mod reserve;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use shardmill_protocol::JobId;
use shardmill_scheduler::Fact;

use self::mark::{Found, Mark};
use self::reserve::Reserve;
use self::store::Store;
pub(crate) use self::store::{Ended, Entry, History};
use crate::fault_point::{FaultPoint, Place};

/// Entries in one commit at most, so that one never takes more room than is kept free for it.
const COMMIT_ENTRIES: usize = 1024;
/// How often a full disk is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file is not what was written.
    #[error(
        "the journal {} is damaged: {cause}. Restore it from a copy, or start with another state directory and submit again what was running",
        path.display()
    )]
    Damaged { path: PathBuf, cause: String },
    /// The file is older than what was told to others.
    #[error(
        "the journal {} ends with fact {found}, but fact {known} was written: it was cut short or put back to an earlier state. Restore \
         the newest one; or remove journal.mark beside it to go on from there, and what was done since will be done again",
        path.display()
    )]
    Behind { path: PathBuf, found: u64, known: u64 },
    /// It is of another release.
    #[error("the journal {} has format {found}, and this release knows {known}: use the release that wrote it", path.display())]
    Version { path: PathBuf, found: u64, known: u64 },
    /// The system refuses.
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// It cannot be read.
    #[error("cannot read the journal {}", path.display())]
    Read { path: PathBuf, source: Box<redb::Error> },
    /// It cannot be written.
    #[error("cannot write the journal {}", path.display())]
    Write { path: PathBuf, source: Box<redb::Error> },
}

/// What the journal's thread tells whoever drives it.
pub(crate) trait Listener: Send + 'static {
    /// All facts up to this number are on the disk.
    fn synced(&mut self, fact: u64);
    /// These jobs are no longer known: what is left of them can go.
    fn forgotten(&mut self, jobs: Vec<JobId>);
    /// The journal cannot be written, and nothing that was not synced ever will be.
    fn failed(&mut self, error: JournalError);
}

/// A journal that was opened and verified, and is not written yet.
pub(crate) struct Opened {
    store: Store,
    mark: Mark,
    reserve: Reserve,
    is_full: Arc<AtomicBool>,
}

/// A running journal.
pub(crate) struct Journal {
    entries: Option<Sender<Entry>>,
    thread: Option<JoinHandle<()>>,
}

impl Opened {
    /// Opens the journal in a state directory, or makes it.
    pub(crate) fn open(directory: &Path, history_jobs: usize) -> Result<Self, JournalError> {
        let path = directory.join("journal.redb");
        let store = Store::open(&path, history_jobs)?;
        let beside = directory.join("journal.mark");
        let (mark, found) = Mark::open(&beside).map_err(|source| JournalError::Open { path: beside.clone(), source })?;
        match found {
            Found::Fact(known) if known > store.last() => return Err(JournalError::Behind { path, found: store.last(), known }),
            Found::Damage => tracing::warn!(path = %beside.display(), "mark is damaged: whether the journal is the newest cannot be told"),
            Found::Nothing if store.last() > 0 => tracing::warn!(path = %beside.display(), "mark is missing"),
            Found::Fact(_) | Found::Nothing => {}
        }
        let (reserve, is_full) = Reserve::new(&directory.join("reserve"));
        Ok(Self { store, mark, reserve, is_full })
    }

    /// The number of the last fact ever written.
    pub(crate) fn last(&self) -> u64 {
        self.store.last()
    }

    /// The jobs that have ended.
    pub(crate) fn history(&self) -> History {
        self.store.history()
    }

    /// Whether the disk is full, so that no more work should be taken on. Changes while the journal is written.
    pub(crate) fn is_full(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_full)
    }

    /// Reads all facts that a restart needs, in their order. To be done before the journal is written.
    pub(crate) fn replay(&mut self, to: impl FnMut(u64, Fact)) -> Result<(), JournalError> {
        self.store.replay(to)
    }

    /// Starts writing.
    pub(crate) fn start(self, listener: impl Listener, fault_point: FaultPoint) -> Journal {
        let (entries, handed_over) = channel();
        let work = move || self.serve(&handed_over, listener, &fault_point);
        let thread =
            std::thread::Builder::new().name("journal".to_owned()).spawn(work).expect("a process can start a thread when it starts");
        Journal { entries: Some(entries), thread: Some(thread) }
    }

    fn serve(mut self, handed_over: &Receiver<Entry>, mut listener: impl Listener, fault_point: &FaultPoint) {
        loop {
            let first = match self.reserve.is_full() {
                false => handed_over.recv().map_err(|_| RecvTimeoutError::Disconnected),
                true => handed_over.recv_timeout(LOOK),
            };
            self.reserve.look();
            match first {
                Ok(first) => {
                    let waiting: Vec<Entry> = std::iter::once(first).chain(handed_over.try_iter()).take(COMMIT_ENTRIES).collect();
                    if let Err(error) = self.write(&waiting, &mut listener, fault_point) {
                        return listener.failed(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, entries: &[Entry], listener: &mut impl Listener, fault_point: &FaultPoint) -> Result<(), JournalError> {
        fault_point.reach(Place::BeforeCommit);
        let dropped = self.store.commit(entries)?;
        fault_point.reach(Place::AfterCommit);
        // The mark only serves to notice a journal that was put back; a commit does not depend on it.
        if let Err(error) = self.mark.set(self.store.last()) {
            tracing::warn!(%error, "mark cannot be written");
        }
        listener.synced(self.store.last());
        if !dropped.is_empty() {
            listener.forgotten(dropped);
        }
        Ok(())
    }
}

impl Journal {
    /// Hands an entry over. [`Listener::synced`] tells when it is on the disk.
    pub(crate) fn write(&self, entry: Entry) {
        // A journal that has failed has told so, and its process is about to end.
        let _ = self.entries.as_ref().expect("it is taken by drop alone").send(entry);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            // Its panic has been shown; there is nothing to be done about it here.
            let _ = thread.join();
        }
    }
}
