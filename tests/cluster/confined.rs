//! What a job process finds around itself: limits, what it needs, and nothing of its worker's.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_tests::cluster::{Cluster, Worker, capability_of};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Place, contains};

use crate::parallel::{counts, naive, submit};

/// What may stand in a job process's environment.
const ENVIRONMENT: [&str; 6] = ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "RUST_BACKTRACE"];
/// A piece of memory that is looked at, and by how much two pieces overlap: more than a secret in digits.
const PIECE_BYTES: u64 = 1 << 20;
const OVERLAP_BYTES: u64 = 128;

#[test]
fn a_job_process_has_limits_a_clean_environment_and_no_descriptor_and_no_secret_of_its_workers() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let mut worker = cluster.worker("worker", "--threads 1 --memory 128MiB");
    let gate = Gate::close(&place, "held");
    let text = "!map:gate:held a b\n";
    let job = submit(&cluster, &place, "out", text, "");
    let reached = gate.reached();
    let process = job_process(&worker);

    let status = read(process, "status");
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    assert_eq!(limit(process, "Max core file size"), Some(0));
    assert!(limit(process, "Max open files").is_some_and(|files| files <= 1 << 16));
    assert!(limit(process, "Max processes").is_some_and(|processes| processes <= 1 << 12));

    let is_clean = |name: &String| ENVIRONMENT.contains(&name.as_str());
    let environment = names(process);
    assert!(environment.iter().all(is_clean), "{environment:?}");
    assert!(!names(worker.process().number()).iter().all(is_clean), "there was nothing to be cleaned");

    let descriptors = descriptors(process);
    let kinds: Vec<&str> = descriptors.iter().take(4).map(|(_, target)| target.split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["/dev/null", "pipe", "pipe", "socket"], "{descriptors:?}");
    // What else there is, it has opened itself: input, gate, and what it makes.
    let places = [place.path("in-out"), place.path("gates"), worker.directory().join("jobs")];
    let others = &descriptors[4..];
    assert!(others.iter().all(|(_, target)| places.iter().any(|place| Path::new(target).starts_with(place))), "{others:?}");

    let join = |role: Role| JoinFile::read(&cluster.state().join(JoinFile::name(role))).unwrap();
    let capability = capability_of(&join(Role::Worker), job);
    let secrets: Vec<Secret> = Role::ALL.iter().map(|role| join(*role).secret).chain([capability]).collect();
    let known = |pid: u32| known_to(pid, &secrets);
    assert_eq!(known(process), [false; 5]);
    let workers = known(worker.process().number());
    let of_role = |wanted: Role| Role::ALL.iter().position(|role| *role == wanted).unwrap();
    assert!(workers[of_role(Role::Worker)] && workers[4], "what a worker knows would be found: {workers:?}");

    gate.open();
    drop(reached);
    assert_eq!(counts(&cluster.success(job).1), naive(text));
}

/// The job process of a worker that runs an executable which was uploaded.
fn job_process(worker: &Worker) -> u32 {
    let artifacts = worker.directory().join("artifacts");
    let is_one = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.starts_with(&artifacts));
    let mut pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(is_one).unwrap()
}

fn read(pid: u32, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{name}")).unwrap()).into_owned()
}

/// The hard limit of this name; nothing if there is none.
fn limit(pid: u32, name: &str) -> Option<u64> {
    let limits = read(pid, "limits");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().ok()
}

/// The names in a process's environment.
fn names(pid: u32) -> Vec<String> {
    read(pid, "environ").split_terminator('\0').map(|pair| pair.split('=').next().unwrap().to_owned()).collect()
}

/// A process's descriptors with what they are, in order.
fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let target = |entry: fs::DirEntry| {
        Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
    };
    let mut descriptors: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| target(entry.unwrap())).collect();
    descriptors.sort();
    descriptors
}

/// Which of these secrets are anywhere in a process's memory, as bytes or as digits.
fn known_to(pid: u32, secrets: &[Secret]) -> Vec<bool> {
    let mut known = vec![false; secrets.len()];
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut piece = vec![0; (PIECE_BYTES + OVERLAP_BYTES) as usize];
    let zeroes = piece.clone();
    for line in read(pid, "maps").lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !rights.starts_with('r') {
            continue;
        }
        for at in (start..end).step_by(PIECE_BYTES as usize) {
            let length = piece.len().min((end - at) as usize);
            // Some pages of the kernel's own cannot be read.
            let Ok(read) = memory.read_at(&mut piece[..length], at) else { continue };
            let bytes = &piece[..read];
            // Most of what is set aside was never written to.
            if bytes == &zeroes[..read] {
                continue;
            }
            for (secret, known) in secrets.iter().zip(&mut known) {
                *known = *known || contains(bytes, secret.expose()) || contains(bytes, secret.expose_hex().as_bytes());
            }
        }
    }
    known
}
