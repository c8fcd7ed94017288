//! The commands that people type, on a real cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, Output as Told};

use serde_json::Value;
use shardmill_protocol::view::JobPhase;
use shardmill_tests::cluster::{Cluster, Process};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Output, Place, names_in, program};

use crate::parallel::{counts, naive, submit};

const ONE_THREAD: &str = "--threads 1 --memory 128MiB";

fn json(told: &Told) -> Value {
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&told.stdout)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn submitting_twice_with_one_key_is_one_job() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let input = place.write("in.txt", "a b a\n");
    let once = || cluster.submit(Path::new("word-count"), &place.path("out"), &["--input", input.to_str().unwrap(), "--key", "mine"]);
    let first = once();
    assert_eq!(once(), first);
    let _worker = cluster.worker("worker", ONE_THREAD);
    let (_, output) = cluster.success(first);
    assert_eq!(counts(&output), naive("a b a"));
    assert_eq!(once(), first, "after its end, too");
}

#[test]
fn an_output_is_one_jobs_and_others_are_refused_at_submit() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let input = place.write("in.txt", "a\n");
    let input = input.to_str().unwrap();
    let first = cluster.submit(Path::new("word-count"), &place.path("out"), &["--input", input]);
    let again = |output: &str| {
        let mut command = cluster.command("submit");
        command.args(["word-count", "--detach", "--input", input, "--output"]).arg(place.path(output));
        command.output().unwrap()
    };
    for output in ["out", "out/inside"] {
        let told = again(output);
        assert!(matches!(told.status.code(), Some(2 | 4)), "{:?}: {}", told.status, text(&told.stderr));
        assert!(text(&told.stderr).contains(&first.to_string()), "{}", text(&told.stderr));
    }
    // A run on this machine is refused, too.
    let local =
        Command::new(program("word-count")).args(["run", "-q", "--input", input, "--output"]).arg(place.path("out")).output().unwrap();
    assert_eq!(local.status.code(), Some(2), "{}", text(&local.stderr));
    let _worker = cluster.worker("worker", ONE_THREAD);
    cluster.success(first);
    // And now it exists.
    assert_eq!(again("out").status.code(), Some(2));
}

#[test]
fn mistakes_are_refused_before_anything_runs() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let input = place.write("in.txt", "a\n");
    let input = input.to_str().unwrap();
    let output = place.path("out");
    let output = output.to_str().unwrap();
    let missing = place.path("missing.txt");
    let cases: [(&[&str], i32, &str); 5] = [
        (&["word-count", "--input", missing.to_str().unwrap(), "--output", output], 2, "missing.txt"),
        (&["word-count", "--input", input], 2, "--output"),
        (&["no-such-job", "--input", input, "--output", output], 2, "no-such-job"),
        (&["word-count", "--input", input, "--output", output, "--", "--no-such-parameter"], 2, "--no-such-parameter"),
        (&["word-count", "--input", input, "--input-format", "parquet", "--output", output], 2, "parquet"),
    ];
    let _worker = cluster.worker("worker", ONE_THREAD);
    for (arguments, code, piece) in cases {
        let told = cluster.command("submit").args(arguments).output().unwrap();
        assert_eq!(told.status.code(), Some(code), "{arguments:?}: {}", text(&told.stderr));
        assert!(text(&told.stderr).contains(piece), "{piece} in {}", text(&told.stderr));
        assert!(!Path::new(output).exists());
    }
    let is_left = || names_in(&place.path("")).iter().any(|name| name.starts_with(".out"));
    assert!(!is_left(), "a command that has ended leaves neither claim nor staging");
}

#[test]
fn without_a_coordinator_commands_say_so_and_exit_with_3() {
    let place = Place::new();
    let mut cluster_state = {
        let cluster = Cluster::start(&place);
        cluster.state()
    };
    // It was stopped, its state is there.
    let told = Command::new(program("coordinator")).arg("jobs").arg("--coordinator").arg(&cluster_state).output().unwrap();
    assert_eq!(told.status.code(), Some(3), "{}", text(&told.stderr));
    cluster_state.push("nowhere");
    let told = Command::new(program("coordinator")).arg("jobs").arg("--coordinator").arg(&cluster_state).output().unwrap();
    assert_eq!(told.status.code(), Some(3), "{}", text(&told.stderr));
    assert!(text(&told.stderr).contains("coordinator serve"), "it says what to do: {}", text(&told.stderr));
}

