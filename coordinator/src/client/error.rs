//! Errors of the commands: what went wrong, the exit code that it gives, and what to do next.

use std::error::Error;
use std::fmt::Write;

use shardmill_protocol::rpc::api::ApiError;
use shardmill_protocol::rpc::connect::ConnectError;
use tarpc::client::RpcError;

use super::build::BuildError;
use super::connect::FindError;
use super::preflight::PreflightError;
use super::program::ProgramError;
use super::text::plain;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It is not known where the coordinator is.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The coordinator cannot be reached, or refuses.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or an answer did not come in time.
    #[error("the connection to the coordinator was lost")]
    Lost(#[source] RpcError),
    /// The coordinator could not answer this call; others may work.
    #[error("the coordinator could not answer: {0}")]
    Unanswered(String),
    /// The coordinator says no.
    #[error("{}", plain(&.0.to_string()))]
    Api(ApiError),
    /// The crate could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What was given is no job that could be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Input, output or parameters would not do.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// There is no such attempt or task.
    #[error("job {job} has no attempt or task {task}")]
    NoTask {
        /// The job.
        job: String,
        /// What was asked for.
        task: String,
    },
    /// Signals cannot be waited for, or randomness cannot be had.
    #[error("the system refuses")]
    System(#[from] std::io::Error),
}

impl ClientError {
    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Find(error) => error.exit_code(),
            Self::Connect(error) => error.exit_code(),
            Self::Lost(_) | Self::Unanswered(_) => 3,
            Self::Api(ApiError::Unknown { .. } | ApiError::Ambiguous { .. }) => 2,
            Self::Api(_) => 4,
            Self::Build(_) | Self::Program(_) | Self::Preflight(_) | Self::NoTask { .. } => 2,
            Self::System(_) => 1,
        }
    }

    /// What a person reads.
    pub(crate) fn card(&self) -> String {
        let mut card = format!("error: {self}\n");
        let mut source = self.source();
        while let Some(cause) = source {
            let _ = writeln!(card, "  caused by: {cause}");
            source = cause.source();
        }
        if let Some(next) = self.next() {
            let _ = writeln!(card, "  next: {next}");
        }
        card
    }

    /// What to do about it, where that is known.
    fn next(&self) -> Option<String> {
        match self {
            Self::Find(error) => Some(error.next()),
            Self::Connect(ConnectError::Unreachable { .. }) => {
                Some("start it with `coordinator serve`, or name another one with --coordinator".to_owned())
            }
            Self::Connect(ConnectError::Stranger { .. } | ConnectError::Foreign { .. }) => Some(
                "if the coordinator has got a new certificate or address, take the join file from its state directory again".to_owned(),
            ),
            Self::Lost(_) => Some("see whether it runs; `coordinator jobs` shows what became of your job".to_owned()),
            Self::Api(ApiError::Unknown { what, .. }) if what == "job" => Some("`coordinator jobs` lists the jobs".to_owned()),
            Self::Api(ApiError::Unknown { what, .. }) if what == "worker" => Some("`coordinator workers` lists the workers".to_owned()),
            Self::Api(ApiError::Ambiguous { .. }) => Some("give more of the id".to_owned()),
            Self::Api(ApiError::Forbidden { needed, .. }) => Some(format!("use the coordinator's {needed}.join, with --coordinator")),
            Self::Build(error) => error.next(),
            Self::Program(error) => error.next(),
            Self::Preflight(error) => error.next(),
            Self::NoTask { job, .. } => Some(format!("`coordinator job {job}` lists its attempts")),
            Self::Connect(ConnectError::Refused { .. }) | Self::Unanswered(_) | Self::Api(_) | Self::System(_) => None,
        }
    }
}
