//! Failure cards: what a person reads when a job has failed.
//!
//! A card names kind, place and cause, says which task it was, where and how often it was tried, and ends with what to do next.

use std::fmt::Write;
use std::path::Path;

use shardmill_datasets::{LastingClaim, line_of};
use shardmill_protocol::fault::BadRecord;
use shardmill_protocol::view::{EndingView, JobStatus};
use shardmill_protocol::{Fault, Suspect, Task};

use super::connect::Find;
use super::text::{count, plain};

/// How much of a record is shown.
const SHOWN_BYTES: usize = 160;
/// So many places are shown where a process may have come down.
const SHOWN_PLACES: usize = 8;
/// What to do about records.
const SET_ASIDE: &str = "--max-bad-records N sets up to N such records aside, in _quarantine/ beside the parts";

/// The card of a job that has failed.
pub(crate) fn card(status: &JobStatus, find: &Find) -> String {
    let Some(ending) = &status.ending else {
        return format!("error: job {} has failed\n", status.job);
    };
    let mut card = match &ending.fault {
        Some(Fault::BadRecord(bad)) => bad_record(bad),
        _ => format!("error: {}\n{}", plain(&ending.message), places(ending)),
    };
    if ending.refused {
        return card;
    }
    let _ = writeln!(card, "  kind    {}", plain(&ending.kind));
    if let Some(task) = task(ending) {
        let _ = writeln!(card, "  task    {task}");
    }
    if let Some(next) = ending.fault.as_ref().and_then(next_step).or_else(|| (!ending.files.is_empty()).then_some(SET_ASIDE)) {
        let _ = writeln!(card, "  next    {next}");
    }
    if ending.kind == "publish" {
        let staging = LastingClaim::taken(Path::new(&status.output), &status.job.to_string()).staging().display().to_string();
        let _ = writeln!(card, "  kept    {}; remove it when it is of no use any more", plain(&staging));
    }
    if find.is_fleeting {
        return card;
    }
    let (job, flag) = (status.job, find.flag());
    let logs = ending.attempt.map(|attempt| format!(" {}", attempt.directory())).unwrap_or_default();
    let _ = writeln!(card, "  more    coordinator job {job}{flag}");
    let _ = writeln!(card, "          coordinator logs {job}{logs}{flag}");
    card
}

fn task(ending: &EndingView) -> Option<String> {
    let mut task = ending.task.as_ref()?.to_string();
    if let Some(attempt) = ending.attempt {
        let _ = write!(task, ", attempt {}", attempt.directory());
    }
    if let Some(worker) = ending.worker {
        let _ = write!(task, " on worker {worker}");
    }
    if ending.attempts > 1 {
        let _ = write!(task, ", tried {}", count(ending.attempts.into(), "time"));
    }
    Some(task)
}

/// What the threads of a process that died were at: all of it, as nobody knows which of them brought it down.
fn places(ending: &EndingView) -> String {
    let mut places = String::new();
    for (number, suspect) in ending.suspects.iter().enumerate().take(SHOWN_PLACES) {
        let label = if number == 0 { "where" } else { "or" };
        let place = match ending.files.get(number) {
            Some(file) => format!("{}, {}", plain(file), place_in(Path::new(file), suspect)),
            None if matches!(ending.task, Some(Task::Reduce(_))) => format!("group {} of partition {}", suspect.record, suspect.unit),
            None => format!("record {} of shard {}", suspect.record, suspect.unit),
        };
        let _ = writeln!(places, "  {label:<8}{place}");
    }
    places
}

/// Where in its file a record is.
fn place_in(file: &Path, Suspect { unit, record, offset }: &Suspect) -> String {
    let line = line_of(file, *offset).map(|line| format!("line {line}, ")).unwrap_or_default();
    format!("{line}byte {offset}; record {record} of shard {unit}")
}

fn bad_record(bad: &BadRecord) -> String {
    let mut card = format!("error: a bad record in {}\n", plain(&bad.file.display().to_string()));
    let place = place_in(&bad.file, &Suspect { unit: bad.shard, record: bad.record, offset: bad.offset });
    let _ = writeln!(card, "  where   {place}");
    if !bad.beginning.is_empty() {
        let shown = &bad.beginning[..bad.beginning.len().min(SHOWN_BYTES)];
        let more = if bad.beginning.len() > SHOWN_BYTES { " …" } else { "" };
        let _ = writeln!(card, "  record  {:?}{more}", String::from_utf8_lossy(shown));
    }
    let _ = writeln!(card, "  cause   {}", plain(&bad.cause));
    card
}

