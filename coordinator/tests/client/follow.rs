//! Following a job: its end, interrupts, and coordinators that go away.

use serde_json::Value;
use shardmill_protocol::fault::Fault;
use shardmill_protocol::task::Task;
use shardmill_protocol::view::{EndingView, JobPhase, JobStatus};

use crate::fake::{Fake, JOB, Running, job_executable, status};
use crate::{ended, out};

fn submit(fake: &Fake, more: &[&str]) -> Running {
    let input = fake.write("in.txt", b"a\n");
    let mut command = fake.command(&["submit"]);
    command.arg(job_executable()).arg("--input").arg(input).arg("--output").arg(fake.path("out")).args(more);
    Running::start(command)
}

fn failed(refused: bool) -> JobStatus {
    let fault = Fault::Signalled { signal: 11, stderr: "oh".to_owned() };
    let ending = EndingView {
        kind: fault.kind().to_owned(),
        message: fault.to_string(),
        fault: Some(fault),
        suspects: vec![],
        files: vec![],
        task: Some(Task::Map(3..4)),
        attempt: None,
        worker: None,
        attempts: 4,
        refused,
    };
    JobStatus { ending: Some(ending), ..status(JOB, JobPhase::Failed, 9) }
}

#[test]
fn a_job_is_followed_through_its_phases_to_its_summary() {
    let fake = Fake::start();
    let mut running = submit(&fake, &[]);
    assert_eq!(running.says("job  "), format!("job     {JOB}\n"));
    running.says("plan    2.00 KiB in 1 file, 2 shards, 1 partition");
    fake.set(status(JOB, JobPhase::Mapping, 2));
    running.says("map");
    fake.set(JobStatus { workers_lost: 1, workers_live: 0, ..status(JOB, JobPhase::Mapping, 3) });
    running.says("1 worker lost so far");
    running.says("no workers: the job waits until one comes");
    fake.set(JobStatus { workers_lost: 1, ..status(JOB, JobPhase::Reducing, 4) });
    running.says("reduce");
    fake.set(JobStatus { workers_lost: 1, retries: 2, ..status(JOB, JobPhase::Succeeded, 5) });
    let (code, summary) = running.end();
    assert_eq!(code, Some(0));
    let lines = [
        "records 10 in, 3 groups, 3 rows out",
        "bytes   2.00 KiB in, 30 B out",
        "retries 2, 1 worker lost",
        "time    1.500 s",
        "output  /out",
    ];
    for piece in lines {
        assert!(summary.contains(piece), "{piece} in {summary}");
    }
}

#[test]
fn a_command_that_has_told_the_end_stays_until_the_output_can_be_used_again() {
    let fake = Fake::start();
    let mut running = submit(&fake, &[]);
    running.says("job  ");
    fake.set(JobStatus { is_swept: false, ..status(JOB, JobPhase::Succeeded, 5) });
    running.says("output  /out");
    // It asks once more.
    fake.watched();
    fake.set(status(JOB, JobPhase::Succeeded, 6));
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn how_a_job_ends_is_the_exit_code() {
    for (end, code, piece) in [
        (failed(false), 1, "kind    signalled"),
        (failed(true), 2, "ended by signal 11"),
        (status(JOB, JobPhase::Cancelled, 9), 5, "cancelled: no output was written"),
        (status(JOB, JobPhase::Succeeded, 9), 0, "output  /out"),
    ] {
        let fake = Fake::start();
        fake.set(end);
        let told = ended(&fake.command(&["watch", "01"]).output().unwrap(), code);
        assert!(told.contains(piece), "{piece} in {told}");
        let told = fake.command(&["watch", "01", "--format", "json", "-q"]).output().unwrap();
        assert_eq!(told.status.code(), Some(code));
        let status: Value = serde_json::from_str(&out(&told)).unwrap();
        assert_eq!((status["job"].as_str().unwrap(), status["version"].as_u64()), (JOB.to_string().as_str(), Some(9)));
    }
}

#[test]
fn quiet_says_nothing_but_errors() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Succeeded, 9));
    assert_eq!(ended(&fake.command(&["watch", "01", "-q"]).output().unwrap(), 0), "");
    fake.set(failed(false));
    assert!(ended(&fake.command(&["watch", "01", "-q"]).output().unwrap(), 1).starts_with("error: "));
}

#[test]
fn one_interrupt_leaves_the_job_to_itself_and_says_how_to_come_back() {
    let fake = Fake::start();
    let mut running = submit(&fake, &[]);
    running.says("job  ");
    fake.watched();
    running.interrupt();
    running.says("interrupt again");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    let state = fake.state();
    for verb in ["watch", "cancel"] {
        assert!(said.contains(&format!("coordinator {verb} {JOB} --coordinator {}", state.display())), "{said}");
    }
    assert!(fake.world.told.lock().unwrap().cancelled.is_empty());
}

#[test]
fn a_second_interrupt_cancels_and_the_end_is_waited_for() {
    let fake = Fake::start();
    let mut running = submit(&fake, &[]);
    running.says("job  ");
    fake.watched();
    running.interrupt();
    running.says("interrupt again");
    running.interrupt();
    let (code, said) = running.end();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("cancelling") && said.contains("cancelled: no output was written"), "{said}");
    assert_eq!(fake.world.told.lock().unwrap().cancelled, [JOB]);
}

#[test]
fn what_is_cancelled_too_late_is_followed_to_its_end() {
    let fake = Fake::start();
    fake.world.told.lock().unwrap().too_late = true;
    let mut running = submit(&fake, &["--cancel-on-exit"]);
    running.says("job  ");
    fake.watched();
    running.interrupt();
    running.says("too late to cancel");
    fake.set(status(JOB, JobPhase::Succeeded, 9));
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn whoever_watches_leaves_a_job_with_one_interrupt_and_cannot_cancel_it() {
    let fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 2));
    let mut running = Running::start(fake.command(&["watch", "01"]));
    running.says("map");
    running.interrupt();
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("coordinator watch") && fake.world.told.lock().unwrap().cancelled.is_empty(), "{said}");
}

#[test]
fn a_coordinator_that_comes_back_somewhere_else_is_found_again() {
    let mut fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 70));
    let mut running = Running::start(fake.command(&["watch", "01"]));
    running.says("map");
    fake.fall();
    running.says("the coordinator does not answer; trying again");
    // It counts anew.
    fake.set(status(JOB, JobPhase::Reducing, 1));
    fake.stand();
    running.says("the coordinator is back");
    running.says("reduce");
    fake.set(status(JOB, JobPhase::Succeeded, 2));
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_interrupt_is_heard_while_the_coordinator_is_away() {
    let mut fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    let mut running = Running::start(fake.command(&["watch", "01"]));
    running.says("map");
    fake.fall();
    running.says("trying again");
    running.interrupt();
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_coordinator_that_says_it_is_stopping_is_waited_for() {
    let mut fake = Fake::start();
    fake.set(status(JOB, JobPhase::Mapping, 1));
    let mut running = Running::start(fake.command(&["watch", "01"]));
    running.says("map");
    fake.watched();
    fake.world.told.lock().unwrap().is_stopping = true;
    fake.set(status(JOB, JobPhase::Mapping, 2));
    fake.fall();
    running.says("trying again");
    fake.world.told.lock().unwrap().is_stopping = false;
    fake.set(status(JOB, JobPhase::Succeeded, 3));
    fake.stand();
    assert_eq!(running.end().0, Some(0));
}
