//! A coordinator that does as a test says: real connections, TLS and calls, and a state that the test sets and looks at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardmill_protocol::process::Progress;
use shardmill_protocol::rpc::api::{
    ApiError, ControlRequest as Call, ControlResponse as Answer, HeartbeatAnswer, HeldOutput, JobSetup, JobSpec, Program, Registered, Role,
    Verdict, WorkerHello,
};
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::{Secret, Secrets};
use shardmill_protocol::rpc::serve::{Capacity, Door, serve};
use shardmill_protocol::rpc::tls::Identity;
use shardmill_protocol::{AttemptId, Digest, Epoch, Failure, Fence, Grant, JobId, Outcome, SessionId, Task};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// The one job.
const JOB: JobId = JobId(7);

/// A report that has come.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) fence: Fence,
    pub(crate) result: Result<Outcome, Failure>,
}

/// All that there is.
pub(crate) struct State {
    /// Of the coordinator.
    pub(crate) epoch: Epoch,
    /// How reports are answered that are no failures.
    pub(crate) verdict: Verdict,
    /// What heartbeats are told to kill.
    pub(crate) kill: Vec<AttemptId>,
    /// What heartbeats are told.
    pub(crate) drain: bool,
    /// The job has ended.
    pub(crate) has_ended: bool,
    /// Registrations so far.
    pub(crate) hellos: Vec<WorkerHello>,
    /// What was told before the last one.
    pub(crate) held: Vec<HeldOutput>,
    /// What the last one was answered.
    pub(crate) adopted: Vec<(AttemptId, Fence)>,
    /// Reports so far.
    pub(crate) reports: BTreeMap<AttemptId, Report>,
    /// Polls so far.
    pub(crate) polls: usize,
    /// The worker has said that it leaves.
    pub(crate) has_left: bool,
    polls_by_epoch: BTreeMap<Epoch, usize>,
    listed: Vec<(AttemptId, Progress)>,
    grants: Vec<Grant>,
    granted: BTreeMap<(SessionId, u64), Grant>,
    fences: u64,
}

impl State {
    /// The session of the epoch.
    pub(crate) fn session(&self) -> SessionId {
        SessionId(self.epoch.0 << 32)
    }

    /// Whether the last heartbeat has listed an attempt.
    pub(crate) fn listed(&self, attempt: AttemptId) -> bool {
        self.listed.iter().any(|(listed, _)| *listed == attempt)
    }

    /// Polls in an epoch.
    pub(crate) fn polls_in(&self, epoch: Epoch) -> usize {
        self.polls_by_epoch.get(&epoch).copied().unwrap_or(0)
    }

    fn fence(&mut self) -> Fence {
        self.fences += 1;
        Fence { epoch: self.epoch, session: self.session(), grant: self.fences }
    }

    /// The grant of a number, if there is one by now.
    fn grant_of(&mut self, number: u64) -> Option<Grant> {
        let key = (self.session(), number);
        if !self.granted.contains_key(&key) && !self.grants.is_empty() {
            let grant = self.grants.remove(0);
            self.granted.insert(key, grant);
        }
        self.granted.get(&key).cloned()
    }
}

/// A coordinator.
pub(crate) struct Coordinator {
    directory: PathBuf,
    state: Arc<watch::Sender<()>>,
    inner: Arc<Mutex<State>>,
    secret: Secret,
    identity: Identity,
    spec: Arc<JobSpec>,
    /// Kept over restarts: a port that nobody holds may be somebody else's a moment later.
    listener: std::net::TcpListener,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Coordinator {
    /// Starts one, with a job whose processes behave in this way, and writes its join file for workers.
    pub(crate) async fn start(directory: &Path, way: &str) -> Self {
        std::fs::create_dir(directory.join("staging")).unwrap();
        let artifact = program();
        let spec = JobSpec {
            key: "key".to_owned(),
            name: "hostile".to_owned(),
            version: "1".to_owned(),
            program: Program::Artifact { digest: Digest::of(&artifact), bytes: artifact.len() as u64 },
            parameters: vec![way.to_owned()],
            request: Vec::new(),
            output: directory.join("output"),
            max_bad_records: 0,
            overwrite: false,
            durable: false,
        };
        let state = State {
            epoch: Epoch(1),
            verdict: Verdict::Accepted,
            kill: Vec::new(),
            drain: false,
            has_ended: false,
            hellos: Vec::new(),
            held: Vec::new(),
            adopted: Vec::new(),
            reports: BTreeMap::new(),
            polls: 0,
            has_left: false,
            polls_by_epoch: BTreeMap::new(),
            listed: Vec::new(),
            grants: Vec::new(),
            granted: BTreeMap::new(),
            fences: 0,
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut coordinator = Self {
            directory: directory.to_owned(),
            state: Arc::new(watch::Sender::new(())),
            inner: Arc::new(Mutex::new(state)),
            secret: Secret::random().unwrap(),
            identity: Identity::generate().unwrap(),
            spec: Arc::new(spec),
            listener,
            stop: None,
            served: None,
        };
        coordinator.listen().await;
        let join = JoinFile {
            address: address.to_string(),
            fingerprint: coordinator.identity.fingerprint(),
            secret: coordinator.secret,
            role: Role::Worker,
        };
        join.write(&directory.join("worker.join")).unwrap();
        coordinator
    }

    async fn listen(&mut self) {
        let listener = TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        let door = Door {
            tls: self.identity.acceptor().unwrap(),
            secrets: Arc::new(Secrets::new([(Role::Worker, self.secret)])),
            capacity: Capacity::default(),
        };
        let handler = Handler {
            inner: Arc::clone(&self.inner),
            changed: Arc::clone(&self.state),
            spec: Arc::clone(&self.spec),
            staging: self.directory.join("staging"),
        };
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.served = Some(tokio::spawn(serve(
            listener,
            door,
            move |_, _, call| {
                let handler = handler.clone();
                async move { Ok(handler.answer(call).await) }
            },
            async {
                let _ = stopped.await;
            },
        )));
    }

    /// Closes all connections, and is there again at the same address.
    pub(crate) async fn restart(&mut self) {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
        self.listen().await;
    }

    /// Grants a task to whoever asks next.
    pub(crate) fn grant(&self, task: Task) -> Grant {
        let grant = {
            let mut state = self.inner.lock().unwrap();
            let fence = state.fence();
            let attempt = AttemptId { job: JOB, epoch: state.epoch, number: fence.grant };
            let grant = Grant { attempt, fence, task, threads: 1, memory_bytes: 64 << 20, inputs: vec![], set_aside: vec![], list: None };
            state.grants.push(grant.clone());
            grant
        };
        self.state.send_replace(());
        grant
    }

    /// Changes the state.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner.lock().unwrap());
        self.state.send_replace(());
    }

    /// Looks at the state.
    pub(crate) fn now<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.lock().unwrap())
    }

    /// Waits until the state is as wanted. It is looked at whenever a call has come: heartbeats do.
    pub(crate) async fn until(&self, is_wanted: impl Fn(&State) -> bool) {
        let mut changed = self.state.subscribe();
        let wait = async {
            while !self.now(&is_wanted) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("waited in vain");
    }

    /// Waits for an attempt's report.
    pub(crate) async fn report_of(&self, attempt: AttemptId) -> Report {
        self.until(|state| state.reports.contains_key(&attempt)).await;
        self.now(|state| state.reports[&attempt].clone())
    }

    /// An attempt's directory in staging.
    pub(crate) fn staged(&self, attempt: AttemptId) -> PathBuf {
        self.directory.join("staging/attempts").join(attempt.directory())
    }
}

