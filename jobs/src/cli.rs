//! What a job's executable does when it is called: `run`, `describe`, what clusters ask of it, and how it ends.
//!
//! Exit codes: 0 done · 1 the job failed · 2 wrong usage, or refused before any work · 130 interrupted.
//! stdout is for data (`--format json`), stderr for narration.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shardmill_datasets::RunRequest;
use shardmill_datasets::request::parse_bytes;
use shardmill_datasets::stdout::print_json;
use shardmill_protocol::VERSION;

use crate::card;
use crate::combine::Combine;
use crate::engine::{Progress, Tight};
use crate::job::MapReduce;
use crate::local::{Options, Planned};
use crate::serve;
use crate::shape::Shape;
use crate::show::Show;

/// Runs a job's executable: reads the command line, does what it says, and returns the exit code.
///
/// This is all that a job crate's `main` has to do:
/// ```no_run
/// # use shardmill::prelude::*;
/// # #[derive(Args, Serialize, Deserialize)] struct Count {}
/// # #[derive(Serialize, Deserialize)] struct Counted { lines: u64 }
/// # impl MapReduce for Count {
/// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
/// #     fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
/// #     fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { lines: lines.sum() }) }
/// # }
/// fn main() -> std::process::ExitCode {
///     shardmill::main::<Count>()
/// }
/// ```
pub fn main<J: MapReduce + Args + Serialize + DeserializeOwned>() -> ExitCode {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name =
        name.as_deref().and_then(|path| path.file_stem()).map_or_else(|| "job".to_owned(), |stem| stem.to_string_lossy().into_owned());
    main_named::<J>(&name, std::env::args_os())
}

/// The same for a job with a name and arguments of the caller's choice, the program's name first.
///
/// So one executable can hold several jobs, or a test can call a job as it would be called:
/// ```
/// # use shardmill::prelude::*;
/// # #[derive(Args, Serialize, Deserialize)] struct Count {}
/// # #[derive(Serialize, Deserialize)] struct Counted { lines: u64 }
/// # impl MapReduce for Count {
/// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
/// #     fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
/// #     fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { lines: lines.sum() }) }
/// # }
/// let directory = tempfile::tempdir()?;
/// let (input, output) = (directory.path().join("in.txt"), directory.path().join("out"));
/// std::fs::write(&input, "one\ntwo\n")?;
/// let arguments = ["count", "run", "--quiet", "--input"].map(Into::into).into_iter();
/// shardmill::main_named::<Count>("count", arguments.chain([input.into(), "--output".into(), output.clone().into()]));
/// assert_eq!(std::fs::read_to_string(output.join("part-00000.csv"))?, "lines\n2\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn main_named<J: MapReduce + Args + Serialize + DeserializeOwned>(
    name: &str,
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> ExitCode {
    if cfg!(panic = "abort") {
        eprintln!("error: this job was built with panic = \"abort\": a bad record would end the process; remove it from the profile");
        return ExitCode::from(2);
    }
    let command = Command::<J>::command().name(name.to_owned()).version(J::VERSION);
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Command::<J>::from_arg_matches(&matches));
    let command = match parsed {
        Ok(command) => command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match command.verb {
        Verb::Describe => {
            print_json(&Description::of::<J>(name));
            ExitCode::SUCCESS
        }
        Verb::Run(run) => run_job(name, *run),
        Verb::Check(check) => check_job(&check),
        Verb::Task { tight_buffers } => serve::serve::<J>(tight_buffers),
    }
}

/// A shardmill job.
#[derive(Parser)]
struct Command<J: Args> {
    #[command(subcommand)]
    verb: Verb<J>,
}

#[derive(Subcommand)]
enum Verb<J: Args> {
    /// Run the whole job here, on all cores.
    Run(Box<Run<J>>),
    /// Print what the job is, as JSON.
    Describe,
    /// Say whether these flags and parameters would do, as far as that is known without the input.
    #[command(hide = true)]
    Check(Box<Check<J>>),
    /// Serve a worker of a cluster, on descriptor 3.
    #[command(hide = true)]
    Task {
        /// For tests: as in `run`.
        #[arg(long, hide = true, value_name = "COLLECT,MERGE,FAN_IN")]
        tight_buffers: Option<Tight>,
    },
}

#[derive(Args)]
struct Check<J: Args> {
    #[command(flatten, next_help_heading = "Job")]
    job: J,
    #[command(flatten)]
    request: RunRequest,
}

#[derive(Args)]
struct Run<J: Args> {
    #[command(flatten, next_help_heading = "Job")]
    job: J,
    #[command(flatten)]
    flags: Flags,
}

