//! A coordinator on the first machine, and what is done with it from the others.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Command, Output as Told};

use serde::de::DeserializeOwned;
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::join::{JoinFile, write_private};
use shardmill_protocol::view::{JobView, WorkerView};
use shardmill_protocol::{JobId, WorkerId};
use shardmill_tests::cluster::Process;
use shardmill_tests::gate::{Gate, Reached};
use shardmill_tests::{Place, program, wait_until};

use crate::machines::{Machine, Network};

/// Small shards, several partitions.
pub(crate) const CUT: &str = "--shard-bytes 16KiB --partitions 16";
/// Gates in each phase of a job whose work two workers share.
const GATES: usize = 16;

/// A cluster on machines.
pub(crate) struct Site<'n> {
    pub(crate) place: &'n Place,
    network: &'n Network,
    coordinator: Process,
}

impl<'n> Site<'n> {
    /// Starts a coordinator on the first machine, and waits until it listens.
    pub(crate) fn start(place: &'n Place, network: &'n Network) -> Self {
        for name in ["in", "out", "gates"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        let home = &network.machines[0];
        let mut command = home.command(program("coordinator"));
        // How large tasks are is not to hang on the pace of the machine.
        command.args(["serve", "--lease", "3s", "--least-task", "0s", "--listen"]).arg(format!("{}:0", home.address));
        command.arg("--state").arg(home.path("state"));
        let coordinator = Process::start(command, &place.path("coordinator.log"));
        let mut site = Self { place, network, coordinator };
        let coordinator = &mut site.coordinator;
        home.inside(|| {
            wait_until("the coordinator listens", || {
                assert!(!coordinator.has_ended(), "the coordinator ended: {}", coordinator.told());
                Role::ALL.iter().all(|role| home.path("state").join(JoinFile::name(*role)).exists())
            });
        });
        site
    }

    /// A role's join file, as the coordinator has written it.
    pub(crate) fn join(&self, role: Role) -> JoinFile {
        let home = &self.network.machines[0];
        home.inside(|| JoinFile::read(&home.path("state").join(JoinFile::name(role)))).unwrap()
    }

    /// Copies a role's join file to a machine, where nothing else is known of the coordinator.
    pub(crate) fn carry(&self, role: Role, machine: &Machine) -> PathBuf {
        let (home, name) = (&self.network.machines[0], JoinFile::name(role));
        let file = home.inside(|| fs::read(home.path("state").join(&name))).unwrap();
        machine.inside(|| write_private(&machine.path(&name), &file)).unwrap();
        machine.path(&name)
    }

    /// The command that starts a worker of one thread on a machine, from a copy of the join file.
    pub(crate) fn worker_command(&self, machine: &Machine) -> Command {
        let join = self.carry(Role::Worker, machine);
        let mut command = machine.command(program("worker"));
        command.arg("--join").arg(join).arg("--dir").arg(machine.path("worker")).args(["--threads", "1", "--memory", "128MiB"]);
        command
    }

    /// Starts a worker on a machine, with more flags.
    pub(crate) fn worker(&self, machine: &Machine, flags: &[&str]) -> Process {
        let mut command = self.worker_command(machine);
        command.args(flags);
        Process::start(command, &self.place.path(&format!("worker-{}.log", machine.address)))
    }

    /// A command of a client on a machine, with a copy of a role's join file.
    pub(crate) fn client(&self, machine: &Machine, role: Role, verb: &str) -> Command {
        let join = self.carry(role, machine);
        let mut command = machine.command(program("coordinator"));
        command.arg(verb).arg("--coordinator").arg(join);
        command
    }

    /// `submit`, from a machine: the probe over a text, with its output at `out/words`.
    pub(crate) fn submission(&self, machine: &Machine, role: Role, text: &str) -> Command {
        let mut command = self.client(machine, role, "submit");
        command.arg(program("probe")).arg("--input").arg(self.place.write("in/text.txt", text));
        command.arg("--output").arg(self.place.path("out/words")).args(CUT.split(' '));
        command
    }

    /// Submits the probe from a machine and leaves it to itself. It obeys the orders in the text.
    pub(crate) fn submit(&self, machine: &Machine, text: &str) -> JobId {
        let mut submission = self.submission(machine, Role::Submit, text);
        let told = submission.args(["--detach", "--", "--gates"]).arg(self.place.path("gates")).output().unwrap();
        assert!(told.status.success(), "{}", stderr(&told));
        String::from_utf8(told.stdout).unwrap().trim().parse().unwrap()
    }

    /// Follows a job from a machine to its good end.
    pub(crate) fn succeeds(&self, machine: &Machine, job: JobId) -> JobView {
        let told = self.client(machine, Role::Read, "watch").arg(job.to_string()).output().unwrap();
        assert_eq!(told.status.code(), Some(0), "{}", stderr(&told));
        self.job(machine, job)
    }

    /// A job in full.
    pub(crate) fn job(&self, machine: &Machine, job: JobId) -> JobView {
        view(self.client(machine, Role::Read, "job").arg(job.to_string()).arg("--all"))
    }

    /// All workers, with where they serve their map outputs.
    pub(crate) fn workers(&self, machine: &Machine) -> BTreeMap<WorkerId, SocketAddrV4> {
        self.views(machine).iter().map(|worker| (worker.worker, address(worker))).collect()
    }

    /// The worker of another machine.
    pub(crate) fn worker_of(&self, machine: &Machine, other: &Machine) -> WorkerView {
        self.views(machine).into_iter().find(|worker| *address(worker).ip() == other.address).unwrap()
    }

    fn views(&self, machine: &Machine) -> Vec<WorkerView> {
        view(&mut self.client(machine, Role::Read, "workers"))
    }
}

fn address(worker: &WorkerView) -> SocketAddrV4 {
    worker.address.split_whitespace().next().unwrap().parse().unwrap()
}

/// How often something is looked at: each time a command is run.
const LOOKS: usize = 3_000;

/// Looks with commands until something is so, but not for ever.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!((0..LOOKS).any(|_| is_so()), "in vain until {what}");
}

