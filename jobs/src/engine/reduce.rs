//! Reducing: the groups of each partition go through `reduce`, and what it writes becomes a part.

use std::any::TypeId;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use bumpalo::Bump;
use rayon::ThreadPool;
use shardmill_datasets::sink::{PartSummary, PartWriter, SinkSpec};
use shardmill_protocol::Suspect;
use shardmill_protocol::slots::Slot;

use super::buffer::SortedLane;
use super::map::call_hook;
use super::queue::{Queue, all_or_first};
use super::sources::{Groups, Reader, Sources, undecodable};
use super::{Progress, Settings};
use crate::catch::{Panic, catch};
use crate::fault::{Fault, Phase};
use crate::job::{MapReduce, Result as JobResult, ValueRef};
use crate::key::Key;
use crate::output::OutputType;
use crate::value::Value;

/// The values of one key: exactly one with a combiner, else all of them in the order of the input.
///
/// An iterator over owned values; [`next_ref`](Self::next_ref) hands out borrowed ones. A group larger than memory is read from disk as
/// it is iterated over. What is not read is passed over.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Says how many different shops each customer went to, one after the other, and to which first.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Shops {}
/// # #[derive(Serialize, Deserialize)] struct Customer { customer: String, changes: u64, first: String }
///
/// impl MapReduce for Shops {
/// #     type Input = Lines; type Key = String; type Output = Customer;
///     type Value = String;
///     type Combine = NoCombine;
///     // …
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
/// #         let (customer, shop) = line.split_once(' ').ok_or("no shop")?;
/// #         out.emit(customer, shop.to_owned());
/// #         Ok(())
/// #     }
///     fn reduce(&self, customer: &str, mut shops: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         let first = shops.next().ok_or("a key has at least one value")?;
///         let (mut last, mut changes) = (first.clone(), 0);
///         for shop in shops {
///             changes += u64::from(shop != last);
///             last = shop;
///         }
///         out.write(Customer { customer: customer.to_owned(), changes, first })
///     }
/// }
/// # fn main() -> Result {
/// let shops = shardmill::testing::run(Shops {}, "ada bakery\nada bakery\nada market\nbo market\n")?;
/// assert_eq!(shops, "customer,changes,first\nada,1,bakery\nbo,0,market\n");
/// # Ok(())
/// # }
/// ```
pub struct Values<'a, J: MapReduce> {
    from: From<'a, J>,
    lent: Option<J::Value>,
    /// Read faults are kept by thread, so the values stay on theirs.
    _here: PhantomData<*const ()>,
}

enum From<'a, J: MapReduce> {
    One(Option<J::Value>),
    Sorted { lane: &'a SortedLane<'a>, left: Range<usize> },
    Merging { groups: &'a mut Groups, key: &'a [u8], progress: &'a Progress, read: u64 },
    Listed(std::slice::Iter<'a, &'a [u8]>),
}

thread_local! {
    /// What went wrong while values were read: iterators have no room for it, so it is looked at when `reduce` has returned.
    static READ_FAULT: std::cell::RefCell<Option<Fault>> = const { std::cell::RefCell::new(None) };
}

impl<'a, J: MapReduce> Values<'a, J> {
    pub(crate) fn one(value: J::Value) -> Self {
        Self { from: From::One(Some(value)), lent: None, _here: PhantomData }
    }

    pub(crate) fn sorted(lane: &'a SortedLane<'a>, left: Range<usize>) -> Self {
        Self { from: From::Sorted { lane, left }, lent: None, _here: PhantomData }
    }

    pub(crate) fn merging(groups: &'a mut Groups, key: &'a [u8], progress: &'a Progress) -> Self {
        Self { from: From::Merging { groups, key, progress, read: 0 }, lent: None, _here: PhantomData }
    }

