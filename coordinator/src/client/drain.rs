//! `drain`: lets a worker finish what it has and leave.

use clap::Args;
use serde_json::json;
use shardmill_datasets::stdout::print_json;
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::Say;
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    find: Find,
    /// The worker's id, or its beginning.
    worker: String,
    #[command(flatten)]
    shown: Shown,
}

impl Drain {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Admin, &Say::new(false, false)).await?;
        let prefix = self.worker.to_ascii_lowercase();
        let worker = coordinator.patiently(async |client| client.drain(within(CALL), prefix.clone()).await).await?;
        match self.shown.format {
            Format::Text => eprintln!("worker {worker} takes no more tasks, finishes what it has and leaves"),
            Format::Json => print_json(&json!({ "worker": worker })),
        }
        Ok(0)
    }
}
