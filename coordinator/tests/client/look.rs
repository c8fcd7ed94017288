//! The commands that look: jobs, job, workers, logs; and drain and cancel.

use serde_json::Value;
use shardmill_protocol::fault::Fault;
use shardmill_protocol::process::Progress;
use shardmill_protocol::task::{Task, TaskKind};
use shardmill_protocol::view::{AttemptState, AttemptView, JobPhase, JobView, PhaseView, Spread, WorkerState, WorkerView};
use shardmill_protocol::{AttemptId, Epoch, JobId, WorkerId};

use crate::fake::{Fake, JOB, status};
use crate::{ended, err, out};

const OTHER: JobId = JobId(JOB.0 + 1);

fn json(fake: &Fake, arguments: &[&str]) -> Value {
    let told = fake.command(&[arguments, &["--format", "json"]].concat()).output().unwrap();
    ended(&told, 0);
    assert_eq!(err(&told), "", "narration among data");
    serde_json::from_slice(&told.stdout).unwrap()
}

fn attempt(number: u64, task: Task, state: AttemptState, fault: Option<Fault>) -> AttemptView {
    AttemptView {
        attempt: AttemptId { job: JOB, epoch: Epoch(1), number },
        task,
        worker: WorkerId(9),
        state,
        backup: false,
        threads: 1,
        elapsed_ms: 42,
        progress: Progress { bytes: 512, ..Progress::default() },
        bytes: 1024,
        failure: fault.map(Into::into),
    }
}

fn view() -> JobView {
    let fault = Fault::Signalled { signal: 11, stderr: "first\nsecond".to_owned() };
    let mut attempts: Vec<_> = (0..40).map(|number| attempt(number, Task::Map(0..5), AttemptState::Accepted, None)).collect();
    attempts.insert(0, attempt(100, Task::Map(5..9), AttemptState::Failed, Some(fault)));
    let spread = Spread { min: 1024, median: 2048, max: 4096 };
    let phase = PhaseView {
        kind: TaskKind::Map,
        units: 9,
        done: 5,
        tasks: 1,
        bytes: spread,
        elapsed_ms: spread,
        mapped_again: 3,
        charges: vec![(6, 2), (7, 1)],
    };
    JobView {
        status: status(JOB, JobPhase::Mapping, 3),
        phases: vec![phase],
        attempt_count: attempts.len() as u64,
        attempts,
        set_aside: vec![],
        lost: std::iter::once(0..5).collect(),
    }
}

#[test]
fn jobs_come_newest_first_and_page_by_page() {
    let fake = Fake::start();
    let told = fake.command(&["jobs"]).output().unwrap();
    assert_eq!((ended(&told, 0), out(&told)), ("no jobs\n".to_owned(), String::new()));
    let ids: Vec<String> = (0..5)
        .map(|number| JobId(JOB.0 + number))
        .inspect(|job| fake.set(status(*job, JobPhase::Mapping, 1)))
        .map(|job| job.to_string())
        .collect();
    let listed = |value: Value| value.as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let newest_first: Vec<String> = ids.into_iter().rev().collect();
    assert_eq!(listed(json(&fake, &["jobs"])), newest_first);
    assert_eq!(listed(json(&fake, &["jobs", "-n", "3"])), newest_first[..3]);
    let text = out(&fake.command(&["jobs"]).output().unwrap());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for piece in [newest_first[0].as_str(), "fake", "mapping", "0 %", "1.500 s", "/out"] {
        assert!(lines[1].contains(piece), "{piece} in {text}");
    }
}

#[test]
fn a_job_is_shown_with_skew_charges_losses_and_faults() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 3));
    fake.world.told.lock().unwrap().views.insert(JOB, view());
    let told = fake.command(&["job", "01"]).output().unwrap();
    ended(&told, 0);
    let text = out(&told);
    for piece in [
        "mapping",
        "5 of 9",
        "1.00 KiB · 2.00 KiB · 4.00 KiB",
        "1-100",
        "map 5..9",
        "signal 11",
        "first…",
        "512 B of 1.00 KiB",
        "map 0..5; it was mapped again",
        "and 10 attempts more",
    ] {
        assert!(text.contains(piece), "{piece} in {text}");
    }
    assert!(!text.contains("second"), "a fault is one line: {text}");
    assert!(!out(&fake.command(&["job", "01", "--all"]).output().unwrap()).contains("attempts more"));
    let view = json(&fake, &["job", "01"]);
    assert_eq!(view["status"]["phase"], "mapping");
    assert_eq!(view["attempts"][0]["failure"]["fault"]["signalled"]["signal"], 11);
    assert_eq!(view["attempts"][0]["attempt"], format!("{JOB}/1-100"));
}

