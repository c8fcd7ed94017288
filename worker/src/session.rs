//! The session: register, keep the line up, take tasks, report how they ended.
//!
//! A worker that comes back within its lease resumes its session; after that it gets a new one, and the coordinator says which of
//! its attempts go on and which do not. It never obeys a coordinator of a lower epoch than it has seen.

use std::sync::Arc;
use std::time::Duration;

use shardmill_protocol::fault::Breach;
use shardmill_protocol::rpc::api::{ApiError, CHUNK_BYTES, HeldOutput, PAGE_ENTRIES, Registered, Verdict, WorkerHello};
use shardmill_protocol::rpc::connect::{Connection, connect, long_poll, within};
use shardmill_protocol::task::MapOutput;
use shardmill_protocol::{AttemptId, Digest, Epoch, Fault, Grant, Outcome, SessionId, Task};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::attempt::{Attempt, Ended, staged_directory};
use crate::backoff::Backoff;
use crate::disk;
use crate::held::{Stage, Stop, Want};
use crate::line::Live;
use crate::worker::{Worker, WorkerError};

/// How long a call that is answered at once may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a registration did not come about.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("the call was not answered: {0}")]
    Rpc(#[from] tarpc::client::RpcError),
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("the coordinator is in epoch {theirs}, and epoch {seen} was seen: it is one of the past")]
    Past { theirs: Epoch, seen: Epoch },
    #[error("the epoch cannot be noted: {0}")]
    Disk(#[from] std::io::Error),
}

/// Registers, and again whenever the line is dead. Ends only if the coordinator will have nothing to do with this worker.
pub(crate) async fn keep(worker: &Arc<Worker>) -> WorkerError {
    let first_pause = Duration::from_millis(50);
    let mut backoff = Backoff::new(first_pause, worker.config.reconnect_within);
    let mut session: Option<(Epoch, SessionId)> = None;
    let mut number = 0;
    let mut is_told = false;
    loop {
        let join = worker.join();
        let registered = match connect(&join).await {
            Ok(connection) => register(worker, &connection, join.fingerprint, session).await.map(|registered| (connection, registered)),
            Err(error) if session.is_none() && !error.may_pass() => return error.into(),
            Err(error) => {
                // That it is still so is no news.
                match std::mem::replace(&mut is_told, true) {
                    false => tracing::warn!(error = &error as &dyn std::error::Error, "cannot connect"),
                    true => tracing::debug!(error = &error as &dyn std::error::Error, "cannot connect"),
                }
                backoff.pause().await;
                continue;
            }
        };
        match registered {
            Ok((connection, registered)) => {
                let Registered { epoch, session: id, heartbeat, lease, .. } = registered;
                tracing::info!(%epoch, session = %id, resumed = session == Some((epoch, id)), "registered");
                session = Some((epoch, id));
                (number, is_told) = (number + 1, false);
                backoff = Backoff::new(first_pause, worker.config.reconnect_within);
                worker.line.up(Live { client: connection.client, session: id, epoch, heartbeat, lease, number });
                tokio::spawn(open_shelf(Arc::clone(worker)));
                worker.line.dead().await;
            }
            Err(RegisterError::Api(ApiError::Later { wait })) => {
                tracing::warn!(?wait, "the coordinator wants this worker to come later");
                sleep(wait).await;
            }
            Err(error) => {
                // The connection may have ended just then; it is news if it was not known already.
                match matches!(error, RegisterError::Rpc(_)) && std::mem::replace(&mut is_told, true) {
                    false => tracing::warn!(%error, "cannot register"),
                    true => tracing::debug!(%error, "cannot register"),
                }
                backoff.pause().await;
            }
        }
    }
}

