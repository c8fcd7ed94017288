//! The sort buffer: pairs of a job without a combiner, kept until they are sorted.
//!
//! Pairs are put into lanes as they come (`lanes.rs` says into which), one behind the other. A lane grows chunk by chunk; nothing is moved
//! once it is there. To sort a lane its pairs are listed, in one pass over memory that lies together, and the list is sorted
//! (`order.rs`).
//!
//! ```text
//! lane    (pair │ mark)*                    over chunks, each of whole pairs
//! pair    head │ key, unless it is a piece of the value │ value
//! head    length of the value: 27 bits │ length of the key: 17 bits │ where in the value the key begins: 20 bits
//! mark    a head that no pair has │ number: u64                  from here on, pairs are numbered from this one on
//! ```
//! The number of a pair is its place in the input. It is not kept, but follows from where the pair lies behind the last mark.

use std::cmp::Ordering;
use std::io;

use super::arena::{Address, Arena};
use super::lanes::Lanes;
use super::order::{Entry, Place, Sorter};
use super::pages::Pages;
use super::partition::Partitioner;
use super::table::prefetch;
use shardmill_datasets::merge;

const HEAD_BYTES: usize = 8;
const MARK_BYTES: usize = HEAD_BYTES + 8;
/// A lane grows by this much where it can: the last chunks of all lanes, half of which is not used yet, must not count.
const CHUNK_BYTES: usize = 16 << 10;
/// How many pairs ahead pairs are fetched.
const AHEAD: usize = 12;

/// What stands before a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head(u64);

impl Head {
    const VALUE_BITS: u32 = 27;
    const KEY_BITS: u32 = 17;
    /// In the place of an offset: the key is no piece of the value, or too far behind in it, and stands before it.
    const ASIDE: usize = (1 << (64 - Self::VALUE_BITS - Self::KEY_BITS)) - 1;
    /// Keys are never as long as this says.
    const MARK: Self = Self(u64::MAX);

    #[inline(always)]
    fn of(key: &[u8], value: &[u8]) -> Self {
        let offset = key.as_ptr().addr().wrapping_sub(value.as_ptr().addr());
        let is_piece = offset < Self::ASIDE && offset + key.len() <= value.len();
        let offset = if is_piece { offset } else { Self::ASIDE };
        Self((value.len() | key.len() << Self::VALUE_BITS | offset << (Self::VALUE_BITS + Self::KEY_BITS)) as u64)
    }

    #[inline(always)]
    fn value_bytes(self) -> usize {
        self.0 as usize & ((1 << Self::VALUE_BITS) - 1)
    }

    #[inline(always)]
    fn key_bytes(self) -> usize {
        (self.0 >> Self::VALUE_BITS) as usize & ((1 << Self::KEY_BITS) - 1)
    }

    #[inline(always)]
    fn offset(self) -> usize {
        (self.0 >> (Self::VALUE_BITS + Self::KEY_BITS)) as usize
    }

    /// Where the value begins behind the head.
    #[inline(always)]
    fn value_start(self) -> usize {
        if self.offset() == Self::ASIDE { self.key_bytes() } else { 0 }
    }

    /// Where the key begins behind the head.
    #[inline(always)]
    fn key_start(self) -> usize {
        if self.offset() == Self::ASIDE { 0 } else { self.offset() }
    }

    /// The bytes behind the head.
    #[inline(always)]
    fn pair_bytes(self) -> usize {
        self.value_start() + self.value_bytes()
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self(u64::from_le_bytes(*bytes.first_chunk().expect("chunks hold whole pairs")))
    }
}

/// Pairs by lane, each lane's in the order of arrival.
pub(crate) struct SortBuffer {
    arena: Arena,
    lanes: Lanes,
    tails: Vec<Tail>,
    chunk_bytes: usize,
    /// What a mark says that is made now.
    number: u64,
    /// Changes with `number`: tails know whether they have a mark that says so.
    era: u32,
    limit_bytes: usize,
}

/// The end of a lane, and where the rest of it is.
#[derive(Clone, Debug)]
struct Tail {
    /// Where the next pair goes, and how many bytes are left there.
    next: Address,
    left: usize,
    era: u32,
    pairs: usize,
    chunks: Vec<Chunk>,
}

