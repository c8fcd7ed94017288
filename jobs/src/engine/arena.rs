//! Bytes that are appended, addressed and dropped all at once: long keys of a table, records of a sort buffer.
//!
//! Memory comes in chunks, so that growing copies nothing and never holds the old and the new at the same time. An address is
//! 48 bits, chunk and offset: whoever keeps many of them has 16 bits left.

use std::io;

use super::pages::Pages;

const OFFSET_BITS: u32 = 26;

/// Where bytes lie in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(pub(crate) u64);

/// An append-only store of byte strings.
#[derive(Debug)]
pub(crate) struct Arena {
    chunks: Vec<Pages>,
    /// The chunk that is being filled, and how far.
    current: usize,
    filled: usize,
    chunk_bytes: usize,
    /// Memory held by all chunks.
    held_bytes: usize,
}

impl Arena {
    /// An empty arena that grows by `chunk_bytes`; longer entries get chunks of their own.
    pub(crate) fn new(chunk_bytes: usize) -> Self {
        Self { chunks: Vec::new(), current: 0, filled: 0, chunk_bytes: chunk_bytes.min(1 << OFFSET_BITS), held_bytes: 0 }
    }

    /// The same with chunks that another one has left, where they are of the right size.
    pub(crate) fn with_chunks(mut self, mut chunks: Vec<Pages>) -> Self {
        chunks.retain(|chunk| chunk.bytes() == self.chunk_bytes.next_multiple_of(4096));
        self.held_bytes = chunks.iter().map(Pages::bytes).sum();
        self.chunks = chunks;
        self
    }

    /// Gives chunks back to the system that nothing was put into.
    pub(crate) fn give_back_unused(&mut self) {
        // Of the first one nothing may be used; any other is only begun to put something into it.
        let used = if (self.current, self.filled) == (0, 0) { 0 } else { self.current + 1 };
        let unused = self.chunks.drain(used.min(self.chunks.len())..);
        self.held_bytes -= unused.map(|chunk| chunk.bytes()).sum::<usize>();
    }

    /// All its chunks, for another one.
    pub(crate) fn into_chunks(self) -> Vec<Pages> {
        self.chunks
    }

    /// The size of its chunks.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Memory that the arena holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether an entry of `bytes` goes in without asking the system for memory; if not, how much would be asked for.
    #[inline(always)]
    pub(crate) fn growth_for(&self, bytes: usize) -> usize {
        let is_kept = || self.chunks.get(self.current + 1).is_some_and(|chunk| chunk.bytes() >= bytes);
        if self.fits(bytes) || is_kept() { 0 } else { bytes.max(self.chunk_bytes) }
    }

    /// Whether an entry of `bytes` goes into the chunk that is being filled.
    #[inline(always)]
    fn fits(&self, bytes: usize) -> bool {
        let addressable = self.filled < 1 << OFFSET_BITS;
        addressable && self.chunks.get(self.current).is_some_and(|chunk| chunk.bytes() - self.filled >= bytes)
    }

    /// Room for `bytes` bytes, to be filled in by the caller.
    #[inline(always)]
    pub(crate) fn claim(&mut self, bytes: usize) -> io::Result<(Address, &mut [u8])> {
        if !self.fits(bytes) {
            self.next_chunk(bytes)?;
        }
        let start = self.filled;
        self.filled += bytes;
        let address = Address((self.current as u64) << OFFSET_BITS | start as u64);
        // SAFETY: `fits` found, or `next_chunk` made, a chunk with this much room behind `start`; the range was never given
        // out before (`filled` only grows until `clear`), and `&mut self` keeps everyone else away while it is borrowed.
        let room = unsafe { std::slice::from_raw_parts_mut(self.chunks[self.current].start().add(start), bytes) };
        Ok((address, room))
    }

    #[cold]
    fn next_chunk(&mut self, bytes: usize) -> io::Result<()> {
        // Chunks kept by `clear` are used again where they are large enough.
        while self.current + 1 < self.chunks.len() {
            self.current += 1;
            if self.chunks[self.current].bytes() >= bytes {
                self.filled = 0;
                return Ok(());
            }
        }
        let chunk = Pages::zeroed(bytes.max(self.chunk_bytes))?;
        self.held_bytes += chunk.bytes();
        self.chunks.push(chunk);
        self.current = self.chunks.len() - 1;
        self.filled = 0;
        Ok(())
    }

