//! `cancel`: ends a job, unless its output is being published already. Asking again does no harm.

use clap::Args;
use serde_json::json;
use shardmill_datasets::stdout::print_json;
use shardmill_protocol::rpc::api::{CancelAnswer, Role};
use shardmill_protocol::rpc::connect::within;

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::Say;
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    find: Find,
    /// The job's id, or its beginning.
    job: String,
    #[command(flatten)]
    shown: Shown,
}

impl Cancel {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Submit, &Say::new(false, false)).await?;
        let job = coordinator.find_job(&self.job).await?;
        let answer = coordinator.patiently(async |client| client.cancel(within(CALL), job).await).await?;
        let (word, text, code) = match answer {
            CancelAnswer::Cancelling => ("cancelling", "is being cancelled", 0),
            CancelAnswer::Ended => ("ended", "had ended", 0),
            CancelAnswer::TooLate => ("too-late", "cannot be cancelled any more: its output is being published", 4),
        };
        match self.shown.format {
            Format::Text => eprintln!("job {job} {text}"),
            Format::Json => print_json(&json!({ "job": job, "answer": word })),
        }
        Ok(code)
    }
}
