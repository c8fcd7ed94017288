//! Whose fault it is that a task has no outcome: decided here, once, and typed from here on.

use std::error::Error;
use std::path::PathBuf;

use rayon::ThreadPoolBuildError;
use shardmill_datasets::{ListError, PlanError, ReadError};
use shardmill_protocol::fault::{self, Breach, Failure, MESSAGE_CHARACTERS, RECORD_BEGINNING, Unstartable};

use crate::fault::{BadRecord, Fault, Phase};
use crate::planning::PlanningError;

/// Why a task, or the setting up, has no outcome.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    #[error(transparent)]
    Planning(#[from] PlanningError),
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The job's parameters are none.
    #[error("{0}")]
    Parameters(String),
    #[error("another version of the protocol is spoken here")]
    Version,
    /// What was ordered cannot be done by anybody.
    #[error("{0}")]
    Unexpected(String),
    #[error("no threads can be started")]
    Threads(#[from] ThreadPoolBuildError),
    /// The engine itself.
    #[error("{0}")]
    Panicked(String),
}

/// Says whose fault an error is. `memory_bytes` is what the attempt was allowed.
pub(super) fn failure(error: TaskError, memory_bytes: u64) -> Failure {
    let message = told(&error);
    let fault = match error {
        TaskError::Parameters(_) => fault::Fault::Refused { message },
        TaskError::Version => fault::Fault::ProtocolBroken { breach: Breach::Version, stderr: message },
        TaskError::Unexpected(_) => fault::Fault::ProtocolBroken { breach: Breach::Unexpected, stderr: message },
        TaskError::Threads(_) => fault::Fault::SpawnFailed { reason: Unstartable::System, cause: message },
        TaskError::Panicked(_) => fault::Fault::Panicked { phase: Phase::Engine, cause: message },
        TaskError::Planning(PlanningError::Survey(error) | PlanningError::Plan(PlanError::Read(error))) => of_input(error),
        TaskError::Planning(PlanningError::List(ListError::Io { path, .. })) => fault::Fault::InputMissing { path, cause: message },
        TaskError::Planning(PlanningError::Interrupted) => fault::Fault::Cancelled,
        TaskError::Planning(
            PlanningError::List(_)
            | PlanningError::Plan(_)
            | PlanningError::Bind(_)
            | PlanningError::Mixed { .. }
            | PlanningError::Overlap { .. }
            | PlanningError::Output(_)
            | PlanningError::Sink(_)
            | PlanningError::Budget(_),
        ) => fault::Fault::Refused { message },
        TaskError::Fault(error) => of_attempt(error, message, memory_bytes),
    };
    fault.into()
}

fn of_attempt(error: Fault, message: String, memory_bytes: u64) -> fault::Fault {
    match error {
        Fault::BadRecord(bad) => fault::Fault::BadRecord(Box::new(of_record(*bad))),
        Fault::ReduceFailed { key, cause } => fault::Fault::ReduceFailed { key, cause: cut(cause) },
        Fault::Panicked { phase, cause } => fault::Fault::Panicked { phase, cause: cut(cause) },
        Fault::DiskFull { path, .. } => fault::Fault::DiskFull { path },
        Fault::DiskFailed { path, detail } => fault::Fault::DiskFailed { path, cause: cut(detail) },
        Fault::OutOfMemory { .. } => fault::Fault::OutOfMemory { limit_bytes: memory_bytes, peak_bytes: crate::local::peak_memory_bytes() },
        Fault::Input(error) => of_input(error),
        Fault::Unwritable { path, detail } => fault::Fault::Unwritable { path, cause: cut(detail) },
        Fault::OutputLost { output, damaged, .. } => {
            // What was seen of it is for the log.
            eprintln!("{message}");
            fault::Fault::OutputLost { output, damaged }
        }
        Fault::Interrupted => fault::Fault::Cancelled,
    }
}

fn of_record(BadRecord { shard, record, offset, file, cause, mut bytes }: BadRecord) -> fault::BadRecord {
    bytes.truncate(RECORD_BEGINNING);
    fault::BadRecord { shard, record, offset, file, cause: cut(cause), beginning: bytes }
}

fn of_input(error: ReadError) -> fault::Fault {
    let (path, cause): (PathBuf, String) = (error.path().to_owned(), told(&error));
    match error {
        ReadError::Open { source, .. } => fault::Fault::InputMissing { path, cause: source.to_string() },
        ReadError::Io { .. } => fault::Fault::InputMissing { path, cause },
        ReadError::Changed { .. } => fault::Fault::InputChanged { path },
        ReadError::RecordTooLong { .. }
        | ReadError::FieldTooLong { .. }
        | ReadError::Truncated { .. }
        | ReadError::Corrupt { .. }
        | ReadError::Bomb { .. }
        | ReadError::WindowTooLarge { .. }
        | ReadError::PageTooLarge { .. }
        | ReadError::Malformed { .. } => fault::Fault::InputMalformed { path, cause },
        ReadError::NoRoom { .. } | ReadError::Unsupported { .. } => fault::Fault::Refused { message: cause },
    }
}

/// An error in words, with what has caused it.
fn told(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_message = cause.to_string();
        if !message.ends_with(&cause_message) {
            message = format!("{message}: {cause_message}");
        }
        source = cause.source();
    }
    cut(message)
}

fn cut(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARACTERS) {
        message.truncate(end);
    }
    message
}