#[test]
fn a_second_coordinator_on_a_state_directory_is_refused_with_the_number_of_the_first() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let mut command = Command::new(program("coordinator"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(cluster.state());
    let told = command.output().unwrap();
    assert_eq!(told.status.code(), Some(4), "{}", text(&told.stderr));
    assert!(text(&told.stderr).contains(&cluster.coordinator().number().to_string()), "{}", text(&told.stderr));
}

#[test]
fn the_first_interrupt_detaches_and_the_job_goes_on() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _worker = cluster.worker("worker", ONE_THREAD);
    let gate = Gate::close(&place, "held");
    let mut following = follow(&place, &cluster);
    let reached = gate.reached();
    following.signal(libc::SIGINT);
    assert_eq!(following.wait(), Some(0), "{}", following.told());
    let jobs = json(&cluster.command("jobs").args(["--format", "json"]).output().unwrap());
    assert_eq!(jobs[0]["phase"], "mapping", "{jobs}");
    drop(reached);
    gate.open();
    let job = jobs[0]["job"].as_str().unwrap().parse().unwrap();
    assert!(following.told().contains("coordinator watch"), "it says how to come back: {}", following.told());
    assert_eq!(counts(&cluster.success(job).1), naive("!map:gate:held a"));
}

#[test]
fn a_second_interrupt_cancels() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _worker = cluster.worker("worker", ONE_THREAD);
    let gate = Gate::close(&place, "held");
    let mut following = follow(&place, &cluster);
    let _reached = gate.reached();
    following.signal(libc::SIGINT);
    // Signals of one kind that wait are one signal, so the second is sent when the first was seen.
    shardmill_tests::wait_until("the first was seen", || following.told().contains("again"));
    following.signal(libc::SIGINT);
    assert_eq!(following.wait(), Some(5), "{}", following.told());
    let jobs = json(&cluster.command("jobs").args(["--format", "json"]).output().unwrap());
    let job = jobs[0]["job"].as_str().unwrap().parse().unwrap();
    assert_eq!(cluster.end(job).phase, JobPhase::Cancelled);
}

/// A `submit` that follows a job of the probe, which stands at the gate `held`.
fn follow(place: &Place, cluster: &Cluster<'_>) -> Process {
    let input = place.write("in.txt", "!map:gate:held a\n");
    let mut command = cluster.command("submit");
    command.arg(program("probe")).arg("--input").arg(input).arg("--output").arg(place.path("out")).arg("--");
    command.arg("--gates").arg(place.path("gates"));
    Process::start(command, &place.path("submit.log"))
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_exits_with_0() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let mut worker = cluster.worker("worker", ONE_THREAD);
    let gate = Gate::close(&place, "held");
    let job = submit(&cluster, &place, "out", "!map:gate:held a\n", "");
    let reached = gate.reached();
    let told = cluster.command("drain").arg(worker.id().to_string()).output().unwrap();
    assert!(told.status.success(), "{}", text(&told.stderr));
    drop(reached);
    gate.open();
    assert_eq!(worker.process().wait(), Some(0), "{}", worker.process().told());
    let _other = cluster.worker("other", ONE_THREAD);
    assert_eq!(counts(&cluster.success(job).1), naive("!map:gate:held a"));
}

#[test]
fn an_embedded_cluster_runs_a_job_and_leaves_nothing_behind() {
    let place = Place::new();
    let input = place.write("in.txt", "a b a\n");
    fs::create_dir(place.path("tmp")).unwrap();
    let mut command = Command::new(program("coordinator"));
    command.args(["run", "word-count", "--workers", "2", "--input"]).arg(input).arg("--output").arg(place.path("out"));
    let told = command.env("TMPDIR", place.path("tmp")).output().unwrap();
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    assert_eq!(counts(&Output::whole(&place.path("out"))), naive("a b a"));
    assert_eq!(names_in(&place.path("tmp")), [""; 0]);
}

#[test]
fn what_job_processes_write_to_stderr_can_be_read() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _worker = cluster.worker("worker", ONE_THREAD);
    let job = submit(&cluster, &place, "out", "!map:fail a\n", "");
    assert_eq!(cluster.end(job).phase, JobPhase::Failed);
    let logs = || {
        let told = cluster.command("logs").arg(job.to_string()).output().unwrap();
        assert!(told.status.success(), "{told:?}");
        text(&told.stdout)
    };
    shardmill_tests::wait_until("the log has come", || logs().contains("obeying !map:fail"));
}

#[test]
fn what_a_job_process_that_still_runs_has_written_can_be_read() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let _worker = cluster.worker("worker", ONE_THREAD);
    let gate = Gate::close(&place, "held");
    let job = submit(&cluster, &place, "out", "!map:gate:held a\n", "");
    let reached = gate.reached();
    let logs = || text(&cluster.command("logs").arg(job.to_string()).output().unwrap().stdout);
    shardmill_tests::wait_until("the log has come", || logs().contains("obeying !map:gate:held"));
    drop(reached);
    gate.open();
    cluster.success(job);
    assert_eq!(logs().matches("obeying !map:gate:held").count(), 1, "{}", logs());
}
