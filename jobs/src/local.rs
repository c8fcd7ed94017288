//! A whole job in this process: list, survey, plan, map, reduce, publish.
//!
//! The steps of planning and the engine are the ones that a cluster uses; what differs is who calls them. What a person sees of it is in `cli.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rayon::ThreadPool;
use serde::Serialize;
use shardmill_datasets::manifest::{ManifestPart, SetAside};
use shardmill_datasets::{Manifest, OutputClaim, Plan, PublishError, Room, RunRequest, is_in_memory};
use shardmill_protocol::slots::Slots;

use crate::engine::{
    Budget, LeftOut, Progress, Settings, Skew, Sources, Tight, list_pairs, map_shards, reduce_partitions, system_memory, thread_pool,
};
use crate::fault::Fault;
use crate::job::MapReduce;
use crate::planning::{self, JobPlan, PlanningError, Readers};

/// What is run, on what, and within which bounds.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) request: RunRequest,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: Option<usize>,
    pub(crate) temp_directory: Option<PathBuf>,
    pub(crate) durable: bool,
    /// For tests: buffers so small that little data spills, merges and merges again.
    pub(crate) tight: Option<Tight>,
    /// For tests: all pairs are listed, sorted and reduced in the plainest way.
    pub(crate) is_reference: bool,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Planning(#[from] PlanningError),
    /// The output cannot be claimed.
    #[error(transparent)]
    Claim(PublishError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("cannot use {} for temporary files", path.display())]
    Temp { path: PathBuf, source: std::io::Error },
    #[error("cannot start {threads} threads")]
    Threads { threads: usize, source: rayon::ThreadPoolBuildError },
    #[error(transparent)]
    Fault(Fault),
}

impl RunError {
    /// Whether the run was refused before any work was done.
    pub(crate) fn is_preflight(&self) -> bool {
        !matches!(self, Self::Publish(_) | Self::Fault(_))
    }
}

/// What a run has done.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) job: String,
    pub(crate) output: PathBuf,
    pub(crate) input_files: usize,
    pub(crate) input_bytes: u64,
    pub(crate) input_records: u64,
    pub(crate) shards: usize,
    pub(crate) partitions: u32,
    pub(crate) groups: u64,
    pub(crate) output_records: u64,
    pub(crate) output_bytes: u64,
    pub(crate) spilled_bytes: u64,
    pub(crate) spilled_runs: u64,
    pub(crate) merge_passes: u64,
    pub(crate) bad_records: u64,
    /// One key that has most of many values.
    pub(crate) skew: Option<Skew>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
    /// How long each phase took, in seconds.
    pub(crate) phases: BTreeMap<&'static str, f64>,
    pub(crate) peak_memory_bytes: u64,
}

/// The phases of a run, for whoever shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Map,
    Reduce,
    Publish,
}

/// A run that is planned and checked, and has done no work yet.
pub(crate) struct Planned<J: MapReduce> {
    name: String,
    job: J,
    pub(crate) plan: JobPlan,
    pub(crate) budget: Budget,
    pool: ThreadPool,
    options: Options,
    progress: Arc<Progress>,
    started: Instant,
    planned: Instant,
}

impl<J: MapReduce> Planned<J> {
    /// Lists the inputs, surveys them, makes the plan and checks everything that can be checked before work begins.
    pub(crate) fn new(name: &str, mut job: J, options: Options, progress: Arc<Progress>) -> Result<Self, RunError> {
        let started = Instant::now();
        crate::heap::give_back_at_once();
        crate::catch::be_quiet();
        let threads = options.threads;
        let pool = thread_pool(threads).map_err(|source| RunError::Threads { threads, source })?;
        let total_bytes = options.memory_bytes.unwrap_or_else(|| system_memory() / 2);
        let room = Room { memory_bytes: total_bytes as u64, threads: threads as u64 };
        let draft = planning::draft(&job, &options.request, Readers::Here, room)?;
        let surveys = planning::surveys(&draft, 0..draft.surveys().len(), room, &pool, &progress)?;
        let plan = planning::finish(&mut job, &options.request, draft, surveys)?;
        let budget = plan.budget(room)?;
        Ok(Self { name: name.to_owned(), job, plan, budget, pool, options, progress, started, planned: Instant::now() })
    }

    /// Whether runs would be spilled to a file system that is kept in memory, without anybody having asked for that.
    pub(crate) fn spills_into_memory(&self) -> bool {
        self.options.temp_directory.is_none() && is_in_memory(&self.options.request.output)
    }

