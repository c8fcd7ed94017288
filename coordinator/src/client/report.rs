//! How a job has ended: the summary that a local run prints, or the card of its failure, and the exit code.

use std::path::Path;

use shardmill_datasets::stdout::print_json;
use shardmill_protocol::view::{JobPhase, JobStatus};

use super::connect::Find;
use super::progress::Say;
use super::text::{bytes, count, plain};
use super::{Format, Shown, card};

/// Reports how a job has ended; the answer is the exit code.
pub(crate) fn report(status: &JobStatus, find: &Find, say: &Say, shown: Shown) -> u8 {
    if shown.format == Format::Json {
        print_json(status);
    }
    match status.phase {
        JobPhase::Succeeded if shown.format == Format::Text => summary(status).lines().for_each(|line| say.line(line)),
        JobPhase::Succeeded => {}
        JobPhase::Cancelled => say.always("cancelled: no output was written"),
        _ => say.always(card::card(status, find).trim_end()),
    }
    exit_code(status)
}

/// The exit code of a job that has ended.
pub(crate) fn exit_code(status: &JobStatus) -> u8 {
    match status.phase {
        JobPhase::Cancelled => 5,
        JobPhase::Failed if status.ending.as_ref().is_some_and(|ending| ending.refused) => 2,
        JobPhase::Failed => 1,
        _ => 0,
    }
}

/// What was done, as a local run says it.
fn summary(status: &JobStatus) -> String {
    let tally = &status.tally;
    let seconds = status.elapsed_ms as f64 / 1000.0;
    let mut lines = vec![
        format!("records {} in, {} groups, {} rows out", tally.records, tally.groups, status.output_records),
        format!(
            "bytes   {} in, {} out, {} spilled in {} runs",
            bytes(status.plan.as_ref().map_or(tally.bytes, |plan| plan.input_bytes)),
            bytes(status.output_bytes),
            bytes(tally.spilled_bytes),
            tally.spilled_runs
        ),
    ];
    lines.extend(tally.counters.iter().map(|(name, count)| format!("counter {}: {count}", plain(name))));
    if status.bad_records > 0 {
        let place = Path::new(&status.output).join("_quarantine");
        lines.push(format!("bad     {} set aside in {}", count(status.bad_records, "record"), place.display()));
    }
    if status.retries > 0 || status.workers_lost > 0 {
        lines.push(format!("retries {}, {} lost", status.retries, count(status.workers_lost, "worker")));
    }
    let rate = (tally.bytes as f64 / seconds.max(1e-3)) as u64;
    lines.push(format!("time    {seconds:.3} s, {}/s, {} memory at most in one job process", bytes(rate), bytes(tally.peak_memory_bytes)));
    lines.push(format!("output  {}", plain(&status.output)));
    lines.join("\n")
}
