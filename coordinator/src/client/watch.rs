//! `watch`: follows a job to its end. An interrupt leaves the job to itself.

use clap::Args;
use shardmill_protocol::rpc::api::Role;

use super::Shown;
use super::connect::{Coordinator, Find};
use super::error::ClientError;
use super::follow::{Interrupts, OnInterrupt, follow};
use super::progress::Say;

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    find: Find,
    /// The job's id, or its beginning.
    job: String,
    #[command(flatten)]
    shown: Shown,
    /// Say nothing but errors.
    #[arg(long, short, conflicts_with = "verbose", help_heading = "Display")]
    quiet: bool,
    /// Say more.
    #[arg(long, short, help_heading = "Display")]
    verbose: bool,
}

impl Watch {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let say = Say::new(self.quiet, self.verbose);
        let coordinator = Coordinator::reach(&self.find, Role::Read, &say).await?;
        let job = coordinator.find_job(&self.job).await?;
        follow(coordinator, &self.find, job, Interrupts::new()?, OnInterrupt::Leave, &say, self.shown).await
    }
}