async fn register(
    worker: &Arc<Worker>,
    connection: &Connection,
    fingerprint: Digest,
    resumes: Option<(Epoch, SessionId)>,
) -> Result<Registered, RegisterError> {
    let client = &connection.client;
    let held: Vec<HeldOutput> = worker.shelf.outputs().into_iter().map(|output| HeldOutput { attempt: output.attempt, output }).collect();
    let pages = held.chunks(PAGE_ENTRIES).map(<[HeldOutput]>::to_vec);
    // Told even if there is none, so that what was told before is forgotten.
    let pages = if held.is_empty() { vec![Vec::new()] } else { pages.collect() };
    for (number, page) in pages.into_iter().enumerate() {
        client.held_outputs(within(PATIENCE), worker.hello.worker, number == 0, page).await??;
    }
    let hello = WorkerHello { resumes, attempts: worker.attempts.list(), ..worker.hello.clone() };
    let sent = Instant::now();
    let registered = client.register(within(Duration::from_secs(60)), hello).await??;
    let (disk, theirs) = (Arc::clone(&worker.disk), registered.epoch);
    let seen = spawn_blocking(move || disk.note_epoch(fingerprint, theirs)).await.expect("noting does not panic")?;
    if let Some(seen) = seen {
        return Err(RegisterError::Past { theirs, seen });
    }
    for (attempt, fence) in &registered.adopted {
        worker.attempts.adopt(*attempt, *fence);
    }
    kill(worker, &registered.kill);
    worker.contact.heard(sent, registered.lease);
    Ok(registered)
}

/// Stops attempts and removes map outputs that the coordinator has no use for.
pub(crate) fn kill(worker: &Arc<Worker>, attempts: &[AttemptId]) {
    for attempt in attempts {
        if !worker.attempts.kill(*attempt) && worker.shelf.take(*attempt) {
            let (disk, attempt) = (Arc::clone(&worker.disk), *attempt);
            spawn_blocking(move || disk.remove_attempt(attempt));
        }
    }
}

/// Learns what opens the outputs that were left by the worker before this one on the same directory.
async fn open_shelf(worker: Arc<Worker>) {
    for job in worker.shelf.unopened() {
        match worker.seats.of(job).setup(&worker.line).await {
            Ok(setup) => worker.shelf.open(job, setup.capability),
            // It has ended, and is swept.
            Err(error) => tracing::debug!(%job, %error, "its map outputs stay closed"),
        }
    }
}

/// Asks for tasks whenever there is something to take them on with, and begins them.
pub(crate) async fn poll(worker: Arc<Worker>) {
    let mut changes = worker.attempts.changes();
    let mut leaving = worker.leaving.subscribe();
    let mut asked: Option<(SessionId, u64)> = None;
    while leaving.borrow_and_update().is_none() {
        let want = worker.attempts.want();
        changes.borrow_and_update();
        if want == Want::Nothing || !worker.contact.is_fresh() {
            tokio::select! {
                changed = changes.changed() => changed.expect("the sender is here"),
                () = worker.contact.fresh(), if want != Want::Nothing => {}
                changed = leaving.changed() => changed.expect("the sender is here"),
            }
            continue;
        }
        let live = tokio::select! {
            live = worker.line.live() => live,
            changed = leaving.changed() => { changed.expect("the sender is here"); continue; }
        };
        let (_, number) = *asked.insert(asked.filter(|(session, _)| *session == live.session).unwrap_or((live.session, 0)));
        let is_ahead = want == Want::Ahead;
        let call = live.client.next_task(long_poll(), live.session, number, is_ahead);
        let answer = tokio::select! {
            answer = call => answer,
            // Asked again under the same number, so a grant that is on its way is not lost.
            () = changed_want(&worker, &mut changes, want) => continue,
            changed = leaving.changed() => { changed.expect("the sender is here"); continue; }
        };
        match answer {
            Ok(Ok(Some(grant))) => {
                asked = Some((live.session, number + 1));
                begin(&worker, grant, is_ahead);
            }
            Ok(Ok(None)) => {}
            Ok(Err(ApiError::NoSession)) | Err(_) => worker.line.down(&live),
            Ok(Err(error)) => {
                tracing::warn!(%error, "no task can be had");
                sleep(live.heartbeat).await;
            }
        }
    }
}

/// Waits until something else is wanted.
async fn changed_want(worker: &Worker, changes: &mut watch::Receiver<u64>, want: Want) {
    while worker.attempts.want() == want {
        changes.changed().await.expect("the sender is here");
    }
}

/// Begins an attempt.
fn begin(worker: &Arc<Worker>, grant: Grant, ahead: bool) {
    let Some((grant, stop)) = worker.attempts.take(grant, ahead) else { return };
    tracing::info!(attempt = %grant.attempt, task = %grant.task, threads = grant.threads, ahead, "attempt granted");
    let worker = Arc::clone(worker);
    tokio::spawn(async move {
        let begun = Instant::now();
        let ended = Attempt { worker: &worker, grant: &grant, stop: stop.clone() }.run().await;
        match &ended.result {
            Ok(_) => tracing::info!(attempt = %grant.attempt, elapsed_ms = begun.elapsed().as_millis() as u64, "attempt sealed"),
            Err(failure) => {
                tracing::info!(attempt = %grant.attempt, fault = failure.fault.kind(), cause = %failure.fault, "attempt failed")
            }
        }
        conclude(&worker, &grant, stop, ended).await;
        worker.attempts.drop(grant.attempt);
    });
}

