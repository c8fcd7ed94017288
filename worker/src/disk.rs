//! The worker's directory: who it is, what it keeps, and how much of the disk it may use.
//!
//! ```text
//! DIR/id, nonce                 who the worker is; whoever reads the nonce sees this disk
//! DIR/lock                      held, with the process id in it, while a worker runs here
//! DIR/epoch                     the highest epoch seen, and of which coordinator
//! DIR/artifacts/DIGEST          executables
//! DIR/jobs/JOB/EPOCH-NUMBER/    an attempt: slots, spills, fetched segments; map.run, perhaps in memory, and map.index once it has sealed
//! DIR/jobs/JOB/process-NUMBER/  a job process's temporary files
//! ```
//! Nothing here is synced: what is lost is made again. A sealed map output is told by the file `sealed`, which names its shards
//! and its index digest; it survives the worker's restart, unless it is in memory. All else is swept at the start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statvfs};
use shardmill_datasets::index::Index;
use shardmill_protocol::rpc::api::{DiskProof, HeldOutput};
use shardmill_protocol::rpc::join::write_private;
use shardmill_protocol::task::MapOutput;
use shardmill_protocol::{AttemptId, Digest, Epoch, Fault, JobId, WorkerId};

use crate::memory::Memory;

/// The data of a map output, in its attempt's directory.
pub(crate) const MAP_RUN: &str = "map.run";
/// Its index.
pub(crate) const MAP_INDEX: &str = "map.index";
const SEALED: &str = "sealed";
/// The disk is full for the worker when less than this is free.
const LEAST_FREE: u64 = 64 << 20;

