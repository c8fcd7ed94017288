//! What a job process writes to stdout and stderr: kept up to a limit, beginning and end, however much it is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use shardmill_protocol::fault::MESSAGE_CHARACTERS;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

/// Bytes that are kept of the beginning, and as many of the end.
pub(crate) const KEPT_BYTES: usize = 512 << 10;
/// Lines that a fault quotes at most.
const LAST_LINES: usize = 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Reads in a row, before others get their turn.
const READS: usize = 16;

/// The beginning and the end of a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Log {
    head: Vec<u8>,
    /// So much of the beginning was told before its end.
    told: usize,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Log {
    fn push(&mut self, mut bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(KEPT_BYTES - self.head.len()));
        self.head.extend_from_slice(head);
        bytes = rest;
        let dropped = bytes.len().saturating_sub(KEPT_BYTES);
        let kept = &bytes[dropped..];
        let overhang = (self.tail.len() + kept.len()).saturating_sub(KEPT_BYTES);
        self.tail.drain(..overhang);
        self.tail.extend(kept);
        self.left_out += (dropped + overhang) as u64;
    }

    /// What is kept and was not told before, with a line that says how much is not kept.
    fn into_bytes(mut self) -> Vec<u8> {
        let mut bytes = self.head.split_off(self.told);
        if self.left_out > 0 {
            bytes.extend_from_slice(format!("\n[{} bytes are left out here]\n", self.left_out).as_bytes());
        }
        bytes.extend(self.tail);
        bytes
    }

    fn last_lines(&self) -> String {
        let end = if self.tail.is_empty() { self.head.clone() } else { self.tail.iter().copied().collect() };
        let end = String::from_utf8_lossy(&end[end.len().saturating_sub(4 * MESSAGE_CHARACTERS)..]).into_owned();
        let lines: Vec<&str> = end.trim_end().lines().collect();
        let text = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        let skipped = text.chars().count().saturating_sub(MESSAGE_CHARACTERS);
        text.chars().skip(skipped).collect()
    }
}

/// A pipe whose other end is a job process's stdout or stderr, and what has come out of it.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pipe: Arc<Receiver>,
    read: Arc<Mutex<(Log, Vec<u8>)>>,
}

impl Captured {
    /// Begins to take in what comes, until the pipe ends. The writer is never held up for long.
    pub(crate) fn begin(pipe: OwnedFd) -> io::Result<(Self, JoinHandle<()>)> {
        let captured = Self { pipe: Arc::new(Receiver::from_owned_fd(pipe)?), read: Arc::default() };
        let reader = captured.clone();
        let task = tokio::spawn(async move {
            while reader.pipe.readable().await.is_ok() && reader.drain() {
                tokio::task::yield_now().await;
            }
        });
        Ok((captured, task))
    }

    /// Reads what is there, but not for ever; false at the end of the pipe.
    fn drain(&self) -> bool {
        let mut read = self.lock();
        let (log, buffer) = &mut *read;
        buffer.resize(READ_BYTES, 0);
        for _ in 0..READS {
            match self.pipe.try_read(buffer) {
                Ok(bytes @ 1..) => log.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, (Log, Vec<u8>)> {
        self.read.lock().expect("no holder panics")
    }

    /// The last lines.
    pub(crate) fn last_lines(&self) -> String {
        self.lock().0.last_lines()
    }

    /// What was written and not told yet, at most so much; what comes at the end of a long log is left to [`take`](Self::take).
    pub(crate) fn untold(&self, bytes: usize) -> Vec<u8> {
        let log = &self.lock().0;
        let untold = &log.head[log.told..];
        untold[..untold.len().min(bytes)].to_vec()
    }

    /// So much of that was told.
    pub(crate) fn told(&self, bytes: usize) {
        self.lock().0.told += bytes;
    }

    /// Takes what has been written so far; what is written later begins a new log.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.drain();
        let mut read = self.lock();
        // A process that says nothing for a while needs no buffer.
        read.1 = Vec::new();
        std::mem::take(&mut read.0).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn beginning_and_end_are_kept_and_the_rest_is_counted() {
        let mut log = Log::default();
        let all: Vec<u8> = (0..3 * KEPT_BYTES + 7).map(|at| (at % 251) as u8).collect();
        all.chunks(1000).for_each(|chunk| log.push(chunk));
        assert_eq!(log.left_out as usize, KEPT_BYTES + 7);
        let bytes = log.into_bytes();
        assert!(bytes.starts_with(&all[..KEPT_BYTES]) && bytes.ends_with(&all[all.len() - KEPT_BYTES..]));
        let mut at_once = Log::default();
        at_once.push(&all);
        assert_eq!(at_once.into_bytes(), bytes);
    }

    #[tokio::test]
    async fn what_is_told_ahead_is_not_taken_again_and_still_quoted() {
        let (reading, mut writing) = io::pipe().unwrap();
        let (log, task) = Captured::begin(reading.into()).unwrap();
        writing.write_all(b"one\ntwo\n").unwrap();
        log.pipe.readable().await.unwrap();
        log.drain();
        assert_eq!((log.untold(4), log.untold(100)), (b"one\n".to_vec(), b"one\ntwo\n".to_vec()));
        log.told(4);
        assert_eq!(log.untold(100), b"two\n");
        assert_eq!(log.last_lines(), "one\ntwo");
        assert_eq!(log.take(), b"two\n");
        drop(writing);
        task.await.unwrap();
        assert_eq!((log.untold(100), log.take()), (vec![], vec![]));
    }

    #[test]
    fn the_last_lines_are_few_and_short() {
        let mut log = Log::default();
        (0..100).for_each(|line| log.push(format!("line {line}\n").as_bytes()));
        assert!(log.last_lines().starts_with("line 80\n") && log.last_lines().ends_with("line 99"));
        log.push(&vec![b'x'; 4 * KEPT_BYTES]);
        assert_eq!(log.last_lines().chars().count(), MESSAGE_CHARACTERS);
    }

    #[tokio::test]
    async fn what_is_taken_begins_a_new_log() {
        let (reading, mut writing) = io::pipe().unwrap();
        let (log, task) = Captured::begin(reading.into()).unwrap();
        for words in ["one", "two"] {
            writing.write_all(words.as_bytes()).unwrap();
            log.pipe.readable().await.unwrap();
            assert_eq!(log.take(), words.as_bytes());
        }
        writing.write_all(b"the last words").unwrap();
        drop(writing);
        task.await.unwrap();
        assert_eq!(log.last_lines(), "the last words");
    }
}
