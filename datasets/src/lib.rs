//! Data at rest.

pub mod block;
pub mod error;
pub mod format;
pub mod limits;
pub mod listing;
pub mod plan;
pub mod shard;
mod stream;
mod survey;

pub use block::{Block, BlockReader, Framing, PADDING, lines};
pub use error::{Change, ReadError};
pub use format::csv::{CsvOptions, CsvState, Dialect};
pub use format::{Compression, Format, Shape, of_name};
pub use limits::Limits;
pub use listing::{Fingerprint, InputFile, ListError, list};
pub use plan::{Draft, Plan, PlanError, PlanOptions, PlannedFile, Projection, SchemaRequest};
pub use shard::{Piece, Shard};
pub use survey::{Survey, SurveyResult};
