//! Tables.
pub(crate) mod csv;
mod infer;
mod masks;
mod number;
mod schema;
mod split;
pub use schema::*;

/// A row that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its number within the shard, from 0.
    pub record: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes, without the terminator.
    pub bytes: Vec<u8>,
    /// What is wrong with it.
    pub cause: String,
}
