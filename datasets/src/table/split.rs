//! Where the fields of a block of CSV records end: the first of two passes over a block.
//!
//! Owns the *index* of a block, nothing else: no value is looked at, no quote taken away (`csv.rs` does that), and no
//! block is cut from a file (`block.rs` does that). The records and fields found are those of the `csv` crate with its
//! defaults: a record ends at `\n`, `\r` or both, empty lines are no records, a quote counts where a field begins.
//!
//! ```text
//!   block   i d , " a , b " \n 1 , 2 \n
//!   ends  ^     ^           ^    ^   ^        positions of separators, behind one sentinel
//!   records                 2        4        indices into `ends`: where each record's last field ends
//! ```
//!
//! Sixty-four bytes are classified at once (`masks.rs`); a prefix xor over the quote bits tells inside from outside. This
//! counts quotes, so it is right only where every opening quote stands at the beginning of a field. That is checked with one
//! more mask, and a block in which it fails (`5" disk`) is walked byte by byte instead. Nothing else needs checking: text
//! behind a closing quote (`"a"b`) belongs to the field either way, and a quote behind such text opens nothing, which is
//! exactly the case that the check finds.

use super::masks::{Classify, Portable, STRIDE};
use crate::format::csv::Dialect;
use std::ops::Range;

/// The sentinel in front of the first field: one less than position 0, modulo 2³².
const BEFORE: u32 = u32::MAX;

/// The ends of the fields and records of one block. Reused from block to block.
#[derive(Debug, Default)]
pub(crate) struct FieldIndex {
    /// A sentinel, then the position behind each field; what lies behind the last record's is room.
    ends: Vec<u32>,
    /// For each stretch between two terminators, empty ones included, the index of its last end; room as in `ends`.
    records: Vec<u32>,
    stretches: usize,
}

/// One record of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Handed back to [`FieldIndex::field`].
    pub(crate) first: u32,
    pub(crate) fields: u32,
}

/// Where the fields of an index end.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a>(&'a [u32]);

impl Ends<'_> {
    /// As [`FieldIndex::bounds`].
    #[inline(always)]
    pub(crate) fn bounds(self, first: u32, column: u32) -> Range<usize> {
        let at = (first + column) as usize;
        let ends = &self.0[at..at + 2];
        ends[0].wrapping_add(1) as usize..ends[1] as usize
    }
}

impl FieldIndex {
    /// Finds all fields of `padded[..length]`, which has to be whole records; the bytes behind it are read but never
    /// looked at, and there must be at least [`STRIDE`] of them.
    pub(crate) fn fill(&mut self, padded: &[u8], length: usize, dialect: Dialect) {
        assert!(padded.len() >= length + STRIDE, "a block without its padding");
        let regular = self.sized(length).fill_fast(padded, length, dialect);
        if !regular {
            self.fill_slow(&padded[..length], dialect.delimiter);
        }
    }

    /// Makes room for the index of any block of this length.
    fn sized(&mut self, length: usize) -> &mut Self {
        assert!(length < i32::MAX as usize, "a block has 31-bit positions");
        // One separator per byte at most, the sentinel, an end without a terminator, and a stretch to write past them.
        let room = length + STRIDE + 2;
        if self.ends.len() < room {
            // Fresh zeros are the system's pages: what no block needs is never touched.
            (self.ends, self.records) = (vec![0; room], vec![0; room]);
        }
        self.ends[0] = BEFORE;
        self
    }

