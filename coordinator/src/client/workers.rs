//! `workers`: lists the workers.

use clap::Args;
use shardmill_datasets::stdout::{print, print_json};
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::{WorkerState, WorkerView};

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::Say;
use super::text::{bytes, duration, table};
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Workers {
    #[command(flatten)]
    find: Find,
    #[command(flatten)]
    shown: Shown,
}

impl Workers {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Read, &Say::new(false, false)).await?;
        let workers = coordinator.patiently(async |client| client.workers(within(CALL)).await).await?;
        match self.shown.format {
            Format::Json => print_json(&workers),
            Format::Text if workers.is_empty() => eprintln!("no workers"),
            Format::Text => {
                let header = ["WORKER", "STATE", "THREADS", "MEMORY", "ATTEMPTS", "OUTPUTS", "HEARD OF", "ADDRESS"];
                print(format!("{}\n", table(header, workers.iter().map(row))));
            }
        }
        Ok(0)
    }
}

fn row(view: &WorkerView) -> [String; 8] {
    let state = match view.state {
        WorkerState::Live => "live",
        WorkerState::Suspect => "suspect",
        WorkerState::Draining => "draining",
        WorkerState::Lost => "lost",
        WorkerState::Gone => "gone",
    };
    [
        view.worker.to_string(),
        state.to_owned(),
        format!("{} of {}", view.threads_used, view.threads),
        bytes(view.memory_bytes),
        view.running.len().to_string(),
        view.outputs.to_string(),
        format!("{} ago", duration(view.silent_ms)),
        view.address.clone(),
    ]
}
