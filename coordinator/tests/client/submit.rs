//! Submitting: what is checked before, what is sent, and what is sent again.

use std::path::Path;

use shardmill_datasets::RunRequest;
use shardmill_protocol::Digest;
use shardmill_protocol::rpc::api::{ApiError, CHUNK_BYTES, Program};
use shardmill_protocol::view::JobPhase;

use crate::fake::{Fake, JOB, Running, job_executable, status};
use crate::{ended, out};

/// The arguments of a submission that is in order.
fn arguments<'a>(fake: &Fake, job: &'a Path, more: &[&'a str]) -> Vec<String> {
    let input = fake.write("in.txt", b"a\n");
    let mut arguments = vec!["submit".to_owned(), job.display().to_string()];
    arguments.extend(["--input".to_owned(), input.display().to_string()]);
    arguments.extend(["--output".to_owned(), fake.path("out").display().to_string()]);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

fn submit(fake: &Fake, more: &[&str]) -> std::process::Output {
    let arguments = arguments(fake, job_executable(), more);
    fake.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap()
}

#[test]
fn a_detached_submission_prints_the_id_alone_and_tells_the_coordinator_all_there_is() {
    let fake = Fake::start();
    let told = submit(&fake, &["--detach", "--max-bad-records", "7", "--overwrite", "--partitions", "3", "--", "--lowercase", "two words"]);
    assert_eq!(ended(&told, 0), "");
    assert_eq!(out(&told), format!("{JOB}\n"));

    let executable = std::fs::read(job_executable()).unwrap();
    let world = fake.world.told.lock().unwrap();
    let spec = &world.specs[0];
    assert_eq!((spec.name.as_str(), spec.version.as_str()), ("fake", "1.2"));
    assert_eq!(spec.program, Program::Artifact { digest: Digest::of(&executable), bytes: executable.len() as u64 });
    assert_eq!(spec.parameters, ["--lowercase", "two words"]);
    assert_eq!((spec.max_bad_records, spec.overwrite, spec.durable), (7, true, true));
    assert_eq!(spec.output, fake.path("out"));
    let request: RunRequest = postcard::from_bytes(&spec.request).unwrap();
    assert_eq!(request.inputs, [fake.path("in.txt").to_str().unwrap()]);
    assert_eq!((request.partitions, request.overwrite), (Some(3), true));
    assert_eq!(world.artifacts[&Digest::of(&executable)], executable);
}

#[test]
fn an_executable_is_uploaded_once_and_from_where_an_upload_has_ended() {
    let fake = Fake::start();
    let executable = std::fs::read(job_executable()).unwrap();
    let digest = Digest::of(&executable);
    assert!(executable.len() > CHUNK_BYTES, "it would be one chunk");
    let chunks = |fake: &Fake| std::mem::take(&mut fake.world.told.lock().unwrap().chunks);

    fake.world.told.lock().unwrap().artifacts.insert(digest, executable[..1000].to_vec());
    ended(&submit(&fake, &["--detach"]), 0);
    let sent = chunks(&fake);
    assert_eq!(sent[0], (1000, CHUNK_BYTES.min(executable.len() - 1000), executable.len() - 1000 <= CHUNK_BYTES));
    assert_eq!(sent.iter().map(|(_, length, _)| length).sum::<usize>(), executable.len() - 1000);
    assert!(sent.iter().rev().skip(1).all(|(_, length, last)| *length == CHUNK_BYTES && !last) && sent.last().unwrap().2);
    assert_eq!(fake.world.told.lock().unwrap().artifacts[&digest], executable);

    // All is there; the coordinator is only asked to have looked at it.
    ended(&submit(&fake, &["--detach"]), 0);
    assert_eq!(chunks(&fake), [(executable.len() as u64, 0, true)]);

    // What is there is something else: it is said, and nothing is submitted.
    fake.world.told.lock().unwrap().artifacts.insert(digest, vec![0; 1000]);
    fake.world.told.lock().unwrap().specs.clear();
    let told = ended(&submit(&fake, &["--detach"]), 4);
    assert!(told.contains("do not have the digest"), "{told}");
    assert!(fake.world.told.lock().unwrap().specs.is_empty());
}

#[test]
fn keys_are_the_users_or_new_each_time() {
    let fake = Fake::start();
    for more in [&["--detach"][..], &["--detach"], &["--detach", "--key", "mine"], &["--detach", "--key", "mine"]] {
        ended(&submit(&fake, more), 0);
    }
    let keys: Vec<String> = fake.world.told.lock().unwrap().specs.iter().map(|spec| spec.key.clone()).collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[2..], ["mine", "mine"]);
}

