//! Data at rest: inputs and their formats, shards, the plan, runs and their merge, parts and how they become visible.
//!
//! Everything here is synchronous and uses `std::io` alone; who calls it, on how many threads and on which machine, is decided elsewhere.

pub mod block;
pub mod error;
pub mod format;
mod guard;
pub mod index;
pub mod limits;
pub mod listing;
pub mod manifest;
pub mod merge;
pub mod output;
mod place;
pub mod plan;
pub mod request;
pub mod rows;
pub mod run;
pub mod shard;
pub mod sink;
#[cfg(test)]
mod small_disk;
pub mod stdout;
mod stream;
pub mod survey;
pub mod table;

pub use block::{Block, BlockReader, Framing, PADDING, lines};
pub use error::{Change, ReadError};
pub use format::csv::{CsvOptions, CsvState, Dialect};
pub use format::{Compression, Format, Shape, of_name};
pub use guard::is_guarded;
pub use limits::{Limits, Room};
pub use listing::{Drift, Fingerprint, InputFile, ListError, list};
pub use manifest::{Digest, Manifest};
pub use output::{LastingClaim, OutputClaim, PublishError, Published, Replaced};
pub use place::{is_in_memory, line_of};
pub use plan::{Draft, Plan, PlanError, PlanOptions, PlannedFile, Projection, SchemaRequest};
pub use request::RunRequest;
pub use shard::{Piece, Shard};
pub use sink::{OutputFormat, PartSummary, PartWriter, SchemaUnknown, SinkSpec, WriteError, schema_of};
pub use survey::{Survey, SurveyResult};
