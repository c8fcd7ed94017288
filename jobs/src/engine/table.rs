//! The combine table: one value per key, folded as pairs are emitted.
//!
//! Open addressing with linear probing. A slot holds a short key's bytes, the value, and one word with the hash and the key's length;
//! keys of more than 16 bytes lie in an arena. The hash's top bits are the place in the table, so slots are in hash order but for
//! collisions, a partition is one stretch of slots, and nothing is scattered when the table is read.
//!
//! A probe of a large table misses every cache. So a pair first waits in a small ring while its slot is fetched, and is folded when
//! `RING` further pairs have come (what the wait is worth: see the performance notes in the README).
//!
//! The table does not decide what happens when it is full: `push` says so, and its owner drains it (`collect.rs`).

use std::io;
use std::mem::MaybeUninit;

use super::arena::{Address, Arena};
use super::hash::{first_hash_of, hash_long, hash_words, partition_of};
use super::pages::Pages;
use super::words16::{load_words, load_words_padded};
use crate::catch::combining;
use crate::combine::Combine;
use shardmill_datasets::merge::prefix;

/// Pairs that wait for their slots.
const RING: usize = 32;
/// Slots behind the last index, where probes that run over the end go on. The very last is never filled.
const OVERRUN: usize = 64;
/// The tag of keys that lie in the arena; short keys have their length + 1 there, empty slots nothing.
const LONG: u64 = 0xFF;
const TAG: u64 = 0xFF;
/// Up to this size, and within their limit, tables grow fourfold: it is rarer, and probes are short in a table that is mostly empty.
/// Memory is what larger ones must not waste.
const SMALL_BYTES: usize = 160 << 20;
/// Bytes of long keys that may wait in the ring.
const STAGED_BYTES: usize = 256 << 10;

/// An entry: in the table, or waiting for it.
struct Slot<V> {
    /// The key's first eight bytes, or a long key's arena address (in the ring: offset in `staged`).
    low: u64,
    /// The next eight bytes, or a long key's length.
    high: u64,
    /// Hash and tag; zero in an empty slot.
    meta: u64,
    /// Initialised where `meta` is not zero.
    value: MaybeUninit<V>,
}

impl<V> Slot<V> {
    const EMPTY: Self = Self { low: 0, high: 0, meta: 0, value: MaybeUninit::uninit() };
}

/// What a push left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Room {
    /// There is room for more.
    Left,
    /// The table has reached its limit and should be drained soon.
    Full,
}

/// One value per key.
pub(crate) struct Table<V, C> {
    pages: Pages,
    /// Indexable slots; `OVERRUN` more follow.
    slots: usize,
    used: usize,
    /// From this many entries on the table grows or is full.
    grow_at: usize,
    limit_bytes: usize,
    ring: Box<[Slot<V>; RING]>,
    next: usize,
    staged: Vec<u8>,
    arena: Arena,
    /// Hashes are multiplied by this first: the number of partitions in a table that holds one partition only, else 1.
    spread: u64,
    /// The number of lists in which the entries leave, about equally long, one at a time.
    lists: usize,
    /// The values are no longer the table's: nothing is dropped with it.
    taken: bool,
    combiner: C,
}

/// An entry's place, with the first twelve bytes of its key: what is sorted instead of entries. Only keys that are alike in all of
/// these are looked up to compare them, and each look misses the caches.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    prefix: u64,
    /// What would else be padding.
    next: u32,
    slot: u32,
}

impl<V, C: Combine<V>> Table<V, C> {
    /// An empty table that takes at most about `limit_bytes`, and at least what `expected` entries need.
    pub(crate) fn new(combiner: C, expected: usize, limit_bytes: usize) -> io::Result<Self> {
        let slots = Self::slots_for(expected);
        Ok(Self::with(combiner, Self::allocate(slots)?, slots, limit_bytes))
    }

