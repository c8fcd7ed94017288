//! Shapes: what a record looks like to `map`, whatever the file's format.
//!
//! A job names the shape that it wants; the format and compression of a file follow from its name or from `--input-format`.
//!
//! | shape | a record is | formats |
//! |---|---|---|
//! | [`Lines`] | `&str`, a line without its end | text, JSON lines |
//! | [`Bytes`] | `&[u8]`, a line, a raw CSV record, or N bytes | text, JSON lines, CSV, TSV, `fixed:N` |
//! | [`Rows<T>`] | `T`, any owned serde type | CSV, TSV, JSON lines, Arrow, Parquet |
//! | [`Batches`] | `&RecordBatch` | CSV, TSV, JSON lines, Arrow, Parquet |
//! | [`Any`] | [`AnyRecord`]: a batch where the format has columns, else bytes | all |

use std::marker::PhantomData;

use arrow::array::RecordBatch;
use serde::de::DeserializeOwned;
use shardmill_datasets::rows::{RowReader, field_names};
use shardmill_datasets::table::{BadRow, TableBatch, TableReader, TableSpec, row_as_json};
use shardmill_datasets::{BlockReader, Dialect, Format, Framing, Plan, Shape as Kind, Shard, lines};

use crate::engine::{LEFT_OUT, Mapper, Settings};
use crate::fault::Fault;
use crate::job::{Columns, MapReduce};

/// The shape of a job's records. Implemented by [`Lines`], [`Bytes`], [`Rows`], [`Batches`] and [`Any`].
///
/// ```
/// use shardmill::{Batches, Lines, Shape};
///
/// fn name<S: Shape>() -> String {
///     format!("{:?}", S::KIND).to_lowercase()
/// }
/// assert_eq!([name::<Lines>(), name::<Batches>()], ["lines", "batches"]);
/// ```
#[allow(private_bounds, reason = "how a shape is read is the engine's business")]
pub trait Shape: Driver {
    /// A record as `map` receives it.
    type Record<'a>;

    /// The shape's name among those of the data layer.
    const KIND: Kind;

    /// The columns that the shape itself asks for.
    fn columns() -> Columns {
        Columns::All
    }
}

/// How records of a shape are read from a shard and mapped.
pub(crate) trait Driver: Sized + 'static {
    type Reader;

    /// A reader to be used for one shard after the other.
    fn reader<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings) -> Self::Reader;

    /// Maps all records of `shard`.
    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut Self::Reader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault>
    where
        Self: Shape;
}

/// How much of a file is read at once: large enough for long reads, small enough to stay in the second-level cache.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// Records are lines, as UTF-8 without their ends. A line that is not UTF-8 is a bad record.
///
/// ```
/// use shardmill::prelude::*;
///
/// /// Counts the lines that hold a text.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Find {
///     #[arg(long)]
///     text: String,
/// }
/// # #[derive(Serialize, Deserialize)] struct Found { lines: u64 }
///
/// impl MapReduce for Find {
///     type Input = Lines;
/// #     type Key = (); type Value = u64; type Combine = Sum; type Output = Found;
///     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result {
///         if line.contains(&self.text) {
///             out.emit((), 1);
///         }
///         Ok(())
///     }
/// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Found { lines: counts.sum() }) }
/// }
/// # fn main() -> Result {
/// let found = shardmill::testing::run(Find { text: "moon".to_owned() }, "the tide\nthe moon\nand a moon\n")?;
/// assert_eq!(found, "lines\n2\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Shape for Lines {
    type Record<'a> = &'a str;
    const KIND: Kind = Kind::Lines;
}

impl Driver for Lines {
    type Reader = BlockReader;

