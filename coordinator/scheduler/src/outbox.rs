//! What goes out, and when: facts at once, what rests on them when they are on the disk.

use std::collections::BTreeMap;

use crate::action::{Action, Answer, Notice};
use crate::event::ReplyId;
use crate::fact::Fact;

/// Actions on their way out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The number of the last fact.
    last: u64,
    /// All facts up to this one are on the disk.
    synced: u64,
    /// What waits, by the fact that it waits for.
    waiting: BTreeMap<u64, Vec<Action>>,
    out: Vec<Action>,
}

impl Outbox {
    /// Goes on behind the facts of an earlier epoch.
    pub(crate) fn behind(last: u64) -> Self {
        Self { last, synced: last, ..Self::default() }
    }

    /// Journals a fact, and returns its number.
    pub(crate) fn journal(&mut self, fact: Fact) -> u64 {
        self.last += 1;
        self.out.push(Action::Journal { number: self.last, fact });
        self.last
    }

    /// The number of the last fact.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether a fact is on the disk.
    pub(crate) fn is_synced(&self, fact: u64) -> bool {
        fact <= self.synced
    }

    /// Does something when all that is journaled so far is on the disk.
    pub(crate) fn say(&mut self, action: Action) {
        self.say_after(self.last, action);
    }

    /// Does something when a fact is on the disk.
    pub(crate) fn say_after(&mut self, fact: u64, action: Action) {
        if self.is_synced(fact) {
            self.out.push(action);
        } else {
            self.waiting.entry(fact).or_default().push(action);
        }
    }

    /// Answers when all that is journaled so far is on the disk.
    pub(crate) fn answer(&mut self, reply: ReplyId, answer: Answer) {
        self.say(Action::Answer { reply, answer });
    }

    /// Notes something for people when all that is journaled so far is on the disk.
    pub(crate) fn notice(&mut self, notice: Notice) {
        self.say(Action::Notice(notice));
    }

    /// Facts up to this one are on the disk.
    pub(crate) fn synced(&mut self, fact: u64) {
        assert!(fact <= self.last, "a fact cannot be synced before it is journaled");
        self.synced = self.synced.max(fact);
        while let Some(first) = self.waiting.first_entry()
            && *first.key() <= self.synced
        {
            self.out.append(&mut first.remove());
        }
    }

    /// Nobody waits for this reply any more.
    pub(crate) fn forget(&mut self, reply: ReplyId) {
        for actions in self.waiting.values_mut() {
            actions.retain(|action| !matches!(action, Action::Answer { reply: waits, .. } if *waits == reply));
        }
    }

    /// What is to be done now.
    pub(crate) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }
}
