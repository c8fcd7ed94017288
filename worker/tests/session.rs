//! A whole worker, in this process, against a coordinator that does as the test says.
#![allow(clippy::unwrap_used)]

mod coordinator;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use coordinator::Coordinator;
use shardmill_protocol::fault::Breach;
use shardmill_protocol::rpc::api::Verdict;
use shardmill_protocol::{Digest, Epoch, Failure, Fault, Outcome, Task};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use worker::WorkerError;
use worker::config::Config;
use worker::process::Rules;

/// A worker that runs in this process.
struct Running {
    signal: watch::Sender<u32>,
    task: JoinHandle<Result<(), WorkerError>>,
}

/// A place for a coordinator and a worker.
struct Place {
    directory: TempDir,
    coordinator: Coordinator,
}

impl Place {
    async fn new(way: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start(directory.path(), way).await;
        Self { directory, coordinator }
    }

    fn worker(&self, flags: &str) -> Running {
        let join = self.directory.path().join("worker.join");
        let command = ["worker", "--threads", "1", "--memory", "64MiB"].map(Into::into).into_iter();
        let command = command.chain(["--join".into(), join.into(), "--dir".into(), self.worker_directory().into()]);
        let command = command.chain(flags.split_whitespace().map(Into::into));
        let config = Config::try_parse_from(command.collect::<Vec<std::ffi::OsString>>()).unwrap();
        let rules =
            Rules { guard: PathBuf::from(env!("CARGO_BIN_EXE_worker")), kill_after: Duration::from_millis(200), ..Rules::default() };
        let (signal, signals) = watch::channel(0);
        Running { signal, task: tokio::spawn(worker::run(config, rules, signals)) }
    }

    fn worker_directory(&self) -> PathBuf {
        self.directory.path().join("worker")
    }

    /// What lies in the worker's directories of jobs: `JOB/ATTEMPT`, but for those of processes.
    fn kept(&self) -> Vec<String> {
        let jobs = self.worker_directory().join("jobs");
        let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap());
        let attempts = entries(jobs).flat_map(|job| entries(job.path()));
        let mut names: Vec<String> = attempts.map(|attempt| attempt.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with("process"));
        names.sort();
        names
    }
}

impl Running {
    /// Tells the worker to leave, and waits until it has.
    async fn leave(self) {
        self.signal.send_modify(|count| *count += 1);
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_granted_attempt_is_run_and_reported_and_leaves_only_its_result() {
    let place = Place::new("behave").await;
    let worker = place.worker("");
    for task in [Task::Survey(0..1), Task::Survey(1..2)] {
        let grant = place.coordinator.grant(task);
        let report = place.coordinator.report_of(grant.attempt).await;
        assert_eq!(report.fence, grant.fence);
        let surveys = Digest::of(grant.attempt.to_string().as_bytes());
        assert_eq!(report.result, Ok(Outcome::Surveyed { surveys }));
        assert!(place.coordinator.staged(grant.attempt).join("surveys").exists());
    }
    assert_eq!(place.kept(), Vec::<String>::new());
    worker.leave().await;
    assert!(place.coordinator.now(|state| state.has_left));
}

#[tokio::test]
async fn a_failed_attempt_is_reported_with_its_suspects_and_its_log() {
    let place = Place::new("segfault").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    let report = place.coordinator.report_of(grant.attempt).await;
    let Err(Failure { fault: Fault::Signalled { signal: libc::SIGSEGV, .. }, suspects, .. }) = report.result else { panic!("{report:?}") };
    assert_eq!((suspects[0].unit, suspects[0].record, suspects[0].offset), (7, 42, 4096));
    place.coordinator.until(|_| place.kept().is_empty() && !place.coordinator.staged(grant.attempt).exists()).await;
    worker.leave().await;
}

#[tokio::test]
async fn a_job_that_reports_what_is_not_there_is_found_out() {
    let place = Place::new("lie").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    let report = place.coordinator.report_of(grant.attempt).await;
    let Err(Failure { fault: Fault::ProtocolBroken { breach: Breach::FalseReport, .. }, .. }) = report.result else { panic!("{report:?}") };
    worker.leave().await;
}

#[tokio::test]
async fn a_reduce_attempt_whose_sources_are_made_again_is_handed_back() {
    let place = Place::new("behave").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Reduce(0..1));
    // It may be this worker that is to make them.
    assert_eq!(place.coordinator.report_of(grant.attempt).await.result, Err(Fault::Drained.into()));
    worker.leave().await;
}

#[tokio::test]
async fn a_map_output_stays_until_it_is_rejected_or_its_job_has_ended() {
    let place = Place::new("behave").await;
    let worker = place.worker("");
    let accepted = place.coordinator.grant(Task::Map(0..1));
    place.coordinator.report_of(accepted.attempt).await;
    place.coordinator.change(|state| state.verdict = Verdict::Rejected);
    let rejected = place.coordinator.grant(Task::Map(1..2));
    place.coordinator.report_of(rejected.attempt).await;
    place.coordinator.until(|_| place.kept() == [accepted.attempt.directory()]).await;
    place.coordinator.change(|state| state.has_ended = true);
    place.coordinator.until(|_| place.kept().is_empty()).await;
    worker.leave().await;
}

#[tokio::test]
async fn map_outputs_of_an_earlier_life_are_told_before_the_worker_registers() {
    let place = Place::new("behave").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Map(3..5));
    let Ok(Outcome::Mapped { index, .. }) = place.coordinator.report_of(grant.attempt).await.result else { panic!() };
    worker.leave().await;
    let worker = place.worker("");
    place.coordinator.until(|state| state.hellos.len() == 2).await;
    place.coordinator.now(|state| {
        let [held] = state.held.as_slice() else { panic!("{:?}", state.held) };
        assert_eq!((held.attempt, &held.output.shards, held.output.index), (grant.attempt, &(3..5), index));
        assert_eq!(state.hellos[0].worker, state.hellos[1].worker, "it is the same worker");
    });
    place.coordinator.change(|state| state.kill = vec![grant.attempt]);
    place.coordinator.until(|_| place.kept().is_empty()).await;
    worker.leave().await;
}

