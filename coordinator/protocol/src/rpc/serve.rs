//! The server's side of connections: accept, shake hands, serve calls.
//!
//! Each connection has a task of its own, in which everything happens that could take long or fail: TLS, the handshake with its
//! timeout, the calls. So a peer that is slow, silent or hostile, or that makes tarpc panic, is alone with its trouble.
//! What a call means is the handler's business. It is dropped at the call's deadline, when the caller gives up and when the
//! connection ends, so it must not be the owner of any change: those go by message to whoever makes them.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel, Config, Serve};
use tarpc::{ClientMessage, Response, ServerError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::api::{ControlRequest, ControlResponse, Role};
use super::handshake::{self, HandshakeError, Refusal};
use super::secret::Secrets;
use super::transport::Stream;
use super::{limits, roles, transport};

/// How long a peer may be silent, or may not acknowledge what was sent, before its connection counts as broken.
pub const SILENCE: Duration = Duration::from_secs(20);

/// How much a server takes upon itself.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// How long TLS and handshake may take together.
    pub handshake: Duration,
    /// Connections whose handshake is not over. When there are so many, others wait in the system's queue.
    pub handshakes: usize,
    /// Connections whose handshake is over. More are refused.
    pub connections: usize,
    /// Calls at once on one connection. More are answered with an error of tarpc's.
    pub calls: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), handshakes: 512, connections: 16_384, calls: 64 }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What its secret allows.
    pub role: Role,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Its number, counted up from zero: another one for each connection.
    pub connection: u64,
}

/// What a server needs to tell friend from stranger.
#[derive(Clone)]
pub struct Door {
    /// Its certificate.
    pub tls: TlsAcceptor,
    /// The secrets that open.
    pub secrets: Arc<Secrets>,
    /// How many can come in.
    pub capacity: Capacity,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Where connections come from.
pub trait Listener: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Nothing is lost if the future is dropped.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = Self::accept(self).await?;
        // A connection that cannot be set up is already broken; whoever reads from it finds out.
        let _ = set_up(&stream);
        Ok((stream, address))
    }
}

/// Sets a connection up for small messages, and for noticing soon that the peer has vanished.
pub fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(SILENCE / 2).with_interval(SILENCE / 8).with_retries(4);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE))?;
    Ok(())
}

/// What answers calls. Like streams it is behind a pointer, so that all of tarpc's server is compiled in this crate, once.
type Handler = Arc<dyn Fn(Peer, Context, ControlRequest) -> BoxFuture<'static, Result<ControlResponse, ServerError>> + Send + Sync>;

/// Serves calls on all connections that come, until `stop` is over; then all connections are closed.
///
/// The handler is given every call that the peer's role allows and that is within [`limits`]. With a server of the service it is
/// ```ignore
/// move |peer, context, request| Service::new(driver.clone(), peer).serve().serve(context, request)
/// ```
pub async fn serve<L, H, F>(mut listener: L, door: Door, handler: H, stop: impl Future<Output = ()>)
where
    L: Listener,
    H: Fn(Peer, Context, ControlRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<ControlResponse, ServerError>> + Send + 'static,
{
    let handler: Handler = Arc::new(move |peer, context, request| Box::pin(handler(peer, context, request)));
    let handshakes = Arc::new(Semaphore::new(door.capacity.handshakes));
    let connections = Arc::new(Semaphore::new(door.capacity.connections));
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    let mut backoff = Backoff::default();
    let mut number = 0;
    loop {
        let next = async {
            let turn = Arc::clone(&handshakes).acquire_owned().await.expect("the semaphore is never closed");
            (turn, listener.accept().await)
        };
        let (turn, accepted) = tokio::select! {
            accepted = next => accepted,
            Some(_) = tasks.join_next() => continue,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, address)) => {
                backoff = Backoff::default();
                let guest = Guest { stream: Box::new(stream), address, number, turn };
                tasks.spawn(guest.receive(door.clone(), Arc::clone(&connections), Arc::clone(&handler)));
                number += 1;
            }
            // No descriptors, mostly. The connection stays in the system's queue, so trying again at once would spin.
            Err(_) => tokio::time::sleep(backoff.next()).await,
        }
    }
}

/// How long to wait after an error, and longer after the next one.
#[derive(Debug, Default)]
struct Backoff {
    errors: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(5 << self.errors.min(8)).min(Duration::from_secs(1));
        self.errors += 1;
        wait
    }
}

/// A connection of which nothing is known yet.
struct Guest {
    stream: Box<dyn Stream>,
    address: SocketAddr,
    number: u64,
    /// Leave to be one of those whose handshake is not over.
    turn: OwnedSemaphorePermit,
}

impl Guest {
    /// Whatever goes wrong in here ends this connection, and is of interest to nobody else.
    fn receive(self, door: Door, connections: Arc<Semaphore>, handler: Handler) -> BoxFuture<'static, ()> {
        let Self { stream, address, number, turn } = self;
        Box::pin(async move {
            let greeted = tokio::time::timeout(door.capacity.handshake, async {
                let mut stream = door.tls.accept(stream).await?;
                let entry = greet(&mut stream, &door.secrets, connections).await?;
                Ok::<_, HandshakeError>((stream, entry))
            });
            let Ok(Ok((stream, (role, _place)))) = greeted.await else { return };
            drop(turn);
            let gate = Gate { peer: Peer { role, address, connection: number }, handler };
            serve_calls(stream, door.capacity.calls, gate).await;
        })
    }
}

/// Hears a client out, and tells it what follows.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secrets: &Secrets,
    connections: Arc<Semaphore>,
) -> Result<(Role, OwnedSemaphorePermit), HandshakeError> {
    let entry = match handshake::receive(stream, secrets).await {
        Ok(role) => connections.try_acquire_owned().map(|place| (role, place)).map_err(|_| Refusal::Busy),
        Err(HandshakeError::Refused(refusal)) => Err(refusal),
        Err(error) => return Err(error),
    };
    handshake::answer(stream, entry.as_ref().map(|(role, _)| *role).map_err(|refusal| *refusal)).await?;
    Ok(entry?)
}

/// Serves what comes over a connection until it ends.
async fn serve_calls(stream: TlsStream<Box<dyn Stream>>, calls: usize, gate: Gate) {
    let transport = transport::over::<_, ClientMessage<ControlRequest>, Response<ControlResponse>>(stream);
    let config = Config { pending_response_buffer: calls };
    let channel = BaseChannel::new(config, transport).max_concurrent_requests(calls);
    let mut requests = pin!(channel.requests());
    // However it ends, by a goodbye or without one, by garbage or by silence: it is the end of this connection and no news.
    // A handler that outlives it is dropped by tarpc.
    while let Some(Ok(request)) = requests.next().await {
        tokio::spawn(request.execute(gate.clone()));
    }
}

/// Lets through to the handler what the peer's role and the limits allow.
#[derive(Clone)]
struct Gate {
    peer: Peer,
    handler: Handler,
}

impl Serve for Gate {
    type Req = ControlRequest;
    type Resp = ControlResponse;

    async fn serve(self, context: Context, request: ControlRequest) -> Result<ControlResponse, ServerError> {
        match roles::check(self.peer.role, &request).and_then(|()| limits::check(&request)) {
            Ok(()) => (self.handler)(self.peer, context, request).await,
            Err(error) => Ok(roles::refusal(&request, error)),
        }
    }
}
