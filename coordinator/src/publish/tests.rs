//! Publishing, each step repeated as a recovery does it. That a killed coordinator recovers is tested with real processes.

use shardmill_protocol::Epoch;
use tempfile::TempDir;

use super::*;

struct World {
    directory: TempDir,
    publisher: Publisher,
    target: Target,
    accepted: Accepted,
}

const JOB: JobId = JobId(7);

fn attempt(number: u64) -> AttemptId {
    AttemptId { job: JOB, epoch: Epoch(1), number }
}

fn stage(target: &Target, number: u64, name: &str, bytes: &[u8]) -> Input {
    let directory = target.staging().join("attempts").join(attempt(number).directory());
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
    Input { attempt: attempt(number), name: name.to_owned(), digest: Digest::of(bytes) }
}

fn part(name: &str, bytes: &[u8]) -> Part {
    Part { name: name.to_owned(), records: 1, bytes: bytes.len() as u64, digest: Digest::of(bytes) }
}

/// A job that is ready to be published: two parts, and two records set aside.
fn world(overwrite: bool) -> World {
    let directory = tempfile::tempdir().unwrap();
    let claims = directory.path().join("claims");
    fs::create_dir(&claims).unwrap();
    let publisher = Publisher::new(claims, "here".to_owned(), FaultPoint::default());
    let spec = JobSpec {
        key: "key".to_owned(),
        name: "word-count".to_owned(),
        version: "0.1.0".to_owned(),
        program: Program::Bundled("word-count".to_owned()),
        parameters: vec![],
        request: vec![],
        output: directory.path().join("data/out"),
        max_bad_records: 5,
        overwrite,
        durable: true,
    };
    if overwrite {
        fs::create_dir_all(&spec.output).unwrap();
        fs::write(spec.output.join("part-00000.csv"), "old").unwrap();
    }
    let output = publisher.claim(JOB, &spec).unwrap();
    let target = Target { job: JOB, output, spec };

    let inputs = vec![ManifestInput { path: "/in".to_owned(), bytes: 3, modified_ns: 4, head: manifest::Digest([5; 32]) }];
    let plan = stage(&target, 1, "plan", &postcard::to_stdvec(&(&inputs, "the rest is the job's own")).unwrap());
    let line = |shard| format!("{{\"file\":\"/in\",\"shard\":{shard},\"record\":2,\"offset\":9,\"cause\":\"bad\",\"text\":\"x\"}}\n");
    let quarantines = vec![
        (stage(&target, 2, "quarantine", line(0).as_bytes()), 1),
        (stage(&target, 3, "quarantine", [line(1), line(2)].concat().as_bytes()), 2),
    ];
    stage(&target, 4, "part-00000.csv", b"a,1\n");
    stage(&target, 5, "part-00001.csv", b"");
    let parts = vec![(attempt(4), part("part-00000.csv", b"a,1\n")), (attempt(5), part("part-00001.csv", b""))];
    let counters = BTreeMap::from([("lines".to_owned(), 3)]);
    let accepted = Accepted { plan, partitions: 2, parts, quarantines, counters, committed: None };
    World { directory, publisher, target, accepted }
}

impl World {
    fn assemble(&mut self) -> Digest {
        let manifest = self.publisher.assemble(&self.target, &self.accepted).unwrap();
        self.accepted.committed = Some(manifest);
        manifest
    }

    fn reveal(&self) -> Replaced {
        self.publisher.reveal(&self.target, &self.accepted).unwrap()
    }

    fn sweep(&self) {
        self.publisher.sweep(&self.target, false).unwrap();
    }

    fn visible(&self) -> Option<String> {
        fs::read_to_string(self.target.output.join("part-00000.csv")).ok()
    }

    /// Names beside the output, and notes of claims.
    fn left_over(&self) -> usize {
        let beside = fs::read_dir(self.directory.path().join("data")).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "out");
        beside.count() + fs::read_dir(self.directory.path().join("claims")).unwrap().count()
    }
}