    /// Runs what was planned.
    pub(crate) fn run(self, mut on_phase: impl FnMut(Phase, &Plan)) -> Result<Summary, RunError> {
        let Self { name, job, mut plan, budget, pool, options, progress, started, planned } = self;
        let id = run_id();
        let claim = OutputClaim::take(&options.request.output, &id, options.request.overwrite).map_err(RunError::Claim)?;
        let temp = TempDirectory::new(options.temp_directory.as_deref(), claim.staging(), &id)?;
        let slots = Slots::unwatched(options.threads).map_err(|error| RunError::Fault(Fault::OutOfMemory { detail: error.to_string() }))?;
        let settings = Settings {
            max_bad_records: options.request.max_bad_records,
            durable: options.durable,
            progress: Arc::clone(&progress),
            ..Settings::new(&budget, options.tight, options.threads, temp.path.clone(), Arc::new(slots))
        };

        on_phase(Phase::Map, &plan.input);
        plan.cut(&job, &settings, &pool).map_err(RunError::Fault)?;
        let partitioner = plan.partitioner();
        let shards = 0..plan.input.shards.len() as u32;
        let mapped = map_shards(&job, &plan.input, shards, &LeftOut::new(), &partitioner, &settings, &pool).map_err(RunError::Fault)?;
        let sources = if options.is_reference {
            let pairs = list_pairs(&job, &plan.input, &plan.input.shards, u64::MAX, &settings, &pool).map_err(RunError::Fault)?;
            Sources::Pairs(pairs, partitioner)
        } else {
            Sources::new(mapped.collectors, &partitioner, &settings, &pool).map_err(RunError::Fault)?.0
        };

        let mapped_at = Instant::now();
        on_phase(Phase::Reduce, &plan.input);
        let attempt = claim.attempt("reduce")?;
        let (sink, partitions) = (&plan.sink, plan.input.partitions);
        let path_of = |partition| attempt.join(sink.part_name(partition));
        let parts =
            reduce_partitions(&job, &sources, 0..partitions, partitions, sink, path_of, &settings, &pool).map_err(RunError::Fault)?;
        // Giving gigabytes of tables back takes a while, and need not be waited for.
        let release = std::thread::spawn(move || drop(sources));

        let reduced_at = Instant::now();
        on_phase(Phase::Publish, &plan.input);
        let mut files: Vec<(PathBuf, String)> = (0..partitions).map(|partition| (path_of(partition), sink.part_name(partition))).collect();
        let bad_records = mapped.set_aside.records();
        let mut set_aside = Vec::new();
        if bad_records > 0 {
            let path = claim.staging().join("quarantine");
            mapped.set_aside.write(&path, options.durable).map_err(RunError::Fault)?;
            set_aside = SetAside::first_of(&path).map_err(|source| RunError::Fault(Fault::disk(&path, source)))?;
            files.push((path, "_quarantine/records.jsonl".to_owned()));
        }
        let manifest = Manifest {
            job: name.clone(),
            version: J::VERSION.to_owned(),
            executable_digest: None,
            inputs: plan.manifest_inputs(),
            parts: parts.iter().zip(0..).map(|(part, partition)| ManifestPart::new(sink.part_name(partition), part)).collect(),
            counters: mapped.counters.clone(),
            bad_records,
            set_aside,
        };
        if progress.is_interrupted() {
            return Err(RunError::Fault(Fault::Interrupted));
        }
        let output = claim.output().to_path_buf();
        drop(temp);
        claim.publish(&files, &manifest, options.durable)?;
        let _ = release.join();
        Ok(Summary {
            job: name,
            output,
            input_files: plan.input.files.len(),
            input_bytes: plan.input.input_bytes,
            input_records: progress.input_records.load(Relaxed),
            shards: plan.input.shards.len(),
            partitions,
            groups: progress.groups.load(Relaxed),
            output_records: parts.iter().map(|part| part.records).sum(),
            output_bytes: parts.iter().map(|part| part.bytes).sum(),
            spilled_bytes: progress.spilled_bytes.load(Relaxed),
            spilled_runs: progress.spilled_runs.load(Relaxed),
            merge_passes: progress.merge_passes.load(Relaxed),
            bad_records,
            skew: progress.skew::<J>(),
            counters: mapped.counters,
            seconds: started.elapsed().as_secs_f64(),
            phases: BTreeMap::from([
                ("plan", (planned - started).as_secs_f64()),
                ("map", (mapped_at - planned).as_secs_f64()),
                ("reduce", (reduced_at - mapped_at).as_secs_f64()),
                ("publish", reduced_at.elapsed().as_secs_f64()),
            ]),
            peak_memory_bytes: peak_memory_bytes(),
        })
    }
}

/// A name for this run that no other has.
fn run_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}

/// Where runs are spilled to; removed with all that is in it.
///
/// In a directory that was asked for, it is locked for as long as its run lives: what lies beside it unlocked was left by a run that died.
struct TempDirectory {
    path: PathBuf,
    _lock: Option<File>,
}

impl TempDirectory {
    /// A directory of this run's own, under the one that was asked for, which must exist, or beside the output.
    fn new(asked_for: Option<&Path>, staging: &Path, id: &str) -> Result<Self, RunError> {
        let path = asked_for.map_or_else(|| staging.join("runs"), |directory| directory.join(format!("{TEMP_PREFIX}{id}")));
        let lock = match asked_for {
            // What is beside the output is swept with the claim.
            None => fs::create_dir_all(&path).map(|()| None),
            Some(directory) => Self::create_locked(directory, &path).map(Some),
        };
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(source) => Err(RunError::Temp { path, source }),
        }
    }

    fn create_locked(directory: &Path, path: &Path) -> std::io::Result<File> {
        // Only one run at a time sweeps or creates, so that none is swept before it is locked.
        let gate = File::open(directory)?;
        gate.lock()?;
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
                let is_dead = File::open(entry.path()).is_ok_and(|left| left.try_lock().is_ok());
                if is_dead {
                    // What cannot be removed takes room, and is no reason not to run.
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        fs::create_dir(path)?;
        let lock = File::open(path)?;
        lock.lock()?;
        Ok(lock)
    }
}

/// How the names of temporary directories begin.
const TEMP_PREFIX: &str = "shardmill-runs-";

impl Drop for TempDirectory {
    fn drop(&mut self) {
        // Whatever cannot be removed here is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The most memory that this process had at any time.
pub(crate) fn peak_memory_bytes() -> u64 {
    // What the system counts for a process begins with what the one had that started it; Linux knows better.
    if let Ok(status) = fs::read_to_string("/proc/self/status")
        && let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        && let Some(kib) = line.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<u64>().ok())
    {
        return kib << 10;
    }
    // SAFETY: `getrusage` fills the struct that it is given, for which all zeroes are valid.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // KiB on Linux, bytes on macOS.
    usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 }
}
