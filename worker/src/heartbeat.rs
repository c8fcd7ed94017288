//! Heartbeats: on a thread, a runtime and a connection of their own, so that a busy worker is not taken for a dead one.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use shardmill_protocol::rpc::api::{ApiError, ControlClient};
use shardmill_protocol::rpc::connect::{connect, within};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::line::Live;
use crate::session;
use crate::worker::{Leave, Worker};

/// The thread that sends heartbeats.
pub(crate) struct Heartbeats {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Heartbeats {
    /// Ends it.
    pub(crate) fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("heartbeats do not panic");
    }
}

/// Begins to send heartbeats whenever there is a session.
pub(crate) fn start(worker: Arc<Worker>) -> Heartbeats {
    let (stop, stopped) = oneshot::channel();
    let main = tokio::runtime::Handle::current();
    let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs a few descriptors and no more").block_on(async {
            tokio::select! {
                () = send(&worker, &main) => {}
                // Also when its sender is dropped.
                _ = stopped => {}
            }
        });
    });
    Heartbeats { stop, thread: thread.expect("a thread can be started when the worker is") }
}

async fn send(worker: &Arc<Worker>, main: &tokio::runtime::Handle) {
    let mut backoff = Backoff::new(Duration::from_millis(50), worker.config.reconnect_within);
    let mut client: Option<ControlClient> = None;
    loop {
        let live = worker.line.live().await;
        let Some(connected) = &client else {
            match connect(&worker.join()).await {
                Ok(connection) => client = Some(connection.client),
                Err(error) => {
                    tracing::debug!(%error, "heartbeats cannot be sent");
                    backoff.pause().await;
                }
            }
            continue;
        };
        let sent = Instant::now();
        let answer = connected.heartbeat(within(live.lease / 2), live.session, worker.attempts.report()).await;
        match answer {
            Ok(Ok(answer)) if answer.epoch == live.epoch => {
                backoff = Backoff::new(Duration::from_millis(50), worker.config.reconnect_within);
                worker.contact.heard(sent, live.lease);
                if answer.drain {
                    worker.leave(Leave::Finish);
                }
                if !answer.kill.is_empty() {
                    let _on_main = main.enter();
                    session::kill(worker, &answer.kill);
                }
                wait(&live, sent).await;
            }
            // Another epoch: who is registered with one coordinator takes no orders from another.
            Ok(Ok(_) | Err(ApiError::NoSession)) => {
                worker.line.down(&live);
                client = None;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a heartbeat was refused");
                wait(&live, sent).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not answered");
                client = None;
                backoff.pause().await;
            }
        }
    }
}

async fn wait(live: &Live, sent: Instant) {
    sleep((sent + live.heartbeat).saturating_duration_since(Instant::now())).await;
}
