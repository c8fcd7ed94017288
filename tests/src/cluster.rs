//! A real cluster: a coordinator and workers as processes on this machine, with state and ports of their own.
//!
//! What a test waits for it is told: statuses come by the same long poll that `watch` uses. Every process that was started here is
//! killed when its value is dropped, by its number, and writes only below the test's [`Place`].

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shardmill_protocol::rpc::connect::{Connection, connect, long_poll, within};
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::view::{AttemptState, AttemptView, JobStatus, JobView, WorkerState, WorkerView};
use shardmill_protocol::{JobId, WorkerId};
use tokio::runtime::Runtime;

use crate::line::Line;
use crate::look::look_for;
use crate::output::Output;
use crate::place::Place;
use crate::programs::program;

/// Changes of a job that are looked at before a test gives up: minutes, as every heartbeat of a worker that is at it makes one.
const CHANGES: usize = 3_000;
/// Long polls without a change before a test gives up.
const POLLS_IN_VAIN: usize = 5;
/// Polls that are answered at once before a test gives up: a minute or two.
const POLLS_AT_ONCE: usize = 500_000;
/// How long a call may take.
const CALL: std::time::Duration = std::time::Duration::from_secs(30);

/// A coordinator, and a connection to it.
pub struct Cluster<'p> {
    place: &'p Place,
    runtime: Runtime,
    coordinator: RefCell<Process>,
    connection: RefCell<Connection>,
    /// Flags of every start after the first.
    flags: Vec<String>,
}

impl<'p> Cluster<'p> {
    /// Starts a coordinator with a lease of 3 s.
    pub fn start(place: &'p Place) -> Self {
        Self::with(place, "--lease 3s")
    }

    /// Starts a coordinator with flags of the test's choice.
    pub fn with(place: &'p Place, flags: &str) -> Self {
        Self::with_once(place, flags, "")
    }

    /// Starts a coordinator with flags of the test's choice, and further ones that it has no more when it is started again.
    pub fn with_once(place: &'p Place, flags: &str, once: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        // Ranges are cut by what is left alone, and not by how fast this machine happens to be.
        let flags = words(&format!("{flags} --least-task 0s"));
        let (coordinator, connection) = serve(place, &flags, &runtime, |command| _ = command.args(words(once)));
        Self { place, runtime, coordinator: coordinator.into(), connection: connection.into(), flags }
    }

    /// The coordinator's state directory.
    pub fn state(&self) -> PathBuf {
        self.place.path("state")
    }

