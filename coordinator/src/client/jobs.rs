//! `jobs`: lists the jobs, newest first.

use clap::Args;
use shardmill_datasets::stdout::{print, print_json};
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::JobStatus;

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::progress::{Say, extent};
use super::text::{duration, table};
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    #[command(flatten)]
    find: Find,
    /// At most so many.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    limit: usize,
    /// All that the coordinator remembers.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Jobs {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let mut coordinator = Coordinator::reach(&self.find, Role::Read, &Say::new(false, false)).await?;
        let limit = if self.all { usize::MAX } else { self.limit };
        let mut jobs: Vec<JobStatus> = Vec::new();
        for page in 0.. {
            let more = coordinator.patiently(async |client| client.jobs(within(CALL), page).await).await?;
            let is_last = more.is_empty();
            jobs.extend(more);
            if is_last || jobs.len() >= limit {
                break;
            }
        }
        jobs.truncate(limit);
        match self.shown.format {
            Format::Json => print_json(&jobs),
            Format::Text if jobs.is_empty() => eprintln!("no jobs"),
            Format::Text => print(format!("{}\n", table(["JOB", "NAME", "PHASE", "DONE", "TIME", "OUTPUT"], jobs.iter().map(row)))),
        }
        Ok(0)
    }
}

fn row(status: &JobStatus) -> [String; 6] {
    let done = match extent(status) {
        _ if status.phase.is_final() => String::new(),
        (_, 0) => "-".to_owned(),
        (done, all) => format!("{} %", done.min(all) * 100 / all),
    };
    [status.job.to_string(), status.name.clone(), status.phase.to_string(), done, duration(status.elapsed_ms), status.output.clone()]
}
