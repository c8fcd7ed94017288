//! What a worker and a coordinator do with job processes, in its plainest form: one task after the other, nothing ever fails by itself.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{io, iter};

use shardmill_datasets::{RunRequest, index};
use shardmill_protocol::process::{
    DESCRIPTOR, FromProcess, Order, Progress, Setup, SourceEntry, SourceSegment, ToProcess, read_message, write_message,
};
use shardmill_protocol::task::{Input, Outcome, Part, PlanFacts, SetAside, Tally, Task, decode_weights};
use shardmill_protocol::{AttemptId, Digest, Epoch, Failure, JobId, VERSION};

/// A job process, as its worker sees it. Killed when dropped.
pub struct JobProcess {
    child: Child,
    socket: UnixStream,
}

impl JobProcess {
    /// Starts `PROGRAM task FLAGS` with one end of a socket as its descriptor 3.
    pub fn start(program: &Path, flags: &[&str]) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(program);
        command.arg("task").args(flags).stdin(Stdio::null()).stdout(Stdio::null());
        let descriptor = theirs.as_raw_fd();
        // SAFETY: between fork and exec only `dup2` and `fcntl` are called, which are safe there.
        unsafe {
            command.pre_exec(move || {
                // A descriptor that is the right one already stays marked to be closed.
                let done =
                    if descriptor == DESCRIPTOR { libc::fcntl(descriptor, libc::F_SETFD, 0) } else { libc::dup2(descriptor, DESCRIPTOR) };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            })
        };
        Self { child: command.spawn().unwrap(), socket }
    }

    /// Says something.
    pub fn say(&mut self, message: &ToProcess) {
        write_message(&mut self.socket, message).unwrap();
    }

    /// Writes bytes that need not be a message.
    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Hears what it says next.
    pub fn hear(&mut self) -> FromProcess {
        read_message(&mut self.socket).unwrap()
    }

    /// Sets it up.
    pub fn set_up(&mut self, setup: Setup) -> Result<(), Box<Failure>> {
        self.say(&ToProcess::Setup(setup));
        match self.hear() {
            FromProcess::Ready { version } => {
                assert_eq!(version, VERSION);
                Ok(())
            }
            FromProcess::Failed { attempt: None, failure } => Err(Box::new(failure)),
            other => panic!("{other:?} is no answer to a setup"),
        }
    }

    /// Has it run an attempt to its end; also returns what it told on the way.
    pub fn run(&mut self, order: Order) -> (Result<Outcome, Failure>, Vec<Progress>) {
        let (attempt, mut told) = (order.attempt, Vec::new());
        self.say(&ToProcess::Run(order));
        loop {
            match self.hear() {
                FromProcess::Progress(progress) => told.push(progress),
                FromProcess::Done { attempt: of, outcome } if of == attempt => return (Ok(outcome), told),
                FromProcess::Failed { attempt: Some(of), failure } if of == attempt => return (Err(failure), told),
                other => panic!("{other:?} is no answer to an order"),
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: `kill` touches no memory, and the child was not waited for, so that its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0, "{}", io::Error::last_os_error());
    }

    /// Closes the socket, and waits for the end of the process: its exit code, or the signal that ended it.
    pub fn leave(mut self) -> (Option<i32>, Option<i32>) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> (Option<i32>, Option<i32>) {
        let status = self.child.wait().unwrap();
        (status.code(), status.signal())
    }
}

impl Drop for JobProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How work is cut, and with what it is done.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Threads of each attempt.
    pub threads: u32,
    /// Memory of each attempt.
    pub memory_bytes: u64,
    /// Surveys in a task.
    pub surveys: u32,
    /// Shards in a map task.
    pub shards: u32,
    /// Partitions in a reduce task.
    pub partitions: u32,
}

/// A map output that was accepted.
#[derive(Clone, Debug)]
pub struct MapOutput {
    /// Its attempt.
    pub attempt: AttemptId,
    /// The digest of its index.
    pub index: Digest,
    /// What was consumed.
    pub tally: Tally,
    /// How many records were set aside.
    pub set_aside: u64,
}

/// One job's worker and coordinator at once.
pub struct Supervisor {
    program: PathBuf,
    flags: Vec<String>,
    setup: Setup,
    directory: PathBuf,
    process: Option<JobProcess>,
    attempts: u64,
    /// How attempts are made.
    pub cut: Cut,
    /// Records that are left out.
    pub set_aside: Vec<SetAside>,
}

