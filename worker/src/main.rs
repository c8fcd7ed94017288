//! A worker of a cluster.
fn main() {}