    fn reader<J: MapReduce>(_: &J, plan: &Plan, settings: &Settings) -> BlockReader {
        BlockReader::with_limits(BLOCK_BYTES, plan.options.limits).within(settings.room)
    }

    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut BlockReader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault> {
        let file = mapper.file(shard);
        reader.open(&file.file, &shard.piece, Framing::Lines)?;
        let mut record = 0;
        while let Some(block) = reader.next()? {
            let bytes = block.bytes;
            let raw = |start: usize| lines(&bytes[start..]).next().map_or(&bytes[..0], |(_, line)| line);
            let records = if simdutf8::basic::from_utf8(bytes).is_ok() {
                let whole = |from: usize| {
                    // SAFETY: the block is UTF-8, and a line is cut out of it at line ends: single bytes that are no part of a character.
                    lines(&bytes[from..]).map(|(start, line)| (start, Ok(unsafe { std::str::from_utf8_unchecked(line) })))
                };
                mapper.map_block(file, &block, record, whole, raw)?
            } else {
                let each = |from: usize| {
                    let checked = |line| {
                        std::str::from_utf8(line).map_err(|error| format!("it is not UTF-8 from its byte {} on", error.valid_up_to()))
                    };
                    lines(&bytes[from..]).map(move |(start, line)| (start, checked(line)))
                };
                mapper.map_block(file, &block, record, each, raw)?
            };
            record += records;
            if !mapper.has_read(shard, reader.read_bytes(), records, record)? {
                break;
            }
        }
        Ok(())
    }
}

/// Records are bytes: lines without their ends, CSV records without theirs, or pieces of N bytes (`fixed:N`).
///
/// ```
/// use shardmill::prelude::*;
/// use shardmill::testing::Case;
///
/// /// Counts records of four bytes by their first byte.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Kinds {}
/// # #[derive(Serialize, Deserialize)] struct Kind { kind: u8, records: u64 }
///
/// impl MapReduce for Kinds {
///     type Input = Bytes;
/// #     type Key = u8; type Value = u64; type Combine = Sum; type Output = Kind;
///     fn map(&self, record: &[u8], out: &mut Emitter<'_, Self>) -> Result {
///         let kind = *record.first().ok_or("an empty record")?;
///         out.emit(kind, 1);
///         Ok(())
///     }
/// #     fn reduce(&self, kind: u8, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Kind { kind, records: counts.sum() }) }
/// }
/// # fn main() -> Result {
/// let kinds = Case::new(b"\x01aaa\x02bbb\x01ccc").input_format("fixed:4").run(Kinds {})?;
/// assert_eq!(kinds, "kind,records\n1,2\n2,1\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

impl Shape for Bytes {
    type Record<'a> = &'a [u8];
    const KIND: Kind = Kind::Bytes;
}

impl Driver for Bytes {
    type Reader = BlockReader;

    fn reader<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings) -> BlockReader {
        Lines::reader(job, plan, settings)
    }

    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut BlockReader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault> {
        map_bytes(reader, mapper, shard, |bytes| bytes)
    }
}

/// Maps the records of a shard as bytes, in whatever form `wrap` gives them.
fn map_bytes<J: MapReduce>(
    reader: &mut BlockReader,
    mapper: &mut Mapper<'_, J>,
    shard: &Shard,
    wrap: impl for<'r> Fn(&'r [u8]) -> crate::job::Record<'r, J> + Copy,
) -> Result<(), Fault> {
    let file = mapper.file(shard);
    let framing = framing(file.file.format, mapper.csv_quotes());
    reader.open(&file.file, &shard.piece, framing)?;
    let mut record = 0;
    while let Some(block) = reader.next()? {
        let bytes = block.bytes;
        let records = match framing {
            Framing::Lines => {
                let records = |from: usize| lines(&bytes[from..]).map(move |(start, line)| (start, Ok(wrap(line))));
                let raw = |start: usize| lines(&bytes[start..]).next().map_or(&bytes[..0], |(_, line)| line);
                mapper.map_block(file, &block, record, records, raw)?
            }
            Framing::Fixed(size) => {
                let size = size.get() as usize;
                let records = |from: usize| {
                    let pieces = bytes[from..].chunks_exact(size).enumerate();
                    pieces.map(move |(index, piece)| (index * size, Ok(wrap(piece))))
                };
                mapper.map_block(file, &block, record, records, |start| &bytes[start..start + size])?
            }
            Framing::Csv { delimiter, quotes } => {
                let dialect = Dialect { delimiter, quotes };
                let records = |from: usize| dialect.records(&bytes[from..]).map(move |(start, raw)| (start, Ok(wrap(raw))));
                let raw = |start: usize| dialect.records(&bytes[start..]).next().map_or(&bytes[..0], |(_, raw)| raw);
                mapper.map_block(file, &block, record, records, raw)?
            }
        };
        record += records;
        if !mapper.has_read(shard, reader.read_bytes(), records, record)? {
            break;
        }
    }
    Ok(())
}

