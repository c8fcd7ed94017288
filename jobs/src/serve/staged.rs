//! Files between tasks: read with their digests checked, written with digests taken.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shardmill_protocol::Digest;
use shardmill_protocol::process::Order;

use super::failure::TaskError;
use crate::fault::Fault;

/// Reads the order's input with this number, and returns it with its digest.
pub(super) fn read(order: &Order, staging: &Path, number: usize) -> Result<(Vec<u8>, Digest), TaskError> {
    let input = order.inputs.get(number).ok_or_else(|| TaskError::Unexpected(format!("{} needs more inputs", order.task)))?;
    let path = staging.join("attempts").join(input.attempt.directory()).join(&input.name);
    let bytes = fs::read(&path).map_err(|source| Fault::disk(&path, source))?;
    if Digest::of(&bytes) != input.digest {
        return Err(Fault::DiskFailed { path, detail: "it is not the file that it should be: its digest is another one".to_owned() }.into());
    }
    Ok((bytes, input.digest))
}

/// Decodes a file whose digest was checked.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TaskError> {
    postcard::from_bytes(bytes).map_err(|error| TaskError::Unexpected(format!("a file between tasks cannot be read: {error}")))
}

/// Encodes what a file is to hold.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, TaskError> {
    postcard::to_stdvec(value).map_err(|error| TaskError::Unexpected(format!("a file between tasks cannot be written: {error}")))
}

/// Writes a file that others read.
pub(super) fn write(order: &Order, name: &str, bytes: &[u8]) -> Result<Digest, TaskError> {
    let path = order.staged.join(name);
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(bytes)?;
        if order.durable { file.sync_all() } else { Ok(()) }
    });
    written.map_err(|source| Fault::disk(&path, source))?;
    settle(order)?;
    Ok(Digest::of(bytes))
}

/// Takes the digest of a file that was written, and synced if the order asks for that.
pub(super) fn digest(order: &Order, path: &Path) -> Result<Digest, TaskError> {
    settle(order)?;
    let digest = File::open(path).and_then(Digest::read);
    Ok(digest.map_err(|source| Fault::disk(path, source))?)
}

/// Makes sure that the names of files are on the disk too.
pub(super) fn settle(order: &Order) -> Result<(), TaskError> {
    if order.durable {
        File::open(&order.staged).and_then(|directory| directory.sync_all()).map_err(|source| Fault::disk(&order.staged, source))?;
    }
    Ok(())
}
