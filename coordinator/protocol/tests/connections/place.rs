//! A place where a server stands: its certificate, its secrets, and a handler that answers `find_job` and notes what it sees.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::{ControlRequest, ControlResponse, Role};
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::{Secret, Secrets};
use shardmill_protocol::rpc::serve::{Capacity, Door, Listener, Peer, serve};
use shardmill_protocol::rpc::tls::Identity;
use tarpc::context::Context;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) struct Place {
    pub(crate) identity: Identity,
    pub(crate) secrets: Vec<(Role, Secret)>,
    pub(crate) capacity: Capacity,
    pub(crate) seen: Arc<Seen>,
}

/// What the handler has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Calls, with their deadlines.
    pub(crate) calls: Mutex<Vec<(Peer, String, Instant)>>,
    /// A `workers` call has begun; it never ends by itself.
    pub(crate) begun: Notify,
    /// A `workers` call was dropped.
    pub(crate) dropped: Notify,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            identity: Identity::generate().unwrap(),
            secrets: Role::ALL.into_iter().map(|role| (role, Secret::random().unwrap())).collect(),
            capacity: Capacity::default(),
            seen: Arc::default(),
        }
    }
}

/// A server that stands somewhere, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<()>,
}

impl Place {
    pub(crate) fn join(&self, role: Role) -> JoinFile {
        let (role, secret) = *self.secrets.iter().find(|(known, _)| *known == role).unwrap();
        JoinFile { address: "memory:1".to_owned(), fingerprint: self.identity.fingerprint(), secret, role }
    }

    /// Serves on loopback.
    pub(crate) async fn stand(&self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.stand_on(listener, address)
    }

    pub(crate) fn stand_on(&self, listener: impl Listener + 'static, address: SocketAddr) -> Server {
        let door =
            Door { tls: self.identity.acceptor().unwrap(), secrets: Arc::new(Secrets::new(self.secrets.clone())), capacity: self.capacity };
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&self.seen);
        let handler = move |peer, context, request| handle(Arc::clone(&seen), peer, context, request);
        let task = tokio::spawn(serve(listener, door, handler, async { drop(stopped.await) }));
        Server { address, stop, task }
    }

    pub(crate) fn join_at(&self, server: &Server, role: Role) -> JoinFile {
        JoinFile { address: server.address.to_string(), ..self.join(role) }
    }
}

/// Says that it was dropped.
struct Guard(Arc<Seen>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

async fn handle(seen: Arc<Seen>, peer: Peer, context: Context, request: ControlRequest) -> Result<ControlResponse, tarpc::ServerError> {
    seen.calls.lock().unwrap().push((peer, tarpc::RequestName::name(&request).to_owned(), context.deadline));
    match request {
        ControlRequest::FindJob { prefix } => Ok(ControlResponse::FindJob(Ok(JobId(prefix.len() as u128)))),
        ControlRequest::Upload { .. } => Ok(ControlResponse::Upload(Ok(()))),
        ControlRequest::ArtifactChunk { .. } => Ok(ControlResponse::ArtifactChunk(Ok(vec![0; 2 << 20].into()))),
        ControlRequest::Workers {} => {
            let _guard = Guard(Arc::clone(&seen));
            seen.begun.notify_one();
            std::future::pending().await
        }
        other => panic!("nobody calls {other:?} here"),
    }
}
