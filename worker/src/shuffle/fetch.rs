//! Fetching segments: from the workers that have them into one file, each checked while it passes by.
//!
//! Lanes run side by side, each with one connection and one chunk in memory. A connection that breaks is taken up where it broke.
//! What does not match its digests is fetched once more from the beginning; then its holder serves bad data. Where nothing can be
//! fetched after all tries, the attempt ends, and nobody is to blame.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::ToSocketAddrs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::try_join_all;
use shardmill_datasets::index::Index;
use shardmill_datasets::run::{Check, Segment};
use shardmill_protocol::process::SourceSegment;
use shardmill_protocol::rpc::api::Holder;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::rpc::serve::set_up;
use shardmill_protocol::rpc::shuffle::{ANSWER_BYTES, Refusal, Request, Wanted, decode_answer, is_plain};
use shardmill_protocol::rpc::tls;
use shardmill_protocol::rpc::transport::Stream;
use shardmill_protocol::task::MapOutput;
use shardmill_protocol::{AttemptId, Fault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::backoff::Backoff;
use crate::disk;

/// Lanes for all attempts of a worker together.
const LANES: usize = 8;
/// Lanes to one holder, for one attempt.
const LANES_TO_ONE: usize = 4;
/// Bytes that a lane holds in memory.
const CHUNK_BYTES: usize = 1 << 20;
/// How long connecting, and each piece of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Tries for one output before the attempt ends.
const TRIES: u32 = 3;
/// The largest index part: pages for as many partitions as a task has, and the digests of all pages.
const INDEX_BYTES: u64 = 256 << 10;

/// An output that could not be fetched, as the coordinator is told while there are more tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The output.
    pub(crate) output: AttemptId,
    /// It was there and wrong.
    pub(crate) damaged: bool,
}

/// What is to be fetched for one attempt.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The job's capability.
    pub(crate) capability: Secret,
    /// The partitions.
    pub(crate) partitions: Range<u32>,
    /// Who is told of trouble.
    pub(crate) trouble: UnboundedSender<Trouble>,
}

/// Where the segments of outputs lie in a file of fetched ones.
pub(crate) type Fetched = Mutex<BTreeMap<AttemptId, Vec<SourceSegment>>>;

/// Fetches for all attempts of a worker.
#[derive(Debug)]
pub(crate) struct Fetcher {
    lanes: Semaphore,
    /// The first pause after a failure; doubled each time.
    pause: Duration,
}

/// One attempt's file of fetched segments. Regions of it are given out from the beginning.
struct Target {
    file: Arc<File>,
    path: Box<Path>,
    end: AtomicU64,
}

/// Why one try did not succeed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("what comes does not match its digest: {0}")]
    Damaged(String),
    #[error("{0}")]
    Disk(Fault),
}

/// A stream to a holder, with TLS or without.
type Connection = Box<dyn Stream>;

impl Fetcher {
    /// Makes one that pauses so long after a first failure, and longer after others.
    pub(crate) fn new(pause: Duration) -> Self {
        Self { lanes: Semaphore::new(LANES), pause }
    }

    /// Fetches the wanted partitions of some outputs into a new file at `path`. Where in it they lie is said in `fetched`, one
    /// output after the other, so that also what came before a failure is of use.
    pub(crate) async fn fetch(
        &self,
        wish: &Wish,
        outputs: &[(MapOutput, Arc<Holder>)],
        path: &Path,
        fetched: &Fetched,
    ) -> Result<(), Fault> {
        let created = File::options().write(true).create_new(true).open(path);
        let file = Arc::new(created.map_err(|error| disk::fault(path, &error))?);
        let target = Target { file, path: path.into(), end: AtomicU64::new(0) };
        let mut by_holder: Vec<&(MapOutput, Arc<Holder>)> = outputs.iter().collect();
        by_holder.sort_by_key(|(_, holder)| holder.worker);
        let of_one = by_holder.chunk_by(|(_, one), (_, other)| one.worker == other.worker);
        let lanes = of_one.flat_map(|outputs| outputs.chunks(outputs.len().div_ceil(LANES_TO_ONE)));
        try_join_all(lanes.map(|lane| self.run_lane(wish, lane, &target, fetched))).await.map(drop)
    }

