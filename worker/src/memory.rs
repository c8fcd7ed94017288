//! Map outputs that are kept in memory.
//!
//! What crosses the shuffle is written once more than on one machine, and a kernel begins to bring files to disk as soon as there is some
//! more than it likes, although these are removed with their job. So as long as there is room a map output is written to a file in memory.
//! That file is found like any other: `map.run` in the attempt's directory is then a link to it, by way of this process's descriptor in
//! `/proc`, which whatever the same user runs on this machine can open. It is gone with this process, as an output that is lost.
//!
//! Ids of processes and numbers of descriptors come back, and may be those of somebody else where only the disk is shared. The name in
//! memory says whose output a file is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use shardmill_protocol::process::MemoryFile;
use shardmill_protocol::{AttemptId, JobId};

/// So many files at most, as each has a descriptor. Ranges are cut so large that a worker has dozens.
const MOST_FILES: usize = 256;

/// The files in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    budget_bytes: u64,
    files: Mutex<BTreeMap<AttemptId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    /// What it may hold; once its attempt has sealed, what it holds.
    bytes: u64,
}

impl Memory {
    /// Room for so many bytes.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, files: Mutex::default() }
    }

    /// A file for the map output of an attempt with `share` of all threads, if there is room: it may hold that share of what is left.
    pub(crate) fn offer(&self, attempt: AttemptId, (threads, of): (u32, u32)) -> Option<MemoryFile> {
        let mut files = self.files.lock().expect("no holder panics");
        let left = self.budget_bytes.saturating_sub(files.values().map(|kept| kept.bytes).sum());
        let bytes = left.saturating_mul(threads.min(of).into()) / u64::from(of.max(1));
        if bytes == 0 || files.len() >= MOST_FILES {
            return None;
        }
        let file = match create(&name(attempt)) {
            Ok(file) => File::from(file),
            Err(error) => {
                tracing::debug!(%attempt, %error, "there is no file in memory");
                return None;
            }
        };
        let path = path(&file);
        files.insert(attempt, Kept { file, bytes });
        Some(MemoryFile { path, bytes })
    }

    /// An attempt has left its output, in its directory or else in its file in memory, and that is linked there then.
    pub(crate) fn settle(&self, attempt: AttemptId, run: &Path) -> io::Result<()> {
        let mut files = self.files.lock().expect("no holder panics");
        let Some(kept) = files.get_mut(&attempt) else { return Ok(()) };
        if fs::symlink_metadata(run).is_ok() {
            files.remove(&attempt);
            return Ok(());
        }
        kept.bytes = kept.file.metadata()?.len();
        symlink(path(&kept.file), run)
    }

    /// Gives back what an attempt has.
    pub(crate) fn remove(&self, attempt: AttemptId) {
        let gone = self.files.lock().expect("no holder panics").remove(&attempt);
        // To free gigabytes takes a while, in which others need the list.
        drop(gone);
    }

    /// Gives back what the attempts of a job have.
    pub(crate) fn remove_job(&self, job: JobId) {
        let gone: Vec<_> = self.files.lock().expect("no holder panics").extract_if(.., |attempt, _| attempt.job == job).collect();
        drop(gone);
    }
}

/// Refuses a link to something that is not, or no longer, this attempt's file in memory.
pub(crate) fn check(run: &Path, attempt: AttemptId) -> io::Result<()> {
    if !fs::symlink_metadata(run)?.is_symlink() {
        return Ok(());
    }
    // What the kernel calls a file in memory.
    let expected = format!("/memfd:{} (deleted)", name(attempt));
    if fs::read_link(fs::read_link(run)?)? == Path::new(&expected) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn name(attempt: AttemptId) -> String {
    format!("{}-{}", attempt.job, attempt.directory())
}

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

#[cfg(target_os = "linux")]
fn create(name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// Elsewhere descriptors cannot be opened by others: all outputs go to the disk.
#[cfg(not(target_os = "linux"))]
fn create(_: &str) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use shardmill_protocol::Epoch;

    fn attempt(number: u64) -> AttemptId {
        AttemptId { job: JobId(7), epoch: Epoch(1), number }
    }

    /// Writes as a job process does, and settles.
    fn write(memory: &Memory, number: u64, file: &MemoryFile, run: &Path, bytes: usize) {
        fs::write(&file.path, vec![b'x'; bytes]).unwrap();
        memory.settle(attempt(number), run).unwrap();
    }

    #[test]
    fn what_is_written_takes_room_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(1000);
        let first = memory.offer(attempt(1), (1, 4)).unwrap();
        assert_eq!(first.bytes, 250);
        // Those who are still at it may yet need what they may have.
        let second = memory.offer(attempt(2), (4, 4)).unwrap();
        assert_eq!(second.bytes, 750);
        assert_eq!(memory.offer(attempt(3), (4, 4)), None);
        write(&memory, 1, &first, &directory.path().join("one"), 100);
        assert_eq!(fs::read(directory.path().join("one")).unwrap(), [b'x'; 100]);
        assert_eq!(memory.offer(attempt(3), (4, 4)).unwrap().bytes, 150);
        memory.remove(attempt(2));
        assert_eq!(memory.offer(attempt(4), (4, 4)).unwrap().bytes, 750);
        memory.remove_job(JobId(8));
        assert_eq!(memory.offer(attempt(5), (4, 4)), None);
        memory.remove_job(JobId(7));
        assert_eq!(memory.offer(attempt(5), (4, 4)).unwrap().bytes, 1000);
        assert!(check(&directory.path().join("one"), attempt(1)).is_err(), "what is removed is gone");
    }

    #[test]
    fn an_output_that_went_to_the_disk_takes_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let memory = Memory::new(1000);
        assert!(memory.offer(attempt(1), (1, 1)).is_some());
        fs::write(&run, b"on disk").unwrap();
        memory.settle(attempt(1), &run).unwrap();
        assert_eq!(fs::read(&run).unwrap(), b"on disk");
        assert_eq!(memory.offer(attempt(2), (1, 1)).unwrap().bytes, 1000);
    }

    #[test]
    fn descriptors_are_not_used_up() {
        let memory = Memory::new(1 << 30);
        let offers = (0..2 * MOST_FILES as u64).filter(|number| {
            let offer = memory.offer(attempt(*number), (1, 1024));
            offer.is_some()
        });
        assert_eq!(offers.count(), MOST_FILES);
    }

    #[test]
    fn a_file_in_memory_is_known_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let memory = Memory::new(1000);
        let file = memory.offer(attempt(1), (1, 1)).unwrap();
        write(&memory, 1, &file, &run, 10);
        check(&run, attempt(1)).unwrap();
        assert_eq!(check(&run, attempt(2)).unwrap_err().kind(), io::ErrorKind::NotFound);
        memory.remove(attempt(1));
        assert!(check(&run, attempt(1)).is_err());
        fs::remove_file(&run).unwrap();
        fs::write(&run, b"on disk").unwrap();
        check(&run, attempt(1)).unwrap();
    }
}
