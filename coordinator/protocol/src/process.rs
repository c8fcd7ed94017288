//! What a worker and its job process say to each other over descriptor 3, a Unix socket.
//!
//! ```text
//! worker                               job process
//!   Setup ───────────────────────────▶
//!         ◀─────────────────────────── Ready | Failed
//!   Run   ───────────────────────────▶
//!         ◀─────────────────────────── Progress (at most every 100 ms while something moves)
//!         ◀─────────────────────────── Done | Failed
//! ```
//! One attempt at a time. Cancelling is killing. After `Failed` the process may be asked again; a fault that leaves it in
//! doubt ends it. A frame is its length as four little-endian bytes and a message in postcard, at most [`MAX_FRAME`] long.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fault::Failure;
use crate::ids::{AttemptId, JobId};
use crate::task::{Outcome, SetAside, Task};

/// The longest frame.
pub const MAX_FRAME: usize = 1 << 20;
/// The descriptor on which a job process finds its worker.
pub const DESCRIPTOR: i32 = 3;

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProcess {
    /// Said once, first.
    Setup(Setup),
    /// Says what to do next.
    Run(Order),
}

/// The job that a process serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The version that the worker speaks.
    pub version: (u16, u16),
    /// The job.
    pub job: JobId,
    /// The job's name: what it was submitted as.
    pub name: String,
    /// The job's own parameters, as on the command line.
    pub parameters: Vec<String>,
    /// Inputs, output and flags: a `RunRequest` of `datasets` in postcard, of no concern to anyone between.
    pub request: Vec<u8>,
    /// The staging directory beside the output.
    pub staging: PathBuf,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub attempt: AttemptId,
    /// What is to be done.
    pub task: Task,
    /// How many threads to use.
    pub threads: u32,
    /// How much memory.
    pub memory_bytes: u64,
    /// The attempt's directory on the worker's disk, made and empty but for `slots`: for runs, spills and map output.
    pub directory: PathBuf,
    /// The attempt's directory in staging, made and empty: for what others read.
    pub staged: PathBuf,
    /// The files that the task reads, checked by the process against their digests.
    pub inputs: Vec<crate::task::Input>,
    /// Records to leave out.
    pub set_aside: Vec<SetAside>,
    /// In a reduce task, a file that says where the map outputs' segments lie; see [`SourceEntry`].
    pub sources: Option<PathBuf>,
    /// In a map task, where the output may go instead of the directory.
    pub memory: Option<MemoryFile>,
    /// Parts are synced to disk.
    pub durable: bool,
}

/// An empty file in the worker's memory, for a map output that is not longer than so many bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFile {
    /// Where it can be opened.
    pub path: PathBuf,
    /// What it may hold.
    pub bytes: u64,
}

/// An entry of the file of sources: the segments of one map output. Entries follow one another as frames, in the order of
/// the outputs' shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// The file that holds the segments. Several entries may name the same.
    pub data: PathBuf,
    /// The attempt whose output it is: to be named if it turns out to be damaged.
    pub output: AttemptId,
    /// One for each partition of the task, in order.
    pub segments: Vec<SourceSegment>,
}

/// Where a segment lies, and what it must hold: known by way of digests from the coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSegment {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file, block headers included.
    pub stored_bytes: u64,
    /// Records.
    pub records: u64,
    /// Bytes of the records.
    pub content_bytes: u64,
    /// xxh3-128 of the content.
    pub digest: [u8; 16],
}

/// What a job process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProcess {
    /// The job is set up.
    Ready {
        /// The version that the process speaks.
        version: (u16, u16),
    },
    /// Something has moved.
    Progress(Progress),
    /// The attempt is done; what it has written is whole.
    Done {
        /// The attempt.
        attempt: AttemptId,
        /// What it gives.
        outcome: Outcome,
    },
    /// The attempt, or the setting up, has failed.
    Failed {
        /// The attempt, if it was one.
        attempt: Option<AttemptId>,
        /// Why.
        failure: Failure,
    },
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Input bytes mapped, or content bytes reduced.
    pub bytes: u64,
    /// Records mapped, or groups reduced.
    pub records: u64,
    /// Bytes spilled.
    pub spilled_bytes: u64,
    /// Records set aside.
    pub bad_records: u64,
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The other side has closed the socket between two messages.
    #[error("the other side has closed the connection")]
    Closed,
    /// A frame longer than allowed.
    #[error("a message of {0} bytes is longer than allowed")]
    Oversized(usize),
    /// Bytes that are no message.
    #[error("what came is no message")]
    Malformed,
    /// The system failed.
    #[error("cannot exchange messages")]
    Io(#[from] io::Error),
}

/// Writes one message.
pub fn write_message<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), ExchangeError> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).expect("messages are plain data");
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(ExchangeError::Oversized(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(to.write_all(&frame)?)
}

/// Reads one message. Nothing is allocated for a length that is not allowed.
pub fn read_message<M: DeserializeOwned>(from: &mut impl Read) -> Result<M, ExchangeError> {
    let mut length = [0; 4];
    let mut read = 0;
    while read < length.len() {
        match from.read(&mut length[read..]) {
            Ok(0) if read == 0 => return Err(ExchangeError::Closed),
            Ok(0) => return Err(ExchangeError::Malformed),
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(ExchangeError::Oversized(length));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    match postcard::take_from_bytes(&frame) {
        Ok((message, [])) => Ok(message),
        _ => Err(ExchangeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> ToProcess {
        ToProcess::Setup(Setup {
            version: crate::VERSION,
            job: JobId(7),
            name: "word-count".to_owned(),
            parameters: vec!["--lowercase".to_owned()],
            request: vec![1, 2, 3],
            staging: PathBuf::from("/out/.words.shardmill-7"),
        })
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_the_end_is_told_from_a_cut() {
        let mut wire = Vec::new();
        write_message(&mut wire, &message()).unwrap();
        write_message(&mut wire, &message()).unwrap();
        let mut from = wire.as_slice();
        assert_eq!(read_message::<ToProcess>(&mut from).unwrap(), message());
        assert_eq!(read_message::<ToProcess>(&mut from).unwrap(), message());
        assert!(matches!(read_message::<ToProcess>(&mut from), Err(ExchangeError::Closed)));
        for cut in 1..wire.len() / 2 {
            assert!(!matches!(read_message::<ToProcess>(&mut &wire[..cut]), Ok(_) | Err(ExchangeError::Closed)), "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let length = (MAX_FRAME as u32 + 1).to_le_bytes();
        assert!(matches!(read_message::<ToProcess>(&mut length.as_slice()), Err(ExchangeError::Oversized(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let _ = read_message::<FromProcess>(&mut bytes.as_slice());
        }
    }
}
