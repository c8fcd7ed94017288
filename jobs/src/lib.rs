//! MapReduce for people who have more data than patience.

mod card;
mod catch;
mod cli;
pub mod combine;
mod engine;
mod fault;
mod heap;
pub mod job;
pub mod key;
mod local;
pub mod output;
pub mod prelude;
pub mod shape;
mod show;
pub mod testing;
pub mod value;
pub mod words;

/// The Arrow crates that this version of shardmill works with, for jobs on [`Batches`].
pub use arrow;
pub use cli::{PROTOCOL, main, main_named};
pub use combine::{Combine, Max, Min, NoCombine, Sum};
pub use engine::{Emitter, Output, Values, parse_bytes, system_memory};
pub use fault::{BadRecord, Fault};
pub use job::{ColumnTypes, Columns, KeyRef, MapReduce, Partitioning, Record, Result, ValueRef};
pub use key::Key;
pub use output::{OutputType, Raw, Table};
pub use shape::{Any, AnyRecord, Batches, Bytes, Lines, Rows, Shape};
pub use value::{Blob, Text, Value};
pub use words::words;

/// Columns of text formats: how their types are written and read, as in `--schema 'price: decimal(12,2)'`.
pub mod table {
    pub use shardmill_datasets::table::{SchemaError, parse_schema, schema_text};
}
