use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::error::Change;
use crate::format::csv::tests::{CSV, dense, oracle, rows};

const CSV_FRAMING: Framing = Framing::Csv { delimiter: b',', quotes: true };

type Record = (u64, Vec<u8>);

fn write(bytes: &[u8]) -> (tempfile::TempPath, InputFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let path = file.into_temp_path();
    let input = InputFile::at(&path, None).unwrap();
    (path, input)
}

/// Cuts a file of these bytes every `shard_bytes`.
fn pieces(bytes: &[u8], shard_bytes: usize) -> Vec<Piece> {
    let body = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
    let (mut csv, mut at) = (CsvState::Record, body);
    let starts = (0..bytes.len()).step_by(shard_bytes);
    starts
        .map(|start| {
            while at < start {
                csv = CSV.step(csv, bytes[at]);
                at += 1;
            }
            Piece::Bytes { start: start as u64, end: (start + shard_bytes).min(bytes.len()) as u64, csv }
        })
        .collect()
}

/// Reads all records of some pieces, checking what every block promises.
fn read(blocks: &mut BlockReader, input: &InputFile, pieces: &[Piece], framing: Framing) -> Result<Vec<Record>, ReadError> {
    let mut records = vec![];
    for piece in pieces {
        blocks.open(input, piece, framing)?;
        while let Some(block) = blocks.next()? {
            assert!(!block.bytes.is_empty() && block.padded().len() >= block.bytes.len() + PADDING);
            assert_eq!(&block.padded()[..block.bytes.len()], block.bytes);
            let found: Vec<(usize, &[u8])> = match framing {
                Framing::Lines => lines(block.bytes).collect(),
                Framing::Fixed(size) => {
                    block.bytes.chunks(size.get() as usize).enumerate().map(|(at, record)| (at * size.get() as usize, record)).collect()
                }
                Framing::Csv { delimiter, quotes } => Dialect { delimiter, quotes }.records(block.bytes).collect(),
            };
            let first = records.len();
            records.extend(found.iter().map(|(start, record)| (block.offset + *start as u64, record.to_vec())));
            if let Piece::Bytes { start, end, .. } = piece {
                assert!(records[first..].iter().all(|(offset, _)| (start..end).contains(&offset)), "a record of another shard");
            }
        }
        assert!(blocks.next().unwrap().is_none());
    }
    Ok(records)
}

fn naive_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let last = lines.pop().unwrap();
    for line in &mut lines {
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    lines.extend(Some(last).filter(|line| !line.is_empty()));
    lines
}

