//! What a person sees of a job that runs: a bar for each phase, and beside it what else is worth knowing.
//!
//! Bars are drawn on a terminal only; elsewhere a line per phase, and one for what went wrong.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{JobPhase, JobStatus};

use super::text::{bytes, count, plain};

/// Says things on stderr without tearing bars that are drawn there.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    bars: Option<MultiProgress>,
    is_quiet: bool,
    pub(crate) is_verbose: bool,
}

impl Say {
    pub(crate) fn new(is_quiet: bool, is_verbose: bool) -> Self {
        let bars = (!is_quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { bars, is_quiet, is_verbose }
    }

    /// Says something, unless nothing but errors is wanted.
    pub(crate) fn line(&self, text: &str) {
        if !self.is_quiet {
            self.always(text);
        }
    }

    /// Says something in any case.
    pub(crate) fn always(&self, text: &str) {
        match &self.bars {
            // Also where bars cannot be drawn, as on a terminal without a width.
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// A bar for bytes that are sent.
    pub(crate) fn transfer(&self, name: &str, length: u64) -> Transfer {
        let template = format!("{name:<7} {{bar:30}} {{bytes:>10}} of {{total_bytes}}, {{bytes_per_sec}}, {{eta}} left");
        Transfer(self.bars.as_ref().map(|bars| bars.add(bar(length, &template))))
    }
}

/// A bar for bytes that are sent, gone when dropped.
#[derive(Debug)]
pub(crate) struct Transfer(Option<ProgressBar>);

impl Transfer {
    pub(crate) fn at(&self, sent: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(sent);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    ProgressBar::new(length).with_style(ProgressStyle::with_template(template).expect("the templates here are valid"))
}

/// Shows one job.
pub(crate) struct Progress<'s> {
    say: &'s Say,
    phase: Option<JobPhase>,
    plan_was_shown: bool,
    lost: u64,
    no_workers_was_said: bool,
    /// So many retries are the next to be told: twice as many each time.
    retries_to_tell: u64,
    drawn: Option<Drawn>,
}

/// The bar of the current phase, and a line below it.
struct Drawn {
    bar: ProgressBar,
    notes: ProgressBar,
}

impl<'s> Progress<'s> {
    pub(crate) fn new(say: &'s Say) -> Self {
        Self { say, phase: None, plan_was_shown: false, lost: 0, no_workers_was_said: false, retries_to_tell: 1, drawn: None }
    }

    /// Shows how the job stands now.
    pub(crate) fn show(&mut self, status: &JobStatus) {
        self.show_plan(status);
        if self.phase != Some(status.phase) {
            self.begin(status);
        }
        if status.workers_lost > self.lost {
            self.lost = status.workers_lost;
            self.say.line(&format!("{} lost so far; what is missing is done again", count(status.workers_lost, "worker")));
        }
        if status.retries >= self.retries_to_tell {
            self.retries_to_tell = status.retries * 2;
            let again = count(status.retries, "attempt");
            self.say.line(&format!("{again} failed so far, and done again; why: coordinator job {}", status.job));
        }
        let waits = status.workers_live == 0;
        if waits && !self.no_workers_was_said {
            self.say.line("no workers: the job waits until one comes (`worker --join FILE`)");
        }
        self.no_workers_was_said = waits;
        if let Some(drawn) = &self.drawn {
            let (done, all) = extent(status);
            drawn.bar.set_length(all.max(1));
            drawn.bar.set_position(done.min(all));
            drawn.notes.set_message(notes(status));
        }
    }

    /// No more is shown.
    pub(crate) fn end(&mut self) {
        if let Some(Drawn { bar, notes }) = self.drawn.take() {
            bar.finish_and_clear();
            notes.finish_and_clear();
        }
    }

    /// One line on what will be done; with `-v` the whole plan.
    fn show_plan(&mut self, status: &JobStatus) {
        let Some(plan) = status.plan.as_ref().filter(|_| !self.plan_was_shown) else { return };
        self.plan_was_shown = true;
        let (files, shards, partitions) =
            (count(plan.files, "file"), count(plan.shards.into(), "shard"), count(plan.partitions.into(), "partition"));
        self.say.line(&format!("plan    {} in {files}, {shards}, {partitions}", bytes(plan.input_bytes)));
        if self.say.is_verbose {
            self.say.line(plain(&plan.text).trim_end());
        }
    }

    fn begin(&mut self, status: &JobStatus) {
        self.end();
        self.phase = Some(status.phase);
        let Some(bars) = &self.say.bars else {
            if !matches!(status.phase, JobPhase::Planning) {
                self.say.line(verb(status.phase));
            }
            return;
        };
        let measure = match status.phase {
            JobPhase::Mapping | JobPhase::Reducing => "{bar:30} {bytes:>10} of {total_bytes}, {bytes_per_sec}, {eta} left",
            JobPhase::Planning => "{spinner} {pos} of {len} surveys",
            _ => "{spinner}",
        };
        let bar = bars.add(bar(1, &format!("{:<7} {measure}", verb(status.phase))));
        let notes = bars.add(ProgressBar::new_spinner().with_style(ProgressStyle::with_template("        {msg}").expect("it is valid")));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.drawn = Some(Drawn { bar, notes });
    }
}

fn verb(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Planning => "plan",
        JobPhase::Mapping => "map",
        JobPhase::Reducing => "reduce",
        JobPhase::Publishing => "publish",
        JobPhase::Succeeded | JobPhase::Failed | JobPhase::Cancelled => "end",
    }
}

/// How much of the current phase is done, and how much there is: bytes where they are known, else units.
pub(crate) fn extent(status: &JobStatus) -> (u64, u64) {
    let bytes = |kind| status.bytes.get(&kind).copied().unwrap_or(0);
    match status.phase {
        JobPhase::Planning => status.units.get(&TaskKind::Survey).copied().unwrap_or((0, 0)),
        JobPhase::Mapping => (bytes(TaskKind::Map), status.plan.as_ref().map_or(0, |plan| plan.input_bytes)),
        JobPhase::Reducing => (bytes(TaskKind::Reduce), status.shuffle_bytes),
        JobPhase::Publishing | JobPhase::Succeeded | JobPhase::Failed | JobPhase::Cancelled => (1, 1),
    }
}

/// What else is worth knowing, where there is something.
fn notes(status: &JobStatus) -> String {
    let mut notes = vec![format!("{} on {}", count(status.running, "attempt"), count(status.workers_live, "worker"))];
    let mut note = |number: u64, text: String| {
        if number > 0 {
            notes.push(text);
        }
    };
    note(status.workers_lost, format!("{} lost", status.workers_lost));
    note(status.retries, format!("{} tried again", status.retries));
    note(status.spilled_bytes, format!("{} spilled", bytes(status.spilled_bytes)));
    note(status.bad_records, count(status.bad_records, "bad record"));
    notes.join(", ")
}
