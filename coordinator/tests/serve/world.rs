//! A real coordinator process, and workers that are played by the test: they answer every task at once with files of known content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shardmill_datasets::Manifest;
use shardmill_datasets::manifest::{self, ManifestInput};
use shardmill_protocol::process::Progress;
use shardmill_protocol::rpc::api::{
    ApiError, ControlClient, DiskProof, HeldAttempt, HeldOutput, JobSpec, Program, Registered, Role, Verdict, WorkerHello,
};
use shardmill_protocol::rpc::connect::{Connection, connect, long_poll, within};
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::task::{MapOutput, Part, PlanFacts, Tally, encode_weights};
use shardmill_protocol::view::{JobPhase, JobStatus};
use shardmill_protocol::{AttemptId, Digest, Epoch, Grant, JobId, Outcome, SessionId, Task, WorkerId};
use tempfile::TempDir;

/// How long a call may take.
pub(crate) const CALL: std::time::Duration = std::time::Duration::from_secs(30);
/// Shards and partitions of the job that is played.
pub(crate) const SHARDS: u32 = 6;
pub(crate) const PARTITIONS: u32 = 3;

/// Directories of a test, with the coordinator's state in them.
pub(crate) struct World {
    directory: TempDir,
}

/// A small file system for the coordinator's state, to be filled; unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it, or says on stderr why the test that wants it is skipped: mounting takes root.
    pub(crate) fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"]).arg(&path).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: no small file system could be mounted");
        }
        mounted.then_some(Self(path))
    }

    /// Writes a file until there is no room for more of it.
    pub(crate) fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the coordinator may be ending still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A coordinator's process; killed when dropped.
pub(crate) struct Coordinator {
    child: Child,
    /// What it said when it was ready; nothing if it ended before.
    pub(crate) ready: Option<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Starts a coordinator and waits until it says that it is ready, or ends.
    pub(crate) fn start(&self, flags: &str) -> Coordinator {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(["serve", "--lease", "10s", "--state"]).arg(self.state());
        if !flags.contains("--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = command.args(flags.split_whitespace()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Coordinator { child, ready: (!line.is_empty()).then_some(line) }
    }

    /// What coordinators have said on stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    pub(crate) async fn connect(&self, role: Role) -> ControlClient {
        self.try_connect(role).await.unwrap_or_else(|| panic!("{}", self.log())).client
    }

    /// A connection, or nothing if nobody is there.
    pub(crate) async fn try_connect(&self, role: Role) -> Option<Connection> {
        connect(&JoinFile::read(&self.state().join(JoinFile::name(role))).unwrap()).await.ok()
    }

    pub(crate) fn spec(&self, key: &str, output: &str) -> JobSpec {
        JobSpec {
            key: key.to_owned(),
            name: "played".to_owned(),
            version: "1.2.3".to_owned(),
            program: Program::Bundled("played".to_owned()),
            parameters: vec![],
            request: vec![],
            output: self.path("out").join(output),
            max_bad_records: 100,
            overwrite: false,
            durable: true,
        }
    }

    /// Asserts that an output is whole and right, and that nothing is left of the job that wrote it.
    pub(crate) fn assert_published(&self, output: &str) {
        let path = self.path("out").join(output);
        let manifest = Manifest::read(&path).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        assert_eq!((manifest.job.as_str(), manifest.version.as_str()), ("played", "1.2.3"));
        assert_eq!(manifest.inputs, inputs());
        assert_eq!(manifest.counters["mapped"], u64::from(SHARDS));
        assert_eq!(manifest.parts.len(), PARTITIONS as usize);
        for (partition, part) in manifest.parts.iter().enumerate() {
            let bytes = fs::read(path.join(&part.name)).unwrap();
            assert_eq!(bytes, part_bytes(partition as u32));
            assert_eq!(part.digest.0, Digest::of(&bytes).0);
        }
        let shards: Vec<u64> = manifest.set_aside.iter().map(|record| record.shard).collect();
        assert_eq!(shards, (0..u64::from(SHARDS)).collect::<Vec<_>>(), "one record of each shard, in order");
        let quarantine = fs::read_to_string(path.join("_quarantine/records.jsonl")).unwrap();
        assert_eq!(quarantine, (0..SHARDS).map(quarantine_line).collect::<String>());
    }

    /// Asserts that nothing lies beside the outputs, and nothing is claimed.
    pub(crate) fn assert_swept(&self) {
        assert_eq!(self.beside_outputs(), Vec::<String>::new(), "{}", self.log());
        assert_eq!(fs::read_dir(self.state().join("claims")).unwrap().count(), 0);
    }

    pub(crate) fn beside_outputs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("out")) else { return vec![] };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Waits until a job has ended and nothing is left of it.
    pub(crate) async fn end(&self, client: &ControlClient, job: JobId) -> JobStatus {
        let mut seen = 0;
        loop {
            let status = client.watch(long_poll(), job, seen).await.unwrap().unwrap();
            if status.is_swept {
                assert!(!self.state().join("claims").join(job.to_string()).exists());
                return status;
            }
            seen = status.version;
        }
    }
}

