//! The CSV automaton: where records begin and end, exactly as the `csv` crate has it.
//!
//! A quoted field may hold newlines, so what a byte means depends on all bytes before it. But the automaton that
//! decides it has five states, and a piece of a file is, for this purpose, a function from five states to five:
//! pieces are read in parallel, their functions (`Transition`) composed, and the state at every cut is known.
//!
//! ```text
//!                  delimiter        \r or \n      quote             any other
//! Record           Field            Record        Quoted            Unquoted       between records
//! Field            Field            Record        Quoted            Unquoted       behind a delimiter
//! Unquoted         Field            Record        Unquoted (!)      Unquoted       a quote inside is an ordinary byte
//! Quoted           Quoted           Quoted        QuoteInQuoted     Quoted
//! QuoteInQuoted    Field            Record        Quoted            Unquoted       the end of the quotes, or a doubled one
//! ```
//!
//! A *boundary* is a position in state `Record`. Records end at the first `\r` or `\n` outside quotes; further ones are
//! skipped, so blank lines are no records and `\r\n` needs no state of its own. Splitting a record into fields and
//! taking quotes off is left to the tables.

mod scan;

use memchr::{memchr, memchr2, memchr3, memrchr2};
use serde::{Deserialize, Serialize};

/// What the user says about CSV and TSV files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct CsvOptions {
    /// Whether the first record of a CSV file names the columns: first, or none (they are called column_1, column_2, …).
    #[cfg_attr(
        feature = "cli",
        arg(id = "csv-header", long = "csv-header", value_name = "WHICH", default_value = "first", value_parser = header, action = clap::ArgAction::Set, help_heading = "Input")
    )]
    pub header: bool,
    /// Whether quotes have a meaning in CSV files: double (they enclose fields and are doubled inside), or none.
    #[cfg_attr(
        feature = "cli",
        arg(id = "csv-quotes", long = "csv-quotes", value_name = "HOW", default_value = "double", value_parser = quotes, action = clap::ArgAction::Set, help_heading = "Input")
    )]
    pub quotes: bool,
}

#[cfg(feature = "cli")]
fn header(word: &str) -> Result<bool, &'static str> {
    match word {
        "first" => Ok(true),
        "none" => Ok(false),
        _ => Err("it is first or none"),
    }
}

#[cfg(feature = "cli")]
fn quotes(word: &str) -> Result<bool, &'static str> {
    match word {
        "double" => Ok(true),
        "none" => Ok(false),
        _ => Err("it is double or none"),
    }
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { header: true, quotes: true }
    }
}

/// A state of the CSV automaton: what the bytes so far say about the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum CsvState {
    /// Between records.
    #[default]
    Record,
    /// Behind a delimiter.
    Field,
    /// In a field without quotes, or behind the closing quote of one.
    Unquoted,
    /// Between quotes.
    Quoted,
    /// Behind a quote that closes a field, unless the next byte is one too.
    QuoteInQuoted,
}

impl CsvState {
    const ALL: [Self; 5] = [Self::Record, Self::Field, Self::Unquoted, Self::Quoted, Self::QuoteInQuoted];
}

/// A dialect of CSV: its delimiter, and whether quotes have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// The separator of fields.
    pub delimiter: u8,
    /// Whether `"` quotes.
    pub quotes: bool,
}

/// What a stretch of bytes does to the automaton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The state behind the last byte.
    pub(crate) state: CsvState,
    /// The last boundary behind the first byte.
    pub(crate) last_boundary: Option<usize>,
}

impl Dialect {
    /// Returns the state behind `byte`, given the one before it.
    #[inline(always)]
    pub fn step(self, state: CsvState, byte: u8) -> CsvState {
        use CsvState::*;
        match (state, byte) {
            (Quoted, b'"') => QuoteInQuoted,
            (Quoted, _) => Quoted,
            (_, b'\r' | b'\n') => Record,
            (_, byte) if byte == self.delimiter => Field,
            (Unquoted, b'"') => Unquoted,
            (_, b'"') if self.quotes => Quoted,
            _ => Unquoted,
        }
    }

    /// Runs over `bytes`, which begin in `state`.
    pub(crate) fn scan(self, bytes: &[u8], state: CsvState) -> Scan {
        if self.quotes {
            return scan::scan(self, bytes, state);
        }
        // Without quotes a byte means the same everywhere.
        let state = bytes.last().map_or(state, |&last| self.step(CsvState::Unquoted, last));
        Scan { state, last_boundary: memrchr2(b'\r', b'\n', bytes).map(|at| at + 1) }
    }

    /// Finds the first boundary behind the first byte of `bytes`, which begin in `state`, or else the state behind them.
    pub(crate) fn first_boundary(self, bytes: &[u8], mut state: CsvState) -> Result<usize, CsvState> {
        // Run over what holds no boundary, and step only through the piece with the first one.
        for (index, piece) in bytes.chunks(1024).enumerate() {
            let scan = self.scan(piece, state);
            if scan.last_boundary.is_some() {
                for (at, &byte) in piece.iter().enumerate() {
                    state = self.step(state, byte);
                    if state == CsvState::Record {
                        return Ok(index * 1024 + at + 1);
                    }
                }
            }
            state = scan.state;
        }
        Err(state)
    }

