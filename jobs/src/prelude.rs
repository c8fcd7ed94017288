//! What a job crate needs: `use shardmill::prelude::*;`.

pub use clap::Args;
pub use serde::{Deserialize, Serialize};

pub use crate::combine::{Combine, Max, Min, NoCombine, Sum};
pub use crate::engine::{Emitter, Output, Values};
pub use crate::job::{ColumnTypes, Columns, KeyRef, MapReduce, Partitioning, Record, Result, ValueRef};
pub use crate::key::{Descending, Key};
pub use crate::output::{Raw, Table};
pub use crate::shape::{Any, AnyRecord, Batches, Bytes, Lines, Rows};
pub use crate::value::{Blob, Text, Value};
pub use crate::words::words;
