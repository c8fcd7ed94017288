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
use shardmill_datasets::merge::prefix;

const HEAD: usize = 16;
const ADDRESS_BITS: u32 = 48;
/// The largest number of partitions (or of buffers that are read as one): the tag has 16 bits.
pub(crate) const MAX_TAG: u32 = 1 << 16;

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
    entries: Vec<Entry>,
    /// The entries by partition, once `divide` was called; then `entries` is empty.
    divided: Vec<Entry>,
    /// Where each partition begins in `divided`.
    starts: Vec<usize>,
    limit_bytes: usize,
}

impl SortBuffer {
    /// An empty buffer that takes at most `limit_bytes`, or one pair.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        let chunk_bytes = (limit_bytes / 16).clamp(16 << 10, 16 << 20);
        Self { arena: Arena::new(chunk_bytes), entries: Vec::new(), divided: Vec::new(), starts: Vec::new(), limit_bytes }
    }

    /// Memory held, that for sorting included.
    pub(crate) fn held_bytes(&self) -> usize {
        self.arena.held_bytes() + 2 * self.entries.capacity().max(self.divided.capacity()) * size_of::<Entry>()
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.divided.len()
    }

    /// Whether another pair of this size has to wait until the buffer was emptied.
    #[inline(always)]
    pub(crate) fn is_full_for(&self, key: &[u8], value_bytes: usize) -> bool {
        let growth = self.arena.growth_for(HEAD + key.len() + value_bytes);
        let fits = growth == 0 && self.entries.len() < self.entries.capacity();
        !fits && self.must_not_grow(growth)
    }

    #[cold]
    fn must_not_grow(&self, arena_bytes: usize) -> bool {
        let entries = if self.entries.len() < self.entries.capacity() { 0 } else { self.entries.capacity().max(64) };
        // While entries move, the old ones are still there; the copy for sorting is counted with the held bytes.
        let bytes = self.held_bytes() + arena_bytes + 2 * entries * size_of::<Entry>();
        bytes > self.limit_bytes && !self.entries.is_empty()
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
        self.entries.push(Entry { prefix: prefix(key), place: address.0 | u64::from(partition) << ADDRESS_BITS });
        Ok(())
    }

    /// Groups the entries by partition, each partition's in the order of arrival.
    pub(crate) fn divide(&mut self, partitions: u32) {
        let mut starts = vec![0; partitions as usize + 1];
        for entry in &self.entries {
            starts[entry.tag() + 1] += 1;
        }
        for partition in 0..partitions as usize {
            starts[partition + 1] += starts[partition];
        }
        if partitions == 1 {
            self.divided = std::mem::take(&mut self.entries);
        } else {
            let mut next = starts.clone();
            self.divided.clear();
            self.divided.resize(self.entries.len(), Entry { prefix: 0, place: 0 });
            for entry in &self.entries {
                let place = &mut next[entry.tag()];
                self.divided[*place] = *entry;
                *place += 1;
            }
            self.entries = Vec::new();
        }
        self.starts = starts;
    }

    /// Whether the entries are grouped by partition.
    pub(crate) fn is_divided(&self) -> bool {
        !self.starts.is_empty()
    }

    /// The entries of one partition, after `divide`.
    pub(crate) fn partition(&self, partition: u32) -> &[Entry] {
        &self.divided[self.starts[partition as usize]..self.starts[partition as usize + 1]]
    }

    /// Sorts each partition's entries where they are.
    pub(crate) fn sort_partition(&mut self, partition: u32) -> &[Entry] {
        let range = self.starts[partition as usize]..self.starts[partition as usize + 1];
        let mut entries = std::mem::take(&mut self.divided);
        let buffers = std::slice::from_ref(&*self);
        entries[range.clone()].sort_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| pair(buffers, a.with_tag(0)).0.cmp(pair(buffers, b.with_tag(0)).0)));
        self.divided = entries;
        &self.divided[range]
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

    /// Empties the buffer; most of its memory is kept for what comes next.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.entries = std::mem::take(&mut self.divided);
        self.entries.clear();
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
