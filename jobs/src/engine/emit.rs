//! What `map` is handed to emit and count with.

use super::collect::Collector;
use crate::job::{KeyRef, MapReduce, ValueRef};

/// Takes the pairs of a record.
///
/// What a record emits counts once its `map` has returned without an error.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Counts the uses of each pair of neighbouring words.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Pairs {}
/// # #[derive(Serialize, Deserialize)] struct Pair { first: String, second: String, count: u64 }
///
/// impl MapReduce for Pairs {
/// #     type Input = Lines; type Value = u64; type Combine = Sum; type Output = Pair;
///     type Key = (String, String);
///     // …
///     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
///         if line.is_empty() {
///             out.count("empty lines", 1);
///         }
///         for (first, second) in words(line).zip(words(line).skip(1)) {
///             out.emit((first, second), 1);
///         }
///         Ok(())
///     }
///
///     fn reduce(&self, (first, second): (&str, &str), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         out.write(Pair { first: first.to_owned(), second: second.to_owned(), count: counts.sum() })
///     }
/// }
/// # fn main() -> Result {
/// let pairs = shardmill::testing::run(Pairs {}, "a b a b\n\nb c\n")?;
/// assert_eq!(pairs, "first,second,count\na,b,2\nb,a,1\nb,c,1\n");
/// # Ok(())
/// # }
/// ```
pub struct Emitter<'a, J: MapReduce> {
    collector: &'a mut Collector<J>,
    /// From every address in here 16 bytes can be read: short keys that lie in it are loaded without looking at their length.
    readable: (*const u8, *const u8),
}

impl<'a, J: MapReduce> Emitter<'a, J> {
    pub(crate) fn new(collector: &'a mut Collector<J>) -> Self {
        Self { collector, readable: (std::ptr::null(), std::ptr::null()) }
    }

    /// An emitter for records that lie in `padded`.
    pub(crate) fn for_block(collector: &'a mut Collector<J>, padded: &'a [u8]) -> Self {
        let range = padded.as_ptr_range();
        let last = if padded.len() < 16 { range.start } else { range.end.wrapping_sub(15) };
        Self { collector, readable: (range.start, last) }
    }

    /// Emits `value` under `key`.
    ///
    /// Keys may have up to 64 KiB and values up to 64 MiB in their encoding; more makes the record a bad one.
    ///
    /// ```
    /// use shardmill::{Emitter, MapReduce, words};
    ///
    /// fn emit_words<J: MapReduce<Key = String, Value = u64>>(line: &str, out: &mut Emitter<'_, J>) {
    ///     words(line).for_each(|word| out.emit(word, 1));
    /// }
    /// ```
    #[inline(always)]
    pub fn emit(&mut self, key: KeyRef<'_, J>, value: ValueRef<'_, J>) {
        self.collector.emit(key, value, self.readable);
    }

    /// What the job keeps from record to record on this thread, made by `T::default()` when first asked for; one `T` at a time.
    ///
    /// It is for gathering what would else be emitted record by record. It has to be emitted in
    /// [`end_shard`](MapReduce::end_shard), and nothing may come of it that the shard's records do not account for. What is kept of a
    /// record that turns out to be bad stays: nothing may be kept before a record is known to be good.
    ///
    /// ```
    /// use shardmill::prelude::*;
    ///
    /// /// Counts lines.
    /// #[derive(Args, Serialize, Deserialize)]
    /// struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Total { lines: u64 }
    ///
    /// impl MapReduce for Count {
    /// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Total;
    ///     fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> Result {
    ///         *out.local::<u64>() += 1;
    ///         Ok(())
    ///     }
    ///
    ///     fn end_shard(&self, out: &mut Emitter<'_, Self>) -> Result {
    ///         match std::mem::take(out.local::<u64>()) {
    ///             0 => {}
    ///             lines => out.emit((), lines),
    ///         }
    ///         Ok(())
    ///     }
    /// #     fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Total { lines: lines.sum() }) }
    /// }
    /// # fn main() -> Result {
    /// assert_eq!(shardmill::testing::run(Count {}, "one\ntwo\nthree\n")?, "lines\n3\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn local<T: Default + Send + 'static>(&mut self) -> &mut T {
        self.collector.local()
    }

    /// Adds `by` to the counter `name`, which is shown with the result. Counts of bad records and of attempts that fail do not count.
    ///
    /// ```
    /// use shardmill::{Emitter, MapReduce};
    ///
    /// fn note_length<J: MapReduce>(line: &str, out: &mut Emitter<'_, J>) {
    ///     match line.len() {
    ///         0 => out.count("empty lines", 1),
    ///         length => out.count("characters", length as u64),
    ///     }
    /// }
    /// ```
    pub fn count(&mut self, name: &'static str, by: u64) {
        self.collector.count(name, by);
    }

    /// The record's pairs stand.
    #[inline(always)]
    pub(crate) fn accept_record(&mut self) {
        self.collector.accept_record();
    }

    /// Whether a pair could not be collected.
    #[inline(always)]
    pub(crate) fn has_failed(&self) -> bool {
        self.collector.failure.is_some()
    }
}
