//! What goes wrong in a job process is named, and laid at the right door.

use std::fs;
use std::path::Path;

use shardmill_datasets::{Drift, RunRequest};
use shardmill_protocol::fault::{BadRecord, Breach, Fault, Suspect};
use shardmill_protocol::process::{FromProcess, MemoryFile, SourceEntry, ToProcess, read_message, write_message};
use shardmill_protocol::slots;
use shardmill_protocol::task::{Outcome, SetAside, Task};
use shardmill_tests::gate::Gate;
use shardmill_tests::text::text;
use shardmill_tests::{Cut, Job, MapOutput, Place, Supervisor, program};

use crate::{WHOLE, request};

/// Lines of ten bytes each, so that it is known which records a shard of 100 bytes has.
fn lines(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("a{number:04} b{:02}\n", number % 7)).collect()
}

/// What became of reducing all partitions of these outputs.
fn reduced(supervisor: &mut Supervisor, plan: &shardmill_protocol::Input, sources: &Path, partitions: u32) -> Result<Outcome, Fault> {
    let order = supervisor.order(Task::Reduce(0..partitions), vec![plan.clone()], Some(sources.to_owned()));
    supervisor.process().run(order).0.map_err(|failure| failure.fault)
}

#[test]
fn no_damage_to_a_map_output_goes_unnoticed_and_the_output_is_named() {
    let place = Place::new();
    place.write("input", text(5, 24_000));
    for (job, parameters, partitions) in [("word-count", &[][..], 3), ("sort", &["--key", "0..3"], 2)] {
        let request = request(&place, 2_000, partitions);
        let mut supervisor = Supervisor::new(&program(job), &place.path(job), &request, parameters, Cut { threads: 2, ..WHOLE });
        let (plan, ..) = supervisor.plan();
        let outputs: Vec<MapOutput> = [0..5, 5..12].map(|shards| supervisor.map(&plan, shards)).into();
        let sources = supervisor.sources(&outputs, 0..partitions);
        let damaged = outputs[1].attempt;
        let path = supervisor.directory_of(damaged).join("map.run");
        let whole = fs::read(&path).unwrap();
        let lost = Err(Fault::OutputLost { output: damaged, damaged: true });
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(reduced(&mut supervisor, &plan, &sources, partitions), lost, "{job}: byte {at} of {}", whole.len());
        }
        for length in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(reduced(&mut supervisor, &plan, &sources, partitions), lost, "{job}: cut at {length}");
        }
        fs::remove_file(&path).unwrap();
        // An open file would still be read.
        supervisor.next_process();
        let gone = Err(Fault::OutputLost { output: damaged, damaged: false });
        assert_eq!(reduced(&mut supervisor, &plan, &sources, partitions), gone, "{job}: removed");
        fs::write(&path, &whole).unwrap();
        assert!(reduced(&mut supervisor, &plan, &sources, partitions).is_ok());
        assert_eq!(reduced(&mut supervisor, &plan, &with_another_digest(&sources), partitions), lost, "{job}: whole, and another one");
    }
}

#[test]
fn a_map_output_goes_to_memory_where_it_fits_and_to_the_disk_where_it_does_not_or_there_is_none() {
    let place = Place::new();
    place.write("input", text(5, 24_000));
    let request = request(&place, 2_000, 3);
    for (job, parameters) in [("word-count", &[][..]), ("sort", &["--key", "0..3"])] {
        let mut supervisor = Supervisor::new(&program(job), &place.path(job), &request, parameters, Cut { threads: 2, ..WHOLE });
        let (plan, ..) = supervisor.plan();
        let expected = supervisor.map(&plan, 0..5);
        let run = fs::read(supervisor.directory_of(expected.attempt).join("map.run")).unwrap();
        let file = place.write(&format!("{job}.memory"), "");
        let ample = 64 << 20;
        for (path, bytes, is_taken) in [(&file, ample, true), (&file, run.len() as u64 / 2, false), (&place.path("missing"), ample, false)]
        {
            fs::write(&file, "").unwrap();
            let mut order = supervisor.order(Task::Map(0..5), vec![plan.clone()], None);
            order.memory = Some(MemoryFile { path: path.clone(), bytes });
            let own = order.directory.join("map.run");
            let Ok(Outcome::Mapped { index, .. }) = supervisor.process().run(order).0 else { panic!("it is no map output") };
            assert_eq!(index, expected.index);
            let (taken, other) = if is_taken { (&file, &own) } else { (&own, &file) };
            assert!(fs::read(taken).unwrap() == run, "{job}: {bytes} bytes");
            assert!(fs::read(other).unwrap_or_default().is_empty(), "{job}: {bytes} bytes");
        }
    }
}

