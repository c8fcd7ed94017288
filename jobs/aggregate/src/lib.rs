//! Group-by over any tabular input.
//!
//! [`Query`] holds the flags, parsed; [`Plan`] is a query resolved against an input's columns. A plan computes batches into
//! [`Rows`], which give each row's key and fold it into the [`States`] of its group; states of one group are combined in any order,
//! and [`Results`] turns them into batches of the output. Nothing here reads or writes files.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let city: ArrayRef = Arc::new(StringArray::from(vec!["Essen", "Essen", "Faro"]));
//! let sold: ArrayRef = Arc::new(Int64Array::from(vec![2, 3, 4]));
//! let batch = RecordBatch::try_from_iter([("city", city), ("sold", sold)])?;
//!
//! let query = aggregate::Query::parse(&["city"], &["sum(sold) as total"], Some("city <> 'Faro'"))?;
//! let plan = query.resolve(&batch.schema())?;
//! let rows = plan.rows(&batch)?;
//! let mut essen = rows.state(0);
//! rows.fold(1, &mut essen);
//!
//! let mut key = Vec::new();
//! rows.push_key(0, &mut key);
//! let mut results = plan.results();
//! results.push(&key, &essen)?;
//! assert_eq!(results.take().num_columns(), 2);
//! # Ok(())
//! # }
//! ```

mod accumulate;
mod column;
mod evaluate;
mod exact;
mod expression;
mod float_sum;
mod gather;
mod job;
mod key;
mod numbering;
mod plan;
mod query;
mod state;
mod tally;

pub use evaluate::EvaluateError;
pub use gather::Gathered;
pub use job::Aggregate;
pub use key::KeyError;
pub use plan::{Plan, ResultError, Results, Rows};
pub use query::{Query, QueryError};
pub use state::{DecodeError, Encoded, States};