    /// The coordinator's process.
    pub fn coordinator(&self) -> std::cell::Ref<'_, Process> {
        self.coordinator.borrow()
    }

    /// The same, to be killed.
    pub fn coordinator_mut(&self) -> std::cell::RefMut<'_, Process> {
        self.coordinator.borrow_mut()
    }

    /// Kills the coordinator as it stands. Until it is started again, nothing can be asked of it.
    pub fn kill(&self) {
        self.coordinator.borrow_mut().kill();
    }

    /// Kills the coordinator as it stands, if that is not done, and starts it again on the same state.
    pub fn restart(&self) {
        if !self.coordinator.borrow_mut().has_ended() {
            self.kill();
        }
        self.start_again("");
    }

    /// Waits until the coordinator is dead, as its fault point wanted it.
    pub fn until_dead(&self) {
        let code = self.coordinator.borrow_mut().wait();
        assert_eq!(code, None, "it was to be killed, and ended by itself: {}", self.coordinator().told());
    }

    /// Starts a coordinator again that is dead, with flags besides the usual ones.
    pub fn start_again(&self, once: &str) {
        self.start_again_with(|command| _ = command.args(once.split_whitespace()));
    }

    /// The same, of a command that the test has changed before it is started.
    pub fn start_again_with(&self, change: impl FnOnce(&mut Command)) {
        let (coordinator, connection) = serve(self.place, &self.flags, &self.runtime, change);
        self.coordinator.replace(coordinator);
        self.connection.replace(connection);
    }

    /// Starts a worker with a directory of its own, called `name`, and does not wait for it.
    pub fn launch(&self, name: &str, flags: &str) -> Worker {
        self.launch_with(&self.state().join("worker.join"), name, flags, |_| {})
    }

    fn launch_with(&self, join: &Path, name: &str, flags: &str, change: impl FnOnce(&mut Command)) -> Worker {
        let directory = self.place.path(name);
        let mut command = Command::new(program("worker"));
        command.arg("--join").arg(join).arg("--dir").arg(&directory).args(flags.split_whitespace());
        change(&mut command);
        let process = Process::start(command, &self.place.path(&format!("{name}.log")));
        Worker { process, directory, id: None }
    }

    /// Starts a worker with a directory of its own, called `name`, and waits until it is registered.
    pub fn worker(&self, name: &str, flags: &str) -> Worker {
        self.registered(self.launch(name, flags))
    }

    /// The same, of a command that the test has changed before it is started.
    pub fn worker_with(&self, name: &str, flags: &str, change: impl FnOnce(&mut Command)) -> Worker {
        self.registered(self.launch_with(&self.state().join("worker.join"), name, flags, change))
    }

    /// The same, with a line between the two that the test has a hand on.
    pub fn worker_on_a_line(&self, name: &str, flags: &str) -> (Worker, Line) {
        let mut join = JoinFile::read(&self.state().join("worker.join")).unwrap();
        let line = Line::to(&join.address);
        join.address = line.address().to_owned();
        let path = self.place.path(&format!("{name}.join"));
        join.write(&path).unwrap();
        (self.registered(self.launch_with(&path, name, flags, |_| {})), line)
    }

    fn registered(&self, mut worker: Worker) -> Worker {
        let id = look_for(|| {
            assert!(!worker.process.has_ended(), "the worker ended: {}", worker.process.told());
            let id = fs::read_to_string(worker.directory.join("id")).ok()?.trim().parse::<WorkerId>().ok()?;
            let known = |view: &WorkerView| view.worker == id && view.state == WorkerState::Live;
            self.workers().iter().any(known).then_some(id)
        });
        worker.id = Some(id.unwrap_or_else(|| panic!("the worker does not register: {}", worker.process.told())));
        worker
    }

    /// Submits a job with `coordinator submit --detach`: program, flags, and the job's parameters behind `--`.
    pub fn submit(&self, job: &Path, output: &Path, arguments: &[&str]) -> JobId {
        let ended = self.command("submit").arg(job).arg("--detach").arg("--output").arg(output).args(arguments).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let told = String::from_utf8(ended.stdout).unwrap();
        told.trim().parse().unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// A command of the coordinator's executable, told where the coordinator is.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(program("coordinator"));
        command.arg(verb).arg("--coordinator").arg(self.state()).stdin(Stdio::null());
        command
    }

    /// Waits until a job's status is as wanted.
    ///
    /// # Panics
    /// If the job ends before in another way.
    pub fn until(&self, job: JobId, what: &str, is_wanted: impl Fn(&JobStatus) -> bool) -> JobStatus {
        let (mut seen, mut changes, mut in_vain, mut at_once) = (0, 0, 0, 0);
        loop {
            let connection = self.connection.borrow().clone();
            let status = self.runtime.block_on(connection.client.watch(long_poll(), job, seen)).unwrap().unwrap();
            if is_wanted(&status) {
                return status;
            }
            assert!(!status.is_swept, "the job ended before {what}: {status:#?}");
            let count = match (status.phase.is_final(), status.version == seen) {
                // That of a job that has ended is told at once, seen or not.
                (true, _) => &mut at_once,
                (false, true) => &mut in_vain,
                (false, false) => &mut changes,
            };
            *count += 1;
            let is_in_vain = at_once == POLLS_AT_ONCE || in_vain == POLLS_IN_VAIN || changes == CHANGES;
            assert!(!is_in_vain, "waited in vain for {what}: {:#?}", self.job(job));
            seen = status.version;
        }
    }

    /// Waits until one of a job's attempts is as wanted.
    pub fn until_attempt(&self, job: JobId, what: &str, is_wanted: impl Fn(&AttemptView) -> bool) -> AttemptView {
        let (mut seen, mut in_vain) = (0, 0);
        for _ in 0..CHANGES {
            let view = self.job(job);
            if let Some(attempt) = view.attempts.iter().find(|attempt| is_wanted(attempt)) {
                return attempt.clone();
            }
            assert!(!view.status.is_swept, "the job ended before {what}: {view:#?}");
            if seen >= view.status.version {
                let connection = self.connection.borrow().clone();
                let status = self.runtime.block_on(connection.client.watch(long_poll(), job, seen)).unwrap().unwrap();
                in_vain += usize::from(seen == status.version);
                assert!(in_vain < POLLS_IN_VAIN, "waited in vain for {what}: {view:#?}");
                seen = status.version;
            } else {
                seen = view.status.version;
            }
        }
        panic!("waited in vain for {what}: {:#?}", self.job(job));
    }

    /// Waits for a job's end, which must be a good one; the output is what its manifest says, and nothing is left beside it.
    pub fn success(&self, job: JobId) -> (JobView, Output) {
        let status = self.end(job);
        assert_eq!(status.phase, shardmill_protocol::view::JobPhase::Succeeded, "{status:#?}");
        (self.job(job), Output::whole(Path::new(&status.output)))
    }

    /// Waits for a job's end, whichever it is, and until nothing is left of it but its output.
    pub fn end(&self, job: JobId) -> JobStatus {
        self.until(job, "its end", |status| status.is_swept)
    }

    /// Waits until the coordinator is dead, or a job has ended and nothing is left of it. Returns whether it is dead.
    pub fn dies_before_the_end_of(&self, job: JobId) -> bool {
        let is_dead = look_for(|| {
            if self.coordinator.borrow_mut().has_ended() {
                return Some(true);
            }
            let connection = self.connection.borrow().clone();
            // Its end is told when it comes, and whatever happens before is not. Without an answer there is nobody to give it.
            let status = self.runtime.block_on(connection.client.watch(long_poll(), job, u64::MAX)).ok()?;
            status.unwrap().is_swept.then_some(false)
        });
        is_dead.unwrap_or_else(|| panic!("neither happens: {}", self.coordinator().told()))
    }

    /// Waits until all that has happened so far is on the coordinator's disk.
    pub fn until_journaled(&self) {
        let connection = self.connection.borrow().clone();
        // No answer overtakes the facts before it, be it that nobody knows such a job.
        let answer = self.runtime.block_on(connection.client.cancel(within(CALL), JobId(0))).unwrap();
        assert!(answer.is_err(), "{answer:?}");
    }

    /// A job in full.
    pub fn job(&self, job: JobId) -> JobView {
        let connection = self.connection.borrow().clone();
        self.runtime.block_on(connection.client.job(within(CALL), job)).unwrap().unwrap()
    }

    /// All workers.
    pub fn workers(&self) -> Vec<WorkerView> {
        let connection = self.connection.borrow().clone();
        self.runtime.block_on(connection.client.workers(within(CALL))).unwrap().unwrap()
    }

    /// Waits until a worker's state is as wanted.
    pub fn until_worker(&self, worker: WorkerId, state: WorkerState) {
        let is_so = || self.workers().iter().any(|view| view.worker == worker && view.state == state);
        look_for(|| is_so().then_some(())).unwrap_or_else(|| panic!("worker {worker} is not {state:?}: {:#?}", self.workers()));
    }
}

