//! Actions: all that the scheduler ever asks for. The shell performs them in order.

use shardmill_protocol::task::Input;
use shardmill_protocol::{AttemptId, Epoch, Grant, JobId, SessionId, WorkerId};

use crate::event::ReplyId;
use crate::fact::Fact;

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a fact to the journal. Facts are numbered one after the other, across restarts.
    Journal {
        /// Its number.
        number: u64,
        /// The fact.
        fact: Fact,
    },
    /// Answer a question.
    Answer {
        /// Which.
        reply: ReplyId,
        /// The answer.
        answer: Answer,
    },
    /// Read this `weights` file, and say [`Event::Weights`](crate::Event::Weights).
    ReadWeights {
        /// The job.
        job: JobId,
        /// The file.
        file: Input,
    },
    /// Put the accepted parts and the manifest together, and say [`Event::Assembled`](crate::Event::Assembled). May be repeated.
    Assemble {
        /// The job.
        job: JobId,
    },
    /// Make the output visible, and say [`Event::Revealed`](crate::Event::Revealed). May be repeated.
    Reveal {
        /// The job.
        job: JobId,
    },
    /// Remove an attempt's directory in staging: it lost.
    Discard {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Remove staging and claim of a job that has ended, and say [`Event::Swept`](crate::Event::Swept). May be repeated.
    Sweep {
        /// The job.
        job: JobId,
        /// Staging is kept for a person to look at; only the claim goes.
        keep_staging: bool,
    },
    /// Something a person may want to know has happened.
    Notice(Notice),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The job is accepted, or was before.
    Submitted {
        /// Its id; that of an earlier submission with the same key, if there was one.
        job: JobId,
        /// It is new.
        new: bool,
    },
    /// The output is another job's, which has not ended.
    OutputClaimed {
        /// That job.
        by: JobId,
    },
    /// Where the job stands after it was asked to be cancelled.
    Cancel(CancelAnswer),
    /// The worker is registered.
    Registered {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// Its session.
        session: SessionId,
        /// Attempts that go on, each under this new fence.
        adopted: Vec<(AttemptId, shardmill_protocol::Fence)>,
        /// Attempts to kill and outputs to remove.
        kill: Vec<AttemptId>,
    },
    /// The worker flaps, and may register again after this time.
    RegisterLater(std::time::Duration),
    /// What a heartbeat learns.
    Heartbeat {
        /// Attempts to kill: their job has ended, or they have lost.
        kill: Vec<AttemptId>,
        /// The worker shall take no more tasks, finish what it has, and leave.
        drain: bool,
    },
    /// The session is not known, or lost: the worker must register anew.
    NoSession,
    /// A grant.
    Grant(Box<Grant>),
    /// The report is accepted: it counts, now and for ever.
    Accepted,
    /// The report does not count; what the attempt has made is to be removed.
    Rejected,
    /// The failure is noted.
    Noted,
    /// Done.
    Done,
    /// There is no such job or worker.
    Unknown,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It is being cancelled, or was before.
    Cancelling,
    /// Its output is being published: too late.
    TooLate,
    /// It had ended.
    Ended,
}

/// What a person may want to know: for logs and for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker has come.
    WorkerJoined(WorkerId),
    /// A worker came back within its lease.
    WorkerResumed(WorkerId),
    /// A worker is silent: nothing is granted to it.
    WorkerSuspect(WorkerId),
    /// A worker is lost.
    WorkerLost(WorkerId),
    /// A worker has left.
    WorkerGone(WorkerId),
    /// An attempt was granted; true if it is a backup of another one.
    Granted(Box<Grant>, WorkerId, bool),
    /// An attempt was accepted.
    Accepted(AttemptId, WorkerId),
    /// An attempt has ended without being accepted.
    Ended(AttemptId, WorkerId, Box<shardmill_protocol::Failure>),
    /// The output of an accepted map attempt is lost; its range is mapped again.
    OutputLost(AttemptId, WorkerId),
    /// A worker gets no more of this job's tasks, after too many failures that are its own.
    LeftOut(JobId, WorkerId),
    /// Nobody was left, so those left out are let in again.
    LetInAgain(JobId),
    /// A job has entered another phase.
    Phase(JobId, shardmill_protocol::view::JobPhase),
}
