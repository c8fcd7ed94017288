//! The same bytes for any number of threads, any memory and any shards; and they are those of the oracle.
//!
//! Each job runs with 1, 2, 3 and 8 threads, with memory for everything and with so little that there are many runs and several merge
//! passes, and with 3 on shards of another size. Counters show that this is what has happened.

use shardmill_tests::oracle::{GROUP_FLAGS, group_by_city_and_category, sorted_by_city_and_price, word_count};
use shardmill_tests::sales::{delimited, sales};
use shardmill_tests::text::text;
use shardmill_tests::{Job, Output, Place, Random};

const PARTITIONS: u64 = 7;

/// Runs `job` in all ways and returns, for each size of shards, the output of one of the runs: the others have the same parts.
fn run_in_all_ways(place: &Place, job: impl Fn(Job) -> Job, program: &str, shard_sizes: [u64; 2]) -> Vec<Output> {
    let run = |flags: &str| {
        let job = job(Job::new(program, &place.path("out")).with(flags)).with("--overwrite --partitions").arg(PARTITIONS.to_string());
        job.run().success()
    };
    let mut outputs = vec![];
    for (shard_bytes, threads) in shard_sizes.into_iter().zip([&[1, 2, 3, 8][..], &[3]]) {
        let (_, plain) = run(&format!("--threads 1 --memory 64MiB --shard-bytes {shard_bytes}"));
        let expected = plain.parts();
        for threads in threads {
            for memory in ["--memory 512MiB", "--memory 144MiB", "--tight-buffers 12288,4096,2", "--tight-buffers 24576,8192,5"] {
                let way = format!("--threads {threads} --shard-bytes {shard_bytes} {memory}");
                let (summary, output) = run(&way);
                assert!(output.parts() == expected, "{program} gives other parts with {way}");
                assert_eq!(summary.partitions, PARTITIONS);
                assert!(summary.shards >= 50, "{way}: {} shards", summary.shards);
                if memory.starts_with("--tight") {
                    assert!(summary.spilled_runs >= 100, "{way}: {} runs", summary.spilled_runs);
                    assert!(summary.merge_passes >= 2, "{way}: {} merge passes", summary.merge_passes);
                } else {
                    assert_eq!((summary.spilled_runs, summary.merge_passes), (0, 0), "{way}");
                }
            }
        }
        // Kept under another name: the next size of shards writes its own.
        let kept = place.path(&format!("kept-{shard_bytes}"));
        std::fs::rename(&plain.path, &kept).unwrap();
        outputs.push(Output::whole(&kept));
    }
    outputs
}

/// The rows of all parts, which must be in order within each part, all together in order.
fn rows_in_order(output: &Output) -> Vec<Vec<String>> {
    let (_, parts) = output.csv_parts();
    assert!(parts.iter().all(|part| part.is_sorted()), "keys ascend within a part");
    let mut rows = parts.concat();
    rows.sort();
    rows
}

#[test]
fn word_count_gives_the_same_bytes_in_all_ways() {
    let place = Place::new();
    let texts = [text(1, 2_000_000), text(2, 1), text(3, 850_000)];
    texts.iter().zip(["a", "b", "c"]).for_each(|(text, name)| drop(place.write(&format!("in/{name}.txt"), text)));
    let expected = word_count(texts.iter().map(String::as_str));
    let outputs = run_in_all_ways(&place, |job| job.input(place.path("in")), "word-count", [4_000, 50_000]);
    for output in &outputs {
        assert_eq!(output.csv_parts().0, ["word", "count"]);
        assert_eq!(rows_in_order(output), expected);
        assert_eq!(output.parts(), outputs[0].parts(), "the size of shards has no influence");
    }
}

#[test]
fn aggregate_gives_the_same_bytes_in_all_ways_float_sums_included() {
    let place = Place::new();
    let sales = sales(4, 12_000, 9_000);
    let input = place.write("sales.csv", delimited(&sales, ',', 5));
    let mut expected = group_by_city_and_category(&sales);
    expected.sort();
    let job = |job: Job| job.input(&input).args(GROUP_FLAGS);
    let outputs = run_in_all_ways(&place, job, "aggregate", [2_000, 12_000]);
    for output in &outputs {
        let (header, parts) = output.csv_parts();
        assert_eq!(header, ["city", "category", "sales", "units", "revenue", "average_discount", "lowest", "highest", "weight"]);
        for part in &parts {
            assert!(part.is_sorted_by_key(|row| (&row[0], &row[1])), "groups ascend within a part");
        }
        let mut rows = parts.concat();
        rows.iter_mut().for_each(|row| row[8] = bits(&row[8]));
        rows.sort();
        for (row, expected) in rows.iter().zip(&expected) {
            assert_eq!(row, expected);
        }
        assert_eq!(rows.len(), expected.len());
        assert_eq!(output.parts(), outputs[0].parts(), "the size of shards has no influence");
    }
}

