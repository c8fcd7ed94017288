//! The mark: the number of the last fact that is on the disk, kept outside of the journal's file.
//!
//! A file that was put back to an earlier state is whole in itself and says nothing of what is missing. So each commit leaves
//! its number here, without waiting for the disk: the mark may lag behind the journal after a power cut, and is never ahead of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const BYTES: usize = 16;

/// The file, open for writing.
pub(super) struct Mark(File);

/// What the mark said at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the journal is new, or the mark was removed.
    Nothing,
    /// That this fact is on the disk.
    Fact(u64),
    /// It is damaged, and says nothing.
    Damage,
}

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Found)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = [0; BYTES];
        let found = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(bytes).map_or(Found::Damage, Found::Fact),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && file.metadata()?.len() == 0 => Found::Nothing,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Found::Damage,
            Err(error) => return Err(error),
        };
        Ok((Self(file), found))
    }

    pub(super) fn set(&self, number: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(number), 0)
    }
}

fn encode(number: u64) -> [u8; BYTES] {
    let number = number.to_le_bytes();
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&blake3::hash(&number).as_bytes()[..8]);
    bytes
}

fn decode(bytes: [u8; BYTES]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    (encode(number) == bytes).then_some(number)
}
