//! Workers that lack something: room on their disk, descriptors, or the power to kill.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, WorkerState};
use shardmill_tests::cluster::Worker;
use shardmill_tests::{Disk, Place, limit_open_files, wait_until};

use crate::world::{CUT, ONE_THREAD, World, attempt_in, fault_of, text_with};

/// A worker whose directory lies on a disk of 128 MiB.
fn worker_on(disk: &Disk, world: &World<'_>, name: &str) -> Worker {
    fs::create_dir(disk.path().join(name)).unwrap();
    std::os::unix::fs::symlink(disk.path().join(name), world.place.path(name)).unwrap();
    world.worker(name)
}

#[test]
fn a_map_attempt_that_fills_the_disk_is_done_elsewhere_and_its_worker_lives() {
    let Some(disk) = Disk::mount("size=128m") else { return };
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let mut first = worker_on(&disk, &world, "first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let hit = world.running(job, TaskKind::Map);
    let filler = disk.fill();
    gate.open();
    drop(reached);
    let failed = |attempt: &AttemptView| attempt.attempt == hit.attempt && attempt.state == AttemptState::Failed;
    world.cluster.until_attempt(job, "there is no room to seal it", failed);
    let mut second = world.worker("second");
    let view = world.succeeds_with(job, &text);
    assert_eq!(fault_of(&view, &hit), Some("disk full"));
    assert!(view.phases.iter().all(|phase| phase.charges.is_empty()), "it is not the shards' fault: {view:#?}");
    // With room again, it is as good as any.
    assert!(!first.process().has_ended());
    fs::remove_file(filler).unwrap();
    second.process().kill();
    fs::remove_dir_all(place.path("out/words")).unwrap();
    let job = world.submit(&text_with(&[]), CUT);
    world.succeeds_with(job, &text_with(&[]));
}

#[test]
fn a_worker_without_room_reduces_nothing_and_still_serves_what_it_has_mapped() {
    let Some(disk) = Disk::mount("size=128m") else { return };
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("reduce");
    let text = text_with(&[(60, "!reduce:gate:reduce")]);
    let mut first = worker_on(&disk, &world, "first");
    let job = world.submit(&text, "--shard-bytes 64 --partitions 30");
    let reached = gate.reached();
    disk.fill();
    gate.open();
    drop(reached);
    let full = |attempt: &AttemptView| {
        let fault = attempt.failure.as_ref().map(|failure| failure.fault.kind());
        attempt.worker == first.id() && attempt.task.kind() == TaskKind::Reduce && fault == Some("disk full")
    };
    world.cluster.until_attempt(job, "there is no room for the next reduce task", full);
    let second = world.cluster.worker("second", &format!("{ONE_THREAD} --fetch-always"));
    let view = world.succeeds_with(job, &text);
    assert!(!first.process().has_ended());
    assert!(view.lost.is_empty(), "{:?}", view.lost);
    assert!(view.attempts.iter().any(|attempt| attempt.worker == second.id() && attempt.state == AttemptState::Accepted));
}

#[test]
fn a_worker_with_few_descriptors_that_strangers_have_used_up_works_on_when_they_go() {
    let place = Place::new();
    let world = World::new(&place);
    let few = |name: &str, flags: &str| {
        world.cluster.worker_with(name, &format!("{ONE_THREAD} {flags}"), |command| limit_open_files(command, 64))
    };
    let mut first = few("first", "");
    let view = world.cluster.workers().into_iter().find(|view| view.worker == first.id()).unwrap();
    let address = view.address.split(' ').next().unwrap().to_owned();
    let strangers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    wait_until("it can accept no more", || first.process().told().contains("cannot accept a connection"));
    drop(strangers);
    // All is mapped by the first, and the second has to fetch it from there.
    let gate = world.gate("last");
    let text = text_with(&[(119, "!map:gate:last")]);
    let job = world.submit(&text, "--shard-bytes 64 --partitions 30");
    let reached = gate.reached();
    let second = few("second", "--fetch-always");
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    let of_second = |attempt: &&AttemptView| attempt.worker == second.id() && attempt.state == AttemptState::Accepted;
    assert!(view.attempts.iter().filter(of_second).any(|attempt| attempt.task.kind() == TaskKind::Reduce), "{view:#?}");
    assert!(view.lost.is_empty(), "{:?}", view.lost);
}

/// A control group whose processes stand still: even SIGKILL ends them only when they are let go, as it is with a read from a disk
/// that never answers.
struct Frozen(PathBuf);

impl Frozen {
    /// Freezes processes, or says on stderr why the test that wants it is skipped.
    fn freeze(processes: &[u32]) -> Option<Self> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/freezer/shardmill-test-{}", std::process::id()));
        if fs::create_dir(&group).is_err() {
            eprintln!("skipped: there is no freezer for control groups, or no right to use it");
            return None;
        }
        let frozen = Self(group);
        for process in processes {
            fs::write(frozen.0.join("cgroup.procs"), process.to_string()).unwrap();
        }
        fs::write(frozen.0.join("freezer.state"), "FROZEN").unwrap();
        wait_until("they stand still", || fs::read_to_string(frozen.0.join("freezer.state")).unwrap().trim() == "FROZEN");
        Some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
        wait_until("the killed ones are gone", || fs::remove_dir(&self.0).is_ok());
    }
}

/// Processes whose executable lies in a directory.
fn processes_from(directory: &Path) -> Vec<u32> {
    let is_one = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.starts_with(directory));
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_one).collect()
}

#[test]
fn a_worker_whose_job_process_cannot_be_killed_says_so_and_leaves_and_the_task_goes_elsewhere() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let mut first = world.cluster.worker("first", &format!("{ONE_THREAD} --stall-after 1s --kill-after 200ms --unkillable-after 500ms"));
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let hit = world.running(job, TaskKind::Map);
    let processes = processes_from(&first.directory().canonicalize().unwrap().join("artifacts"));
    assert_eq!(processes.len(), 1, "a job has one process");
    let Some(frozen) = Frozen::freeze(&processes) else { return };
    let _second = world.worker("second");
    assert_eq!(first.process().wait(), Some(0), "{}", first.process().told());
    world.cluster.until_worker(first.id(), WorkerState::Gone);
    assert!(first.process().told().contains("a job process cannot be killed; this worker takes no more tasks"));
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    assert_eq!((attempt_in(&view, &hit).state, fault_of(&view, &hit)), (AttemptState::Failed, Some("stalled")));
    drop(frozen);
}
