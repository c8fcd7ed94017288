//! How calls and answers of tarpc become bytes: postcard, in frames of our own shape.
//!
//! ```text
//! call      0 │ wait in ms: u32 │ id: u64 │ request          or  1 │ id: u64     the caller has given up
//! answer    id: u64 │ 0 │ response                           or  id: u64 │ 1 │ text
//! ```
//! tarpc's own message types are not what travels. Their deadline would be added to a clock while it is decoded, which panics if it is
//! far away; and the kind of their error does not survive postcard, so it is not sent. Here a deadline is a wait of at most
//! [`MAX_WAIT`], whoever asks for more, and an error is a text that nobody decides anything by.

use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tarpc::{ClientMessage, Request, Response, ServerError, context, trace};
use tokio_serde::{Deserializer, Serializer};

use super::api::MAX_FRAME;

/// The longest that any call may take.
pub const MAX_WAIT: Duration = Duration::from_secs(120);

/// The codec, for both directions and both sides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

/// What goes to the server.
#[derive(Serialize, Deserialize)]
enum Call<M> {
    Request { wait_ms: u32, id: u64, message: M },
    Cancel { id: u64 },
}

/// What comes back.
#[derive(Serialize, Deserialize)]
struct Answer<M> {
    id: u64,
    message: Result<M, String>,
}

impl<M: Serialize> Serializer<ClientMessage<M>> for Postcard {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &ClientMessage<M>) -> io::Result<Bytes> {
        match item {
            ClientMessage::Request(request) => {
                let wait = request.context.deadline.saturating_duration_since(Instant::now()).min(MAX_WAIT);
                encode(&Call::Request { wait_ms: wait.as_millis() as u32, id: request.id, message: &request.message })
            }
            ClientMessage::Cancel { request_id, .. } => encode(&Call::<&M>::Cancel { id: *request_id }),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a message of a kind that is not known here")),
        }
    }
}

impl<M: DeserializeOwned> Deserializer<ClientMessage<M>> for Postcard {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<ClientMessage<M>> {
        Ok(match decode(frame)? {
            Call::Request { wait_ms, id, message } => {
                let mut context = context::current();
                context.deadline = Instant::now() + Duration::from_millis(wait_ms.into()).min(MAX_WAIT);
                context.trace_context = trace::Context::default();
                ClientMessage::Request(Request { context, id, message })
            }
            Call::Cancel { id } => ClientMessage::Cancel { trace_context: trace::Context::default(), request_id: id },
        })
    }
}

impl<M: Serialize> Serializer<Response<M>> for Postcard {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &Response<M>) -> io::Result<Bytes> {
        let failed = |text: String| encode(&Answer::<&M> { id: item.request_id, message: Err(text) });
        match &item.message {
            Err(error) => failed(error.detail.clone()),
            Ok(message) => {
                let frame = encode(&Answer { id: item.request_id, message: Ok(message) })?;
                // Sent as it is, it would end the connection, with all other calls on it and without saying why.
                if frame.len() > MAX_FRAME {
                    failed(format!("the answer has {} bytes, and {MAX_FRAME} are allowed", frame.len()))
                } else {
                    Ok(frame)
                }
            }
        }
    }
}

impl<M: DeserializeOwned> Deserializer<Response<M>> for Postcard {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<Response<M>> {
        let Answer { id, message } = decode(frame)?;
        Ok(Response { request_id: id, message: message.map_err(|text| ServerError::new(io::ErrorKind::Other, text)) })
    }
}

fn encode(message: &impl Serialize) -> io::Result<Bytes> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn decode<M: DeserializeOwned>(frame: &[u8]) -> io::Result<M> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a frame that is no message");
    match postcard::take_from_bytes(frame) {
        Ok((message, [])) => Ok(message),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{ControlRequest, ControlResponse};
    use super::*;
    use proptest::prelude::*;

    fn request(deadline: Instant) -> ClientMessage<ControlRequest> {
        let mut context = context::current();
        context.deadline = deadline;
        ClientMessage::Request(Request { context, id: 9, message: ControlRequest::FindJob { prefix: "01".to_owned() } })
    }

    fn through(message: &ClientMessage<ControlRequest>) -> ClientMessage<ControlRequest> {
        let mut codec = Postcard;
        let frame = Pin::new(&mut codec).serialize(message).unwrap();
        Pin::new(&mut codec).deserialize(&BytesMut::from(frame)).unwrap()
    }

    #[test]
    fn a_deadline_beyond_the_longest_wait_is_brought_forward_by_whoever_sends_it() {
        let now = Instant::now();
        for years in [1u64, 3, 500] {
            let ClientMessage::Request(request) = through(&request(now + Duration::from_secs(years * 365 * 86_400))) else { panic!() };
            assert!(request.context.deadline <= Instant::now() + MAX_WAIT);
            assert!(request.context.deadline > now + MAX_WAIT / 2);
        }
    }

    #[test]
    fn a_deadline_beyond_the_longest_wait_is_brought_forward_by_whoever_receives_it() {
        let call = Call::Request { wait_ms: u32::MAX, id: 1, message: ControlRequest::Workers {} };
        let mut codec = Postcard;
        let frame = BytesMut::from(encode(&call).unwrap());
        let Ok(ClientMessage::<ControlRequest>::Request(request)) = Pin::new(&mut codec).deserialize(&frame) else { panic!() };
        assert!(request.context.deadline <= Instant::now() + MAX_WAIT);
    }

    #[test]
    fn a_deadline_that_has_passed_arrives_as_one_that_has_passed() {
        let ClientMessage::Request(request) = through(&request(Instant::now() - Duration::from_secs(5))) else { panic!() };
        assert!(request.context.deadline <= Instant::now());
        assert_eq!(request.id, 9);
        assert!(matches!(request.message, ControlRequest::FindJob { prefix } if prefix == "01"));
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_an_error_of_its_own_call() {
        let mut codec = Postcard;
        let long = Response { request_id: 3, message: Ok(ControlResponse::ArtifactChunk(Ok(vec![0; MAX_FRAME].into()))) };
        let frame = Pin::new(&mut codec).serialize(&long).unwrap();
        assert!(frame.len() <= MAX_FRAME);
        let answer: Response<ControlResponse> = Pin::new(&mut codec).deserialize(&BytesMut::from(frame)).unwrap();
        assert_eq!(answer.request_id, 3);
        assert_eq!(answer.message.unwrap_err().detail, "the answer has 1048583 bytes, and 1048576 are allowed");
    }

    proptest! {
        #[test]
        fn any_frame_is_a_message_or_an_error(frame: Vec<u8>) {
            let frame = BytesMut::from(frame.as_slice());
            let mut codec = Postcard;
            let _: io::Result<ClientMessage<ControlRequest>> = Pin::new(&mut codec).deserialize(&frame);
            let _: io::Result<Response<ControlResponse>> = Pin::new(&mut codec).deserialize(&frame);
        }

        #[test]
        fn a_damaged_call_is_a_call_or_an_error(at in any::<prop::sample::Index>(), byte: u8) {
            let mut codec = Postcard;
            let frame = Pin::new(&mut codec).serialize(&request(Instant::now() + Duration::from_secs(1))).unwrap();
            let mut frame = BytesMut::from(frame);
            let at = at.index(frame.len());
            frame[at] = byte;
            let _: io::Result<ClientMessage<ControlRequest>> = Pin::new(&mut codec).deserialize(&frame);
        }
    }
}
