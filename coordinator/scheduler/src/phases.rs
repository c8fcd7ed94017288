//! How one phase of a job leads to the next, and what a later one reads of those before it.

use std::ops::Range;

use shardmill_protocol::task::{TaskKind, list_digest};
use shardmill_protocol::{Digest, Input};

use crate::job::Job;
use crate::weights::Weights;
use crate::work::{Accepted, Gave, Work};

impl Job {
    /// Begins the phases that can begin, and returns them.
    pub(crate) fn settle(&mut self) -> Vec<TaskKind> {
        let mut begun = Vec::new();
        while let Some((kind, work)) = self.works.last_key_value()
            && work.is_complete()
            && let Some((next, units, weights)) = self.next_phase(*kind)
        {
            if next == TaskKind::Reduce {
                let outputs = work.done.values().filter_map(|accepted| match &accepted.gave {
                    Gave::Output { index, .. } => Some((&accepted.range, index)),
                    Gave::File(_) | Gave::Plan(_) | Gave::Parts(_) => None,
                });
                self.list = Some(list_digest(outputs));
            }
            self.works.insert(next, Work::new(units, weights));
            begun.push(next);
        }
        self.version += begun.len() as u64;
        begun
    }

    fn next_phase(&self, kind: TaskKind) -> Option<(TaskKind, u32, Option<Weights>)> {
        let plan = || self.plan.as_ref().expect("the plan is accepted");
        match kind {
            TaskKind::Draft => Some((TaskKind::Survey, self.surveys, Some(Weights::Even))),
            TaskKind::Survey => Some((TaskKind::Plan, 1, Some(Weights::Even))),
            // Read by the shell; without shards there is nothing to read.
            TaskKind::Plan => Some((TaskKind::Map, plan().shards, (plan().shards == 0).then_some(Weights::Even))),
            TaskKind::Map => {
                let weights = self.partition_bytes.as_deref().map_or(Weights::Even, Weights::of_bytes);
                Some((TaskKind::Reduce, plan().partitions, Some(weights)))
            }
            TaskKind::Reduce => None,
        }
    }

    /// The map outputs: shards, index digest and who is to have them.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (Range<u32>, Digest, &Accepted)> {
        let done = self.works.get(&TaskKind::Map).into_iter().flat_map(|map| &map.done);
        done.filter_map(|(_, accepted)| match &accepted.gave {
            Gave::Output { index, .. } => Some((accepted.range.clone(), *index, &**accepted)),
            Gave::File(_) | Gave::Plan(_) | Gave::Parts(_) => None,
        })
    }

    /// The files that tasks of a kind read.
    pub(crate) fn inputs(&self, kind: TaskKind) -> Vec<Input> {
        let files = |kind, name: &str| {
            let done = self.works.get(&kind).into_iter().flat_map(|work| work.done.values());
            done.filter_map(|accepted| match &accepted.gave {
                Gave::File(digest) => Some(Input { attempt: accepted.attempt(self.id()), name: name.to_owned(), digest: *digest }),
                Gave::Plan(plan) => Some(Input { attempt: accepted.attempt(self.id()), name: name.to_owned(), digest: plan.0 }),
                Gave::Output { .. } | Gave::Parts(_) => None,
            })
            .collect::<Vec<_>>()
        };
        match kind {
            TaskKind::Draft => Vec::new(),
            TaskKind::Survey => files(TaskKind::Draft, "draft"),
            TaskKind::Plan => [files(TaskKind::Draft, "draft"), files(TaskKind::Survey, "surveys")].concat(),
            TaskKind::Map | TaskKind::Reduce => files(TaskKind::Plan, "plan"),
        }
    }

    /// The file with the bytes of every shard.
    pub(crate) fn weights_file(&self) -> Option<Input> {
        let accepted = self.works.get(&TaskKind::Plan)?.done.get(&0)?;
        let Gave::Plan(plan) = &accepted.gave else { return None };
        Some(Input { attempt: accepted.attempt(self.id()), name: "weights".to_owned(), digest: plan.1 })
    }
}
