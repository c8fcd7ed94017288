//! The memory budget holds: the peak of resident memory stays below budget + 15 % + 64 MiB for the program.
//!
//! Each test makes some hundred megabytes and frees them again. Nothing here holds them in memory: what a process had before it became
//! another one counts as that one's peak.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Job, Output, Place, Random, Summary};

const MIB: u64 = 1 << 20;

/// Runs a job within `budget_mib` and checks that it was enough.
#[track_caller]
fn run_within(budget_mib: u64, job: Job) -> (Summary, Output) {
    let ended = job.with(&format!("--memory {budget_mib}MiB")).run();
    let (peak, limit) = (ended.peak_memory_bytes, budget_mib * MIB * 115 / 100 + 64 * MIB);
    let (summary, output) = ended.success();
    eprintln!("{}: {} MiB at most in a budget of {budget_mib} MiB, {} runs", summary.job, peak / MIB, summary.spilled_runs);
    assert!(peak <= limit, "{} MiB at most in a budget of {budget_mib} MiB", peak / MIB);
    (summary, output)
}

/// Writes what `pieces` gives to a file.
fn write(place: &Place, name: &str, pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> PathBuf {
    let path = place.path(name);
    let mut file = BufWriter::new(File::create(&path).unwrap());
    pieces.for_each(|piece| file.write_all(piece.as_ref()).unwrap());
    file.flush().unwrap();
    path
}

/// Whether the parts, one after the other, are the file at `path`.
fn are_the_same(output: &Output, path: &Path) -> bool {
    let (mut expected, mut buffers) = (File::open(path).unwrap(), [vec![0; 1 << 16], vec![0; 1 << 16]]);
    for part in output.paths() {
        let mut part = File::open(part).unwrap();
        loop {
            let read = part.read(&mut buffers[0]).unwrap();
            let [found, wanted] = &mut buffers;
            if read == 0 {
                break;
            }
            if expected.read_exact(&mut wanted[..read]).is_err() || found[..read] != wanted[..read] {
                return false;
            }
        }
    }
    expected.read(&mut [0]).unwrap() == 0
}

/// Calls `each` for every line of every part behind its header.
fn for_each_row(output: &Output, mut each: impl FnMut(&str)) {
    for part in output.paths() {
        BufReader::new(File::open(part).unwrap()).lines().skip(1).for_each(|line| each(&line.unwrap()));
    }
}

#[test]
fn eight_threads_count_words_that_are_all_different_in_256_mib() {
    let place = Place::new();
    let input = write(&place, "text.txt", distinct_words(112 * MIB));
    let count = 112 * MIB / 12;
    let job = Job::new("word-count", &place.path("out")).input(&input).with("--threads 8 --shard-bytes 4MiB");
    let (summary, output) = run_within(256, job);
    assert!(summary.spilled_bytes > 100 * MIB, "{summary:?}");
    assert_eq!((summary.groups, summary.output_records), (count, count));
    let mut words = 0;
    for_each_row(&output, |row| {
        assert!(row.len() == 13 && row.ends_with(",1"), "{row}");
        words += 1;
    });
    assert_eq!(words, count);
}

#[test]
fn two_threads_count_words_that_are_all_different_in_the_least_budget() {
    let place = Place::new();
    let input = write(&place, "text.txt", distinct_words(100 * MIB));
    let job = Job::new("word-count", &place.path("out")).input(&input).with("--threads 2 --partitions 2");
    let (summary, _) = run_within(24, job);
    assert!(summary.spilled_runs > 10, "{summary:?}");
    assert_eq!(summary.groups, 100 * MIB / 12);
}

#[test]
fn one_giant_group_is_sorted_in_less_memory_than_it_takes() {
    let place = Place::new();
    let mut number = 0u64;
    let records = std::iter::from_fn(|| {
        number += 1;
        (number <= 2 << 20).then(|| format!("the only key{number:>88}"))
    });
    let input = write(&place, "records.bin", records);
    for (threads, partitions) in [(2, 1), (8, 7)] {
        let job = Job::new("sort", &place.path("out")).input(&input).with("--input-format fixed:100 --key 0..12 --overwrite");
        let job = job.with(&format!("--threads {threads} --partitions {partitions} --shard-bytes 16MiB"));
        let (summary, output) = run_within(128, job);
        assert!(summary.spilled_bytes > 200 * MIB, "{summary:?}");
        assert_eq!((summary.groups, summary.output_records), (1, 2 << 20));
        assert!(are_the_same(&output, &input), "records with the same key keep their order");
    }
}

#[test]
fn eight_threads_aggregate_into_millions_of_groups_in_256_mib() {
    let place = Place::new();
    let rows = 3_000_000u64;
    let mut random = Random::new(60);
    let lines = (0..rows).map(|row| {
        let (key, cents) = (row.wrapping_mul(0x9e37_79b9) % rows, random.below(100_000));
        format!("customer {key},{}.{:02},{},{cents}e-3\n", cents / 100, cents % 100, row % 7)
    });
    let header = std::iter::once("customer,price,quantity,weight\n".to_owned());
    let input = write(&place, "sales.csv", header.chain(lines));
    let job = Job::new("aggregate", &place.path("out")).input(&input).with("--threads 8 --group-by customer --shard-bytes 8MiB");
    let job = ["count() as sales", "sum(price * quantity) as revenue", "avg(price) as average", "sum(weight) as weight"]
        .iter()
        .fold(job, |job, aggregate| job.arg("--aggregate").arg(aggregate));
    let (summary, output) = run_within(256, job);
    assert!(summary.spilled_bytes > 100 * MIB, "{summary:?}");
    let (mut groups, mut sales) = (0, 0);
    for_each_row(&output, |row| {
        groups += 1;
        sales += row.split(',').nth(1).unwrap().parse::<u64>().unwrap();
    });
    assert_eq!((summary.groups, groups, sales), (groups, summary.output_records, rows));
    fs::remove_dir_all(&output.path).unwrap();

    for format in ["parquet", "arrow"] {
        let job =
            Job::new("aggregate", &place.path("out")).input(&input).with("--threads 8 --group-by customer --output-format").arg(format);
        let (again, output) = run_within(256, job.arg("--aggregate=sum(weight) as weight").arg("--where=quantity < 3"));
        assert!(again.groups > groups / 3, "{again:?}");
        fs::remove_dir_all(&output.path).unwrap();
    }
}

#[test]
fn rows_of_many_sizes_are_sorted_by_columns_in_128_mib() {
    let place = Place::new();
    let mut random = Random::new(61);
    let rows = 300_000u64;
    let lines = (0..rows).map(|row| {
        // Now and then a field of a megabyte among short ones.
        let length = if random.once_in(10_000) { 1 << 20 } else { random.below(1_500) as usize };
        format!("{},{row},{}\n", random.below(1_000), "x".repeat(length))
    });
    let input = write(&place, "rows.csv", std::iter::once("key,row,text\n".to_owned()).chain(lines));
    let job = Job::new("sort", &place.path("out")).input(&input).with("--threads 4 --key key,row:desc --partitions 3");
    let (summary, output) = run_within(128, job);
    assert!(summary.spilled_bytes > 100 * MIB, "{summary:?}");
    let (mut last, mut count) = ((0u64, u64::MAX), 0);
    for_each_row(&output, |line| {
        let mut fields = line.split(',').map(|field| field.parse::<u64>());
        let (key, row) = (fields.next().unwrap().unwrap(), fields.next().unwrap().unwrap());
        assert!(last.0 < key || last.0 == key && last.1 > row, "{last:?} before {:?}", (key, row));
        (last, count) = ((key, row), count + 1);
    });
    assert_eq!(count, rows);
}

#[test]
fn what_is_known_of_ten_thousand_partitions_in_more_than_a_hundred_runs_counts() {
    let place = Place::new();
    let input = write(&place, "text.txt", distinct_words(240 * MIB));
    let job = Job::new("word-count", &place.path("out")).input(&input).with("--threads 2 --partitions 10000");
    let (summary, output) = run_within(24, job);
    assert!(summary.spilled_runs > 100, "{summary:?}");
    assert_eq!((summary.groups, output.paths().len()), (240 * MIB / 12, 10_000));
}

#[test]
fn hundreds_of_thousands_of_bad_records_are_set_aside_in_64_mib() {
    let place = Place::new();
    let (rows, note) = (400_000u64, "x".repeat(1_000));
    let lines = (0..rows).map(|row| format!("{},{row}{},{note}\n", row % 10, if row % 4 == 0 { "" } else { " or so" }));
    let input = write(&place, "rows.csv", std::iter::once("key,n,note\n".to_owned()).chain(lines));
    let job = Job::new("aggregate", &place.path("out")).input(&input).with("--threads 3 --shard-bytes 8MiB --group-by key");
    let job = job.arg("--aggregate=sum(n) as n").arg("--schema=n: int").with("--max-bad-records 300000");
    let (summary, output) = run_within(64, job);
    assert_eq!((summary.input_records, summary.bad_records), (rows, 300_000));
    let quarantine = BufReader::new(File::open(output.path.join("_quarantine/records.jsonl")).unwrap());
    let mut expected = (0..rows).filter(|row| row % 4 != 0);
    for line in quarantine.lines() {
        let (line, row) = (line.unwrap(), expected.next().unwrap());
        assert!(line.ends_with(&format!("\"text\":\"{},{row} or so,{note}\"}}", row % 10)), "{line}");
    }
    assert_eq!(expected.next(), None);
    assert_eq!((&output.manifest["bad_records"], output.manifest["set_aside"].as_array().unwrap().len()), (&300_000.into(), 1_000));
}
