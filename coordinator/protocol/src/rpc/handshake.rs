//! The first words on a connection, after TLS and before any call: which version is spoken, and who is there.
//!
//! ```text
//! client   magic "SHARDMIL" │ version: u16, u16 │ secret: 32 bytes          44 bytes
//! server   magic "SHARDMIL" │ version: u16, u16 │ verdict: u8 │ role: u8    14 bytes
//! ```
//! Numbers are little-endian. This layout is the same in all versions, for postcard can only be decoded by those who speak the same
//! one. The secret is sent to whoever has shown the pinned certificate, and to nobody else.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::api::Role;
use super::secret::{Secret, Secrets};
use crate::{VERSION, speaks};

const MAGIC: &[u8; 8] = b"SHARDMIL";
const HELLO_BYTES: usize = 44;
const ANSWER_BYTES: usize = 14;

/// Why a server does not speak with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The versions do not fit.
    #[error(
        "it speaks version {}.{} of the protocol, and this is version {}.{}: use the same release of shardmill everywhere",
        server.0, server.1, client.0, client.1
    )]
    Version {
        /// The client's.
        client: (u16, u16),
        /// The server's.
        server: (u16, u16),
    },
    /// The secret stands for no role.
    #[error("it does not know the secret: take a new join file from its state directory")]
    Secret,
    /// There are too many connections.
    #[error("it has as many connections as it takes; try again later")]
    Busy,
}

/// A handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The server refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer does not speak this protocol at all.
    #[error("what answers is no shardmill of any version")]
    Foreign,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

/// Introduces a client to a server, and learns what its secret allows.
pub async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, secret: &Secret) -> Result<Role, HandshakeError> {
    let mut hello = head(HELLO_BYTES);
    hello.extend_from_slice(secret.expose());
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await?;
    let (server, &[verdict, role]) = parse(&answer).ok_or(HandshakeError::Foreign)?;
    Err(match (verdict, Role::ALL.get(usize::from(role))) {
        (0, Some(role)) => return Ok(*role),
        (1, _) => Refusal::Version { client: VERSION, server }.into(),
        (2, _) => Refusal::Secret.into(),
        (3, _) => Refusal::Busy.into(),
        _ => HandshakeError::Foreign,
    })
}

/// Reads a client's introduction. A refusal that this finds is still to be told to the client, by [`answer`].
pub async fn receive<S: AsyncRead + Unpin>(stream: &mut S, secrets: &Secrets) -> Result<Role, HandshakeError> {
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await?;
    let (client, secret) = parse::<HELLO_BYTES, 32>(&hello).ok_or(HandshakeError::Foreign)?;
    if !speaks(client) {
        return Err(Refusal::Version { client, server: VERSION }.into());
    }
    Ok(secrets.role_of(&Secret::new(*secret)).ok_or(Refusal::Secret)?)
}

/// Tells a client its role, or why it is refused.
pub async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, verdict: Result<Role, Refusal>) -> io::Result<()> {
    let words = match verdict {
        Ok(role) => [0, Role::ALL.iter().position(|known| *known == role).expect("it is one of all") as u8],
        Err(Refusal::Version { .. }) => [1, 0],
        Err(Refusal::Secret) => [2, 0],
        Err(Refusal::Busy) => [3, 0],
    };
    let mut answer = head(ANSWER_BYTES);
    answer.extend_from_slice(&words);
    stream.write_all(&answer).await?;
    stream.flush().await
}

fn head(length: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(length);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.0.to_le_bytes());
    head.extend_from_slice(&VERSION.1.to_le_bytes());
    head
}

/// The version, and what follows it.
fn parse<const N: usize, const REST: usize>(bytes: &[u8; N]) -> Option<((u16, u16), &[u8; REST])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (major, rest) = rest.split_first_chunk()?;
    let (minor, rest) = rest.split_first_chunk()?;
    Some(((u16::from_le_bytes(*major), u16::from_le_bytes(*minor)), rest.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets() -> Secrets {
        Secrets::new(Role::ALL.into_iter().zip(1..).map(|(role, byte)| (role, Secret::new([byte; 32]))))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// What a server makes of these bytes, and what it says.
    fn received(hello: &[u8]) -> Result<Role, HandshakeError> {
        block_on(receive(&mut &hello[..], &secrets()))
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let verdict = match receive(&mut stream, &secrets()).await {
            Err(HandshakeError::Refused(refusal)) => Err(refusal),
            other => Ok(other.unwrap()),
        };
        answer(&mut stream, verdict).await.unwrap();
    }

    #[test]
    fn each_secret_is_answered_with_its_role_and_a_strange_one_with_a_refusal() {
        for byte in 1..=5 {
            let answer = block_on(async {
                let (mut client, server) = tokio::io::duplex(64);
                let secret = Secret::new([byte; 32]);
                tokio::join!(introduce(&mut client, &secret), serve(server)).0
            });
            match Role::ALL.get(usize::from(byte) - 1) {
                Some(role) => assert_eq!(answer.unwrap(), *role),
                None => assert!(matches!(answer, Err(HandshakeError::Refused(Refusal::Secret)))),
            }
        }
    }

    #[test]
    fn another_major_version_is_refused_in_one_clear_line_before_the_secret_is_looked_at() {
        let mut hello = head(HELLO_BYTES);
        hello[8] = 9;
        hello.extend_from_slice(&[0; 32]);
        let error = received(&hello).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "it speaks version {}.{} of the protocol, and this is version 9.0: use the same release of shardmill everywhere",
                VERSION.0, VERSION.1
            )
        );
        let mut hello = head(HELLO_BYTES);
        hello[10] = 9;
        hello.extend_from_slice(&[1; 32]);
        assert_eq!(received(&hello).unwrap(), Role::ALL[0], "another minor version is spoken with");
    }

    #[test]
    fn every_verdict_arrives_as_itself() {
        let server = (VERSION.0, VERSION.1);
        let verdicts = [Err(Refusal::Busy), Err(Refusal::Secret), Err(Refusal::Version { client: VERSION, server })];
        for verdict in verdicts.into_iter().chain(Role::ALL.map(Ok)) {
            let heard = block_on(async {
                let (mut client, mut server) = tokio::io::duplex(64);
                let secret = Secret::new([1; 32]);
                tokio::join!(introduce(&mut client, &secret), answer(&mut server, verdict)).0
            });
            match (heard, verdict) {
                (Ok(heard), Ok(told)) => assert_eq!(heard, told),
                (Err(HandshakeError::Refused(heard)), Err(told)) => assert_eq!(heard, told),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_speaks_something_else_is_foreign() {
        assert!(matches!(received(&[b'G'; HELLO_BYTES]), Err(HandshakeError::Foreign)));
        let answer = block_on(introduce(&mut tokio::io::join(&[b'H'; 64][..], tokio::io::sink()), &Secret::new([1; 32])));
        assert!(matches!(answer, Err(HandshakeError::Foreign)));
        assert!(matches!(received(b"SHARDMIL"), Err(HandshakeError::Io(_))));
    }

    proptest! {
        #[test]
        fn any_introduction_is_refused_unless_it_holds_a_secret(hello: [u8; HELLO_BYTES], honest: bool) {
            let mut bytes = hello;
            if honest {
                bytes[..12].copy_from_slice(&head(12));
            }
            prop_assert!(received(&bytes).is_err());
        }
    }
}