impl Coordinator {
    /// Kills it as it stands.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits for its exit code.
    pub(crate) fn stop(mut self, signal: i32) -> Option<i32> {
        // SAFETY: `kill` touches no memory, and the process was not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
        self.child.wait().unwrap().code()
    }

    /// Waits for its end: the exit code, or else the signal.
    pub(crate) fn wait(mut self) -> Result<i32, i32> {
        let status = self.child.wait().unwrap();
        status.code().ok_or_else(|| status.signal().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended and have been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn inputs() -> Vec<ManifestInput> {
    vec![ManifestInput { path: "/in/a".to_owned(), bytes: 9, modified_ns: 1, head: manifest::Digest([3; 32]) }]
}

fn part_bytes(partition: u32) -> Vec<u8> {
    format!("part {partition}\n").into_bytes()
}

fn quarantine_line(shard: u32) -> String {
    format!("{{\"file\":\"/in/a\",\"shard\":{shard},\"record\":1,\"offset\":2,\"cause\":\"bad\",\"text\":\"x\"}}\n")
}

/// The connection is gone, or the coordinator does not know the session any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// What a call was answered, unless the coordinator is ending or has ended.
pub(crate) fn answered<T, E>(answer: Result<Result<T, ApiError>, E>) -> Result<T, Lost> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(ApiError::Unavailable { .. })) | Err(_) => Err(Lost),
        Ok(Err(error)) => panic!("{error}"),
    }
}

/// A worker, played.
pub(crate) struct Player {
    worker: WorkerId,
    session: Option<(Epoch, SessionId)>,
    /// Epochs of the coordinators that it registered with.
    pub(crate) epochs: Vec<Epoch>,
    /// Every attempt that was begun, in order.
    pub(crate) begun: Vec<(AttemptId, Task)>,
    /// Attempts that it was told are accepted.
    pub(crate) accepted: BTreeMap<AttemptId, Task>,
    /// Attempts that it was told go on under a new fence.
    pub(crate) adopted: BTreeSet<AttemptId>,
    /// Done, and not yet answered.
    sealed: BTreeMap<AttemptId, (Grant, Outcome)>,
    outputs: BTreeMap<AttemptId, HeldOutput>,
}

