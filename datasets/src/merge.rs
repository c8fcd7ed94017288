//! Merging sorted sources into one, with a tree of losers.
//!
//! Equal keys come in the order of their sequence numbers, and of the sources where these are equal too: so a merge of adjacent runs
//! keeps the input's order, with or without sequence numbers. What is done about equal keys is left to the caller.
//!
//! The tree is Knuth's (The Art of Computer Programming, vol. 3, 5.4.1): an inner node keeps the loser of the match played there, and
//! a new record of the winner plays one match on each level on its way up. Matches are mostly decided by the first eight bytes
//! of the keys, which lie side by side.

use std::cmp::Ordering;

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
    /// The prefix of each source's current key; the largest there is where a source has ended.
    prefixes: Vec<u64>,
    ended: Vec<bool>,
    /// `losers[0]` is the winner; node n plays the winners of nodes 2n and 2n + 1, leaves follow the inner nodes.
    losers: Vec<u32>,
    live: usize,
}

impl<S: Source> Merge<S> {
    /// Starts all `sources` and finds the first record.
    pub fn new(mut sources: Vec<S>) -> Result<Self, S::Error> {
        let mut ended = Vec::with_capacity(sources.len());
        let mut prefixes = Vec::with_capacity(sources.len());
        for source in &mut sources {
            let has_record = source.advance()?;
            ended.push(!has_record);
            prefixes.push(if has_record { prefix(source.key()) } else { u64::MAX });
        }
        let live = ended.iter().filter(|ended| !**ended).count();
        let mut merge = Self { losers: vec![0; sources.len().max(1)], sources, prefixes, ended, live };
        if !merge.sources.is_empty() {
            merge.losers[0] = merge.play(1);
        }
        Ok(merge)
    }

    /// Plays the matches below `node`, keeps the losers, and returns the winner.
    fn play(&mut self, node: usize) -> u32 {
        let leaves = self.sources.len();
        if node >= leaves {
            return (node - leaves) as u32;
        }
        let (left, right) = (self.play(2 * node), self.play(2 * node + 1));
        let (winner, loser) = if self.is_before(left, right) { (left, right) } else { (right, left) };
        self.losers[node] = loser;
        winner
    }

    #[inline]
    fn is_before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (a as usize, b as usize);
        match self.prefixes[a].cmp(&self.prefixes[b]) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal if self.ended[a] || self.ended[b] => (self.ended[a], a) < (self.ended[b], b),
            Ordering::Equal => {
                let (left, right) = (&self.sources[a], &self.sources[b]);
                (left.key(), left.sequence(), a) < (right.key(), right.sequence(), b)
            }
        }
    }

    /// The source whose current record is the first of all, or `None` at the end.
    #[inline]
    pub fn head(&self) -> Option<&S> {
        (self.live > 0).then(|| &self.sources[self.losers[0] as usize])
    }

    /// Goes on to the next record.
    #[inline]
    pub fn advance(&mut self) -> Result<(), S::Error> {
        let winner = self.losers[0] as usize;
        let source = &mut self.sources[winner];
        if source.advance()? {
            self.prefixes[winner] = prefix(source.key());
        } else {
            self.ended[winner] = true;
            self.prefixes[winner] = u64::MAX;
            self.live -= 1;
        }
        let mut winner = winner as u32;
        let mut node = (winner as usize + self.sources.len()) / 2;
        while node > 0 {
            let loser = self.losers[node];
            if self.is_before(loser, winner) {
                self.losers[node] = winner;
                winner = loser;
            }
            node /= 2;
        }
        self.losers[0] = winner;
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
        prop::collection::vec((key, 0u64..50, value), 0..40)
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