/// The program that misbehaves.
fn program() -> Vec<u8> {
    let here = std::env::current_exe().unwrap();
    std::fs::read(here.parent().unwrap().parent().unwrap().join("examples/hostile")).unwrap()
}

#[derive(Clone)]
struct Handler {
    inner: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
    spec: Arc<JobSpec>,
    staging: PathBuf,
}

impl Handler {
    async fn answer(&self, call: Call) -> Answer {
        let answer = match call {
            Call::NextTask { session, number, .. } => Answer::NextTask(self.next_task(session, number).await),
            Call::ArtifactChunk { offset, .. } => {
                let bytes = program();
                let end = bytes.len().min(offset as usize + (700 << 10));
                Answer::ArtifactChunk(Ok(bytes[offset as usize..end].to_vec().into()))
            }
            other => self.answer_at_once(other),
        };
        self.changed.send_replace(());
        answer
    }

    fn answer_at_once(&self, call: Call) -> Answer {
        let mut state = self.inner.lock().unwrap();
        let session = state.session();
        let known = |asked: SessionId| if asked == session { Ok(()) } else { Err(ApiError::NoSession) };
        match call {
            Call::HeldOutputs { first, outputs, .. } => {
                if first {
                    state.held.clear();
                }
                state.held.extend(outputs);
                Answer::HeldOutputs(Ok(()))
            }
            Call::Register { hello } => {
                state.adopted = hello.attempts.iter().map(|held| held.attempt).map(|attempt| (attempt, state.fence())).collect();
                state.hellos.push(hello);
                Answer::Register(Ok(Registered {
                    epoch: state.epoch,
                    session,
                    adopted: state.adopted.clone(),
                    kill: Vec::new(),
                    heartbeat: Duration::from_millis(20),
                    lease: Duration::from_secs(30),
                }))
            }
            Call::Heartbeat { session, attempts } => Answer::Heartbeat(known(session).map(|()| {
                state.listed = attempts;
                HeartbeatAnswer { epoch: state.epoch, kill: state.kill.clone(), drain: state.drain }
            })),
            Call::Report { session, attempt, fence, result } => Answer::Report(known(session).map(|()| {
                let verdict = if result.is_ok() { state.verdict } else { Verdict::Noted };
                state.reports.entry(attempt).or_insert(Report { fence, result });
                verdict
            })),
            Call::JobSetup { .. } => Answer::JobSetup(Ok(JobSetup {
                spec: (*self.spec).clone(),
                staging: self.staging.clone(),
                capability: Secret::new([7; 32]),
            })),
            Call::LogChunk { .. } => Answer::LogChunk(Ok(())),
            Call::Sources { .. } => Answer::Sources(Err(ApiError::Unavailable { message: "a map output is being made again".to_owned() })),
            Call::Ended { jobs } => Answer::Ended(Ok(if state.has_ended { jobs } else { Vec::new() })),
            Call::Leave { .. } => {
                state.has_left = true;
                Answer::Leave(Ok(()))
            }
            other => panic!("no worker calls {other:?} here"),
        }
    }

    async fn next_task(&self, session: SessionId, number: u64) -> Result<Option<Grant>, ApiError> {
        let mut changed = self.changed.subscribe();
        {
            let mut state = self.inner.lock().unwrap();
            let epoch = state.epoch;
            state.polls += 1;
            *state.polls_by_epoch.entry(epoch).or_default() += 1;
        }
        self.changed.send_replace(());
        loop {
            {
                let mut state = self.inner.lock().unwrap();
                if session != state.session() {
                    return Err(ApiError::NoSession);
                }
                if let Some(grant) = state.grant_of(number) {
                    return Ok(Some(grant));
                }
            }
            changed.changed().await.expect("the sender is here");
        }
    }
}
