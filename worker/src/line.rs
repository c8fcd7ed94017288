//! The line to the coordinator: one connection at a time, under one session, for everybody who makes calls.
//!
//! Who makes a call waits for a line that lives, and says when it is dead; the session loop ([`session`](crate::session)) makes a
//! new one. A call is repeated until it is answered, so it must be one that can be.

use std::sync::Arc;
use std::time::Duration;

use shardmill_protocol::rpc::api::{ApiError, ControlClient};
use shardmill_protocol::{Epoch, SessionId};
use tarpc::client::RpcError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// A line that lives.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Makes calls.
    pub(crate) client: ControlClient,
    /// The session.
    pub(crate) session: SessionId,
    /// The epoch of that session.
    pub(crate) epoch: Epoch,
    /// How often to send a heartbeat.
    pub(crate) heartbeat: Duration,
    /// How long the session lives unheard.
    pub(crate) lease: Duration,
    /// Its number: a line that is told dead is not the one that came after it.
    pub(crate) number: u64,
}

/// The line, or that there is none at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<watch::Sender<Option<Live>>>);

impl Default for Line {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Line {
    /// A line is there.
    pub(crate) fn up(&self, live: Live) {
        self.0.send_replace(Some(live));
    }

    /// This line is dead.
    pub(crate) fn down(&self, dead: &Live) {
        self.0.send_if_modified(|live| {
            let is_it = live.as_ref().is_some_and(|live| live.number == dead.number);
            if is_it {
                *live = None;
            }
            is_it
        });
    }

    /// The line, if there is one.
    pub(crate) fn now(&self) -> Option<Live> {
        self.0.borrow().clone()
    }

    /// Waits for a line.
    pub(crate) async fn live(&self) -> Live {
        let mut receiver = self.0.subscribe();
        let live = receiver.wait_for(Option::is_some).await.expect("the sender is here");
        live.clone().expect("it was waited for")
    }

    /// Waits until there is none.
    pub(crate) async fn dead(&self) {
        self.0.subscribe().wait_for(Option::is_none).await.expect("the sender is here");
    }

    /// Makes a call, over one line after the other, until it is answered.
    pub(crate) async fn call<T, C>(&self, call: impl Fn(Live) -> C) -> Result<T, ApiError>
    where
        C: Future<Output = Result<Result<T, ApiError>, RpcError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let live = self.live().await;
            match call(live.clone()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(ApiError::NoSession)) => self.down(&live),
                Ok(Err(ApiError::Unavailable { message })) => {
                    tracing::debug!(message, "the coordinator cannot take a call");
                    backoff.pause().await;
                }
                Ok(Err(error)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a call was not answered");
                    self.down(&live);
                }
            }
        }
    }
}

/// How long ago the coordinator can have heard from this worker at the latest: counted from when what it has answered was sent.
#[derive(Debug)]
pub(crate) struct Contact(watch::Sender<(Instant, Duration)>);

impl Contact {
    /// Begins without any: there is no lease.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new((Instant::now(), Duration::ZERO)))
    }

    /// The coordinator has answered what was sent then.
    pub(crate) fn heard(&self, sent: Instant, lease: Duration) {
        self.0.send_modify(|last| {
            let is_first = last.1.is_zero();
            *last = (if is_first { sent } else { last.0.max(sent) }, lease);
        });
    }

    /// Whether enough of the lease is left to begin something new.
    pub(crate) fn is_fresh(&self) -> bool {
        let (sent, lease) = *self.0.borrow();
        sent.elapsed() < lease.mul_f64(0.8)
    }

    /// Waits until it is so.
    pub(crate) async fn fresh(&self) {
        let mut receiver = self.0.subscribe();
        while !self.is_fresh() {
            receiver.changed().await.expect("the sender is here");
        }
    }

    /// Waits until nothing was heard for this long.
    pub(crate) async fn silent(&self, silence: Duration) {
        loop {
            let deadline = self.0.borrow().0 + silence;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_counted_from_sending_and_the_last_fifth_is_for_nothing_new() {
        let (lease, ago) = (Duration::from_secs(1000), |seconds| Instant::now() - Duration::from_secs(seconds));
        let contact = Contact::new();
        assert!(!contact.is_fresh(), "nothing was ever heard");
        contact.heard(ago(700), lease);
        assert!(contact.is_fresh());
        // An answer that was overtaken changes nothing.
        contact.heard(ago(900), lease);
        contact.fresh().await;
        contact.silent(Duration::from_secs(600)).await;
        let late = Contact::new();
        late.0.send_replace((ago(801), lease));
        assert!(!late.is_fresh());
    }
}