    /// An empty table in the memory of one before it, if there are as many bytes as the smallest table has. It takes the system longer to
    /// hand out zeroed memory than it takes to write zeroes.
    pub(crate) fn in_place_of(before: Pages, combiner: C, limit_bytes: usize) -> Option<Self> {
        let slots = (before.bytes() / size_of::<Slot<V>>()).checked_sub(OVERRUN).filter(|slots| (64..=1 << 31).contains(slots))?;
        // SAFETY: the region has this size and one owner.
        unsafe { before.start().write_bytes(0, before.bytes()) };
        Some(Self::with(combiner, before, slots, limit_bytes))
    }

    /// An empty table of so many slots, for which there is room in `pages`; all of that is zero.
    fn with(combiner: C, pages: Pages, slots: usize, limit_bytes: usize) -> Self {
        Self {
            pages,
            slots,
            used: 0,
            grow_at: Self::crowded(slots),
            limit_bytes,
            ring: Box::new([const { Slot::EMPTY }; RING]),
            next: 0,
            staged: Vec::new(),
            arena: Arena::new((limit_bytes / 16).clamp(64 << 10, 16 << 20)),
            spread: 1,
            lists: 1,
            taken: false,
            combiner,
        }
    }

    /// The memory of a table whose values were given up.
    pub(crate) fn into_pages(mut self) -> Pages {
        assert!(self.taken, "no value may be lost");
        std::mem::replace(&mut self.pages, Pages::none())
    }

    /// Makes this the table of one out of `partitions` partitions: the hash's top, the same in all its keys, is shifted out.
    pub(crate) fn for_one_partition(mut self, partitions: u32) -> Self {
        self.spread = u64::from(partitions);
        self
    }

    /// Makes this a table whose entries are listed partition by partition, which takes less memory than listing all at once.
    pub(crate) fn listed_in(mut self, partitions: u32) -> Self {
        self.lists = partitions as usize;
        self
    }

    /// Memory for the list of so many entries, or for the longest one: partitions are about equal.
    fn list_bytes(&self, entries: usize) -> usize {
        entries.min(entries / self.lists * 2 + 1024) * size_of::<Entry>()
    }

    /// The number of entries at which a table of this size grows: at five eighths, a probe for a new key looks at four slots.
    fn crowded(slots: usize) -> usize {
        slots / 8 * 5
    }

    /// The number of entries at which a table that may not grow is full.
    fn packed(slots: usize) -> usize {
        slots / 4 * 3
    }

    /// The slots of a table that takes this many entries and need not grow.
    fn slots_for(entries: usize) -> usize {
        (entries / 5 * 8 + 16).max(64)
    }

    fn slot_bytes(slots: usize) -> usize {
        (slots + OVERRUN) * size_of::<Slot<V>>()
    }

    fn allocate(slots: usize) -> io::Result<Pages> {
        Pages::zeroed(Self::slot_bytes(slots))
    }

    /// Memory for a table of this many entries.
    pub(crate) fn bytes_for(entries: usize) -> usize {
        Self::slot_bytes(Self::slots_for(entries)) + entries * size_of::<Entry>()
    }

    /// Whether the table takes this many entries without growing.
    pub(crate) fn takes(&self, entries: usize) -> bool {
        entries <= Self::crowded(self.slots)
    }

