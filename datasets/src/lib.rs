//! Data at rest.
pub mod table;
