//! The units of one phase: what is pending, what is done, and what is held against single ones.
//!
//! Every unit is pending, in a live attempt, or done; `job.rs` knows the live attempts.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use shardmill_protocol::task::Part;
use shardmill_protocol::{AttemptId, Digest, Epoch, JobId, WorkerId};

use crate::pending::{Pending, Shape, Terms};
use crate::retry::Charge;
use crate::weights::Weights;

/// Accepted attempts whose pace is remembered.
const PACES: usize = 63;

/// An accepted range.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) range: Range<u32>,
    pub(crate) elapsed_ms: u32,
    pub(crate) epoch: Epoch,
    pub(crate) number: u64,
    pub(crate) worker: WorkerId,
    pub(crate) gave: Gave,
}

impl Accepted {
    /// The attempt that was accepted.
    pub(crate) fn attempt(&self, job: JobId) -> AttemptId {
        AttemptId { job, epoch: self.epoch, number: self.number }
    }
}

/// What an accepted range gave. Small: there may be a million of them.
#[derive(Debug)]
pub(crate) enum Gave {
    /// A file in staging: a draft or surveys.
    File(Digest),
    /// Plan and weights.
    Plan(Box<(Digest, Digest)>),
    /// A map output.
    Output {
        index: Digest,
        holding: Holding,
        /// Records set aside, and the file that holds them.
        quarantine: Option<Box<(u64, Digest)>>,
    },
    /// Parts.
    Parts(Box<[Part]>),
}

/// Whether a map output is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Its worker has it.
    Held,
    /// Its worker has not registered since the coordinator was started.
    Awaited,
    /// It is gone; its range is pending or being mapped again.
    Lost,
}

/// The units of a phase.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) units: u32,
    /// What they weigh; nothing until it is read.
    pub(crate) weights: Option<Weights>,
    pending: Pending,
    pending_weight: u64,
    /// Accepted ranges by their first unit; those whose output was lost stay, to be compared.
    /// Boxed, as a tree that grows at its end is half empty.
    pub(crate) done: BTreeMap<u32, Box<Accepted>>,
    /// Units in accepted ranges that are not lost.
    pub(crate) done_units: u32,
    pub(crate) charges: BTreeMap<u32, Charge>,
    /// Workers lost with each unit.
    pub(crate) losses: BTreeMap<u32, u32>,
    pub(crate) losers: Vec<(Range<u32>, WorkerId)>,
    /// Attempts lost with their workers. Each may come back and go on until somebody else has done some of its range.
    pub(crate) strays: BTreeMap<AttemptId, Range<u32>>,
    /// Who had the damaged outputs of a range, one for each time, by the range's first unit.
    pub(crate) damages: BTreeMap<u32, Vec<WorkerId>>,
    /// Units that were done again as their output was lost.
    pub(crate) again: u64,
    /// Weight and milliseconds of the ranges accepted last.
    paces: VecDeque<(u64, u64)>,
}

impl Work {
    /// A phase of which everything is to be done.
    pub(crate) fn new(units: u32, weights: Option<Weights>) -> Self {
        let mut work = Self {
            units,
            weights: None,
            pending: Pending::all(units),
            pending_weight: 0,
            done: BTreeMap::new(),
            done_units: 0,
            charges: BTreeMap::new(),
            losses: BTreeMap::new(),
            losers: Vec::new(),
            strays: BTreeMap::new(),
            damages: BTreeMap::new(),
            again: 0,
            paces: VecDeque::new(),
        };
        if let Some(weights) = weights {
            work.weigh(weights);
        }
        work
    }

    /// An attempt that was lost with its worker goes on there: it was not lost.
    pub(crate) fn regain(&mut self, attempt: AttemptId, worker: WorkerId) {
        let Some(range) = self.strays.remove(&attempt) else { return };
        if let Some(at) = self.losers.iter().rposition(|(lost, loser)| *lost == range && *loser == worker) {
            self.losers.remove(at);
        }
        for unit in range {
            let losses = self.losses.get_mut(&unit).expect("it was counted when it was lost");
            *losses -= 1;
        }
        self.losses.retain(|_, losses| *losses > 0);
    }

    /// Takes out the strays that cannot go on any more once this range is done.
    pub(crate) fn outrun(&mut self, done: &Range<u32>) -> Vec<AttemptId> {
        let outrun = self.strays.extract_if(.., |_, lost| lost.start < done.end && done.start < lost.end);
        outrun.map(|(attempt, _)| attempt).collect()
    }

    /// Sets the weights.
    pub(crate) fn weigh(&mut self, weights: Weights) {
        self.pending_weight = self.pending.ranges().map(|range| weights.of(&range)).sum();
        self.weights = Some(weights);
    }

