//! Failure cards: what a person reads when a run has failed, and the exit code that goes with it.
//!
//! A card names kind, place and cause, and ends with what to do next.

use std::error::Error;
use std::fmt::Write;

use shardmill_datasets::{ReadError, line_of};

use crate::fault::{BadRecord, Fault};
use crate::local::RunError;
use crate::planning::PlanningError;

/// How much of a record is shown.
const SHOWN_BYTES: usize = 160;

/// The exit code of a failed run.
pub(crate) fn exit_code(error: &RunError) -> u8 {
    match error {
        RunError::Fault(Fault::Interrupted) | RunError::Planning(PlanningError::Interrupted) => 130,
        error if error.is_preflight() => 2,
        _ => 1,
    }
}

/// The card for a failed run.
pub(crate) fn card(error: &RunError) -> String {
    match error {
        RunError::Fault(Fault::BadRecord(bad)) => bad_record(bad),
        RunError::Fault(Fault::Interrupted) | RunError::Planning(PlanningError::Interrupted) => {
            "interrupted: temporary files are removed, no output was written\n".to_owned()
        }
        error => {
            let mut card = format!("error: {error}\n");
            let mut source = error.source();
            while let Some(cause) = source {
                let _ = writeln!(card, "  caused by: {cause}");
                source = cause.source();
            }
            if let Some(next) = next_step(error) {
                let _ = writeln!(card, "  next: {next}");
            }
            card
        }
    }
}

/// What to do about it, where that is known.
fn next_step(error: &RunError) -> Option<&'static str> {
    match error {
        RunError::Fault(Fault::DiskFull { .. }) => Some("make room, or spill elsewhere with --temp-dir"),
        // It says itself what would do.
        RunError::Fault(Fault::Input(ReadError::NoRoom { .. } | ReadError::Bomb { .. })) => None,
        RunError::Fault(Fault::Input(ReadError::RecordTooLong { .. } | ReadError::FieldTooLong { .. })) => Some(
            "allow longer records with --max-record-bytes; in CSV, look for a quote there that is never closed, or give --csv-quotes none",
        ),
        RunError::Fault(Fault::Input(_)) => Some("nothing was written; run it again on an input that stays as it is"),
        RunError::Temp { .. } => Some("choose another place with --temp-dir"),
        _ => None,
    }
}

fn bad_record(bad: &BadRecord) -> String {
    let mut card = format!("error: a bad record in {}\n", bad.file.display());
    let line = line_of(&bad.file, bad.offset).map(|line| format!("line {line}, ")).unwrap_or_default();
    let _ = writeln!(card, "  where   {line}byte {}; record {} of shard {}", bad.offset, bad.record, bad.shard);
    if !bad.bytes.is_empty() {
        let shown = &bad.bytes[..bad.bytes.len().min(SHOWN_BYTES)];
        let more = if bad.bytes.len() > SHOWN_BYTES { " …" } else { "" };
        let _ = writeln!(card, "  record  {:?}{more}", String::from_utf8_lossy(shown));
    }
    let _ = writeln!(card, "  cause   {}", bad.cause);
    card + "  next    --max-bad-records N sets up to N such records aside, in _quarantine/ beside the parts\n"
}
