//! The shuffle: map outputs on their way to the reduce tasks of other workers.
//!
//! ```text
//! reduce task ─▶ sources     which map outputs, and who has them; where they can be read in place
//!                  └▶ fetch  the others' segments, into one file of the attempt's
//! other workers ─▶ serve     this worker's sealed outputs, to whoever has the job's capability
//! ```
//! What is served is believed only as far as its digests are those that the coordinator knows.

pub(crate) mod fetch;
pub(crate) mod serve;
pub(crate) mod sources;