    /// Yields the records of `bytes`, which begin at a boundary: where each begins, and its bytes without the terminator.
    ///
    /// ```
    /// # use shardmill_datasets::Dialect;
    /// let csv = Dialect { delimiter: b',', quotes: true };
    /// let records: Vec<_> = csv.records(b"a,\"1\n2\"\r\n\r\nb,3").collect();
    /// assert_eq!(records, [(0, &b"a,\"1\n2\""[..]), (11, &b"b,3"[..])]);
    /// ```
    pub fn records(self, bytes: &[u8]) -> Records<'_> {
        Records { dialect: self, bytes, position: 0 }
    }

    /// Takes one record apart: its fields without their quotes. For headers; tables have a faster way.
    pub(crate) fn fields(self, record: &[u8]) -> Vec<Vec<u8>> {
        use CsvState::*;
        let (mut state, mut fields) = (Record, vec![vec![]]);
        for &byte in record {
            let next = self.step(state, byte);
            match (state, next) {
                (_, Field) => fields.push(vec![]),
                (Record | Field, Quoted) | (Quoted, QuoteInQuoted) => {}
                _ => fields.last_mut().expect("there is always one").push(byte),
            }
            state = next;
        }
        fields
    }

    /// Finds the first field of `bytes`, which begin at a boundary, that is longer than `limit` bytes.
    pub(crate) fn field_above(self, bytes: &[u8], limit: usize) -> Option<usize> {
        let (mut state, mut start) = (CsvState::Record, 0);
        for (at, &byte) in bytes.iter().enumerate() {
            state = self.step(state, byte);
            match state {
                CsvState::Record | CsvState::Field => start = at + 1,
                _ if at + 1 - start > limit => return Some(start),
                _ => {}
            }
        }
        None
    }
}

/// The records of a block, see [`Dialect::records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    dialect: Dialect,
    bytes: &'a [u8],
    position: usize,
}