/// The same sources, but for a digest of the last output.
fn with_another_digest(sources: &Path) -> std::path::PathBuf {
    let mut entries: Vec<SourceEntry> = Vec::new();
    let mut from = fs::File::open(sources).unwrap();
    while let Ok(entry) = read_message(&mut from) {
        entries.push(entry);
    }
    entries.last_mut().unwrap().segments[0].digest[15] ^= 1;
    let path = sources.with_extension("other");
    let mut to = fs::File::create(&path).unwrap();
    entries.iter().for_each(|entry| write_message(&mut to, entry).unwrap());
    path
}

#[test]
fn records_to_leave_out_are_set_aside_and_the_rest_is_as_if_they_were_not_there() {
    let place = Place::new();
    let mut lines = lines(60);
    place.write("input", lines.concat());
    let request = RunRequest { max_bad_records: 3, ..request(&place, 100, 2) };
    let mut supervisor = Supervisor::new(&program("word-count"), &place.path("cluster"), &request, &[], Cut { threads: 3, ..WHOLE });
    supervisor.set_aside = [(1, 2), (1, 9), (4, 0)].map(|(shard, record)| SetAside { shard, record }).into();
    let (plan, ..) = supervisor.plan();
    let output = supervisor.map(&plan, 0..6);
    assert_eq!((output.set_aside, output.tally.records), (3, 60));
    let quarantine = fs::read_to_string(supervisor.staged_by(output.attempt).join("quarantine")).unwrap();
    let told: Vec<serde_json::Value> = quarantine.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (told, line) in told.iter().zip([12, 19, 40]) {
        assert_eq!(told["text"].as_str().unwrap(), lines[line].trim_end());
        assert_eq!((told["offset"].as_u64(), told["cause"].as_str()), (Some(line as u64 * 10), Some("it has brought job processes down")));
    }
    assert_eq!(told.len(), 3);
    let (attempt, parts, _) = supervisor.reduce(&plan, &[output], 0..2);
    [40, 19, 12].into_iter().for_each(|line| drop(lines.remove(line)));
    let less = place.write("less", lines.concat());
    let (_, expected) = Job::new("word-count", &place.path("local")).input(less).with("--partitions 2").run().success();
    let parts: Vec<_> = parts.iter().map(|part| fs::read(supervisor.staged_by(attempt).join(&part.name)).unwrap()).collect();
    assert_eq!(parts, expected.parts());
}

#[test]
fn bad_records_lie_in_the_quarantine_of_a_local_run_or_end_the_attempt() {
    let place = Place::new();
    let mut input: Vec<u8> = lines(40).concat().into();
    for line in [3, 17, 18, 31] {
        input[line * 10 + 4] = 0xff;
    }
    place.write("input", input);
    let allowed = RunRequest { max_bad_records: 4, ..request(&place, 100, 2) };
    let mut supervisor = Supervisor::new(&program("word-count"), &place.path("allowed"), &allowed, &[], WHOLE);
    let (plan, ..) = supervisor.plan();
    let outputs = [0..1, 1..4].map(|shards| supervisor.map(&plan, shards));
    let quarantines = outputs.each_ref().map(|output| fs::read_to_string(supervisor.staged_by(output.attempt).join("quarantine")).unwrap());
    let local = Job::new("word-count", &place.path("local")).input(place.path("input")).with("--max-bad-records 4 --shard-bytes 100");
    let (_, local) = local.run().success();
    assert_eq!(quarantines.concat(), fs::read_to_string(local.path.join("_quarantine/records.jsonl")).unwrap());

    let mut strict = Supervisor::new(&program("word-count"), &place.path("strict"), &request(&place, 100, 2), &[], WHOLE);
    let (plan, ..) = strict.plan();
    let order = strict.order(Task::Map(1..4), vec![plan], None);
    let Fault::BadRecord(bad) = strict.process().run(order).0.unwrap_err().fault else { panic!("it is a bad record") };
    let BadRecord { shard, record, offset, file, cause, beginning } = *bad;
    assert_eq!((shard, record, offset, file), (1, 7, 170, place.path("input")));
    assert_eq!(beginning, b"a001\xff b03");
    assert!(cause.contains("not UTF-8"), "{cause}");
    // It can be asked again.
    assert!(matches!(strict.plan(), (..)));
}