    pub(crate) fn listed(values: &'a [&'a [u8]]) -> Self {
        Self { from: From::Listed(values.iter()), lent: None, _here: PhantomData }
    }

    /// The next value, borrowed where its type allows: `&[u8]` for [`Blob`](crate::Blob), `&str` for [`Text`](crate::Text).
    ///
    /// ```
    /// use shardmill::{MapReduce, Text, Values};
    ///
    /// fn longest<J: MapReduce<Value = Text>>(mut texts: Values<'_, J>) -> usize {
    ///     let mut longest = 0;
    ///     while let Some(text) = texts.next_ref() {
    ///         longest = longest.max(text.len());
    ///     }
    ///     longest
    /// }
    /// ```
    #[inline]
    pub fn next_ref(&mut self) -> Option<ValueRef<'_, J>> {
        if let From::One(value) = &mut self.from {
            self.lent = Some(value.take()?);
            return J::Value::lend(&mut self.lent);
        }
        self.next_bytes().and_then(decode::<J::Value>)
    }

    /// Hands the next value's encoding to `take`.
    pub(crate) fn next_encoded<T>(&mut self, scratch: &mut Vec<u8>, take: impl FnOnce(&[u8]) -> T) -> Option<Result<T, Fault>> {
        if let From::One(value) = &mut self.from {
            scratch.clear();
            value.take()?.encode(scratch);
            return Some(Ok(take(scratch)));
        }
        let taken = self.next_bytes().map(take);
        taken.map(Ok).or_else(|| READ_FAULT.take().map(Err))
    }

    #[inline]
    fn next_bytes(&mut self) -> Option<&[u8]> {
        match &mut self.from {
            From::One(_) => None,
            From::Listed(values) => values.next().copied(),
            From::Sorted { lane, left } => left.next().map(|at| lane.pair(at).1),
            From::Merging { groups, key, progress, read } => {
                // A single group may be as large as the input.
                *read += 1;
                let interrupted = || progress.is_interrupted().then_some(Fault::Interrupted);
                let next = match read.is_multiple_of(GROUPS_TOLD).then(interrupted).flatten() {
                    Some(fault) => Err(fault),
                    None => groups.next_value(key),
                };
                next.unwrap_or_else(|fault| {
                    READ_FAULT.replace(Some(fault));
                    None
                })
            }
        }
    }
}

#[inline]
fn decode<V: Value>(bytes: &[u8]) -> Option<V::Ref<'_>> {
    let value = V::decode(bytes);
    if value.is_none() {
        READ_FAULT.replace(Some(undecodable()));
    }
    value
}

impl<J: MapReduce> Iterator for Values<'_, J> {
    type Item = J::Value;

    #[inline]
    fn next(&mut self) -> Option<J::Value> {
        if let From::One(value) = &mut self.from {
            return value.take();
        }
        self.next_bytes().and_then(decode::<J::Value>).map(J::Value::own)
    }
}

/// Takes the rows of one part.
///
/// How rows are written follows from the job's [`Output`](MapReduce::Output) type: see [`OutputType`].
///
/// | output | method | examples |
/// |---|---|---|
/// | a serde struct | [`write`](Self::write) | [`MapReduce`] |
/// | [`Raw`](crate::Raw) | [`write_record`](Self::write_record) | [`Raw`](crate::Raw) |
/// | [`Table`](crate::Table) | [`add`](Self::add) | [`Table`](crate::Table) |
///
/// A key may have any number of rows, none included:
/// ```
/// use shardmill::prelude::*;
///
/// /// Lists the letters of words that occur more than once.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Letters {}
/// # #[derive(Serialize, Deserialize)] struct Row { word: String, letter: char }
///
/// impl MapReduce for Letters {
/// #     type Input = Lines; type Key = String; type Value = u64; type Combine = Sum; type Output = Row;
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { words(line).for_each(|word| out.emit(word, 1)); Ok(()) }
///     // …
///     fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         if counts.sum::<u64>() > 1 {
///             word.chars().try_for_each(|letter| out.write(Row { word: word.to_owned(), letter }))?;
///         }
///         Ok(())
///     }
/// }
/// # fn main() -> Result {
/// assert_eq!(shardmill::testing::run(Letters {}, "to be or\nnot to\n")?, "word,letter\nto,t\nto,o\n");
/// # Ok(())
/// # }
/// ```
pub struct Output<'a, J: MapReduce> {
    pub(crate) part: &'a mut PartWriter,
    pub(crate) state: &'a mut <J::Output as OutputType<J>>::State,
    pub(crate) fault: &'a mut Option<Fault>,
}