/// Why a directory cannot be a worker's.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another worker runs on it.
    #[error("{} is in use by the worker with process id {owner}", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// What the lock file holds.
        owner: String,
    },
    /// The system refuses.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its name is of no use.
    #[error("the name {} is not UTF-8, and other processes are told it as text: give another --dir", directory.display())]
    Name {
        /// The directory, with symbolic links resolved.
        directory: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: remove it, and the worker starts as a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// So many workers of a user on one machine find a directory by themselves.
const MOST_WORKERS: u32 = 1024;

/// The directory of a worker, held by this process.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    id: WorkerId,
    nonce: [u8; 16],
    budget_bytes: u64,
    memory: Memory,
    /// What was used when it was last looked at.
    used: Mutex<Option<(Instant, u64)>>,
    _lock: File,
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, DiskError> {
    result.map_err(|source| DiskError::Io { path: path.to_owned(), source })
}

impl Disk {
    /// Takes a directory, and makes it if there is none. Without a budget, nine tenths of what is free may be used.
    pub(crate) fn open(root: &Path, budget_bytes: Option<u64>) -> Result<Self, DiskError> {
        let root = text(at(root, std::path::absolute(root))?)?;
        at(&root, DirBuilder::new().recursive(true).mode(0o700).create(&root))?;
        let root = text(at(&root, root.canonicalize())?)?;
        let lock = lock(&root)?;
        for name in ["artifacts", "jobs"] {
            let directory = root.join(name);
            at(&directory, DirBuilder::new().recursive(true).mode(0o700).create(&directory))?;
        }
        let id = kept(&root.join("id"), |random| WorkerId(random & (u128::MAX >> 1)).to_string(), |text| text.trim().parse().ok())?;
        let nonce = kept(&root.join("nonce"), |random| format!("{random:032x}"), |text| u128::from_str_radix(text.trim(), 16).ok())?;
        let free = at(&root, statvfs(&root).map_err(io::Error::from))?;
        let free = free.f_bavail * free.f_frsize;
        let used = used_below(&root);
        let budget_bytes = budget_bytes.unwrap_or((free + used) / 10 * 9);
        Ok(Self { root, id, nonce: nonce.to_be_bytes(), budget_bytes, memory: Memory::default(), used: Mutex::default(), _lock: lock })
    }

    /// Takes the first of `root`, `root-2`, `root-3` … that no other worker has.
    pub(crate) fn open_first_free(root: &Path, budget_bytes: Option<u64>) -> Result<Self, DiskError> {
        let mut taken = Self::open(root, budget_bytes);
        for number in 2..=MOST_WORKERS {
            if !matches!(taken, Err(DiskError::InUse { .. })) {
                break;
            }
            let mut next = root.as_os_str().to_owned();
            next.push(format!("-{number}"));
            taken = Self::open(Path::new(&next), budget_bytes);
        }
        taken
    }

    /// The same disk, with memory to keep map outputs in.
    pub(crate) fn with_memory(self, bytes: u64) -> Self {
        Self { memory: Memory::new(bytes), ..self }
    }

    /// Map outputs in memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Who the worker is.
    pub(crate) fn id(&self) -> WorkerId {
        self.id
    }

    /// What others know this disk by.
    pub(crate) fn proof(&self) -> DiskProof {
        DiskProof { directory: self.root.clone(), nonce: self.nonce }
    }

    /// Where executables are kept.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// All that is kept of a job.
    pub(crate) fn job_directory(&self, job: JobId) -> PathBuf {
        self.root.join("jobs").join(job.to_string())
    }

    /// The directory of an attempt.
    pub(crate) fn attempt_directory(&self, attempt: AttemptId) -> PathBuf {
        attempt_directory(&self.root, attempt)
    }

    /// Makes the directory of an attempt, which must be new.
    pub(crate) fn create_attempt(&self, attempt: AttemptId) -> Result<PathBuf, Fault> {
        let directory = self.attempt_directory(attempt);
        fs::create_dir_all(self.job_directory(attempt.job))
            .and_then(|()| fs::create_dir(&directory))
            .map_err(|error| fault(&directory, &error))?;
        Ok(directory)
    }

    /// Removes what there is of an attempt.
    pub(crate) fn remove_attempt(&self, attempt: AttemptId) {
        remove(&self.attempt_directory(attempt));
        self.memory.remove(attempt);
    }

    /// Removes what there is of a job.
    pub(crate) fn remove_job(&self, job: JobId) {
        remove(&self.job_directory(job));
        self.memory.remove_job(job);
    }

    /// The jobs of which there is anything.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        entries(&self.root.join("jobs")).iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
    }

    /// Notes that an attempt's map output is whole.
    pub(crate) fn seal(&self, output: &MapOutput) -> Result<(), Fault> {
        let path = self.attempt_directory(output.attempt).join(SEALED);
        let note = postcard::to_stdvec(output).expect("an output is plain data");
        fs::write(&path, note).map_err(|error| fault(&path, &error))
    }

    /// Removes all that an earlier process has left but whole map outputs, and returns those.
    pub(crate) fn sweep(&self) -> Vec<HeldOutput> {
        let mut held = Vec::new();
        for job in entries(&self.root.join("jobs")) {
            for attempt in entries(&job) {
                match sealed(&attempt).filter(|output| attempt == self.attempt_directory(output.attempt)) {
                    Some(output) => held.push(HeldOutput { attempt: output.attempt, output }),
                    None => remove(&attempt),
                }
            }
            // Removes only what is empty.
            let _ = fs::remove_dir(&job);
        }
        held
    }

    /// Refuses to go on when the budget is used up, or the disk is full. Looks at what is there if that was longer ago than `age`.
    pub(crate) fn check_room(&self, age: Duration) -> Result<(), Fault> {
        let free = statvfs(&self.root).map_err(|error| fault(&self.root, &error.into()))?;
        let used = {
            let mut known = self.used.lock().expect("no holder panics");
            match *known {
                Some((when, bytes)) if when.elapsed() < age => bytes,
                _ => known.insert((Instant::now(), used_below(&self.root))).1,
            }
        };
        let fits = free.f_bavail * free.f_frsize >= LEAST_FREE && used <= self.budget_bytes;
        if fits { Ok(()) } else { Err(Fault::DiskFull { path: self.root.clone() }) }
    }

    /// Takes note of an epoch of the coordinator with this fingerprint, unless a higher one was seen; then returns that one.
    pub(crate) fn note_epoch(&self, coordinator: Digest, epoch: Epoch) -> io::Result<Option<Epoch>> {
        let path = self.root.join("epoch");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let seen = text.trim().split_once(' ').filter(|(fingerprint, _)| fingerprint.parse() == Ok(coordinator));
        let seen = seen.and_then(|(_, epoch)| epoch.parse().ok()).map(Epoch);
        match seen {
            Some(seen) if seen > epoch => Ok(Some(seen)),
            Some(seen) if seen == epoch => Ok(None),
            _ => write_private(&path, format!("{coordinator} {epoch}\n").as_bytes()).map(|()| None),
        }
    }
}

