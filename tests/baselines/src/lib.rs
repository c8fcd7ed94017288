//! What shardmill is measured against.
//!
//! [`limits`] are programs written by hand for one input each, with every trick that helps. They show what the machine allows
//! and are no models: they bound nothing, trust their input, and run on x86-64 with AVX2 under Linux alone. The
//! binaries beside them are `generate` (data), `to_parquet`, `limit` (runs one of the programs) and `bench` (runs everything).

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod limits;
