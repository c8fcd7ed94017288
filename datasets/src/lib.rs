//! Data at rest.

pub mod format;
pub mod manifest;
pub mod output;
pub mod sink;

pub use format::Compression;
pub use manifest::Manifest;
pub use output::{OutputClaim, PublishError, Published};
pub use sink::{OutputFormat, PartSummary, PartWriter, SchemaUnknown, SinkSpec, WriteError, schema_of};
