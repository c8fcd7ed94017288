//! `logs`: prints what a job's processes have written to stderr, all of it or that of one attempt or task.

use std::io::IsTerminal;

use clap::Args;
use serde_json::json;
use shardmill_datasets::stdout::{print, print_json};
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::AttemptView;
use shardmill_protocol::{AttemptId, JobId};

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::Say;
use super::text::plain;
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    find: Find,
    /// The job's id, or its beginning.
    job: String,
    /// An attempt (`1-7`) or a task (`map:0..5`), as `coordinator job` lists them.
    #[arg(value_name = "TASK")]
    task: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

impl Logs {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Read, &Say::new(false, false)).await?;
        let job = coordinator.find_job(&self.job).await?;
        let attempts: Vec<Option<AttemptId>> = match &self.task {
            None => vec![None],
            Some(task) => {
                let view = coordinator.patiently(async |client| client.job(within(CALL), job).await).await?;
                let named = view.attempts.iter().filter(|view| is_named(view, task));
                named.map(|view| Some(view.attempt)).collect()
            }
        };
        if attempts.is_empty() {
            return Err(ClientError::NoTask { job: job.to_string(), task: self.task.unwrap_or_default() });
        }
        let mut text = Vec::new();
        for attempt in attempts {
            text.append(&mut read(&mut coordinator, job, attempt).await?);
        }
        match self.shown.format {
            Format::Json => print_json(&json!({ "job": job, "task": self.task, "stderr": String::from_utf8_lossy(&text) })),
            Format::Text if text.is_empty() => eprintln!("no process of job {job} has written anything"),
            // To a terminal only what it does not obey.
            Format::Text if std::io::stdout().is_terminal() => print(plain(&String::from_utf8_lossy(&text))),
            Format::Text => print(text),
        }
        Ok(0)
    }
}

/// Whether an attempt is the one that was named, or one at the task that was.
fn is_named(view: &AttemptView, named: &str) -> bool {
    named == view.attempt.directory() || named == view.attempt.to_string() || named.replace(':', " ") == view.task.to_string()
}

/// All that was written. What is kept of it is bounded by the coordinator.
async fn read(coordinator: &mut Coordinator, job: JobId, attempt: Option<AttemptId>) -> Result<Vec<u8>, ClientError> {
    let mut text = Vec::new();
    loop {
        let offset = text.len() as u64;
        let mut chunk = coordinator.patiently(async |client| client.logs(within(CALL), job, attempt, offset).await).await?;
        if chunk.is_empty() {
            return Ok(text);
        }
        text.append(&mut chunk);
    }
}
