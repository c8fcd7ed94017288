//! The commands that people type to use a cluster: one file for each.
//!
//! stdout is data, stderr is narration. Exit codes: 0 done · 1 the job failed · 2 wrong usage, or refused before any work ·
//! 3 the coordinator cannot be reached · 4 the coordinator refuses · 5 cancelled.

mod build;
mod cancel;
mod card;
pub(crate) mod connect;
mod drain;
pub(crate) mod error;
pub(crate) mod follow;
mod job;
mod jobs;
mod logs;
mod preflight;
mod program;
mod progress;
mod report;
pub(crate) mod submit;
mod text;
mod upload;
mod watch;
mod workers;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::error::ClientError;

/// The commands of a client.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a job, and follow it to its end.
    Submit(Box<submit::Submit>),
    /// Follow a job to its end.
    Watch(watch::Watch),
    /// Cancel a job.
    Cancel(cancel::Cancel),
    /// List the jobs, newest first.
    Jobs(jobs::Jobs),
    /// Show a job: phases, attempts and their faults, counters, skew.
    Job(job::Job),
    /// List the workers.
    Workers(workers::Workers),
    /// Let a worker finish what it has and leave.
    Drain(drain::Drain),
    /// Print what a job's processes have written to stderr.
    Logs(logs::Logs),
}

/// How an answer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people, on stderr where it is narration.
    #[default]
    Text,
    /// For programs, on stdout.
    Json,
}

/// The flag of all commands that show something.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Shown {
    /// How the answer is given: text, or json on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Display")]
    pub(crate) format: Format,
}

/// Carries a command out; the answer is the exit code.
pub(crate) fn run(command: Command) -> ExitCode {
    // One thread is enough to wait for a coordinator, and starts in no time.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start\n  caused by: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match command {
            Command::Submit(command) => command.run().await,
            Command::Watch(command) => command.run().await,
            Command::Cancel(command) => command.run().await,
            Command::Jobs(command) => command.run().await,
            Command::Job(command) => command.run().await,
            Command::Workers(command) => command.run().await,
            Command::Drain(command) => command.run().await,
            Command::Logs(command) => command.run().await,
        }
    });
    // A process that was asked something and is still running is not waited for.
    runtime.shutdown_background();
    exit(code)
}

/// The exit code that an outcome gives; an error is shown.
pub(crate) fn exit(outcome: Result<u8, ClientError>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprint!("{}", error.card());
            ExitCode::from(error.exit_code())
        }
    }
}
