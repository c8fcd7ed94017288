//! Following a job to its end: its status by long poll, interrupts, and coordinators that go away and come back.

use std::time::{Duration, Instant};

use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::{ApiError, CancelAnswer};
use shardmill_protocol::rpc::connect::{long_poll, within};
use shardmill_protocol::view::JobStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connect::{CALL, Coordinator, Find, told};
use super::error::ClientError;
use super::progress::{Progress, Say};
use super::{Shown, report};

/// How long after the first interrupt a second one cancels.
const SECOND_INTERRUPT: Duration = Duration::from_secs(2);
/// How long after a job's end its leftovers are waited for. Workers have less to kill what they run of it.
const SWEEPING: Duration = Duration::from_secs(12);
/// How long a coordinator that could not answer is left alone.
const BREATH: Duration = Duration::from_millis(100);

/// What an interrupt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// The first one leaves the job to itself, a second one soon after cancels it.
    Detach,
    /// The first one leaves the job to itself: it is somebody else's.
    Leave,
    /// The first one cancels the job: it cannot go on without this process.
    Cancel,
}

/// SIGINT and SIGTERM, as they come.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on they do not end the process.
    pub(crate) fn new() -> Result<Self, ClientError> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What comes next while a job is followed.
enum Next {
    Status(Box<JobStatus>),
    Interrupt,
    /// No second interrupt came in time.
    Detach,
}

/// Follows a job to its end and reports it; the answer is the exit code.
pub(crate) async fn follow(
    mut coordinator: Coordinator,
    find: &Find,
    job: JobId,
    mut interrupts: Interrupts,
    on_interrupt: OnInterrupt,
    say: &Say,
    shown: Shown,
) -> Result<u8, ClientError> {
    let mut progress = Progress::new(say);
    let mut watch = Watch { job, seen: 0, pace: Pace::default() };
    let mut detach_at: Option<tokio::time::Instant> = None;
    let mut is_cancelling = false;
    loop {
        let detach = async {
            match detach_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            status = watch.next(&mut coordinator) => Next::Status(Box::new(status?)),
            () = interrupts.next() => Next::Interrupt,
            () = detach => Next::Detach,
        };
        match next {
            Next::Status(status) if status.phase.is_final() => {
                progress.end();
                let code = report::report(&status, find, say, shown);
                tokio::select! {
                    () = watch.until_swept(&status, &mut coordinator) => {}
                    () = interrupts.next() => {}
                    () = tokio::time::sleep(SWEEPING) => {}
                }
                return Ok(code);
            }
            Next::Status(status) => progress.show(&status),
            Next::Interrupt if is_cancelling => {}
            Next::Interrupt if on_interrupt == OnInterrupt::Detach && detach_at.is_none() => {
                say.always("the job goes on without this command; interrupt again within 2 s to cancel it");
                detach_at = Some(tokio::time::Instant::now() + SECOND_INTERRUPT);
            }
            Next::Interrupt if on_interrupt != OnInterrupt::Leave => {
                detach_at = None;
                is_cancelling = true;
                let answer = coordinator.patiently(async |client| client.cancel(within(CALL), job).await).await?;
                say.always(match answer {
                    CancelAnswer::Cancelling => "cancelling",
                    CancelAnswer::TooLate => "too late to cancel: the output is being published",
                    CancelAnswer::Ended => "too late to cancel: the job has ended",
                });
            }
            Next::Interrupt | Next::Detach => {
                progress.end();
                say.always(&format!("job {job} goes on; to come back to it, or to end it:"));
                say.always(&format!("  coordinator watch {job}{}", find.flag()));
                say.always(&format!("  coordinator cancel {job}{}", find.flag()));
                return Ok(0);
            }
        }
    }
}

/// The statuses of a job, one after the other.
struct Watch {
    job: JobId,
    seen: u64,
    pace: Pace,
}

impl Watch {
    /// The next status. Nothing is lost if the future is dropped.
    async fn next(&mut self, coordinator: &mut Coordinator) -> Result<JobStatus, ClientError> {
        tokio::time::sleep(self.pace.pause(Instant::now())).await;
        loop {
            match told(coordinator.client().watch(long_poll(), self.job, self.seen).await) {
                Ok(status) => {
                    self.seen = status.version;
                    return Ok(status);
                }
                Err(ClientError::Lost(_) | ClientError::Api(ApiError::Unavailable { .. })) => {
                    // One that is stopping still answers for a moment.
                    tokio::time::sleep(BREATH).await;
                    coordinator.reach_again().await?;
                    // It may count anew.
                    self.seen = 0;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until what comes next can use the output's name, if anybody can still tell.
    async fn until_swept(&mut self, ended: &JobStatus, coordinator: &mut Coordinator) {
        let mut is_swept = ended.is_swept;
        while !is_swept {
            let Ok(status) = self.next(coordinator).await else { return };
            is_swept = status.is_swept;
        }
    }
}

/// Keeps a job that changes very often from being looked at as often, while the first changes are seen at once.
#[derive(Debug, Default)]
struct Pace {
    began: Option<Instant>,
    looks: u32,
}

impl Pace {
    /// Looks in a second before pauses begin.
    const FREE_LOOKS: u32 = 20;

    fn pause(&mut self, now: Instant) -> Duration {
        let second_is_over = self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1));
        if second_is_over {
            *self = Self { began: Some(now), looks: 0 };
        }
        self.looks += 1;
        if self.looks > Self::FREE_LOOKS { Duration::from_millis(50) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_often_is_looked_at_less_often_after_the_first_looks_of_a_second() {
        let mut pace = Pace::default();
        let began = Instant::now();
        let pauses = |pace: &mut Pace, at: Duration| (0..25).map(|_| pace.pause(began + at)).collect::<Vec<_>>();
        for second in 0..2 {
            let pauses = pauses(&mut pace, Duration::from_secs(second));
            assert!(pauses[..20].iter().all(Duration::is_zero));
            assert_eq!(pauses[20..], [Duration::from_millis(50); 5]);
        }
    }
}
