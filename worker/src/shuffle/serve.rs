//! Serving map outputs: index and segments of sealed attempts, as they lie on the disk, to whoever shows the job's capability.
//!
//! Each connection is a task of its own that answers one request after the other. Connections and bytes in memory are limited;
//! who comes when all are taken is told to come again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use shardmill_datasets::index::{self, Index};
use shardmill_datasets::run::Segment;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::rpc::serve::set_up;
use shardmill_protocol::rpc::shuffle::{REQUEST_BYTES, Refusal, Request, Wanted, encode_answer, is_plain};
use shardmill_protocol::task::MapOutput;
use shardmill_protocol::{AttemptId, Digest, JobId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::disk::{Disk, MAP_INDEX, MAP_RUN};
use crate::memory;

/// Connections at once.
pub(super) const CONNECTIONS: usize = 256;
/// Bytes that are read from the disk at once, for one connection.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks in memory at once, for all connections.
const CHUNKS: usize = 32;
/// How long TLS may take, and then the first request.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection is kept without a request, and how long a chunk may take to be taken.
const IDLE: Duration = Duration::from_secs(60);
/// How long accepting pauses when the system refuses, for want of descriptors most likely.
const REFUSED: Duration = Duration::from_millis(100);

/// The map outputs that a worker has, and what opens them.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<BTreeMap<JobId, Job>>);

#[derive(Debug, Default)]
struct Job {
    capability: Option<Secret>,
    outputs: BTreeMap<AttemptId, MapOutput>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Job>> {
        self.0.lock().expect("no holder panics")
    }

    /// Says what requests for a job's outputs must carry.
    pub(crate) fn open(&self, job: JobId, capability: Secret) {
        self.lock().entry(job).or_default().capability = Some(capability);
    }

    /// Puts an output there.
    pub(crate) fn put(&self, output: MapOutput) {
        self.lock().entry(output.attempt.job).or_default().outputs.insert(output.attempt, output);
    }

    /// Takes an output away; true if it was there.
    pub(crate) fn take(&self, attempt: AttemptId) -> bool {
        self.lock().get_mut(&attempt.job).is_some_and(|job| job.outputs.remove(&attempt).is_some())
    }

    /// Takes all of a job away.
    pub(crate) fn close(&self, job: JobId) {
        self.lock().remove(&job);
    }

    /// All outputs.
    pub(crate) fn outputs(&self) -> Vec<MapOutput> {
        self.lock().values().flat_map(|job| job.outputs.values().cloned()).collect()
    }

    /// Jobs that have outputs here which nobody can ask for yet.
    pub(crate) fn unopened(&self) -> Vec<JobId> {
        self.lock().iter().filter(|(_, job)| job.capability.is_none()).map(|(job, _)| *job).collect()
    }

    /// The index digest of an output, for whoever may know.
    fn find(&self, request: &Request) -> Result<Digest, Refusal> {
        let jobs = self.lock();
        let job = jobs.get(&request.attempt.job).filter(|job| job.capability.is_some_and(|known| known == request.capability));
        let job = job.ok_or(Refusal::Forbidden)?;
        job.outputs.get(&request.attempt).map(|output| output.index).ok_or(Refusal::Unknown)
    }
}

/// Serves map outputs to other workers.
pub(crate) struct Server {
    /// The worker's disk.
    pub(crate) disk: Arc<Disk>,
    /// What is served.
    pub(crate) shelf: Arc<Shelf>,
    /// Speaks TLS with whoever comes from elsewhere.
    pub(crate) tls: TlsAcceptor,
}

/// Where an answer's bytes lie: pieces of a file, or what is in memory already.
enum Answer {
    Memory(Vec<u8>),
    Pieces(Arc<File>, Vec<Range<u64>>),
}

impl Server {
    /// Serves all that come, for ever.
    pub(crate) async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let (connections, chunks) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(CHUNKS)));
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REFUSED).await;
                    continue;
                }
            };
            let permit = Arc::clone(&connections).try_acquire_owned();
            let (server, chunks) = (Arc::clone(&server), Arc::clone(&chunks));
            tokio::spawn(async move {
                let _ = set_up(&stream);
                // The peer sees the same address, and decides by it as well.
                let is_plain = stream.local_addr().is_ok_and(|own| is_plain(own.ip()));
                let served = async {
                    if is_plain {
                        return server.serve(stream, permit.ok(), &chunks).await;
                    }
                    // Also before a refusal: a connection that ends without one is taken for an output that is lost.
                    let stream = timeout(HANDSHAKE, server.tls.accept(stream)).await.map_err(io::Error::from)??;
                    server.serve(stream, permit.ok(), &chunks).await
                };
                trace(peer, served.await);
            });
        }
    }

    /// Answers one request after the other, until the peer has no more. A connection beyond those that are allowed is told so.
    async fn serve(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        permit: Option<OwnedSemaphorePermit>,
        chunks: &Semaphore,
    ) -> io::Result<()> {
        let Some(_permit) = permit else { return send(&mut stream, &encode_answer(Err(Refusal::Busy))).await };
        let mut request = [0; REQUEST_BYTES];
        // Who connects has something to ask.
        let mut patience = HANDSHAKE;
        loop {
            match timeout(patience, stream.read_exact(&mut request)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(read) => read?,
                Err(_) => return Ok(()),
            };
            patience = IDLE;
            let answer = match Request::decode(&request) {
                Ok(request) => match self.shelf.find(&request) {
                    Ok(index) => self.look_up(request, index).await,
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            };
            let length = answer.as_ref().map(Answer::length).map_err(|refusal| *refusal);
            send(&mut stream, &encode_answer(length)).await?;
            match answer {
                Ok(Answer::Memory(bytes)) => send(&mut stream, &bytes).await?,
                Ok(Answer::Pieces(file, pieces)) => send_pieces(&mut stream, file, pieces, chunks).await?,
                // The peer may be out of step: what it sends next may be no request.
                Err(Refusal::Malformed | Refusal::Version) => return Ok(()),
                Err(_) => {}
            }
        }
    }

    async fn look_up(&self, request: Request, index: Digest) -> Result<Answer, Refusal> {
        let directory = self.disk.attempt_directory(request.attempt);
        let partitions = request.partitions.start as usize..request.partitions.end as usize;
        let answer = move || -> io::Result<Answer> {
            let part = index::read_part(&File::open(directory.join(MAP_INDEX))?, partitions.clone())?;
            let Wanted::Data { skip } = request.wanted else { return Ok(Answer::Memory(part)) };
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let segments = Index::open_part(&part, &index.0, &partitions).and_then(|index| index.segments(partitions));
            let run = directory.join(MAP_RUN);
            memory::check(&run, request.attempt)?;
            let file = File::open(run)?;
            let pieces = pieces(&segments.map_err(invalid)?, skip);
            // Said before anything is sent: afterwards it could only be a connection that breaks.
            let length = file.metadata()?.len();
            if pieces.iter().any(|piece| piece.end > length) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Answer::Pieces(Arc::new(file), pieces))
        };
        spawn_blocking(answer).await.expect("reading does not panic").map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Refusal::Unknown,
            io::ErrorKind::InvalidInput => Refusal::Malformed,
            _ => Refusal::Failed,
        })
    }
}

