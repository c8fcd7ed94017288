//! Finding the coordinator and speaking with it, also across its restarts.
//!
//! It is found by `--coordinator`, else by `SHARDMILL_COORDINATOR`, else in the state directory where a coordinator of this user keeps
//! its files. Each names a join file, or a state directory, in which the file with the least role that will do is taken.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use shardmill_protocol::rpc::api::{ApiError, ControlClient, Role};
use shardmill_protocol::rpc::connect::{Connection, connect, within};
use shardmill_protocol::rpc::join::{JoinError, JoinFile, default_state_directory};
use shardmill_protocol::{JobId, rpc::secret::Secret};
use tarpc::client::RpcError;

use super::error::ClientError;
use super::progress::Say;

/// How long an ordinary call may take.
pub(crate) const CALL: Duration = Duration::from_secs(30);
/// How long a coordinator that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// The longest pause between two tries to reach it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where the coordinator is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Find {
    /// The coordinator: a join file, or its state directory [default: where `coordinator serve` keeps its state].
    #[arg(long, value_name = "FILE|DIR", env = "SHARDMILL_COORDINATOR", hide_env_values = true)]
    pub(crate) coordinator: Option<PathBuf>,
    /// It ends with the command, so nobody can be told to ask it anything.
    #[arg(skip)]
    pub(crate) is_fleeting: bool,
}

/// Why it is not known where the coordinator is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// There is no home directory to look in.
    #[error("no coordinator is named, and there is no home directory in which one could keep its state")]
    Nowhere,
    /// No coordinator has left its files there.
    #[error("no coordinator keeps its state in {}", path.display())]
    Missing {
        /// Where its files would be.
        path: PathBuf,
    },
    /// There is a coordinator, but no file with the role that is needed.
    #[error("{} has no join file for the role {role}", path.display())]
    NoRole {
        /// The state directory.
        path: PathBuf,
        /// The least role that would do.
        role: Role,
    },
    /// The join file cannot be used.
    #[error(transparent)]
    Join(#[from] JoinError),
}

impl FindError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Nowhere | Self::Missing { .. } => 3,
            Self::NoRole { .. } => 4,
            Self::Join(error) if error.is_missing() => 3,
            Self::Join(_) => 2,
        }
    }

    pub(crate) fn next(&self) -> String {
        match self {
            Self::NoRole { .. } => "name a join file with --coordinator".to_owned(),
            Self::Join(error) if !error.is_missing() => "take the join file from the coordinator's state directory again".to_owned(),
            _ => "start one with `coordinator serve`, or name its join file or state directory with --coordinator".to_owned(),
        }
    }
}

impl Find {
    /// Reads the join file to use for something that needs this role.
    pub(crate) fn join(&self, role: Role) -> Result<JoinFile, FindError> {
        let path = self.coordinator.clone().or_else(default_state_directory).ok_or(FindError::Nowhere)?;
        if path.is_file() {
            return Ok(JoinFile::read(&path)?);
        }
        let roles: &[Role] = match role {
            Role::Read => &[Role::Read, Role::Submit, Role::Admin],
            Role::Submit => &[Role::Submit, Role::Admin],
            Role::Admin => &[Role::Admin],
            Role::Worker => &[Role::Worker],
        };
        for role in roles {
            match JoinFile::read(&path.join(JoinFile::name(*role))) {
                Err(error) if error.is_missing() => {}
                read => return Ok(read?),
            }
        }
        let any = Role::ALL.iter().any(|role| path.join(JoinFile::name(*role)).exists());
        Err(if any { FindError::NoRole { path, role } } else { FindError::Missing { path } })
    }

    /// What to add to a command so that it finds the same coordinator.
    pub(crate) fn flag(&self) -> String {
        self.coordinator.as_ref().map(|path| format!(" --coordinator {}", path.display())).unwrap_or_default()
    }
}

/// A coordinator that can be asked.
#[derive(Debug)]
pub(crate) struct Coordinator {
    find: Find,
    role: Role,
    connection: Connection,
    say: Say,
}

impl Coordinator {
    /// Connects to the coordinator, with a secret that allows what this role does.
    pub(crate) async fn reach(find: &Find, role: Role, say: &Say) -> Result<Self, ClientError> {
        let connection = connect(&find.join(role)?).await?;
        Ok(Self { find: find.clone(), role, connection, say: say.clone() })
    }

    /// What calls are made with.
    pub(crate) fn client(&self) -> &ControlClient {
        &self.connection.client
    }

    /// Connects again, after the connection was lost: until it comes about, or is refused, or patience ends.
    ///
    /// The join file is read anew each time: a coordinator that was restarted may listen somewhere else.
    pub(crate) async fn reach_again(&mut self) -> Result<(), ClientError> {
        let began = Instant::now();
        for tried in 0.. {
            let error = match self.find.join(self.role) {
                Ok(join) => match connect(&join).await {
                    Ok(connection) => {
                        self.connection = connection;
                        if tried > 0 {
                            self.say.line("the coordinator is back");
                        }
                        return Ok(());
                    }
                    Err(error) if error.may_pass() => error.into(),
                    Err(error) => return Err(error.into()),
                },
                Err(error) if error.exit_code() == 3 => error.into(),
                Err(error) => return Err(error.into()),
            };
            if tried == 0 {
                self.say.line("the coordinator does not answer; trying again");
            }
            if began.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(pause(tried)?).await;
        }
        unreachable!("the numbers do not end")
    }

    /// Makes a call that may be repeated, on a new connection where the old one was lost.
    pub(crate) async fn patiently<T>(
        &mut self,
        call: impl AsyncFn(ControlClient) -> Result<Result<T, ApiError>, RpcError>,
    ) -> Result<T, ClientError> {
        loop {
            match told(call(self.client().clone()).await) {
                Err(ClientError::Lost(_)) => self.reach_again().await?,
                other => return other,
            }
        }
    }

    /// The job whose id begins so.
    pub(crate) async fn find_job(&self, prefix: &str) -> Result<JobId, ClientError> {
        told(self.client().find_job(within(CALL), prefix.to_ascii_lowercase()).await)
    }
}

/// What a coordinator has answered, with the ways in which it could not in one type.
pub(crate) fn told<T>(answer: Result<Result<T, ApiError>, RpcError>) -> Result<T, ClientError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClientError::Api(error)),
        Err(RpcError::Server(error)) => Err(ClientError::Unanswered(error.detail)),
        Err(error) => Err(ClientError::Lost(error)),
    }
}

/// Up to twice as long each time, and anything in between: many that wait for one coordinator do not come back all at once.
fn pause(tried: u32) -> Result<Duration, ClientError> {
    let longest = Duration::from_millis(100 << tried.min(10)).min(LONGEST_PAUSE);
    let random = Secret::random()?.expose()[0];
    Ok(longest * u32::from(random) / 255)
}