#[tokio::test]
async fn an_attempt_that_is_to_be_killed_ends_without_a_report_and_without_a_trace() {
    let place = Place::new("loop").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    place.coordinator.until(|state| state.listed(grant.attempt) && !place.kept().is_empty()).await;
    place.coordinator.change(|state| state.kill = vec![grant.attempt]);
    place.coordinator.until(|state| !state.listed(grant.attempt)).await;
    assert_eq!(place.kept(), Vec::<String>::new());
    assert!(!place.coordinator.staged(grant.attempt).exists());
    place.coordinator.now(|state| assert!(state.reports.is_empty()));
    worker.leave().await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_leave_hands_back_what_does_not_end_in_time() {
    let place = Place::new("loop").await;
    let worker = place.worker("--drain-within 100ms");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    place.coordinator.until(|state| state.listed(grant.attempt)).await;
    worker.leave().await;
    assert_eq!(place.coordinator.report_of(grant.attempt).await.result, Err(Fault::Drained.into()));
    assert!(place.coordinator.now(|state| state.has_left));
}

#[tokio::test]
async fn a_worker_that_the_coordinator_drains_finishes_what_it_has_and_leaves() {
    let place = Place::new("behave").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    place.coordinator.report_of(grant.attempt).await;
    place.coordinator.change(|state| state.drain = true);
    worker.task.await.unwrap().unwrap();
    assert!(place.coordinator.now(|state| state.has_left));
}

#[tokio::test]
async fn a_dropped_connection_is_not_a_death() {
    let mut place = Place::new("behave").await;
    let worker = place.worker("");
    place.coordinator.until(|state| state.hellos.len() == 1 && state.polls > 0).await;
    place.coordinator.restart().await;
    place.coordinator.until(|state| state.hellos.len() == 2).await;
    place.coordinator.now(|state| {
        let session = state.session();
        assert_eq!((state.hellos[0].resumes, state.hellos[1].resumes), (None, Some((state.epoch, session))));
    });
    let grant = place.coordinator.grant(Task::Survey(0..1));
    assert!(place.coordinator.report_of(grant.attempt).await.result.is_ok());
    worker.leave().await;
}

#[tokio::test]
async fn an_attempt_goes_on_over_a_restart_of_the_coordinator_and_reports_under_its_new_fence() {
    let mut place = Place::new("wait").await;
    let worker = place.worker("");
    let grant = place.coordinator.grant(Task::Survey(0..1));
    place.coordinator.until(|state| state.listed(grant.attempt)).await;
    place.coordinator.change(|state| state.epoch = Epoch(state.epoch.0 + 1));
    place.coordinator.restart().await;
    place.coordinator.until(|state| state.hellos.len() == 2).await;
    let adopted = place.coordinator.now(|state| {
        assert_eq!(state.hellos[1].attempts[0].attempt, grant.attempt);
        state.adopted[0].1
    });
    // The job goes on once this file is there.
    std::fs::write(place.directory.path().join("go"), b"").unwrap();
    let report = place.coordinator.report_of(grant.attempt).await;
    assert_eq!(report.fence, adopted);
    assert!(report.result.is_ok() && adopted != grant.fence);
    worker.leave().await;
}

#[tokio::test]
async fn a_coordinator_of_the_past_is_not_obeyed() {
    let mut place = Place::new("behave").await;
    place.coordinator.change(|state| state.epoch = Epoch(5));
    let worker = place.worker("--reconnect-within 50ms");
    place.coordinator.until(|state| state.hellos.len() == 1).await;
    place.coordinator.change(|state| state.epoch = Epoch(4));
    let polls = place.coordinator.now(|state| state.polls);
    place.coordinator.restart().await;
    let grant = place.coordinator.grant(Task::Survey(0..1));
    place.coordinator.until(|state| state.hellos.len() >= 4).await;
    place.coordinator.now(|state| {
        assert!(state.reports.is_empty());
        assert_eq!(state.polls_in(Epoch(4)), 0, "{polls} polls before");
    });
    place.coordinator.change(|state| state.epoch = Epoch(6));
    place.coordinator.restart().await;
    assert!(place.coordinator.report_of(grant.attempt).await.result.is_ok());
    worker.leave().await;
}

#[tokio::test]
async fn a_worker_without_a_coordinator_says_what_to_do() {
    let place = Place::new("behave").await;
    std::fs::remove_file(place.directory.path().join("worker.join")).unwrap();
    let error = place.worker("").task.await.unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 2);
}
