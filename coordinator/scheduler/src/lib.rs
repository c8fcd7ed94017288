//! The pure core of a coordinator: `(state, now, event) -> actions`.
//!
//! No clock, no randomness, no files, no network, no logging; ordered maps only, so that a replay is exact. The shell
//! (`coordinator/src/driver.rs`) turns calls and timers into [`Event`]s and performs [`Action`]s.

mod action;
mod event;
mod fact;

pub use action::{Action, Answer, CancelAnswer, Notice};
pub use event::{Event, HeldAttempt, HeldOutput, PublishResult, Registration, ReplyId, Submission, Tick};
pub use fact::{Ending, Fact, Failed};