    /// Fetches outputs of one holder, one after the other, over one connection as long as it holds.
    async fn run_lane(&self, wish: &Wish, outputs: &[&(MapOutput, Arc<Holder>)], target: &Target, fetched: &Fetched) -> Result<(), Fault> {
        let _lane = self.lanes.acquire().await.expect("the semaphore is never closed");
        let mut connection = None;
        for (output, holder) in outputs {
            let segments = self.fetch_output(&mut connection, wish, output, holder, target).await?;
            fetched.lock().expect("no holder panics").insert(output.attempt, segments);
        }
        Ok(())
    }

    /// Fetches one output, with all tries that it may have.
    async fn fetch_output(
        &self,
        connection: &mut Option<Connection>,
        wish: &Wish,
        output: &MapOutput,
        holder: &Holder,
        target: &Target,
    ) -> Result<Vec<SourceSegment>, Fault> {
        let (mut failures, mut was_damaged) = (0, false);
        let mut backoff = Backoff::new(self.pause, LONGEST_PAUSE);
        let mut begun = None;
        loop {
            let error = match try_output(connection, wish, output, holder, target, &mut begun).await {
                Ok(segments) => return Ok(segments),
                Err(error) => error,
            };
            *connection = None;
            tracing::debug!(output = %output.attempt, worker = %holder.worker, %error, "an output cannot be fetched");
            let tell = |damaged| {
                // Whoever does not listen any more has no more use for the segments either.
                let _ = wish.trouble.send(Trouble { output: output.attempt, damaged });
            };
            match error {
                FetchError::Disk(fault) => return Err(fault),
                FetchError::Damaged(_) if was_damaged => {
                    tell(true);
                    return Err(Fault::ServedBadData { worker: holder.worker, output: output.attempt });
                }
                FetchError::Damaged(_) => (was_damaged, begun) = (true, None),
                // The output is there: others are before this one.
                FetchError::Refused(Refusal::Busy) => backoff.pause().await,
                FetchError::Connection(_) | FetchError::Refused(_) => {
                    failures += 1;
                    tell(false);
                    if failures == TRIES {
                        return Err(Fault::FetchFailed { worker: holder.worker, output: output.attempt, cause: error.to_string() });
                    }
                    backoff.pause().await;
                }
            }
        }
    }
}

/// An output that is partly fetched: what has come so far is checked and written.
struct Begun {
    segments: Vec<Segment>,
    /// Where in the file its bytes begin.
    start: u64,
    length: u64,
    done: u64,
    check: Check,
}

async fn try_output(
    connection: &mut Option<Connection>,
    wish: &Wish,
    output: &MapOutput,
    holder: &Holder,
    target: &Target,
    begun: &mut Option<Begun>,
) -> Result<Vec<SourceSegment>, FetchError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(timeout(PATIENCE, connect(holder)).await.map_err(io::Error::from)??),
    };
    let request = |wanted| Request { capability: wish.capability, attempt: output.attempt, partitions: wish.partitions.clone(), wanted };
    let begun = match begun {
        Some(begun) => begun,
        None => begun.insert(begin(ask(connection, request(Wanted::Index)).await?, connection, wish, output, target).await?),
    };
    if begun.done < begun.length {
        let length = ask(connection, request(Wanted::Data { skip: begun.done })).await?;
        if length != begun.length - begun.done {
            return Err(FetchError::Damaged(format!("{length} bytes are sent, {} are wanted", begun.length - begun.done)));
        }
        receive(connection, begun, target).await?;
    }
    let mut offset = begun.start;
    let place = |segment: &Segment| {
        let start = offset;
        offset += segment.stored_bytes;
        SourceSegment {
            offset: start,
            stored_bytes: segment.stored_bytes,
            records: segment.records,
            content_bytes: segment.content_bytes,
            digest: segment.digest,
        }
    };
    Ok(begun.segments.iter().map(place).collect())
}

