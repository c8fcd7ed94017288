//! The coordinator of a cluster, and the commands that people type.

mod artifacts;
mod client;
mod config;
mod driver;
mod embed;
mod fault_point;
mod fit;
mod journal;
mod logs;
mod notice;
mod publish;
mod serve;
mod service;
mod state;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The coordinator of a shardmill cluster, and the commands to use it.
#[derive(Parser)]
#[command(name = "coordinator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a coordinator: workers join it, and jobs are submitted to it.
    Serve(config::ServeArgs),
    /// Run one job on a cluster that is started for it on this machine.
    Run(Box<embed::Run>),
    #[command(flatten)]
    Client(client::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(arguments) => match arguments.config() {
            Ok(config) => serve::serve(config),
            Err(error) => {
                eprintln!("coordinator: {}", publish::chain(&error));
                ExitCode::from(2)
            }
        },
        Command::Run(arguments) => embed::run(*arguments),
        Command::Client(command) => client::run(command),
    }
}
