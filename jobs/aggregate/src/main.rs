//! A bundled job.
fn main() {}