impl Answer {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Pieces(_, pieces) => pieces.iter().map(|piece| piece.end - piece.start).sum(),
        }
    }
}

/// The bytes of segments but for the first `skip`, in as few pieces as there can be.
fn pieces(segments: &[Segment], mut skip: u64) -> Vec<Range<u64>> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    for segment in segments {
        let skipped = skip.min(segment.stored_bytes);
        skip -= skipped;
        let piece = segment.offset.saturating_add(skipped)..segment.offset.saturating_add(segment.stored_bytes);
        match pieces.last_mut() {
            _ if piece.is_empty() => {}
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => pieces.push(piece),
        }
    }
    pieces
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(IDLE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn send_pieces(
    stream: &mut (impl AsyncWrite + Unpin),
    file: Arc<File>,
    pieces: Vec<Range<u64>>,
    chunks: &Semaphore,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    for piece in pieces {
        let mut next = piece.start;
        while next < piece.end {
            let _permit = chunks.acquire().await.expect("the semaphore is never closed");
            let bytes = (piece.end - next).min(CHUNK_BYTES as u64) as usize;
            let file = Arc::clone(&file);
            let read = move || {
                buffer.resize(bytes, 0);
                file.read_exact_at(&mut buffer, next).map(|()| buffer)
            };
            buffer = spawn_blocking(read).await.expect("reading does not panic")?;
            send(stream, &buffer).await?;
            next += bytes as u64;
        }
    }
    Ok(())
}

fn trace(peer: SocketAddr, served: io::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection that fetches has broken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_touch_are_one_and_what_is_skipped_is_left_out() {
        let segment = |offset, stored_bytes| Segment { offset, stored_bytes, ..Segment::default() };
        let segments = [segment(10, 5), segment(15, 0), segment(15, 5), segment(40, 10)];
        assert_eq!(pieces(&segments, 0), [10..20, 40..50]);
        assert_eq!(pieces(&segments, 3), [13..20, 40..50]);
        assert_eq!(pieces(&segments, 12), [Range { start: 42, end: 50 }]);
        assert_eq!(pieces(&segments, 99), []);
    }
}
