//! Ids: who and what is spoken of. Each has one written form, used in logs, file names, on the command line and in JSON.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is no id of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no {0}")]
pub struct NoId(&'static str);

/// The digits of ULIDs: no I, L, O, U.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn write_ulid(mut number: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0u8; 26];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(number & 31) as usize];
        number >>= 5;
    }
    f.pad(std::str::from_utf8(&text).expect("the digits are ASCII"))
}

fn read_ulid(text: &str, what: &'static str) -> Result<u128, NoId> {
    if text.len() != 26 || !matches!(text.as_bytes()[0], b'0'..=b'7') {
        return Err(NoId(what));
    }
    text.bytes().try_fold(0u128, |number, byte| {
        let digit = DIGITS.iter().position(|digit| *digit == byte.to_ascii_lowercase()).ok_or(NoId(what))?;
        Ok(number << 5 | digit as u128)
    })
}

/// A submitted job: a ULID, so later jobs sort behind earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u128);

/// A worker, for as long as its directory lives: whoever is started on the same directory is the same worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u128);

/// One start of the coordinator on its state directory; goes up by one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// One registration of a worker within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// One try at a task. The number never repeats within an epoch, so the id is unique for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The epoch in which it was granted.
    pub epoch: Epoch,
    /// Its number within the epoch.
    pub number: u64,
}

/// What a report is accepted under: the live grant of the live session of the live epoch, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The coordinator's epoch.
    pub epoch: Epoch,
    /// The worker's session.
    pub session: SessionId,
    /// The grant, counted up within the epoch; an adopted attempt gets a new one.
    pub grant: u64,
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of all that there is to read. Takes as long as that does.
    pub fn read(from: impl io::Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(from)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

impl AttemptId {
    /// The name of the attempt's directories: unique within its job.
    pub fn directory(&self) -> String {
        format!("{}-{}", self.epoch.0, self.number)
    }
}

impl JobId {
    /// When the job was submitted, in milliseconds since 1970: its id begins with that.
    pub fn submitted_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ulid(self.0, f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ulid(self.0, f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.directory())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

/// `Debug` says the same as `Display`: a list of 16-byte numbers helps nobody.
macro_rules! debug_as_display {
    ($($id:ty),*) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(JobId, WorkerId, AttemptId, Digest);

/// In JSON an id is its written form: a number of 128 bits is none there.
macro_rules! text_where_people_read {
    ($($id:ty as $wire_type:ty: |$value:ident| $wire:expr, |$back:ident| $made:expr;)*) => {$(
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.collect_str(self);
                }
                let $value = self;
                $wire.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom);
                }
                <$wire_type>::deserialize(deserializer).map(|$back| $made)
            }
        }
    )*};
}
text_where_people_read! {
    JobId as u128: |id| id.0, |number| Self(number);
    WorkerId as u128: |id| id.0, |number| Self(number);
    Digest as [u8; 32]: |digest| digest.0, |bytes| Self(bytes);
    AttemptId as (JobId, Epoch, u64): |id| (id.job, id.epoch, id.number), |parts| Self { job: parts.0, epoch: parts.1, number: parts.2 };
}

impl FromStr for JobId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        read_ulid(text, "job id").map(Self)
    }
}

impl FromStr for WorkerId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        read_ulid(text, "worker id").map(Self)
    }
}

impl FromStr for AttemptId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let none = NoId("attempt id");
        let (job, rest) = text.split_once('/').ok_or(none)?;
        let (epoch, number) = rest.split_once('-').ok_or(none)?;
        let number_of = |text: &str| text.parse().map_err(|_| none);
        Ok(Self { job: job.parse().map_err(|_| none)?, epoch: Epoch(number_of(epoch)?), number: number_of(number)? })
    }
}

impl FromStr for Digest {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| NoId("digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_as_it_is_written(job: u128, epoch: u64, number: u64, digest: [u8; 32]) {
            let attempt = AttemptId { job: JobId(job), epoch: Epoch(epoch), number };
            prop_assert_eq!(attempt.to_string().parse(), Ok(attempt));
            prop_assert_eq!(JobId(job).to_string().to_uppercase().parse(), Ok(JobId(job)));
            prop_assert_eq!(WorkerId(job).to_string().parse(), Ok(WorkerId(job)));
            prop_assert_eq!(Digest(digest).to_string().parse(), Ok(Digest(digest)));
            let ids = (attempt, WorkerId(job), Digest(digest));
            prop_assert_eq!(postcard::from_bytes(&postcard::to_stdvec(&ids).unwrap()), Ok(ids));
            let text = serde_json::to_string(&ids).unwrap();
            prop_assert_eq!(&text, &format!("[\"{attempt}\",\"{}\",\"{}\"]", ids.1, ids.2));
            prop_assert_eq!(serde_json::from_str::<(AttemptId, WorkerId, Digest)>(&text).unwrap(), ids);
        }

        #[test]
        fn ids_sort_as_they_are_written(one: u128, other: u128) {
            prop_assert_eq!(one.cmp(&other), JobId(one).to_string().cmp(&JobId(other).to_string()));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "8zzzzzzzzzzzzzzzzzzzzzzzzz", "0123", "0123456789abcdefghjkmnpqri", "ü123456789abcdefghjkmnpqr"] {
            assert_eq!(text.parse::<JobId>(), Err(NoId("job id")), "{text}");
        }
    }
}
