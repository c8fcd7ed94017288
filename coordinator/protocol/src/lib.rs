//! What the parts of a cluster say to each other.
//!
//! ```text
//! client ──┐                                        ┌── job process
//! worker ──┴─ rpc (tarpc over TLS) ─▶ coordinator   worker ─ fd 3 (`process`) ─┘
//! ```
//! Everything here is plain data: [`ids`], [`task`]s and their outcomes, [`fault`]s, the messages between a worker and its
//! job processes ([`process`]), and, behind the feature `rpc`, the calls between machines. Who decides what follows from a
//! message is the scheduler's business, how it is carried out that of coordinator and worker.
//!
//! Enumerations are closed all the way: a cause is classified once, where it is known, and stays typed on every later hop.
//! Encoding is postcard, which is positional: peers of another [`VERSION`] are refused at the first message.

pub mod fault;
pub mod ids;
mod paths;
pub mod process;
#[cfg(feature = "rpc")]
pub mod rpc;
pub mod slots;
pub mod task;
pub mod view;

pub use fault::{Failure, Fault, Phase, Suspect};
pub use ids::{AttemptId, Digest, Epoch, Fence, JobId, SessionId, WorkerId};
pub use task::{Grant, Input, Outcome, Task};

/// The version of all messages: `major.minor`. Another major version cannot be spoken to.
pub const VERSION: (u16, u16) = (7, 0);

/// Whether a peer of this version can be spoken to.
pub fn speaks(version: (u16, u16)) -> bool {
    version.0 == VERSION.0
}

/// The platform that this program was built for, as `describe` and workers tell it: `x86_64-unknown-linux-gnu`.
pub fn platform() -> String {
    let vendor = if cfg!(target_vendor = "apple") { "apple" } else { "unknown" };
    let environment = match () {
        () if cfg!(target_env = "gnu") => "-gnu",
        () if cfg!(target_env = "musl") => "-musl",
        () => "",
    };
    format!("{}-{vendor}-{}{environment}", std::env::consts::ARCH, std::env::consts::OS)
}
