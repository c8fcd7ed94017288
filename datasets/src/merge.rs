//! Merging sorted sources into one, with a tree of losers.
//!
//! Equal keys come in the order of their sequence numbers, and of the sources where these are equal too: so a merge of adjacent runs
//! keeps the input's order, with or without sequence numbers. What is done about equal keys is left to the caller.
//!
//! The tree is Knuth's (The Art of Computer Programming, vol. 3, 5.4.1): an inner node keeps the loser of the match played there, and
//! a new record of the winner plays one match on each level on its way up. Matches are mostly decided by the first eight bytes
//! of the keys, which lie side by side.

/// A sorted stream of records, one of them current at a time.
pub trait Source {
    /// What can go wrong.
    type Error;
    /// Makes the next record the current one; `false` at the end. Called once before the first record is looked at.
    fn advance(&mut self) -> Result<bool, Self::Error>;
    /// The current record's key.
    fn key(&self) -> &[u8];
    /// The current record's place among records with the same key.
    fn sequence(&self) -> u64;
    /// The current record's value.
    fn value(&self) -> &[u8];
}

/// The first eight bytes of a key as a number that orders like them; shorter keys are padded with zeroes.
#[inline]
pub fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}

/// Reads many sorted sources as one.
#[derive(Debug)]
pub struct Merge<S> {
    sources: Vec<S>,
    ended: Vec<bool>,
    /// The winner; then node n, which plays the winners of nodes 2n and 2n + 1. Leaves follow the inner nodes.
    players: Vec<Player>,
    live: usize,
}

/// The current record of a source, as it plays.
#[derive(Clone, Copy, Debug)]
struct Player {
    /// The prefix of its key; the largest there is where the source has ended.
    prefix: u64,
    source: u32,
}

impl<S: Source> Merge<S> {
    /// Starts all `sources` and finds the first record.
    pub fn new(sources: Vec<S>) -> Result<Self, S::Error> {
        let nobody = Player { prefix: u64::MAX, source: 0 };
        let (ended, players, live) = (vec![false; sources.len()], vec![nobody; sources.len().max(1)], sources.len());
        let mut merge = Self { sources, ended, players, live };
        if !merge.sources.is_empty() {
            merge.players[0] = merge.play(1)?;
        }
        Ok(merge)
    }

    /// Plays the matches below `node`, keeps the losers, and returns the winner.
    fn play(&mut self, node: usize) -> Result<Player, S::Error> {
        let leaves = self.sources.len();
        if node >= leaves {
            return self.next_of((node - leaves) as u32);
        }
        let (left, right) = (self.play(2 * node)?, self.play(2 * node + 1)?);
        let (winner, loser) = if self.is_before(left, right) { (left, right) } else { (right, left) };
        self.players[node] = loser;
        Ok(winner)
    }

    /// A source's next record.
    #[inline]
    fn next_of(&mut self, source: u32) -> Result<Player, S::Error> {
        let place = source as usize;
        let records = &mut self.sources[place];
        if records.advance()? {
            return Ok(Player { prefix: prefix(records.key()), source });
        }
        self.ended[place] = true;
        self.live -= 1;
        Ok(Player { prefix: u64::MAX, source })
    }

    #[inline]
    fn is_before(&self, a: Player, b: Player) -> bool {
        if a.prefix == b.prefix { self.is_before_by_key(a.source, b.source) } else { a.prefix < b.prefix }
    }

    fn is_before_by_key(&self, a: u32, b: u32) -> bool {
        let (a, b) = (a as usize, b as usize);
        if self.ended[a] || self.ended[b] {
            return (self.ended[a], a) < (self.ended[b], b);
        }
        let (left, right) = (&self.sources[a], &self.sources[b]);
        (left.key(), left.sequence(), a) < (right.key(), right.sequence(), b)
    }

    /// The source whose current record is the first of all, or `None` at the end.
    #[inline]
    pub fn head(&self) -> Option<&S> {
        (self.live > 0).then(|| &self.sources[self.players[0].source as usize])
    }

    /// Goes on to the next record.
    ///
    /// # Panics
    /// If there was none.
    #[inline]
    pub fn advance(&mut self) -> Result<(), S::Error> {
        let mut winner = self.next_of(self.players[0].source)?;
        let mut node = (winner.source as usize + self.sources.len()) / 2;
        while node > 0 {
            let other = self.players[node];
            let is_beaten = self.is_before(other, winner);
            // Who wins cannot be predicted, so it must not be branched upon.
            self.players[node] = if is_beaten { winner } else { other };
            winner = if is_beaten { other } else { winner };
            node /= 2;
        }
        self.players[0] = winner;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Layout, Run, RunError, RunWriter};
    use proptest::prelude::*;
    use std::path::Path;

