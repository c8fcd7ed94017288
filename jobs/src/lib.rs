//! SDK.

pub mod key;