/// The flags of `run`.
#[derive(Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    request: RunRequest,
    /// Sync the parts to disk before they become visible.
    #[arg(long, help_heading = "Output")]
    durable: bool,
    /// Threads that work [default: all cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Resources")]
    threads: Option<u16>,
    /// Memory to use, as 512MiB or 8GiB [default: half of what there is].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Resources")]
    memory: Option<u64>,
    /// Where to spill what does not fit into memory [default: beside the output].
    #[arg(long, value_name = "DIR", help_heading = "Resources")]
    temp_dir: Option<PathBuf>,
    /// For tests: sizes so small that little data spills, merges and merges again.
    #[arg(long, hide = true, value_name = "COLLECT,MERGE,FAN_IN")]
    tight_buffers: Option<Tight>,
    /// Print the plan and stop.
    #[arg(long, help_heading = "Display")]
    explain: bool,
    /// How the summary or plan is given: text on stderr, or json on stdout.
    #[arg(long, value_enum, default_value_t = Shown::Text, help_heading = "Display")]
    format: Shown,
    /// Say nothing but errors.
    #[arg(long, short, conflicts_with = "verbose", help_heading = "Display")]
    quiet: bool,
    /// Say more.
    #[arg(long, short, help_heading = "Display")]
    verbose: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    Text,
    Json,
}

impl Flags {
    fn options(&self) -> Options {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            request: self.request.clone(),
            threads: self.threads.map_or_else(cores, usize::from),
            memory_bytes: self.memory.map(|bytes| bytes as usize),
            temp_directory: self.temp_dir.clone(),
            durable: self.durable,
            tight: self.tight_buffers,
            is_reference: false,
        }
    }
}

/// What a job is: the answer to `describe`.
#[derive(Debug, Serialize)]
struct Description {
    name: String,
    version: &'static str,
    /// The version of the messages between the executable and a worker.
    protocol: String,
    /// The version of this crate.
    sdk: &'static str,
    /// The platform that the executable was built for.
    platform: String,
    shape: String,
    key: &'static str,
    value: &'static str,
    combines: bool,
    output: &'static str,
    parameters: Vec<Parameter>,
}

#[derive(Debug, Serialize)]
struct Parameter {
    name: String,
    required: bool,
    help: Option<String>,
}

impl Description {
    fn of<J: MapReduce + Args>(name: &str) -> Self {
        let parameters = J::augment_args(clap::Command::new("job"));
        Self {
            name: name.to_owned(),
            version: J::VERSION,
            protocol: format!("{}.{}", VERSION.0, VERSION.1),
            sdk: env!("CARGO_PKG_VERSION"),
            platform: shardmill_protocol::platform(),
            shape: format!("{:?}", J::Input::KIND).to_lowercase(),
            key: std::any::type_name::<J::Key>(),
            value: std::any::type_name::<J::Value>(),
            combines: J::Combine::COMBINES,
            output: std::any::type_name::<J::Output>(),
            parameters: parameters
                .get_arguments()
                .map(|argument| Parameter {
                    name: argument.get_long().map_or_else(|| argument.get_id().to_string(), |long| format!("--{long}")),
                    required: argument.is_required_set(),
                    help: argument.get_help().map(ToString::to_string),
                })
                .collect(),
        }
    }
}

/// Asks the job what it thinks of its parameters. Flags were checked as they were read.
fn check_job<J: MapReduce + Args>(Check { job, request: _ }: &Check<J>) -> ExitCode {
    match job.columns().and_then(|_| job.column_types()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_job<J: MapReduce + Args>(name: &str, run: Run<J>) -> ExitCode {
    let progress = Arc::new(Progress::default());
    stop_on_signals(&progress);
    let shown = run.flags.format;
    let mut show = Show::new(Arc::clone(&progress), run.flags.quiet, run.flags.verbose);
    let explain = run.flags.explain;
    let result = Planned::new(name, run.job, run.flags.options(), progress).and_then(|planned| {
        if explain {
            match shown {
                Shown::Json => print_json(&planned.plan.input),
                Shown::Text => show.explain(&planned),
            }
            return Ok(None);
        }
        show.planned(&planned);
        planned.run(|phase, plan| show.begin(phase, plan)).map(Some)
    });
    show.end();
    match result {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(summary)) => {
            match shown {
                Shown::Json => print_json(&summary),
                Shown::Text => show.summary(&summary),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nobody may be there any more to read it.
            let _ = std::io::stderr().write_all(card::card(&error).as_bytes());
            ExitCode::from(card::exit_code(&error))
        }
    }
}

/// The first SIGINT or SIGTERM asks the run to stop and to tidy up; the second one ends the process as it is.
fn stop_on_signals(progress: &Arc<Progress>) {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let asked = progress.interruption();
        // Registering fails for signals that cannot be caught; these can.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked));
        let _ = signal_hook::flag::register(signal, asked);
    }
}

/// The flags of `run`, for the check that no job's parameter has the same name.
pub(crate) fn flag_names() -> Vec<String> {
    let command = Flags::augment_args(clap::Command::new("run"));
    command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

/// The names of a job's own parameters.
pub(crate) fn parameter_names<J: Args>() -> Vec<String> {
    let command = J::augment_args(clap::Command::new("job"));
    command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}
