//! What `--key` says.

use std::ops::Range;

use shardmill::Result;
use shardmill::arrow::compute::SortOptions;
use shardmill::arrow::datatypes::Schema;

/// A key as it was given.
#[derive(Debug, PartialEq)]
pub(crate) enum KeySpec {
    Bytes(Vec<ByteKey>),
    Columns(Vec<ColumnKey>),
}

/// Bytes of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ByteKey {
    range: Range<usize>,
    pub(crate) is_descending: bool,
}

/// A column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ColumnKey {
    name: String,
    is_descending: bool,
}

impl KeySpec {
    /// Reads `city,price:desc` or `0..10,14..18:desc`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut columns = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, is_descending) = match part.rsplit_once(':') {
                Some((name, "desc")) => (name, true),
                Some((name, "asc")) => (name, false),
                _ => (part, false),
            };
            if name.is_empty() {
                return Err(format!("--key {text}: a column or a range is missing").into());
            }
            match range(name) {
                Some(range) if range.is_empty() => return Err(format!("--key {text}: the range {name} is empty").into()),
                Some(range) => bytes.push(ByteKey { range, is_descending }),
                None => columns.push(ColumnKey { name: name.to_owned(), is_descending }),
            }
        }
        match (bytes.is_empty(), columns.is_empty()) {
            (false, false) => Err(format!("--key {text}: ranges of bytes and columns cannot be mixed").into()),
            (false, true) => Ok(Self::Bytes(bytes)),
            _ => Ok(Self::Columns(columns)),
        }
    }
}

fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

impl ByteKey {
    /// The bytes of `record` in the range, as far as it has them.
    #[inline]
    pub(crate) fn of<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        let end = self.range.end.min(record.len());
        &record[self.range.start.min(end)..end]
    }
}

/// Several ranges as one key whose order is theirs. A range that a record does not reach is padded, below any byte that is there.
pub(crate) fn of_ranges(ranges: &[ByteKey], record: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    for range in ranges {
        let start = key.len();
        for byte in range.of(record) {
            // One bit more than a byte, so that what is missing sorts before zero.
            key.extend_from_slice(&[1, *byte]);
        }
        key.resize(start + 2 * range.range.len(), 0);
        if range.is_descending {
            key[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    key
}

impl ColumnKey {
    /// The column's place in `schema`.
    pub(crate) fn find_in(&self, schema: &Schema) -> Result<usize> {
        schema.index_of(&self.name).map_err(|_| {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            format!("--key: there is no column {:?}; the input has {}", self.name, names.join(", ")).into()
        })
    }

    /// Nulls come first, and last where the order is turned round.
    pub(crate) fn options(&self) -> SortOptions {
        SortOptions { descending: self.is_descending, nulls_first: !self.is_descending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let columns = |list: &[(&str, bool)]| {
            KeySpec::Columns(
                list.iter().map(|(name, is_descending)| ColumnKey { name: (*name).to_owned(), is_descending: *is_descending }).collect(),
            )
        };
        assert_eq!(KeySpec::parse("city, price:desc").unwrap(), columns(&[("city", false), ("price", true)]));
        assert_eq!(KeySpec::parse("a:asc").unwrap(), columns(&[("a", false)]));
        assert_eq!(KeySpec::parse("0..10").unwrap(), KeySpec::Bytes(vec![ByteKey { range: 0..10, is_descending: false }]));
        for wrong in ["", "a,,b", "3..3", "0..4,city"] {
            assert!(KeySpec::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn several_ranges_order_like_their_parts() {
        let KeySpec::Bytes(ranges) = KeySpec::parse("0..2,2..4:desc").unwrap() else { panic!("ranges") };
        let mut records: Vec<&[u8]> = vec![b"aab", b"aaa", b"aabc", b"a", b"ab\0\0", b"aa\xff\xff", b"aa"];
        records.sort_by_key(|record| of_ranges(&ranges, record));
        assert_eq!(records, [&b"a"[..], b"aa\xff\xff", b"aabc", b"aab", b"aaa", b"aa", b"ab\0\0"]);
    }
}