/// How the records of a format are told apart.
fn framing(format: Format, quotes: bool) -> Framing {
    match (format, format.delimiter()) {
        (Format::Fixed(bytes), _) => Framing::Fixed(bytes),
        (_, Some(delimiter)) => Framing::Csv { delimiter, quotes },
        _ => Framing::Lines,
    }
}

/// Records are rows of a type of the job's own. Columns are found by name in each file; others are not read.
///
/// A row that does not fit the type is a bad record. A field that may be empty (or null, or missing in JSON) is an `Option`.
///
/// ```
/// use shardmill::prelude::*;
/// use shardmill::testing::Case;
///
/// #[derive(Deserialize)]
/// struct Visit {
///     page: String,
///     seconds: Option<u32>,
/// }
///
/// /// Finds the longest visit of each page.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Longest {}
/// # #[derive(Serialize, Deserialize)] struct Page { page: String, seconds: u32 }
///
/// impl MapReduce for Longest {
///     type Input = Rows<Visit>;
/// #     type Key = String; type Value = u32; type Combine = Max; type Output = Page;
///     fn map(&self, visit: Visit, out: &mut Emitter<'_, Self>) -> Result {
///         if let Some(seconds) = visit.seconds {
///             out.emit(&visit.page, seconds);
///         }
///         Ok(())
///     }
/// #     fn reduce(&self, page: &str, longest: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
/// #         for seconds in longest { out.write(Page { page: page.to_owned(), seconds })?; }
/// #         Ok(())
/// #     }
/// }
/// # fn main() -> Result {
/// let csv = "seconds,browser,page\n12,a,home\n,b,home\n40,c,help\n";
/// assert_eq!(shardmill::testing::run(Longest {}, csv)?, "page,seconds\nhelp,40\nhome,12\n");
///
/// let json = b"{\"page\": \"home\", \"seconds\": 12}\n{\"page\": \"help\"}\n";
/// assert_eq!(Case::new(json).input_format("jsonl").run(Longest {})?, "page,seconds\nhome,12\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rows<T>(PhantomData<fn() -> T>);

impl<T: DeserializeOwned + 'static> Shape for Rows<T> {
    type Record<'a> = T;
    const KIND: Kind = Kind::Rows;

    fn columns() -> Columns {
        field_names::<T>().map_or(Columns::All, Columns::Named)
    }
}

impl<T: DeserializeOwned + 'static> Driver for Rows<T> {
    type Reader = RowReader<T>;

    fn reader<J: MapReduce>(_: &J, plan: &Plan, settings: &Settings) -> RowReader<T> {
        RowReader::new(plan.options.csv, plan.options.limits).within(settings.room)
    }

    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut Self::Reader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault> {
        let file = mapper.file(shard);
        reader.open(&file.file, file.header.as_deref(), &shard.piece)?;
        let mut records = 0;
        while let Some(item) = reader.next()? {
            mapper.map_record(file, (item.record, item.offset), item.row, item.raw)?;
            records += 1;
            if mapper.left_of(records) == 0 {
                break;
            }
            if records % 1024 == 0 {
                mapper.has_read(shard, reader.read_bytes(), 1024, records)?;
            }
        }
        mapper.has_read(shard, reader.read_bytes(), records % 1024, records).map(|_| ())
    }
}