    /// Memory that the table holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.pages.bytes() + self.arena.held_bytes() + self.staged.capacity()
    }

    /// Memory that long keys take.
    pub(crate) fn long_key_bytes(&self) -> usize {
        self.arena.held_bytes()
    }

    /// Number of keys, those in the ring aside.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> *mut Slot<V> {
        debug_assert!(index < self.slots + OVERRUN);
        // SAFETY: callers keep `index` below `slots + OVERRUN` (`start_of` yields less than `slots`, walks stop at the last slot,
        // which is never filled), and the pages hold that many slots, aligned, as zeroes or as written.
        unsafe { self.pages.start().cast::<Slot<V>>().add(index) }
    }

    #[inline(always)]
    fn start_of(&self, meta: u64) -> usize {
        // The hash as a fraction of all hashes, of the slots: in its order, and below their number.
        ((u128::from(meta.wrapping_mul(self.spread)) * self.slots as u128) >> 64) as usize
    }

    /// Folds `value` in under `key`. From every address within `readable`, 16 bytes must be readable.
    #[inline(always)]
    pub(crate) fn push(&mut self, key: &[u8], value: V, readable: (*const u8, *const u8)) -> Room {
        if key.len() > 16 {
            return self.push_long(key, value);
        }
        let start = key.as_ptr();
        let (low, high) = if start >= readable.0 && start < readable.1 {
            let start = readable.0.wrapping_add(start.addr() - readable.0.addr());
            // SAFETY: the caller's block is readable for 16 bytes from every address in this range.
            unsafe { load_words_padded(start, key.len()) }
        } else {
            load_words(key)
        };
        self.enqueue(Slot { low, high, meta: hash_words(low, high) | (key.len() as u64 + 1), value: MaybeUninit::new(value) })
    }

    #[inline(never)]
    fn push_long(&mut self, key: &[u8], value: V) -> Room {
        let mut room = Room::Left;
        if self.staged.len() + key.len() > STAGED_BYTES {
            room = self.settle();
        }
        let staged = self.staged.len() as u64;
        self.staged.extend_from_slice(key);
        let meta = hash_long(key) | LONG;
        match self.enqueue(Slot { low: staged, high: key.len() as u64, meta, value: MaybeUninit::new(value) }) {
            Room::Full => Room::Full,
            Room::Left => room,
        }
    }

    /// Lets a pair wait for its slot, and folds the one that has waited longest.
    #[inline(always)]
    fn enqueue(&mut self, pair: Slot<V>) -> Room {
        prefetch(self.slot(self.start_of(pair.meta)));
        let place = self.next % RING;
        self.next = self.next.wrapping_add(1);
        let waited = std::mem::replace(&mut self.ring[place], pair);
        if waited.meta == 0 { Room::Left } else { self.fold_in(waited) }
    }

    /// Folds all waiting pairs in.
    pub(crate) fn settle(&mut self) -> Room {
        let mut room = Room::Left;
        for offset in 0..RING {
            let waited = std::mem::replace(&mut self.ring[(self.next.wrapping_add(offset)) % RING], Slot::EMPTY);
            if waited.meta != 0 && self.fold_in(waited) == Room::Full {
                room = Room::Full;
            }
        }
        self.staged.clear();
        room
    }

    #[inline(always)]
    fn fold_in(&mut self, pair: Slot<V>) -> Room {
        if pair.meta & TAG == LONG {
            return self.fold_long(pair);
        }
        let mut index = self.start_of(pair.meta);
        loop {
            // SAFETY: see `slot`; nothing else refers to the slot while it is looked at.
            let slot = unsafe { &mut *self.slot(index) };
            if slot.meta == pair.meta && slot.low == pair.low && slot.high == pair.high {
                // SAFETY: an entry with a tag has a value, in the table and in the ring alike.
                let (sum, next) = unsafe { (slot.value.assume_init_mut(), pair.value.assume_init()) };
                combining(|| self.combiner.combine(sum, next));
                return Room::Left;
            }
            if slot.meta == 0 {
                return self.insert(index, pair);
            }
            index += 1;
        }
    }

    #[inline(never)]
    fn fold_long(&mut self, pair: Slot<V>) -> Room {
        let staged = pair.low as usize..pair.low as usize + pair.high as usize;
        let mut index = self.start_of(pair.meta);
        loop {
            // SAFETY: as in `fold_in`.
            let slot = unsafe { &mut *self.slot(index) };
            if slot.meta == 0 {
                let (address, room) = match self.arena.claim(staged.len()) {
                    Ok(claimed) => claimed,
                    Err(error) => out_of_memory(&error),
                };
                room.copy_from_slice(&self.staged[staged]);
                let room = self.insert(index, Slot { low: address.0, ..pair });
                return if self.held_bytes() > self.limit_bytes { Room::Full } else { room };
            }
            if slot.meta == pair.meta && slot.high == pair.high {
                // SAFETY: a long key's slot holds the address and length of its own claim.
                let key = unsafe { self.arena.get(Address(slot.low), slot.high as usize) };
                if *key == self.staged[staged.clone()] {
                    // SAFETY: as in `fold_in`.
                    let (sum, next) = unsafe { (slot.value.assume_init_mut(), pair.value.assume_init()) };
                    combining(|| self.combiner.combine(sum, next));
                    return Room::Left;
                }
            }
            index += 1;
        }
    }

    /// Puts an entry into the empty slot that its probe found.
    #[inline(always)]
    fn insert(&mut self, index: usize, entry: Slot<V>) -> Room {
        if index + 1 == self.slots + OVERRUN {
            return self.insert_after_growing(entry);
        }
        // SAFETY: see `slot`; an empty slot holds no value that would have to be dropped.
        unsafe { self.slot(index).write(entry) };
        self.used += 1;
        if self.used < self.grow_at { Room::Left } else { self.grow_or_say_full() }
    }

    /// A probe ran to the very end: whatever the limit, only a larger table can take the entry.
    #[cold]
    fn insert_after_growing(&mut self, entry: Slot<V>) -> Room {
        self.grow(self.slots * 2);
        let mut index = self.start_of(entry.meta);
        // SAFETY: see `slot`.
        while unsafe { (*self.slot(index)).meta } != 0 {
            index += 1;
        }
        let room = self.insert(index, entry);
        if self.held_bytes() > self.limit_bytes { Room::Full } else { room }
    }

    #[cold]
    #[inline(never)]
    fn grow_or_say_full(&mut self) -> Room {
        // Old and new stand side by side for a moment, and the limit covers both. Entries are numbered with 32 bits.
        let rest = self.held_bytes() + self.list_bytes(self.used);
        let fits = |factor: usize| self.slots < 1 << 31 && Self::slot_bytes(self.slots * factor) + rest <= self.limit_bytes;
        let factor = if Self::slot_bytes(self.slots * 4) <= SMALL_BYTES && fits(4) { 4 } else { 2 };
        if fits(factor) {
            self.grow(self.slots * factor);
            return Room::Left;
        }
        // No larger table is allowed. This one still takes entries up to three quarters, less what their long keys need.
        if self.used >= Self::packed(self.slots) || rest > self.limit_bytes {
            return Room::Full;
        }
        self.grow_at = self.used + (self.slots / 64).max(1);
        Room::Left
    }

    fn grow(&mut self, slots: usize) {
        let pages = match Self::allocate(slots) {
            Ok(pages) => pages,
            Err(error) => out_of_memory(&error),
        };
        let old_slots = self.slots;
        let old = std::mem::replace(&mut self.pages, pages);
        (self.slots, self.grow_at) = (slots, Self::crowded(slots));
        for old_index in 0..old_slots + OVERRUN {
            // SAFETY: `old` holds `old_slots + OVERRUN` slots; each entry is moved out once, and `old` is unmapped without dropping.
            let entry = unsafe { old.start().cast::<Slot<V>>().add(old_index).read() };
            if entry.meta != 0 {
                let mut index = self.start_of(entry.meta);
                // SAFETY: see `slot`. Entries come nearly in the order of the new table, at half its load at most: a run that would
                // reach the end needs `OVERRUN` keys with the same hash, which is answered by growing again.
                while unsafe { (*self.slot(index)).meta } != 0 {
                    index += 1;
                    combining(|| assert!(index + 1 < self.slots + OVERRUN, "more than {OVERRUN} keys share one hash"));
                }
                // SAFETY: see `slot`.
                unsafe { self.slot(index).write(entry) };
            }
        }
    }

    /// Puts as many empty slots as the limit allows in the place of those there are, whose memory is given back first; fails where
    /// they would not be at least a quarter more, or where the system refuses memory. There are empty or the old slots then.
    fn renew(&mut self) -> io::Result<()> {
        // A slot takes its share of the list and of long keys with it.
        let list_bytes = self.list_bytes(Self::packed(self.slots)) + self.arena.held_bytes();
        let slot_bytes = size_of::<Slot<V>>() + list_bytes.div_ceil(self.slots);
        let fixed = OVERRUN * size_of::<Slot<V>>() + self.staged.capacity() + 4096;
        let slots = (self.limit_bytes.saturating_sub(fixed) / slot_bytes).min(1 << 31);
        if slots < self.slots / 4 * 5 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        for slots in [64, slots] {
            self.pages = Self::allocate(slots)?;
            (self.slots, self.grow_at) = (slots, Self::crowded(slots));
        }
        Ok(())
    }

    /// The key of the entry in `slot`.
    fn key<'a>(&'a self, slot: &'a Slot<V>) -> KeyBytes<'a> {
        if slot.meta & TAG == LONG {
            // SAFETY: a long key's slot holds the address and length of its own claim.
            KeyBytes::Long(unsafe { self.arena.get(Address(slot.low), slot.high as usize) })
        } else {
            let bytes = (u128::from(slot.low) | u128::from(slot.high) << 64).to_le_bytes();
            KeyBytes::Short(bytes, (slot.meta & TAG) as usize - 1)
        }
    }

    /// The slots in which the entries of `partition` lie, with those of neighbours among them at the edges.
    fn stretch(&self, partition: u32, partitions: u32) -> std::ops::Range<usize> {
        let start = self.start_of(first_hash_of(partition, partitions));
        let mut end = if partition + 1 == partitions { self.slots } else { self.start_of(first_hash_of(partition + 1, partitions)) + 1 };
        // Probes of the last keys may have run on.
        // SAFETY: see `slot`; the last slot is empty.
        while unsafe { (*self.slot(end)).meta } != 0 {
            end += 1;
        }
        start..end
    }

    /// Lists the entries of one partition in the order of their keys. The ring must be settled.
    pub(crate) fn sorted_partition(&self, partition: u32, partitions: u32, out: &mut Vec<Entry>) {
        debug_assert_eq!(self.spread, 1);
        self.list(self.stretch(partition, partitions), |meta| partition_of(meta & !TAG, partitions) == partition, out);
    }

    /// Lists all entries in the order of their keys. The ring must be settled.
    pub(crate) fn sorted(&self, out: &mut Vec<Entry>) {
        self.list(0..self.slots + OVERRUN, |_| true, out);
    }

    fn list(&self, slots: std::ops::Range<usize>, belongs: impl Fn(u64) -> bool, out: &mut Vec<Entry>) {
        out.clear();
        for index in slots {
            // SAFETY: see `slot`.
            let slot = unsafe { &*self.slot(index) };
            if slot.meta != 0 && belongs(slot.meta) {
                let (low, high) = if slot.meta & TAG == LONG {
                    // SAFETY: a long key has more than sixteen bytes at its address.
                    let start = unsafe { self.arena.get(Address(slot.low), 16) };
                    (prefix(start), prefix(&start[8..]))
                } else {
                    (slot.low.swap_bytes(), slot.high.swap_bytes())
                };
                out.push(Entry { prefix: low, next: (high >> 32) as u32, slot: index as u32 });
            }
        }
        // As numbers first: that is a third faster than to ask each time what decides where they are alike.
        out.sort_unstable_by_key(|entry| entry.prefix);
        for alike in out.chunk_by_mut(|a, b| a.prefix == b.prefix).filter(|alike| alike.len() > 1) {
            alike.sort_unstable_by(|a, b| a.next.cmp(&b.next).then_with(|| self.entry_key(a).as_bytes().cmp(self.entry_key(b).as_bytes())));
        }
    }

    fn entry_key(&self, entry: &Entry) -> KeyBytes<'_> {
        // SAFETY: see `slot`; entries are listed from this table.
        self.key(unsafe { &*self.slot(entry.slot as usize) })
    }

    /// Hands out the entries in `entries`, in their order, with key and value; the table's own copies count as gone.
    ///
    /// # Safety
    /// Every entry must come from this table and be taken once, and the table must be cleared or forgotten before anything else is
    /// done with it.
    pub(crate) unsafe fn take<E>(&self, entries: &[Entry], mut each: impl FnMut(&[u8], V) -> Result<(), E>) -> Result<(), E> {
        for (place, entry) in entries.iter().enumerate() {
            if let Some(later) = entries.get(place + 8) {
                prefetch(self.slot(later.slot as usize));
            }
            // SAFETY: the caller takes each entry once, so the value is moved out once.
            let (slot, value) = unsafe { (&*self.slot(entry.slot as usize), (*self.slot(entry.slot as usize)).value.assume_init_read()) };
            each(self.key(slot).as_bytes(), value)?;
        }
        Ok(())
    }

    /// Folds the entries of one partition into `into`, a table for that partition.
    ///
    /// # Safety
    /// No partition may be moved twice, and the table must be cleared or forgotten before anything else is done with it.
    pub(crate) unsafe fn move_partition(&self, partition: u32, partitions: u32, into: &mut Self) {
        for index in self.stretch(partition, partitions) {
            // SAFETY: see `slot`.
            let slot = unsafe { &*self.slot(index) };
            if slot.meta == 0 || partition_of(slot.meta & !TAG, partitions) != partition {
                continue;
            }
            // SAFETY: the value is moved out once, by the caller's promise.
            let value = MaybeUninit::new(unsafe { slot.value.assume_init_read() });
            let mut low = slot.low;
            if slot.meta & TAG == LONG {
                if into.staged.len() > STAGED_BYTES {
                    let _ = into.settle();
                }
                low = into.staged.len() as u64;
                // SAFETY: a long key's slot holds the address and length of its own claim.
                into.staged.extend_from_slice(unsafe { self.arena.get(Address(slot.low), slot.high as usize) });
            }
            let _ = into.enqueue(Slot { low, high: slot.high, meta: slot.meta, value });
        }
    }

    /// Gives the values up: from now on they leave through `take` and `move_partition`, and what does not is leaked.
    pub(crate) fn give_values_up(&mut self) {
        self.taken = true;
    }

    /// Empties the table without dropping the values, which must have been taken; what waits in the ring stays.
    ///
    /// A table that was full of slots comes back larger if there is room for that but was none for the old one beside it.
    pub(crate) fn clear_taken(&mut self) {
        if self.used >= Self::packed(self.slots) && self.renew().is_ok() {
            self.used = 0;
        } else {
            // SAFETY: all slots, as `allocate` sized them; zero is what an empty slot looks like.
            unsafe { self.pages.start().write_bytes(0, Self::slot_bytes(self.slots)) };
            self.used = 0;
            self.grow_at = Self::crowded(self.slots);
        }
        // Given back: what long keys took may be slots' next.
        self.arena = Arena::new(self.arena.chunk_bytes());
        self.taken = false;
    }
}

