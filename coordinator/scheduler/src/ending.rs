//! How a failed job's end is shown: the failure card's contents.

use std::ops::Range;

use shardmill_protocol::view::EndingView;
use shardmill_protocol::{Fault, Task, WorkerId};

use crate::fact::{Ending, Failed};

/// Why a job has failed; nothing if it has not.
pub(crate) fn ending_view(ending: &Ending) -> Option<EndingView> {
    let Ending::Failed(failed) = ending else { return None };
    let view = |kind: &str, message: String| EndingView {
        kind: kind.to_owned(),
        message,
        fault: None,
        suspects: Vec::new(),
        files: Vec::new(),
        task: None,
        attempt: None,
        worker: None,
        attempts: 0,
        refused: false,
    };
    Some(match &**failed {
        Failed::Attempt { task, attempt, worker, attempts, failure } => EndingView {
            fault: Some(failure.fault.clone()),
            suspects: failure.suspects.to_vec(),
            files: failure.files.to_vec(),
            task: Some(task.clone()),
            attempt: Some(*attempt),
            worker: Some(*worker),
            attempts: *attempts,
            refused: matches!(failure.fault, Fault::Refused { .. }),
            ..view(failure.fault.kind(), failure.fault.to_string())
        },
        Failed::NotDeterministic { shards, first, second } => EndingView {
            task: Some(Task::Map(shards.clone())),
            ..view(
                "not deterministic",
                format!("shards {}..{} were mapped twice, with different results: {first} and {second}", shards.start, shards.end),
            )
        },
        Failed::Poison { task, workers } => EndingView {
            task: Some(task.clone()),
            worker: workers.last().copied(),
            attempts: workers.len() as u32,
            ..view("poison", format!("{} workers were lost while they ran {task}", workers.len()))
        },
        Failed::TooManyAttempts { attempts, last } => EndingView {
            fault: Some(last.fault.clone()),
            suspects: last.suspects.to_vec(),
            files: last.files.to_vec(),
            ..view("too many attempts", format!("{attempts} attempts have failed; the last one: {}", last.fault))
        },
        Failed::TooManyBadRecords { records, limit } => {
            view("too many bad records", format!("{records} records are bad, {limit} are allowed"))
        }
        Failed::TooLittleMemory { needed_bytes } => {
            view("too little memory", format!("no worker has the {needed_bytes} bytes of memory that one thread needs"))
        }
        Failed::Staging { cause } => view("staging", cause.clone()),
        Failed::Publish { cause } => view("publish", format!("the output cannot be made visible: {cause}")),
        Failed::OutputDamaged { output, shards, workers } => EndingView {
            fault: Some(Fault::OutputLost { output: *output, damaged: true }),
            task: Some(Task::Map(shards.clone())),
            attempt: Some(*output),
            worker: workers.last().copied(),
            attempts: workers.len() as u32,
            ..view("output damaged", damaged_each_time(shards, workers))
        },
    })
}

/// Names every worker: if it is always the same one, its disk is to blame.
fn damaged_each_time(shards: &Range<u32>, workers: &[WorkerId]) -> String {
    let on: Vec<String> = workers.iter().map(ToString::to_string).collect();
    let (Range { start, end }, times) = (shards, workers.len());
    format!("shards {start}..{end} were mapped {times} times, and each time the output was damaged; on workers {}", on.join(", "))
}
