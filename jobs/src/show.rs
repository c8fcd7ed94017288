//! What a person sees of a run: the plan, a bar for each phase, and a summary.
//!
//! Bars are drawn on a terminal only; elsewhere a line per phase is written. Nothing of this is seen by the engine.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use shardmill_datasets::Plan;

use crate::engine::Progress;
use crate::job::MapReduce;
use crate::local::{Phase, Planned, Summary};

/// What is told where spilled data would take memory, of which the budget knows nothing.
const IN_MEMORY: &str = "the output's disk is kept in memory, and so is what is spilled beside it; --temp-dir puts that elsewhere";

/// Writes a line for people, if somebody still reads them: no run fails because nobody looks at it.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Shows a run.
pub(crate) struct Show {
    progress: Arc<Progress>,
    is_quiet: bool,
    is_verbose: bool,
    is_terminal: bool,
    bar: Option<Bar>,
}

/// A bar, and the thread that moves it.
struct Bar {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Show {
    pub(crate) fn new(progress: Arc<Progress>, is_quiet: bool, is_verbose: bool) -> Self {
        Self { progress, is_quiet, is_verbose, is_terminal: std::io::stderr().is_terminal(), bar: None }
    }

    /// One line on what will be done; with `-v` the whole plan.
    pub(crate) fn planned<J: MapReduce>(&self, planned: &Planned<J>) {
        if self.is_verbose {
            self.explain(planned);
        } else if !self.is_quiet {
            let plan = &planned.plan.input;
            say!(
                "plan    {} in {}, {}, {}",
                HumanBytes(plan.input_bytes),
                count(plan.files.len() as u64, "file"),
                count(plan.shards.len() as u64, "shard"),
                count(plan.partitions.into(), "partition")
            );
        }
        // Beyond any budget, so also said to those who want to hear little.
        if !self.is_verbose && planned.spills_into_memory() {
            say!("warning {IN_MEMORY}");
        }
    }

    /// The whole plan.
    pub(crate) fn explain<J: MapReduce>(&self, planned: &Planned<J>) {
        say!("{}", planned.plan.to_string().trim_end());
        say!(
            "  memory      {}, of which {} to collect in and {} to merge in for each thread",
            HumanBytes(planned.budget.total_bytes as u64),
            HumanBytes(planned.budget.collect_bytes as u64),
            HumanBytes(planned.budget.merge_bytes as u64)
        );
        if planned.spills_into_memory() {
            say!("  warning     {IN_MEMORY}");
        }
    }

    /// A phase begins.
    pub(crate) fn begin(&mut self, phase: Phase, plan: &Plan) {
        self.end();
        if self.is_quiet {
            return;
        }
        let (name, length, template) = match phase {
            Phase::Map => ("map", plan.input_bytes, "map     {bar:30} {bytes:>10} of {total_bytes}, {bytes_per_sec}, {eta} left{msg}"),
            Phase::Reduce => (
                "reduce",
                self.progress.collected_bytes.load(Relaxed),
                "reduce  {bar:30} {bytes:>10} of {total_bytes}, {bytes_per_sec}, {eta} left{msg}",
            ),
            Phase::Publish => return,
        };
        if !self.is_terminal {
            say!("{name}");
            return;
        }
        let style = ProgressStyle::with_template(template).expect("the templates above are valid");
        let bar = ProgressBar::new(length).with_style(style);
        let progress = Arc::clone(&self.progress);
        let update = move |bar: &ProgressBar| {
            let done = match phase {
                Phase::Map => progress.input_bytes.load(Relaxed),
                _ => progress.reduced_bytes.load(Relaxed),
            };
            let spilled = progress.spilled_bytes.load(Relaxed);
            if spilled > 0 {
                bar.set_message(format!(", {} spilled", HumanBytes(spilled)));
            }
            // Last, as moving is what draws it.
            bar.set_position(done.min(length));
        };
        // A short phase is seen, too.
        update(&bar);
        bar.tick();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            // Woken by the end of the phase; until then it looks ten times a second.
            while stopped.recv_timeout(Duration::from_millis(100)).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
                update(&bar);
            }
            bar.finish_and_clear();
        });
        self.bar = Some(Bar { stop, thread });
    }

    /// The current phase has ended.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            drop(bar.stop);
            // A bar that panicked is no reason to fail.
            let _ = bar.thread.join();
        }
    }

    /// What was done.
    pub(crate) fn summary(&self, summary: &Summary) {
        if self.is_quiet {
            return;
        }
        let seconds = summary.seconds.max(1e-9);
        say!("records {} in, {} groups, {} rows out", summary.input_records, summary.groups, summary.output_records);
        say!(
            "bytes   {} in, {} out, {} spilled in {}",
            HumanBytes(summary.input_bytes),
            HumanBytes(summary.output_bytes),
            HumanBytes(summary.spilled_bytes),
            count(summary.spilled_runs, "run")
        );
        for (name, count) in &summary.counters {
            say!("counter {name}: {count}");
        }
        if summary.bad_records > 0 {
            let place = summary.output.join("_quarantine");
            say!("bad     {} set aside in {}", count(summary.bad_records, "record"), place.display());
        }
        say!(
            "time    {:.3} s, {}/s, {} memory at most",
            summary.seconds,
            HumanBytes((summary.input_bytes as f64 / seconds) as u64),
            HumanBytes(summary.peak_memory_bytes)
        );
        if let Some(skew) = &summary.skew {
            say!("warning {skew}");
        }
        if self.is_verbose {
            let phases: Vec<String> = ["plan", "map", "reduce", "publish"]
                .into_iter()
                .filter_map(|phase| summary.phases.get(phase).map(|seconds| format!("{phase} {seconds:.3} s")))
                .collect();
            say!("phases  {}", phases.join(", "));
        }
        say!("output  {}", summary.output.display());
    }
}

/// A number of things: `1 file`, `2 files`.
fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