/// A piece of a lane. The end of the last one is where the next pair goes.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: Address,
    end: Address,
}

impl SortBuffer {
    /// An empty buffer that takes at most `limit_bytes`, or one pair.
    pub(crate) fn new(partitioner: Partitioner, limit_bytes: usize) -> Self {
        let lanes = Lanes::new(partitioner, limit_bytes);
        Self {
            arena: Arena::new((limit_bytes / 16).clamp(CHUNK_BYTES, 16 << 20)),
            tails: vec![Tail { next: Address(0), left: 0, era: 0, pairs: 0, chunks: Vec::new() }; lanes.count()],
            chunk_bytes: (limit_bytes / (16 * lanes.count())).clamp(128, CHUNK_BYTES),
            lanes,
            number: 0,
            era: 1,
            limit_bytes,
        }
    }

    /// The same, to be filled into what another one has left first.
    pub(crate) fn in_place_of(self, chunks: Vec<Pages>) -> Self {
        Self { arena: self.arena.with_chunks(chunks), ..self }
    }

    /// Gives back what no pair was put into: there will be no more.
    pub(crate) fn settle(&mut self) {
        self.arena.give_back_unused();
    }

    /// Its memory, for another one.
    pub(crate) fn into_chunks(self) -> Vec<Pages> {
        self.arena.into_chunks()
    }

    /// Begins a shard: from here on pairs are numbered from `number` on. 2⁴⁰ numbers have to be free behind it.
    pub(crate) fn begin_shard(&mut self, number: u64) {
        self.number = number;
        self.era += 1;
    }

    /// Whether there are no pairs.
    pub(crate) fn is_empty(&self) -> bool {
        self.tails.iter().all(|tail| tail.pairs == 0)
    }

    /// Number of pairs in a lane.
    fn len_of(&self, lane: usize) -> usize {
        self.tails[lane].pairs
    }

