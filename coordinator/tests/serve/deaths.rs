//! The coordinator is killed at every commit of its journal and every step of publishing, or its driver panics, and it is started
//! again.

use std::collections::BTreeSet;

use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::view::JobPhase;

use super::world::{CALL, Lost, Player, World, answered};

/// Runs a job on a coordinator that dies at a place, restarts it, and checks what must hold. False if it did not die.
async fn survives_death_at(place: &str) -> bool {
    let world = World::new();
    let mut coordinator = world.start(&format!("--die-at {place}"));
    let mut player = Player::new(1);
    let (mut job, mut deaths) = (None, 0);
    loop {
        if coordinator.ready.is_none() || coordinator.has_ended() {
            let end = if place.starts_with("event") { Ok(1) } else { Err(libc::SIGKILL) };
            assert_eq!(coordinator.wait(), end, "{place}: {}", world.log());
            deaths += 1;
            coordinator = world.start("");
            assert!(coordinator.ready.is_some(), "{place}: {}", world.log());
        }
        let Some(connection) = world.try_connect(Role::Admin).await else { continue };
        let client = connection.client;
        if job.is_none() {
            match answered(client.submit(within(CALL), world.spec("key", "words")).await) {
                Ok(submitted) => job = Some(submitted),
                Err(Lost) => continue,
            }
        }
        let job = job.unwrap();
        let Ok(worker) = player.register(&world).await else { continue };
        let end = async {
            loop {
                let Ok(status) = answered(client.watch(within(CALL), job, u64::MAX - 1).await) else { return None };
                if status.phase.is_final() {
                    return Some(status);
                }
            }
        };
        tokio::select! {
            worked = player.work(&worker, |_| false) => assert!(matches!(worked, Err(Lost)), "{place}"),
            status = end => if let Some(status) = status {
                assert_eq!(status.phase, JobPhase::Succeeded, "{place}: {status:#?}\n{}", world.log());
                break;
            },
        }
    }
    let job = job.unwrap();
    // It may die while it sweeps.
    while std::fs::exists(world.state().join("claims").join(job.to_string())).unwrap() {
        if coordinator.has_ended() {
            deaths += 1;
            coordinator = world.start("");
        }
        tokio::task::yield_now().await;
    }
    world.assert_published("words");
    // What was accepted is never done again, and what was done and not answered is adopted.
    let mut tasks = BTreeSet::new();
    for (attempt, task) in &player.accepted {
        assert!(tasks.insert(format!("{task}")), "{place}: {task} was accepted twice, again as {attempt}");
    }
    let begun: Vec<String> = player.begun.iter().map(|(_, task)| task.to_string()).collect();
    // A driver may panic when a task is granted and nothing of it is done yet: it is begun anew.
    for task in tasks.iter().filter(|_| !place.starts_with("event")) {
        assert_eq!(begun.iter().filter(|begun| *begun == task).count(), 1, "{place}: {task} was done again: {begun:?}");
    }
    assert!(player.epochs.windows(2).all(|pair| pair[0] <= pair[1]), "{place}: {:?}", player.epochs);
    // With the coordinator gone for good, its state is whole.
    drop(coordinator);
    world.start("");
    world.assert_swept();
    assert!(deaths <= 1, "{place}: {}", world.log());
    deaths == 1
}

/// Has the coordinator die at a place for the first time, for the second, and so on, until it comes there no more.
async fn survives_every_death_at(place: &str, at_least: usize) {
    let mut deaths = 0;
    while survives_death_at(&format!("{place}:{}", deaths + 1)).await {
        deaths += 1;
    }
    assert!(deaths >= at_least, "{place} was reached {deaths} times");
}

#[tokio::test]
async fn killed_before_any_commit_of_the_journal_it_goes_on_after_a_restart() {
    survives_every_death_at("before-commit", 10).await;
}

#[tokio::test]
async fn killed_after_any_commit_of_the_journal_it_goes_on_after_a_restart() {
    survives_every_death_at("after-commit", 10).await;
}

#[tokio::test]
async fn killed_at_any_step_of_publishing_it_goes_on_after_a_restart() {
    for (place, times) in [("claimed", 1), ("linking", 4), ("assembled", 1), ("revealing", 1), ("revealed", 1), ("swept", 1)] {
        survives_every_death_at(place, times).await;
    }
}

#[tokio::test]
async fn a_driver_that_panics_ends_the_process_with_an_error_and_a_restart_goes_on() {
    let mut panics = 0;
    while survives_death_at(&format!("event:{}", 1 << panics)).await {
        panics += 1;
    }
    assert!(panics >= 5, "the driver has panicked {panics} times");
}
