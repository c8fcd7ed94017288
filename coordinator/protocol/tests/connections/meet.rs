//! Peers as they should be.

use std::io;
use std::net::SocketAddr;

use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::{ApiError, ControlClient, Role};
use shardmill_protocol::rpc::connect::{ConnectError, connect, long_poll, over, within};
use shardmill_protocol::rpc::handshake::Refusal;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::rpc::serve::{Capacity, Listener, SILENCE, set_up};
use std::time::Duration;
use tarpc::client::RpcError;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::place::{Place, runtime};

/// Connections that a test hands over, and errors.
pub(crate) struct Handed(mpsc::Receiver<io::Result<DuplexStream>>);

impl Listener for Handed {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(handed) => Ok((handed?, SocketAddr::from(([127, 0, 0, 1], 1)))),
            None => std::future::pending().await,
        }
    }
}

pub(crate) async fn find(client: &ControlClient, prefix: &str) -> Result<Result<JobId, ApiError>, RpcError> {
    client.find_job(long_poll(), prefix.to_owned()).await
}

#[test]
fn calls_are_answered_in_memory_as_over_loopback() {
    runtime().block_on(async {
        let place = Place::default();
        let (hand, handed) = mpsc::channel(1);
        let _memory = place.stand_on(Handed(handed), SocketAddr::from(([127, 0, 0, 1], 1)));
        let (client, server) = tokio::io::duplex(1 << 16);
        hand.send(Ok(server)).await.unwrap();
        let in_memory = over(client, &place.join(Role::Read)).await.unwrap();

        let loopback = place.stand().await;
        let on_loopback = connect(&place.join_at(&loopback, Role::Submit)).await.unwrap();
        assert_eq!((in_memory.role, on_loopback.role), (Role::Read, Role::Submit));
        for client in [in_memory.client, on_loopback.client] {
            assert_eq!(find(&client, "0123").await.unwrap(), Ok(JobId(4)));
        }
    });
}

#[test]
fn a_strange_secret_is_refused_and_the_next_connection_served() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let mut join = place.join_at(&server, Role::Admin);
        join.secret = Secret::random().unwrap();
        let error = connect(&join).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { source: Refusal::Secret, .. }), "{error:?}");
        assert_eq!((error.exit_code(), error.may_pass()), (4, false));
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        assert_eq!(find(&client, "0").await.unwrap(), Ok(JobId(1)));
    });
}

#[test]
fn a_call_beyond_the_role_is_forbidden_and_never_reaches_the_handler() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Submit)).await.unwrap().client;
        let answer = client.drain(long_poll(), "01".to_owned()).await.unwrap();
        assert_eq!(answer, Err(ApiError::Forbidden { needed: Role::Admin, given: Role::Submit }));
        let too_long = find(&client, &"0".repeat(1000)).await.unwrap();
        assert!(matches!(too_long, Err(ApiError::Refused { .. })), "{too_long:?}");
        assert!(place.seen.calls.lock().unwrap().is_empty());
        assert!(find(&client, "0").await.unwrap().is_ok());
        let calls = place.seen.calls.lock().unwrap();
        assert!(matches!(&calls[..], [(peer, call, _)] if peer.role == Role::Submit && call == "Control.find_job"), "{calls:?}");
    });
}

#[test]
fn a_handler_is_dropped_when_its_caller_gives_up_or_vanishes() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        {
            let call = client.workers(long_poll());
            tokio::select! {
                answer = call => panic!("{answer:?}"),
                () = place.seen.begun.notified() => {}
            }
        }
        place.seen.dropped.notified().await;
        assert!(find(&client, "0").await.is_ok(), "the connection lives on");

        // All at once: no goodbye is said, neither by tarpc nor by TLS.
        let peer = runtime();
        let join = place.join_at(&server, Role::Read);
        let call = peer.spawn(async move { connect(&join).await.unwrap().client.workers(long_poll()).await });
        place.seen.begun.notified().await;
        peer.shutdown_background();
        place.seen.dropped.notified().await;
        assert!(call.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn connections_beyond_the_capacity_are_refused_until_one_ends() {
    runtime().block_on(async {
        let place = Place { capacity: Capacity { connections: 1, ..Capacity::default() }, ..Place::default() };
        let server = place.stand().await;
        let join = place.join_at(&server, Role::Read);
        let first = connect(&join).await.unwrap();
        let error = connect(&join).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { source: Refusal::Busy, .. }), "{error:?}");
        assert!(error.may_pass());
        drop(first);
        // Its place is free as soon as the server has noticed.
        while connect(&join).await.is_err() {}
    });
}

#[test]
fn calls_beyond_the_capacity_fail_alone() {
    runtime().block_on(async {
        let place = Place { capacity: Capacity { calls: 1, ..Capacity::default() }, ..Place::default() };
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        let held = client.workers(long_poll());
        let more = async {
            place.seen.begun.notified().await;
            find(&client, "0").await
        };
        tokio::select! {
            answer = held => panic!("{answer:?}"),
            answer = more => assert!(matches!(answer, Err(RpcError::Server(_))), "{answer:?}"),
        }
        place.seen.dropped.notified().await;
        assert!(find(&client, "0").await.is_ok());
    });
}

#[test]
fn errors_of_accepting_are_waited_out() {
    runtime().block_on(async {
        let place = Place::default();
        let (hand, handed) = mpsc::channel(8);
        let _server = place.stand_on(Handed(handed), SocketAddr::from(([127, 0, 0, 1], 1)));
        for _ in 0..3 {
            hand.send(Err(io::Error::from_raw_os_error(24))).await.unwrap();
        }
        let (client, server) = tokio::io::duplex(1 << 16);
        hand.send(Ok(server)).await.unwrap();
        let client = over(client, &place.join(Role::Read)).await.unwrap().client;
        assert!(find(&client, "0").await.is_ok());
    });
}

#[test]
fn a_server_that_stops_closes_its_connections() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        server.stop.send(()).unwrap();
        server.task.await.unwrap();
        assert!(find(&client, "0").await.is_err());
    });
}

#[test]
fn a_call_of_the_service_ends_at_its_deadline() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        let answer = client.workers(within(Duration::from_millis(1))).await;
        assert!(matches!(answer, Err(RpcError::DeadlineExceeded)), "{answer:?}");
        assert!(find(&client, "0").await.is_ok());
    });
}

#[test]
fn a_silent_connection_is_looked_after_by_the_system() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&client).unwrap();
        let (server, _) = Listener::accept(&mut { listener }).await.unwrap();
        for stream in [&client, &server] {
            let socket = socket2::SockRef::from(stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
            assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
            let patience = socket.tcp_keepalive_time().unwrap() + socket.tcp_keepalive_interval().unwrap() * 4;
            assert!(patience <= SILENCE, "{patience:?}");
        }
    });
}