    type Record = (Vec<u8>, u64, Vec<u8>);

    fn write(directory: &Path, name: &str, runs: &[Vec<Record>], sequenced: bool, block_bytes: usize) -> Vec<Run> {
        let layout = Layout { sequenced, digested: true };
        let mut writer = RunWriter::create(&directory.join(name), layout, block_bytes).unwrap();
        let mut write_run = |records: &Vec<Record>| {
            for (key, sequence, value) in records {
                writer.push(key, *sequence, value).unwrap();
            }
            writer.end_segment().unwrap();
            writer.end_segment().unwrap();
            writer.end_run().unwrap()
        };
        runs.iter().map(&mut write_run).collect()
    }

    fn read_all(sources: Vec<impl Source<Error = RunError>>) -> Result<Vec<Record>, RunError> {
        let mut merge = Merge::new(sources)?;
        let mut records = Vec::new();
        while let Some(head) = merge.head() {
            records.push((head.key().to_vec(), head.sequence(), head.value().to_vec()));
            merge.advance()?;
        }
        Ok(records)
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let key = prop_oneof![prop::collection::vec(0u8..3, 0..12), prop::collection::vec(any::<u8>(), 0..3)];
        let value = prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..20), 1 => prop::collection::vec(any::<u8>(), 0..700)];
        // Some values begin with their keys.
        let record = (key, 0u64..50, value, any::<bool>()).prop_map(|(key, sequence, value, is_within)| {
            let value = if is_within { [&key[..], &value].concat() } else { value };
            (key, sequence, value)
        });
        prop::collection::vec(record, 0..40)
    }

    proptest! {
        #[test]
        fn a_merge_of_sorted_runs_is_the_sorted_whole(runs in prop::collection::vec(records(), 0..9), block_bytes in 64usize..512, buffer in 0usize..2000) {
            let directory = tempfile::tempdir().unwrap();
            let mut runs = runs;
            runs.iter_mut().for_each(|run| run.sort());
            let written = write(directory.path(), "run", &runs, true, block_bytes);
            let merged = read_all(written.iter().map(|run| run.read(0, buffer)).collect()).unwrap();
            let mut expected: Vec<(Vec<u8>, u64, usize, usize)> = Vec::new();
            for (index, run) in runs.iter().enumerate() {
                expected.extend(run.iter().enumerate().map(|(place, (key, sequence, _))| (key.clone(), *sequence, index, place)));
            }
            expected.sort();
            let expected: Vec<Record> = expected.into_iter().map(|(key, sequence, run, place)| (key, sequence, runs[run][place].2.clone())).collect();
            prop_assert_eq!(merged, expected);
            for run in &written {
                prop_assert!(read_all(vec![run.read(1, buffer)]).unwrap().is_empty());
            }
        }

        #[test]
        fn digests_depend_on_the_records_and_not_on_their_place(records in records(), other in records(), block_bytes in 64usize..512) {
            let directory = tempfile::tempdir().unwrap();
            let a = write(directory.path(), "a", std::slice::from_ref(&records), false, block_bytes);
            let b = write(directory.path(), "b", &[other.clone(), records.clone()], false, block_bytes);
            prop_assert_eq!(a[0].segments()[0].digest, b[1].segments()[0].digest);
            prop_assert_eq!(a[0].segments()[1].digest, b[1].segments()[1].digest);
            let content = |records: &[Record]| records.iter().map(|(key, _, value)| (key.clone(), value.clone())).collect::<Vec<_>>();
            prop_assert_eq!(a[0].segments()[0].digest == b[0].segments()[0].digest, content(&records) == content(&other));
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let records: Vec<Record> = (0..40u64).map(|n| (n.to_be_bytes().to_vec(), n, vec![n as u8; (n * 7 % 90) as usize])).collect();
        let run = &write(directory.path(), "run", std::slice::from_ref(&records), true, 128)[0];
        let path = directory.path().join("run");
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(read_all(vec![run.read(0, 0)]).unwrap(), records);
        for at in 0..whole.len() {
            for mask in [1, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= mask;
                std::fs::write(&path, &damaged).unwrap();
                assert!(read_all(vec![run.read(0, 300)]).is_err(), "byte {at}");
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read_all(vec![run.read(0, 300)]).is_err(), "cut at {at}");
        }
    }
}
