//! Outputs: what `reduce` writes, and how it becomes rows of a part.
//!
//! Any serde struct is a row: its fields are the columns, known from the type alone. [`Raw`] writes bytes or lines as they are. [`Table`]
//! writes columns that are known only when the job is bound to its input.

use std::marker::PhantomData;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shardmill_datasets::sink::{OutputFormat, schema_of};

use crate::engine::Output;
use crate::job::{MapReduce, Result};

/// A kind of output. Implemented for every serde row, for [`Raw`] and for [`Table`]; job authors have nothing to implement.
///
/// ```
/// use shardmill::output::OutputType;
/// use shardmill::{MapReduce, Result};
///
/// /// The names of the columns of a job's output, where it has some.
/// fn columns<J: MapReduce>(job: &J) -> Result<Vec<String>> {
///     let schema = <J::Output as OutputType<J>>::schema(job)?;
///     Ok(schema.iter().flat_map(|schema| schema.fields()).map(|field| field.name().clone()).collect())
/// }
/// ```
pub trait OutputType<J: MapReduce>: 'static {
    /// What is kept for a part while it is written.
    type State;

    /// Begins a part.
    fn begin(job: &J) -> Self::State;

    /// The columns, or `None` where there are none. An error where they depend on the rows.
    fn schema(job: &J) -> Result<Option<SchemaRef>>;

    /// Whether this can be written in `format`.
    fn fits(job: &J, format: OutputFormat) -> bool;

    /// Called after the last group.
    fn end(_: &mut Output<'_, J>) -> Result {
        Ok(())
    }
}

impl<J: MapReduce, T: Serialize + DeserializeOwned + 'static> OutputType<J> for T {
    type State = ();

    fn begin(_: &J) {}

    fn schema(_: &J) -> Result<Option<SchemaRef>> {
        Ok(Some(schema_of::<T>()?.into()))
    }

    fn fits(_: &J, format: OutputFormat) -> bool {
        format.is_tabular()
    }
}

impl<J: MapReduce> Output<'_, J>
where
    J::Output: Serialize,
{
    /// Writes a row.
    ///
    /// The fields of the row are the columns. Text formats write them as the `csv` crate and `serde_json` do.
    ///
    /// ```
    /// use shardmill::{MapReduce, Output, Result};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct WordTotal { word: String, count: u64 }
    ///
    /// fn write_total<J: MapReduce<Output = WordTotal>>(word: &str, count: u64, out: &mut Output<'_, J>) -> Result {
    ///     out.write(WordTotal { word: word.to_owned(), count })
    /// }
    /// ```
    #[inline]
    pub fn write(&mut self, row: J::Output) -> Result {
        let written = self.part.write_row(&row);
        self.check(written)
    }
}

/// Output as bytes (`--output-format bytes`) or lines (`text`), with no columns.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Writes each distinct line once.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Unique {}
///
/// impl MapReduce for Unique {
///     type Input = Bytes;
///     type Key = Vec<u8>;
///     type Value = ();
///     type Combine = Max;
///     type Output = Raw;
///
///     fn map(&self, line: &[u8], out: &mut Emitter<'_, Self>) -> Result {
///         out.emit(line, ());
///         Ok(())
///     }
///
///     fn reduce(&self, line: &[u8], _: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         out.write_record(line)
///     }
/// }
/// # fn main() -> Result {
/// assert_eq!(shardmill::testing::run(Unique {}, "b\na\nb\n")?, "a\nb\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl<J: MapReduce> OutputType<J> for Raw {
    type State = ();

    fn begin(_: &J) {}

    fn schema(_: &J) -> Result<Option<SchemaRef>> {
        Ok(None)
    }

    fn fits(_: &J, format: OutputFormat) -> bool {
        !format.is_tabular()
    }
}

/// Outputs that may be written as records without columns: [`Raw`] and [`Table`].
///
/// ```
/// use shardmill::output::WritesRecords;
/// use shardmill::{MapReduce, Output, Result};
///
/// fn copy<J: MapReduce<Output: WritesRecords>>(records: &[&[u8]], out: &mut Output<'_, J>) -> Result {
///     records.iter().try_for_each(|record| out.write_record(record))
/// }
/// ```
pub trait WritesRecords {}

impl WritesRecords for Raw {}

impl<R> WritesRecords for Table<R> {}

impl<J: MapReduce> Output<'_, J>
where
    J::Output: WritesRecords,
{
    /// Writes a record: in `bytes` as it is, in `text` with a line end behind it.
    ///
    /// ```
    /// use shardmill::{MapReduce, Output, Raw, Result};
    ///
    /// fn write_reversed<J: MapReduce<Output = Raw>>(line: &str, out: &mut Output<'_, J>) -> Result {
    ///     out.write_record(line.chars().rev().collect::<String>().as_bytes())
    /// }
    /// ```
    #[inline]
    pub fn write_record(&mut self, record: &[u8]) -> Result {
        let written = self.part.write_record(record);
        self.check(written)
    }
}

