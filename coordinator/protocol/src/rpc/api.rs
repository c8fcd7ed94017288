//! The service of a coordinator: what workers and clients may ask of it.
//!
//! Every call is short and its messages are small: lists come in pages, files in chunks of [`CHUNK_BYTES`], and what takes long is
//! a long poll that is repeated. Errors travel in the reply ([`ApiError`]); tarpc's own errors only ever mean that the connection
//! is of no more use. Who may call what stands in one table, `rpc/roles.rs`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use crate::fault::Failure;
use crate::ids::{AttemptId, Digest, Epoch, Fence, JobId, SessionId, WorkerId};
use crate::process::Progress;
use crate::task::{Grant, MapOutput, Outcome, Task};
use crate::view::{JobStatus, JobView, WorkerView};

/// The longest frame on the wire.
pub const MAX_FRAME: usize = 1 << 20;
/// The largest chunk of a file in one message.
pub const CHUNK_BYTES: usize = 768 << 10;
/// A chunk of a file. It is encoded as a block, where a `Vec<u8>` would be byte by byte; on the wire both are the same.
pub type Chunk = serde_bytes::ByteBuf;
/// Entries in a page of a list.
pub const PAGE_ENTRIES: usize = 4096;
/// How long a long poll is held at most before it is answered with nothing.
pub const POLL: Duration = Duration::from_secs(20);

/// Why a call was not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ApiError {
    /// The caller's role does not allow this call.
    #[error("this needs the role {needed}, and the secret that was given is for {given}")]
    Forbidden {
        /// The least role that may.
        needed: Role,
        /// The caller's.
        given: Role,
    },
    /// There is no such job, worker, attempt or artifact.
    #[error("there is no {what} {id}")]
    Unknown {
        /// What kind of thing.
        what: String,
        /// Its id.
        id: String,
    },
    /// The beginning of an id fits several.
    #[error("{prefix} could be {}", candidates.join(" or "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What it could be.
        candidates: Vec<String>,
    },
    /// The session is unknown or lost: register anew.
    #[error("the session has ended")]
    NoSession,
    /// The worker comes and goes too often.
    #[error("too many registrations; come again in {wait:?}")]
    Later {
        /// How long to wait.
        wait: Duration,
    },
    /// A submission was refused; the message says why and what to do.
    #[error("{message}")]
    Refused {
        /// The reason.
        message: String,
    },
    /// What came is not what its digest says.
    #[error("the bytes do not have the digest {0}")]
    Digest(Digest),
    /// The coordinator is full or is stopping.
    #[error("the coordinator cannot take this now: {message}")]
    Unavailable {
        /// Why.
        message: String,
    },
}

/// What a secret allows. Clients' roles include those before them; a worker's stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// To look.
    Read,
    /// To submit jobs and cancel them.
    Submit,
    /// To drain workers.
    Admin,
    /// To take tasks.
    Worker,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
            Self::Worker => "worker",
        })
    }
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A job that is linked into the worker, by name.
    Bundled(String),
    /// An uploaded executable.
    Artifact {
        /// Its digest.
        digest: Digest,
        /// Its length.
        bytes: u64,
    },
}

/// A job, as a client submits it. The coordinator keeps it as the scheduler's opaque `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The client's own key for this submission: asked again with the same key, the same job is found.
    pub key: String,
    /// The job's name.
    pub name: String,
    /// The job's version, from `describe`.
    pub version: String,
    /// What it runs.
    pub program: Program,
    /// The job's own parameters, as on the command line.
    pub parameters: Vec<String>,
    /// A `RunRequest` of `datasets` in postcard, all paths absolute.
    pub request: Vec<u8>,
    /// The output, absolute.
    pub output: PathBuf,
    /// How many records may be set aside.
    pub max_bad_records: u64,
    /// An existing output is replaced.
    pub overwrite: bool,
    /// Parts are synced to disk before they count.
    pub durable: bool,
}

/// What a worker needs to know to serve a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSetup {
    /// The job.
    pub spec: JobSpec,
    /// The staging directory beside the output.
    pub staging: PathBuf,
    /// What a request for this job's map outputs must carry.
    pub capability: Secret,
}

/// A worker, as it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// Who it is.
    pub worker: WorkerId,
    /// Its threads.
    pub threads: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// Where other workers can fetch its map outputs: `HOST:PORT`.
    pub shuffle_address: String,
    /// The fingerprint of its certificate.
    pub fingerprint: Digest,
    /// Whoever can read `nonce` in the file `path` sees this worker's disk, and reads its outputs in place.
    pub disk: DiskProof,
    /// The session that it had, if it had one in this epoch.
    pub resumes: Option<(Epoch, SessionId)>,
    /// Its platform: `x86_64-unknown-linux-gnu`.
    pub platform: String,
    /// Its host and process id, to be shown.
    pub place: String,
    /// Attempts that run, or are sealed and not answered.
    pub attempts: Vec<HeldAttempt>,
}

/// How two workers find out that they see the same disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskProof {
    /// The worker's directory.
    pub directory: PathBuf,
    /// What the file `nonce` in it holds.
    pub nonce: [u8; 16],
}

/// An attempt that a worker still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// Its id.
    pub attempt: AttemptId,
    /// Its task.
    pub task: Task,
    /// Threads granted.
    pub threads: u32,
    /// Memory granted.
    pub memory_bytes: u64,
}