impl Supervisor {
    /// A supervisor of the job in `program`, with all it needs in `directory`, which must not exist.
    pub fn new(program: &Path, directory: &Path, request: &RunRequest, parameters: &[&str], cut: Cut) -> Self {
        let staging = directory.join("staging");
        fs::create_dir_all(staging.join("attempts")).unwrap();
        let setup = Setup {
            version: VERSION,
            job: JobId(7),
            name: "a-job".to_owned(),
            parameters: parameters.iter().map(ToString::to_string).collect(),
            request: postcard::to_stdvec(&request.clone().absolute().unwrap()).unwrap(),
            staging,
        };
        let (flags, set_aside) = (Vec::new(), Vec::new());
        Self { program: program.to_owned(), flags, setup, directory: directory.to_owned(), process: None, attempts: 0, cut, set_aside }
    }

    /// Starts job processes with these flags from now on.
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// The job process: the one that there is, or a new one.
    pub fn process(&mut self) -> &mut JobProcess {
        self.process.get_or_insert_with(|| {
            let mut process = JobProcess::start(&self.program, &self.flags.iter().map(String::as_str).collect::<Vec<_>>());
            process.set_up(self.setup.clone()).unwrap();
            process
        })
    }

    /// Lets go of the job process; the next attempt has a new one.
    pub fn next_process(&mut self) {
        if let Some(process) = self.process.take() {
            assert_eq!(process.leave(), (Some(0), None), "an idle process ends by itself");
        }
    }

    /// The job process has ended in another way; the next attempt has a new one.
    pub fn process_died(&mut self) {
        self.process = None;
    }

    /// What a process for this job is set up with.
    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// An order for a new attempt, whose directories are made.
    pub fn order(&mut self, task: Task, inputs: Vec<Input>, sources: Option<PathBuf>) -> Order {
        self.attempts += 1;
        let attempt = AttemptId { job: self.setup.job, epoch: Epoch(3), number: self.attempts };
        let (directory, staged) = (self.directory_of(attempt), self.staged_by(attempt));
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir(&staged).unwrap();
        let Cut { threads, memory_bytes, .. } = self.cut;
        let set_aside = self.set_aside.clone();
        Order { attempt, task, threads, memory_bytes, directory, staged, inputs, set_aside, sources, memory: None, durable: false }
    }

    /// Has a task done that nothing is expected to go wrong with.
    pub fn done(&mut self, task: Task, inputs: Vec<Input>, sources: Option<PathBuf>) -> (AttemptId, Outcome) {
        let order = self.order(task, inputs, sources);
        let attempt = order.attempt;
        let (result, _) = self.process().run(order);
        (attempt, result.unwrap_or_else(|failure| panic!("{attempt} failed: {}", failure.fault)))
    }

    /// An attempt's directory on the worker's disk.
    pub fn directory_of(&self, attempt: AttemptId) -> PathBuf {
        self.directory.join("worker").join(attempt.directory())
    }

    /// An attempt's directory in staging.
    pub fn staged_by(&self, attempt: AttemptId) -> PathBuf {
        self.setup.staging.join("attempts").join(attempt.directory())
    }

    /// Draft, surveys and plan.
    pub fn plan(&mut self) -> (Input, PlanFacts, Vec<u64>) {
        let input = |attempt, name: &str, digest| Input { attempt, name: name.to_owned(), digest };
        let (attempt, Outcome::Drafted { draft, surveys }) = self.done(Task::Draft, vec![], None) else { panic!("that was no draft") };
        let mut inputs = vec![input(attempt, "draft", draft)];
        for range in pieces(surveys, self.cut.surveys) {
            let (attempt, outcome) = self.done(Task::Survey(range), vec![inputs[0].clone()], None);
            let Outcome::Surveyed { surveys } = outcome else { panic!("{outcome:?} is no survey") };
            inputs.push(input(attempt, "surveys", surveys));
        }
        let (attempt, outcome) = self.done(Task::Plan, inputs, None);
        let Outcome::Planned { plan, weights, facts } = outcome else { panic!("{outcome:?} is no plan") };
        let bytes = fs::read(self.staged_by(attempt).join("weights")).unwrap();
        assert_eq!(Digest::of(&bytes), weights);
        let weights = decode_weights(&bytes).unwrap();
        assert_eq!(weights.len(), facts.shards as usize);
        (input(attempt, "plan", plan), facts, weights)
    }

