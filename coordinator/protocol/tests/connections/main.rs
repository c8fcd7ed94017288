//! Connections between real peers, in memory and over loopback: those that are as they should be, and those that are not.

#![allow(clippy::unwrap_used)]

mod hostile;
mod meet;
mod place;

use shardmill_protocol::rpc::connect::{ConnectError, connect};
use shardmill_protocol::rpc::tls::{self, Identity};
use shardmill_protocol::{Digest, rpc::api::Role};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::place::{Place, runtime};

#[test]
fn a_server_with_another_certificate_is_a_stranger_and_gets_no_secret() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut join = Place::default().join(Role::Admin);
        join.address = listener.local_addr().unwrap().to_string();
        let stranger = Identity::generate().unwrap();
        let accept = async {
            let (stream, _) = listener.accept().await.unwrap();
            match stranger.acceptor().unwrap().accept(stream).await {
                Err(_) => Vec::new(),
                Ok(mut stream) => {
                    let mut said = Vec::new();
                    let _ = stream.read_to_end(&mut said).await;
                    said
                }
            }
        };
        let (said, connected) = tokio::join!(accept, connect(&join));
        assert_eq!(said, b"", "the stranger heard something");
        let error = connected.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        let ConnectError::Stranger { source, .. } = error else { panic!("{error:?}") };
        assert_eq!((source.expected, source.shown), (join.fingerprint, stranger.fingerprint()));
    });
}

#[test]
fn where_nobody_listens_the_coordinator_is_unreachable() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut join = Place::default().join(Role::Read);
        join.address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = connect(&join).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.may_pass());
        assert_eq!(error.to_string(), format!("no coordinator can be reached at {}", join.address));
    });
}

#[test]
fn what_speaks_no_tls_is_no_coordinator() {
    runtime().block_on(async {
        let (client, mut server) = tokio::io::duplex(1 << 16);
        let join = Place::default().join(Role::Read);
        let talk = async {
            let _ = server.read(&mut [0; 4096]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut server, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        };
        let (connected, ()) = tokio::join!(shardmill_protocol::rpc::connect::over(client, &join), talk);
        let error = connected.unwrap_err();
        assert!(matches!(error, ConnectError::Foreign { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 3);
    });
}

#[test]
fn a_kept_certificate_is_the_same_one_and_its_key_is_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = Identity::kept_in(directory.path()).unwrap();
    let again = Identity::kept_in(directory.path()).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_ne!(first.fingerprint(), Identity::generate().unwrap().fingerprint());
    let key = directory.path().join("key.pem");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key).unwrap()) & 0o777, 0o600);
    assert!(!format!("{first:?}").contains("PRIVATE"));

    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(Identity::kept_in(directory.path()).is_err(), "a damaged key is not replaced in silence");
    std::fs::remove_file(&key).unwrap();
    assert!(Identity::kept_in(directory.path()).is_err(), "nor is a missing one");
}

#[test]
fn the_right_fingerprint_without_the_right_key_is_refused() {
    runtime().block_on(async {
        let (real, false_one) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let kept = Identity::kept_in(directory.path()).unwrap();
        drop(kept);
        // A certificate with another's key cannot even be served: rustls refuses it.
        let other = tempfile::tempdir().unwrap();
        Identity::kept_in(other.path()).unwrap();
        std::fs::copy(other.path().join("key.pem"), directory.path().join("key.pem")).unwrap();
        assert!(Identity::kept_in(directory.path()).is_err());

        let (client, server) = tokio::io::duplex(1 << 16);
        let acceptor = false_one.acceptor().unwrap();
        let (connected, _) = tokio::join!(tls::connect(client, real.fingerprint()), acceptor.accept(server));
        let wrong = tls::wrong_fingerprint(&connected.err().unwrap()).unwrap();
        assert_eq!(wrong.shown, false_one.fingerprint());
        assert_ne!(wrong.shown, Digest::default());
    });
}