/// Gathers rows to batches, for jobs that write a [`Table`], which has a whole example.
///
/// ```
/// use shardmill::arrow::array::{ArrayRef, RecordBatch, UInt64Builder};
/// use shardmill::output::Rows;
/// use std::sync::Arc;
///
/// struct Numbers(UInt64Builder);
///
/// impl<J> Rows<J> for Numbers {
///     fn new(_: &J) -> Self {
///         Self(UInt64Builder::new())
///     }
///
///     fn len(&self) -> usize {
///         self.0.values_slice().len()
///     }
///
///     fn take(&mut self) -> shardmill::Result<RecordBatch> {
///         let numbers: ArrayRef = Arc::new(self.0.finish());
///         Ok(RecordBatch::try_from_iter([("number", numbers)])?)
///     }
/// }
///
/// let mut numbers = <Numbers as Rows<()>>::new(&());
/// numbers.0.append_value(7);
/// assert_eq!(Rows::<()>::take(&mut numbers)?.num_rows(), 1);
/// assert!(Rows::<()>::is_empty(&numbers));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub trait Rows<J>: 'static {
    /// Begins a part.
    fn new(job: &J) -> Self;
    /// The number of rows gathered.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether they should be taken before more are added.
    fn is_full(&self) -> bool {
        self.len() >= 4096
    }
    /// Takes the rows gathered, as a batch of the job's output schema.
    fn take(&mut self) -> Result<RecordBatch>;
}

/// Output with columns that follow from the job's parameters and input: [`MapReduce::output_schema`] says which. Where it names none, the
/// job writes records as [`Raw`] does.
///
/// ```
/// use shardmill::arrow::array::{ArrayRef, RecordBatch, StringBuilder, UInt64Builder};
/// use shardmill::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
/// use shardmill::prelude::*;
/// use std::sync::Arc;
///
/// /// Counts words, in a column that is called as one likes.
/// #[derive(Args, Serialize, Deserialize)]
/// struct CountAs {
///     #[arg(long)]
///     name: String,
/// }
///
/// /// Rows on their way to a batch.
/// struct Counted {
///     schema: SchemaRef,
///     words: StringBuilder,
///     counts: UInt64Builder,
/// }
///
/// impl shardmill::output::Rows<CountAs> for Counted {
///     fn new(job: &CountAs) -> Self {
///         let schema = job.output_schema().expect("this job always has columns");
///         Self { schema, words: StringBuilder::new(), counts: UInt64Builder::new() }
///     }
///
///     fn len(&self) -> usize {
///         self.counts.values_slice().len()
///     }
///
///     fn take(&mut self) -> Result<RecordBatch> {
///         let columns: Vec<ArrayRef> = vec![Arc::new(self.words.finish()), Arc::new(self.counts.finish())];
///         Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
///     }
/// }
///
/// impl MapReduce for CountAs {
/// #     type Input = Lines; type Key = String; type Value = u64; type Combine = Sum;
///     type Output = Table<Counted>;
///     // …
///     fn output_schema(&self) -> Option<SchemaRef> {
///         let word = Field::new("word", DataType::Utf8, false);
///         let count = Field::new(&self.name, DataType::UInt64, false);
///         Some(Schema::new(vec![word, count]).into())
///     }
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { words(line).for_each(|word| out.emit(word, 1)); Ok(()) }
///     fn reduce(&self, word: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
///         let count = counts.sum();
///         out.add(|rows| {
///             rows.words.append_value(word);
///             rows.counts.append_value(count);
///             Ok(())
///         })
///     }
/// }
/// # fn main() -> Result {
/// let counted = shardmill::testing::run(CountAs { name: "times".to_owned() }, "to be or\nnot to be\n")?;
/// assert_eq!(counted, "word,times\nbe,2\nnot,1\nor,1\nto,2\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Table<R>(PhantomData<R>);

impl<J: MapReduce<Output = Table<R>>, R: Rows<J>> OutputType<J> for Table<R> {
    type State = R;

    fn begin(job: &J) -> R {
        R::new(job)
    }

    fn schema(job: &J) -> Result<Option<SchemaRef>> {
        Ok(job.output_schema())
    }

    fn fits(job: &J, format: OutputFormat) -> bool {
        job.output_schema().is_some() == format.is_tabular()
    }

    fn end(out: &mut Output<'_, J>) -> Result {
        if out.state.is_empty() {
            return Ok(());
        }
        let batch = out.state.take()?;
        let written = out.part.write_batch(&batch);
        out.check(written)
    }
}

impl<J: MapReduce<Output = Table<R>>, R: Rows<J>> Output<'_, J> {
    /// Adds to the rows that are being gathered, and passes them on to the part where they are enough.
    ///
    /// An error of `add` is one of `reduce`: it ends the job and names the key. [`Table`] has a whole example.
    ///
    /// ```
    /// use shardmill::output::Rows;
    /// use shardmill::{MapReduce, Output, Result, Table};
    ///
    /// fn add_twice<J, R>(add: impl Fn(&mut R) -> Result, out: &mut Output<'_, J>) -> Result
    /// where
    ///     J: MapReduce<Output = Table<R>>,
    ///     R: Rows<J>,
    /// {
    ///     out.add(&add)?;
    ///     out.add(&add)
    /// }
    /// ```
    #[inline]
    pub fn add(&mut self, add: impl FnOnce(&mut R) -> Result) -> Result {
        add(self.state)?;
        if self.state.is_full() { <J::Output as OutputType<J>>::end(self) } else { Ok(()) }
    }
}
