//! Starting, stopping, and what is still known afterwards.

use std::os::unix::ffi::OsStrExt;

use shardmill_protocol::rpc::api::{ApiError, CancelAnswer, Role};
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::JobPhase;

use super::world::{CALL, Player, World, work_until_end};

#[tokio::test]
async fn an_ended_job_is_still_known_after_a_restart_by_id_and_by_key() {
    let world = World::new();
    let coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    assert_eq!(client.submit(within(CALL), world.spec("key", "words")).await.unwrap(), Ok(job), "the key decides");
    let mut player = Player::new(1);
    work_until_end(&world, &mut player, job).await;
    assert_eq!(coordinator.stop(libc::SIGTERM), Some(0));

    let coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    assert_eq!(client.submit(within(CALL), world.spec("key", "words")).await.unwrap(), Ok(job));
    let view = client.job(within(CALL), job).await.unwrap().unwrap();
    assert_eq!((view.status.name.as_str(), view.status.phase), ("played", JobPhase::Succeeded));
    assert_eq!(view.phases.len(), 5, "{view:#?}");
    assert_eq!(client.watch(within(CALL), job, 0).await.unwrap().unwrap().phase, JobPhase::Succeeded);
    assert_eq!(client.cancel(within(CALL), job).await.unwrap(), Ok(CancelAnswer::Ended));
    assert_eq!(client.find_job(within(CALL), job.to_string()[..24].to_owned()).await.unwrap(), Ok(job));
    let worker = world.connect(Role::Worker).await;
    assert_eq!(worker.ended(within(CALL), vec![job]).await.unwrap(), Ok(vec![job]));
    // Facts that have become history leave their numbers used.
    let next = client.submit(within(CALL), world.spec("next", "others")).await.unwrap().unwrap();
    work_until_end(&world, &mut player, next).await;
    world.assert_published("others");
    assert_eq!(client.jobs(within(CALL), 0).await.unwrap().unwrap().iter().map(|status| status.job).collect::<Vec<_>>(), [next, job]);
    drop(coordinator);
}

#[tokio::test]
async fn an_output_of_a_coordinator_that_lost_its_state_is_free_when_what_the_refusal_names_is_removed() {
    let world = World::new();
    let coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let lost = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    coordinator.kill();
    let state = world.state().canonicalize().unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    let _coordinator = world.start("");
    let client = world.connect(Role::Submit).await;
    let Err(ApiError::Refused { message }) = client.submit(within(CALL), world.spec("key", "words")).await.unwrap() else { panic!() };
    let out = world.path("out").canonicalize().unwrap();
    let (claim, staging) = (out.join(".words.shardmill-claim"), out.join(format!(".words.shardmill-{lost}")));
    for part in [format!("job {lost} of coordinator"), format!("{state:?}"), claim.display().to_string(), staging.display().to_string()] {
        assert!(message.contains(&part), "{part}: {message}");
    }
    std::fs::remove_file(claim).unwrap();
    std::fs::remove_dir_all(staging).unwrap();
    let job = client.submit(within(CALL), world.spec("key", "words")).await.unwrap().unwrap();
    work_until_end(&world, &mut Player::new(1), job).await;
    world.assert_published("words");
    world.assert_swept();
}

#[tokio::test]
async fn a_state_directory_whose_name_is_no_text_is_as_good_as_any() {
    let world = World::new();
    let named = world.state().with_file_name(std::ffi::OsStr::from_bytes(b"no-\xff-text"));
    std::fs::create_dir(&named).unwrap();
    std::os::unix::fs::symlink(&named, world.state()).unwrap();
    let mut player = Player::new(1);
    for output in ["words", "others"] {
        let coordinator = world.start("");
        let client = world.connect(Role::Submit).await;
        let job = client.submit(within(CALL), world.spec(output, output)).await.unwrap().unwrap();
        work_until_end(&world, &mut player, job).await;
        world.assert_published(output);
        assert_eq!(coordinator.stop(libc::SIGTERM), Some(0));
    }
    assert!(named.join("journal.redb").exists());
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_state_is_refused_with_the_pid_of_the_first() {
    let world = World::new();
    let first = world.start("");
    let second = world.start("");
    assert!(second.ready.is_none());
    assert_eq!(second.wait(), Ok(4));
    assert!(world.log().contains(&format!("in use by the coordinator with process id {}", first.id())), "{}", world.log());
}

#[tokio::test]
async fn every_start_is_an_epoch_of_its_own_and_secrets_stay() {
    let world = World::new();
    let mut player = Player::new(1);
    let join = || std::fs::read_to_string(world.state().join("worker.join")).unwrap();
    let mut before = None;
    for epoch in 1..=3 {
        let coordinator = world.start("");
        player.register(&world).await.unwrap();
        assert_eq!(player.epochs.last().unwrap().0, epoch);
        let now = join();
        assert!(before.is_none_or(|before| before == now), "secret, fingerprint and even the port are the same");
        before = Some(now);
        coordinator.kill();
    }
}

#[tokio::test]
async fn sigterm_stops_it_gracefully() {
    let world = World::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        assert_eq!(world.start("").stop(signal), Some(0));
    }
}

#[tokio::test]
async fn a_damaged_journal_is_refused_with_what_to_do() {
    let world = World::new();
    world.start("").kill();
    let journal = world.state().join("journal.redb");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 1);
    std::fs::write(&journal, bytes).unwrap();
    assert_eq!(world.start("").wait(), Ok(78));
    assert!(world.log().contains("is damaged") && world.log().contains("Restore it from a copy"), "{}", world.log());
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_and_changes_nothing() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = world.start(&format!("--listen {}", taken.local_addr().unwrap()));
    assert_eq!(refused.wait(), Ok(2));
    assert!(world.log().contains("choose another address"), "{}", world.log());
    assert!(!world.state().join("worker.join").exists());
}
