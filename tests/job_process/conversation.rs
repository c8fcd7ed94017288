//! What is said on descriptor 3, and what ends a job process.

use std::process::{Command, Stdio};

use shardmill_protocol::VERSION;
use shardmill_protocol::fault::{Breach, Fault};
use shardmill_protocol::process::{FromProcess, Setup, ToProcess};
use shardmill_protocol::task::Task;
use shardmill_tests::gate::Gate;
use shardmill_tests::{JobProcess, Place, Supervisor, program};

use crate::{WHOLE, request};

fn supervisor(place: &Place, job: &str, parameters: &[&str]) -> Supervisor {
    place.write("input", "a b a\n!map:gate:m\n");
    Supervisor::new(&program(job), &place.path("cluster"), &request(place, 100, 1), parameters, WHOLE)
}

#[test]
fn a_process_ends_with_its_worker_whatever_it_is_at() {
    let place = Place::new();
    let gate = Gate::close(&place, "m");
    let gates = place.path("gates").display().to_string();
    let mut supervisor = supervisor(&place, "probe", &["--gates", &gates]);
    assert_eq!(JobProcess::start(&program("probe"), &[]).leave(), (Some(0), None), "before it is set up");
    let (plan, ..) = supervisor.plan();
    let order = supervisor.order(Task::Map(0..1), vec![plan], None);
    let mut process = JobProcess::start(&program("probe"), &[]);
    process.set_up(supervisor.setup()).unwrap();
    process.say(&ToProcess::Run(order));
    let _reached = gate.reached();
    assert_eq!(process.leave(), (Some(1), None), "in the middle of an attempt");
}

#[test]
fn gibberish_ends_a_process() {
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\x03\x00\x00\x00\x09\x09\x09", b"\x00\x00\x00\x00"] {
        let mut process = JobProcess::start(&program("word-count"), &[]);
        process.write(bytes);
        assert_eq!(process.wait(), (Some(1), None), "{bytes:?}");
    }
}

#[test]
fn a_second_order_while_the_first_one_runs_ends_a_process() {
    let place = Place::new();
    let gate = Gate::close(&place, "m");
    let gates = place.path("gates").display().to_string();
    let mut supervisor = supervisor(&place, "probe", &["--gates", &gates]);
    let (plan, ..) = supervisor.plan();
    let orders = [(), ()].map(|()| supervisor.order(Task::Map(0..1), vec![plan.clone()], None));
    let [first, second] = orders;
    supervisor.process().say(&ToProcess::Run(first));
    let _reached = gate.reached();
    supervisor.process().say(&ToProcess::Run(second));
    assert_eq!(supervisor.process().wait(), (Some(1), None));
}

#[test]
fn a_process_is_set_up_before_anything_else_by_who_speaks_its_version() {
    let place = Place::new();
    let mut supervisor = supervisor(&place, "word-count", &[]);
    let mut process = JobProcess::start(&program("word-count"), &[]);
    let order = supervisor.order(Task::Draft, vec![], None);
    process.say(&ToProcess::Run(order.clone()));
    let FromProcess::Failed { attempt: Some(attempt), failure } = process.hear() else { panic!("it cannot run") };
    assert_eq!(attempt, order.attempt);
    assert!(matches!(failure.fault, Fault::ProtocolBroken { breach: Breach::Unexpected, .. }), "{failure:?}");
    let failure = process.set_up(Setup { version: (VERSION.0 + 1, 0), ..supervisor.setup() }).unwrap_err();
    assert!(matches!(failure.fault, Fault::ProtocolBroken { breach: Breach::Version, .. }), "{failure:?}");
    process.set_up(Setup { version: (VERSION.0, VERSION.1 + 7), ..supervisor.setup() }).unwrap();
    assert!(process.run(order).0.is_ok());
}

#[test]
fn parameters_are_read_as_run_reads_them() {
    let place = Place::new();
    let setup = supervisor(&place, "word-count", &[]).setup();
    let mut process = JobProcess::start(&program("word-count"), &[]);
    for (parameters, expected) in
        [(&["--uppercase"][..], "--uppercase"), (&["--min-count", "few"], "few"), (&["--partitions", "3"], "--partitions")]
    {
        let parameters = parameters.iter().map(ToString::to_string).collect();
        match process.set_up(Setup { parameters, ..setup.clone() }).unwrap_err().fault {
            Fault::Refused { message } => assert!(message.contains(expected), "{message}"),
            other => panic!("{other:?} is no refusal"),
        }
    }
    process.set_up(Setup { parameters: vec!["--lowercase".to_owned(), "--min-count=2".to_owned()], ..setup }).unwrap();
}

#[test]
fn without_a_worker_there_is_nobody_to_serve() {
    let told = Command::new(program("word-count")).arg("task").stdin(Stdio::null()).output().unwrap();
    assert_eq!(told.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&told.stderr).contains("for workers"), "{told:?}");
}

#[test]
fn flags_and_parameters_are_checked_without_a_look_at_the_input() {
    let check = |job: &str, arguments: &[&str]| {
        let command = ["check", "--input", "/nothing/here", "--output", "/nor/here"];
        let told = Command::new(program(job)).args(command).args(arguments).output().unwrap();
        (told.status.code(), String::from_utf8(told.stdout).unwrap(), String::from_utf8(told.stderr).unwrap())
    };
    let fine = (Some(0), String::new(), String::new());
    assert_eq!(check("word-count", &["--partitions", "7", "--lowercase"]), fine);
    assert_eq!(check("aggregate", &["--group-by", "city", "--aggregate", "sum(price) as revenue"]), fine);
    for (job, arguments, expected) in [
        ("word-count", &["--partitions", "0"][..], "--partitions"),
        ("word-count", &["--threads", "3"], "--threads"),
        ("aggregate", &["--aggregate", "sum(price"], "sum(price"),
    ] {
        let (code, stdout, stderr) = check(job, arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