#[test]
fn a_beginning_that_fits_several_jobs_names_them_and_one_that_fits_none_says_so() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    fake.set(status(OTHER, JobPhase::Mapping, 1));
    for verb in ["job", "watch", "cancel", "logs"] {
        let told = ended(&fake.command(&[verb, "01"]).output().unwrap(), 2);
        assert!(told.contains(&JOB.to_string()) && told.contains(&OTHER.to_string()) && told.contains("give more"), "{verb}: {told}");
        let told = ended(&fake.command(&[verb, "77"]).output().unwrap(), 2);
        assert!(told.contains("there is no job 77") && told.contains("coordinator jobs"), "{verb}: {told}");
    }
    // Ids are found in either case.
    fake.world.told.lock().unwrap().log = b"x".to_vec();
    ended(&fake.command(&["logs", &OTHER.to_string().to_uppercase()]).output().unwrap(), 0);
}

#[test]
fn workers_are_listed_and_drained() {
    let fake = Fake::start();
    assert_eq!(ended(&fake.command(&["workers"]).output().unwrap(), 0), "no workers\n");
    let worker = WorkerView {
        worker: WorkerId(9),
        address: "10.0.0.7:4100, process 77\u{1b}[2J".to_owned(),
        state: WorkerState::Live,
        threads: 8,
        threads_used: 3,
        memory_bytes: 4 << 30,
        running: vec![],
        outputs: 12,
        silent_ms: 40,
    };
    fake.world.told.lock().unwrap().workers.push(worker);
    let text = out(&fake.command(&["workers"]).output().unwrap());
    for piece in [&WorkerId(9).to_string(), "live", "3 of 8", "4.00 GiB", "12", "0.040 s ago", "10.0.0.7:4100"] {
        assert!(text.contains(piece), "{piece} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "what a worker calls itself is not obeyed");
    assert_eq!(json(&fake, &["workers"])[0]["worker"], WorkerId(9).to_string());

    let told = ended(&fake.command(&["drain", "0000"]).output().unwrap(), 0);
    assert!(told.contains(&format!("worker {} takes no more tasks", WorkerId(9))), "{told}");
    assert_eq!(json(&fake, &["drain", "0000"])["worker"], WorkerId(9).to_string());
    let told = ended(&fake.command(&["drain", "zz"]).output().unwrap(), 2);
    assert!(told.contains("there is no worker zz") && told.contains("coordinator workers"), "{told}");
}

#[test]
fn logs_are_printed_as_they_are_whole_or_of_one_attempt_or_task() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    fake.world.told.lock().unwrap().log = b"a long line\xff\nand more\n".to_vec();
    fake.world.told.lock().unwrap().views.insert(JOB, view());
    let told = fake.command(&["logs", "01"]).output().unwrap();
    ended(&told, 0);
    assert_eq!(told.stdout, b"a long line\xff\nand more\n");
    for task in ["1-100", &format!("{JOB}/1-100"), "map:5..9", "map 5..9"] {
        assert_eq!(out(&fake.command(&["logs", "01", task]).output().unwrap()), "log of 1-100\n", "{task}");
    }
    let several = out(&fake.command(&["logs", "01", "map:0..5"]).output().unwrap());
    assert_eq!(several.lines().count(), 40);
    let told = ended(&fake.command(&["logs", "01", "map:7..8"]).output().unwrap(), 2);
    assert!(told.contains("no attempt or task map:7..8"), "{told}");
    assert_eq!(json(&fake, &["logs", "01", "1-100"])["stderr"], "log of 1-100\n");
}

#[test]
fn cancelling_says_what_became_of_it() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    assert_eq!(json(&fake, &["cancel", "01"])["answer"], "cancelling");
    assert!(ended(&fake.command(&["cancel", "01"]).output().unwrap(), 0).contains("is being cancelled"));
    fake.world.told.lock().unwrap().too_late = true;
    assert!(ended(&fake.command(&["cancel", "01"]).output().unwrap(), 4).contains("its output is being published"));
    assert_eq!(fake.world.told.lock().unwrap().cancelled, [JOB; 3]);
}