/// The directory of an attempt of the worker whose directory is `root`.
pub(crate) fn attempt_directory(root: &Path, attempt: AttemptId) -> PathBuf {
    root.join("jobs").join(attempt.job.to_string()).join(attempt.directory())
}

/// Whether this process sees the disk of another worker.
pub(crate) fn is_seen(proof: &DiskProof) -> bool {
    let nonce = fs::read_to_string(proof.directory.join("nonce"));
    nonce.is_ok_and(|text| u128::from_str_radix(text.trim(), 16).is_ok_and(|nonce| nonce.to_be_bytes() == proof.nonce))
}

/// The fault of a disk operation of the worker's own.
pub(crate) fn fault(path: &Path, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Fault::DiskFull { path: path.to_owned() }
        }
        _ => Fault::DiskFailed { path: path.to_owned(), cause: error.to_string() },
    }
}

/// Refuses a name that is no text.
fn text(directory: PathBuf) -> Result<PathBuf, DiskError> {
    if directory.to_str().is_some() { Ok(directory) } else { Err(DiskError::Name { directory }) }
}

fn lock(root: &Path) -> Result<File, DiskError> {
    let path = root.join("lock");
    let mut lock = at(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut owner = String::new();
        at(&path, lock.read_to_string(&mut owner))?;
        return Err(DiskError::InUse { directory: root.to_owned(), owner: owner.trim().to_owned() });
    }
    at(&path, lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())))?;
    Ok(lock)
}

/// What a file holds; if there is none, it is made with a random number in it.
fn kept<T>(path: &Path, text: impl Fn(u128) -> String, parse: impl Fn(&str) -> Option<T>) -> Result<T, DiskError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).ok_or_else(|| DiskError::Damaged { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; 16];
            let filled = getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()));
            at(path, filled)?;
            let text = text(u128::from_be_bytes(random));
            at(path, write_private(path, format!("{text}\n").as_bytes()))?;
            Ok(parse(&text).expect("it is read as it is written"))
        }
        Err(source) => Err(DiskError::Io { path: path.to_owned(), source }),
    }
}

