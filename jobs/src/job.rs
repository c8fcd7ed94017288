//! The trait that a job implements.

use std::error::Error;

use arrow::datatypes::SchemaRef;

use crate::combine::Combine;
use crate::engine::{Emitter, Output, Values};
use crate::key::Key;
use crate::output::OutputType;
use crate::shape::Shape;
use crate::value::Value;

/// What `map` and `reduce` return: any error will do, it is shown with the record or key that it came from.
///
/// ```
/// fn half(text: &str) -> shardmill::Result<i32> {
///     let number: i32 = text.parse()?;
///     if number % 2 == 0 { Ok(number / 2) } else { Err(format!("{number} is odd").into()) }
/// }
/// assert_eq!(half("8").unwrap(), 4);
/// assert_eq!(half("7").unwrap_err().to_string(), "7 is odd");
/// ```
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The record that a job's `map` receives.
///
/// ```
/// use shardmill::{Emitter, MapReduce, Record};
///
/// fn is_good<J: MapReduce>(job: &J, record: Record<'_, J>, out: &mut Emitter<'_, J>) -> bool {
///     job.map(record, out).is_ok()
/// }
/// ```
pub type Record<'a, J> = <<J as MapReduce>::Input as Shape>::Record<'a>;
/// The key as a job emits and reduces it.
///
/// ```
/// use shardmill::{Emitter, KeyRef, MapReduce, ValueRef};
///
/// fn emit<J: MapReduce>((key, value): (KeyRef<'_, J>, ValueRef<'_, J>), out: &mut Emitter<'_, J>) {
///     out.emit(key, value);
/// }
/// ```
pub type KeyRef<'a, J> = <<J as MapReduce>::Key as Key>::Ref<'a>;
/// The value as a job emits it: itself, or `&[u8]` and `&str` for [`Blob`](crate::Blob) and [`Text`](crate::Text).
///
/// ```
/// use shardmill::{MapReduce, Text, ValueRef};
///
/// fn trimmed<J: MapReduce<Value = Text>>(text: ValueRef<'_, J>) -> ValueRef<'_, J> {
///     text.trim()
/// }
/// ```
pub type ValueRef<'a, J> = <<J as MapReduce>::Value as Value>::Ref<'a>;

/// How keys are spread over partitions.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// The words of a text in alphabetical order, over all parts.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Dictionary {}
///
/// impl MapReduce for Dictionary {
/// #     type Input = Lines; type Key = String; type Value = u64; type Combine = Sum; type Output = Raw;
///     fn partitioning(&self) -> Partitioning {
///         Partitioning::Range
///     }
///     // …
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { words(line).for_each(|word| out.emit(word, 1)); Ok(()) }
/// #     fn reduce(&self, word: &str, _: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write_record(word.as_bytes()) }
/// }
/// # fn main() -> Result {
/// assert_eq!(shardmill::testing::run(Dictionary {}, "to be or\nnot to be\n")?, "be\nnot\nor\nto\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Partitioning {
    /// By a fixed hash: partitions are of similar size whatever the keys, and in no order.
    #[default]
    Hash,
    /// By ranges of keys, cut by a sample of the input: the parts, one after the other, are in the order of the keys.
    Range,
}

/// Which columns of a tabular input a job reads.
///
/// Columns of a CSV, Arrow or Parquet file that are not named are not parsed. [`Batches`](crate::Batches) has an example.
///
/// ```
/// use shardmill::Columns;
///
/// let columns = Columns::Named(vec!["city".to_owned(), "price".to_owned()]);
/// assert_ne!(columns, Columns::All);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// All of them.
    #[default]
    All,
    /// Those with these names; a file that lacks one is refused before any work.
    Named(Vec<String>),
}

/// What types the columns of text formats (CSV, TSV, JSON lines) get in a job that reads [`Batches`](crate::Batches).
///
/// Arrow and Parquet files bring their own types. A value that does not fit its column's type makes its row a bad record.
///
/// ```
/// use shardmill::ColumnTypes;
/// use shardmill::table::parse_schema;
///
/// let types = ColumnTypes::Given(parse_schema("price: decimal(12,2), code: text")?.into());
/// # assert_ne!(types, ColumnTypes::Inferred);
/// # Ok::<(), shardmill::table::SchemaError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ColumnTypes {
    /// Inferred from a fixed prefix of the input.
    #[default]
    Inferred,
    /// As given for the columns named; the others are inferred.
    Given(SchemaRef),
}