fn with_bom() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), prop_oneof![dense(0..70), rows(0..8)]).prop_map(|(bom, bytes)| if bom { [BOM, &bytes].concat() } else { bytes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn lines_are_those_of_the_unsplit_file(bytes in with_bom(), shard in 1..80usize, block in 1..80usize) {
        let (_path, input) = write(&bytes);
        let mut blocks = BlockReader::new(block, 1 << 20);
        let records = read(&mut blocks, &input, &pieces(&bytes, shard), Framing::Lines).unwrap();
        prop_assert_eq!(records.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>(), naive_lines(&bytes));
        for (offset, line) in records {
            prop_assert_eq!(&bytes[offset as usize..][..line.len()], line);
        }
    }

    #[test]
    fn csv_records_are_those_of_the_csv_crate_on_the_unsplit_file(bytes in with_bom(), shard in 1..80usize, block in 1..80usize, quotes: bool) {
        let (_path, input) = write(&bytes);
        let framing = Framing::Csv { delimiter: b',', quotes };
        let mut blocks = BlockReader::new(block, 1 << 20);
        let records = read(&mut blocks, &input, &pieces(&bytes, shard), framing).unwrap();
        let dialect = Dialect { quotes, ..CSV };
        let body = bytes.strip_prefix(BOM).unwrap_or(&bytes);
        let whole: Vec<_> = dialect.records(body).map(|(_, record)| record.to_vec()).collect();
        prop_assert_eq!(records.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), whole);
        prop_assert_eq!(records.len(), oracle(dialect, &bytes).len());
        for (offset, record) in records {
            prop_assert_eq!(&bytes[offset as usize..][..record.len()], record);
        }
    }

    #[test]
    fn fixed_records_are_those_of_the_unsplit_file(count in 0..40usize, size in 1..9u32, shard in 1..80usize, block in 1..80usize) {
        let bytes: Vec<u8> = (0..count * size as usize).map(|at| at as u8).collect();
        let (_path, input) = write(&bytes);
        let framing = Framing::Fixed(NonZeroU32::new(size).unwrap());
        let records = read(&mut BlockReader::new(block, 1 << 20), &input, &pieces(&bytes, shard), framing).unwrap();
        let expected: Vec<_> = bytes.chunks(size as usize).enumerate().map(|(at, record)| ((at * size as usize) as u64, record.to_vec())).collect();
        prop_assert_eq!(records, expected);
    }

    #[test]
    fn a_record_above_the_limit_is_an_error_wherever_blocks_and_shards_are_cut(bytes in with_bom(), shard in 1..80usize, block in 1..80usize, limit in 3..30usize) {
        let (_path, input) = write(&bytes);
        let body = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
        for framing in [Framing::Lines, CSV_FRAMING] {
            let records: Vec<(usize, usize)> = match framing {
                Framing::Lines => bytes[body..].split_inclusive(|byte| *byte == b'\n').map(|line| (line.as_ptr().addr() - bytes.as_ptr().addr(), line.len())).collect(),
                _ => CSV.records(&bytes[body..]).map(|(start, record)| (body + start, (record.len() + 1).min(bytes.len() - body - start))).collect(),
            };
            let expected = records.iter().find(|(_, length)| *length > limit).map(|(start, _)| *start as u64);
            match read(&mut BlockReader::new(block, limit), &input, &pieces(&bytes, shard), framing) {
                Ok(_) => prop_assert_eq!(expected, None),
                Err(ReadError::RecordTooLong { offset, limit: named, .. }) => prop_assert_eq!((Some(offset), named), (expected, limit as u64)),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn larger_files_are_read_whole_too(bytes in rows(1500..3000), shard in 1_000..90_000usize, block in 1_000..300_000usize) {
        let (_path, input) = write(&bytes);
        let mut blocks = BlockReader::new(block, 16 << 20);
        let lines: Vec<_> = read(&mut blocks, &input, &pieces(&bytes, shard), Framing::Lines).unwrap().into_iter().map(|(_, line)| line).collect();
        prop_assert_eq!(lines, naive_lines(&bytes));
        let records = read(&mut blocks, &input, &pieces(&bytes, shard), CSV_FRAMING).unwrap();
        let parsed: Vec<_> = records.iter().flat_map(|(_, record)| oracle(CSV, record)).collect();
        prop_assert_eq!(parsed, oracle(CSV, &bytes));
    }

    #[test]
    fn a_compressed_file_is_read_like_a_plain_one(members in prop::collection::vec(rows(0..60), 1..4), block in 1..900usize, start in 0..2usize) {
        let plain = members.concat();
        let start = CSV.first_boundary(&plain, CsvState::Record).unwrap_or(0) * start;
        let expected = read(&mut BlockReader::new(block, 1 << 20), &write(&plain).1, &[], CSV_FRAMING);
        prop_assert!(expected.unwrap().is_empty());
        let expected: Vec<_> = CSV.records(&plain[start..]).map(|(at, record)| ((start + at) as u64, record.to_vec())).collect();
        for compression in [Compression::Gzip, Compression::Zstd, Compression::Bzip2] {
            let (_path, mut input) = write(&members.iter().flat_map(|member| compress(compression, member)).collect::<Vec<_>>());
            input.compression = compression;
            let piece = Piece::Whole { start: start as u64 };
            let records = read(&mut BlockReader::new(block, 1 << 20), &input, &[piece], CSV_FRAMING).unwrap();
            prop_assert_eq!(&records, &expected);
        }
    }
}

fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

const COMPRESSIONS: [Compression; 3] = [Compression::Gzip, Compression::Zstd, Compression::Bzip2];
const WHOLE: Piece = Piece::Whole { start: 0 };

fn compressed(compression: Compression, bytes: &[u8]) -> (tempfile::TempPath, InputFile) {
    let (path, input) = write(bytes);
    (path, InputFile { compression, ..input })
}

#[test]
fn a_compressed_file_that_is_cut_off_anywhere_is_an_error() {
    let text: Vec<u8> = (0..400u32).flat_map(|at| format!("line {} of it\n", at * 7919 % 1000).into_bytes()).collect();
    for compression in COMPRESSIONS {
        let whole = [compress(compression, &text), compress(compression, b"more\n")].concat();
        let first = compress(compression, &text).len();
        for length in (1..whole.len()).filter(|length| *length != first) {
            let (_path, input) = compressed(compression, &whole[..length]);
            let error = read(&mut BlockReader::new(4096, 1 << 20), &input, &[WHOLE], Framing::Lines).unwrap_err();
            assert!(matches!(error, ReadError::Truncated { .. } | ReadError::Corrupt { .. }), "{compression} {length}: {error}");
        }
    }
}

#[test]
fn a_damaged_compressed_file_is_an_error() {
    for compression in COMPRESSIONS {
        for damage in [b"not compressed at all".to_vec(), [compress(compression, b"a\n"), b"and then something".to_vec()].concat()] {
            let (_path, input) = compressed(compression, &damage);
            let error = read(&mut BlockReader::new(4096, 1 << 20), &input, &[WHOLE], Framing::Lines).unwrap_err();
            assert!(matches!(error, ReadError::Truncated { .. } | ReadError::Corrupt { .. }), "{compression}: {error}");
        }
    }
}

#[test]
fn a_bomb_is_stopped() {
    let zeros = [b"0".repeat((512 << 10) - 1), b"\n".to_vec()].concat().repeat(36);
    for compression in COMPRESSIONS {
        let (_path, input) = compressed(compression, &compress(compression, &zeros));
        let mut strict = BlockReader::with_limits(4096, Limits { expansion: 20, ..Limits::default() });
        let error = read(&mut strict, &input, &[WHOLE], Framing::Lines).unwrap_err();
        assert!(matches!(error, ReadError::Bomb { limit: 20, .. }), "{compression}: {error}");
        // All three pack zeros better than the usual limit allows.
        let usual = read(&mut BlockReader::new(4096, 1 << 20), &input, &[WHOLE], Framing::Lines);
        assert!(matches!(usual, Err(ReadError::Bomb { limit: 200, .. })), "{compression}");
        let mut lax = BlockReader::with_limits(4096, Limits { expansion: 1_000_000, ..Limits::default() });
        assert!(read(&mut lax, &input, &[WHOLE], Framing::Lines).is_ok(), "{compression}");
    }
}

#[test]
fn a_zstd_window_above_the_limit_is_refused() {
    let text: Vec<u8> = (0..1u32 << 18).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    encoder.window_log(22).unwrap();
    encoder.write_all(&text).unwrap();
    let large = encoder.finish().unwrap();
    let framing = Framing::Fixed(NonZeroU32::MIN);
    let strict = || BlockReader::with_limits(4096, Limits { window_bytes: 1 << 20, ..Limits::default() });

    let (_path, input) = compressed(Compression::Zstd, &large);
    let error = read(&mut strict(), &input, &[WHOLE], framing).unwrap_err();
    assert!(matches!(error, ReadError::WindowTooLarge { bytes: 4_194_304, limit: 1_048_576, .. }), "{error}");
    assert_eq!(read(&mut BlockReader::new(1 << 16, 1 << 20), &input, &[WHOLE], framing).unwrap().len(), text.len());

    // Behind a small frame it is found later, but not decompressed either.
    let (_path, input) = compressed(Compression::Zstd, &[zstd::bulk::compress(b"small", 1).unwrap(), large].concat());
    let error = read(&mut strict(), &input, &[WHOLE], framing).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    // Where it is not the limit that is too low, it is known how much memory would do.
    let room = Room { memory_bytes: 16 << 20, threads: 4 };
    let error = read(&mut BlockReader::new(4096, 1 << 20).within(room), &input, &[WHOLE], framing).unwrap_err();
    assert!(matches!(error, ReadError::NoRoom { offset: 5, room: 1_048_576, enough: 2_147_483_648, .. }), "{error}");
    let room = Room { memory_bytes: 64 << 20, threads: 4 };
    assert!(read(&mut BlockReader::new(4096, 1 << 20).within(room), &input, &[WHOLE], framing).is_ok());
}

#[test]
fn a_record_above_the_room_is_an_error_that_says_how_much_would_do() {
    let text = [
        "ab
",
        &"c".repeat(99),
        "
d
",
    ]
    .concat();
    let room = |longest: u64| Room { memory_bytes: longest * 8 * 3, threads: 3 };
    let (_path, input) = write(text.as_bytes());
    let read_within = |longest| read(&mut BlockReader::new(16, 1000).within(room(longest)), &input, &[WHOLE], Framing::Lines);
    assert_eq!(read_within(100).unwrap().len(), 3);
    let error = read_within(99).unwrap_err();
    assert!(matches!(error, ReadError::NoRoom { offset: 3, room: 99, enough: 24_000, .. }), "{error}");
    // The limit is told where it is the limit.
    let error = read(&mut BlockReader::new(16, 50).within(room(100)), &input, &[WHOLE], Framing::Lines).unwrap_err();
    assert!(matches!(error, ReadError::RecordTooLong { offset: 3, limit: 50, .. }), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let lines = b"some line\n".repeat(1000);
    let change_while_reading = |change: &dyn Fn(&Path)| {
        let (path, input) = write(&lines);
        let mut blocks = BlockReader::new(1000, 1 << 20);
        blocks.open(&input, &WHOLE, Framing::Lines).unwrap();
        blocks.next().unwrap().unwrap();
        change(&path);
        loop {
            match blocks.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the change went unnoticed"),
                Err(ReadError::Changed { change, path: named }) => {
                    assert_eq!(named, path.to_path_buf());
                    return change;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    let append = |path: &Path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more\n").unwrap();
    assert_eq!(change_while_reading(&append), Change::Size { was: 10_000, is: 10_005 });
    let cut = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5_000).unwrap();
    assert_eq!(change_while_reading(&cut), Change::Size { was: 10_000, is: 5_000 });
    let rewrite = |path: &Path| fs::write(path, b"other one\n".repeat(1000)).unwrap();
    assert_eq!(change_while_reading(&rewrite), Change::Head);
}

#[test]
fn a_field_above_its_limit_is_an_error_that_says_where() {
    let (_path, input) = write(b"a,b\nc,\"long, and longer\"\n");
    let mut blocks = BlockReader::with_limits(1 << 10, Limits { field_bytes: 10, ..Limits::default() });
    let error = read(&mut blocks, &input, &[WHOLE], CSV_FRAMING).unwrap_err();
    assert!(matches!(error, ReadError::FieldTooLong { offset: 6, limit: 10, .. }), "{error}");
}

#[test]
fn a_quote_that_is_never_closed_ends_at_the_record_limit() {
    let (_path, input) = write(&[b"a,\"".to_vec(), b"x\n".repeat(100_000)].concat());
    let error = read(&mut BlockReader::new(4096, 50_000), &input, &[WHOLE], CSV_FRAMING).unwrap_err();
    assert!(matches!(error, ReadError::RecordTooLong { offset: 0, limit: 50_000, .. }), "{error}");
}

#[test]
fn half_a_fixed_record_at_the_end_is_an_error() {
    let (_path, input) = write(b"0123456789");
    let framing = Framing::Fixed(NonZeroU32::new(4).unwrap());
    for pieces in [vec![WHOLE], pieces(b"0123456789", 3)] {
        let error = read(&mut BlockReader::new(4, 100), &input, &pieces, framing).unwrap_err();
        assert!(matches!(error, ReadError::Truncated { offset: 10, .. }), "{error}");
    }
}

#[test]
fn room_for_a_long_record_is_given_back() {
    let (_path, input) = write(&[vec![b'x'; 1 << 20], b"\nshort\n".to_vec()].concat());
    let mut blocks = BlockReader::new(4096, 16 << 20);
    read(&mut blocks, &input, &[WHOLE], Framing::Lines).unwrap();
    assert!(blocks.buffer.capacity() > 1 << 20);
    blocks.open(&input, &Piece::Bytes { start: (1 << 20) + 1, end: (1 << 20) + 7, csv: CsvState::Record }, Framing::Lines).unwrap();
    assert!(blocks.buffer.capacity() <= 4096 + 2 * PADDING);
    assert_eq!(blocks.next().unwrap().unwrap().bytes, b"short\n");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let (path, mut input) = write(b"x");
    drop(path);
    input.path = PathBuf::from("/nowhere/at-all.csv");
    let error = BlockReader::new(4096, 100).open(&input, &WHOLE, Framing::Lines).unwrap_err();
    assert_eq!(error.path(), Path::new("/nowhere/at-all.csv"));
    assert_eq!(error.to_string(), "cannot open /nowhere/at-all.csv");
}