/// Starts a coordinator and connects to it with all rights.
fn serve(place: &Place, flags: &[String], runtime: &Runtime, change: impl FnOnce(&mut Command)) -> (Process, Connection) {
    let state = place.path("state");
    let join = state.join("admin.join");
    let _ = fs::remove_file(&join);
    let mut command = Command::new(program("coordinator"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(&state).args(flags);
    change(&mut command);
    let mut process = Process::start(command, &place.path("coordinator.log"));
    let connection = look_for(|| {
        assert!(!process.has_ended(), "the coordinator ended: {}", process.told());
        // The join files are written when the coordinator listens.
        let join = JoinFile::read(&join).ok()?;
        runtime.block_on(connect(&join)).inspect_err(|error| assert!(error.may_pass(), "{error}")).ok()
    });
    let connection = connection.unwrap_or_else(|| panic!("the coordinator does not listen: {}", process.told()));
    (process, connection)
}

/// A worker's process.
pub struct Worker {
    process: Process,
    directory: PathBuf,
    id: Option<WorkerId>,
}

impl Worker {
    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.id.expect("it is registered")
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A process of the cluster. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    is_over: bool,
}

impl Process {
    /// Starts a command whose output is appended to a file.
    pub fn start(command: Command, log: &Path) -> Self {
        Self::start_with_stdout(command, log, log)
    }

    /// Starts a command whose stderr and stdout are appended to a file each.
    pub fn start_with_stdout(mut command: Command, log: &Path, stdout: &Path) -> Self {
        let file = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        command.stdin(Stdio::null()).stdout(file(stdout)).stderr(file(log));
        let child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        Self { child, log: log.to_owned(), is_over: false }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        assert!(!self.is_over, "it was waited for, and its number may be another process's by now");
        // SAFETY: `kill` touches no memory.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0, "{}", io::Error::last_os_error());
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Waits for its end; the answer is its exit code, if it was not killed.
    ///
    /// # Panics
    /// If it does not end for minutes.
    pub fn wait(&mut self) -> Option<i32> {
        look_for(|| self.has_ended().then_some(())).unwrap_or_else(|| panic!("it does not end: {}", self.told()));
        self.child.wait().unwrap().code()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.is_over = self.is_over || self.child.try_wait().unwrap().is_some();
        self.is_over
    }

    /// What it has written so far.
    pub fn told(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a request for a job's map outputs must carry, as a worker with this join file is told.
pub fn capability_of(join: &JoinFile, job: JobId) -> Secret {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = connect(join).await.unwrap();
        connection.client.job_setup(within(CALL), job).await.unwrap().unwrap().capability
    })
}

/// Units in accepted attempts of a kind, those of lost ones not counted.
pub fn units_accepted(view: &JobView, kind: shardmill_protocol::task::TaskKind) -> u64 {
    let accepted = view.attempts.iter().filter(|attempt| attempt.task.kind() == kind && attempt.state == AttemptState::Accepted);
    accepted.map(|attempt| attempt.task.range().len() as u64).sum()
}

/// Each unit of each phase counts once, by whomever it was done.
pub fn each_unit_counts_once(view: &JobView) {
    assert_eq!(view.attempt_count, view.attempts.len() as u64, "all are shown");
    for (kind, (_, units)) in &view.status.units {
        assert_eq!(units_accepted(view, *kind), *units, "{kind:?} of {view:#?}");
    }
}

/// The words of all parts with their counts, in order.
pub fn counts(output: &Output) -> Vec<(String, u64)> {
    let mut counts: Vec<_> =
        output.csv_parts().1.into_iter().flatten().map(|record| (record[0].clone(), record[1].parse().unwrap())).collect();
    counts.sort();
    counts
}

/// The same by the plainest means.
pub fn naive(text: &str) -> Vec<(String, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    text.split_whitespace().for_each(|word| *counts.entry(word.to_owned()).or_default() += 1);
    counts.into_iter().collect()
}
