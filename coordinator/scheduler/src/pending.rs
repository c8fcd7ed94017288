//! What of a phase is still to be granted: pieces of its range, each with its history.
//!
//! Which piece a worker gets, and how much of it, is decided in `grant.rs`; what becomes of a piece after a failure, in `retry.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use shardmill_protocol::WorkerId;

use crate::event::Tick;

/// How a piece may be granted. In the order in which they are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// As it is: it was accepted once, and what it gives again is compared.
    Whole,
    /// A single unit that is suspected.
    Alone,
    /// Any beginning of it; it has failed before, and does not grow together with its neighbours.
    Tried,
    /// Any beginning of it.
    Free,
}

/// A piece's history, and what it demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How it may be granted.
    pub(crate) shape: Shape,
    /// Not before.
    pub(crate) ready_at: Tick,
    /// How often it has failed.
    pub(crate) failures: u32,
    /// The least memory that it is to have.
    pub(crate) memory_bytes: u64,
    /// Not on this worker before that.
    pub(crate) avoid: Option<(WorkerId, Tick)>,
}

impl Terms {
    /// Terms of a piece that nothing is known of.
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, ready_at: Tick::default(), failures: 0, memory_bytes: 0, avoid: None }
    }

    fn avoids(&self, worker: WorkerId, now: Tick) -> bool {
        self.avoid.is_some_and(|(avoided, until)| avoided == worker && now < until)
    }
}

#[derive(Debug)]
struct Piece {
    end: u32,
    terms: Terms,
}

/// The pieces of a phase that are to be granted; no two of them overlap.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pieces: BTreeMap<u32, Piece>,
    ready: BTreeSet<(Shape, u32)>,
    delayed: BTreeSet<(Tick, u32)>,
    units: u64,
}

impl Pending {
    /// All of a phase, free.
    pub(crate) fn all(units: u32) -> Self {
        let mut pending = Self::default();
        if units > 0 {
            pending.insert(0..units, Terms::new(Shape::Free));
        }
        pending
    }