#[test]
fn a_submission_whose_answer_is_lost_is_repeated_with_the_same_key() {
    let mut fake = Fake::start();
    fake.world.told.lock().unwrap().unanswered = 1;
    let arguments = arguments(&fake, job_executable(), &["--detach"]);
    let running = Running::start(fake.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    while fake.world.told.lock().unwrap().specs.is_empty() {
        std::thread::yield_now();
    }
    // The coordinator dies with the answer, and comes back somewhere else.
    fake.fall();
    fake.stand();
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    let world = fake.world.told.lock().unwrap();
    assert_eq!(world.specs.len(), 2);
    assert_eq!(world.specs[0], world.specs[1]);
}

#[test]
fn what_is_wrong_is_found_before_anything_is_uploaded() {
    let fake = Fake::start();
    std::fs::create_dir(fake.path("exists")).unwrap();
    let input = fake.write("in.txt", b"a\n").display().to_string();
    let (missing, out, exists) =
        (fake.path("missing.txt").display().to_string(), fake.path("out").display().to_string(), fake.path("exists").display().to_string());
    let job = job_executable().to_str().unwrap();
    let script = fake.write("script", b"#!/bin/sh\necho a script long enough for a header\n").display().to_string();
    let empty = fake.write("empty", b"").display().to_string();
    let cases: [(&[&str], &str); 11] = [
        (&[job, "--input", &missing, "--output", &out], "missing.txt"),
        (&[job, "--input", &input], "--output"),
        (&[job, "--output", &out], "--input"),
        (&[job, "--input", &input, "--output", &exists], "--overwrite"),
        (&[job, "--input", &input, "--output", &out, "--", "--bad"], "there is no parameter --bad"),
        (&[&script, "--input", &input, "--output", &out], "scripts"),
        (&[&empty, "--input", &input, "--output", &out], "too short"),
        (&["/usr/bin/env", "--input", &input, "--output", &out], "does not describe itself as a job"),
        (&["./nothing", "--input", &input, "--output", &out], "neither a crate's directory nor an executable"),
        (&["no-such-job", "--input", &input, "--output", &out], "no-such-job"),
        (&[job, "--bin", "x", "--input", &input, "--output", &out], "--bin is for crates"),
    ];
    for (arguments, piece) in cases {
        let told = ended(&fake.command(&[&["submit"], arguments].concat()).output().unwrap(), 2);
        assert!(told.contains(piece), "{piece} in {told}");
    }
    let world = fake.world.told.lock().unwrap();
    assert!(world.chunks.is_empty() && world.specs.is_empty());
}

#[test]
fn a_job_that_is_asked_for_its_help_gives_it_and_is_not_submitted() {
    let fake = Fake::start();
    for more in [&["--", "--help"][..], &["--detach", "--", "--help"]] {
        let told = submit(&fake, more);
        assert_eq!(ended(&told, 0), "");
        assert_eq!(out(&told), "parameters: --bad\n");
    }
    let world = fake.world.told.lock().unwrap();
    assert!(world.chunks.is_empty() && world.specs.is_empty());
}

#[test]
fn a_refusal_by_the_coordinator_is_shown_as_it_is() {
    let fake = Fake::start();
    let message = "output /out is being written by job 7".to_owned();
    fake.world.told.lock().unwrap().refusal = Some(ApiError::Refused { message: message.clone() });
    let told = ended(&submit(&fake, &[]), 4);
    assert_eq!(told, format!("error: {message}\n"));
}

#[test]
fn a_job_that_had_ended_under_its_key_is_reported_at_once_even_though_its_output_exists() {
    let fake = Fake::start();
    std::fs::create_dir(fake.path("out")).unwrap();
    fake.set(status(JOB, JobPhase::Succeeded, 5));
    let told = submit(&fake, &["--key", "mine"]);
    assert!(ended(&told, 0).contains("records 10 in, 3 groups, 3 rows out"));
}