/// Reports how an attempt ended, and keeps or removes what it has made.
async fn conclude(worker: &Arc<Worker>, grant: &Grant, mut stop: watch::Receiver<Option<Stop>>, ended: Ended) {
    let attempt = grant.attempt;
    let mut output = None;
    match (&grant.task, &ended.result) {
        (Task::Map(shards), Ok(Outcome::Mapped { index, .. })) => {
            // Served from now on: whoever is granted a reduce task once this is accepted may ask at once.
            let sealed = MapOutput { shards: shards.clone(), attempt, index: *index };
            worker.shelf.put(sealed.clone());
            output = Some(sealed);
        }
        // Spills and fetched segments have served their turn.
        _ => remove(worker, attempt, ended.result.is_err()).await,
    }
    let is_killed = |stop: &Option<Stop>| *stop == Some(Stop::Killed);
    if is_killed(&stop.borrow()) {
        worker.shelf.take(attempt);
        return remove(worker, attempt, true).await;
    }
    worker.attempts.enter(attempt, Stage::Reporting);
    let verdict = tokio::select! {
        verdict = report(worker, attempt, ended) => verdict,
        _ = stop.wait_for(is_killed) => {
            // Its report may have been accepted unheard: what is in staging is not touched any more.
            if let Some(output) = output {
                worker.discard(output);
            }
            return;
        }
    };
    match verdict {
        Some(Verdict::Accepted) => {}
        Some(Verdict::Rejected) => {
            tracing::info!(%attempt, "report rejected");
            // It is not registered any more while its files are removed.
            worker.attempts.kill(attempt);
            worker.shelf.take(attempt);
            remove(worker, attempt, true).await;
        }
        Some(Verdict::Noted) | None => {}
    }
}

/// Sends a piece of an attempt's log; false if it is not wanted.
pub(crate) async fn tell_log(worker: &Worker, attempt: AttemptId, chunk: &[u8]) -> bool {
    let told = worker.line.call(|live| {
        let chunk = chunk.to_vec().into();
        async move { live.client.log_chunk(within(PATIENCE), live.session, attempt, chunk).await }
    });
    let told = told.await;
    if let Err(error) = &told {
        tracing::debug!(%attempt, %error, "a log is not wanted");
    }
    told.is_ok()
}

/// Sends the log, then the report, until they are answered. Nothing if the attempt's job is not known any more.
async fn report(worker: &Worker, attempt: AttemptId, ended: Ended) -> Option<Verdict> {
    for chunk in ended.log.chunks(CHUNK_BYTES) {
        if !tell_log(worker, attempt, chunk).await {
            break;
        }
    }
    let tell = async |result: &Result<_, _>| {
        let call = worker.line.call(|live| {
            let (result, fence) = (result.clone(), worker.attempts.fence(attempt));
            async move {
                match fence {
                    Some(fence) => live.client.report(within(PATIENCE), live.session, attempt, fence, result).await,
                    None => Ok(Ok(Verdict::Rejected)),
                }
            }
        });
        call.await
    };
    match tell(&ended.result).await {
        Ok(verdict) => Some(verdict),
        // Larger than the coordinator takes: the job process has said too much.
        Err(ApiError::Refused { message }) => {
            tracing::warn!(%attempt, message, "a report is refused");
            tell(&Err(Fault::ProtocolBroken { breach: Breach::FalseReport, stderr: message }.into())).await.ok()
        }
        Err(error) => {
            tracing::warn!(%attempt, %error, "a report is not taken");
            None
        }
    }
}

/// Removes what an attempt has made here, and in staging if that is not the coordinator's.
async fn remove(worker: &Arc<Worker>, attempt: AttemptId, staged: bool) {
    let disk = Arc::clone(&worker.disk);
    let setup = match staged {
        true => worker.seats.of(attempt.job).setup_now(),
        false => None,
    };
    let remove = move || {
        disk.remove_attempt(attempt);
        if let Some(setup) = setup {
            disk::remove(&staged_directory(&setup, attempt));
        }
    };
    spawn_blocking(remove).await.expect("removing does not panic");
}
