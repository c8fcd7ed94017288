//! `coordinator run`: a cluster that lives as long as its job.

use std::fs;
use std::process::Command;

use shardmill_tests::cluster::Process;
use shardmill_tests::gate::Gate;
use shardmill_tests::{Output, Place, descendants, is_alive, names_in, program, wait_until};

use crate::parallel::{counts, naive};

/// A run of the probe with two workers, which has a directory for its output alone.
fn run(place: &Place, text: &str, flags: &str) -> Command {
    let input = place.write("in/text.txt", text);
    let gates = place.path("gates");
    fs::create_dir_all(&gates).unwrap();
    fs::create_dir_all(place.path("out")).unwrap();
    let mut command = Command::new(program("coordinator"));
    command.arg("run").arg(program("probe")).args(["--workers", "2", "--threads", "1", "--memory", "256MiB"]);
    command.arg("--input").arg(input).arg("--output").arg(place.path("out/words")).args(flags.split_whitespace());
    command.arg("--").arg("--gates").arg(gates);
    command
}

#[test]
fn a_job_is_run_on_a_cluster_of_its_own_of_which_nothing_is_left() {
    let place = Place::new();
    let text = "to be or\nnot to be\n".repeat(50);
    let told = run(&place, &text, "--shard-bytes 64 --partitions 3").output().unwrap();
    assert_eq!(told.status.code(), Some(0), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive(&text));
    assert_eq!(names_in(&place.path("out")), ["words"]);
}

#[test]
fn a_job_that_fails_is_told_by_the_exit_code_and_leaves_nothing() {
    let place = Place::new();
    let told = run(&place, "a\n!map:fail\nb\n", "").output().unwrap();
    assert_eq!(told.status.code(), Some(1), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(names_in(&place.path("out")), Vec::<String>::new());
}

#[test]
fn an_interrupt_ends_all_of_it_and_leaves_nothing() {
    let place = Place::new();
    let gate = Gate::close(&place, "map");
    let mut running = Process::start(run(&place, "a\n!map:gate:map\nb\n", ""), &place.path("run.log"));
    let reached = gate.reached();
    let started = descendants(running.number());
    assert!(started.len() >= 4, "a coordinator, two workers and a job process: {started:?}");
    running.signal(libc::SIGINT);
    assert_eq!(running.wait(), Some(130), "{}", running.told());
    drop(reached);
    assert_eq!(names_in(&place.path("out")), Vec::<String>::new());
    wait_until("all its processes are gone", || !started.iter().any(|process| is_alive(*process)));
}

#[test]
fn its_processes_die_with_it_even_if_it_is_killed() {
    let place = Place::new();
    let gate = Gate::close(&place, "map");
    let mut running = Process::start(run(&place, "a\n!map:gate:map\nb\n", ""), &place.path("run.log"));
    let _reached = gate.reached();
    let started = descendants(running.number());
    assert!(started.len() >= 4, "{started:?}");
    running.kill();
    wait_until("all its processes are gone", || !started.iter().any(|process| is_alive(*process)));
    // It could not clean up; the next one does, and is not refused for the claim that is left.
    let told = run(&place, "a b a", "").output().unwrap();
    assert_eq!(told.status.code(), Some(0), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive("a b a"));
    assert_eq!(names_in(&place.path("out")), ["words"]);
}
