//! A machine joins with one copied file, and whoever has none of the right ones stays outside.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddrV4;

use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, JobView};
use shardmill_protocol::{Digest, WorkerId};
use shardmill_tests::{Job, Output, Place, names_in, program};

use crate::capture::Capture;
use crate::machines::Network;
use crate::site::{CUT, Shared, Site, stderr};

#[test]
fn a_job_on_machines_that_share_no_disk_gives_the_bytes_of_a_local_run() {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [_, second, third] = &network.machines;
    let site = Site::start(&place, &network);
    let address = third.address.to_string();
    let _workers = [site.worker(second, &[]), site.worker(third, &["--listen", &format!("{address}:0"), "--advertise", address.as_str()])];
    let words: Vec<String> = (0..40_000).map(|at| format!("word{:x}", at % 30_000 * 7_919)).collect();
    let (shared, text) = Shared::among(&place, &words);
    let capture = Capture::begin(&network);
    let job = site.submit(third, &text);
    shared.pass(|| ());
    let view = site.succeeds(third, job);
    let heard = capture.end(second, third);

    let parts = Output::whole(&place.path("out/words")).parts();
    let local = Job::of(&program("probe"), &place.path("local")).input(place.path("in/text.txt")).with(CUT);
    assert!(parts == local.run().success().1.parts());
    assert_eq!(names_in(&place.path("out")), ["words"]);

    // Each is known by the address of its machine, and has served to the other one what that has reduced: for each at least one task
    // of either kind, which is more than a hundredth of all.
    let workers = site.workers(third);
    assert_eq!(workers.values().map(SocketAddrV4::ip).collect::<BTreeSet<_>>(), [&second.address, &third.address].into());
    for (worker, address) in &workers {
        assert!(did(&view, *worker, TaskKind::Map) > 0 && did(&view, *worker, TaskKind::Reduce) > 0, "{view:#?}");
        let to = if *address.ip() == second.address { third } else { second };
        let (bytes, all) = (heard.bytes(*address, to.address), view.status.shuffle_bytes);
        assert!(bytes as u64 > all / 128, "{bytes} of {all} bytes went from {address} to {}", to.address);
    }
}

/// How many attempts of a kind count that a worker has run.
fn did(view: &JobView, worker: WorkerId, kind: TaskKind) -> usize {
    let of_worker = view.attempts.iter().filter(|attempt| attempt.worker == worker && attempt.task.kind() == kind);
    of_worker.filter(|attempt| attempt.state == AttemptState::Accepted).count()
}

#[test]
fn a_worker_that_expects_another_coordinator_and_clients_that_may_not_submit_are_turned_away() {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [_, second, third] = &network.machines;
    let site = Site::start(&place, &network);

    let mut worker = site.worker_command(second);
    let other = JoinFile { fingerprint: Digest::of(b"another certificate"), ..site.join(Role::Worker) };
    second.inside(|| other.write(&second.path("worker.join"))).unwrap();
    let told = worker.output().unwrap();
    assert_eq!(told.status.code(), Some(4), "{}", stderr(&told));
    assert!(stderr(&told).contains("is not the coordinator that the join file is of"), "{}", stderr(&told));

    let mut stranger = site.submission(third, Role::Submit, "a b a\n");
    let wrong = JoinFile { secret: Secret::random().unwrap(), ..site.join(Role::Submit) };
    third.inside(|| wrong.write(&third.path("submit.join"))).unwrap();
    let told = stranger.output().unwrap();
    assert_eq!(told.status.code(), Some(4), "{}", stderr(&told));

    let mut without = site.submission(third, Role::Submit, "a b a\n");
    third.inside(|| {
        let join = third.path("submit.join");
        let text = fs::read_to_string(&join).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("secret")).collect();
        fs::write(&join, kept.join("\n")).unwrap();
    });
    let told = without.output().unwrap();
    assert_eq!(told.status.code(), Some(2), "{}", stderr(&told));
    assert!(stderr(&told).contains("it has no secret"), "{}", stderr(&told));

    let told = site.submission(third, Role::Read, "a b a\n").output().unwrap();
    assert_eq!(told.status.code(), Some(4), "{}", stderr(&told));
    assert!(stderr(&told).contains("submit.join"), "{}", stderr(&told));

    // Nobody has joined, and nothing was taken on or claimed.
    assert_eq!(site.workers(third).len(), 0);
    let jobs = site.client(third, Role::Read, "jobs").args(["--format", "json"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&jobs.stdout).trim(), "[]");
    assert_eq!(names_in(&place.path("out")), [""; 0]);
}
