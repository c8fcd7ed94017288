//! Job processes that die, hang and misbehave, at records of the test's choice.

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, JobPhase};
use shardmill_tests::{Output, Place};

use crate::world::{CUT, ONE_THREAD, World, counts, naive, text_with};

#[test]
fn a_job_whose_attempts_exit_abort_and_hang_now_and_then_gives_the_right_bytes() {
    let place = Place::new();
    let world = World::new(&place);
    let flags = format!("{ONE_THREAD} --stall-after 1s");
    let _workers = [world.cluster.worker("first", &flags), world.cluster.worker("second", &flags)];
    let orders = [
        (5, "!map:exit:m1"),
        (25, "!map:abort:m2"),
        (45, "!map:hang:m3"),
        (65, "!map:segfault:m4"),
        (85, "!map:overflow:m5"),
        (105, "!map:close:m6"),
        (10, "!reduce:exit:r1"),
        (30, "!reduce:abort:r2"),
        (50, "!reduce:hang:r3"),
        (70, "!reduce:garbage:r4"),
        (90, "!map:flood:m7"),
    ];
    let text = text_with(&orders);
    let job = world.submit(&text, CUT);
    let view = world.succeeds_with(job, &text);
    // Each of them has happened, and was named for what it was.
    let failed = view.attempts.iter().filter_map(|attempt| Some((attempt.task.to_string(), &attempt.failure.as_ref()?.fault)));
    let faults: Vec<_> = failed.collect();
    for (kind, at_least) in [("exited without result", 2), ("signalled", 4), ("stalled", 2), ("protocol broken", 1)] {
        let met = faults.iter().filter(|(_, fault)| fault.kind() == kind).count();
        assert!(met >= at_least, "{met} times {kind} in {faults:#?}");
    }
}

#[test]
fn a_record_that_brings_every_attempt_down_ends_the_job_and_is_named() {
    let place = Place::new();
    let world = World::new(&place);
    let _worker = world.worker("worker");
    let text = text_with(&[(60, "!map:abort")]);
    let offset = text.find("!map:abort").unwrap();
    let line = text[..offset].rfind('\n').unwrap() + 1;
    let job = world.submit(&text, CUT);
    let status = world.cluster.end(job);
    assert_eq!(status.phase, JobPhase::Failed);
    let ending = status.ending.unwrap();
    assert_eq!(ending.kind, "signalled", "{ending:#?}");
    assert!(ending.message.contains("signal 6"), "{ending:#?}");
    let named: Vec<_> = ending.suspects.iter().map(|suspect| suspect.offset).zip(&ending.files).collect();
    assert_eq!(named, [(line as u64, &place.path("in/text.txt").display().to_string())]);
    let view = world.cluster.job(job);
    let failed: Vec<_> = view.attempts.iter().filter(|attempt| attempt.failure.is_some()).collect();
    assert_eq!(failed.len(), 2, "what fails twice alike fails for ever: {view:#?}");
    let last = failed[1];
    let suspects = &last.failure.as_ref().unwrap().suspects;
    assert!(suspects.iter().any(|suspect| suspect.offset == line as u64), "{suspects:?} should name the record at {line}");
    world.nothing_is_left(&[]);
}

#[test]
fn a_record_that_brings_attempts_down_is_set_aside_where_that_is_allowed() {
    let place = Place::new();
    let world = World::new(&place);
    let _worker = world.worker("worker");
    let text = text_with(&[(60, "!map:abort"), (90, "!map:segfault")]);
    let job = world.submit(&text, &format!("{CUT} --max-bad-records 2"));
    let status = world.cluster.end(job);
    assert_eq!(status.phase, JobPhase::Succeeded, "{status:#?}");
    let output = Output::whole(&place.path("out/words"));
    let good: String = text.lines().filter(|line| !line.contains('!')).map(|line| format!("{line}\n")).collect();
    assert_eq!(counts(&output), naive(&good));
    let quarantine = std::fs::read_to_string(output.path.join("_quarantine/records.jsonl")).unwrap();
    let lines: Vec<&str> = quarantine.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("!map:abort") && lines[1].contains("!map:segfault"), "{quarantine}");
    assert_eq!(status.bad_records, 2);
}

#[test]
fn a_bad_record_fails_the_job_at_once_and_is_shown_as_in_a_local_run() {
    let place = Place::new();
    let world = World::new(&place);
    let _worker = world.worker("worker");
    let text = text_with(&[(60, "!map:fail")]);
    let job = world.submit(&text, CUT);
    let status = world.cluster.end(job);
    assert_eq!(status.ending.unwrap().kind, "bad record");
    let watched = world.cluster.command("watch").arg(job.to_string()).output().unwrap();
    assert_eq!(watched.status.code(), Some(1));
    let card = String::from_utf8(watched.stderr).unwrap();
    for piece in ["a bad record in", "line 61", "!map:fail", "it was told to"] {
        assert!(card.contains(piece), "{piece} in {card}");
    }
    assert_eq!(world.cluster.job(job).status.retries, 0);
}

#[test]
fn an_error_in_reduce_names_the_key_and_is_not_tried_again() {
    let place = Place::new();
    let world = World::new(&place);
    let _worker = world.worker("worker");
    let job = world.submit(&text_with(&[(60, "!reduce:panic")]), CUT);
    let ending = world.cluster.end(job).ending.unwrap();
    assert_eq!(ending.kind, "reduce failed");
    assert!(ending.message.contains("!reduce:panic"), "{ending:#?}");
    let view = world.cluster.job(job);
    let failed = view.attempts.iter().filter(|attempt| attempt.task.kind() == TaskKind::Reduce && attempt.state == AttemptState::Failed);
    assert_eq!(failed.count(), 1);
}