impl Records<'_> {
    /// Finds the end of the record that begins at `start`, hopping from quote to quote.
    fn end(&self, start: usize) -> usize {
        let bytes = self.bytes;
        if !self.dialect.quotes {
            return memchr2(b'\r', b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at);
        }
        let mut from = start;
        loop {
            let Some(at) = memchr3(b'\r', b'\n', b'"', &bytes[from..]).map(|at| from + at) else { return bytes.len() };
            if bytes[at] != b'"' {
                return at;
            }
            from = at + 1;
            // Quotes open at a field's edge only.
            if at == start || bytes[at - 1] == self.dialect.delimiter {
                loop {
                    let Some(close) = memchr(b'"', &bytes[from..]).map(|at| from + at) else { return bytes.len() };
                    if bytes.get(close + 1) != Some(&b'"') {
                        from = close + 1;
                        break;
                    }
                    from = close + 2;
                }
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let blank = self.bytes[self.position..].iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let start = self.position + blank;
        let end = self.end(start);
        self.position = (end + 1).min(self.bytes.len());
        Some((start, &self.bytes[start..end]))
    }
}

/// What a piece of a file does to the automaton, from each state it may find it in.
///
/// Three bits per state, `Record` lowest: small, since a plan is made from one for every few megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transition(u16);

impl Transition {
    /// The transition of no bytes at all.
    pub(crate) fn identity() -> Self {
        Self::from(CsvState::ALL)
    }

    /// Returns the state behind the piece, given the one before it; nothing if the transition was damaged on its way.
    pub(crate) fn apply(self, state: CsvState) -> Option<CsvState> {
        CsvState::ALL.get(usize::from(self.0 >> (3 * state as u16) & 7)).copied()
    }

    /// Lengthens the piece by `bytes`.
    pub(crate) fn extend(&mut self, dialect: Dialect, bytes: &[u8]) {
        let mut ends = CsvState::ALL.map(|state| self.apply(state).expect("made here, so it holds states only"));
        let mut rest = bytes;
        while !rest.is_empty() {
            // The states mostly meet within a few fields; from then on the piece is run over once.
            if ends.iter().all(|&end| end == ends[0]) {
                ends = [dialect.scan(rest, ends[0]).state; 5];
                break;
            }
            let (window, after) = rest.split_at(rest.len().min(8 << 10));
            ends = advance_each(dialect, window, ends);
            rest = after;
        }
        *self = Self::from(ends);
    }
}

/// Runs over `window` once from each different one of the five states.
fn advance_each(dialect: Dialect, window: &[u8], starts: [CsvState; 5]) -> [CsvState; 5] {
    let Some(&last) = window.last() else { return starts };
    if memchr(b'"', window).is_none() {
        // Without a quote, quoted stays quoted, and for the others the last byte decides.
        return starts.map(|start| dialect.step(if start == CsvState::Quoted { start } else { CsvState::Unquoted }, last));
    }
    let mut ends = starts;
    for at in 0..starts.len() {
        ends[at] = match starts[..at].iter().position(|start| *start == starts[at]) {
            Some(same) => ends[same],
            None => dialect.scan(window, starts[at]).state,
        };
    }
    ends
}

impl From<[CsvState; 5]> for Transition {
    fn from(ends: [CsvState; 5]) -> Self {
        Self(ends.iter().rev().fold(0, |bits, &end| bits << 3 | end as u16))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const CSV: Dialect = Dialect { delimiter: b',', quotes: true };

    /// Bytes dense in everything that means something.
    pub(crate) fn dense(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a'), Just(0xef), Just(0xbb), Just(0xbf)];
        prop::collection::vec(byte, len)
    }

    /// Rows of fields of which some are quoted, some contain quotes where none should be.
    pub(crate) fn rows(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let field = prop_oneof![4 => "[a-z0-9]{0,9}", 4 => "\"([a-z,\n\r]|\"\"){0,30}\"", 1 => "[0-9]\" disk", 1 => "\"a\"b\"?"];
        let row = (prop::collection::vec(field, 1..6), prop_oneof![4 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\r"), 1 => Just("\n\n")]);
        prop::collection::vec(row, count)
            .prop_map(|rows| rows.iter().map(|(fields, end)| fields.join(",") + end).collect::<String>().into_bytes())
    }

    fn dialects() -> impl Strategy<Value = Dialect> {
        prop_oneof![Just(b','), Just(b'\t')].prop_flat_map(|delimiter| any::<bool>().prop_map(move |quotes| Dialect { delimiter, quotes }))
    }

    fn stepped(dialect: Dialect, bytes: &[u8], mut state: CsvState) -> Scan {
        let mut last_boundary = None;
        for (at, &byte) in bytes.iter().enumerate() {
            state = dialect.step(state, byte);
            if state == CsvState::Record {
                last_boundary = Some(at + 1);
            }
        }
        Scan { state, last_boundary }
    }

    /// The records of `bytes` as the `csv` crate finds them.
    pub(crate) fn oracle(dialect: Dialect, bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(dialect.delimiter)
            .quoting(dialect.quotes)
            .from_reader(bytes);
        reader.byte_records().map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn scanning_is_stepping(bytes in prop_oneof![dense(0..400), rows(0..40)], dialect in dialects(), at in 0..5usize) {
            let state = CsvState::ALL[at];
            prop_assume!(dialect.quotes || !matches!(state, CsvState::Quoted | CsvState::QuoteInQuoted));
            prop_assert_eq!(dialect.scan(&bytes, state), stepped(dialect, &bytes, state));
        }

        #[test]
        fn a_transition_is_stepping_from_every_state(pieces in prop::collection::vec(prop_oneof![dense(0..300), rows(0..150)], 0..3)) {
            let mut transition = Transition::identity();
            for piece in &pieces {
                transition.extend(CSV, piece);
            }
            for state in CsvState::ALL {
                prop_assert_eq!(transition.apply(state), Some(stepped(CSV, &pieces.concat(), state).state));
            }
        }

        #[test]
        fn the_first_boundary_is_where_stepping_first_meets_one(bytes in prop_oneof![dense(0..100), rows(0..200)], dialect in dialects()) {
            let first = (1..=bytes.len()).find(|&at| stepped(dialect, &bytes[..at], CsvState::Record).state == CsvState::Record);
            prop_assert_eq!(dialect.first_boundary(&bytes, CsvState::Record).ok(), first);
        }

        #[test]
        fn records_are_those_of_the_csv_crate(bytes in prop_oneof![dense(0..60), rows(0..30)], dialect in dialects()) {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
            let records: Vec<_> = dialect.records(bytes).collect();
            let parsed: Vec<_> = records.iter().map(|(_, record)| oracle(dialect, record)).collect();
            // A record by itself may begin with what looks like a BOM; the oracle would strip it.
            prop_assume!(!records.iter().any(|(_, record)| record.starts_with(b"\xef\xbb\xbf")));
            prop_assert!(parsed.iter().all(|alone| alone.len() == 1));
            prop_assert_eq!(parsed.concat(), oracle(dialect, bytes));
            prop_assert_eq!(records.iter().map(|(_, record)| dialect.fields(record)).collect::<Vec<_>>(), oracle(dialect, bytes));
            for (start, record) in records {
                prop_assert_eq!(&bytes[start..start + record.len()], record);
            }
        }

        #[test]
        fn a_long_field_is_found(bytes in rows(0..10), limit in 1..20usize) {
            let mut lengths = vec![];
            for (start, record) in CSV.records(&bytes) {
                let mut field = start;
                for at in 0..=record.len() {
                    let state = stepped(CSV, &record[..at], CsvState::Record).state;
                    if at == record.len() || record[at] == b',' && state != CsvState::Quoted {
                        lengths.push((field, start + at - field));
                        field = start + at + 1;
                    }
                }
            }
            let expected = lengths.iter().find(|(_, length)| *length > limit).map(|(start, _)| *start);
            prop_assert_eq!(CSV.field_above(&bytes, limit), expected);
        }
    }
}
