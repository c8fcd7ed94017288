//! How map output travels from worker to worker: not RPC, but raw bytes behind small fixed heads.
//!
//! ```text
//! connection  requests, one after the other or several at once; answers come in the same order
//! request     magic "SMSHUFL2" │ version: u16, u16 │ capability: 32 │ job: u128 │ epoch: u64 │ number: u64
//!             │ wanted: u8 │ first partition: u32 │ end: u32 │ skip: u64                                        93 bytes
//! answer      verdict: u8 │ length: u64 │ that many bytes                                                       9 bytes and more
//! ```
//! Numbers are little-endian. Of an *index* the answer is its head and all of its page digests, followed by the pages that hold the
//! partitions asked for (`datasets::index`). *Data* is the segments of those partitions as they lie in `map.run`, one after the
//! other, without the first `skip` bytes: a connection that broke is taken up where it broke.
//!
//! On loopback this runs over plain TCP, elsewhere over TLS with the fingerprint that came from the coordinator; [`is_plain`]
//! decides, on both sides. What comes is believed only as far as its digests are those that the coordinator knows.

use std::net::IpAddr;
use std::ops::Range;

use super::secret::Secret;
use crate::ids::{AttemptId, Epoch, JobId};
use crate::task::MAX_RANGE;
use crate::{VERSION, speaks};

const MAGIC: &[u8; 8] = b"SMSHUFL2";
/// The length of a request.
pub const REQUEST_BYTES: usize = 93;
/// The length of the head of an answer.
pub const ANSWER_BYTES: usize = 9;

/// What a reduce attempt wants of a map output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The job's capability.
    pub capability: Secret,
    /// The map attempt whose output it is.
    pub attempt: AttemptId,
    /// Which partitions, [`MAX_RANGE`] at most.
    pub partitions: Range<u32>,
    /// Which file.
    pub wanted: Wanted,
}

/// Which file of a map output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The index.
    Index,
    /// The segments, but for their first bytes.
    Data {
        /// How many bytes the asker has already.
        skip: u64,
    },
}

/// Why a request is not answered with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no request, or asks for no partitions, or for too many.
    #[error("the request is malformed")]
    Malformed,
    /// Another version is spoken here.
    #[error("another version of the protocol is spoken there")]
    Version,
    /// The capability is not the job's, or the job is not known.
    #[error("the capability is not that of the job")]
    Forbidden,
    /// There is no such output: it is lost.
    #[error("the output is not there")]
    Unknown,
    /// The disk failed.
    #[error("the output cannot be read")]
    Failed,
    /// Too many connections: come again.
    #[error("too many connections")]
    Busy,
}

impl Request {
    /// The request's bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let (wanted, skip) = match self.wanted {
            Wanted::Index => (0, 0),
            Wanted::Data { skip } => (1, skip),
        };
        let mut out = Vec::with_capacity(REQUEST_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.0.to_le_bytes());
        out.extend_from_slice(&VERSION.1.to_le_bytes());
        out.extend_from_slice(self.capability.expose());
        out.extend_from_slice(&self.attempt.job.0.to_le_bytes());
        out.extend_from_slice(&self.attempt.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.attempt.number.to_le_bytes());
        out.push(wanted);
        out.extend_from_slice(&self.partitions.start.to_le_bytes());
        out.extend_from_slice(&self.partitions.end.to_le_bytes());
        out.extend_from_slice(&skip.to_le_bytes());
        out.try_into().expect("the fields add up to a request")
    }

    /// Reads a request.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Refusal> {
        let mut rest = Fields(bytes);
        if rest.take::<8>() != MAGIC {
            return Err(Refusal::Malformed);
        }
        let version = (u16::from_le_bytes(*rest.take()), u16::from_le_bytes(*rest.take()));
        if !speaks(version) {
            return Err(Refusal::Version);
        }
        let capability = Secret::new(*rest.take());
        let attempt = AttemptId {
            job: JobId(u128::from_le_bytes(*rest.take())),
            epoch: Epoch(u64::from_le_bytes(*rest.take())),
            number: u64::from_le_bytes(*rest.take()),
        };
        let [wanted] = *rest.take();
        let partitions = u32::from_le_bytes(*rest.take())..u32::from_le_bytes(*rest.take());
        let skip = u64::from_le_bytes(*rest.take());
        let wanted = match (wanted, skip) {
            (0, 0) => Wanted::Index,
            (1, skip) => Wanted::Data { skip },
            _ => return Err(Refusal::Malformed),
        };
        if partitions.is_empty() || partitions.end - partitions.start > MAX_RANGE {
            return Err(Refusal::Malformed);
        }
        Ok(Self { capability, attempt, partitions, wanted })
    }
}

