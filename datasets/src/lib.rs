//! Data at rest.

pub mod format;
pub mod manifest;
pub mod output;
pub mod sink;
#[cfg(test)]
mod small_disk;

pub use format::Compression;
pub use manifest::{Digest, Manifest};
pub use output::{OutputClaim, PublishError, Published, Replaced};
pub use sink::{OutputFormat, PartSummary, PartWriter, SchemaUnknown, SinkSpec, WriteError, schema_of};
