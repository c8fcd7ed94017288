//! SDK.

pub mod key;
pub mod words;