    /// The address of the byte at `address`.
    ///
    /// # Safety
    /// `address` must come from this arena's `claim`, with no `clear` since.
    #[inline(always)]
    pub(crate) unsafe fn pointer(&self, address: Address) -> *const u8 {
        let (chunk, offset) = ((address.0 >> OFFSET_BITS) as usize, address.0 as usize & ((1 << OFFSET_BITS) - 1));
        // SAFETY: the chunk exists and is larger than the offset, by the caller's promise.
        unsafe { self.chunks.get_unchecked(chunk).start().add(offset) }
    }

    /// The `bytes` bytes at `address`.
    ///
    /// # Safety
    /// Both must be those of one `claim`, with no `clear` since, or a part of it.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, address: Address, bytes: usize) -> &[u8] {
        // SAFETY: the range was given out by `claim`, is initialised (pages start as zeroes, whoever had them before) and changes only
        // under `&mut self`.
        unsafe { std::slice::from_raw_parts(self.pointer(address), bytes) }
    }

    /// The `bytes` bytes at `address`, to be written.
    ///
    /// # Safety
    /// As for [`get`](Self::get).
    #[inline(always)]
    pub(crate) unsafe fn get_mut(&mut self, address: Address, bytes: usize) -> &mut [u8] {
        // SAFETY: as in `get`, and `&mut self` keeps everyone else away while it is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(address).cast_mut(), bytes) }
    }

    /// Forgets the content; chunks of the usual size are kept for what comes next.
    pub(crate) fn clear(&mut self) {
        self.chunks.retain(|chunk| chunk.bytes() <= self.chunk_bytes.next_multiple_of(4096));
        self.held_bytes = self.chunks.iter().map(Pages::bytes).sum();
        (self.current, self.filled) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_kept_is_no_growth() {
        let mut arena = Arena::new(8192);
        for _ in 0..6 {
            arena.claim(4096).unwrap();
        }
        let held = arena.held_bytes();
        arena.clear();
        for _ in 0..6 {
            assert_eq!(arena.growth_for(4096), 0);
            arena.claim(4096).unwrap();
        }
        assert_eq!((arena.growth_for(4096), arena.held_bytes()), (8192, held));
    }

    #[test]
    fn chunks_of_another_arena_are_filled_before_the_system_is_asked_and_given_back_if_they_are_not() {
        let mut before = Arena::new(8192);
        (0..6).for_each(|_| before.claim(8192).unwrap().1.fill(7));
        before.claim(10_000).unwrap();
        let mut arena = Arena::new(8192).with_chunks(before.into_chunks());
        assert_eq!(arena.held_bytes(), 6 * 8192, "the longer one is of no use");
        for _ in 0..3 {
            assert_eq!(arena.growth_for(8192), 0);
            arena.claim(8192).unwrap();
        }
        arena.give_back_unused();
        assert_eq!((arena.held_bytes(), arena.growth_for(1)), (3 * 8192, 8192));
        let mut unused = Arena::new(8192).with_chunks(arena.into_chunks());
        unused.give_back_unused();
        assert_eq!(unused.held_bytes(), 0);
        unused.claim(100).unwrap();
        unused.give_back_unused();
        assert_eq!(unused.held_bytes(), 8192);
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out_until_it_is_cleared(rounds in prop::collection::vec(prop::collection::vec(0usize..9000, 0..20), 1..4)) {
            let mut arena = Arena::new(8192);
            for (round, sizes) in rounds.iter().enumerate() {
                let mut addresses = Vec::new();
                for (index, size) in sizes.iter().enumerate() {
                    let (address, room) = arena.claim(*size).unwrap();
                    room.fill((index + round) as u8);
                    addresses.push(address);
                }
                prop_assert!(addresses.is_sorted());
                for (index, (address, size)) in addresses.iter().zip(sizes).enumerate() {
                    // SAFETY: claimed above with this size.
                    let bytes = unsafe { arena.get(*address, *size) };
                    prop_assert!(bytes.iter().all(|byte| *byte == (index + round) as u8));
                }
                arena.clear();
            }
        }
    }
}
