//! Record slots: what each thread of a job process is at, so that it is known after the process has died.
//!
//! ```text
//! file   slot × threads                          mapped by the job process, read by the worker after its death
//! slot   state: u64 │ unit: u64 │ record: u64 │ offset: u64 │ 32 bytes unused       one cache line each
//! ```
//! The job process stores a record's place before it is mapped; the kernel keeps the page when the process dies, whatever kills
//! it. State is odd while a thread is at work, so a torn entry can only be that of a thread that was just going on: it names the
//! record before or the next one, both of which were at work a moment ago.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::fault::Suspect;

const SLOT_BYTES: usize = 64;
const WORDS: usize = SLOT_BYTES / 8;
/// The name of the file in an attempt's directory.
pub const FILE_NAME: &str = "slots";

/// The slots of a job process that is at work.
#[derive(Debug)]
pub struct Slots {
    words: *const [AtomicU64; WORDS],
    threads: usize,
}

/// The slot of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a>(&'a [AtomicU64; WORDS]);

// SAFETY: the mapping is only reached through atomics, and lives as long as the value.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Creates the file, with one idle slot for each thread, and maps it.
    pub fn create(path: &Path, threads: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len((threads * SLOT_BYTES) as u64)?;
        // SAFETY: the file was given its length just now, and whoever cuts it shorter ends this process with SIGBUS, which is what a
        // job process must live with anyway.
        Self::map(threads, |bytes| unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
        })
    }

    /// Slots that nobody looks at after a death: those of a run that has no supervisor.
    pub fn unwatched(threads: usize) -> io::Result<Self> {
        // SAFETY: new memory of the process's own.
        Self::map(threads, |bytes| unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        })
    }

    /// `map` maps so many bytes at an address of the system's choice, where they overlap nothing.
    fn map(threads: usize, map: impl FnOnce(usize) -> rustix::io::Result<*mut c_void>) -> io::Result<Self> {
        if threads == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no threads"));
        }
        Ok(Self { words: map(threads * SLOT_BYTES)?.cast(), threads })
    }

    /// The slot of a thread.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn of(&self, thread: usize) -> Slot<'_> {
        assert!(thread < self.threads, "there are {} slots", self.threads);
        // SAFETY: the mapping holds `threads` slots, is aligned to a page, and lives as long as `self`; any bits are a valid word,
        // and other processes that write it do so through the kernel or atomics.
        Slot(unsafe { &*self.words.add(thread) })
    }

    /// A number that is another one once some thread has gone on.
    pub fn pulse(&self) -> u64 {
        let words = (0..self.threads).flat_map(|thread| self.of(thread).0);
        words.fold(0, |pulse, word| pulse.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(word.load(Relaxed)))
    }
}

impl Slot<'_> {
    /// Says what the thread is at.
    #[inline]
    pub fn enter(self, at: Suspect) {
        self.0[1].store(at.unit.into(), Relaxed);
        self.go_on(at.record, at.offset);
        self.0[0].store(1, Relaxed);
    }

    /// Says that the thread is at another record of the same unit.
    #[inline]
    pub fn go_on(self, record: u64, offset: u64) {
        self.0[2].store(record, Relaxed);
        self.0[3].store(offset, Relaxed);
    }

    /// The number of the record, as it was told last.
    #[inline]
    pub fn record(self) -> u64 {
        self.0[2].load(Relaxed)
    }

    /// Where the record begins, as it was told last.
    #[inline]
    pub fn offset(self) -> u64 {
        self.0[3].load(Relaxed)
    }

    /// Says that the thread is at nothing that could be blamed.
    #[inline]
    pub fn leave(self) {
        self.0[0].store(0, Relaxed);
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
        let idle = slots.pulse();
        slots.of(0).enter(at(4));
        slots.of(1).enter(at(5));
        slots.of(2).enter(Suspect { record: 0, offset: 0, ..at(6) });
        let before = slots.pulse();
        slots.of(2).go_on(1 << 40, 9);
        slots.of(1).leave();
        assert!(idle != before && before != slots.pulse());
        assert_eq!(suspects(&path).unwrap(), [at(4), at(6)]);
        drop(slots);
        assert_eq!(suspects(&path).unwrap(), [at(4), at(6)], "they outlive the mapping");
    }
}
