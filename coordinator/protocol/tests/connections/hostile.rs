//! Peers that mean harm, or nothing at all: each of them is alone with what it does.

use std::io;
use std::time::{Duration, Instant};

use shardmill_protocol::rpc::api::{MAX_FRAME, Role};
use shardmill_protocol::rpc::codec::MAX_WAIT;
use shardmill_protocol::rpc::connect::{connect, long_poll};
use shardmill_protocol::rpc::handshake::introduce;
use shardmill_protocol::rpc::serve::Capacity;
use shardmill_protocol::rpc::tls;
use shardmill_protocol::{Digest, JobId};
use tarpc::client::RpcError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::meet::find;
use crate::place::{Place, Server, runtime};

/// A connection whose handshake is over, and which speaks frames of a test's making from then on.
async fn raw(place: &Place, server: &Server) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut stream = tls::connect(stream, place.identity.fingerprint()).await.unwrap();
    introduce(&mut stream, &place.join(Role::Read).secret).await.unwrap();
    stream
}

async fn send(stream: &mut TlsStream<TcpStream>, length: u32, frame: &[u8]) {
    let whole = [&length.to_be_bytes()[..], frame].concat();
    stream.write_all(&whole).await.unwrap();
    stream.flush().await.unwrap();
}

/// Waits until the other side has closed the connection.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    let _: io::Result<usize> = stream.read_to_end(&mut rest).await;
}

async fn serves_others(place: &Place, server: &Server) {
    let client = connect(&place.join_at(server, Role::Read)).await.unwrap().client;
    assert_eq!(find(&client, "01").await.unwrap(), Ok(JobId(2)));
}

/// The number of a call in `ControlRequest`, as postcard writes it.
const FIND_JOB: u8 = 16;

#[test]
fn a_frame_with_a_deadline_of_years_is_a_call_like_any_other() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let mut stream = raw(&place, &server).await;
        // A request, u32::MAX ms, id 7, find_job("ab").
        let frame = [&[0, 0xff, 0xff, 0xff, 0xff, 0x0f, 7, FIND_JOB, 2][..], b"ab"].concat();
        send(&mut stream, frame.len() as u32, &frame).await;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 0, 0, 5, 7, 0, FIND_JOB, 0], "id 7, Ok, find_job, Ok, and the id");
        let (_, call, deadline) = place.seen.calls.lock().unwrap()[0].clone();
        assert_eq!(call, "Control.find_job");
        assert!(deadline <= Instant::now() + MAX_WAIT);
        serves_others(&place, &server).await;
    });
}

#[test]
fn a_client_that_asks_for_years_harms_itself_at_most() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Read)).await.unwrap().client;
        let mut context = long_poll();
        context.deadline = Instant::now() + Duration::from_secs(3 * 365 * 86_400);
        let _ = client.find_job(context, "0".to_owned()).await;
        serves_others(&place, &server).await;
    });
}

#[test]
fn a_frame_that_is_too_long_ends_its_connection_before_it_is_read() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        for length in [MAX_FRAME as u32 + 1, u32::MAX] {
            let mut stream = raw(&place, &server).await;
            send(&mut stream, length, b"").await;
            closed(&mut stream).await;
        }
        serves_others(&place, &server).await;
    });
}

#[test]
fn a_message_that_is_too_long_fails_alone_on_either_side() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let client = connect(&place.join_at(&server, Role::Submit)).await.unwrap().client;
        let answer = client.upload(long_poll(), Digest::default(), 0, vec![0; 2 << 20].into(), false).await;
        assert!(matches!(answer, Err(RpcError::Send(_))), "{answer:?}");
        assert_eq!(find(&client, "0").await.unwrap(), Ok(JobId(1)), "the connection lives on");

        let worker = connect(&place.join_at(&server, Role::Worker)).await.unwrap().client;
        let answer = worker.artifact_chunk(long_poll(), Digest::default(), 0).await;
        let Err(RpcError::Server(error)) = answer else { panic!("{answer:?}") };
        assert!(error.detail.ends_with("bytes, and 1048576 are allowed"), "{error}");
        let answer = worker.artifact_chunk(long_poll(), Digest::default(), 0).await;
        assert!(matches!(answer, Err(RpcError::Server(_))), "the connection lives on");
    });
}

#[test]
fn a_frame_that_is_no_message_ends_its_connection() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        for garbage in [&[0xff; 40][..], &[], &[0, 1, 1, 99], &[0, 1, 1, FIND_JOB, 0xff, 0xff, 0xff, 0xff, 0x0f], &[1, 1, 1]] {
            let mut stream = raw(&place, &server).await;
            send(&mut stream, garbage.len() as u32, garbage).await;
            closed(&mut stream).await;
        }
        serves_others(&place, &server).await;
    });
}

#[test]
fn giving_up_a_call_that_was_never_made_is_harmless() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let mut stream = raw(&place, &server).await;
        for id in 0..100 {
            send(&mut stream, 2, &[1, id]).await;
        }
        // The same id twice is served once; the connection goes on either way.
        let frame = [0, 100, 7, FIND_JOB, 0];
        send(&mut stream, frame.len() as u32, &frame).await;
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.unwrap();
    });
}

#[test]
fn those_that_say_nothing_keep_nobody_waiting() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        let stream = TcpStream::connect(server.address).await.unwrap();
        let _half_way = tls::connect(stream, place.identity.fingerprint()).await.unwrap();
        serves_others(&place, &server).await;
    });
}

#[test]
fn those_that_say_nothing_are_put_out_and_make_room() {
    runtime().block_on(async {
        let capacity = Capacity { handshake: Duration::from_millis(20), handshakes: 2, ..Capacity::default() };
        let place = Place { capacity, ..Place::default() };
        let server = place.stand().await;
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        // More of them than there is room for: the last ones are put out only after the first ones were.
        for stream in &mut silent {
            closed(stream).await;
        }
        let mut half_said = TcpStream::connect(server.address).await.unwrap();
        half_said.write_all(&[0x16, 3, 1]).await.unwrap();
        closed(&mut half_said).await;
    });
}

#[test]
fn a_flood_of_garbage_before_tls_is_answered_with_silence() {
    runtime().block_on(async {
        let place = Place::default();
        let server = place.stand().await;
        for byte in [0u8, 0x16, b'G', 0xff] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // It may be closed while this is still being written.
            let _ = stream.write_all(&vec![byte; 1 << 20]).await;
            closed(&mut stream).await;
        }
        serves_others(&place, &server).await;
    });
}
