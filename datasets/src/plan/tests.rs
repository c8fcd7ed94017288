use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::BlockReader;
use crate::Room;
use crate::format::csv::Dialect;
use crate::format::csv::tests::{CSV, dense, oracle, rows};

/// Lists files of these names and contents, in this order.
fn listed(folder: &tempfile::TempDir, files: &[(&str, &[u8])]) -> Vec<InputFile> {
    let list = files.iter().map(|(name, bytes)| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        InputFile::at(&path, None).unwrap()
    });
    list.collect()
}

/// Plans, sending surveys and results through their wire form.
fn plan(files: Vec<InputFile>, options: PlanOptions) -> Result<Plan, PlanError> {
    let draft = Draft::new(files, options)?;
    let results: Vec<_> =
        draft.surveys().iter().map(|survey| Ok(copied(&copied(survey).run(Room::ENDLESS)?))).collect::<Result<_, ReadError>>()?;
    let plan = draft.finish(results)?;
    assert_eq!(copied(&plan), plan);
    Ok(plan)
}

fn copied<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn planned(files: &[(&str, &[u8])], options: PlanOptions) -> Result<Plan, PlanError> {
    let folder = tempfile::tempdir().unwrap();
    plan(listed(&folder, files), options)
}

fn with_shards(shape: Shape, shard_bytes: u64) -> PlanOptions {
    PlanOptions { shard_bytes: Some(shard_bytes), ..PlanOptions::new(shape) }
}

/// Reads some shards of a plan: file and parsed fields of each record.
fn records(plan: &Plan, shards: &[Shard]) -> Vec<(u32, Vec<Vec<u8>>)> {
    let mut blocks = BlockReader::new(64, 1 << 20);
    let mut records = vec![];
    for shard in shards {
        let framing = plan.framing(shard.file).unwrap();
        blocks.open(&plan.files[shard.file as usize].file, &shard.piece, framing).unwrap();
        while let Some(block) = blocks.next().unwrap() {
            match framing {
                Framing::Csv { delimiter, quotes } => {
                    let dialect = Dialect { delimiter, quotes };
                    records.extend(dialect.records(block.bytes).map(|(_, record)| (shard.file, oracle(dialect, record).remove(0))));
                }
                _ => records.extend(crate::lines(block.bytes).map(|(_, line)| (shard.file, vec![line.to_vec()]))),
            }
        }
    }
    records
}

