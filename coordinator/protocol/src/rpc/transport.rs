//! The one place where a stream of bytes becomes a transport for tarpc.
//!
//! TLS, plain TCP and memory are the same code. A frame is its length as four big-endian bytes and a message ([`super::codec`]);
//! a longer one than [`MAX_FRAME`] is refused before anything is allocated for it, on both sides.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::length_delimited::{Builder, LengthDelimitedCodec};

use super::api::MAX_FRAME;
use super::codec::Postcard;

/// A stream of bytes, whatever it goes over: to be put behind a pointer.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A transport that receives `I` and sends `O` over a stream.
pub type Transport<S, I, O> = tokio_serde::Framed<tokio_util::codec::Framed<S, LengthDelimitedCodec>, I, O, Postcard>;

/// Makes a transport from a stream.
pub fn over<S: AsyncRead + AsyncWrite, I, O>(stream: S) -> Transport<S, I, O> {
    let frames = Builder::new().max_frame_length(MAX_FRAME).new_framed(stream);
    tokio_serde::Framed::new(frames, Postcard)
}
