//! What a job's own mistakes lead to, and what happens when the input moves under it.

use std::fs;

use shardmill_tests::{Job, Place};

use crate::{job, witness};

#[test]
fn a_panic_in_map_names_the_record() {
    let place = Place::new();
    let text = "a 1\nb 2\nc 3\nd 4\n";
    for flags in ["--panic-on c", "--panic-on c --threads 3 --shard-bytes 2"] {
        let told = job(&place, text).with(flags).run().failure(1);
        for named in ["in.txt", "line 3", "byte 8", "c 3", "panicked", "not to my liking", "main.rs"] {
            assert!(told.contains(named), "{named:?} is not in: {told}");
        }
        assert!(!told.contains("stack backtrace"), "a bad record is no crash: {told}");
    }
    let (summary, output) = job(&place, text).with("--panic-on c --max-bad-records 1").run().success();
    assert_eq!(output.text(), "key,values,first,last\na,1,1,1\nb,1,2,2\nd,1,4,4\n", "what it had emitted does not count");
    assert_eq!((summary.bad_records, summary.counters["lines"]), (1, 3));
    let quarantine = fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
    assert!(quarantine.contains("\"text\":\"c 3\"") && quarantine.contains("not to my liking"), "{quarantine}");
}

#[test]
fn an_error_in_map_names_the_record() {
    let place = Place::new();
    let told = job(&place, "a 1\nb 2\n").with("--fail-on b").run().failure(1);
    assert!(told.contains("line 2") && told.contains("b 2") && told.contains("this line has failed"), "{told}");
}

#[test]
fn of_several_bad_records_within_the_limit_all_are_set_aside_in_the_order_of_the_input() {
    let place = Place::new();
    let text: String =
        (0..3_000).map(|number| format!("k{} {number}{}\n", number % 7, ["", " bad"][usize::from(number % 100 == 0)])).collect();
    let mut first = None;
    for flags in ["--threads 1", "--threads 3 --shard-bytes 100", "--threads 3 --shard-bytes 100 --tight-buffers 12288,4096,2"] {
        let job = job(&place, &text).with("--overwrite --fail-on bad --max-bad-records 30 --partitions 3").with(flags);
        let (_, output) = job.run().success();
        let quarantine = fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
        let offsets: Vec<u64> =
            quarantine.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["offset"].as_u64().unwrap()).collect();
        assert!(offsets.len() == 30 && offsets.is_sorted(), "{offsets:?}");
        let found = (output.parts(), offsets);
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{flags}");
    }
    let told = job(&place, &text).with("--fail-on bad --max-bad-records 29 --output").arg(place.path("other")).run();
    assert_eq!(told.code, Some(2), "an output is given once: {}", told.stderr);
    let job = Job::of(witness(), &place.path("other")).input(place.path("in.txt"));
    job.with("--fail-on bad --max-bad-records 29 --threads 3 --shard-bytes 100").run().failure(1);
}

#[test]
fn a_failure_in_reduce_names_the_key() {
    let place = Place::new();
    for (flags, named) in [("--fail-on-key b", "this key has failed"), ("--panic-on-key b", "this key is not to my liking")] {
        for bounds in ["", "--max-bad-records 10"] {
            let told = job(&place, "a 1\nb 2\nc 3\n").with(flags).with(bounds).run().failure(1);
            assert!(told.contains("reduce") && told.contains("\"b\"") && told.contains(named), "{told}");
        }
    }
}

#[test]
fn a_failure_to_finish_fails_the_job() {
    let place = Place::new();
    let told = job(&place, "a 1\n").with("--fail-to-finish").run().failure(1);
    assert!(told.contains("finish failed: cannot finish"), "{told}");
}

#[test]
fn an_input_that_changes_while_it_is_read_is_an_error_that_names_it() {
    let place = Place::new();
    for text in ["a 1\nappend\nb 2\n".to_owned(), "a 1\nappend\n".to_owned() + &"b 2\n".repeat(1_000_000)] {
        let told = job(&place, &text).arg("--append-to").arg(place.path("in.txt")).run().failure(1);
        assert!(told.contains("in.txt") && told.contains("changed"), "{told}");
    }
}

#[test]
fn an_input_that_changes_before_it_is_read_is_an_error_that_names_it() {
    let place = Place::new();
    let (first, second) = (place.write("a.txt", "a 1\nappend\n"), place.write("b.txt", "b 2\n"));
    let job = Job::of(witness(), &place.path("out")).input(&first).input(&second).with("--threads 1 --append-to").arg(&second);
    let told = job.run().failure(1);
    assert!(told.contains("b.txt") && told.contains("changed"), "{told}");
}

#[test]
fn an_input_that_goes_away_is_an_error_that_names_it() {
    let place = Place::new();
    let (first, second) = (place.write("a.txt", "a 1\nremove\n"), place.write("b.txt", "b 2\n"));
    let job = Job::of(witness(), &place.path("out")).input(&first).input(&second).with("--threads 1 --remove").arg(&second);
    let told = job.run().failure(1);
    assert!(told.contains("b.txt") && told.contains("No such file"), "{told}");
}

#[test]
fn a_second_signal_ends_a_run_whose_map_does_not_return_and_the_next_one_sweeps_after_it() {
    let place = Place::new();
    let there = place.path("there");
    let mut run = job(&place, "a 1\nstay\n").with("--threads 1 --stay-at").arg(&there).start();
    run.wait_for("it stays", || there.exists());
    // The first one only asks. Two that come close together are seen as one, so they are sent until it ends.
    let mut ended = false;
    while !ended {
        run.signal(libc::SIGINT);
        std::thread::yield_now();
        ended = run.has_ended();
    }
    let ended = run.wait();
    assert_eq!(ended.code, Some(130));
    assert_eq!(ended.leftovers().len(), 2, "{:?}", ended.leftovers());
    job(&place, "a 1\n").run().success();
}