#[test]
fn a_job_is_published_with_a_manifest_that_says_what_a_local_run_says() {
    let mut world = world(false);
    let digest = world.assemble();
    assert_eq!(world.visible(), None);
    world.reveal();
    world.sweep();
    assert_eq!(world.visible().as_deref(), Some("a,1\n"));
    assert_eq!(world.left_over(), 0);

    let manifest = Manifest::read(&world.target.output).unwrap();
    assert_eq!(manifest.digest().0, digest.0);
    assert_eq!((manifest.job.as_str(), manifest.version.as_str()), ("word-count", "0.1.0"));
    assert_eq!(manifest.executable_digest, None);
    assert_eq!(manifest.inputs[0].path, "/in");
    assert_eq!(manifest.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["part-00000.csv", "part-00001.csv"]);
    assert_eq!(manifest.counters["lines"], 3);
    assert_eq!(manifest.set_aside.iter().map(|record| record.shard).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((manifest.bad_records, manifest.set_aside[0].cause.as_str()), (3, "bad"));
    let quarantine = fs::read_to_string(world.target.output.join("_quarantine/records.jsonl")).unwrap();
    assert_eq!(quarantine.lines().count(), 3);
}

#[test]
fn every_step_can_be_repeated_and_gives_the_same() {
    for overwrite in [false, true] {
        let mut world = world(overwrite);
        assert_eq!(world.assemble(), world.assemble());
        world.reveal();
        let inode = inode(&world.target.output);
        world.reveal();
        assert_eq!(super::inode(&world.target.output), inode, "what is revealed is left alone");
        assert_eq!(world.visible().as_deref(), Some("a,1\n"));
        world.sweep();
        world.sweep();
        assert_eq!(world.left_over(), 0);
    }
}

#[test]
fn an_output_of_the_same_job_is_replaced_although_its_manifest_is_the_same() {
    let mut world = world(true);
    world.assemble();
    fs::copy(world.target.staging().join("final").join(MANIFEST_NAME), world.target.output.join(MANIFEST_NAME)).unwrap();
    assert_eq!(world.reveal(), Replaced::Exchanged);
    assert_eq!(world.visible().as_deref(), Some("a,1\n"));
}

#[test]
fn what_did_not_reach_the_disk_is_put_together_again_before_it_is_revealed() {
    let mut world = world(false);
    world.assemble();
    let assembled = world.target.staging().join("final");
    fs::write(assembled.join(MANIFEST_NAME), "").unwrap();
    fs::write(world.target.staging().join("quarantine"), "").unwrap();
    world.reveal();
    assert_eq!(Manifest::read(&world.target.output).unwrap().set_aside.len(), 3);
    let quarantine = fs::read_to_string(world.target.output.join("_quarantine/records.jsonl")).unwrap();
    assert_eq!(quarantine.lines().count(), 3);
}

#[test]
fn staged_files_that_are_not_what_was_reported_are_refused_and_named() {
    let damage: [fn(&mut World) -> PathBuf; 5] = [
        |world| staged(&world.target.staging(), &world.accepted.plan),
        |world| staged(&world.target.staging(), &world.accepted.quarantines[1].0),
        |world| world.target.staging().join("attempts/1-4/part-00000.csv"),
        |world| {
            fs::remove_file(world.target.staging().join("attempts/1-5/part-00001.csv")).unwrap();
            world.target.staging().join("attempts/1-5/part-00001.csv")
        },
        |world| {
            world.accepted.parts.pop();
            PathBuf::new()
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let mut world = world(false);
        let path = damage(&mut world);
        if path.exists() {
            fs::write(&path, "something else").unwrap();
        }
        match world.publisher.assemble(&world.target, &world.accepted) {
            Err(AssembleError::Damaged { path: named }) => assert_eq!(named, path),
            Err(AssembleError::Incomplete(text)) => assert_eq!((number, text.as_str()), (4, "1 parts are there of 2")),
            other => panic!("{number}: {other:?}"),
        }
        assert!(world.visible().is_none());
    }
}

#[test]
fn a_manifest_other_than_the_journaled_one_is_not_revealed() {
    let mut world = world(false);
    world.assemble();
    world.accepted.committed = Some(Digest([9; 32]));
    assert!(matches!(world.publisher.reveal(&world.target, &world.accepted), Err(AssembleError::Damaged { .. })));
    assert_eq!(world.visible(), None);
}

#[test]
fn at_a_start_claims_of_jobs_that_are_not_live_are_given_up() {
    let world = world(true);
    let other = JobId(8);
    let spec = JobSpec { output: world.directory.path().join("data/other"), overwrite: false, ..world.target.spec.clone() };
    world.publisher.claim(other, &spec).unwrap();
    fs::write(world.directory.path().join("claims").join(JobId(9).to_string()), "").unwrap();
    world.publisher.give_up_all_but(&BTreeSet::from([JOB])).unwrap();
    assert!(world.target.staging().exists(), "a live job keeps its claim");
    assert!(!Target { job: other, output: spec.output.clone(), spec }.staging().exists());
    world.publisher.give_up_all_but(&BTreeSet::new()).unwrap();
    assert_eq!(world.left_over(), 0);
    assert_eq!(world.visible().as_deref(), Some("old"));
}

#[test]
fn a_claim_that_is_refused_leaves_nothing_and_a_lost_attempt_is_discarded_alone() {
    let world = world(false);
    let refused = world.publisher.claim(JobId(8), &world.target.spec);
    assert!(matches!(refused, Err(AssembleError::Publish(PublishError::Claimed { .. }))), "{refused:?}");
    assert_eq!(fs::read_dir(world.directory.path().join("claims")).unwrap().count(), 1);
    world.publisher.discard(&world.target, attempt(4)).unwrap();
    world.publisher.discard(&world.target, attempt(4)).unwrap();
    let attempts = world.target.staging().join("attempts");
    assert!(!attempts.join("1-4").exists() && attempts.join("1-5").exists());
    world.publisher.sweep(&world.target, true).unwrap();
    assert!(attempts.exists(), "staging is kept to be looked at");
}