/// What a command shows, read back.
fn view<T: DeserializeOwned>(command: &mut Command) -> T {
    let told = command.args(["--format", "json"]).output().unwrap();
    assert!(told.status.success(), "{}", stderr(&told));
    serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&told.stdout)))
}

/// What a command has told.
pub(crate) fn stderr(told: &Told) -> String {
    String::from_utf8_lossy(&told.stderr).into_owned()
}

/// The gates of a job whose work is shared by two workers of one thread: both map before one has mapped all, and so in reduce.
pub(crate) struct Shared {
    map: Vec<Gate>,
    reduce: Vec<Gate>,
}

impl Shared {
    /// Closes the gates, and puts them among the words of a text, a few words a line.
    pub(crate) fn among(place: &Place, words: &[String]) -> (Self, String) {
        let close = |phase: &str| (0..GATES).map(|at| Gate::close(place, &format!("{phase}{at}"))).collect();
        let mut text = String::new();
        for (at, words) in words.chunks(words.len().div_ceil(GATES)).enumerate() {
            text.push_str(&format!("!map:gate:map{at} !reduce:gate:reduce{at}\n"));
            words.chunks(8).for_each(|words| text.push_str(&(words.join(" ") + "\n")));
        }
        (Self { map: close("map"), reduce: close("reduce") }, text)
    }

    /// Waits until both workers map, does something then, and lets them go on to the end.
    pub(crate) fn pass_maps(self, in_between: impl FnOnce()) {
        let standing = two_stand_at(&self.map);
        in_between();
        self.map.into_iter().chain(self.reduce).for_each(Gate::open);
        drop(standing);
    }

    /// Waits until both workers map, does something then, lets them go on, and does the same in reduce.
    pub(crate) fn pass(self, in_between: impl FnOnce()) {
        let standing = two_stand_at(&self.map);
        in_between();
        self.map.into_iter().for_each(Gate::open);
        drop(standing);
        let standing = two_stand_at(&self.reduce);
        self.reduce.into_iter().for_each(Gate::open);
        drop(standing);
    }
}

/// Waits until two attempts stand at gates. An attempt of one thread stands at one at a time, and a worker runs one at a time.
fn two_stand_at(gates: &[Gate]) -> Vec<Reached> {
    let mut standing: BTreeMap<usize, Reached> = BTreeMap::new();
    wait_until("two attempts stand at gates", || {
        for (at, gate) in gates.iter().enumerate().filter(|(at, _)| !standing.contains_key(at)).collect::<Vec<_>>() {
            standing.extend(gate.is_reached().map(|reached| (at, reached)));
        }
        standing.len() >= 2
    });
    standing.into_values().collect()
}
