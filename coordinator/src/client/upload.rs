//! Bringing an executable to the coordinator: only what it does not have yet, piece by piece.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use shardmill_protocol::Digest;
use shardmill_protocol::rpc::api::{CHUNK_BYTES, Chunk};
use shardmill_protocol::rpc::connect::within;

use super::connect::{CALL, Coordinator};
use super::error::ClientError;
use super::program::ProgramError;
use super::progress::Say;

/// Uploads an executable, from where an earlier upload has ended.
pub(crate) async fn upload(coordinator: &mut Coordinator, path: &Path, digest: Digest, bytes: u64, say: &Say) -> Result<(), ClientError> {
    let read = |source| ProgramError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let bar = say.transfer("upload", bytes);
    let mut sent = coordinator.patiently(async |client| client.artifact_size(within(CALL), digest).await).await?.min(bytes);
    loop {
        bar.at(sent);
        let mut chunk = Chunk::from(vec![0; (bytes - sent).min(CHUNK_BYTES as u64) as usize]);
        file.read_exact_at(&mut chunk, sent).map_err(read)?;
        // Also where all is there: the coordinator may have stopped before it has checked the whole.
        let last = sent + chunk.len() as u64 == bytes;
        let length = chunk.len() as u64;
        coordinator.patiently(async |client| client.upload(within(CALL), digest, sent, chunk.clone(), last).await).await?;
        sent += length;
        if last {
            return Ok(());
        }
    }
}