#[test]
fn after_a_death_the_slots_name_the_record_or_group_that_was_at_work() {
    let place = Place::new();
    let mut lines = lines(40);
    lines[23] = "!map:gate:m".to_owned() + "\n";
    lines.push("!reduce:gate:r\n".to_owned());
    place.write("input", lines.concat());
    let (map_gate, reduce_gate) = (Gate::close(&place, "m"), Gate::close(&place, "r"));
    let gates = place.path("gates").display().to_string();
    let mut supervisor = Supervisor::new(&program("probe"), &place.path("cluster"), &request(&place, 100, 1), &["--gates", &gates], WHOLE);
    let (plan, facts, _) = supervisor.plan();

    let order = supervisor.order(Task::Map(0..facts.shards), vec![plan.clone()], None);
    let path = order.directory.join(slots::FILE_NAME);
    supervisor.process().say(&ToProcess::Run(order.clone()));
    let reached = map_gate.reached();
    supervisor.process().signal(libc::SIGKILL);
    assert_eq!(supervisor.process().wait(), (None, Some(libc::SIGKILL)));
    assert_eq!(slots::suspects(&path).unwrap(), [Suspect { unit: 2, record: 3, offset: 230 }]);
    drop(reached);
    map_gate.open();

    supervisor.process_died();
    let output = supervisor.map(&plan, 0..facts.shards);
    let sources = supervisor.sources(&[output], 0..1);
    let order = supervisor.order(Task::Reduce(0..1), vec![plan], Some(sources));
    let path = order.directory.join(slots::FILE_NAME);
    supervisor.process().say(&ToProcess::Run(order));
    let reached = reduce_gate.reached();
    supervisor.process().signal(libc::SIGKILL);
    supervisor.process().wait();
    // Orders sort before all words; the one for `map` is a group too.
    assert_eq!(slots::suspects(&path).unwrap(), [Suspect { unit: 0, record: 1, offset: 0 }]);
    drop(reached);
}

#[test]
fn an_attempt_that_ends_in_good_order_leaves_no_suspects() {
    let place = Place::new();
    place.write("input", lines(40).concat());
    let mut supervisor = Supervisor::new(&program("word-count"), &place.path("cluster"), &request(&place, 100, 1), &[], WHOLE);
    let (plan, facts, _) = supervisor.plan();
    let output = supervisor.map(&plan, 0..facts.shards);
    assert_eq!(slots::suspects(&supervisor.directory_of(output.attempt).join(slots::FILE_NAME)).unwrap(), []);
    let names = shardmill_tests::names_in(&supervisor.directory_of(output.attempt));
    assert_eq!(names, ["map.index", "map.run", "slots"], "spilled runs are gone");
}

#[test]
fn a_failed_reduce_names_its_key() {
    let place = Place::new();
    place.write("input", "some words\n!reduce:fail\n");
    let gates = place.path("").display().to_string();
    let mut supervisor = Supervisor::new(&program("probe"), &place.path("cluster"), &request(&place, 100, 1), &["--gates", &gates], WHOLE);
    let (plan, ..) = supervisor.plan();
    let output = supervisor.map(&plan, 0..1);
    let sources = supervisor.sources(&[output], 0..1);
    let fault = reduced(&mut supervisor, &plan, &sources, 1).unwrap_err();
    assert_eq!(fault, Fault::ReduceFailed { key: "\"!reduce:fail\"".to_owned(), cause: "it was told to".to_owned() });
}

#[test]
fn what_is_refused_before_any_work_says_why() {
    let place = Place::new();
    place.write("input", lines(40).concat());
    let refused = |fault: Fault| match fault {
        Fault::Refused { message } => message,
        other => panic!("{other:?} is no refusal"),
    };
    let at = |name: &str, job: &str, request: &RunRequest, parameters: &[&str], cut| {
        Supervisor::new(&program(job), &place.path(name), request, parameters, cut)
    };

    let nothing = RunRequest { inputs: vec![place.path("not-there").display().to_string()], ..request(&place, 100, 1) };
    let mut supervisor = at("nothing", "word-count", &nothing, &[], WHOLE);
    let order = supervisor.order(Task::Draft, vec![], None);
    let message = refused(supervisor.process().run(order).0.unwrap_err().fault);
    assert!(message.contains("no input files match"), "{message}");

    let mut supervisor = at("shape", "aggregate", &request(&place, 100, 1), &["--aggregate", "count()"], WHOLE);
    let order = supervisor.order(Task::Draft, vec![], None);
    let message = refused(supervisor.process().run(order).0.unwrap_err().fault);
    assert!(message.contains("which can be read from"), "{message}");

    let mut supervisor = at("memory", "word-count", &request(&place, 100, 1), &[], WHOLE);
    let (plan, facts, _) = supervisor.plan();
    supervisor.cut = Cut { threads: 3, memory_bytes: 3 * facts.thread_memory_bytes - 1, ..WHOLE };
    let order = supervisor.order(Task::Map(0..4), vec![plan.clone()], None);
    let message = refused(supervisor.process().run(order).0.unwrap_err().fault);
    assert!(message.contains(&format!("at least {} MiB", (3 * facts.thread_memory_bytes) >> 20)), "{message}");
    supervisor.cut.memory_bytes += 1;
    supervisor.map(&plan, 0..4);
}

