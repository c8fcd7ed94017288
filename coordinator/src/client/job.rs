//! `job`: shows a job in full: phases with their skew, attempts with their faults, counters.

use clap::Args;
use shardmill_datasets::stdout::{print, print_json};
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::{AttemptState, AttemptView, JobPhase, JobView, PhaseView, Spread};

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::Say;
use super::text::{bytes, count, duration, plain, table};
use super::{Format, Shown, card};

/// Attempts that are listed unless all are asked for.
const LISTED: usize = 30;
/// The longest part of a fault's text that stands in the list.
const FAULT_CHARACTERS: usize = 100;

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Job {
    #[command(flatten)]
    find: Find,
    /// The job's id, or its beginning.
    job: String,
    /// List all attempts that the coordinator remembers, not only those that run or failed and the latest.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Job {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Read, &Say::new(false, false)).await?;
        let job = coordinator.find_job(&self.job).await?;
        let view = coordinator.patiently(async |client| client.job(within(CALL), job).await).await?;
        match self.shown.format {
            Format::Json => print_json(&view),
            Format::Text => print(show(&view, &self.find, self.all)),
        }
        Ok(0)
    }
}

/// The view as text.
fn show(view: &JobView, find: &Find, all: bool) -> String {
    let status = &view.status;
    let mut out = vec![
        format!("job     {} ({})", status.job, plain(&status.name)),
        format!("phase   {}, {}", status.phase, duration(status.elapsed_ms)),
        format!("output  {}", plain(&status.output)),
    ];
    if let Some(plan) = &status.plan {
        let (files, shards) = (count(plan.files, "file"), count(plan.shards.into(), "shard"));
        out.push(format!("plan    {} in {files}, {shards}, {}", bytes(plan.input_bytes), count(plan.partitions.into(), "partition")));
    }
    out.push(format!(
        "workers {} live, {} lost; {} running, {} tried again",
        status.workers_live,
        status.workers_lost,
        count(status.running, "attempt"),
        status.retries
    ));
    out.extend(status.tally.counters.iter().map(|(name, count)| format!("counter {}: {count}", plain(name))));
    if status.bad_records > 0 {
        out.push(format!("bad     {} set aside", count(status.bad_records, "record")));
    }
    out.extend(
        view.set_aside.iter().map(|record| format!("aside   record {} of shard {} brings its process down", record.record, record.shard)),
    );
    out.extend(view.lost.iter().map(|range| format!("lost    the output of map {}..{}; it was mapped again", range.start, range.end)));

    let header = ["PHASE", "UNITS", "TASKS", "BYTES/TASK", "TIME/TASK", "AGAIN", "CHARGES"];
    out.push(String::new());
    out.push(table(header, view.phases.iter().map(phase)));
    let attempts = listed(&view.attempts, all);
    if !attempts.is_empty() {
        out.push(String::new());
        out.push(table(["ATTEMPT", "TASK", "WORKER", "STATE", "TIME", "DONE", "FAULT"], attempts.iter().map(|view| attempt(view))));
        let hidden = view.attempt_count.saturating_sub(attempts.len() as u64);
        if hidden > 0 {
            out.push(format!("and {} more", count(hidden, "attempt")));
        }
    }
    if status.phase == JobPhase::Failed {
        out.push(String::new());
        out.push(card::card(status, find).trim_end().to_owned());
    }
    out.join("\n") + "\n"
}

fn phase(view: &PhaseView) -> [String; 7] {
    let charges: u64 = view.charges.iter().map(|(_, charges)| u64::from(*charges)).sum();
    [
        view.kind.to_string(),
        format!("{} of {}", view.done, view.units),
        view.tasks.to_string(),
        spread(view.bytes, bytes),
        spread(view.elapsed_ms, duration),
        view.mapped_again.to_string(),
        charges.to_string(),
    ]
}

/// Least, middle and most.
fn spread(spread: Spread, shown: fn(u64) -> String) -> String {
    [spread.min, spread.median, spread.max].map(shown).join(" · ")
}

/// Those that run or failed, and the latest of the others.
fn listed(attempts: &[AttemptView], all: bool) -> Vec<&AttemptView> {
    let is_of_interest = |view: &AttemptView| !matches!(view.state, AttemptState::Accepted);
    let plain_ones = attempts.iter().filter(|view| !is_of_interest(view)).count();
    let mut skipped = if all { 0 } else { plain_ones.saturating_sub(LISTED) };
    let mut listed = Vec::new();
    for view in attempts {
        if skipped > 0 && !is_of_interest(view) {
            skipped -= 1;
        } else {
            listed.push(view);
        }
    }
    listed
}

fn attempt(view: &AttemptView) -> [String; 7] {
    let state = match view.state {
        AttemptState::Running if view.backup => "backup",
        AttemptState::Running => "running",
        AttemptState::Sealed => "sealed",
        AttemptState::Accepted => "accepted",
        AttemptState::Lost => "output lost",
        AttemptState::Failed => "failed",
        AttemptState::Ended => "ended",
    };
    let done = match (view.progress.bytes, view.bytes) {
        (done, 0) => bytes(done),
        // How far it was is told by heartbeats, and the last one may have come long before the end.
        (_, all) if matches!(view.state, AttemptState::Accepted | AttemptState::Lost) => bytes(all),
        (done, all) => format!("{} of {}", bytes(done), bytes(all)),
    };
    let fault = view.failure.as_ref().map_or_else(String::new, |failure| failure.fault.to_string());
    let mut short: String = fault.lines().next().unwrap_or_default().chars().take(FAULT_CHARACTERS).collect();
    if short.len() < fault.len() {
        short.push('…');
    }
    [view.attempt.directory(), view.task.to_string(), view.worker.to_string(), state.to_owned(), duration(view.elapsed_ms), done, short]
}