impl<V, C> Drop for Table<V, C> {
    fn drop(&mut self) {
        if self.taken || !std::mem::needs_drop::<V>() {
            return;
        }
        let table = self.pages.start().cast::<Slot<V>>();
        for index in 0..self.slots + OVERRUN {
            // SAFETY: the pages hold this many slots; an entry with a tag owns its value. (`clear_taken` removes the tags of entries
            // whose values were taken.)
            unsafe {
                let slot = &mut *table.add(index);
                if slot.meta != 0 {
                    slot.value.assume_init_drop();
                }
            }
        }
        for slot in self.ring.iter_mut().filter(|slot| slot.meta != 0) {
            // SAFETY: as above.
            unsafe { slot.value.assume_init_drop() };
        }
    }
}

// SAFETY: a table owns its memory and its values alone; the raw addresses in slots are relative to its own arena.
unsafe impl<V: Send, C: Send> Send for Table<V, C> {}
// SAFETY: `&Table` reads keys; values leave through `take` and `move_partition` only, whose callers promise that no two take the same.
unsafe impl<V: Send, C: Sync> Sync for Table<V, C> {}

/// A key's bytes: a copy of a short one, a borrow of a long one.
enum KeyBytes<'a> {
    Short([u8; 16], usize),
    Long(&'a [u8]),
}