#[test]
fn inputs_and_staged_files_that_are_not_what_they_were_are_told_apart() {
    let place = Place::new();
    let input = place.write("input", lines(40).concat());
    let mut supervisor = Supervisor::new(&program("word-count"), &place.path("cluster"), &request(&place, 100, 1), &[], WHOLE);
    let (plan, ..) = supervisor.plan();
    // What this process has planned it knows; another one reads the file.
    supervisor.next_process();
    let path = supervisor.staged_by(plan.attempt).join("plan");
    let whole = fs::read(&path).unwrap();
    let fault = |supervisor: &mut Supervisor, shards| {
        let order = supervisor.order(Task::Map(shards), vec![plan.clone()], None);
        supervisor.process().run(order).0.unwrap_err().fault
    };
    fs::write(&path, &whole[1..]).unwrap();
    assert!(matches!(fault(&mut supervisor, 0..4), Fault::DiskFailed { path: of, .. } if of == path));
    fs::write(&path, &whole).unwrap();
    assert!(matches!(fault(&mut supervisor, 3..5), Fault::ProtocolBroken { breach: Breach::Unexpected, .. }), "there are four shards");
    fs::write(&input, "changed\n").unwrap();
    assert_eq!(fault(&mut supervisor, 0..4), Fault::InputChanged { path: input.clone() });
    fs::remove_file(&input).unwrap();
    assert!(matches!(fault(&mut supervisor, 0..4), Fault::InputMissing { path, .. } if path == input));
}

#[test]
fn an_input_that_grows_is_read_as_it_was_listed_where_that_is_allowed() {
    let place = Place::new();
    let text = lines(40).concat();
    let input = place.write("input", &text);
    let request = RunRequest { input_drift: Drift::Warn, ..request(&place, 100, 1) };
    let mut supervisor = Supervisor::new(&program("word-count"), &place.path("cluster"), &request, &[], WHOLE);
    let (plan, ..) = supervisor.plan();
    let before = supervisor.map(&plan, 0..4);
    fs::write(&input, text.clone() + "and more\n").unwrap();
    assert_eq!(supervisor.map(&plan, 0..4).index, before.index);
    fs::write(&input, &text[1..]).unwrap();
    let order = supervisor.order(Task::Map(0..4), vec![plan.clone()], None);
    assert_eq!(supervisor.process().run(order).0.unwrap_err().fault, Fault::InputChanged { path: input.clone() });
}

#[test]
fn a_report_comes_after_all_that_was_told_on_the_way() {
    let place = Place::new();
    let mut lines = lines(40);
    lines[23] = "!map:gate:m".to_owned() + "\n";
    place.write("input", lines.concat());
    let gate = Gate::close(&place, "m");
    let gates = place.path("gates").display().to_string();
    let mut supervisor = Supervisor::new(&program("probe"), &place.path("cluster"), &request(&place, 100, 1), &["--gates", &gates], WHOLE);
    let (plan, facts, _) = supervisor.plan();
    let order = supervisor.order(Task::Map(0..facts.shards), vec![plan], None);
    let attempt = order.attempt;
    supervisor.process().say(&ToProcess::Run(order));
    let reached = gate.reached();
    // It stands still now; that it has moved before is told all the same.
    let FromProcess::Progress(progress) = supervisor.process().hear() else { panic!("nothing was told") };
    assert!(progress.records >= 20 && progress.bytes >= 200 && progress.records < 40, "{progress:?}");
    drop(reached);
    gate.open();
    loop {
        match supervisor.process().hear() {
            FromProcess::Progress(_) => {}
            FromProcess::Done { attempt: of, .. } => break assert_eq!(of, attempt),
            other => panic!("{other:?}"),
        }
    }
}
