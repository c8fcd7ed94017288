//! Fields of delimited text: quoting, exactly as the `csv` crate's writer does it by default.
//!
//! A field is quoted when it holds the delimiter, a quote, CR or LF; quotes inside are doubled. A
//! record ends with LF; one whose only field is empty is written as `""`, or it would read as no
//! record at all. Which fields there are is left to `row.rs` (rows) and `cells.rs` (batches).

/// One record being appended to a text.
pub(super) struct Record<'a> {
    out: &'a mut Vec<u8>,
    delimiter: u8,
    start: usize,
    fields: usize,
}

impl<'a> Record<'a> {
    #[inline]
    pub(super) fn begin(out: &'a mut Vec<u8>, delimiter: u8) -> Self {
        let start = out.len();
        Self { out, delimiter, start, fields: 0 }
    }

    /// How many fields were written.
    #[inline]
    pub(super) fn fields(&self) -> usize {
        self.fields
    }

    /// A field of any bytes, quoted where it must be.
    #[inline]
    pub(super) fn field(&mut self, bytes: &[u8]) {
        let delimiter = self.delimiter;
        let out = self.plain();
        if needs_quotes(bytes, delimiter) { push_quoted(out, bytes) } else { out.extend_from_slice(bytes) }
    }

    /// Starts a field whose bytes need no quotes; the caller appends them.
    #[inline]
    pub(super) fn plain(&mut self) -> &mut Vec<u8> {
        if self.fields > 0 {
            self.out.push(self.delimiter);
        }
        self.fields += 1;
        self.out
    }

    #[inline]
    pub(super) fn end(self) {
        if self.out.len() == self.start {
            self.out.extend_from_slice(b"\"\"");
        }
        self.out.push(b'\n');
    }

    /// Takes the record back.
    #[cold]
    pub(super) fn abandon(self) {
        self.out.truncate(self.start);
    }
}

#[cold]
fn push_quoted(out: &mut Vec<u8>, mut bytes: &[u8]) {
    out.push(b'"');
    while let Some(quote) = memchr::memchr(b'"', bytes) {
        out.extend_from_slice(&bytes[..=quote]);
        out.push(b'"');
        bytes = &bytes[quote + 1..];
    }
    out.extend_from_slice(bytes);
    out.push(b'"');
}

/// Whether a field must be quoted.
///
/// Eight bytes at a time in an ordinary register: most fields are words and numbers, too short for
/// wider registers to pay. The last eight bytes overlap the ones before where the length is odd.
#[inline]
fn needs_quotes(bytes: &[u8], delimiter: u8) -> bool {
    let word = |at: usize| -> u64 { u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes make a word")) };
    let half = |at: usize| -> u64 { u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes make half a word")).into() };
    match bytes.len() {
        0 => false,
        1..=3 => bytes.iter().any(|&b| matches!(b, b'"' | b'\n' | b'\r') || b == delimiter),
        4..=7 => special(half(0) | half(bytes.len() - 4) << 32, delimiter),
        len => {
            let mut at = 0;
            while at + 8 < len {
                if special(word(at), delimiter) {
                    return true;
                }
                at += 8;
            }
            special(word(len - 8), delimiter)
        }
    }
}

/// Whether any byte of a word is the delimiter, a quote, CR or LF.
#[inline]
fn special(word: u64, delimiter: u8) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Nonzero exactly if some byte of `word` is `byte`. The bits above the lowest hit may be wrong,
    // which does not matter to the question.
    let holds = |byte: u8| {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & HIGH
    };
    holds(delimiter) | holds(b'"') | holds(b'\n') | holds(b'\r') != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes dense in everything that is special.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            3 => prop::sample::select(b",\"\n\r\t;a ".to_vec()),
            5 => any::<u8>(),
        ];
        prop_oneof![prop::collection::vec(byte, 0..40), prop::collection::vec(b'a'..=b'z', 0..40),]
    }

    proptest! {
        #[test]
        fn records_are_the_bytes_that_the_csv_crate_writes(
            records in prop::collection::vec(prop::collection::vec(field(), 1..5), 0..8),
            delimiter in prop::sample::select(b",\t;".to_vec()),
        ) {
            let mut ours = Vec::new();
            let mut theirs = ::csv::WriterBuilder::new()
                .delimiter(delimiter).flexible(true).from_writer(Vec::new());
            for fields in &records {
                let mut record = Record::begin(&mut ours, delimiter);
                fields.iter().for_each(|field| record.field(field));
                record.end();
                theirs.write_record(fields).unwrap();
            }
            prop_assert_eq!(ours, theirs.into_inner().unwrap());
        }

        #[test]
        fn a_word_at_a_time_finds_what_a_byte_at_a_time_finds(bytes in field(), delimiter: u8) {
            let naive = bytes.iter().any(|b| [b'"', b'\n', b'\r', delimiter].contains(b));
            prop_assert_eq!(needs_quotes(&bytes, delimiter), naive);
        }
    }

    #[test]
    fn an_abandoned_record_leaves_nothing_behind() {
        let mut text = b"kept\n".to_vec();
        let mut record = Record::begin(&mut text, b',');
        record.field(b"half");
        record.abandon();
        assert_eq!(text, b"kept\n");
    }
}