    /// The records in order; empty lines are left out.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let mut first = 0;
        self.records[..self.stretches].iter().filter_map(move |&last| {
            let record = Record { first, fields: last - first };
            first = last;
            let empty = record.fields == 1 && self.bounds(record.first, 0).is_empty();
            (!empty).then_some(record)
        })
    }

    /// Where field `column` of the record that begins at `first` lies, quotes included.
    #[inline(always)]
    pub(crate) fn bounds(&self, first: u32, column: u32) -> Range<usize> {
        self.ends().bounds(first, column)
    }

    /// The same to be held in registers by a loop over many records.
    pub(crate) fn ends(&self) -> Ends<'_> {
        Ends(&self.ends)
    }

    /// Where a whole record lies, without its terminator.
    pub(crate) fn record_bounds(&self, record: Record) -> Range<usize> {
        self.bounds(record.first, 0).start..self.last_field(record).end
    }

    /// Where the last field of a record lies, quotes included.
    pub(crate) fn last_field(&self, record: Record) -> Range<usize> {
        self.bounds(record.first, record.fields - 1)
    }

    fn fill_fast(&mut self, padded: &[u8], length: usize, dialect: Dialect) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = super::masks::Avx2::new(dialect.delimiter) {
            // SAFETY: `new` has asked the processor for everything that this function is compiled for.
            return unsafe { self.fill_avx2(avx2, padded, length, dialect.quotes) };
        }
        // SAFETY: the portable classifier runs on every processor.
        unsafe { self.fill_with(Portable::new(dialect.delimiter), padded, length, dialect.quotes) }
    }

    /// # Safety
    ///
    /// The processor must have these features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn fill_avx2(&mut self, classify: super::masks::Avx2, padded: &[u8], length: usize, quotes: bool) -> bool {
        // SAFETY: the caller vouches for the processor.
        unsafe { self.fill_with(classify, padded, length, quotes) }
    }

    /// Returns false, with the index unfinished, when a quote opens where no field begins.
    ///
    /// # Safety
    ///
    /// The processor must have what `classify` is compiled for.
    #[inline(always)]
    unsafe fn fill_with<C: Classify>(&mut self, classify: C, padded: &[u8], length: usize, quotes: bool) -> bool {
        let (mut fields, mut stretches) = (0, 0);
        let mut inside_carry = 0; // all ones while a quoted field goes on from the stretch before
        let mut edge_carry = 1; // whether the byte before the stretch lets a quote open; at the start of a block it does
        let (chunks, _) = padded[..length.next_multiple_of(STRIDE)].as_chunks::<STRIDE>();
        for (at, chunk) in chunks.iter().enumerate() {
            let start = at * STRIDE;
            // SAFETY: passed on to the caller.
            let mut masks = unsafe { classify.masks(chunk) };
            if length - start < STRIDE {
                masks = masks.lowest(length - start);
            }
            let mut outside = !0;
            if quotes && (masks.quotes | inside_carry) != 0 {
                let inside = prefix_xor(masks.quotes) ^ inside_carry;
                inside_carry = (inside.cast_signed() >> 63).cast_unsigned();
                outside = !inside;
            }
            masks.delimiters &= outside;
            masks.terminators &= outside;
            let separators = masks.delimiters | masks.terminators;
            if quotes {
                // A quote may open behind a separator, or behind a quote that has just closed (then the two are one
                // doubled quote and the field goes on).
                let edges = separators | masks.quotes;
                let opening = masks.quotes & !outside;
                if opening & !(edges << 1 | edge_carry) != 0 {
                    return false;
                }
                edge_carry = edges >> 63;
            }
            stretches += note_records(&mut self.records[stretches..], masks.terminators, separators, fields);
            fields += note_ends(&mut self.ends[fields + 1..], separators, start);
        }
        self.close(fields, stretches, length);
        true
    }

    /// The same index for any block, byte by byte.
    fn fill_slow(&mut self, block: &[u8], delimiter: u8) {
        enum State {
            FieldStart,
            Unquoted,
            Quoted,
            /// Behind a quote inside quotes: the first of two, or the closing one.
            Quote,
        }
        let (mut fields, mut stretches) = (0, 0);
        let mut state = State::FieldStart;
        for (at, &byte) in block.iter().enumerate() {
            let terminator = byte == b'\n' || byte == b'\r';
            state = match state {
                State::Quoted if byte == b'"' => State::Quote,
                State::Quoted => State::Quoted,
                State::FieldStart | State::Quote if byte == b'"' => State::Quoted,
                _ if byte == delimiter || terminator => {
                    fields += 1;
                    self.ends[fields] = at as u32;
                    if terminator {
                        self.records[stretches] = fields as u32;
                        stretches += 1;
                    }
                    State::FieldStart
                }
                _ => State::Unquoted,
            };
        }
        self.close(fields, stretches, block.len());
    }

    /// Ends the last record of a block that has no terminator behind it.
    fn close(&mut self, mut fields: usize, mut stretches: usize, length: usize) {
        let last = match stretches {
            0 => BEFORE,
            _ => self.ends[self.records[stretches - 1] as usize],
        };
        if last.wrapping_add(1) as usize != length {
            fields += 1;
            self.ends[fields] = length as u32;
            self.records[stretches] = fields as u32;
            stretches += 1;
        }
        self.stretches = stretches;
    }
}

/// Bit n of the result is the parity of bits 0 to n.
#[inline(always)]
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// Writes down where the marked separators stand; `ends` has room for a whole stretch, and what is behind the returned
/// number of them may be overwritten. Twelve without a branch: how many a stretch holds is hard to foresee, but seldom more.
#[inline(always)]
fn note_ends(ends: &mut [u32], mut separators: u64, start: usize) -> usize {
    let count = separators.count_ones() as usize;
    let ends = ends.first_chunk_mut::<STRIDE>().expect("room for a whole stretch");
    let mut note = |end: &mut u32| {
        *end = start as u32 + separators.trailing_zeros();
        separators &= separators.wrapping_sub(1);
    };
    let (first, rest) = ends.split_at_mut(12);
    first.iter_mut().for_each(&mut note);
    rest.iter_mut().take(count.saturating_sub(12)).for_each(note);
    count
}