fn file_of_csv() -> impl Strategy<Value = Vec<u8>> {
    let bom = "\u{feff}".as_bytes();
    (any::<bool>(), prop_oneof![dense(0..90), rows(0..12)]).prop_map(move |(with, bytes)| if with { [bom, &bytes].concat() } else { bytes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_shards_of_a_plan_hold_every_csv_record_once_in_order(
        contents in prop::collection::vec(file_of_csv(), 1..4),
        shard_bytes in 1..120u64,
        header: bool,
        quotes: bool,
        sampled: bool,
    ) {
        // A record that begins like a BOM is no different, but the oracle would strip it where it parses it alone.
        let dialect = Dialect { quotes, ..CSV };
        let bom = "\u{feff}".as_bytes();
        let body = |bytes: &[u8]| bytes.strip_prefix(bom).unwrap_or(bytes).to_vec();
        prop_assume!(contents.iter().all(|bytes| dialect.records(&body(bytes)).all(|(_, record)| !record.starts_with(bom))));
        let names: Vec<_> = (0..contents.len()).map(|at| format!("{at}.csv")).collect();
        let files: Vec<_> = names.iter().zip(&contents).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let folder = tempfile::tempdir().unwrap();
        let csv = CsvOptions { header, quotes };
        let options = PlanOptions { csv, sampled, partitions: Some(2), ..with_shards(Shape::Bytes, shard_bytes) };
        // Names are text, and end: what is put behind the file is no part of them.
        let valid_header = |bytes: &Vec<u8>| oracle(dialect, bytes).first().is_none_or(|names| {
            let ends = oracle(dialect, &[bytes, &b"\nx"[..]].concat()).first() == Some(names);
            ends && names.iter().all(|name| std::str::from_utf8(name).is_ok())
        });
        prop_assume!(!header || contents.iter().all(valid_header));
        let plan = plan(listed(&folder, &files), options).unwrap();

        let expected: Vec<_> = contents.iter().enumerate().flat_map(|(file, bytes)| {
            oracle(dialect, bytes).into_iter().skip(usize::from(header)).map(move |record| (file as u32, record))
        }).collect();
        prop_assert_eq!(records(&plan, &plan.shards), expected.clone());

        let samples = plan.sample_pieces(5);
        prop_assert!(samples.len() <= 5);
        let sampled = records(&plan, &samples);
        let mut rest = expected.iter();
        prop_assert!(sampled.iter().all(|record| rest.any(|other| other == record)), "samples are some of the records, in order");
    }

    #[test]
    fn the_shards_of_a_plan_hold_every_line_once_in_order(contents in prop::collection::vec(dense(0..90), 1..4), shard_bytes in 1..120u64) {
        let names: Vec<_> = (0..contents.len()).map(|at| format!("{at}.txt")).collect();
        let files: Vec<_> = names.iter().zip(&contents).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let folder = tempfile::tempdir().unwrap();
        let files = listed(&folder, &files);
        let plan = plan(files.clone(), with_shards(Shape::Lines, shard_bytes)).unwrap();
        let whole = super::tests::plan(files, with_shards(Shape::Lines, 1 << 20)).unwrap();
        prop_assert!(whole.shards.len() <= contents.len());
        prop_assert_eq!(records(&plan, &plan.shards), records(&whole, &whole.shards));
    }
}

#[test]
fn the_first_record_names_the_columns_of_each_file() {
    let files: &[(&str, &[u8])] =
        &[("a.csv", b"\xef\xbb\xbf\r\n\"city\",n\r\nGent,1\r\n"), ("b.tsv", b"n\tcity\n2\tBergen\n"), ("empty.csv", b"\n\n")];
    let folder = tempfile::tempdir().unwrap();
    let files = listed(&folder, files);
    let plan = plan(files, PlanOptions { schema: SchemaRequest::AllText, ..with_shards(Shape::Batches, 1) }).unwrap();
    assert_eq!(plan.files[0].header.as_deref(), Some(&["city".to_owned(), "n".to_owned()][..]));
    assert_eq!(plan.files[1].header.as_deref(), Some(&["n".to_owned(), "city".to_owned()][..]));
    assert_eq!(plan.files[2].header, None);
    assert_eq!(plan.schema.as_ref().unwrap().fields().iter().map(|field| field.name()).collect::<Vec<_>>(), ["city", "n"]);
    let field = |text: &str| text.as_bytes().to_vec();
    assert_eq!(records(&plan, &plan.shards), [(0, vec![field("Gent"), field("1")]), (1, vec![field("2"), field("Bergen")])]);
}

#[test]
fn without_a_header_columns_are_numbered() {
    let csv = CsvOptions { header: false, quotes: true };
    let plan = planned(&[("a.csv", b"Gent,1\n")], PlanOptions { csv, ..PlanOptions::new(Shape::Rows) }).unwrap();
    assert_eq!(plan.files[0].header.as_deref(), Some(&["column_1".to_owned(), "column_2".to_owned()][..]));
    assert_eq!((plan.files[0].start, plan.shards.len()), (0, 1));
}

#[test]
fn files_that_disagree_on_the_columns_asked_for_are_refused_by_name() {
    let files: &[(&str, &[u8])] = &[("a.csv", b"city,n\n"), ("b.csv", b"n,town\n")];
    let all = PlanOptions::new(Shape::Rows);
    let message = planned(files, all.clone()).unwrap_err().to_string();
    assert!(message.ends_with("b.csv has no column 'city'; it has: n, town"), "{message}");
    let asked = |name: &str| PlanOptions { columns: Projection::Names(vec![name.to_owned()]), ..all.clone() };
    assert!(planned(files, asked("n")).is_ok());
    let message = planned(files, asked("town")).unwrap_err().to_string();
    assert!(message.ends_with("a.csv has no column 'town'; it has: city, n"), "{message}");
    let message = planned(&[("a.csv", b"n\n"), ("b.csv", b"n,m\n")], all.clone()).unwrap_err().to_string();
    assert!(message.contains("b.csv has a column 'm'"), "{message}");
    let message = planned(&[("a.csv", b"n,n\n")], all).unwrap_err().to_string();
    assert!(message.ends_with("a.csv has more than one column 'n'"), "{message}");
}

fn batch(values: &[i64]) -> RecordBatch {
    let names = StringArray::from_iter_values(values.iter().map(|value| format!("name {value}")));
    let columns: Vec<(&str, ArrayRef)> = vec![("n", Arc::new(Int64Array::from(values.to_vec()))), ("name", Arc::new(names))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn write_arrow(path: &Path, batches: &[RecordBatch]) {
    let mut writer = arrow::ipc::writer::FileWriter::try_new(fs::File::create(path).unwrap(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
}

#[cfg(feature = "parquet")]
fn write_parquet(path: &Path, batches: &[RecordBatch]) {
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(fs::File::create(path).unwrap(), batches[0].schema(), None).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

#[cfg(feature = "parquet")]
#[test]
fn columnar_files_are_cut_between_their_groups_and_bring_their_types() {
    let folder = tempfile::tempdir().unwrap();
    let batches = [batch(&[1, 2, 3]), batch(&[4]), batch(&[5, 6])];
    let paths = [folder.path().join("a.arrow"), folder.path().join("b.parquet"), folder.path().join("c.csv")];
    write_arrow(&paths[0], &batches);
    write_parquet(&paths[1], &batches);
    fs::write(&paths[2], "name,n\nx,1\n").unwrap();
    let files: Vec<_> = paths.iter().map(|path| InputFile::at(path, None).unwrap()).collect();
    let columns = Projection::Names(vec!["n".to_owned()]);
    let plan = plan(files.clone(), PlanOptions { columns, ..with_shards(Shape::Batches, 1) }).unwrap();
    let pieces: Vec<_> = plan.shards.iter().map(|shard| (shard.file, shard.piece)).collect();
    let group = |file, first| (file, Piece::Groups { first, count: 1 });
    let csv = Piece::Bytes { start: 7, end: 8, csv: CsvState::Record };
    assert_eq!(pieces[..7], [group(0, 0), group(0, 1), group(0, 2), group(1, 0), group(1, 1), group(1, 2), (2, csv)]);
    assert_eq!(plan.schema, Some(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))));

    let few = super::tests::plan(files, PlanOptions::new(Shape::Batches)).unwrap();
    assert_eq!(few.shards.iter().map(|shard| shard.piece).collect::<Vec<_>>()[..2], [Piece::Groups { first: 0, count: 3 }; 2]);
    let samples: Vec<_> = few.sample_pieces(1000).iter().map(|shard| (shard.file, shard.piece)).collect();
    assert_eq!(samples[..6], [group(0, 0), group(0, 1), group(0, 2), group(1, 0), group(1, 1), group(1, 2)]);
}

#[test]
fn types_are_inferred_from_the_first_records_of_the_first_files() {
    let files: &[(&str, &[u8])] = &[
        ("a.csv", b"city,n,price\nGent,1,2.50\n"),
        ("b.jsonl", b"{\"n\": 2, \"city\": \"Bergen\", \"price\": 7}\n"),
        ("c.csv", b"price,n,city\n"),
    ];
    let plan = planned(files, PlanOptions::new(Shape::Batches)).unwrap();
    let fields = vec![
        Field::new("city", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(38, 2), true),
    ];
    assert_eq!(plan.schema, Some(Arc::new(Schema::new(fields))));

    let asked = |name: &str| PlanOptions { columns: Projection::Names(vec![name.to_owned()]), ..PlanOptions::new(Shape::Batches) };
    let plan = planned(&files[1..2], asked("n")).unwrap();
    assert_eq!(plan.schema, Some(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))));
    let message = planned(&files[1..2], asked("m")).unwrap_err().to_string();
    assert!(message.contains("b.jsonl has no column 'm'; it has: "), "{message}");
    let message = planned(&[("c.jsonl", b"no JSON at all\n")], asked("m")).unwrap_err().to_string();
    assert!(message.ends_with("c.jsonl has no column 'm'; no record at its beginning has any: is it of another format?"), "{message}");
}

#[test]
fn given_types_take_the_place_of_inferred_ones() {
    let given = |name: &str| SchemaRequest::Given(Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, false)])));
    let with = |schema| PlanOptions { schema, ..PlanOptions::new(Shape::Batches) };
    let plan = planned(&[("a.csv", b"city,n\n")], with(given("n"))).unwrap();
    let fields = vec![Field::new("city", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
    assert_eq!(plan.schema, Some(Arc::new(Schema::new(fields))));
    let message = planned(&[("a.csv", b"city,n\nGent,1\n")], with(given("m"))).unwrap_err().to_string();
    assert!(message.ends_with("a.csv has no column 'm'; it has: city, n"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrow");
    write_arrow(&path, &[batch(&[1])]);
    let plan_of = |name: &str| super::tests::plan(vec![InputFile::at(&path, None).unwrap()], with(given(name)));
    assert!(plan_of("n").is_ok());
    assert!(matches!(plan_of("name"), Err(PlanError::ColumnType { .. })));
}

#[test]
fn columnar_files_that_disagree_on_a_type_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("a.arrow"), folder.path().join("b.arrow")];
    write_arrow(&paths[0], &[batch(&[1])]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    write_arrow(&paths[1], &[RecordBatch::try_from_iter(vec![("name", text.clone()), ("n", text)]).unwrap()]);
    let files: Vec<_> = paths.iter().map(|path| InputFile::at(path, None).unwrap()).collect();
    let message = plan(files.clone(), PlanOptions::new(Shape::Batches)).unwrap_err().to_string();
    assert!(message.starts_with("column 'n' of") && message.ends_with("b.arrow is Utf8, but Int64 was expected"), "{message}");
    let columns = Projection::Names(vec!["name".to_owned()]);
    assert!(plan(files, PlanOptions { columns, ..PlanOptions::new(Shape::Batches) }).is_ok());
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused() {
    for name in ["a.parquet", "a.arrow"] {
        for content in [&b"just some text, longer than any footer"[..], b"x", b"\xff\xff\xff\x7fARROW1"] {
            let error = planned(&[(name, content)], PlanOptions::new(Shape::Batches)).unwrap_err();
            assert!(matches!(&error, PlanError::Read(ReadError::Malformed { .. })), "{error}");
        }
    }
}

#[test]
fn a_wrong_pairing_fails_before_any_work_with_the_list_of_what_is_possible() {
    let message = planned(&[("a.csv", b"x")], PlanOptions::new(Shape::Lines)).unwrap_err().to_string();
    assert!(message.ends_with("a.csv: the job wants lines, which can be read from text, jsonl, but not from csv"), "{message}");
    let message = planned(&[("a.txt", b"x")], PlanOptions::new(Shape::Batches)).unwrap_err().to_string();
    assert!(message.contains("csv, tsv, jsonl, arrow, parquet, but not from text"), "{message}");
    let message = planned(&[("a.parquet.gz", b"x")], PlanOptions::new(Shape::Rows)).unwrap_err().to_string();
    assert!(message.contains("compressed as a whole (gzip)"), "{message}");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let refused = |options| planned(&[("a.txt", &[b'x'; 100])], options).unwrap_err().to_string();
    assert_eq!(refused(with_shards(Shape::Lines, 0)), "the size of a shard must be at least 1");
    let none = PlanOptions { partitions: Some(0), ..PlanOptions::new(Shape::Lines) };
    assert_eq!(refused(none), "the number of partitions must be at least 1");

    let folder = tempfile::tempdir().unwrap();
    let mut huge = listed(&folder, &[("a.txt", b"x")]);
    huge[0].bytes = 1 << 50;
    let error = Draft::new(huge, with_shards(Shape::Lines, 1)).unwrap_err();
    assert!(matches!(error, PlanError::TooManyShards { needed: 33_554_432, .. }), "{error}");

    let mut fixed = listed(&folder, &[("a.bin", b"12345")]);
    fixed[0].format = "fixed:2".parse().unwrap();
    let error = Draft::new(fixed, PlanOptions::new(Shape::Bytes)).unwrap_err();
    assert!(matches!(error, PlanError::PartialRecord { bytes: 5, record_bytes: 2, .. }), "{error}");
}

#[test]
fn sizes_follow_from_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let size = |bytes: u64| {
        let mut files = listed(&folder, &[("a.txt", b"x")]);
        files[0].bytes = bytes;
        let plan = Draft::new(files, PlanOptions::new(Shape::Lines)).unwrap().finish(vec![]).unwrap();
        (plan.shards.len(), plan.partitions)
    };
    assert_eq!(size(0), (0, 1));
    assert_eq!(size(1), (1, 1));
    assert_eq!(size(1 << 30), (32, 16));
    assert_eq!(size(1 << 50), (1_000_000, 10_000));
}

#[test]
fn many_small_files_are_few_surveys() {
    let folder = tempfile::tempdir().unwrap();
    let file = listed(&folder, &[("a.csv", b"n\n1\n")]).remove(0);
    let draft = Draft::new(vec![file; 100_000], PlanOptions::new(Shape::Rows)).unwrap();
    assert_eq!(draft.surveys().len(), 391);
    let one = draft.surveys()[0].run(Room::ENDLESS).unwrap();
    let mut results = vec![one; 391];
    results[390].findings.truncate(100_000 - 390 * 256);
    assert_eq!(draft.finish(results).unwrap().shards.len(), 100_000);
}

#[test]
fn a_quote_that_is_never_closed_is_an_error_in_the_header_and_says_nothing_of_types_behind_it() {
    let batches = || PlanOptions::new(Shape::Batches);
    let message = planned(&[("a.csv", b"city,\"n\nGent,1\nFaro,2\n")], batches()).unwrap_err();
    let message = std::error::Error::source(&message).map_or(message.to_string(), ToString::to_string);
    assert!(message.contains("a.csv") && message.contains("never closed; --csv-quotes none"), "{message}");
    let plan = planned(&[("a.csv", b"city,n\nGent,1\nFaro,\"2\nBergen,3\n")], batches()).unwrap();
    let fields = vec![Field::new("city", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
    assert_eq!(plan.schema, Some(Arc::new(Schema::new(fields))));
}

#[test]
fn results_of_another_plan_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = listed(&folder, &[("a.csv", b"n\n1\n2\n3\n")]);
    let draft = |shard_bytes| Draft::new(files.clone(), with_shards(Shape::Rows, shard_bytes)).unwrap();
    let run = |draft: &Draft| draft.surveys().iter().map(|survey| survey.run(Room::ENDLESS).unwrap()).collect::<Vec<_>>();
    let of_other = run(&draft(3));
    assert!(draft(3).finish(of_other.clone()).is_ok());
    assert!(matches!(draft(5).finish(of_other.clone()), Err(PlanError::Results { .. })));
    assert!(matches!(draft(3).finish(vec![]), Err(PlanError::Results { .. })));
}

#[test]
fn a_compressed_file_is_one_shard_behind_its_header() {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, b"city,n\nGent,1\nBergen,2\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(listed(&folder, &[("a.csv.gz", &encoder.finish().unwrap())]), with_shards(Shape::Rows, 1)).unwrap();
    assert_eq!(plan.shards.iter().map(|shard| shard.piece).collect::<Vec<_>>(), [Piece::Whole { start: 7 }]);
    assert_eq!(records(&plan, &plan.shards).len(), 2);
}