    /// Memory held, with what sorting the longest lane takes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.collected_bytes() + LaneSorter::bytes_for(&[self])
    }

    /// Memory that pairs take.
    pub(crate) fn collected_bytes(&self) -> usize {
        let tails = self.tails.iter().map(|tail| size_of::<Tail>() + tail.chunks.capacity() * size_of::<Chunk>());
        self.arena.held_bytes() + tails.sum::<usize>()
    }

    /// The lane that a key belongs to.
    #[inline(always)]
    pub(crate) fn lane_of(&self, key: &[u8]) -> usize {
        self.lanes.of_key(key)
    }

    /// Whether another pair has to wait until the buffer was emptied.
    #[inline(always)]
    pub(crate) fn is_full_for(&self, lane: usize, key: &[u8], value: &[u8]) -> bool {
        let bytes = MARK_BYTES + HEAD_BYTES + key.len() + value.len();
        self.tails[lane].left < bytes && self.must_not_grow(bytes)
    }

    #[cold]
    fn must_not_grow(&self, bytes: usize) -> bool {
        let growth = self.arena.growth_for(bytes.max(self.chunk_bytes));
        growth > 0 && self.held_bytes() + growth > self.limit_bytes && !self.is_empty()
    }

    /// Adds a pair, whatever the limit.
    #[inline(always)]
    pub(crate) fn push(&mut self, lane: usize, key: &[u8], value: &[u8]) -> io::Result<()> {
        let head = Head::of(key, value);
        let bytes = HEAD_BYTES + head.pair_bytes();
        if self.tails[lane].left < bytes || self.tails[lane].era != self.era {
            self.make_room(lane, bytes)?;
        }
        let room = self.write_to(lane, bytes);
        room[..HEAD_BYTES].copy_from_slice(&head.0.to_le_bytes());
        if head.value_start() > 0 {
            room[HEAD_BYTES..HEAD_BYTES + key.len()].copy_from_slice(key);
        }
        room[HEAD_BYTES + head.value_start()..].copy_from_slice(value);
        // What comes next in this lane finds its place in the cache.
        let behind = room.as_ptr_range().end;
        prefetch(behind.wrapping_add(64));
        prefetch(behind.wrapping_add(128));
        self.tails[lane].pairs += 1;
        Ok(())
    }

    /// The next bytes of a lane, which must have so much room.
    #[inline(always)]
    fn write_to(&mut self, lane: usize, bytes: usize) -> &mut [u8] {
        let tail = &mut self.tails[lane];
        assert!(bytes <= tail.left, "`make_room` was called");
        let start = tail.next;
        tail.next = Address(start.0 + bytes as u64);
        tail.left -= bytes;
        // SAFETY: chunks are claims of the arena that are not given back before `clear`, `left` bytes from `next` on belong to the
        // lane's last chunk, and nobody else has a reference into it: `&mut self`.
        unsafe { self.arena.get_mut(start, bytes) }
    }

    /// Makes sure that a lane has so much room, and a mark if it needs one.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, lane: usize, bytes: usize) -> io::Result<()> {
        let needs_mark = self.tails[lane].era != self.era;
        let bytes = bytes + if needs_mark { MARK_BYTES } else { 0 };
        if self.tails[lane].left < bytes {
            let chunk_bytes = bytes.max(self.chunk_bytes);
            let (start, _) = self.arena.claim(chunk_bytes)?;
            let tail = &mut self.tails[lane];
            if let Some(last) = tail.chunks.last_mut() {
                last.end = tail.next;
            }
            tail.chunks.push(Chunk { start, end: start });
            (tail.next, tail.left) = (start, chunk_bytes);
        }
        if needs_mark {
            let number = self.number;
            self.tails[lane].era = self.era;
            let room = self.write_to(lane, MARK_BYTES);
            room[..HEAD_BYTES].copy_from_slice(&Head::MARK.0.to_le_bytes());
            room[HEAD_BYTES..].copy_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    /// Lists the pairs of a lane, and how they are numbered.
    fn list(&self, lane: usize, buffer: usize, entries: &mut Vec<Entry>, marks: &mut Vec<Mark>) {
        let tail = &self.tails[lane];
        let mut number = 0;
        for (index, chunk) in tail.chunks.iter().enumerate() {
            let end = if index + 1 == tail.chunks.len() { tail.next } else { chunk.end };
            let place = |at: usize| Place::new(buffer, Address(chunk.start.0 + at as u64));
            // SAFETY: from its start to its end, a chunk was claimed and written.
            let bytes = unsafe { self.arena.get(chunk.start, (end.0 - chunk.start.0) as usize) };
            let mut mark = Mark { place: place(0), number };
            marks.push(mark);
            let mut at = 0;
            while at < bytes.len() {
                let head = Head::read(&bytes[at..]);
                if head == Head::MARK {
                    let number = u64::from_le_bytes(*bytes[at + HEAD_BYTES..].first_chunk().expect("a mark has a number"));
                    mark = Mark { place: place(at), number };
                    marks.push(mark);
                    at += MARK_BYTES;
                    continue;
                }
                let key = &bytes[at + HEAD_BYTES + head.key_start()..][..head.key_bytes()];
                entries.push(Entry::new(merge::prefix(key), place(at)));
                at += HEAD_BYTES + head.pair_bytes();
            }
            number = mark.number_at(end) + 1;
        }
    }

    /// Key and value at an address.
    #[inline(always)]
    fn pair(&self, address: Address) -> (&[u8], &[u8]) {
        // SAFETY: entries are listed with the addresses of heads, and are gone when the arena is cleared.
        let head = Head::read(unsafe { self.arena.get(address, HEAD_BYTES) });
        // SAFETY: as its head says, the pair goes on for so many bytes.
        let pair = unsafe { self.arena.get(Address(address.0 + HEAD_BYTES as u64), head.pair_bytes()) };
        (&pair[head.key_start()..][..head.key_bytes()], &pair[head.value_start()..])
    }

    /// Fetches a pair that will be looked at soon.
    #[inline(always)]
    fn prefetch(&self, address: Address) {
        // SAFETY: the entry's address lies in the arena.
        let start = unsafe { self.arena.pointer(address) };
        prefetch(start);
        prefetch(start.wrapping_add(64));
    }

    /// Empties the buffer; its memory is kept for what comes next.
    pub(crate) fn clear(&mut self) {
        // The shard goes on: above all numbers that any lane has used.
        self.number += (self.arena.held_bytes() / HEAD_BYTES) as u64;
        self.era += 1;
        self.arena.clear();
        for tail in &mut self.tails {
            tail.chunks.clear();
            (tail.left, tail.pairs) = (0, 0);
        }
    }
}