/// Writes down which separators end records, `fields` being noted already; two without a branch, as in `note_ends`.
#[inline(always)]
fn note_records(records: &mut [u32], mut terminators: u64, separators: u64, fields: usize) -> usize {
    let count = terminators.count_ones() as usize;
    let records = records.first_chunk_mut::<STRIDE>().expect("room for a whole stretch");
    let mut note = |record: &mut u32| {
        let lower = (terminators & terminators.wrapping_neg()).wrapping_sub(1);
        *record = fields as u32 + 1 + (separators & lower).count_ones();
        terminators &= terminators.wrapping_sub(1);
    };
    let (first, rest) = records.split_at_mut(2);
    first.iter_mut().for_each(&mut note);
    rest.iter_mut().take(count.saturating_sub(2)).for_each(note);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::csv::unquote;
    use proptest::prelude::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quotes: true };

    fn padded(block: &[u8]) -> Vec<u8> {
        // Padding that would be wrong in every way if it were looked at.
        [block, "\",\n".repeat(STRIDE).as_bytes()].concat()
    }

    fn split(block: &[u8], dialect: Dialect, fill: impl Fn(&mut FieldIndex, &[u8])) -> Vec<Vec<Vec<u8>>> {
        let mut index = FieldIndex::default();
        let padded = padded(block);
        index.fill(&padded, block.len(), dialect); // leaves something behind for the second use
        fill(&mut index, &padded);
        let field = |record: Record, column| {
            let raw = &block[index.bounds(record.first, column)];
            unquote(raw, dialect.quotes, &mut Vec::new()).to_vec()
        };
        index.records().map(|record| (0..record.fields).map(|column| field(record, column)).collect()).collect()
    }

    fn oracle(block: &[u8], dialect: Dialect) -> Vec<Vec<Vec<u8>>> {
        let mut reader = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(dialect.delimiter)
            .quoting(dialect.quotes)
            .from_reader(block);
        reader.byte_records().map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
    }

    fn check(block: &[u8], dialect: Dialect) {
        let expected = oracle(block, dialect);
        let len = block.len();
        assert_eq!(split(block, dialect, |index, padded| index.fill(padded, len, dialect)), expected);
        // SAFETY: the portable classifier runs on every processor.
        let portable = |index: &mut FieldIndex, padded: &[u8]| unsafe {
            if !index.fill_with(Portable::new(dialect.delimiter), padded, len, dialect.quotes) {
                index.fill_slow(&padded[..len], dialect.delimiter);
            }
        };
        assert_eq!(split(block, dialect, portable), expected);
        if dialect.quotes {
            let slow = |index: &mut FieldIndex, padded: &[u8]| index.fill_slow(&padded[..len], dialect.delimiter);
            assert_eq!(split(block, dialect, slow), expected);
        }
    }

    #[test]
    fn quotes_terminators_and_empty_lines_are_what_the_csv_crate_takes_them_for() {
        for block in [
            "",
            "\n",
            "\r\n\r\n",
            "a",
            "a,",
            "a,\n",
            ",",
            "a,b\r\nc,d\r\n",
            "a\rb\r\rc",
            "\"\"",
            "\"\"\n",
            "\n\n\"a\nb\",c\n\nd",
            "\"a\"\"b\",\"\"\"\"\n",
            "5\" disk,x\ny\",z\n",
            "\"a\"b,c\n",
            "\"a\"b\"c,\"d\ne\"\n",
            "\"open,\n",
            "\"a\" \"b\",c\n",
        ] {
            check(block.as_bytes(), COMMA);
            check(block.as_bytes(), Dialect { quotes: false, ..COMMA });
        }
    }

    #[test]
    fn a_quoted_field_may_go_on_for_many_stretches() {
        let long = "line, \n".repeat(100);
        check(format!("a,\"{long}\",b\nc,d,e\n").as_bytes(), COMMA);
    }

    fn dense() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(b'"'), 4 => Just(b','), 2 => Just(b'\n'), 2 => Just(b'\r'), 2 => Just(b'\t'), 4 => Just(b'a')];
        proptest::collection::vec(byte, 0..300)
    }

    /// Records whose quotes all stand at the edges of fields, so that the fast path is the one that is tried.
    fn regular() -> impl Strategy<Value = Vec<u8>> {
        let field = prop_oneof!["[a-z]{0,5}", "\"([a-z,\n\r]|\"\"){0,20}\""];
        let record = (proptest::collection::vec(field, 1..6), prop_oneof![Just("\n"), Just("\r\n"), Just("\r")])
            .prop_map(|(fields, end)| fields.join(",") + end);
        proptest::collection::vec(record, 0..40).prop_map(|records| records.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_as_the_csv_crate_splits_them(block in dense(), tabs in any::<bool>(), quotes in any::<bool>()) {
            check(&block, Dialect { delimiter: if tabs { b'\t' } else { b',' }, quotes });
        }

        #[test]
        fn well_formed_records_are_split_as_the_csv_crate_splits_them(block in regular()) {
            let padded = padded(&block);
            // SAFETY: the portable classifier runs on every processor.
            let fast = unsafe { FieldIndex::default().sized(block.len()).fill_with(Portable::new(b','), &padded, block.len(), true) };
            prop_assert!(fast, "no need to go byte by byte");
            check(&block, COMMA);
        }
    }
}
