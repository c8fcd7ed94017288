//! Jobs on a coordinator that nothing happens to.

use std::collections::BTreeSet;

use shardmill_protocol::rpc::api::{ApiError, CancelAnswer, Program, Role};
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::JobPhase;
use shardmill_protocol::{AttemptId, JobId, Task};

use super::world::{CALL, Player, SmallDisk, World, work_until_end};

#[tokio::test]
async fn a_job_goes_from_submit_to_published_and_nothing_is_left_beside_it() {
    let world = World::new();
    let coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    let mut player = Player::new(1);
    work_until_end(&world, &mut player, job).await;
    world.assert_published("words");
    world.assert_swept();

    let view = client.job(within(CALL), job).await.unwrap().unwrap();
    assert_eq!((view.status.name.as_str(), view.status.phase), ("played", JobPhase::Succeeded));
    assert_eq!(view.status.output, world.path("out").canonicalize().unwrap().join("words").to_str().unwrap());
    assert_eq!(client.find_job(within(CALL), job.to_string()[..24].to_owned()).await.unwrap(), Ok(job));
    assert_eq!(client.jobs(within(CALL), 0).await.unwrap().unwrap().len(), 1);
    assert!(client.jobs(within(CALL), 1).await.unwrap().unwrap().is_empty());
    let workers = client.workers(within(CALL)).await.unwrap().unwrap();
    assert_eq!(workers[0].address, "127.0.0.1:9 (here)");
    drop(coordinator);
}

#[tokio::test]
async fn of_two_jobs_with_one_output_the_second_is_refused_and_names_the_first() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let first = client.submit(within(CALL), world.spec("one", "words")).await.unwrap().unwrap();
    for output in ["words", "words/inner"] {
        match client.submit(within(CALL), world.spec("two", output)).await.unwrap() {
            Err(ApiError::Refused { message }) => assert!(message.contains(&format!("coordinator job {first}")), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    client.submit(within(CALL), world.spec("three", "others")).await.unwrap().unwrap();
}

#[tokio::test]
async fn of_many_submissions_with_one_key_at_once_one_job_comes() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let submit = || {
        let (client, spec) = (client.clone(), world.spec("key", "words"));
        tokio::spawn(async move { client.submit(within(CALL), spec).await.unwrap().unwrap() })
    };
    let mut jobs = BTreeSet::new();
    for submitted in (0..20).map(|_| submit()).collect::<Vec<_>>() {
        jobs.insert(submitted.await.unwrap());
    }
    assert_eq!(jobs.len(), 1);
}

#[tokio::test]
async fn another_submission_under_a_known_key_is_refused() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    let Err(ApiError::Refused { message }) = client.submit(within(CALL), world.spec("key", "others")).await.unwrap() else { panic!() };
    assert!(message.contains("\"key\"") && message.contains(&job.to_string()), "{message}");
    assert_eq!(client.submit(within(CALL), world.spec("key", "words")).await.unwrap(), Ok(job));
}

