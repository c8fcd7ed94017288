//! Whole clusters in virtual time, from one seed: messages are lost, doubled and late, workers die, stop and go on, attempts fail in
//! every way, the coordinator dies between any two effects. The state is checked after each step; when the faults are lifted,
//! every job must end.
//!
//! `SHARDMILL_SEED=n` runs one seed, `SHARDMILL_SEEDS=n` as many as that of each kind.

mod actor;
mod chance;
mod cluster;
mod invariants;

use std::collections::BTreeMap;
use std::time::Duration;

use shardmill_protocol::JobId;
use shardmill_protocol::task::SetAside;
use shardmill_protocol::view::JobPhase;

use self::cluster::{Cluster, Model, Weather};
use super::world::{at, submission};
use crate::{Config, Ending, Fact, Failed};

fn model(n: u128, shards: u32, partitions: u32) -> Model {
    let submission = submission(n);
    Model { submission, shards, partitions, surveys: 0, random: false, bad: None, poison: None, rotten: None, submitted: false }
}

/// The seeds to run: those asked for, or the first few.
fn seeds(usual: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SHARDMILL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SHARDMILL_SEEDS").unwrap_or(usual)).collect(),
    }
}

fn start(seed: u64, weather: Weather, models: Vec<Model>) -> Cluster {
    println!("SHARDMILL_SEED={seed}");
    // Where nothing fails nothing is late, and nothing is to be done twice.
    let backup_age = Duration::from_secs(if weather.worker == 0 { 30 } else { 5 });
    let config = Config { kill: Duration::from_secs(5), backup_age, ..Config::default() };
    let mut cluster = Cluster::new(seed, config, 3 + (seed % 4) as usize, weather);
    cluster.jobs = models.into_iter().map(|model| (model.submission.job, model)).collect();
    cluster
}

fn endings(cluster: &Cluster) -> BTreeMap<JobId, Ending> {
    let ended = cluster.journal.iter().filter_map(|(_, fact)| match fact {
        Fact::Ended { job, ending } => Some((*job, ending.clone())),
        _ => None,
    });
    ended.collect()
}

#[test]
fn when_nothing_fails_every_shard_is_mapped_once_and_every_job_succeeds() {
    for seed in seeds(10) {
        let models = vec![Model { surveys: 5, ..model(1, 100, 7) }, model(2, 1, 1), model(3, 0, 1), model(4, 40, 40)];
        let mut cluster = start(seed, Weather::CALM, models);
        cluster.finish(600_000);
        assert!(endings(&cluster).values().all(|ending| *ending == Ending::Succeeded));
        assert!(cluster.mapped.values().all(|times| *times == 1), "I5: {:?}", cluster.mapped);
        assert_eq!(cluster.mapped.len(), 141);
        let status = cluster.scheduler.job_status(JobId(1), at(cluster.now)).unwrap();
        assert_eq!((status.phase, status.retries, status.workers_lost), (JobPhase::Succeeded, 0, 0));
    }
}

#[test]
fn whatever_fails_nothing_untrue_is_told_and_every_job_ends_when_it_is_over() {
    let mut fired: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut ended: BTreeMap<String, u64> = BTreeMap::new();
    for seed in seeds(60) {
        let bad = SetAside { shard: 17, record: 5 };
        let mut lenient = model(2, 30, 3);
        lenient.submission.max_bad_records = 2;
        let models = vec![
            Model { surveys: 4, ..model(1, 400, 9) },
            Model { bad: Some(bad), ..lenient },
            Model { random: true, ..model(3, 80, 4) },
            Model { bad: Some(bad), ..model(4, 30, 2) },
            Model { poison: Some(3), ..model(5, 12, 2) },
            model(6, 50, 60),
            Model { rotten: Some(11), ..model(7, 24, 3) },
        ];
        let mut cluster = start(seed, Weather::STORM, models);
        while cluster.now < 240_000 {
            cluster.step();
        }
        cluster.heal();
        cluster.finish(900_000);
        for (job, ending) in endings(&cluster) {
            let records = &cluster.scheduler.job_view(job, at(cluster.now)).unwrap().set_aside;
            assert!(records.iter().all(|record| *record == bad), "I20: only guilty records are left out, {records:?}");
            match (&ending, job.0 % 1000) {
                (Ending::Failed(failed), 1 | 2 | 6) => {
                    let deterministic = !matches!(**failed, Failed::NotDeterministic { .. } | Failed::TooManyBadRecords { .. });
                    assert!(deterministic, "{job}: {failed:?}");
                }
                (Ending::Succeeded, 4 | 5 | 7) => panic!("job {job} cannot succeed"),
                _ => {}
            }
            let name = match ending {
                Ending::Succeeded => "succeeded".to_owned(),
                Ending::Cancelled => "cancelled".to_owned(),
                Ending::Failed(failed) => format!("{failed:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
            };
            *ended.entry(name).or_default() += 1;
        }
        for (name, times) in &cluster.chance.fired {
            *fired.entry(name).or_default() += times;
        }
    }
    println!("{fired:#?}\n{ended:#?}");
    if std::env::var("SHARDMILL_SEED").is_err() {
        let all = [
            "message lost",
            "message doubled",
            "message late",
            "submit answer lost",
            "grant dropped by its worker",
            "worker killed",
            "worker's disk wiped",
            "worker stopped",
            "requests lost for a while",
            "answers lost for a while",
            "connection lost",
            "output deleted",
            "attempt cannot be killed",
            "coordinator killed",
            "coordinator killed between effects",
            "panicked",
            "signalled",
            "out of memory",
            "stalled",
            "exited without result",
            "protocol broken",
            "disk full",
            "disk failed",
            "spawn failed",
            "artifact damaged",
            "input missing",
            "output unseen",
            "handed back",
            "bad record",
            "poison shard",
            "fetch failed",
            "served bad data",
            "own output damaged",
            "damaged output",
            "cancelled",
            "drained",
            "second job for an output",
        ];
        for name in all {
            assert!(fired.contains_key(name), "{name} was never drawn");
        }
        for name in ["Succeeded", "Cancelled", "Attempt", "NotDeterministic", "Poison", "OutputDamaged"] {
            let name = if name == "Succeeded" || name == "Cancelled" { name.to_lowercase() } else { name.to_owned() };
            assert!(ended.contains_key(&name), "no job has ended with {name}");
        }
    }
}

#[test]
fn when_only_machines_and_the_network_fail_no_job_is_charged() {
    for seed in seeds(30) {
        let mut cluster = start(seed, Weather::NETWORK, vec![Model { surveys: 4, ..model(1, 150, 9) }, model(2, 60, 20)]);
        while cluster.now < 120_000 {
            cluster.step();
        }
        cluster.heal();
        cluster.finish(600_000);
        for (job, ending) in endings(&cluster) {
            let poisoned = matches!(&ending, Ending::Failed(failed) if matches!(**failed, Failed::Poison { .. }));
            assert!(ending == Ending::Succeeded || poisoned, "{job}: {ending:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut cluster = start(seed, Weather::STORM, vec![model(1, 60, 5), model(2, 20, 2)]);
        while cluster.now < 60_000 {
            cluster.step();
        }
        cluster.witness.hash
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
