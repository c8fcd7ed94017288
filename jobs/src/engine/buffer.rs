//! The sort buffer: pairs of a job without a combiner, kept until they are sorted.
//!
//! A pair's bytes lie in an arena in the order of arrival, which is the order of the input; what is sorted are 16-byte entries with
//! the first eight bytes of the key. The sort is stable, so pairs with equal keys stay in input order without being compared.
//!
//! ```text
//! arena   key length: u32 │ value length: u32 │ sequence: u64 │ key │ value
//! entry   prefix of the key: u64 │ partition: 16 bits, address: 48 bits
//! ```

use std::io;

use super::arena::{Address, Arena};
use super::pages::Pages;
use shardmill_datasets::merge::prefix;

const HEAD: usize = 16;
const ADDRESS_BITS: u32 = 48;

/// A pair's place, with a tag: its partition, or the buffer it lies in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) prefix: u64,
    place: u64,
}

impl Entry {
    fn tag(self) -> usize {
        (self.place >> ADDRESS_BITS) as usize
    }

    fn address(self) -> Address {
        Address(self.place & ((1 << ADDRESS_BITS) - 1))
    }

    fn with_tag(self, tag: usize) -> Self {
        Self { place: self.address().0 | (tag as u64) << ADDRESS_BITS, ..self }
    }
}

/// Pairs in the order of arrival.
pub(crate) struct SortBuffer {
    arena: Arena,
    entries: Vec<Chunk>,
    /// Entries in the last chunk, and in each of the others once it is full.
    filled: usize,
    chunk_entries: usize,
    /// The entries of each partition so far.
    counts: Vec<usize>,
    /// The entries by partition, once `divide` was called; then `entries` is empty.
    divided: Option<Chunk>,
    /// Where each partition begins in `divided`.
    starts: Vec<usize>,
    limit_bytes: usize,
}

/// Room for entries. Chunks are added and given back as a whole: nothing is copied when there are more.
struct Chunk(Pages);

impl Chunk {
    fn new(entries: usize) -> io::Result<Self> {
        Ok(Self(Pages::zeroed(entries * size_of::<Entry>())?))
    }

    fn as_slice(&self) -> &[Entry] {
        // SAFETY: the pages are aligned, as large as said, and zeroes or entries: both are plain numbers.
        unsafe { std::slice::from_raw_parts(self.0.start().cast(), self.0.bytes() / size_of::<Entry>()) }
    }

    fn as_mut_slice(&mut self) -> &mut [Entry] {
        // SAFETY: as above; `&mut self` keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.0.start().cast(), self.0.bytes() / size_of::<Entry>()) }
    }
}

impl SortBuffer {
    /// An empty buffer for so many partitions that takes at most `limit_bytes`, or one pair.
    pub(crate) fn new(partitions: u32, limit_bytes: usize) -> Self {
        let chunk_bytes = (limit_bytes / 16).clamp(16 << 10, 16 << 20);
        Self {
            arena: Arena::new(chunk_bytes),
            entries: Vec::new(),
            filled: 0,
            chunk_entries: (chunk_bytes / 4) / size_of::<Entry>(),
            counts: vec![0; partitions as usize],
            divided: None,
            starts: Vec::new(),
            limit_bytes,
        }
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        match self.starts.last() {
            Some(end) => *end,
            None => self.entries.len().saturating_sub(1) * self.chunk_entries + self.filled,
        }
    }

    /// Memory held, with that for the second copy of the entries that sorting them needs.
    pub(crate) fn held_bytes(&self) -> usize {
        let entries = match &self.divided {
            Some(divided) => divided.0.bytes(),
            None => 2 * self.entries.len() * self.chunk_entries * size_of::<Entry>(),
        };
        self.arena.held_bytes() + entries
    }

    /// Whether another pair of this size has to wait until the buffer was emptied.
    #[inline(always)]
    pub(crate) fn is_full_for(&self, key: &[u8], value_bytes: usize) -> bool {
        let growth = self.arena.growth_for(HEAD + key.len() + value_bytes);
        let fits = growth == 0 && self.filled < self.chunk_entries && !self.entries.is_empty();
        !fits && self.must_not_grow(growth)
    }

    #[cold]
    fn must_not_grow(&self, arena_bytes: usize) -> bool {
        let bytes = self.held_bytes() + arena_bytes + 2 * self.chunk_entries * size_of::<Entry>();
        bytes > self.limit_bytes && self.len() > 0
    }

    /// Adds a pair, whatever the limit.
    #[inline(always)]
    pub(crate) fn push(&mut self, partition: u32, key: &[u8], sequence: u64, value: &[u8]) -> io::Result<()> {
        let (address, room) = self.arena.claim(HEAD + key.len() + value.len())?;
        let (head, rest) = room.split_at_mut(HEAD);
        head[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(value.len() as u32).to_le_bytes());
        head[8..].copy_from_slice(&sequence.to_le_bytes());
        let (key_room, value_room) = rest.split_at_mut(key.len());
        key_room.copy_from_slice(key);
        value_room.copy_from_slice(value);
        if self.entries.is_empty() || self.filled == self.chunk_entries {
            self.entries.push(Chunk::new(self.chunk_entries)?);
            self.filled = 0;
        }
        let chunk = self.entries.last_mut().expect("just looked at");
        chunk.as_mut_slice()[self.filled] = Entry { prefix: prefix(key), place: address.0 | u64::from(partition) << ADDRESS_BITS };
        self.filled += 1;
        self.counts[partition as usize] += 1;
        Ok(())
    }