#[tokio::test]
async fn what_cannot_be_run_or_written_is_refused_at_submit_and_leaves_nothing() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    std::fs::create_dir_all(world.path("out/there")).unwrap();
    let mut not_uploaded = world.spec("one", "words");
    not_uploaded.program = Program::Artifact { digest: Default::default(), bytes: 7 };
    let mut relative = world.spec("two", "words");
    relative.output = "words".into();
    for (spec, why) in [(not_uploaded, "upload it first"), (relative, "no absolute path"), (world.spec("three", "there"), "--overwrite")] {
        match client.submit(within(CALL), spec).await.unwrap() {
            Err(ApiError::Refused { message }) => assert!(message.contains(why), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    world.assert_swept();
}

#[tokio::test]
async fn a_cancelled_job_leaves_nothing_whatever_it_was_at() {
    for last in [None, Some("draft"), Some("survey"), Some("plan"), Some("map"), Some("reduce")] {
        let world = World::new();
        let _coordinator = world.start("--kill 1s");
        let client = world.connect(Role::Submit).await;
        let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
        let mut player = Player::new(1);
        if let Some(last) = last {
            let worker = player.register(&world).await.unwrap();
            player.work(&worker, |task: &Task| task.kind().to_string() == last).await.unwrap();
        }
        assert_eq!(client.cancel(within(CALL), job).await.unwrap(), Ok(CancelAnswer::Cancelling));
        assert_eq!(client.cancel(within(CALL), job).await.unwrap(), Ok(CancelAnswer::Cancelling));
        let status = world.end(&client, job).await;
        assert_eq!(status.phase, JobPhase::Cancelled, "{last:?}");
        world.assert_swept();
        assert!(!world.path("out/words").exists());
        // The name is free again.
        client.submit(within(CALL), world.spec("again", "words")).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn nobody_is_told_of_what_is_not_on_the_disk() {
    let world = World::new();
    let gate = world.path("gate");
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    // The first commit is the epoch's, the second the job's, and the third says how it ended.
    let _coordinator = world.start(&format!("--stand-at before-commit:3:{}", gate.display()));
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    let canceller = client.clone();
    let cancelling = tokio::spawn(async move { canceller.cancel(within(CALL), job).await.unwrap() });
    let standing = tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(gate)).await.unwrap().unwrap();
    let status = client.watch(within(CALL), job, 0).await.unwrap().unwrap();
    assert!(!status.phase.is_final() && !cancelling.is_finished(), "{status:#?}");
    drop(standing);
    assert_eq!(cancelling.await.unwrap(), Ok(CancelAnswer::Cancelling));
    assert_eq!(world.end(&client, job).await.phase, JobPhase::Cancelled);
}

#[tokio::test]
async fn logs_of_job_processes_are_kept_with_their_job() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    let mut player = Player::new(1);
    let worker = player.register(&world).await.unwrap();
    player.work(&worker, |_| true).await.unwrap();
    let (attempt, session) = (player.begun[0].0, player.session());
    worker.log_chunk(within(CALL), session, attempt, b"on stderr\n".to_vec().into()).await.unwrap().unwrap();
    assert_eq!(client.logs(within(CALL), job, Some(attempt), 0).await.unwrap().unwrap(), b"on stderr\n");
    let all = client.logs(within(CALL), job, None, 0).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(all.into_vec()).unwrap(), format!("--- {attempt}\non stderr\n"));
    let unknown = AttemptId { job: JobId(1), ..attempt };
    worker.log_chunk(within(CALL), session, unknown, b"x".to_vec().into()).await.unwrap().unwrap();
    assert_eq!(client.logs(within(CALL), unknown.job, None, 0).await.unwrap().unwrap(), b"");
}

#[tokio::test]
async fn a_draining_worker_finishes_and_gets_nothing_more() {
    let world = World::new();
    let _coordinator = world.start("");
    let client = world.connect(Role::Admin).await;
    let mut player = Player::new(1);
    let worker = player.register(&world).await.unwrap();
    let view = client.workers(within(CALL)).await.unwrap().unwrap().remove(0);
    assert_eq!(client.drain(within(CALL), view.worker.to_string()).await.unwrap(), Ok(view.worker));
    assert!(matches!(client.drain(within(CALL), "zz".to_owned()).await.unwrap(), Err(ApiError::Unknown { .. })));
    let answer = worker.heartbeat(within(CALL), player.session(), vec![]).await.unwrap().unwrap();
    assert!(answer.drain);
    worker.leave(within(CALL), player.session()).await.unwrap().unwrap();
}

#[tokio::test]
async fn on_a_full_disk_no_more_jobs_are_taken_and_those_that_are_there_can_be_cancelled() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.state(), 48) else { return };
    let _coordinator = world.start("--kill 1s");
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("one", "one")).await.unwrap().unwrap();
    let filler = disk.fill();
    // What was taken on can still be ended; its facts take the room that was kept for them.
    assert_eq!(client.cancel(within(CALL), job).await.unwrap(), Ok(CancelAnswer::Cancelling));
    assert_eq!(world.end(&client, job).await.phase, JobPhase::Cancelled);
    match client.submit(within(CALL), world.spec("two", "two")).await.unwrap() {
        Err(ApiError::Unavailable { message }) => assert!(message.contains("full"), "{message}"),
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(filler).unwrap();
    while client.submit(within(CALL), world.spec("three", "three")).await.unwrap().is_err() {}
}