impl<J: MapReduce> Output<'_, J> {
    /// Keeps the typed fault for the engine, and gives `reduce` an error to return.
    pub(crate) fn check<T>(&mut self, result: Result<T, shardmill_datasets::sink::WriteError>) -> JobResult<T> {
        result.map_err(|error| {
            let message = error.to_string();
            *self.fault = Some(error.into());
            message.into()
        })
    }
}

/// Reduces a range of all `partitions` on all threads of the pool, each to a part that `path_of` names; returns what was written, in order.
#[allow(clippy::too_many_arguments, reason = "each is a thing of its own")]
pub(crate) fn reduce_partitions<J: MapReduce>(
    job: &J,
    sources: &Sources<J>,
    range: Range<u32>,
    partitions: u32,
    sink: &SinkSpec,
    path_of: impl Fn(u32) -> std::path::PathBuf + Sync,
    settings: &Settings,
    pool: &ThreadPool,
) -> Result<Vec<PartSummary>, Fault> {
    call_hook(Phase::Start, || job.start())?;
    let queue = Queue::new(range.clone());
    let parts: Mutex<Vec<Option<PartSummary>>> = Mutex::new(range.clone().map(|_| None).collect());
    let results = pool.broadcast(|thread| {
        let slot = settings.slots.of(thread.index());
        let mut reader = Reader::new(sources, partitions, job, settings);
        while let Some(partition) = queue.take() {
            slot.enter(Suspect { unit: partition, record: 0, offset: 0 });
            let mut watch = Watch { slot, queue: &queue, fault: None, key: Cell::new(None) };
            let reduced = catch(|| reduce_partition(job, &mut reader, partition, sink, &path_of(partition), settings, &mut watch))
                .unwrap_or_else(|panic| Err(watch.fault_of::<J::Key>(panic)));
            slot.leave();
            match reduced {
                Ok(summary) => {
                    let place = (partition - range.start) as usize;
                    parts.lock().expect("no thread panics while it holds the list")[place] = Some(summary);
                }
                Err(fault) => {
                    queue.fail(partition, &fault);
                    return Err((partition, fault));
                }
            }
            settings.progress.reduced_partitions.fetch_add(1, Relaxed);
            if matches!(sources, Sources::Tables(_) | Sources::Buffers(_)) {
                let all = settings.progress.collected_bytes.load(Relaxed);
                settings.progress.reduced_bytes.fetch_add(all / u64::from(partitions), Relaxed);
            }
        }
        settings.progress.heaviest().see_others(reader.into_heaviest());
        Ok(())
    });
    all_or_first(results)?;
    call_hook(Phase::Finish, || job.finish())?;
    let parts = parts.into_inner().expect("no thread panics while it holds the list");
    Ok(parts.into_iter().map(|part| part.expect("every partition was reduced")).collect())
}

/// After so many groups it is told that they are reduced, and asked whether to go on.
const GROUPS_TOLD: u64 = 4096;

/// Who watches a partition being reduced, and what is known of it when a panic leaves it: one is caught per partition, not per group.
struct Watch<'a> {
    slot: Slot<'a>,
    queue: &'a Queue,
    /// What the engine has met while a `reduce` was running.
    fault: Option<Fault>,
    /// The key whose `reduce` the panic has left.
    key: Cell<Option<Vec<u8>>>,
}

impl Watch<'_> {
    fn fault_of<K: Key>(self, panic: Panic) -> Fault {
        match (self.fault.or_else(|| READ_FAULT.take()), self.key.into_inner()) {
            // A job that meets the end of its values too early may well panic.
            (Some(fault), _) => fault,
            (None, Some(key)) => Fault::ReduceFailed { key: show_key::<K>(&key), cause: panic.message },
            // Combiners run while tables are merged.
            (None, None) => Fault::Panicked { phase: Phase::Combine, cause: panic.message },
        }
    }
}