/// Records are Arrow record batches with the columns that the job asks for, in the types that the plan has decided.
///
/// The fastest shape for data with columns: nothing is made for each row. The job says which columns it reads
/// ([`MapReduce::columns`]) and, where inference is not wanted, of which types they are ([`MapReduce::column_types`]).
///
/// ```
/// use shardmill::arrow::array::{AsArray, RecordBatch};
/// use shardmill::arrow::compute::sum_checked;
/// use shardmill::arrow::datatypes::{DataType, Field, Int64Type, Schema};
/// use shardmill::prelude::*;
///
/// /// Adds up a column of whole numbers.
/// #[derive(Args, Serialize, Deserialize)]
/// struct AddUp {
///     #[arg(long)]
///     column: String,
/// }
/// # #[derive(Serialize, Deserialize)] struct Total { total: i64 }
///
/// impl MapReduce for AddUp {
///     type Input = Batches;
/// #     type Key = (); type Value = i64; type Combine = Sum; type Output = Total;
///     fn columns(&self) -> Result<Columns> {
///         Ok(Columns::Named(vec![self.column.clone()]))
///     }
///
///     fn column_types(&self) -> Result<ColumnTypes> {
///         let column = Field::new(&self.column, DataType::Int64, true);
///         Ok(ColumnTypes::Given(Schema::new(vec![column]).into()))
///     }
///
///     fn map(&self, batch: &RecordBatch, out: &mut Emitter<'_, Self>) -> Result {
///         let numbers = batch.column(0).as_primitive_opt::<Int64Type>().ok_or("not whole numbers of 64 bits")?;
///         if let Some(sum) = sum_checked(numbers)? {
///             out.emit((), sum);
///         }
///         Ok(())
///     }
/// #     fn reduce(&self, _: (), sums: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Total { total: sums.sum() }) }
/// }
/// # fn main() -> Result {
/// let total = shardmill::testing::run(AddUp { column: "sold".to_owned() }, "city,sold\nGent,2\nFaro,\nGent,5\n")?;
/// assert_eq!(total, "total\n7\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Batches;

impl Shape for Batches {
    type Record<'a> = &'a RecordBatch;
    const KIND: Kind = Kind::Batches;
}

impl Driver for Batches {
    type Reader = TableReader;

    fn reader<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings) -> TableReader {
        let schema = plan.schema.clone().unwrap_or_else(|| arrow::datatypes::Schema::empty().into());
        let (csv, limits, room) = (plan.options.csv, plan.options.limits, settings.room);
        TableReader::new(TableSpec { csv, limits, room, keep_dictionaries: job.takes_dictionaries(), ..TableSpec::new(schema) })
    }

    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut TableReader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault> {
        map_batches(reader, mapper, shard, |batch| batch)
    }
}

/// Maps the batches of a shard, in whatever form `wrap` gives them.
fn map_batches<J: MapReduce>(
    reader: &mut TableReader,
    mapper: &mut Mapper<'_, J>,
    shard: &Shard,
    wrap: impl for<'r> Fn(&'r RecordBatch) -> crate::job::Record<'r, J>,
) -> Result<(), Fault> {
    let file = mapper.file(shard);
    reader.open(&file.file, file.header.as_deref(), &shard.piece)?;
    let mut records = 0;
    while let Some(table) = reader.next()? {
        let rows = table.batch.num_rows();
        let batch = table.batch.slice(0, rows.min(usize::try_from(mapper.left_of(records)).unwrap_or(usize::MAX)));
        let mut refused = Vec::new();
        let is_left_out = rows > 0 && mapper.is_left_out(table.first_record);
        if rows > 0 && !is_left_out {
            map_rows(mapper, &table, &batch, 0, &wrap, &mut refused)?;
        }
        let mut refused = refused_rows(reader, &table, refused)?;
        if is_left_out {
            // What it was that brought a process down is not known: all of the batch.
            refused.push(BadRow { record: table.first_record, offset: table.offset, bytes: Vec::new(), cause: LEFT_OUT.to_owned() });
        }
        // All in their places among each other.
        let mut bad = table.bad.iter().peekable();
        for row in refused {
            while let Some(earlier) = bad.next_if(|bad| bad.record < row.record) {
                mapper.set_aside(file, earlier.record, earlier.offset, &earlier.bytes, earlier.cause.clone())?;
            }
            mapper.set_aside(file, row.record, row.offset, &row.bytes, row.cause)?;
        }
        for bad in bad {
            mapper.set_aside(file, bad.record, bad.offset, &bad.bytes, bad.cause.clone())?;
        }
        records += (rows + table.bad.len()) as u64;
        if !mapper.has_read(shard, reader.read_bytes(), (rows + table.bad.len()) as u64, records)? {
            break;
        }
    }
    Ok(())
}

