//! Notices of the scheduler as log lines: one for each transition, an event's name and its fields.

use shardmill_scheduler::Notice;
use tracing::{info, warn};

/// Writes a notice to the log.
pub(crate) fn log(notice: &Notice) {
    match notice {
        Notice::WorkerJoined(worker) => info!(%worker, "worker joined"),
        Notice::WorkerResumed(worker) => info!(%worker, "worker resumed"),
        Notice::WorkerSuspect(worker) => warn!(%worker, "worker silent"),
        Notice::WorkerLost(worker) => warn!(%worker, "worker lost"),
        Notice::WorkerGone(worker) => info!(%worker, "worker gone"),
        Notice::Granted(grant, worker, backup) => {
            info!(attempt = %grant.attempt, task = %grant.task, %worker, threads = grant.threads, backup, "attempt granted");
        }
        Notice::Accepted(attempt, worker) => info!(%attempt, %worker, "attempt accepted"),
        Notice::Ended(attempt, worker, failure) => {
            warn!(%attempt, %worker, kind = failure.fault.kind(), fault = %failure.fault, suspects = failure.suspects.len(), "attempt ended");
        }
        Notice::OutputLost(attempt, worker) => warn!(%attempt, %worker, "map output lost"),
        Notice::LeftOut(job, worker) => warn!(%job, %worker, "worker left out of job"),
        Notice::LetInAgain(job) => warn!(%job, "workers let in again: none was left"),
        Notice::Phase(job, phase) => info!(%job, %phase, "job phase"),
    }
}