/// A job: its fields are its parameters, its methods are its phases.
///
/// `map` is called for every record, in no order that could be relied on and on several threads at once; `reduce` once for every
/// distinct key, in the order of the keys within a partition. Both must be deterministic: the same record gives the same pairs, the
/// same key and values the same rows. Then the output is the same to the byte, whatever the threads, memory and failures.
///
/// ```
/// use shardmill::prelude::*;
///
/// #[derive(Args, Serialize, Deserialize)]
/// struct WordCount {}
///
/// #[derive(Serialize, Deserialize)]
/// struct WordTotal { word: String, count: u64 }
///
/// impl MapReduce for WordCount {
///     type Input = Lines;
///     type Key = String;
///     type Value = u64;
///     type Combine = Sum;
///     type Output = WordTotal;
///
///     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
///         words(line).for_each(|word| out.emit(word, 1));
///         Ok(())
///     }
///
///     fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         out.write(WordTotal { word: word.to_owned(), count: counts.sum() })
///     }
/// }
/// # fn main() -> Result {
/// let rows = shardmill::testing::run(WordCount {}, "to be or\nnot to be\n")?;
/// assert_eq!(rows, "word,count\nbe,2\nnot,1\nor,1\nto,2\n");
/// # Ok(())
/// # }
/// ```
pub trait MapReduce: Sized + Send + Sync + 'static {
    /// The shape of a record: [`Lines`](crate::Lines), [`Bytes`](crate::Bytes), [`Rows<T>`](crate::Rows),
    /// [`Batches`](crate::Batches) or [`Any`](crate::Any).
    type Input: Shape;
    /// What pairs are grouped by.
    type Key: Key;
    /// What is emitted under a key.
    type Value: Value;
    /// How values are folded before they are reduced: [`Sum`](crate::Sum), [`Min`](crate::Min), [`Max`](crate::Max), one's own,
    /// or [`NoCombine`](crate::NoCombine).
    type Combine: Combine<Self::Value> + Default;
    /// What `reduce` writes: any serde struct, or [`Table`](crate::Table) or [`Raw`](crate::Raw).
    type Output: OutputType<Self>;

    /// The job's version, shown by `describe`.
    const VERSION: &'static str = "0.1.0";

    /// Maps a record to any number of pairs, with `out.emit(key, value)`.
    ///
    /// An error or a panic makes this a bad record: nothing of it counts.
    fn map(&self, record: Record<'_, Self>, out: &mut Emitter<'_, Self>) -> Result;

    /// Reduces all values of a key to any number of rows, with `out.write(row)`.
    ///
    /// With a combiner there is exactly one value. An error or a panic ends the job and names the key.
    fn reduce(&self, key: KeyRef<'_, Self>, values: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result;

    /// Makes the combiner, where it needs the job's parameters.
    ///
    /// ```
    /// use shardmill::prelude::*;
    ///
    /// /// Adds up, to a limit.
    /// #[derive(Default)]
    /// struct UpTo(u64);
    ///
    /// impl Combine<u64> for UpTo {
    ///     fn combine(&self, sum: &mut u64, next: u64) {
    ///         *sum = self.0.min(*sum + next);
    ///     }
    /// }
    ///
    /// /// Counts words, but none more often than anybody wants to know.
    /// #[derive(Args, Serialize, Deserialize)]
    /// struct Few {
    ///     #[arg(long)]
    ///     most: u64,
    /// }
    /// # #[derive(Serialize, Deserialize)] struct WordTotal { word: String, count: u64 }
    ///
    /// impl MapReduce for Few {
    /// #     type Input = Lines; type Key = String; type Value = u64; type Output = WordTotal;
    ///     type Combine = UpTo;
    ///     // …
    ///     fn combiner(&self) -> UpTo {
    ///         UpTo(self.most)
    ///     }
    /// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { words(line).for_each(|word| out.emit(word, 1)); Ok(()) }
    /// #     fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
    /// #         out.write(WordTotal { word: word.to_owned(), count: counts.sum() })
    /// #     }
    /// }
    /// # fn main() -> Result {
    /// assert_eq!(shardmill::testing::run(Few { most: 2 }, "a a a\na b\n")?, "word,count\na,2\nb,1\n");
    /// # Ok(())
    /// # }
    /// ```
    fn combiner(&self) -> Self::Combine {
        Self::Combine::default()
    }

    /// Which columns of a tabular input are read. [`Rows<T>`](crate::Rows) knows by itself; [`Batches`](crate::Batches) has an example.
    fn columns(&self) -> Result<Columns> {
        Ok(Columns::All)
    }

    /// What types the columns of text formats get. [`ColumnTypes`] has an example.
    fn column_types(&self) -> Result<ColumnTypes> {
        Ok(ColumnTypes::Inferred)
    }

    /// Learns what the input looks like: called once in each process before anything else, with the same result everywhere.
    ///
    /// `schema` has the columns that are read, for tabular formats. An error ends the job before any work.
    fn bind(&mut self, schema: Option<&SchemaRef>) -> Result {
        let _ = schema;
        Ok(())
    }

    /// The columns that are read from delimited text, where these are not simply those in `schema`: a column may be read as another type
    /// than the one inferred, or twice, as different types.
    fn columns_read(&mut self, schema: &SchemaRef) -> SchemaRef {
        schema.clone()
    }

    /// Whether text columns of [`Batches`](crate::Batches) may come as dictionaries (`Dictionary(Int32, Utf8)`): where that is how they
    /// are stored, or where a column of delimited text has few values. A batch's own schema says which do.
    fn takes_dictionaries(&self) -> bool {
        false
    }

    /// How keys are spread over partitions. [`Partitioning`] has an example.
    fn partitioning(&self) -> Partitioning {
        Partitioning::Hash
    }

    /// The columns of the output, for jobs that write a [`Table`](crate::Table). Called after `bind`.
    fn output_schema(&self) -> Option<SchemaRef> {
        None
    }

    /// Emits pairs that are there whatever the input holds; called once for a whole job.
    ///
    /// An aggregate over no groups has a result even where there is no record:
    /// ```
    /// use shardmill::prelude::*;
    ///
    /// /// Counts lines.
    /// #[derive(Args, Serialize, Deserialize)]
    /// struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { lines: u64 }
    ///
    /// impl MapReduce for Count {
    /// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    ///     // …
    ///     fn seed(&self, out: &mut Emitter<'_, Self>) -> Result {
    ///         out.emit((), 0);
    ///         Ok(())
    ///     }
    /// #     fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { lines: lines.sum() }) }
    /// }
    /// # fn main() -> Result {
    /// assert_eq!(shardmill::testing::run(Count {}, "")?, "lines\n0\n");
    /// # Ok(())
    /// # }
    /// ```
    fn seed(&self, out: &mut Emitter<'_, Self>) -> Result {
        let _ = out;
        Ok(())
    }

    /// Emits what `map` has gathered in [`Emitter::local`]; called behind the last record of each shard, on the thread that mapped it.
    ///
    /// An error or a panic ends the job.
    fn end_shard(&self, out: &mut Emitter<'_, Self>) -> Result {
        let _ = out;
        Ok(())
    }

    /// Called before the first record or key of each attempt. An error or a panic ends the job.
    ///
    /// ```
    /// use shardmill::prelude::*;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count { list: std::path::PathBuf }
    /// # #[derive(Serialize, Deserialize)] struct Counted { lines: u64 }
    ///
    /// impl MapReduce for Count {
    /// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    ///     // …
    ///     fn start(&self) -> Result {
    ///         if self.list.exists() { Ok(()) } else { Err(format!("there is no {}", self.list.display()).into()) }
    ///     }
    /// #     fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { lines: lines.sum() }) }
    /// }
    /// let refused = shardmill::testing::run(Count { list: "no/such/list".into() }, "one\n").unwrap_err();
    /// assert!(refused.to_string().contains("start failed: there is no no/such/list"), "{refused}");
    /// ```
    fn start(&self) -> Result {
        Ok(())
    }

    /// Called after the last record or key of each attempt.
    fn finish(&self) -> Result {
        Ok(())
    }
}