/// The head of an answer: how many bytes follow, or why none do.
pub fn encode_answer(answer: Result<u64, Refusal>) -> [u8; ANSWER_BYTES] {
    let verdict = match answer {
        Ok(_) => 0,
        Err(Refusal::Malformed) => 1,
        Err(Refusal::Version) => 2,
        Err(Refusal::Forbidden) => 3,
        Err(Refusal::Unknown) => 4,
        Err(Refusal::Failed) => 5,
        Err(Refusal::Busy) => 6,
    };
    let mut head = [verdict; ANSWER_BYTES];
    head[1..].copy_from_slice(&answer.unwrap_or(0).to_le_bytes());
    head
}

/// Reads the head of an answer. Bytes that are none are a refusal as [`Refusal::Malformed`].
pub fn decode_answer(head: &[u8; ANSWER_BYTES]) -> Result<u64, Refusal> {
    let mut rest = Fields(head);
    let [verdict] = *rest.take();
    let length = u64::from_le_bytes(*rest.take());
    match verdict {
        0 => Ok(length),
        2 => Err(Refusal::Version),
        3 => Err(Refusal::Forbidden),
        4 => Err(Refusal::Unknown),
        5 => Err(Refusal::Failed),
        6 => Err(Refusal::Busy),
        _ => Err(Refusal::Malformed),
    }
}

/// Whether map output goes to and from this address without TLS: what stays on loopback is seen by nobody else.
pub fn is_plain(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Fields of fixed length, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> &'a [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fields add up to the array");
        self.0 = rest;
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = Request> {
        let wanted = prop_oneof![Just(Wanted::Index), any::<u64>().prop_map(|skip| Wanted::Data { skip })];
        (any::<[u8; 32]>(), any::<(u128, u64, u64)>(), 0..u32::MAX - MAX_RANGE, 1..=MAX_RANGE, wanted).prop_map(
            |(capability, (job, epoch, number), first, count, wanted)| Request {
                capability: Secret::new(capability),
                attempt: AttemptId { job: JobId(job), epoch: Epoch(epoch), number },
                partitions: first..first + count,
                wanted,
            },
        )
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_is_written(request in request()) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }

        #[test]
        fn a_damaged_request_is_another_one_or_refused(request in request(), at in 0..REQUEST_BYTES, bit in 0u32..8) {
            let mut bytes = request.encode();
            bytes[at] ^= 1 << bit;
            if let Ok(read) = Request::decode(&bytes) {
                // The minor version is free to differ.
                prop_assert!(read != request || (10..12).contains(&at));
                prop_assert!(!read.partitions.is_empty() && read.partitions.len() <= MAX_RANGE as usize);
            }
        }

        #[test]
        fn any_head_is_an_answer_or_a_refusal(head: [u8; ANSWER_BYTES]) {
            if let Ok(length) = decode_answer(&head) {
                prop_assert_eq!(encode_answer(Ok(length)), head);
            }
        }
    }

    #[test]
    fn every_refusal_arrives_as_itself() {
        use Refusal::{Busy, Failed, Forbidden, Malformed, Unknown, Version};
        for refusal in [Malformed, Version, Forbidden, Unknown, Failed, Busy] {
            assert_eq!(decode_answer(&encode_answer(Err(refusal))), Err(refusal));
        }
        assert_eq!(decode_answer(&encode_answer(Ok(u64::MAX))), Ok(u64::MAX));
    }

    #[test]
    fn too_many_partitions_and_none_are_refused() {
        let attempt = AttemptId { job: JobId(1), epoch: Epoch(2), number: 3 };
        for partitions in [5..5, Range { start: 6, end: 5 }, 0..MAX_RANGE + 1, 0..u32::MAX] {
            let request = Request { capability: Secret::new([7; 32]), attempt, partitions, wanted: Wanted::Index };
            assert_eq!(Request::decode(&request.encode()), Err(Refusal::Malformed));
        }
    }

    #[test]
    fn only_loopback_is_plain() {
        for (address, plain) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)] {
            assert_eq!(is_plain(address.parse().unwrap()), plain, "{address}");
        }
    }
}
