//! The coordinator of a cluster, and the commands that people type.

mod artifacts;
mod config;
mod driver;
mod fault_point;
mod journal;
mod logs;
mod notice;
mod publish;
mod serve;
mod service;
mod state;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs jobs on many workers.
#[derive(Parser)]
#[command(name = "coordinator", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a coordinator: workers join it, and jobs are submitted to it.
    Serve(config::ServeArgs),
}

fn main() -> ExitCode {
    match Command::parse().verb {
        Verb::Serve(arguments) => match arguments.config() {
            Ok(config) => serve::serve(config),
            Err(error) => {
                eprintln!("coordinator: {}", publish::chain(&error));
                ExitCode::from(2)
            }
        },
    }
}