impl Player {
    pub(crate) fn new(number: u128) -> Self {
        Self {
            worker: WorkerId(number),
            session: None,
            epochs: vec![],
            begun: vec![],
            accepted: BTreeMap::new(),
            adopted: BTreeSet::new(),
            sealed: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    /// Its session.
    pub(crate) fn session(&self) -> SessionId {
        self.session.expect("it is registered").1
    }

    /// Registers, and reports what was sealed and not answered.
    pub(crate) async fn register(&mut self, world: &World) -> Result<ControlClient, Lost> {
        let client = world.try_connect(Role::Worker).await.ok_or(Lost)?.client;
        let outputs = self.outputs.values().cloned().collect();
        answered(client.held_outputs(within(CALL), self.worker, true, outputs).await)?;
        let attempts = self.sealed.values().map(|(grant, _)| HeldAttempt {
            attempt: grant.attempt,
            task: grant.task.clone(),
            threads: grant.threads,
            memory_bytes: grant.memory_bytes,
        });
        let hello = WorkerHello {
            worker: self.worker,
            threads: 2,
            memory_bytes: 1 << 30,
            shuffle_address: "127.0.0.1:9".to_owned(),
            fingerprint: Digest::default(),
            disk: DiskProof { directory: "/nowhere".into(), nonce: [0; 16] },
            resumes: self.session,
            platform: shardmill_protocol::platform(),
            place: "here".to_owned(),
            attempts: attempts.collect(),
        };
        let registered = answered(client.register(within(CALL), hello).await)?;
        let Registered { epoch, session, adopted, kill, .. } = registered;
        self.session = Some((epoch, session));
        self.epochs.push(epoch);
        for attempt in kill {
            self.sealed.remove(&attempt);
            self.outputs.remove(&attempt);
        }
        for (attempt, fence) in adopted {
            self.adopted.insert(attempt);
            self.sealed.get_mut(&attempt).expect("it was told of").0.fence = fence;
        }
        for attempt in self.sealed.keys().copied().collect::<Vec<_>>() {
            self.report(&client, attempt).await?;
        }
        Ok(client)
    }

    /// Takes tasks and does them until the coordinator is gone, or `is_over` says so of the task that would come next.
    pub(crate) async fn work(&mut self, client: &ControlClient, mut is_over: impl FnMut(&Task) -> bool) -> Result<(), Lost> {
        let session = self.session.expect("it is registered").1;
        for number in 0.. {
            let grant = loop {
                self.heartbeat(client, None).await?;
                match client.next_task(long_poll(), session, number, false).await.map_err(|_| Lost)? {
                    Ok(Some(grant)) => break grant,
                    Ok(None) => {}
                    Err(ApiError::NoSession | ApiError::Unavailable { .. }) => return Err(Lost),
                    Err(error) => panic!("{error}"),
                }
            };
            self.begun.push((grant.attempt, grant.task.clone()));
            if is_over(&grant.task) {
                return Ok(());
            }
            self.heartbeat(client, Some(grant.attempt)).await?;
            let setup = client.job_setup(within(CALL), grant.attempt.job).await.map_err(|_| Lost)?;
            let Ok(setup) = setup else { continue };
            let attempt = grant.attempt;
            let outcome = play(&grant, &setup.staging);
            self.sealed.insert(attempt, (grant, outcome));
            self.report(client, attempt).await?;
        }
        unreachable!("numbers do not end")
    }

    async fn heartbeat(&self, client: &ControlClient, running: Option<AttemptId>) -> Result<(), Lost> {
        let attempts = running.map(|attempt| (attempt, Progress::default())).into_iter().collect();
        match client.heartbeat(within(CALL), self.session.unwrap().1, attempts).await.map_err(|_| Lost)? {
            Ok(answer) => {
                assert_eq!(answer.epoch, self.session.unwrap().0);
                Ok(())
            }
            Err(_) => Err(Lost),
        }
    }

    async fn report(&mut self, client: &ControlClient, attempt: AttemptId) -> Result<(), Lost> {
        let (grant, outcome) = self.sealed[&attempt].clone();
        let session = self.session.unwrap().1;
        match client.report(within(CALL), session, attempt, grant.fence, Ok(outcome.clone())).await.map_err(|_| Lost)? {
            Ok(Verdict::Accepted) => {
                self.sealed.remove(&attempt);
                self.accepted.insert(attempt, grant.task.clone());
                if let (Task::Map(shards), Outcome::Mapped { index, .. }) = (&grant.task, outcome) {
                    let output = MapOutput { shards: shards.clone(), attempt, index };
                    self.outputs.insert(attempt, HeldOutput { attempt, output });
                }
                Ok(())
            }
            Ok(_) => {
                self.sealed.remove(&attempt);
                Ok(())
            }
            Err(_) => Err(Lost),
        }
    }
}

/// Does a task: writes what it leaves in staging, and says so.
fn play(grant: &Grant, staging: &Path) -> Outcome {
    let directory = staging.join("attempts").join(grant.attempt.directory());
    let _ = fs::create_dir_all(&directory);
    let stage = |name: &str, bytes: &[u8]| {
        fs::write(directory.join(name), bytes).unwrap();
        Digest::of(bytes)
    };
    let tally =
        |units: u32| Tally { records: units.into(), counters: BTreeMap::from([("mapped".to_owned(), units.into())]), ..Tally::default() };
    match &grant.task {
        Task::Draft => Outcome::Drafted { draft: stage("draft", b"draft"), surveys: 2 },
        Task::Survey(_) => Outcome::Surveyed { surveys: stage("surveys", b"surveys") },
        Task::Plan => Outcome::Planned {
            plan: stage("plan", &postcard::to_stdvec(&(inputs(), "the rest")).unwrap()),
            weights: stage("weights", &encode_weights((0..SHARDS).map(|_| 1 << 20))),
            facts: PlanFacts {
                files: 1,
                input_bytes: 9,
                shards: SHARDS,
                partitions: PARTITIONS,
                thread_memory_bytes: 1 << 20,
                text: String::new(),
            },
        },
        Task::Map(shards) => {
            let lines: String = shards.clone().map(quarantine_line).collect();
            let set_aside = Some((shards.len() as u64, stage("quarantine", lines.as_bytes())));
            let index = Digest::of(format!("{shards:?}").as_bytes());
            Outcome::Mapped { index, partition_bytes: vec![10; PARTITIONS as usize], tally: tally(shards.len() as u32), set_aside }
        }
        Task::Reduce(partitions) => {
            let part = |partition: u32| {
                let (name, bytes) = (format!("part-{partition:05}.txt"), part_bytes(partition));
                Part { digest: stage(&name, &bytes), name, records: 1, bytes: bytes.len() as u64 }
            };
            Outcome::Reduced { list: grant.list.unwrap(), parts: partitions.clone().map(part).collect(), tally: Tally::default() }
        }
    }
}

/// Ends a worker's work when its job is over: no more tasks come then.
pub(crate) async fn work_until_end(world: &World, player: &mut Player, job: JobId) {
    let client = world.connect(Role::Admin).await;
    let worker = player.register(world).await.unwrap();
    tokio::select! {
        worked = player.work(&worker, |_| false) => panic!("{worked:?}: {}", world.log()),
        status = world.end(&client, job) => assert_eq!(status.phase, JobPhase::Succeeded, "{status:#?}"),
    }
}
