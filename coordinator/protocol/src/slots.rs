//! Record slots: what each thread of a job process is at, so that it is known after the process has died.
//!
//! ```text
//! file   slot × threads                          mapped by the job process, read by the worker after its death
//! slot   state: u64 │ unit: u64 │ record: u64 │ offset: u64 │ 32 bytes unused       one cache line each
//! ```
//! The job process stores a record's place before it is mapped; the kernel keeps the page when the process dies, whatever kills
//! it. State is odd while a thread is at work, so a torn entry can only be that of a thread that was just going on: it names the
//! record before or the next one, both of which were at work a moment ago.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::fault::Suspect;

const SLOT_BYTES: usize = 64;
const WORDS: usize = SLOT_BYTES / 8;
/// The name of the file in an attempt's directory.
pub const FILE_NAME: &str = "slots";

/// The slots of a job process that is at work.
#[derive(Debug)]
pub struct Slots {
    words: *const AtomicU64,
    threads: usize,
}

// SAFETY: the mapping is only reached through atomics, and lives as long as the value.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Creates the file, with one idle slot for each thread, and maps it.
    pub fn create(path: &Path, threads: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len((threads * SLOT_BYTES) as u64)?;
        Self::map(&file, threads)
    }

    fn map(file: &File, threads: usize) -> io::Result<Self> {
        if threads == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no threads"));
        }
        // SAFETY: a new mapping at an address of the system's choice overlaps nothing; the file was given its length above, and
        // whoever cuts it shorter ends this process with SIGBUS, which is what a job process must live with anyway.
        let address =
            unsafe { mmap(std::ptr::null_mut(), threads * SLOT_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0) }?;
        Ok(Self { words: address.cast(), threads })
    }

    /// Says what a thread is at.
    ///
    /// # Panics
    /// If there is no such thread.
    #[inline]
    pub fn enter(&self, thread: usize, at: Suspect) {
        let slot = self.slot(thread);
        slot[1].store(at.unit.into(), Relaxed);
        slot[2].store(at.record, Relaxed);
        slot[3].store(at.offset, Relaxed);
        slot[0].store(1, Relaxed);
    }

    /// Says that a thread is at nothing that could be blamed.
    ///
    /// # Panics
    /// If there is no such thread.
    #[inline]
    pub fn leave(&self, thread: usize) {
        self.slot(thread)[0].store(0, Relaxed);
    }

    fn slot(&self, thread: usize) -> &[AtomicU64] {
        assert!(thread < self.threads, "there are {} slots", self.threads);
        // SAFETY: the mapping holds `threads` slots of `WORDS` words, is aligned to a page, and lives as long as `self`; any bits
        // are a valid word, and other processes that write it do so through the kernel or atomics.
        unsafe { std::slice::from_raw_parts(self.words.add(thread * WORDS), WORDS) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that was made, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.words.cast_mut().cast(), self.threads * SLOT_BYTES) };
    }
}

/// What the threads of a process were at: the suspects, after its death.
pub fn suspects(path: &Path) -> io::Result<Vec<Suspect>> {
    let bytes = std::fs::read(path)?;
    let word = |slot: &[u8], at: usize| u64::from_le_bytes(slot[at * 8..at * 8 + 8].try_into().expect("eight bytes"));
    let at_work = bytes.chunks_exact(SLOT_BYTES).filter(|slot| word(slot, 0) & 1 == 1);
    Ok(at_work.map(|slot| Suspect { unit: word(slot, 1) as u32, record: word(slot, 2), offset: word(slot, 3) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_at_work_are_suspects_and_idle_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let slots = Slots::create(&path, 3).unwrap();
        assert_eq!(suspects(&path).unwrap(), []);
        let at = |unit| Suspect { unit, record: 1 << 40, offset: 9 };
        slots.enter(0, at(4));
        slots.enter(1, at(5));
        slots.enter(2, at(6));
        slots.leave(1);
        assert_eq!(suspects(&path).unwrap(), [at(4), at(6)]);
        drop(slots);
        assert_eq!(suspects(&path).unwrap(), [at(4), at(6)], "they outlive the mapping");
    }
}
