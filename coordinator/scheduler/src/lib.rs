//! The pure core of a coordinator: `(state, now, event) -> actions`.
//!
//! No clock, no randomness, no files, no network, no logging; ordered maps only, so that a replay is exact. The shell
//! (`coordinator/src/driver.rs`) turns calls and timers into [`Event`]s and performs [`Action`]s, in their order.
//!
//! ```text
//! Scheduler::new(config)                       nothing has ever happened here
//! Scheduler::replay(config, facts)             facts: the journal's (number, Fact) in order; gaps are fine
//!   .start(now)             -> Vec<Action>     once, before anything else: the new epoch, sweeping and publishing begun before
//!   .handle(now, event)     -> Vec<Action>     for every event; `Event::Tick` at the latest when the deadline has come
//!   .next_deadline()        -> Option<Tick>    when time alone will change something
//!
//! .epoch()                  -> Epoch
//! .jobs()                   -> iterator of JobId, oldest first (all, ended ones within the history included)
//! .submission(job)          -> Option<&Submission>
//! .job_of_key(key)          -> Option<JobId>
//! .has_ended(job)           -> bool            true as well for a job that nobody knows (any more)
//! .job_status(job, now)     -> Option<JobStatus>   `name` is empty: only the shell can read the spec
//! .job_view(job, now)       -> Option<JobView>
//! .workers(now)             -> Vec<WorkerView>     `address` is empty: only the shell knows it
//! .worker_of(session)       -> Option<WorkerId>    of a session that lives
//! .sources(session, attempt) -> Option<Sources>    what a live reduce attempt of that session reads
//! .manifest(job)            -> Option<Manifest>    what publishing needs, once all partitions are done
//! ```
//!
//! What is told waits for what it rests on: an answer, a sweep, a reveal is given out only when the facts behind it are
//! [`Synced`](Event::Synced). So a coordinator that dies has told nobody what its journal does not hold.

mod action;
mod admission;
mod attempt;
mod backup;
#[cfg(test)]
mod check;
mod config;
mod ending;
mod event;
mod fact;
mod fleet;
mod grant;
mod job;
mod lease;
mod loss;
mod manifest;
mod outbox;
mod pending;
mod phases;
mod publish;
mod range;
mod recover;
mod register;
mod report;
mod retry;
mod scheduler;
mod share;
mod standing;
#[cfg(test)]
mod tests;
mod view;
mod weights;
mod work;

pub use action::{Action, Answer, CancelAnswer, Notice};
pub use config::Config;
pub use event::{Event, HeldAttempt, HeldOutput, PublishResult, Registration, ReplyId, Submission, Tick};
pub use fact::{Ending, Fact, Failed};
pub use manifest::{Manifest, Sources};
pub use scheduler::Scheduler;