    /// The weight of a range; nothing until weights are known.
    pub(crate) fn weight(&self, range: &Range<u32>) -> u64 {
        self.weights.as_ref().map_or(0, |weights| weights.of(range))
    }

    /// The bytes of a range, where they are known.
    pub(crate) fn bytes(&self, range: &Range<u32>) -> u64 {
        self.weights.as_ref().and_then(|weights| weights.bytes(range)).unwrap_or(0)
    }

    /// Whether every unit is done.
    pub(crate) fn is_complete(&self) -> bool {
        self.done_units == self.units
    }

    pub(crate) fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(crate) fn pending_weight(&self) -> u64 {
        self.pending_weight
    }

    /// Whether anything can be granted now.
    pub(crate) fn has_ready(&mut self, now: crate::event::Tick) -> bool {
        self.weights.is_some() && self.pending.has_ready(now)
    }

    /// Makes a range pending.
    pub(crate) fn put(&mut self, range: Range<u32>, terms: Terms) {
        self.pending_weight += self.weight(&range);
        self.pending.insert(range, terms);
    }

    /// Takes the beginning of a pending piece.
    pub(crate) fn take(&mut self, range: &Range<u32>) -> Terms {
        self.pending_weight -= self.weight(range);
        self.pending.take(range.start, range.end)
    }

    /// Takes out a range that is wholly pending. Returns whether it was.
    pub(crate) fn carve(&mut self, range: &Range<u32>) -> bool {
        let carved = range.end <= self.units && self.pending.carve(range);
        if carved {
            self.pending_weight -= self.weight(range);
        }
        carved
    }

    /// Accepts a range that is not pending.
    pub(crate) fn accept(&mut self, accepted: Accepted) {
        let Range { start, end } = accepted.range;
        self.done_units += end - start;
        self.done.insert(start, Box::new(accepted));
    }

    /// The output of a range is lost: it is pending again, whole. Returns the range, or nothing if it was lost before.
    pub(crate) fn lose(&mut self, start: u32, terms: Terms) -> Option<Range<u32>> {
        let accepted = self.done.get_mut(&start)?;
        let Gave::Output { holding, .. } = &mut accepted.gave else { return None };
        if std::mem::replace(holding, Holding::Lost) == Holding::Lost {
            return None;
        }
        let range = accepted.range.clone();
        self.done_units -= range.end - range.start;
        self.again += u64::from(range.end - range.start);
        self.put(range.clone(), Terms { shape: Shape::Whole, ..terms });
        Some(range)
    }

    /// Whether a range was accepted once, with just these bounds.
    pub(crate) fn was_accepted(&self, range: &Range<u32>) -> bool {
        self.done.get(&range.start).is_some_and(|accepted| accepted.range == *range)
    }

    /// Remembers how long a range took.
    pub(crate) fn keep_pace(&mut self, range: &Range<u32>, elapsed_ms: u64) {
        if self.paces.len() == PACES {
            self.paces.pop_front();
        }
        self.paces.push_back((self.weight(range), elapsed_ms.max(1)));
    }

    /// Milliseconds that a weight takes at the median pace.
    pub(crate) fn expected_ms(&self, weight: u64) -> Option<u64> {
        let (paced, ms) = self.pace()?;
        Some(scale(weight, ms, paced))
    }

    /// The weight that an attempt gets done in so many milliseconds, at the median pace.
    pub(crate) fn expected_weight(&self, elapsed_ms: u64) -> Option<u64> {
        let (paced, ms) = self.pace()?;
        Some(scale(elapsed_ms, paced, ms))
    }

    /// What ranges have left that have run for so many milliseconds, at the median pace: a weight. Nothing until there is a pace.
    pub(crate) fn left_of(&self, running: impl Iterator<Item = (Range<u32>, u64)>) -> u64 {
        let Some((paced, ms)) = self.pace() else { return 0 };
        running.map(|(range, elapsed_ms)| self.weight(&range).saturating_sub(scale(elapsed_ms, paced, ms))).sum()
    }

    /// The median pace of the ranges accepted last: a weight, and the milliseconds that it took.
    fn pace(&self) -> Option<(u64, u64)> {
        let mut paces: Vec<_> = self.paces.iter().copied().collect();
        // The slower pace is the greater: ms₁/w₁ > ms₂/w₂.
        paces.sort_by(|one, other| (u128::from(one.1) * u128::from(other.0)).cmp(&(u128::from(other.1) * u128::from(one.0))));
        paces.get(paces.len() / 2).copied()
    }
}

/// `of · by / per`, as large as fits.
pub(crate) fn scale(of: u64, by: u64, per: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(by) / u128::from(per).max(1)).unwrap_or(u64::MAX)
}