/// What to do about it, where that is known.
fn next_step(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::BadRecord(_) => Some(SET_ASIDE),
        Fault::OutOfMemory { .. } => Some("give workers more --memory, or fewer --threads"),
        Fault::InputChanged { .. } => Some("nothing was written; run it again on an input that stays as it is"),
        Fault::OutputUnseen { .. } => Some("let the worker's machine see it at the same path, or choose an output that it sees"),
        Fault::DiskFull { .. } => Some("make room on the workers' disks, or give them another --dir"),
        Fault::OutputLost { damaged: true, .. } => {
            Some("if it is one worker every time, drain it, as its disk or memory is bad; if not, look at the network between them")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::report::exit_code;
    use shardmill_protocol::view::JobPhase;
    use shardmill_protocol::{AttemptId, Epoch, JobId, WorkerId};

    fn failed(fault: Fault, refused: bool) -> JobStatus {
        let job = JobId(1);
        JobStatus {
            job,
            name: "words".to_owned(),
            output: "/out".to_owned(),
            phase: JobPhase::Failed,
            elapsed_ms: 1500,
            version: 9,
            plan: None,
            units: Default::default(),
            bytes: Default::default(),
            shuffle_bytes: 0,
            running: 0,
            retries: 0,
            spilled_bytes: 0,
            bad_records: 0,
            workers_live: 1,
            workers_lost: 0,
            tally: Default::default(),
            output_records: 0,
            output_bytes: 0,
            ending: Some(EndingView {
                kind: fault.kind().to_owned(),
                message: fault.to_string(),
                fault: Some(fault),
                suspects: vec![],
                files: vec![],
                task: Some(Task::Map(0..5)),
                attempt: Some(AttemptId { job, epoch: Epoch(1), number: 7 }),
                worker: Some(WorkerId(2)),
                attempts: 3,
                refused,
            }),
            is_swept: true,
        }
    }

    #[test]
    fn a_bad_record_is_shown_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("in.txt");
        std::fs::write(&file, "one\ntwo\nth\u{1b}ree\n").unwrap();
        let bad = BadRecord {
            shard: 4,
            record: 2,
            offset: 8,
            file: file.clone(),
            cause: "it has\u{1b}[31m".to_owned(),
            beginning: b"th\x1bree".to_vec(),
        };
        let status = failed(Fault::BadRecord(Box::new(bad)), false);
        let expected = format!(
            r#"error: a bad record in {}
  where   line 3, byte 8; record 2 of shard 4
  record  "th\u{{1b}}ree"
  cause   it has\u{{1b}}[31m
  kind    bad record
  task    map 0..5, attempt 1-7 on worker 00000000000000000000000002, tried 3 times
  next    --max-bad-records N sets up to N such records aside, in _quarantine/ beside the parts
  more    coordinator job 00000000000000000000000001
          coordinator logs 00000000000000000000000001 1-7
"#,
            file.display()
        );
        assert_eq!(card(&status, &Find::default()), expected);
        assert_eq!(exit_code(&status), 1);
    }

    #[test]
    fn what_the_threads_of_a_dead_process_were_at_is_shown_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("in.txt");
        std::fs::write(&file, "one\ntwo\nthree\n").unwrap();
        let mut status = failed(Fault::Signalled { signal: 6, stderr: String::new() }, false);
        let ending = status.ending.as_mut().unwrap();
        ending.suspects = vec![Suspect { unit: 0, record: 2, offset: 8 }, Suspect { unit: 4, record: 0, offset: 4096 }];
        ending.files = vec![file.display().to_string(), "/in/gone".to_owned()];
        let shown = card(&status, &Find::default());
        let expected = format!(
            "  where   {}, line 3, byte 8; record 2 of shard 0\n  or      /in/gone, byte 4096; record 0 of shard 4\n  kind",
            file.display()
        );
        assert!(shown.contains(&expected) && shown.contains("  next    --max-bad-records N"), "{shown}");
        let ending = status.ending.as_mut().unwrap();
        (ending.task, ending.files) = (Some(Task::Reduce(2..3)), vec![]);
        assert!(card(&status, &Find::default()).contains("  where   group 2 of partition 0\n"));
    }

    #[test]
    fn what_was_refused_before_any_work_is_said_in_one_line_as_by_a_local_run() {
        let status = failed(Fault::Refused { message: "there is no column x".to_owned() }, true);
        assert_eq!(card(&status, &Find::default()), "error: there is no column x\n");
        assert_eq!(exit_code(&status), 2);
    }
}