impl KeyBytes<'_> {
    #[inline(always)]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(address.cast(), std::arch::x86_64::_MM_HINT_T0)
    };
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// The system gives no more memory although the budget allows it: like a failed `Vec` allocation, this ends the process.
#[cold]
fn out_of_memory(error: &io::Error) -> ! {
    combining(|| panic!("the system refuses memory for a combine table: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::combine::Sum;

    const NOWHERE: (*const u8, *const u8) = (std::ptr::null(), std::ptr::null());

    /// Keys that are short, long, equal but for zeroes at the end, and equal in their first eight bytes.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(0u8..3, 0..18),
            prop::collection::vec(any::<u8>(), 0..40),
            (0u32..300).prop_map(|n| format!("prefix-{n:08}").into_bytes()),
            (0u32..300).prop_map(|n| format!("a long key with number {n}").into_bytes()),
        ]
    }

    fn contents(table: &Table<u64, Sum>, partition: u32, partitions: u32) -> Vec<(Vec<u8>, u64)> {
        let (mut entries, mut found) = (Vec::new(), Vec::new());
        table.sorted_partition(partition, partitions, &mut entries);
        // SAFETY: numbers may be read any number of times.
        let taken: Result<(), ()> = unsafe {
            table.take(&entries, |key, value| {
                found.push((key.to_vec(), value));
                Ok(())
            })
        };
        taken.unwrap();
        found
    }

    proptest! {
        #[test]
        fn every_partition_has_its_keys_in_order_with_their_sums(
            pairs in prop::collection::vec((keys(), 0u64..1000), 0..600),
            partitions in 1u32..9,
        ) {
            let mut table = Table::new(Sum, 0, usize::MAX).unwrap();
            let mut expected: BTreeMap<&[u8], u64> = BTreeMap::new();
            for (key, value) in &pairs {
                prop_assert_eq!(table.push(key, *value, NOWHERE), Room::Left);
                *expected.entry(key).or_default() += value;
            }
            prop_assert_eq!(table.settle(), Room::Left);
            prop_assert_eq!(table.used(), expected.len());
            let mut seen = 0;
            for partition in 0..partitions {
                let found = contents(&table, partition, partitions);
                prop_assert!(found.is_sorted_by(|a, b| a.0 < b.0));
                for (key, sum) in &found {
                    prop_assert_eq!(partition_of(super::super::hash::hash(key), partitions), partition);
                    prop_assert_eq!(expected.get(key.as_slice()), Some(sum));
                }
                seen += found.len();
            }
            prop_assert_eq!(seen, expected.len());
        }

        #[test]
        fn merging_the_partitions_of_two_tables_gives_the_sums_of_both(
            pairs in prop::collection::vec((keys(), 0u64..1000, any::<bool>()), 0..400),
            partitions in 1u32..9,
        ) {
            let mut tables = [Table::new(Sum, 0, usize::MAX).unwrap(), Table::new(Sum, 0, usize::MAX).unwrap()];
            let mut expected: BTreeMap<&[u8], u64> = BTreeMap::new();
            for (key, value, which) in &pairs {
                let _ = tables[usize::from(*which)].push(key, *value, NOWHERE);
                *expected.entry(key).or_default() += value;
            }
            tables.iter_mut().for_each(|table| { let _ = table.settle(); });
            let mut found = BTreeMap::new();
            for partition in 0..partitions {
                let mut merged = Table::new(Sum, 0, usize::MAX).unwrap().for_one_partition(partitions);
                for table in &tables {
                    // SAFETY: each partition is moved once, and numbers need no dropping.
                    unsafe { table.move_partition(partition, partitions, &mut merged) };
                }
                let _ = merged.settle();
                let mut entries = Vec::new();
                merged.sorted(&mut entries);
                // SAFETY: each entry is taken once.
                let taken: Result<(), ()> = unsafe { merged.take(&entries, |key, value| { found.insert(key.to_vec(), value); Ok(()) }) };
                taken.unwrap();
            }
            let expected: BTreeMap<Vec<u8>, u64> = expected.into_iter().map(|(key, sum)| (key.to_vec(), sum)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_table_says_when_it_is_full_and_starts_again_when_it_is_drained() {
        let mut table = Table::new(Sum, 0, 32 << 10).unwrap();
        let mut sums: HashMap<u64, u64> = HashMap::new();
        let mut drains = 0;
        let mut drain = |table: &mut Table<u64, Sum>| {
            for (key, sum) in contents(table, 0, 1) {
                *sums.entry(u64::from_be_bytes(key.try_into().unwrap())).or_default() += sum;
            }
            table.clear_taken();
        };
        for n in 0..20_000u64 {
            if table.push(&(n % 5000).to_be_bytes(), 1, NOWHERE) == Room::Full {
                assert!(table.held_bytes() <= 40 << 10, "{}", table.held_bytes());
                drain(&mut table);
                drains += 1;
            }
        }
        let _ = table.settle();
        drain(&mut table);
        assert!(drains > 10);
        assert_eq!(sums.len(), 5000);
        assert!(sums.values().all(|sum| *sum == 4));
    }

    #[test]
    fn a_table_in_place_of_another_one_begins_empty_and_as_large() {
        let fill =
            |table: &mut Table<u64, Sum>| (0..10_000u64).for_each(|n| assert_eq!(table.push(&n.to_be_bytes(), n, NOWHERE), Room::Left));
        let mut before = Table::new(Sum, 0, usize::MAX).unwrap();
        fill(&mut before);
        before.give_values_up();
        let held = before.held_bytes();
        let mut table = Table::<u64, Sum>::in_place_of(before.into_pages(), Sum, usize::MAX).unwrap();
        let _ = table.settle();
        assert_eq!(contents(&table, 0, 1), []);
        fill(&mut table);
        let _ = table.settle();
        assert!(contents(&table, 0, 1).into_iter().eq((0..10_000u64).map(|n| (n.to_be_bytes().to_vec(), n))));
        assert!(table.held_bytes() <= held, "it had no need to grow");
        assert!(Table::<u64, Sum>::in_place_of(Pages::none(), Sum, usize::MAX).is_none());
    }

    #[test]
    fn a_table_that_was_full_comes_back_as_large_as_its_limit_allows() {
        // Twice the slots do not fit beside those there are, but by themselves.
        let mut table = Table::new(Sum, 0, 96 << 10).unwrap().listed_in(64);
        let mut taken = vec![];
        let mut pushed = 0u64;
        for _ in 0..3 {
            let before = pushed;
            while table.push(&pushed.to_be_bytes(), 1, NOWHERE) == Room::Left {
                pushed += 1;
            }
            pushed += 1;
            assert!(table.held_bytes() + contents(&table, 0, 64).len() * size_of::<Entry>() <= 96 << 10);
            taken.push(pushed - before);
            table.clear_taken();
        }
        assert!((700..900).contains(&taken[0]) && (1500..1600).contains(&taken[1]) && taken[2] == taken[1], "{taken:?}");
    }

    #[test]
    fn short_keys_in_a_padded_block_are_the_same_keys() {
        let text: Vec<u8> = (0..200u8).map(|n| b'a' + n % 26).collect();
        let padded = [text.clone(), vec![0; 64]].concat();
        let readable = (padded.as_ptr(), padded.as_ptr().wrapping_add(padded.len() - 15));
        let (mut one, mut other) = (Table::new(Sum, 0, usize::MAX).unwrap(), Table::new(Sum, 0, usize::MAX).unwrap());
        for start in 0..200 {
            for length in 0..(200 - start).min(20) {
                let _ = one.push(&padded[start..start + length], 1, readable);
                let _ = other.push(&text[start..start + length], 1, NOWHERE);
            }
        }
        let _ = (one.settle(), other.settle());
        assert_eq!(contents(&one, 0, 1), contents(&other, 0, 1));
    }

    #[test]
    fn values_are_dropped_once_wherever_they_are() {
        use std::rc::Rc;
        struct Keep;
        impl Combine<Rc<()>> for Keep {
            fn combine(&self, _: &mut Rc<()>, _: Rc<()>) {}
        }
        let counted = Rc::new(());
        let mut table = Table::new(Keep, 0, usize::MAX).unwrap();
        for n in 0..1000u32 {
            let _ = table.push(&(n % 300).to_be_bytes(), Rc::clone(&counted), NOWHERE);
        }
        drop(table);
        assert_eq!(Rc::strong_count(&counted), 1);
    }
}
