//! The worker's executable: arguments to configuration to run, or one of its other selves.

use std::io::IsTerminal;
use std::process::ExitCode;

use bundled_jobs as bundled;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shardmill_datasets::stdout;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use worker::config::Config;
use worker::process::Rules;
use worker::{guard, orphans};

/// Threads that wait. All computing is done by job processes.
const THREADS: usize = 2;
/// Threads for what blocks: files, hashing, /proc.
const BLOCKING_THREADS: usize = 32;
/// The exit code of a worker that is told twice to leave.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|verb| verb.to_str()) {
        Some(guard::VERB) => guard::run(arguments),
        Some(bundled::VERB) => bundled::run(arguments),
        Some("jobs") => {
            stdout::print(bundled::list());
            ExitCode::SUCCESS
        }
        Some("help") => serve(Config::parse_from(["worker", "--help"])),
        _ => serve(Config::parse()),
    }
}

fn serve(config: Config) -> ExitCode {
    let level = match config.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // What tarpc warns of, a connection that ends or a call that is not answered, its callers are told; they know what it means.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,tarpc=off,worker={level}")));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).with_target(false).init();
    let rules = Rules {
        stall_after: config.stall_after,
        kill_after: config.kill_after,
        unkillable_after: config.unkillable_after,
        ..Rules::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .expect("a runtime needs a few descriptors and threads");
    let result = runtime.block_on(async {
        allow_open_files();
        if let Err(error) = orphans::adopt() {
            tracing::warn!(%error, "what outlives its guard is not noticed");
        }
        worker::run(config, rules, signals()).await
    });
    // What still waits for the disk or the network must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Raises the limit of open files as far as the system lets it be: connections and job processes need some each.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Counts the signals that ask the worker to leave. The second one ends it at once; its guards see to what it has started.
fn signals() -> watch::Receiver<u32> {
    let (sender, receiver) = watch::channel(0);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).expect("these signals can be caught");
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
                if *sender.borrow() > 1 {
                    std::process::exit(INTERRUPTED);
                }
            }
        });
    }
    receiver
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