/// A map output that a worker still has; told in pages before it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOutput {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its shards and the digest of its index.
    pub output: MapOutput,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The coordinator's epoch; a worker never obeys a lower one than it has seen.
    pub epoch: Epoch,
    /// The session.
    pub session: SessionId,
    /// Attempts that go on under a new fence.
    pub adopted: Vec<(AttemptId, Fence)>,
    /// Attempts to kill, and outputs to remove.
    pub kill: Vec<AttemptId>,
    /// How often to send a heartbeat.
    pub heartbeat: Duration,
    /// How long the session lives unheard.
    pub lease: Duration,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The coordinator's epoch.
    pub epoch: Epoch,
    /// Attempts to kill.
    pub kill: Vec<AttemptId>,
    /// Take no more tasks, finish what is running, leave.
    pub drain: bool,
}

/// Whether a report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It counts, for ever.
    Accepted,
    /// It does not: remove what the attempt has made.
    Rejected,
    /// The failure is noted.
    Noted,
}

/// One page of the map outputs that a reduce task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcesPage {
    /// The digest of the whole list; another one than the grant's means that the list has changed: begin again.
    pub list: Digest,
    /// The outputs, [`PAGE_ENTRIES`] at most, each with the number of its holder in `holders`.
    pub outputs: Vec<(MapOutput, u32)>,
    /// Who has them.
    pub holders: Vec<Holder>,
    /// There are more pages.
    pub more: bool,
}

/// A worker that serves map outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub worker: WorkerId,
    /// Where.
    pub address: String,
    /// Its certificate's fingerprint.
    pub fingerprint: Digest,
    /// Its disk.
    pub disk: DiskProof,
}

/// The coordinator's control service.
#[tarpc::service]
pub trait Control {
    // Workers.

    /// Tells some of the map outputs that a worker still has, before it registers; `first` begins the list anew.
    async fn held_outputs(worker: WorkerId, first: bool, outputs: Vec<HeldOutput>) -> Result<(), ApiError>;
    /// Registers a worker, or resumes its session.
    async fn register(hello: WorkerHello) -> Result<Registered, ApiError>;
    /// Says that a worker lives and what it is at.
    async fn heartbeat(session: SessionId, attempts: Vec<(AttemptId, Progress)>) -> Result<HeartbeatAnswer, ApiError>;
    /// Asks for the session's grant number `number`; nothing after [`POLL`].
    async fn next_task(session: SessionId, number: u64, ahead: bool) -> Result<Option<Grant>, ApiError>;
    /// Reports how an attempt ended. Asked again, it is answered the same.
    async fn report(session: SessionId, attempt: AttemptId, fence: Fence, result: Result<Outcome, Failure>) -> Result<Verdict, ApiError>;
    /// Says that an output cannot be fetched, while going on trying.
    async fn fetch_trouble(session: SessionId, output: AttemptId, damaged: bool) -> Result<(), ApiError>;
    /// A page of the list of map outputs that this reduce attempt reads.
    async fn sources(session: SessionId, attempt: AttemptId, page: u32) -> Result<SourcesPage, ApiError>;
    /// What a worker needs to know of a job.
    async fn job_setup(job: JobId) -> Result<JobSetup, ApiError>;
    /// A chunk of an executable.
    async fn artifact_chunk(digest: Digest, offset: u64) -> Result<Chunk, ApiError>;
    /// Some of what a job process has written to stderr.
    async fn log_chunk(session: SessionId, attempt: AttemptId, bytes: Chunk) -> Result<(), ApiError>;
    /// Which of these jobs have ended, so that what is left of them can be removed.
    async fn ended(jobs: Vec<JobId>) -> Result<Vec<JobId>, ApiError>;
    /// The worker leaves now.
    async fn leave(session: SessionId) -> Result<(), ApiError>;

    // Clients: submit.

    /// How much of an executable the coordinator has; all of it if it need not be uploaded.
    async fn artifact_size(digest: Digest) -> Result<u64, ApiError>;
    /// Uploads a chunk; the last one is checked against the digest.
    async fn upload(digest: Digest, offset: u64, chunk: Chunk, last: bool) -> Result<(), ApiError>;
    /// Submits a job. Answered when it is safe on disk.
    async fn submit(spec: JobSpec) -> Result<JobId, ApiError>;
    /// Cancels a job.
    async fn cancel(job: JobId) -> Result<CancelAnswer, ApiError>;

    // Clients: read.

    /// The job whose id begins so.
    async fn find_job(prefix: String) -> Result<JobId, ApiError>;
    /// A job's status, once its version is beyond `seen`; the same one again after [`POLL`].
    async fn watch(job: JobId, seen: u64) -> Result<JobStatus, ApiError>;
    /// The jobs, newest first.
    async fn jobs(page: u32) -> Result<Vec<JobStatus>, ApiError>;
    /// A job in full.
    async fn job(job: JobId) -> Result<JobView, ApiError>;
    /// A chunk of what a job's processes wrote to stderr, all or of one attempt; empty at the end.
    async fn logs(job: JobId, attempt: Option<AttemptId>, offset: u64) -> Result<Chunk, ApiError>;
    /// The workers.
    async fn workers() -> Result<Vec<WorkerView>, ApiError>;

    // Clients: admin.

    /// Lets a worker finish what it has and leave.
    async fn drain(prefix: String) -> Result<WorkerId, ApiError>;
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelAnswer {
    /// It is being cancelled, or was before.
    Cancelling,
    /// Its output is being published: too late.
    TooLate,
    /// It had ended.
    Ended,
}

#[cfg(test)]
mod tests {
    use serde::de::value::{BytesDeserializer, Error};

    use super::*;

    #[test]
    fn a_chunk_is_taken_as_a_block_and_travels_like_any_bytes() {
        let block = BytesDeserializer::<Error>::new(b"block");
        assert_eq!(Chunk::deserialize(block), Ok(Chunk::from(b"block")));
        let (plain, chunk) = (postcard::to_stdvec(&b"block".to_vec()).unwrap(), postcard::to_stdvec(&Chunk::from(b"block")).unwrap());
        assert_eq!(plain, chunk);
    }
}
