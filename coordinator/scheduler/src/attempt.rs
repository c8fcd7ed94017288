//! Attempts: those that live, and what is remembered of those that have ended.

use std::collections::VecDeque;

use shardmill_protocol::process::Progress;
use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{AttemptId, Failure, Fence, SessionId, Task, WorkerId};

use crate::event::Tick;
use crate::pending::Terms;

/// An attempt that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) task: Task,
    pub(crate) fence: Fence,
    pub(crate) worker: WorkerId,
    pub(crate) session: SessionId,
    pub(crate) threads: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) granted: Tick,
    /// When the worker last listed it; when it was granted, before that.
    pub(crate) listed: Tick,
    pub(crate) progress: Progress,
    pub(crate) backup: bool,
    /// It only fetches, until the attempt before it is done.
    pub(crate) ahead: bool,
    /// The terms of the piece that it was made from.
    pub(crate) terms: Terms,
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) attempt: AttemptId,
    pub(crate) task: Task,
    pub(crate) worker: WorkerId,
    pub(crate) state: AttemptState,
    pub(crate) backup: bool,
    pub(crate) threads: u32,
    pub(crate) elapsed_ms: u64,
    pub(crate) progress: Progress,
    pub(crate) bytes: u64,
    pub(crate) failure: Option<Failure>,
}

/// The latest attempts that have ended, and among them those that failed for longer.
#[derive(Debug, Default)]
pub(crate) struct History {
    failed: VecDeque<Past>,
    others: VecDeque<Past>,
    /// How many there were.
    pub(crate) count: u64,
}

impl History {
    /// Remembers an attempt, and forgets the oldest one if there are too many.
    pub(crate) fn push(&mut self, past: Past, remembered: usize) {
        self.count += 1;
        let list = if past.state == AttemptState::Failed { &mut self.failed } else { &mut self.others };
        list.push_back(past);
        if list.len() > remembered {
            list.pop_front();
        }
    }

    /// Marks an accepted attempt as lost.
    pub(crate) fn lost(&mut self, attempt: AttemptId) {
        if let Some(past) = self.others.iter_mut().rev().find(|past| past.attempt == attempt) {
            past.state = AttemptState::Lost;
        }
    }

    /// Those that are remembered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Past> {
        self.failed.iter().chain(&self.others)
    }
}