    /// Maps a range of shards.
    pub fn map(&mut self, plan: &Input, shards: Range<u32>) -> MapOutput {
        let (attempt, outcome) = self.done(Task::Map(shards), vec![plan.clone()], None);
        let Outcome::Mapped { index, tally, set_aside, partition_bytes } = outcome else { panic!("{outcome:?} is no map output") };
        let bytes = fs::read(self.directory_of(attempt).join("map.index")).unwrap();
        let segments = index::Index::open(&bytes, &index.0).unwrap().segments(0..partition_bytes.len()).unwrap();
        assert_eq!(partition_bytes, segments.iter().map(|segment| segment.content_bytes).collect::<Vec<_>>());
        if let Some((_, digest)) = set_aside {
            assert_eq!(Digest::of(&fs::read(self.staged_by(attempt).join("quarantine")).unwrap()), digest);
        }
        MapOutput { attempt, index, tally, set_aside: set_aside.map_or(0, |(count, _)| count) }
    }

    /// Writes the file of sources for a reduce task.
    pub fn sources(&self, outputs: &[MapOutput], partitions: Range<u32>) -> PathBuf {
        let path = self.directory.join(format!("sources-{}-{}", self.attempts, partitions.start));
        let mut file = File::create(&path).unwrap();
        for output in outputs {
            let directory = self.directory_of(output.attempt);
            let bytes = fs::read(directory.join("map.index")).unwrap();
            let index = index::Index::open(&bytes, &output.index.0).unwrap();
            let segments = index.segments(partitions.start as usize..partitions.end as usize).unwrap();
            let segments = segments.into_iter().map(|segment| SourceSegment {
                offset: segment.offset,
                stored_bytes: segment.stored_bytes,
                records: segment.records,
                content_bytes: segment.content_bytes,
                digest: segment.digest,
            });
            let entry = SourceEntry { data: directory.join("map.run"), output: output.attempt, segments: segments.collect() };
            write_message(&mut file, &entry).unwrap();
        }
        path
    }

    /// Reduces a range of partitions of these outputs.
    pub fn reduce(&mut self, plan: &Input, outputs: &[MapOutput], partitions: Range<u32>) -> (AttemptId, Vec<Part>, Tally) {
        let sources = self.sources(outputs, partitions.clone());
        let (attempt, outcome) = self.done(Task::Reduce(partitions), vec![plan.clone()], Some(sources));
        let Outcome::Reduced { parts, tally, .. } = outcome else { panic!("{outcome:?} is no part") };
        (attempt, parts, tally)
    }

    /// Does the whole job, and returns the bytes of its parts and the sum of what was consumed.
    pub fn run(&mut self) -> (Vec<Vec<u8>>, Tally) {
        let (plan, facts, _) = self.plan();
        let outputs: Vec<MapOutput> = pieces(facts.shards, self.cut.shards).map(|shards| self.map(&plan, shards)).collect();
        let mut sum = Tally::default();
        let add = |sum: &mut Tally, tally: &Tally| {
            sum.records += tally.records;
            sum.groups += tally.groups;
            sum.spilled_runs += tally.spilled_runs;
            sum.merge_passes = sum.merge_passes.max(tally.merge_passes);
            tally.counters.iter().for_each(|(name, count)| *sum.counters.entry(name.clone()).or_default() += count);
        };
        outputs.iter().for_each(|output| add(&mut sum, &output.tally));
        let mut written = Vec::new();
        for partitions in pieces(facts.partitions, self.cut.partitions) {
            let (attempt, parts, tally) = self.reduce(&plan, &outputs, partitions);
            add(&mut sum, &tally);
            for part in parts {
                let bytes = fs::read(self.staged_by(attempt).join(&part.name)).unwrap();
                assert_eq!((Digest::of(&bytes), bytes.len() as u64), (part.digest, part.bytes), "{}", part.name);
                written.push(bytes);
            }
        }
        (written, sum)
    }
}

/// The ranges that `units` units are cut into, `each` at a time.
fn pieces(units: u32, each: u32) -> impl Iterator<Item = Range<u32>> {
    let mut next = 0;
    iter::from_fn(move || {
        let start = next;
        next = (next + each).min(units);
        (start < next).then_some(start..next)
    })
}
