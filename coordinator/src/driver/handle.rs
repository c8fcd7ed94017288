//! How others speak with the driver: questions that are answered once, looks at its state, and news.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

use shardmill_protocol::JobId;
use shardmill_protocol::view::JobStatus;
use shardmill_scheduler::{Answer, Event, ReplyId};
use tokio::sync::oneshot;

use super::Driver;
use crate::journal::{JournalError, Listener};
use crate::publish::chain;

/// What the driver is told.
pub(super) enum Message {
    Ask {
        reply: ReplyId,
        event: Box<Event>,
        answer: oneshot::Sender<Answer>,
    },
    /// Nobody waits for this answer any more.
    Closed(ReplyId),
    Happened(Box<Event>),
    Read(Box<dyn FnOnce(&Driver) + Send>),
    Watch {
        job: JobId,
        seen: u64,
        answer: oneshot::Sender<Option<JobStatus>>,
    },
    Forgotten(Vec<JobId>),
    Stop,
}

/// The driver has ended, or is about to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

/// Speaks with the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: Sender<Message>,
    next_reply: Arc<AtomicU64>,
}

impl Handle {
    fn send(&self, message: Message) -> Result<(), Stopped> {
        self.messages.send(message).map_err(|_| Stopped)
    }

    /// Asks a question, and waits for the answer. Whoever no longer waits has asked nothing.
    pub(crate) async fn ask(&self, event: impl FnOnce(ReplyId) -> Event) -> Result<Answer, Stopped> {
        let reply = ReplyId(self.next_reply.fetch_add(1, Relaxed));
        let (answer, answered) = oneshot::channel();
        self.send(Message::Ask { reply, event: Box::new(event(reply)), answer })?;
        let mut waiting = Waiting { handle: self, reply, is_over: false };
        let answer = answered.await;
        waiting.is_over = true;
        answer.map_err(|_| Stopped)
    }

    /// Says that something has happened.
    pub(crate) fn tell(&self, event: Event) {
        // A driver that has ended needs not know.
        let _ = self.send(Message::Happened(Box::new(event)));
    }

    /// Looks at the state.
    pub(crate) async fn read<T: Send + 'static>(&self, look: impl FnOnce(&Driver) -> T + Send + 'static) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let look = move |driver: &Driver| {
            // Whoever asked may have gone.
            let _ = answer.send(look(driver));
        };
        self.send(Message::Read(Box::new(look)))?;
        answered.await.map_err(|_| Stopped)
    }

    /// Waits until a job's version is beyond `seen`; nothing if the scheduler does not know the job.
    pub(crate) async fn watch(&self, job: JobId, seen: u64) -> Result<Option<JobStatus>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Watch { job, seen, answer })?;
        answered.await.map_err(|_| Stopped)
    }

    /// Has the driver end.
    pub(crate) fn stop(&self) {
        let _ = self.send(Message::Stop);
    }
}

/// Tells the driver when a question is given up.
struct Waiting<'h> {
    handle: &'h Handle,
    reply: ReplyId,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.handle.send(Message::Closed(self.reply));
        }
    }
}

/// What the journal tells goes to the driver as events.
pub(crate) struct ToDriver(pub(crate) Handle);

impl Listener for ToDriver {
    fn synced(&mut self, fact: u64) {
        self.0.tell(Event::Synced { fact });
    }

    fn forgotten(&mut self, jobs: Vec<JobId>) {
        let _ = self.0.send(Message::Forgotten(jobs));
    }

    fn failed(&mut self, error: JournalError) {
        tracing::error!(error = chain(&error), "journal failed: nothing more can be promised, so this process ends");
        std::process::exit(1);
    }
}

/// A channel to a driver that is still to be made.
pub(crate) fn channel_to_driver() -> (Handle, Inbox) {
    let (messages, received) = channel();
    (Handle { messages, next_reply: Arc::new(AtomicU64::new(0)) }, Inbox(received))
}

/// What a driver will be told.
pub(crate) struct Inbox(pub(super) Receiver<Message>);