    /// Groups the entries by partition, each partition's in the order of arrival.
    pub(crate) fn divide(&mut self) -> io::Result<()> {
        let count = self.len();
        let mut next = Vec::with_capacity(self.counts.len() + 1);
        let mut start = 0;
        for count in &self.counts {
            next.push(start);
            start += count;
        }
        self.starts.clone_from(&next);
        self.starts.push(start);
        let mut divided = Chunk::new(count)?;
        let places = divided.as_mut_slice();
        let last = self.entries.len().saturating_sub(1);
        for (number, chunk) in std::mem::take(&mut self.entries).into_iter().enumerate() {
            let filled = if number == last { self.filled } else { self.chunk_entries };
            for entry in &chunk.as_slice()[..filled] {
                let place = &mut next[entry.tag()];
                places[*place] = *entry;
                *place += 1;
            }
        }
        self.divided = Some(divided);
        Ok(())
    }

    /// Whether the entries are grouped by partition.
    pub(crate) fn is_divided(&self) -> bool {
        !self.starts.is_empty()
    }

    /// The entries of one partition, after `divide`.
    pub(crate) fn partition(&self, partition: u32) -> &[Entry] {
        let range = self.starts[partition as usize]..self.starts[partition as usize + 1];
        self.divided.as_ref().map_or(&[], |divided| &divided.as_slice()[range])
    }

    /// Sorts a partition's entries where they are; call `partition` for them.
    pub(crate) fn sort_partition(&mut self, partition: u32) {
        let range = self.starts[partition as usize]..self.starts[partition as usize + 1];
        let Some(mut divided) = self.divided.take() else { return };
        divided.as_mut_slice()[range].sort_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| self.pair(*a).0.cmp(self.pair(*b).0)));
        self.divided = Some(divided);
    }

    /// The pair of one of this buffer's entries: key, sequence and value.
    pub(crate) fn pair(&self, entry: Entry) -> (&[u8], u64, &[u8]) {
        pair(std::slice::from_ref(self), entry.with_tag(0))
    }

    /// Fetches a pair that will be looked at soon.
    #[inline(always)]
    pub(crate) fn prefetch(&self, entry: Entry) {
        // SAFETY: the entry's address lies in the arena.
        let start = unsafe { self.arena.pointer(entry.address()) };
        super::table::prefetch(start);
        super::table::prefetch(start.wrapping_add(64));
    }

    /// Empties the buffer; the arena's memory is kept for what comes next.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        self.filled = 0;
        self.counts.fill(0);
        self.divided = None;
        self.starts.clear();
    }
}

/// A pair of one of several buffers: key, sequence and value.
#[inline(always)]
fn pair(buffers: &[SortBuffer], entry: Entry) -> (&[u8], u64, &[u8]) {
    let arena = &buffers[entry.tag()].arena;
    let address = entry.address();
    // SAFETY: entries are made by `push` with the address of a claim that begins with a head, and are gone when the arena is cleared.
    let head = unsafe { arena.get(address, HEAD) };
    let key_bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let value_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    // SAFETY: the claim was made for head, key and value.
    let whole = unsafe { arena.get(address, HEAD + key_bytes + value_bytes) };
    let sequence = u64::from_le_bytes(whole[8..HEAD].try_into().expect("eight bytes"));
    (&whole[HEAD..HEAD + key_bytes], sequence, &whole[HEAD + key_bytes..])
}

/// One partition of several buffers, sorted by key and, for equal keys, by place in the input.
pub(crate) struct SortedPartition<'a> {
    buffers: &'a [SortBuffer],
    entries: Vec<Entry>,
}

impl<'a> SortedPartition<'a> {
    /// Sorts `partition` of all `buffers`, which must be divided.
    pub(crate) fn new(buffers: &'a [SortBuffer], partition: u32) -> Self {
        let mut entries = Vec::with_capacity(buffers.iter().map(|buffer| buffer.partition(partition).len()).sum());
        for (tag, buffer) in buffers.iter().enumerate() {
            entries.extend(buffer.partition(partition).iter().map(|entry| entry.with_tag(tag)));
        }
        entries.sort_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| pair(buffers, *a).0.cmp(pair(buffers, *b).0)));
        let mut sorted = Self { buffers, entries };
        if buffers.len() > 1 {
            sorted.order_groups();
        }
        sorted
    }

    /// Memory that sorting this many pairs takes.
    pub(crate) fn bytes_for(pairs: usize) -> usize {
        pairs * size_of::<Entry>() * 3 / 2
    }

    /// Brings pairs with the same key, which now stand buffer by buffer, into the order of the input.
    fn order_groups(&mut self) {
        let mut start = 0;
        while start < self.entries.len() {
            let end = self.group_end(start);
            if end - start > 1 {
                let buffers = self.buffers;
                self.entries[start..end].sort_by_key(|entry| pair(buffers, *entry).1);
            }
            start = end;
        }
    }

    /// The number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The end of the group of pairs whose first is at `start`.
    #[inline]
    pub(crate) fn group_end(&self, start: usize) -> usize {
        let first = self.entries[start];
        let mut end = start + 1;
        while end < self.entries.len() && self.entries[end].prefix == first.prefix && self.pair(end).0 == self.pair(start).0 {
            end += 1;
        }
        end
    }

    /// Key, sequence and value of a pair. The pairs behind it are fetched meanwhile.
    #[inline]
    pub(crate) fn pair(&self, at: usize) -> (&'a [u8], u64, &'a [u8]) {
        pair(self.buffers, self.entries[at])
    }

    /// Fetches a pair that will be looked at soon.
    #[inline(always)]
    pub(crate) fn prefetch(&self, at: usize) {
        if let Some(entry) = self.entries.get(at) {
            self.buffers[entry.tag()].prefetch(*entry);
        }
    }
}