/// Runs `reduce` for `key`; a panic that leaves it leaves the key in `left`. Costs nothing where there is none.
#[inline(always)]
fn reducing<T>(key: &[u8], left: &Cell<Option<Vec<u8>>>, reduce: impl FnOnce() -> T) -> T {
    struct Leaving<'a>(&'a [u8], &'a Cell<Option<Vec<u8>>>);
    impl Drop for Leaving<'_> {
        #[cold]
        fn drop(&mut self) {
            self.1.set(Some(self.0.to_owned()));
        }
    }
    let leaving = Leaving(key, left);
    let result = reduce();
    std::mem::forget(leaving);
    result
}

fn reduce_partition<J: MapReduce>(
    job: &J,
    reader: &mut Reader<'_, J>,
    partition: u32,
    sink: &SinkSpec,
    path: &Path,
    settings: &Settings,
    watch: &mut Watch<'_>,
) -> Result<PartSummary, Fault> {
    let mut part = PartWriter::create(path, sink)?;
    let mut state = <J::Output as OutputType<J>>::begin(job);
    let mut scratch = Bump::new();
    let Watch { slot, queue, fault, key: left } = watch;
    let mut groups = 0u64;
    reader.for_each_group(partition, |bytes, values| {
        slot.go_on(groups, 0);
        groups += 1;
        if groups.is_multiple_of(GROUPS_TOLD) {
            settings.progress.groups.fetch_add(GROUPS_TOLD, Relaxed);
            if settings.progress.is_interrupted() || queue.is_void(partition) {
                return Err(Fault::Interrupted);
            }
        }
        let outcome = reducing(bytes, left, || {
            let key = J::Key::decode(bytes, &scratch)?;
            let mut output = Output { part: &mut part, state: &mut state, fault };
            job.reduce(key, values, &mut output)
        });
        if let Some(fault) = fault.take().or_else(|| READ_FAULT.take()) {
            return Err(fault);
        }
        if scratch.allocated_bytes() > 0 {
            scratch.reset();
        }
        outcome.map_err(|error| Fault::ReduceFailed { key: show_key::<J::Key>(bytes), cause: error.to_string() })
    })?;
    let mut output = Output::<J> { part: &mut part, state: &mut state, fault };
    let ended = <J::Output as OutputType<J>>::end(&mut output);
    if let Some(fault) = fault.take() {
        return Err(fault);
    }
    ended.map_err(|error| Fault::Unwritable { path: path.into(), detail: error.to_string() })?;
    let summary = part.finish(settings.durable)?;
    settings.progress.groups.fetch_add(groups % GROUPS_TOLD, Relaxed);
    settings.progress.output_bytes.fetch_add(summary.bytes, Relaxed);
    Ok(summary)
}

/// So much of a key is shown, in bytes or characters.
const SHOWN: usize = 200;

/// A key for a person: as its type shows itself. Plain bytes, and what is no key, as text where it is some, else in hexadecimal.
pub(super) fn show_key<K: Key>(bytes: &[u8]) -> String {
    // The type may be the job's own, and what is shown may be what it has panicked on.
    let shown = catch(|| {
        let scratch = Bump::new();
        let key = K::decode(bytes, &scratch).ok().filter(|_| TypeId::of::<K>() != TypeId::of::<Vec<u8>>())?;
        Some(format!("{key:?}").chars().take(SHOWN).collect())
    });
    let plain = || match std::str::from_utf8(&bytes[..bytes.len().min(SHOWN)]) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    };
    shown.ok().flatten().unwrap_or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_as_what_it_is() {
        let shown = |key: &[u8]| show_key::<Vec<u8>>(key);
        assert_eq!((shown(b"some text"), shown(b"\0\xff")), ("\"some text\"".to_owned(), "00 ff".to_owned()));
        assert_eq!(show_key::<String>(b"one\ntwo"), "\"one\\ntwo\"");
        let mut key = Vec::new();
        <(String, i64) as Key>::encode(("Gent", -3), &mut key);
        assert_eq!(show_key::<(String, i64)>(&key), "(\"Gent\", -3)");
        // It would be text as well.
        assert_eq!(show_key::<u64>(b"ABCDEFGH"), "4702394921427289928");
        assert_eq!(show_key::<u64>(b"no number"), "\"no number\"");
        assert_eq!(show_key::<String>("é".repeat(500).as_bytes()).chars().count(), SHOWN);
    }
}
