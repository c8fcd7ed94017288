//! However work is cut, and on whatever threads and memory it is done, the parts are those of a local run.

use shardmill_datasets::RunRequest;
use shardmill_tests::oracle::GROUP_FLAGS;
use shardmill_tests::sales::{delimited, sales};
use shardmill_tests::text::text;
use shardmill_tests::{Cut, Job, Output, Place, Random, Summary, Supervisor, program};

use crate::{WHOLE, request};

const PARTITIONS: u32 = 7;
/// Sizes that make little data spill, and merges need several passes.
const TIGHT: [&str; 2] = ["--tight-buffers", "12288,4096,2"];

/// What a local run gives, and its summary.
fn local(place: &Place, job: &str, request: &RunRequest, parameters: &[&str]) -> (Summary, Output) {
    let mut local = Job::new(job, &place.path("local")).input(&request.inputs[0]).with("--overwrite --threads 2");
    local = local.arg(format!("--shard-bytes={}", request.shard_bytes.unwrap()));
    local = local.arg(format!("--partitions={}", request.partitions.unwrap()));
    if let Some(format) = request.input_format {
        local = local.arg(format!("--input-format={format}"));
    }
    local.args(parameters.iter().copied()).run().success()
}

fn compare(place: &Place, job: &str, request: &RunRequest, parameters: &[&str]) {
    let (summary, expected) = local(place, job, request, parameters);
    let expected = expected.parts();
    let several = Cut { threads: 3, memory_bytes: 64 << 20, surveys: 2, shards: 7, partitions: 2 };
    let single = Cut { threads: 2, memory_bytes: 48 << 20, surveys: 1, shards: 1, partitions: 3 };
    for (number, (cut, flags)) in [(WHOLE, &[][..]), (several, &[]), (several, &TIGHT), (single, &TIGHT)].into_iter().enumerate() {
        let directory = place.path(&format!("cluster-{number}"));
        let mut supervisor = Supervisor::new(&program(job), &directory, request, parameters, cut).with_flags(flags);
        let (parts, tally) = supervisor.run();
        assert!(parts == expected, "{job} gives other parts when cut so: {cut:?} {flags:?}");
        assert_eq!((tally.records, tally.groups), (summary.input_records, summary.groups), "{cut:?}");
        if number == 3 {
            assert!(tally.merge_passes >= 2 && tally.spilled_runs > 0, "{tally:?}");
        }
        supervisor.next_process();
    }
}

#[test]
fn word_count_gives_the_bytes_of_a_local_run() {
    let place = Place::new();
    place.write("input", text(1, 500_000));
    compare(&place, "word-count", &request(&place, 10_000, PARTITIONS), &["--lowercase"]);
}

#[test]
fn aggregate_gives_the_bytes_of_a_local_run_and_columns_of_csv_are_surveyed() {
    let place = Place::new();
    let input = place.write("input.csv", delimited(&sales(4, 6_000, 4_000), ',', 5));
    let request = RunRequest { inputs: vec![input.display().to_string()], ..request(&place, 8_000, PARTITIONS) };
    compare(&place, "aggregate", &request, &GROUP_FLAGS);
}

#[test]
fn sort_by_columns_gives_the_bytes_of_a_local_run() {
    let place = Place::new();
    let mut sales = sales(8, 8_000, 60);
    // Many equal keys, so that it shows whether rows keep their order.
    sales.iter_mut().for_each(|sale| sale.price %= 40);
    let input = place.write("input.csv", delimited(&sales, ',', 9));
    let request = RunRequest { inputs: vec![input.display().to_string()], ..request(&place, 10_000, PARTITIONS) };
    compare(&place, "sort", &request, &["--key", "city,price:desc"]);
}

#[test]
fn sort_of_fixed_records_gives_the_bytes_of_a_local_run() {
    let place = Place::new();
    let mut random = Random::new(10);
    let records: Vec<u8> = (0..8_000u64)
        .flat_map(|number| {
            let key = if random.once_in(3) { 0 } else { random.below(5_000) };
            let mut record = [number as u8; 100];
            record[..8].copy_from_slice(&key.to_be_bytes());
            record[92..].copy_from_slice(&number.to_be_bytes());
            record
        })
        .collect();
    place.write("input", records);
    let request = RunRequest { input_format: Some("fixed:100".parse().unwrap()), ..request(&place, 9_999, PARTITIONS) };
    compare(&place, "sort", &request, &["--key", "0..8"]);
}

