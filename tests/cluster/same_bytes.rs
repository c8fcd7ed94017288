//! Every bundled job gives on a cluster the bytes that it gives in one process, whatever the number of workers and threads.

use std::path::{Path, PathBuf};

use shardmill_protocol::task::TaskKind;
use shardmill_tests::cluster::Cluster;
use shardmill_tests::{Job, Output, Place, Random, program, sales};

/// Workers and the threads of each.
const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 3), (2, 1), (2, 3), (5, 1), (5, 3)];

/// A job with its input and flags, in such a size that there are dozens of shards and several partitions.
struct Case {
    program: &'static str,
    input: PathBuf,
    /// Flags of the run, then parameters of the job.
    flags: &'static str,
    parameters: &'static str,
}

fn cases(place: &Place) -> Vec<Case> {
    let mut random = Random::new(7);
    let words: String = (0..30_000).map(|at| format!("w{}{}", random.below(4_000), if at % 9 == 8 { '\n' } else { ' ' })).collect();
    let words = place.write("in/words.txt", words);
    let sales = place.write("in/sales.csv", sales::delimited(&sales::sales(7, 3_000, 40), ',', 7));
    let flags = "--shard-bytes 4KiB --partitions 7";
    vec![
        Case { program: "word-count", input: words, flags, parameters: "" },
        Case {
            program: "aggregate",
            input: sales.clone(),
            flags,
            parameters: "--group-by city,category --aggregate count() --aggregate sum(price*quantity) --aggregate avg(discount)",
        },
        Case { program: "sort", input: sales, flags, parameters: "--key city,price:desc" },
    ]
}

impl Case {
    /// The parts of a run in one process.
    fn local(&self, place: &Place) -> Vec<Vec<u8>> {
        let output = place.path(&format!("local-{}", self.program));
        let job = Job::new(self.program, &output).input(&self.input).with(self.flags).with(self.parameters);
        job.run().success().1.parts()
    }

    fn arguments<'a>(&'a self, input: &'a str) -> Vec<&'a str> {
        let flags = ["--input", input].into_iter().chain(self.flags.split_whitespace());
        flags.chain(["--"]).chain(self.parameters.split_whitespace()).collect()
    }
}

#[test]
fn every_job_gives_the_bytes_of_a_local_run_on_any_number_of_workers_and_threads() {
    let place = Place::new();
    let cases = cases(&place);
    let expected: Vec<_> = cases.iter().map(|case| case.local(&place)).collect();
    for (workers, threads) in SHAPES {
        let cluster_place = Place::new();
        let cluster = Cluster::start(&cluster_place);
        // Every other one keeps map outputs in memory as long as there is room.
        let memory = |at| if at % 2 == 0 { "64MiB" } else { "0" };
        let flags = |at| format!("--threads {threads} --memory 256MiB --output-memory {}", memory(at));
        let _workers: Vec<_> = (0..workers).map(|at| cluster.worker(&format!("worker-{at}"), &flags(at))).collect();
        for (case, expected) in cases.iter().zip(&expected) {
            let output = cluster_place.path(case.program);
            // By name: the jobs that are linked into the worker.
            let job = cluster.submit(Path::new(case.program), &output, &case.arguments(case.input.to_str().unwrap()));
            let (view, output) = cluster.success(job);
            assert!(output.parts() == *expected, "{} differs on {workers} workers with {threads} threads", case.program);
            // Nothing failed, so every shard was mapped once and every partition reduced once.
            assert_eq!((view.status.retries, view.lost.len()), (0, 0), "{view:#?}");
            for kind in [TaskKind::Map, TaskKind::Reduce] {
                let (done, all) = view.status.units[&kind];
                assert_eq!(done, all);
                assert_eq!(shardmill_tests::cluster::units_accepted(&view, kind), all);
            }
            assert!(view.status.units[&TaskKind::Map].1 >= 20, "{view:#?}");
        }
    }
}

#[test]
fn an_uploaded_executable_gives_the_same_bytes_and_parts_as_the_same_job_by_name() {
    let place = Place::new();
    let cases = cases(&place);
    let expected = cases[0].local(&place);
    let cluster = Cluster::start(&place);
    let _worker = cluster.worker("worker", "--threads 2 --memory 256MiB");
    let input = cases[0].input.to_str().unwrap();
    let job = cluster.submit(&program("word-count"), &place.path("uploaded"), &cases[0].arguments(input));
    let (_, output) = cluster.success(job);
    assert!(output.parts() == expected);
    assert!(output.manifest["executable_digest"].is_string());
}

#[test]
fn outputs_that_are_fetched_over_the_network_are_those_that_are_read_in_place() {
    let place = Place::new();
    let cases = cases(&place);
    let cluster = Cluster::start(&place);
    let flags = "--threads 1 --memory 256MiB --output-memory 64MiB --fetch-always";
    let _workers = [cluster.worker("one", flags), cluster.worker("two", flags)];
    for case in &cases {
        let job = cluster.submit(Path::new(case.program), &place.path(case.program), &case.arguments(case.input.to_str().unwrap()));
        let output: Output = cluster.success(job).1;
        assert!(output.parts() == case.local(&place), "{}", case.program);
    }
}
