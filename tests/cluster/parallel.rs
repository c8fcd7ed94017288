//! What runs at the same time, and how often.

use std::fs;
use std::path::Path;

use shardmill_protocol::JobId;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, JobPhase};
use shardmill_tests::cluster::{Cluster, Process, units_accepted};
pub(super) use shardmill_tests::cluster::{counts, naive};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Output, Place, program, wait_until};

/// Submits the probe over lines with orders, one line a shard as far as they are long enough.
pub(super) fn submit(cluster: &Cluster<'_>, place: &Place, name: &str, text: &str, flags: &str) -> JobId {
    let input = place.write(&format!("in-{name}/text.txt"), text);
    let gates = place.path("gates");
    fs::create_dir_all(&gates).unwrap();
    let input = input.to_str().unwrap();
    let arguments = ["--input", input].into_iter().chain(flags.split_whitespace()).chain(["--", "--gates", gates.to_str().unwrap()]);
    cluster.submit(&program("probe"), &place.path(name), &arguments.collect::<Vec<_>>())
}

/// Lines of the same word, with orders in the first and the last one.
fn lines(first: &str, last: &str) -> String {
    let between = "word\n".repeat(200);
    format!("{first}\n{between}{last}\n")
}

#[test]
fn two_workers_map_at_the_same_time() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _workers = [cluster.worker("one", "--threads 1 --memory 128MiB"), cluster.worker("two", "--threads 1 --memory 128MiB")];
    let (first, last) = (Gate::close(&place, "first"), Gate::close(&place, "last"));
    let text = lines("!map:gate:first", "!map:gate:last");
    let job = submit(&cluster, &place, "out", &text, "--shard-bytes 16");
    // Both stand at their gates before either is opened.
    let (at_first, at_last) = (first.reached(), last.reached());
    drop((at_first, at_last));
    let (_, output) = cluster.success(job);
    assert_eq!(counts(&output), naive(&text));
}

#[test]
fn two_workers_reduce_at_the_same_time() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _workers = [cluster.worker("one", "--threads 1 --memory 128MiB"), cluster.worker("two", "--threads 1 --memory 128MiB")];
    // Keys are spread by a hash: among so many, some lie in the first ranges of partitions and some in the last.
    let gates: Vec<_> = (0..12).map(|at| (at, Gate::close(&place, &format!("g{at}")))).collect();
    let text: String = (0..12).map(|at| format!("!reduce:gate:g{at}\n")).collect();
    let job = submit(&cluster, &place, "out", &text, "--partitions 40");
    // Each attempt stands at one gate at a time; that two are reached at once shows two attempts.
    let mut standing = Vec::new();
    let mut left: Vec<_> = gates;
    wait_until("two attempts stand at gates", || {
        left.retain(|(at, gate)| match gate.is_reached() {
            Some(reached) => {
                standing.push((*at, reached));
                false
            }
            None => true,
        });
        standing.len() >= 2
    });
    drop(standing);
    left.into_iter().for_each(|(_, gate)| gate.open());
    let (_, output) = cluster.success(job);
    assert_eq!(counts(&output), naive(&text));
}

#[test]
fn each_shard_is_mapped_once_when_nothing_fails() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _workers = [cluster.worker("one", "--threads 1 --memory 128MiB"), cluster.worker("two", "--threads 2 --memory 128MiB")];
    let text = lines("a", "b");
    let job = submit(&cluster, &place, "out", &text, "--shard-bytes 16 --partitions 5");
    let (view, output) = cluster.success(job);
    assert_eq!(view.status.tally.counters["lines"], 202, "the counters of accepted attempts alone count");
    let shards = view.status.units[&TaskKind::Map].1;
    assert!(shards >= 50, "{shards}");
    assert_eq!(units_accepted(&view, TaskKind::Map), shards);
    // No other attempt was ever made: none in vain, and none whose output was lost.
    assert_eq!(view.attempt_count, view.attempts.len() as u64, "all are shown");
    assert!(view.attempts.iter().all(|attempt| attempt.state == AttemptState::Accepted), "{view:#?}");
    assert!(view.lost.is_empty(), "{view:#?}");
    assert_eq!(counts(&output), naive(&text));
}

#[test]
fn two_jobs_run_at_once_and_neither_waits_for_the_other() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _workers = [cluster.worker("one", "--threads 1 --memory 128MiB"), cluster.worker("two", "--threads 1 --memory 128MiB")];
    let gate = Gate::close(&place, "held");
    let slow = submit(&cluster, &place, "slow", "!map:gate:held a b\n", "");
    let reached = gate.reached();
    let quick = submit(&cluster, &place, "quick", "c d c\n", "");
    let (_, output) = cluster.success(quick);
    assert_eq!(counts(&output), naive("c d c"));
    assert!(!cluster.job(slow).status.phase.is_final());
    drop(reached);
    gate.open();
    assert_eq!(counts(&cluster.success(slow).1), naive("!map:gate:held a b"));
}

#[test]
fn the_output_is_final_when_the_first_process_exits() {
    let place = Place::new();
    let gate = Gate::close(&place, "revealing");
    let cluster = Cluster::with_once(&place, "--lease 3s", &format!("--stand-at revealing:1:{}", place.path("gates/revealing").display()));
    let _workers = [cluster.worker("one", "--threads 1 --memory 128MiB"), cluster.worker("two", "--threads 1 --memory 128MiB")];
    let input = place.write("in.txt", "a b a\n");
    let output = place.path("out");
    let mut command = cluster.command("submit");
    command.arg("word-count").arg("--input").arg(&input).arg("--output").arg(&output).args(["--format", "json"]);
    let mut submit = Process::start_with_stdout(command, &place.path("submit.log"), &place.path("summary.json"));
    // Everything is done but the one step that shows it: nobody is told of an end, and nothing can be seen.
    let reached = gate.reached();
    let jobs = cluster.command("jobs").args(["--format", "json"]).output().unwrap();
    let jobs: serde_json::Value = serde_json::from_slice(&jobs.stdout).unwrap();
    let job = jobs[0]["job"].as_str().unwrap().parse().unwrap();
    assert_eq!(cluster.job(job).status.phase, JobPhase::Publishing);
    assert!(!output.exists() && !submit.has_ended());
    drop(reached);
    gate.open();
    assert_eq!(submit.wait(), Some(0), "{}", submit.told());
    // At once, with all other processes still there: what is visible is whole.
    assert_eq!(counts(&Output::whole(&output)), naive("a b a"));
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(place.path("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["output_records"], 2, "{summary}");
    assert_eq!(Path::new(summary["output"].as_str().unwrap()), output);
}
