//! Leases: how long a worker's session lives without being heard from.
//!
//! Owns deadlines only. What becomes of a session that has fallen silent is decided in `loss.rs`. A heartbeat costs nothing
//! here: a deadline that comes too early is found to be so, and set anew.

use std::collections::{BTreeMap, BTreeSet};

use shardmill_protocol::SessionId;

use crate::event::Tick;

/// When to look at each session again, soonest first.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_deadline: BTreeSet<(Tick, SessionId)>,
    deadline_of: BTreeMap<SessionId, Tick>,
}

impl Leases {
    /// Looks at a session then, and not before.
    pub(crate) fn set(&mut self, session: SessionId, deadline: Tick) {
        self.remove(session);
        self.by_deadline.insert((deadline, session));
        self.deadline_of.insert(session, deadline);
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, session: SessionId) {
        if let Some(deadline) = self.deadline_of.remove(&session) {
            self.by_deadline.remove(&(deadline, session));
        }
    }

    /// The session whose time has come, if there is one; it has to be set anew or removed.
    pub(crate) fn due(&self, now: Tick) -> Option<SessionId> {
        self.by_deadline.first().filter(|(deadline, _)| *deadline <= now).map(|(_, session)| *session)
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }
}