/// From here on, pairs are numbered from `number` on. Numbers need not be dense: each pair takes at least its head.
#[derive(Clone, Copy, Debug)]
struct Mark {
    place: Place,
    number: u64,
}

impl Mark {
    fn number_at(self, address: Address) -> u64 {
        self.number + (address.0 - self.place.address().0) / HEAD_BYTES as u64
    }
}

/// The number of the pair at `place`. Marks are in the order of their places.
fn number(marks: &[Mark], place: Place) -> u64 {
    marks[marks.partition_point(|mark| mark.place <= place) - 1].number_at(place.address())
}

/// Sorts lanes of several buffers, one after the other in the same memory.
#[derive(Default)]
pub(crate) struct LaneSorter {
    sorter: Sorter,
    marks: Vec<Mark>,
}

impl LaneSorter {
    /// Memory that sorting any lane of `buffers` takes.
    pub(crate) fn bytes_for(buffers: &[&SortBuffer]) -> usize {
        let lanes = buffers.first().map_or(0, |buffer| buffer.tails.len());
        let longest = (0..lanes).map(|lane| buffers.iter().map(|buffer| buffer.len_of(lane)).sum()).max();
        Sorter::bytes_for(longest.unwrap_or(0))
    }

    /// Calls `each` with all pairs of `partition` in all `buffers`, lane by lane: in the order of their keys and, for equal keys, of the
    /// input.
    pub(crate) fn for_each_lane<E>(
        &mut self,
        buffers: &[SortBuffer],
        partition: u32,
        mut each: impl FnMut(&SortedLane<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(first) = buffers.first() else { return Ok(()) };
        first.lanes.of_partition(partition).try_for_each(|lane| {
            let entries = self.sorter.list(buffers.iter().map(|buffer| buffer.len_of(lane)).sum());
            self.marks.clear();
            for (index, buffer) in buffers.iter().enumerate() {
                buffer.list(lane, index, entries, &mut self.marks);
            }
            let marks = &self.marks;
            let key = |entry: Entry| buffers[entry.place().buffer()].pair(entry.place().address()).0;
            let arrival = |a: Place, b: Place| if a.buffer() == b.buffer() { a.cmp(&b) } else { number(marks, a).cmp(&number(marks, b)) };
            let by_key = |a: Entry, b: Entry| -> Ordering { key(a).cmp(key(b)).then_with(|| arrival(a.place(), b.place())) };
            each(&SortedLane { buffers, entries: self.sorter.sort(by_key), marks })
        })
    }
}

/// One lane of several buffers, sorted.
pub(crate) struct SortedLane<'a> {
    buffers: &'a [SortBuffer],
    entries: &'a [Entry],
    marks: &'a [Mark],
}

impl<'a> SortedLane<'a> {
    /// The number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The end of the group of pairs whose first is at `start`.
    #[inline]
    pub(crate) fn group_end(&self, start: usize) -> usize {
        let first = self.entries[start];
        let is_equal = |entry: &&Entry| entry.prefix() == first.prefix() && self.pair_of(**entry).0 == self.pair_of(first).0;
        start + 1 + self.entries[start + 1..].iter().take_while(is_equal).count()
    }

    #[inline]
    fn pair_of(&self, entry: Entry) -> (&'a [u8], &'a [u8]) {
        self.buffers[entry.place().buffer()].pair(entry.place().address())
    }

    /// Key and value of a pair. One some places behind it is fetched meanwhile.
    #[inline]
    pub(crate) fn pair(&self, at: usize) -> (&'a [u8], &'a [u8]) {
        if let Some(later) = self.entries.get(at + AHEAD) {
            self.buffers[later.place().buffer()].prefetch(later.place().address());
        }
        self.pair_of(self.entries[at])
    }

    /// The place of a pair in the input, as a number.
    pub(crate) fn number(&self, at: usize) -> u64 {
        number(self.marks, self.entries[at].place())
    }
}
