//! The client's side of connections: from a join file to a client that can make calls, or an error that says what to do.
//!
//! Nothing is tried again here: who connects knows whether and when to.

use std::io;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tarpc::context::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::api::{ControlClient, POLL, Role};
use super::codec::MAX_WAIT;
use super::handshake::{self, HandshakeError, Refusal};
use super::join::JoinFile;
use super::serve::set_up;
use super::tls::{self, WrongFingerprint};
use super::transport;

/// How long connecting may take: the name, TCP, TLS and the handshake together.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a coordinator.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Makes calls. Once one fails with an error of tarpc's, the connection is of no more use.
    pub client: ControlClient,
    /// What the secret allows.
    pub role: Role,
}

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("no coordinator can be reached at {address}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever answers is not the coordinator that the join file is of. No secret was sent.
    #[error("what answers at {address} is not the coordinator that the join file is of")]
    Stranger {
        /// Where.
        address: String,
        /// In what it differs.
        source: WrongFingerprint,
    },
    /// Whoever answers does not speak the protocol.
    #[error("what answers at {address} is no coordinator")]
    Foreign {
        /// Where.
        address: String,
        /// What was seen.
        source: io::Error,
    },
    /// The coordinator refuses.
    #[error("the coordinator at {address} refuses")]
    Refused {
        /// Where.
        address: String,
        /// Why.
        source: Refusal,
    },
}

impl ConnectError {
    /// Tells whether it may go better later, without anybody doing anything about it.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { source: Refusal::Busy, .. })
    }

    /// The exit code of a program that ends because of it: 3 for a coordinator that is not there, 4 for one that refuses.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Foreign { .. } => 3,
            Self::Stranger { .. } | Self::Refused { .. } => 4,
        }
    }
}

/// Connects to the coordinator that a join file names. Must be called within a tokio runtime, which keeps the connection going.
///
/// Boxed, so that TLS, the codec and the client's dispatch are compiled in this crate and not again in each one that connects.
pub fn connect(join: &JoinFile) -> BoxFuture<'_, Result<Connection, ConnectError>> {
    Box::pin(connect_within(join))
}

async fn connect_within(join: &JoinFile) -> Result<Connection, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: join.address.clone(), source };
    let connecting = async {
        let stream = TcpStream::connect(&join.address).await.map_err(unreachable)?;
        set_up(&stream).map_err(unreachable)?;
        over(stream, join).await
    };
    match tokio::time::timeout(TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {TIMEOUT:?}")))),
    }
}

/// Connects over a stream that there is already.
pub async fn over<S>(stream: S, join: &JoinFile) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = || join.address.clone();
    let mut stream = tls::connect(stream, join.fingerprint).await.map_err(|source| match tls::wrong_fingerprint(&source) {
        Some(source) => ConnectError::Stranger { address: address(), source },
        None if source.kind() == io::ErrorKind::InvalidData => ConnectError::Foreign { address: address(), source },
        None => ConnectError::Unreachable { address: address(), source },
    })?;
    let role = handshake::introduce(&mut stream, &join.secret).await.map_err(|error| match error {
        HandshakeError::Refused(source) => ConnectError::Refused { address: address(), source },
        HandshakeError::Io(source) => ConnectError::Unreachable { address: address(), source },
        HandshakeError::Foreign => {
            ConnectError::Foreign { address: address(), source: io::Error::new(io::ErrorKind::InvalidData, HandshakeError::Foreign) }
        }
    })?;
    Ok(Connection { client: ControlClient::new(tarpc::client::Config::default(), transport::over(stream)).spawn(), role })
}

/// The context of a call that is answered within this time, [`MAX_WAIT`] at most, or fails.
pub fn within(wait: Duration) -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + wait.min(MAX_WAIT);
    context
}

/// The context of a call that the server holds for up to [`POLL`] before it answers with nothing.
pub fn long_poll() -> Context {
    within(POLL + Duration::from_secs(10))
}
