//! Data at rest.
