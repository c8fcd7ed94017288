//! MapReduce: write a `map` and a `reduce`, run them over more data than fits into memory.
//!
//! A job is a struct. Its fields are its parameters, its methods are its phases. Everything between the two methods (reading, grouping,
//! spilling, sorting, merging, writing) is done by this crate, on all cores and within a memory budget.
//!
//! This page is a tutorial: from an empty crate to a tested job with a parameter, a combiner of its own, a counter and bad records.
//! Behind it stand [a table of the traits](#the-traits), [what a job promises](#what-a-job-promises) and
//! [where to look when something is wrong](#when-something-is-wrong).
//!
//! # An empty crate
//!
//! ```sh
//! cargo new revenue && cd revenue
//! ```
//!
//! `Cargo.toml` needs three dependencies: this crate, `clap` for the parameters, `serde` for what is read and written.
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! serde = { version = "1", features = ["derive"] }
//! shardmill = { path = "../shardmill/jobs" }       # where the repository lies; or: git = "…"
//! ```
//!
//! # A first job
//!
//! The input is CSV, one sale a line. The job counts the sales of each city. This is the whole of `src/main.rs`:
//!
//! ```
//! # mod program {
//! use shardmill::prelude::*;
//!
//! /// Counts the sales of each city.
//! #[derive(Args, Serialize, Deserialize)]
//! struct Sales {}
//!
//! /// The columns that are read; a file may have others.
//! #[derive(Deserialize)]
//! struct Sale {
//!     city: String,
//! }
//!
//! /// A row of the output.
//! #[derive(Serialize, Deserialize)]
//! struct CitySales {
//!     city: String,
//!     sales: u64,
//! }
//!
//! impl MapReduce for Sales {
//!     type Input = Rows<Sale>;    // what a record is
//!     type Key = String;          // what pairs are grouped by
//!     type Value = u64;           // what is emitted under a key
//!     type Combine = Sum;         // how values of a key are folded on the way
//!     type Output = CitySales;    // what is written
//!
//!     fn map(&self, sale: Sale, out: &mut Emitter<'_, Self>) -> Result {
//!         out.emit(&sale.city, 1);
//!         Ok(())
//!     }
//!
//!     fn reduce(&self, city: &str, counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
//!         out.write(CitySales { city: city.to_owned(), sales: counts.sum() })
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     shardmill::main::<Sales>()
//! }
//!
//! #[cfg(test)]
//! mod tests {
//!     #[test]
//!     fn sales_are_counted_by_city() {
//!         let rows = shardmill::testing::run(super::Sales {}, "city,price\nBergen,5.00\nFaro,2.50\nBergen,1.20\n").unwrap();
//!         assert_eq!(rows, "city,sales\nBergen,2\nFaro,1\n");
//!     }
//! }
//! # pub fn check() {
//! # let rows = shardmill::testing::run(Sales {}, "city,price\nBergen,5.00\nFaro,2.50\nBergen,1.20\n").unwrap();
//! # assert_eq!(rows, "city,sales\nBergen,2\nFaro,1\n");
//! # }
//! # }
//! # program::check();
//! ```
//!
//! `cargo test --release` runs the job in the test's own process, several times: with one shard and with dozens, on one thread and on three, with
//! memory for everything and with so little that it spills, and once in the plainest way there is. All must give the same bytes.
//!
//! `main` gives the executable its commands. `run` is the job, on all cores:
//!
//! ```sh
//! cargo run --release -- run --input sales.csv --output by-city
//! cargo run --release -- run --help
//! cargo run --release -- describe
//! ```
//!
//! A `sales.csv` to try it on is `datasets/samples/sales.csv` of the repository. The second time, `--overwrite` replaces the output.
//!
//! The output is a directory with a `part-00000.csv` for each partition and a manifest, `_SUCCESS`. It appears when it is whole, or not at all.
//!
//! # A parameter, a combiner, a counter, bad records
//!
//! The second version adds up prices, and so it meets what real data brings.
//!
//! - **A parameter** is a field with `#[arg(long)]`. Here `--category books` picks sales. It must not have the name of a flag of `run`;
//!   [`testing::check_parameters`] tells.
//! - **A value with several parts** is a struct, and **a combiner of its own** folds two of them into one. It has to be associative and
//!   commutative, since nobody knows in which order it will run. Floats are neither: `(a + b) + c` is not always `a + (b + c)`, and the sum would
//!   depend on how the work was cut. So prices are counted in whole cents.
//! - **A counter** is a number that is shown with the result: `out.count("sales without a price", 1)`.
//! - **A bad record** is one for which `map` returns an error (or panics), or which cannot be read as the type it should be. The first one ends
//!   the job and is shown with its file, line and cause. With `--max-bad-records N` up to N are set aside, in `_quarantine/` beside the parts.
//!
//! ```
//! # mod program {
//! use shardmill::prelude::*;
//!
//! /// Adds up the sales of each city.
//! #[derive(Args, Serialize, Deserialize)]
//! struct Revenue {
//!     /// Take only sales of this category.
//!     #[arg(long)]
//!     category: Option<String>,
//! }
//!
//! #[derive(Deserialize)]
//! struct Sale {
//!     city: String,
//!     category: String,
//!     price: Option<String>,    // an empty field is None
//! }
//!
//! /// What is known of some sales of a city.
//! #[derive(Serialize, Deserialize)]
//! struct Total {
//!     sales: u64,
//!     cents: u64,
//!     highest: u64,
//! }
//!
//! /// Puts two totals together.
//! #[derive(Default)]
//! struct Merge;
//!
//! impl Combine<Total> for Merge {
//!     fn combine(&self, sum: &mut Total, next: Total) {
//!         sum.sales += next.sales;
//!         sum.cents += next.cents;
//!         sum.highest = sum.highest.max(next.highest);
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct CityRevenue {
//!     city: String,
//!     sales: u64,
//!     cents: u64,
//!     highest: u64,
//! }
//!
//! impl MapReduce for Revenue {
//!     type Input = Rows<Sale>;
//!     type Key = String;
//!     type Value = Total;
//!     type Combine = Merge;
//!     type Output = CityRevenue;
//!
//!     fn map(&self, sale: Sale, out: &mut Emitter<'_, Self>) -> Result {
//!         if self.category.as_ref().is_some_and(|category| *category != sale.category) {
//!             return Ok(());
//!         }
//!         let Some(price) = sale.price else {
//!             out.count("sales without a price", 1);
//!             return Ok(());
//!         };
//!         let cents = cents(&price).ok_or_else(|| format!("{price:?} is no price"))?;
//!         out.emit(&sale.city, Total { sales: 1, cents, highest: cents });
//!         Ok(())
//!     }
//!
//!     fn reduce(&self, city: &str, totals: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
//!         // With a combiner there is exactly one value.
//!         for Total { sales, cents, highest } in totals {
//!             out.write(CityRevenue { city: city.to_owned(), sales, cents, highest })?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! /// Reads a price with two digits after the point.
//! fn cents(price: &str) -> Option<u64> {
//!     let (whole, fraction) = price.split_once('.')?;
//!     let fraction: u64 = fraction.parse().ok().filter(|_| fraction.len() == 2)?;
//!     whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(fraction)
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     shardmill::main::<Revenue>()
//! }
//!
//! #[cfg(test)]
//! mod tests {
//!     use super::*;
//!     use shardmill::testing::{Case, check_parameters, run};
//!
//!     const SALES: &str = "\
//! id,city,category,price
//! 1,Bergen,books,5.00
//! 2,Faro,toys,2.50
//! 3,Bergen,toys,1.20
//! 4,Faro,toys,
//! ";
//!
//!     #[test]
//!     fn sales_are_added_up_by_city() {
//!         let rows = run(Revenue { category: None }, SALES).unwrap();
//!         assert_eq!(rows, "city,sales,cents,highest\nBergen,2,620,500\nFaro,1,250,250\n");
//!     }
//!
//!     #[test]
//!     fn a_category_picks_sales() {
//!         let rows = run(Revenue { category: Some("books".to_owned()) }, SALES).unwrap();
//!         assert_eq!(rows, "city,sales,cents,highest\nBergen,1,500,500\n");
//!     }
//!
//!     #[test]
//!     fn a_price_that_is_none_is_a_bad_record() {
//!         let input = format!("{SALES}5,Faro,toys,a lot\n");
//!         let error = run(Revenue { category: None }, &input).unwrap_err().to_string();
//!         assert!(error.contains("\"a lot\" is no price"), "{error}");
//!         let rows = Case::new(input.as_bytes()).max_bad_records(1).run(Revenue { category: None }).unwrap();
//!         assert!(rows.contains("Faro,1,250,250"), "{rows}");
//!     }
//!
//!     #[test]
//!     fn no_parameter_is_called_like_a_flag() {
//!         check_parameters::<Revenue>();
//!     }
//! }
//! # pub fn check() {
//! # use shardmill::testing::{Case, check_parameters, run};
//! # let sales = "id,city,category,price\n1,Bergen,books,5.00\n2,Faro,toys,2.50\n3,Bergen,toys,1.20\n4,Faro,toys,\n";
//! # let rows = run(Revenue { category: None }, sales).unwrap();
//! # assert_eq!(rows, "city,sales,cents,highest\nBergen,2,620,500\nFaro,1,250,250\n");
//! # let rows = run(Revenue { category: Some("books".to_owned()) }, sales).unwrap();
//! # assert_eq!(rows, "city,sales,cents,highest\nBergen,1,500,500\n");
//! # let input = format!("{sales}5,Faro,toys,a lot\n");
//! # let error = run(Revenue { category: None }, &input).unwrap_err().to_string();
//! # assert!(error.contains("\"a lot\" is no price"), "{error}");
//! # let rows = Case::new(input.as_bytes()).max_bad_records(1).run(Revenue { category: None }).unwrap();
//! # assert!(rows.contains("Faro,1,250,250"), "{rows}");
//! # check_parameters::<Revenue>();
//! # }
//! # }
//! # program::check();
//! ```
//!
//! # The traits
//!
//! | trait | says | implemented by |
//! |---|---|---|
//! | [`MapReduce`] | what the job does | the job |
//! | [`Shape`] | what a record is | [`Lines`], [`Bytes`], [`Rows<T>`](Rows), [`Batches`], [`Any`]: choose one |
//! | [`Key`] | how keys become bytes in the same order | `String`, `Vec<u8>`, numbers, `bool`, `char`, `()`, `Option`, tuples, [`Descending`](key::Descending) |
//! | [`Value`] | how values travel | every owned serde type; [`Blob`] and [`Text`], which are borrowed on both sides |
//! | [`Combine`] | how two values of a key become one | [`Sum`], [`Min`], [`Max`], [`NoCombine`], or the job |
//! | [`OutputType`] | how results become parts | every serde struct; [`Raw`] for lines and bytes; [`Table`] |
//! | [`output::Rows`] | how results become batches, for [`Table`] | the job, if its columns are known only when it meets its input |
//!
//! `map` emits and `reduce` receives keys as [`Key::Ref`]: `&str` for `String`, `&[u8]` for `Vec<u8>`, `(&str, u64)` for `(String, u64)`. So emitting a word
//! that lies in a line allocates nothing.
//!
//! # What a job promises
//!
//! - `map` and `reduce` are deterministic: no clock, no random numbers, no iteration over a `HashMap` into the output.
//! - The combiner is associative and commutative.
//! - `map` expects no order of records. It is called on several threads at once; a job has no state of its own between calls.
//!
//! In return the parts are the same to the byte, whatever the number of threads, the memory and the size of shards. In a part, groups come in the
//! order of their keys; without a combiner, the values of a key come in the order of the input. [`Partitioning::Range`] puts the parts
//! themselves in order.
//!
//! # When something is wrong
//!
//! - `run --explain` prints the plan and stops: files, formats, columns with their types, shards, partitions, memory.
//! - A bad record is shown with file, line, offset, its beginning and the cause. `--max-bad-records` keeps such records in
//!   `_quarantine/records.jsonl`; from there one becomes a test with [`testing::run`].
//! - `--threads 1` makes a debugger's life easier. `eprintln!` works in `map` and `reduce`.
//! - A job built with `panic = "abort"` is refused, since a panic could not be caught and traced to its record.
//!
//! This crate sets the program's allocator (mimalloc), so a job crate cannot set one.

#![allow(clippy::test_attr_in_doctest, reason = "the tutorial shows a whole crate, tests included, and runs them from hidden lines")]

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
mod planning;
pub mod prelude;
mod serve;
pub mod shape;
mod show;
pub mod testing;
pub mod value;
pub mod words;

/// The Arrow crates that this version of shardmill works with, for jobs on [`Batches`].
pub use arrow;
pub use cli::{main, main_named};
pub use combine::{Combine, Max, Min, NoCombine, Sum};
pub use engine::{Emitter, Output, Values, system_memory};
pub use fault::{BadRecord, Fault, Phase};
pub use job::{ColumnTypes, Columns, KeyRef, MapReduce, Partitioning, Record, Result, ValueRef};
pub use key::Key;
pub use output::{OutputType, Raw, Table};
pub use shape::{Any, AnyRecord, Batches, Bytes, Lines, Rows, Shape};
pub use shardmill_datasets::request::parse_bytes;
pub use value::{Blob, Text, Value};
pub use words::words;

/// Columns of text formats: how their types are written and read, as in `--schema 'price: decimal(12,2)'`.
///
/// ```
/// use shardmill::table::{parse_schema, schema_text};
///
/// let schema = parse_schema("price: decimal(12,2), code: text")?;
/// assert_eq!(schema_text(&schema), "price: decimal(12,2), code: text");
/// assert_eq!(
///     parse_schema("price: money").unwrap_err().to_string(),
///     "column 'price' has the unknown type 'money'; the types are text, int, float, bool, date, timestamp and \
///      decimal(digits,scale) with at most 38 digits"
/// );
/// # Ok::<(), shardmill::table::SchemaError>(())
/// ```
pub mod table {
    pub use shardmill_datasets::table::{SchemaError, parse_schema, schema_text};
}

/// The README's code, compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