/// The map output in an attempt's directory, if it is whole as far as can be told without reading all of it. What was in memory is not.
fn sealed(directory: &Path) -> Option<MapOutput> {
    let output: MapOutput = postcard::from_bytes(&fs::read(directory.join(SEALED)).ok()?).ok()?;
    let index = fs::read(directory.join(MAP_INDEX)).ok()?;
    let index = Index::open(&index, &output.index.0).ok()?;
    let segments = index.segments(0..index.partitions()).ok()?;
    let stored: u64 = segments.iter().map(|segment| segment.stored_bytes).sum();
    let run = fs::symlink_metadata(directory.join(MAP_RUN)).ok()?;
    (run.is_file() && run.len() == stored).then_some(output)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes a directory or a file. What cannot be removed now is tried again at the next sweep.
pub(crate) fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }) {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

/// Bytes of disk that a directory and all below it take.
fn used_below(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = if metadata.is_dir() { entries(path).iter().map(|entry| used_below(entry)).sum() } else { 0 };
    metadata.blocks() * 512 + below
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    fn attempt(number: u64) -> AttemptId {
        AttemptId { job: JobId(7), epoch: Epoch(1), number }
    }

    /// An attempt with a map output of no partitions, sealed if so wanted.
    fn map_output(disk: &Disk, number: u64, is_sealed: bool) -> MapOutput {
        let directory = disk.create_attempt(attempt(number)).unwrap();
        fs::write(directory.join(MAP_RUN), b"").unwrap();
        fs::write(directory.join(MAP_INDEX), shardmill_datasets::index::encode(&[])).unwrap();
        let index = Digest(shardmill_datasets::index::digest(&[]));
        let output = MapOutput { shards: 0..1, attempt: attempt(number), index };
        if is_sealed {
            disk.seal(&output).unwrap();
        }
        output
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_output_in_memory_goes_with_its_attempt_or_its_job_and_is_not_there_for_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), None).unwrap().with_memory(1000);
        for remove in [|disk: &Disk| disk.remove_attempt(attempt(1)), |disk: &Disk| disk.remove_job(JobId(7))] {
            map_output(&disk, 1, true);
            let run = disk.attempt_directory(attempt(1)).join(MAP_RUN);
            fs::remove_file(&run).unwrap();
            assert_eq!(disk.memory().offer(attempt(1), (1, 1)).map(|file| file.bytes), Some(1000));
            disk.memory().settle(attempt(1), &run).unwrap();
            remove(&disk);
        }
        map_output(&disk, 2, true);
        let run = disk.attempt_directory(attempt(2)).join(MAP_RUN);
        fs::remove_file(&run).unwrap();
        assert!(disk.memory().offer(attempt(2), (1, 1)).is_some(), "all was given back");
        disk.memory().settle(attempt(2), &run).unwrap();
        assert!(run.exists());
        drop(disk);
        let disk = Disk::open(directory.path(), None).unwrap();
        assert_eq!(disk.sweep(), []);
        assert!(!run.exists() && disk.jobs().is_empty());
    }

    #[test]
    fn a_worker_stays_who_it_is_and_is_alone_on_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("worker");
        let disk = Disk::open(&root, None).unwrap();
        let (id, proof) = (disk.id(), disk.proof());
        assert!(is_seen(&proof));
        assert!(!is_seen(&DiskProof { nonce: [0; 16], ..proof.clone() }));
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        let Err(DiskError::InUse { owner, .. }) = Disk::open(&root, None) else { panic!("two workers on one directory") };
        assert_eq!(owner, std::process::id().to_string());
        let others = [2, 3].map(|_| Disk::open_first_free(&root, None).unwrap());
        assert_eq!(others.each_ref().map(|other| other.root.clone()), ["worker-2", "worker-3"].map(|name| root.with_file_name(name)));
        drop(disk);
        let again = Disk::open_first_free(&root, None).unwrap();
        assert_eq!((again.id(), again.proof()), (id, proof));
    }

    #[test]
    fn a_directory_whose_name_is_no_text_is_refused_and_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join(std::ffi::OsStr::from_bytes(b"no-\xff-text"));
        let refused = |root: &Path| Disk::open(root, None).unwrap_err().to_string();
        let told = format!("the name {} is not UTF-8", place.join("worker").display());
        assert!(refused(&place.join("worker")).starts_with(&told));
        assert!(!place.exists());
        // What it is called by does not help.
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, directory.path().join("text")).unwrap();
        assert!(refused(&directory.path().join("text/worker")).starts_with(&told));
    }

    #[test]
    fn what_is_not_sealed_and_whole_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), None).unwrap();
        let kept = map_output(&disk, 1, true);
        map_output(&disk, 2, false);
        map_output(&disk, 3, true);
        fs::write(disk.attempt_directory(attempt(3)).join(MAP_RUN), b"longer").unwrap();
        map_output(&disk, 4, true);
        fs::rename(disk.attempt_directory(attempt(4)), disk.attempt_directory(attempt(5))).unwrap();
        fs::create_dir_all(disk.job_directory(JobId(8)).join("process-1")).unwrap();
        assert_eq!(disk.sweep(), [HeldOutput { attempt: attempt(1), output: kept }]);
        assert_eq!(disk.jobs(), [JobId(7)]);
        assert_eq!(entries(&disk.job_directory(JobId(7))), [disk.attempt_directory(attempt(1))]);
        disk.remove_job(JobId(7));
        assert_eq!(disk.jobs(), []);
    }

    #[test]
    fn a_budget_that_is_used_up_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), Some(1 << 20)).unwrap();
        assert_eq!(disk.check_room(Duration::ZERO), Ok(()));
        let full = Err(Fault::DiskFull { path: directory.path().canonicalize().unwrap() });
        let attempt = disk.create_attempt(attempt(1)).unwrap();
        fs::write(attempt.join("spill"), vec![1; 1 << 20]).unwrap();
        assert_eq!(disk.check_room(Duration::from_secs(3600)), Ok(()), "that is known, and not looked at again");
        assert_eq!(disk.check_room(Duration::ZERO), full);
    }

    #[test]
    fn a_lower_epoch_of_the_same_coordinator_is_known_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), None).unwrap();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        assert_eq!(disk.note_epoch(one, Epoch(5)).unwrap(), None);
        assert_eq!(disk.note_epoch(one, Epoch(4)).unwrap(), Some(Epoch(5)));
        assert_eq!(disk.note_epoch(one, Epoch(5)).unwrap(), None);
        assert_eq!(disk.note_epoch(other, Epoch(1)).unwrap(), None);
    }
}
