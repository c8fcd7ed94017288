//! Combiners: folding the values of a key as they are emitted, long before `reduce` sees them.
//!
//! With a combiner the engine folds all values of a key to exactly one, in any order and grouping, so `reduce` never sees how
//! the work was cut. [`NoCombine`] keeps every value, in input order.

/// Folds two values of the same key into one.
///
/// The operation must be associative and commutative: it runs any number of times, in any order, on several threads, before and
/// after the shuffle. A panic in it ends the attempt; it is never counted as a bad record.
///
/// ```
/// use shardmill::{Combine, Sum};
///
/// let mut sum = 2u64;
/// Sum.combine(&mut sum, 3);
/// assert_eq!(sum, 5);
/// ```
///
/// One's own:
/// ```
/// use shardmill::Combine;
///
/// /// Keeps the longest word.
/// #[derive(Default)]
/// struct Longest;
///
/// impl Combine<String> for Longest {
///     fn combine(&self, longest: &mut String, next: String) {
///         if (next.len(), &*longest) > (longest.len(), &next) {
///             *longest = next;
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not combine values of type `{V}`",
    note = "`Sum` adds integers alone: floats add up to something else in another order, so count in a smaller unit, or without a combiner"
)]
pub trait Combine<V>: Send + Sync + 'static {
    /// Whether values are folded at all. Only [`NoCombine`] says no.
    const COMBINES: bool = true;

    /// Folds `next` into `sum`, both values of the same key.
    ///
    /// ```
    /// use shardmill::{Combine, Max};
    ///
    /// let mut most = 2u64;
    /// [7, 5].into_iter().for_each(|next| Max.combine(&mut most, next));
    /// assert_eq!(most, 7);
    /// ```
    fn combine(&self, sum: &mut V, next: V);
}

/// Adds values up. Integer overflow is a panic, which ends the job: a wrong sum is never written.
///
/// ```
/// use shardmill::{Combine, Sum};
///
/// let mut sum = 40u64;
/// Sum.combine(&mut sum, 2);
/// assert_eq!(sum, 42);
/// ```
/// Floats have no `Sum`: their addition is not associative, so the result would depend on how the work was cut. Count in whole units, or collect
/// the values with [`NoCombine`] and add them in `reduce`, in the order of the input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum;

/// Keeps the smallest value.
///
/// ```
/// use shardmill::{Combine, Min};
///
/// let mut least = (3, "three");
/// Min.combine(&mut least, (1, "one"));
/// assert_eq!(least, (1, "one"));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Min;

/// Keeps the largest value.
///
/// ```
/// use shardmill::{Combine, Max};
///
/// let mut most = 3;
/// Max.combine(&mut most, 8);
/// assert_eq!(most, 8);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Max;

/// Keeps every value, in input order.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Lists what stands under each first word, in the order of the input.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Lists {}
/// # #[derive(Serialize, Deserialize)] struct List { word: String, items: String }
///
/// impl MapReduce for Lists {
/// #     type Input = Lines; type Key = String; type Output = List;
///     type Value = String;
///     type Combine = NoCombine;
///     // …
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
/// #         let (word, item) = line.split_once(' ').ok_or("one word alone")?;
/// #         out.emit(word, item.to_owned());
/// #         Ok(())
/// #     }
///     fn reduce(&self, word: &str, items: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         let items: Vec<String> = items.collect();
///         out.write(List { word: word.to_owned(), items: items.join("; ") })
///     }
/// }
/// # fn main() -> Result {
/// let lists = shardmill::testing::run(Lists {}, "red wine\ngreen tea\nred apples\n")?;
/// assert_eq!(lists, "word,items\ngreen,tea\nred,wine; apples\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCombine;

macro_rules! sum_of_integers {
    ($($number:ty)*) => {$(
        impl Combine<$number> for Sum {
            #[inline(always)]
            fn combine(&self, sum: &mut $number, next: $number) {
                *sum = sum.checked_add(next).expect(concat!("a sum does not fit into ", stringify!($number)));
            }
        }
    )*};
}
sum_of_integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

impl<V: Ord> Combine<V> for Min {
    #[inline(always)]
    fn combine(&self, least: &mut V, next: V) {
        if next < *least {
            *least = next;
        }
    }
}

impl<V: Ord> Combine<V> for Max {
    #[inline(always)]
    fn combine(&self, most: &mut V, next: V) {
        if next > *most {
            *most = next;
        }
    }
}

impl<V> Combine<V> for NoCombine {
    const COMBINES: bool = false;

    /// Never called.
    fn combine(&self, _: &mut V, _: V) {
        unreachable!("values without a combiner are kept apart");
    }
}