#[test]
fn with_real_memory_that_is_too_small_for_the_data_the_bytes_are_the_same_too() {
    let place = Place::new();
    place.write("input", shardmill_tests::text::distinct_words(24 << 20).collect::<String>());
    let request = request(&place, 1 << 20, 3);
    let (_, expected) = local(&place, "word-count", &request, &[]);
    let cut = Cut { threads: 2, memory_bytes: 24 << 20, surveys: 1, shards: 16, partitions: 3 };
    let (parts, tally) = Supervisor::new(&program("word-count"), &place.path("cluster"), &request, &[], cut).run();
    assert!(parts == expected.parts() && tally.spilled_runs > 0, "{tally:?}");
}

#[test]
fn a_job_without_any_shard_gives_what_it_is_seeded_with() {
    let place = Place::new();
    let input = place.write("input.csv", "city,price\n");
    let request = RunRequest { inputs: vec![input.display().to_string()], ..request(&place, 10_000, 2) };
    let parameters = ["--aggregate", "count() as sales"];
    let (_, expected) = local(&place, "aggregate", &request, &parameters);
    let cut = Cut { partitions: 1, ..WHOLE };
    let mut supervisor = Supervisor::new(&program("aggregate"), &place.path("cluster"), &request, &parameters, cut);
    assert_eq!(supervisor.run().0, expected.parts());
    // The same when there was a map task, of no shards.
    let (plan, facts, _) = supervisor.plan();
    assert_eq!((facts.shards, facts.partitions), (0, 2));
    let output = supervisor.map(&plan, 0..0);
    let (attempt, parts, _) = supervisor.reduce(&plan, &[output], 0..2);
    for (part, expected) in parts.iter().zip(expected.parts()) {
        assert_eq!(std::fs::read(supervisor.staged_by(attempt).join(&part.name)).unwrap(), expected);
    }
}

#[test]
fn a_range_that_is_mapped_again_has_the_same_digest_on_any_threads_and_memory() {
    let place = Place::new();
    place.write("input", text(3, 300_000));
    for (job, parameters) in [("word-count", &[][..]), ("sort", &["--key", "0..3"])] {
        let request = request(&place, 8_000, 70);
        let mut supervisor = Supervisor::new(&program(job), &place.path(job), &request, parameters, WHOLE);
        let (plan, ..) = supervisor.plan();
        let first = supervisor.map(&plan, 5..29).index;
        let other = supervisor.map(&plan, 5..28).index;
        assert_ne!(first, other, "another range is something else");
        for (threads, memory_bytes, flags) in [(3, 512 << 20, &[][..]), (2, 32 << 20, &TIGHT), (1, 16 << 20, &TIGHT)] {
            supervisor.next_process();
            supervisor = supervisor.with_flags(flags);
            supervisor.cut = Cut { threads, memory_bytes, ..WHOLE };
            assert_eq!(supervisor.map(&plan, 5..29).index, first, "{job} on {threads} threads with {flags:?}");
        }
    }
}

#[test]
fn the_plan_depends_on_neither_threads_nor_memory_nor_the_cut_of_surveys() {
    let place = Place::new();
    let input = place.write("input.csv", delimited(&sales(4, 6_000, 4_000), ',', 5));
    let request = RunRequest { inputs: vec![input.display().to_string()], ..request(&place, 8_000, PARTITIONS) };
    let plans = [(1, 64 << 20, 1), (3, 1 << 30, 1000)].map(|(threads, memory_bytes, surveys)| {
        let cut = Cut { threads, memory_bytes, surveys, ..WHOLE };
        let directory = place.path(&format!("cluster-{threads}"));
        let mut supervisor = Supervisor::new(&program("sort"), &directory, &request, &["--key", "city,price:desc"], cut);
        let (plan, facts, weights) = supervisor.plan();
        (plan.digest, facts, weights)
    });
    assert_eq!(plans[0], plans[1]);
    assert!(plans[0].1.text.contains("input.csv (csv, 3") && plans[0].1.text.contains("for each thread at least"), "{}", plans[0].1.text);
}