    /// How many units are to be granted.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// The pieces, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.pieces.iter().map(|(start, piece)| *start..piece.end)
    }

    /// Adds a piece. Free ones grow together, so that what workers have handed back is granted in large ranges again.
    pub(crate) fn insert(&mut self, mut range: Range<u32>, terms: Terms) {
        assert!(range.start < range.end, "a piece holds a unit");
        if terms.shape == Shape::Free {
            if let Some((&start, before)) = self.pieces.range(..range.start).next_back()
                && before.end == range.start
                && before.terms.shape == Shape::Free
            {
                self.remove(start);
                range.start = start;
            }
            if self.pieces.get(&range.end).is_some_and(|after| after.terms.shape == Shape::Free) {
                range.end = self.remove(range.end).end;
            }
        }
        self.units += u64::from(range.end - range.start);
        if terms.ready_at > Tick::default() {
            self.delayed.insert((terms.ready_at, range.start));
        } else {
            self.ready.insert((terms.shape, range.start));
        }
        let before = self.pieces.insert(range.start, Piece { end: range.end, terms });
        assert!(before.is_none(), "pieces do not overlap");
    }

    fn remove(&mut self, start: u32) -> Piece {
        let piece = self.pieces.remove(&start).expect("the piece is listed");
        self.units -= u64::from(piece.end - start);
        self.ready.remove(&(piece.terms.shape, start));
        self.delayed.remove(&(piece.terms.ready_at, start));
        piece
    }

    /// Takes the beginning of a piece up to `end`; the rest stays as it was.
    pub(crate) fn take(&mut self, start: u32, end: u32) -> Terms {
        let piece = self.remove(start);
        if end < piece.end {
            self.insert(end..piece.end, Terms { ready_at: Tick::default(), ..piece.terms.clone() });
        }
        piece.terms
    }

    /// Takes out a range if all of it is pending and it cuts through nothing that must stay whole. Returns whether it did.
    pub(crate) fn carve(&mut self, range: &Range<u32>) -> bool {
        let first = self.pieces.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let mut at = range.start;
        for (&start, piece) in self.pieces.range(first..range.end) {
            if piece.end <= range.start {
                continue;
            }
            if start > at || (piece.terms.shape == Shape::Whole && (start..piece.end) != *range) {
                return false;
            }
            at = piece.end;
        }
        if at < range.end || range.start >= range.end {
            return false;
        }
        let starts: Vec<u32> =
            self.pieces.range(first..range.end).filter(|(_, piece)| piece.end > range.start).map(|(start, _)| *start).collect();
        for start in starts {
            let piece = self.remove(start);
            for rest in [start..range.start, range.end..piece.end] {
                if rest.start < rest.end {
                    self.insert(rest, piece.terms.clone());
                }
            }
        }
        true
    }

    /// Whether anything can be granted now, to whomever.
    pub(crate) fn has_ready(&mut self, now: Tick) -> bool {
        while let Some(&(at, start)) = self.delayed.first()
            && at <= now
        {
            self.delayed.pop_first();
            let piece = self.pieces.get_mut(&start).expect("the piece is listed");
            piece.terms.ready_at = Tick::default();
            self.ready.insert((piece.terms.shape, start));
        }
        !self.ready.is_empty()
    }

    /// The pieces that can be granted to a worker now, best first. Those whose time has just come are there after
    /// [`has_ready`](Self::has_ready).
    pub(crate) fn ready_for(&self, worker: WorkerId, now: Tick) -> impl Iterator<Item = (Range<u32>, &Terms)> {
        let pieces = self.ready.iter().map(|(_, start)| (*start, &self.pieces[start]));
        pieces.filter(move |(_, piece)| !piece.terms.avoids(worker, now)).map(|(start, piece)| (start..piece.end, &piece.terms))
    }

    /// The first time from now on at which a piece that cannot be granted, or not to everybody, can be.
    pub(crate) fn next_change(&self, now: Tick) -> Option<Tick> {
        let special = self.ready.range(..(Shape::Free, 0)).filter_map(|(_, start)| self.pieces[start].terms.avoid);
        let avoided = special.map(|(_, until)| until).filter(|until| *until > now).min();
        // Those whose time has come stay listed until somebody could take them.
        let delayed = self.delayed.range((Bound::Excluded((now, u32::MAX)), Bound::Unbounded)).next();
        delayed.map(|(at, _)| *at).into_iter().chain(avoided).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ranges(pending: &Pending) -> Vec<(u32, u32)> {
        pending.ranges().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn free_pieces_grow_together_and_others_do_not() {
        let mut pending = Pending::all(10);
        pending.take(0, 4);
        assert_eq!(ranges(&pending), [(4, 10)]);
        pending.insert(0..2, Terms::new(Shape::Free));
        pending.insert(2..4, Terms::new(Shape::Free));
        assert_eq!(ranges(&pending), [(0, 10)]);
        pending.take(0, 4);
        pending.insert(0..4, Terms::new(Shape::Tried));
        assert_eq!(ranges(&pending), [(0, 4), (4, 10)]);
        assert_eq!(pending.units(), 10);
    }

    #[test]
    fn a_range_is_carved_only_if_all_of_it_is_pending_and_nothing_whole_is_cut() {
        let mut pending = Pending::all(10);
        assert!(pending.carve(&(3..5)));
        assert_eq!(ranges(&pending), [(0, 3), (5, 10)]);
        assert!(!pending.carve(&(2..6)) && !pending.carve(&(4..6)) && !pending.carve(&(9..11)));
        pending.insert(3..5, Terms::new(Shape::Whole));
        assert!(!pending.carve(&(3..4)) && !pending.carve(&(2..6)));
        assert!(pending.carve(&(3..5)) && pending.carve(&(5..10)));
        assert_eq!((ranges(&pending), pending.units()), (vec![(0, 3)], 3));
    }

    #[test]
    fn a_piece_waits_for_its_time_and_keeps_away_from_the_worker_it_avoids() {
        let at = |seconds| Tick(Duration::from_secs(seconds));
        let mut pending = Pending::default();
        pending.insert(0..1, Terms { ready_at: at(5), avoid: Some((WorkerId(1), at(9))), ..Terms::new(Shape::Alone) });
        assert!(!pending.has_ready(at(4)));
        assert_eq!(pending.next_change(at(4)), Some(at(5)));
        assert_eq!(pending.next_change(at(5)), None, "its time has come");
        assert!(pending.has_ready(at(5)));
        assert_eq!(pending.next_change(at(5)), Some(at(9)));
        assert_eq!(pending.ready_for(WorkerId(1), at(8)).count(), 0);
        assert_eq!(pending.ready_for(WorkerId(2), at(8)).count(), 1);
        assert_eq!(pending.ready_for(WorkerId(1), at(9)).count(), 1);
    }
}
