//! The reserve: room on the disk that is given up when nothing else is left, so that jobs can still be cancelled and end.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// How much is kept.
const RESERVE_BYTES: u64 = 16 << 20;
/// What must be free for the next commit; more than any takes.
const LOW_BYTES: u64 = 4 << 20;

/// The file that takes the room, and whether it does.
pub(super) struct Reserve {
    path: PathBuf,
    is_full: Arc<AtomicBool>,
}

impl Reserve {
    /// Looks after the file at `path`, and says in the answer's flag whether the disk is full.
    pub(super) fn new(path: &Path) -> (Self, Arc<AtomicBool>) {
        let is_full = Arc::new(AtomicBool::new(false));
        let mut reserve = Self { path: path.to_owned(), is_full: Arc::clone(&is_full) };
        if fs::metadata(path).map_or(0, |file| file.len()) != RESERVE_BYTES {
            reserve.set_full(!reserve.take());
        }
        reserve.look();
        (reserve, is_full)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Gives the room up if too little is left, and takes it again once there is enough.
    pub(super) fn look(&mut self) {
        // A file system that does not say how full it is, is taken as not full; a failed write will tell.
        let Ok(disk) = statvfs(self.path.parent().expect("it lies in a directory")) else { return };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match self.is_full() {
            false if free < LOW_BYTES => {
                tracing::error!(free_bytes = free, "disk full: no more jobs are taken until there is room");
                let _ = fs::remove_file(&self.path);
                self.set_full(true);
            }
            true if free > RESERVE_BYTES + 2 * LOW_BYTES && self.take() => {
                tracing::info!(free_bytes = free, "disk has room again");
                self.set_full(false);
            }
            _ => {}
        }
    }

    fn set_full(&mut self, is_full: bool) {
        self.is_full.store(is_full, Relaxed);
    }

    /// Takes the room, all of it or nothing.
    fn take(&self) -> bool {
        let taken = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?)
        };
        let taken = taken();
        if let Err(error) = &taken {
            tracing::warn!(%error, path = %self.path.display(), "no reserve");
            let _ = fs::remove_file(&self.path);
        }
        taken.is_ok()
    }
}