#[test]
fn every_format_and_compression_of_the_output_is_the_same_bytes_in_all_ways() {
    let place = Place::new();
    let input = place.write("sales.csv", delimited(&sales(14, 3_000, 2_000), ',', 5));
    let written = ["tsv", "jsonl", "parquet", "arrow", "csv --output-compression gzip", "jsonl --output-compression zstd"];
    for written in written {
        let run = |way: &str| {
            let job = Job::new("aggregate", &place.path("out")).input(&input).args(GROUP_FLAGS).with("--overwrite --partitions 7");
            job.with("--shard-bytes 4000 --memory 512MiB --output-format").with(written).with(way).run().success()
        };
        let expected = run("--threads 1").1.parts();
        assert_eq!(expected.len(), 7);
        for way in ["--threads 2", "--threads 3 --tight-buffers 12288,4096,2"] {
            let (summary, output) = run(way);
            assert!(output.parts() == expected, "{written} is not the same with {way}");
            assert_eq!(summary.spilled_runs > 0, way.contains("tight"), "{way}");
        }
    }
}

/// A float's bits instead of its digits, as the oracle has it.
fn bits(digits: &str) -> String {
    if digits.is_empty() { String::new() } else { digits.parse::<f64>().unwrap().to_bits().to_string() }
}

#[test]
fn a_sum_over_all_rows_is_the_exact_one() {
    let place = Place::new();
    let sales = sales(6, 20_000, 1);
    let input = place.write("sales.csv", delimited(&sales, ',', 7));
    let mut exact = shardmill_tests::oracle::FloatSum::default();
    let weights = || sales.iter().filter_map(|sale| sale.weight);
    weights().for_each(|weight| exact.add(weight));
    let exact = exact.sum().unwrap();
    assert_ne!(weights().sum::<f64>(), exact, "adding the numbers one by one would do as well, and shows nothing");
    for threads in ["1", "3"] {
        let job = Job::new("aggregate", &place.path("out")).input(&input).with("--overwrite --shard-bytes 5000 --threads").arg(threads);
        let (_, output) = job.arg("--aggregate=sum(weight) as weight").run().success();
        let (_, parts) = output.csv_parts();
        assert_eq!(parts.concat()[0][0].parse::<f64>().unwrap().to_bits(), exact.to_bits());
    }
}

#[test]
fn sort_by_columns_gives_the_same_bytes_in_all_ways() {
    let place = Place::new();
    let mut sales = sales(8, 30_000, 60);
    // Many equal keys, so that it shows whether rows keep their order.
    sales.iter_mut().for_each(|sale| sale.price %= 40);
    let input = place.write("sales.csv", delimited(&sales, ',', 9));
    let outputs = run_in_all_ways(&place, |job| job.input(&input).with("--key city,price:desc"), "sort", [2_500, 30_000]);
    for output in &outputs {
        assert_eq!(output.csv_parts().1.concat(), sorted_by_city_and_price(&sales));
    }
}

#[test]
fn sort_of_fixed_records_gives_the_same_bytes_in_all_ways() {
    let place = Place::new();
    let mut random = Random::new(10);
    let mut records: Vec<[u8; 100]> = (0..20_000u64)
        .map(|number| {
            let mut record = [0; 100];
            record.iter_mut().for_each(|byte| *byte = random.next() as u8);
            // A third of the records share one key, the others have one of some thousands.
            let key = if random.once_in(3) { 0 } else { random.below(5_000) };
            record[..8].copy_from_slice(&key.to_be_bytes());
            record[8..10].fill(0);
            record[92..].copy_from_slice(&number.to_be_bytes());
            record
        })
        .collect();
    let input = place.write("records.bin", records.concat());
    let job = |job: Job| job.input(&input).with("--input-format fixed:100 --key 0..10");
    let outputs = run_in_all_ways(&place, job, "sort", [7_777, 30_000]);
    records.sort_by(|a, b| a[..10].cmp(&b[..10]));
    for output in &outputs {
        assert!(output.parts().concat() == records.concat(), "records are in order, equal keys as they came");
    }
}

#[test]
fn sort_of_lines_gives_the_same_bytes_in_all_ways() {
    let place = Place::new();
    let mut random = Random::new(11);
    let mut lines: Vec<String> =
        (0..180_000).map(|number| format!("{:0width$} {number}", random.below(500), width = random.below(4) as usize)).collect();
    let input = place.write("lines.txt", lines.join("\n"));
    let outputs = run_in_all_ways(&place, |job| job.input(&input).with("--key 0..3"), "sort", [3_000, 7_000]);
    lines.sort_by(|a, b| a.as_bytes()[..a.len().min(3)].cmp(&b.as_bytes()[..b.len().min(3)]));
    for output in &outputs {
        assert!(output.parts().concat() == (lines.join("\n") + "\n").as_bytes(), "lines are in order, equal keys as they came");
    }
}

#[test]
fn parts_of_a_sort_with_distinct_keys_are_of_similar_size() {
    let place = Place::new();
    let mut random = Random::new(12);
    let records: Vec<u8> = (0..100_000u64)
        .flat_map(|number| {
            // Crowded at one end: cuts at even distances would leave most parts empty.
            let crowded = (random.below(1 << 32) * random.below(1 << 31)) >> random.below(60);
            [crowded.to_be_bytes(), number.to_be_bytes()].concat()
        })
        .collect();
    let input = place.write("records.bin", records);
    let job =
        Job::new("sort", &place.path("out")).input(input).with("--input-format fixed:16 --key 0..16 --partitions 7 --shard-bytes 50000");
    let (summary, output) = job.run().success();
    let parts = output.parts();
    let most = parts.iter().map(Vec::len).max().unwrap();
    assert!(most as u64 * 7 * 2 <= summary.output_bytes * 3, "{:?}", parts.iter().map(Vec::len).collect::<Vec<_>>());
}
