//! Logs: what the processes of a job have written to stderr, by attempt, until the job is forgotten.
//!
//! ```text
//! DIR/JOB/EPOCH-NUMBER.head   the first half mebibyte
//! DIR/JOB/EPOCH-NUMBER.tail   what came after it; of very much, the end
//! ```
//! The beginning says how it started and the end why it stopped; what lies between is let go of. A job keeps so much in all;
//! attempts beyond that are not kept at all. Everything here reads and writes files, and is called off the async threads.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use shardmill_protocol::rpc::api::CHUNK_BYTES;
use shardmill_protocol::{AttemptId, Epoch, JobId};

/// Kept of the beginning of an attempt's log, and of its end.
const HALF_BYTES: u64 = 512 << 10;
/// Kept of a job's logs in all.
const JOB_BYTES: u64 = 64 << 20;
/// Stands for what was let go of.
const CUT: &[u8] = b"\n[... the middle is not kept ...]\n";

/// The logs of all jobs.
#[derive(Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    /// One writer at a time: a tail that is being cut must not be appended to.
    writing: Mutex<()>,
}

impl Logs {
    /// Uses an existing directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, writing: Mutex::new(()) }
    }

    fn of(&self, job: JobId) -> PathBuf {
        self.directory.join(job.to_string())
    }

    /// Adds to the log of an attempt.
    pub(crate) fn append(&self, attempt: AttemptId, bytes: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = self.of(attempt.job);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let head = directory.join(format!("{}.head", attempt.directory()));
        let tail = directory.join(format!("{}.tail", attempt.directory()));
        if !head.exists() && bytes_in(&directory)? > JOB_BYTES {
            return Ok(());
        }
        let room = HALF_BYTES.saturating_sub(length(&head)) as usize;
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        append(&head, first)?;
        if !rest.is_empty() {
            append(&tail, rest)?;
            // Cutting at twice the size copies each byte once.
            if length(&tail) > 2 * HALF_BYTES {
                let all = fs::read(&tail)?;
                let end = &all[all.len() - HALF_BYTES as usize..];
                let kept = [CUT, end.strip_prefix(CUT).unwrap_or(end)].concat();
                let half = tail.with_extension("new");
                fs::write(&half, kept)?;
                fs::rename(&half, &tail)?;
            }
        }
        Ok(())
    }

    /// Reads a chunk of the log of one attempt, or of all of a job's, one after the other, each under its name. Empty at the end.
    pub(crate) fn read(&self, job: JobId, attempt: Option<AttemptId>, offset: u64) -> io::Result<Vec<u8>> {
        let directory = self.of(job);
        let (mut chunk, mut skip) = (vec![], offset);
        let mut add = |bytes: &[u8]| {
            let skipped = (bytes.len() as u64).min(skip);
            skip -= skipped;
            let rest = &bytes[skipped as usize..];
            chunk.extend_from_slice(&rest[..rest.len().min(CHUNK_BYTES - chunk.len())]);
            chunk.len() == CHUNK_BYTES
        };
        let of_attempt = |attempt: AttemptId| -> io::Result<Vec<u8>> {
            let mut bytes = vec![];
            for half in ["head", "tail"] {
                bytes.extend(optional(fs::read(directory.join(format!("{}.{half}", attempt.directory()))))?.unwrap_or_default());
            }
            Ok(bytes)
        };
        match attempt {
            Some(attempt) => {
                add(&of_attempt(attempt)?);
            }
            None => {
                for attempt in attempts_in(&directory, job)? {
                    let mut bytes = format!("--- {attempt}\n").into_bytes();
                    bytes.extend(of_attempt(attempt)?);
                    if !bytes.ends_with(b"\n") {
                        bytes.push(b'\n');
                    }
                    if add(&bytes) {
                        break;
                    }
                }
            }
        }
        Ok(chunk)
    }

    /// Removes the logs of a job.
    pub(crate) fn remove(&self, job: JobId) -> io::Result<()> {
        optional(fs::remove_dir_all(self.of(job))).map(|_| ())
    }

    /// Removes the logs of all jobs but these.
    pub(crate) fn keep(&self, jobs: &BTreeSet<JobId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if let Ok(job) = name.to_string_lossy().parse::<JobId>()
                && !jobs.contains(&job)
            {
                self.remove(job)?;
            }
        }
        Ok(())
    }
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn bytes_in(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() && path.exists() {
        return Ok(());
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(bytes)
}

/// The attempts that have a log, in the order in which they were granted.
fn attempts_in(directory: &Path, job: JobId) -> io::Result<BTreeSet<AttemptId>> {
    let Some(entries) = optional(fs::read_dir(directory))? else { return Ok(BTreeSet::new()) };
    let attempt = |name: &str| {
        let (epoch, number) = name.strip_suffix(".head")?.split_once('-')?;
        Some(AttemptId { job, epoch: Epoch(epoch.parse().ok()?), number: number.parse().ok()? })
    };
    entries.map(|entry| Ok(attempt(&entry?.file_name().to_string_lossy()))).filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(7);

    fn attempt(number: u64) -> AttemptId {
        AttemptId { job: JOB, epoch: Epoch(1), number }
    }

    fn logs() -> (tempfile::TempDir, Logs) {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::new(directory.path().to_owned());
        (directory, logs)
    }

    /// All that is shown, chunk by chunk.
    fn all(logs: &Logs, attempt: Option<AttemptId>) -> Vec<u8> {
        let mut all = vec![];
        loop {
            let chunk = logs.read(JOB, attempt, all.len() as u64).unwrap();
            if chunk.is_empty() {
                return all;
            }
            all.extend(chunk);
        }
    }

    #[test]
    fn logs_are_shown_by_attempt_in_the_order_of_grants() {
        let (_directory, logs) = logs();
        assert_eq!(all(&logs, None), b"");
        logs.append(attempt(10), b"ten\n").unwrap();
        logs.append(attempt(9), b"ni").unwrap();
        logs.append(attempt(9), b"ne").unwrap();
        assert_eq!(all(&logs, Some(attempt(9))), b"nine");
        assert_eq!(all(&logs, Some(attempt(11))), b"");
        let text = String::from_utf8(all(&logs, None)).unwrap();
        assert_eq!(text, format!("--- {}\nnine\n--- {}\nten\n", attempt(9), attempt(10)));
    }

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_kept() {
        let (_directory, logs) = logs();
        let lines: Vec<u8> = (0..400_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        lines.chunks(100_000).for_each(|chunk| logs.append(attempt(1), chunk).unwrap());
        let kept = all(&logs, Some(attempt(1)));
        assert!(kept.len() as u64 <= 3 * HALF_BYTES && kept.len() < lines.len());
        assert!(kept.starts_with(&lines[..HALF_BYTES as usize]) && kept.ends_with(&lines[lines.len() - 100_000..]));
        assert_eq!(kept.windows(CUT.len()).filter(|window| *window == CUT).count(), 1);
    }

    #[test]
    fn a_job_that_has_written_too_much_gets_no_more_logs_and_goes_on_with_those_it_has() {
        let (_directory, logs) = logs();
        let half = vec![b'x'; HALF_BYTES as usize];
        for number in 0..=JOB_BYTES / HALF_BYTES {
            logs.append(attempt(number), &half).unwrap();
        }
        logs.append(attempt(1000), b"late").unwrap();
        logs.append(attempt(1), b"more").unwrap();
        assert_eq!(all(&logs, Some(attempt(1000))), b"");
        assert!(all(&logs, Some(attempt(1))).ends_with(b"more"));
    }

    #[test]
    fn logs_of_jobs_that_are_forgotten_are_removed() {
        let (directory, logs) = logs();
        logs.append(attempt(1), b"one").unwrap();
        logs.append(AttemptId { job: JobId(8), ..attempt(1) }, b"two").unwrap();
        logs.keep(&BTreeSet::from([JobId(8)])).unwrap();
        assert_eq!(all(&logs, None), b"");
        logs.remove(JobId(8)).unwrap();
        logs.remove(JobId(8)).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