/// Reads the index, checks it, and sets a region of the file aside.
async fn begin(length: u64, connection: &mut Connection, wish: &Wish, output: &MapOutput, target: &Target) -> Result<Begun, FetchError> {
    if length > INDEX_BYTES {
        return Err(FetchError::Damaged(format!("an index of {length} bytes")));
    }
    let mut index = vec![0; length as usize];
    timeout(PATIENCE, connection.read_exact(&mut index)).await.map_err(io::Error::from)??;
    let partitions = wish.partitions.start as usize..wish.partitions.end as usize;
    let segments = Index::open_part(&index, &output.index.0, &partitions).and_then(|index| index.segments(partitions));
    let segments = segments.map_err(|error| FetchError::Damaged(error.to_string()))?;
    // Places are not covered by the digest. A block has a byte of content at least, so a segment cannot be longer than this.
    let is_plausible = |segment: &Segment| segment.stored_bytes <= segment.content_bytes.saturating_mul(17);
    let length = segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.stored_bytes).filter(|_| is_plausible(segment)));
    let length = length.ok_or_else(|| FetchError::Damaged("segments are longer than they can be".to_owned()))?;
    let check = Check::new(segments.clone());
    Ok(Begun { segments, start: target.end.fetch_add(length, Relaxed), length, done: 0, check })
}

/// Sends a request, and returns the length of the answer.
async fn ask(connection: &mut Connection, request: Request) -> Result<u64, FetchError> {
    let exchange = async {
        connection.write_all(&request.encode()).await?;
        connection.flush().await?;
        let mut head = [0; ANSWER_BYTES];
        connection.read_exact(&mut head).await?;
        io::Result::Ok(head)
    };
    let head = timeout(PATIENCE, exchange).await.map_err(io::Error::from)??;
    Ok(decode_answer(&head)?)
}

/// Takes in what is still to come of an output.
async fn receive(connection: &mut Connection, begun: &mut Begun, target: &Target) -> Result<(), FetchError> {
    let mut chunk = Vec::new();
    while begun.done < begun.length {
        chunk.resize((begun.length - begun.done).min(CHUNK_BYTES as u64) as usize, 0);
        timeout(PATIENCE, connection.read_exact(&mut chunk)).await.map_err(io::Error::from)??;
        let mut check = std::mem::replace(&mut begun.check, Check::new(Vec::new()));
        let (file, at) = (Arc::clone(&target.file), begun.start + begun.done);
        let take_in = move || {
            let checked = check.push(&chunk);
            let written = if checked.is_ok() { file.write_all_at(&chunk, at) } else { Ok(()) };
            (checked, written, check, chunk)
        };
        let (checked, written, check, taken) = spawn_blocking(take_in).await.expect("checking does not panic");
        (begun.check, chunk) = (check, taken);
        checked.map_err(|mismatch| FetchError::Damaged(mismatch.to_string()))?;
        written.map_err(|error| FetchError::Disk(disk::fault(&target.path, &error)))?;
        begun.done += chunk.len() as u64;
    }
    let check = std::mem::replace(&mut begun.check, Check::new(Vec::new()));
    check.end().map_err(|mismatch| FetchError::Damaged(mismatch.to_string()))
}

async fn connect(holder: &Holder) -> Result<Connection, FetchError> {
    let address = holder.address.clone();
    let resolved = spawn_blocking(move || address.to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    let resolved = resolved.await.expect("resolving does not panic")?;
    let stream = TcpStream::connect(resolved.as_slice()).await?;
    set_up(&stream)?;
    if is_plain(stream.peer_addr()?.ip()) {
        return Ok(Box::new(stream));
    }
    Ok(Box::new(tls::connect(stream, holder.fingerprint).await?))
}