/// Maps rows of a batch, the first of which is its row `first`. If that fails, the rows that are to blame are found by mapping halves; they
/// are added to `refused`, with the cause.
fn map_rows<J: MapReduce>(
    mapper: &mut Mapper<'_, J>,
    table: &TableBatch,
    rows: &RecordBatch,
    first: usize,
    wrap: &impl for<'r> Fn(&'r RecordBatch) -> crate::job::Record<'r, J>,
    refused: &mut Vec<(usize, String)>,
) -> Result<(), Fault> {
    let Some(cause) = mapper.try_record((table.record_of(first), table.offset), Ok(wrap(rows)))? else { return Ok(()) };
    let known = refused.len();
    if rows.num_rows() > 1 && !mapper.is_sampling() {
        let half = rows.num_rows() / 2;
        for (start, count) in [(0, half), (half, rows.num_rows() - half)] {
            // What has emitted something before it failed cannot be undone unless records are held; one is enough to end it then.
            if refused.len() == known || mapper.holds_records() {
                map_rows(mapper, table, &rows.slice(start, count), first + start, wrap, refused)?;
            }
        }
    }
    // If each half can be mapped although the whole cannot, nothing is missing where nothing stood of the whole.
    if refused.len() == known && (rows.num_rows() == 1 || !mapper.holds_records()) {
        refused.push((first, cause));
    }
    Ok(())
}

/// The rows of a batch that the job has refused, as they stand in the file; where they have no place there, as JSON.
fn refused_rows(reader: &TableReader, table: &TableBatch, refused: Vec<(usize, String)>) -> Result<Vec<BadRow>, Fault> {
    let records: Vec<u64> = refused.iter().map(|(row, _)| table.record_of(*row)).collect();
    let places = if records.is_empty() { Vec::new() } else { reader.places(table, &records)? };
    let mut places = places.into_iter();
    let bad = |((row, cause), record): ((usize, String), u64)| {
        let (offset, bytes) = places.next().unwrap_or_else(|| (table.offset, row_as_json(&table.batch.slice(row, 1))));
        BadRow { record, offset, bytes, cause }
    };
    Ok(refused.into_iter().zip(records).map(bad).collect())
}

/// Records are what the format offers: batches where it has columns, bytes where it has not. The files of one run are all of one kind.
///
/// ```
/// use shardmill::prelude::*;
/// use shardmill::testing::Case;
///
/// /// Counts rows or lines.
/// #[derive(Args, Serialize, Deserialize)]
/// struct Count {}
/// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
///
/// impl MapReduce for Count {
///     type Input = Any;
/// #     type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
///     fn map(&self, record: AnyRecord<'_>, out: &mut Emitter<'_, Self>) -> Result {
///         match record {
///             AnyRecord::Batch(batch) => out.emit((), batch.num_rows() as u64),
///             AnyRecord::Bytes(_) => out.emit((), 1),
///         }
///         Ok(())
///     }
/// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
/// }
/// # fn main() -> Result {
/// let input = b"city\nGent\nFaro\n";
/// assert_eq!(Case::new(input).input_format("csv").run(Count {})?, "records\n2\n");
/// assert_eq!(Case::new(input).input_format("text").run(Count {})?, "records\n3\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Any;

/// A record of shape [`Any`].
///
/// ```
/// use shardmill::AnyRecord;
///
/// fn rows(record: AnyRecord<'_>) -> usize {
///     match record {
///         AnyRecord::Batch(batch) => batch.num_rows(),
///         AnyRecord::Bytes(_) => 1,
///     }
/// }
/// assert_eq!(rows(AnyRecord::Bytes(b"a line")), 1);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum AnyRecord<'a> {
    /// Rows of a format with columns.
    Batch(&'a RecordBatch),
    /// A line, or a piece of fixed size.
    Bytes(&'a [u8]),
}

impl Shape for Any {
    type Record<'a> = AnyRecord<'a>;
    const KIND: Kind = Kind::Any;
}

impl Driver for Any {
    type Reader = (BlockReader, TableReader);

    fn reader<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings) -> Self::Reader {
        (Lines::reader(job, plan, settings), Batches::reader(job, plan, settings))
    }

    fn map_shard<J: MapReduce<Input = Self>>(reader: &mut Self::Reader, mapper: &mut Mapper<'_, J>, shard: &Shard) -> Result<(), Fault> {
        if Kind::Any.is_tabular(mapper.file(shard).file.format) {
            map_batches(&mut reader.1, mapper, shard, |batch| AnyRecord::Batch(batch))
        } else {
            map_bytes(&mut reader.0, mapper, shard, |bytes| AnyRecord::Bytes(bytes))
        }
    }
}
