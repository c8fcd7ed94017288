//! A whole job in this process: list, survey, plan, map, reduce, publish.
//!
//! The plan and the engine are the ones that a cluster uses; what differs is who calls them. What a person sees of it is in `cli.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rayon::ThreadPool;
use rayon::prelude::*;
use serde::Serialize;
use shardmill_datasets::manifest::{Digest, ManifestInput, ManifestPart, SetAside};
use shardmill_datasets::sink::{OutputFormat, SinkSpec};
use shardmill_datasets::{
    Draft, Format, ListError, Manifest, OutputClaim, Plan, PlanError, PlanOptions, Projection, PublishError, ReadError, Room, RunRequest,
    SchemaRequest, WriteError, list,
};

use crate::engine::{
    Budget, BudgetTooSmall, Partitioner, Progress, Settings, Sources, list_pairs, map_shards, range_cuts, reading, reduce_partitions,
    system_memory,
};
use crate::fault::{BadRecord, Fault};
use crate::job::{ColumnTypes, Columns, MapReduce, Partitioning};
use crate::output::OutputType;
use crate::shape::Shape;

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

/// Sizes that no budget would give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tight {
    pub(crate) collect_bytes: usize,
    pub(crate) merge_bytes: usize,
    pub(crate) fan_in: usize,
}

impl FromStr for Tight {
    type Err = String;

    /// Reads `12288,4096,3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[collect_bytes, merge_bytes, fan_in]) => Ok(Self { collect_bytes, merge_bytes, fan_in }),
            _ => Err("three numbers are wanted: COLLECT,MERGE,FAN_IN".to_owned()),
        }
    }
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot look at the input")]
    Survey(#[from] ReadError),
    #[error(transparent)]
    Budget(#[from] BudgetTooSmall),
    /// The job refuses its parameters or the input's columns.
    #[error("{0}")]
    Bind(String),
    #[error("{0}")]
    Output(String),
    #[error(transparent)]
    Sink(WriteError),
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
    pub(crate) plan: Plan,
    pub(crate) sink: SinkSpec,
    pub(crate) budget: Budget,
    room: Room,
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
        let threads = options.threads;
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("engine-{index}"));
        let pool = builder.build().map_err(|source| RunError::Threads { threads, source })?;
        let files = match list(&options.request.inputs, options.request.input_format) {
            Err(ListError::Nothing { .. }) if options.request.allow_empty => Vec::new(),
            listed => listed?,
        };
        let total_bytes = options.memory_bytes.unwrap_or_else(|| system_memory() / 2);
        let room = Room { memory_bytes: total_bytes as u64, threads: threads as u64 };
        BudgetTooSmall::check_records(&options.request, &files, room)?;
        let plan_options = PlanOptions {
            shape: J::Input::KIND,
            shard_bytes: options.request.shard_bytes,
            partitions: options.request.partitions,
            csv: options.request.csv,
            limits: options.request.limits(),
            columns: match (J::Input::columns(), job.columns().map_err(refused)?) {
                (_, Columns::Named(names)) | (Columns::Named(names), Columns::All) => Projection::Names(names),
                (Columns::All, Columns::All) => Projection::All,
            },
            schema: match job.column_types().map_err(refused)? {
                ColumnTypes::Inferred => SchemaRequest::Infer,
                ColumnTypes::Given(schema) => SchemaRequest::Given(schema),
            },
        };
        let draft = Draft::new(files, plan_options)?;
        let surveys = pool.install(|| draft.surveys().par_iter().map(|survey| survey.run(room)).collect::<Result<Vec<_>, _>>())?;
        let mut plan = draft.finish(surveys)?;
        job.bind(plan.schema.as_ref()).map_err(refused)?;
        if plan.files.iter().all(|file| file.file.format.delimiter().is_some()) {
            plan.schema = plan.schema.map(|schema| job.columns_read(&schema));
        }
        let sink = sink_spec(&job, &plan, &options)?;
        let budget = Budget::new(total_bytes, threads, &reading(&plan, room)?, sink.memory_bytes())?;
        Ok(Self { name: name.to_owned(), job, plan, sink, budget, room, pool, options, progress, started, planned: Instant::now() })
    }

    /// Runs what was planned.
    pub(crate) fn run(self, mut on_phase: impl FnMut(Phase, &Plan)) -> Result<Summary, RunError> {
        let Self { name, job, plan, sink, budget, room, pool, options, progress, started, planned } = self;
        refuse_overlap(&plan, &options.request)?;
        let id = run_id();
        let claim = OutputClaim::take(&options.request.output, &id, options.request.overwrite).map_err(RunError::Claim)?;
        let temp = TempDirectory::new(options.temp_directory.as_deref(), claim.staging(), &id)?;
        let settings = Settings {
            threads: options.threads,
            collect_bytes: options.tight.map_or(budget.collect_bytes, |tight| tight.collect_bytes),
            merge_bytes: options.tight.map_or(budget.merge_bytes, |tight| tight.merge_bytes),
            total_bytes: options.tight.map_or(budget.total_bytes, |tight| tight.collect_bytes),
            block_bytes: options.tight.map_or(budget.block_bytes, |tight| tight.merge_bytes / 4),
            fan_in: options.tight.map_or(usize::MAX, |tight| tight.fan_in),
            room,
            max_bad_records: options.request.max_bad_records,
            temp_directory: temp.path.clone(),
            durable: options.durable,
            progress: Arc::clone(&progress),
        };

        on_phase(Phase::Map, &plan);
        let partitioner = match job.partitioning() {
            Partitioning::Hash => Partitioner::Hash { partitions: plan.partitions },
            Partitioning::Range => {
                let cuts = range_cuts(&job, &plan, &settings, &pool).map_err(RunError::Fault)?;
                Partitioner::by_ranges(plan.partitions, cuts)
            }
        };
        let shards = 0..plan.shards.len() as u32;
        let mapped = map_shards(&job, &plan, shards, &partitioner, &settings, &pool).map_err(RunError::Fault)?;
        let sources = if options.is_reference {
            let pairs = list_pairs(&job, &plan, &plan.shards, u64::MAX, &settings, &pool).map_err(RunError::Fault)?;
            Sources::Pairs(pairs, partitioner)
        } else {
            Sources::new(mapped.collectors, &partitioner, &settings, &pool).map_err(RunError::Fault)?
        };

        let mapped_at = Instant::now();
        on_phase(Phase::Reduce, &plan);
        let attempt = claim.attempt("reduce")?;
        let path_of = |partition| attempt.join(sink.part_name(partition));
        let parts = reduce_partitions(&job, &sources, plan.partitions, &sink, path_of, &settings, &pool).map_err(RunError::Fault)?;
        // Giving gigabytes of tables back takes a while, and need not be waited for.
        let release = std::thread::spawn(move || drop(sources));

        let reduced_at = Instant::now();
        on_phase(Phase::Publish, &plan);
        let mut files: Vec<(PathBuf, String)> =
            (0..plan.partitions).map(|partition| (path_of(partition), sink.part_name(partition))).collect();
        if !mapped.set_aside.is_empty() {
            let path = claim.staging().join("quarantine");
            write_quarantine(&path, &mapped.set_aside).map_err(|source| RunError::Fault(Fault::disk(&path, source)))?;
            files.push((path, "_quarantine/records.jsonl".to_owned()));
        }
        let manifest = Manifest {
            job: name.clone(),
            version: J::VERSION.to_owned(),
            executable_digest: None,
            inputs: plan
                .files
                .iter()
                .map(|planned| {
                    let file = &planned.file;
                    ManifestInput {
                        path: file.path.display().to_string(),
                        bytes: file.bytes,
                        modified_ns: file.fingerprint.modified_ns,
                        head: Digest(file.fingerprint.head),
                    }
                })
                .collect(),
            parts: parts.iter().zip(0..).map(|(part, partition)| ManifestPart::new(sink.part_name(partition), part)).collect(),
            counters: mapped.counters.clone(),
            set_aside: mapped
                .set_aside
                .iter()
                .map(|bad| SetAside {
                    file: bad.file.display().to_string(),
                    shard: bad.shard.into(),
                    record: bad.record,
                    offset: bad.offset,
                    cause: bad.cause.clone(),
                })
                .collect(),
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
            input_files: plan.files.len(),
            input_bytes: plan.input_bytes,
            input_records: progress.input_records.load(Relaxed),
            shards: plan.shards.len(),
            partitions: plan.partitions,
            groups: progress.groups.load(Relaxed),
            output_records: parts.iter().map(|part| part.records).sum(),
            output_bytes: parts.iter().map(|part| part.bytes).sum(),
            spilled_bytes: progress.spilled_bytes.load(Relaxed),
            spilled_runs: progress.spilled_runs.load(Relaxed),
            merge_passes: progress.merge_passes.load(Relaxed),
            bad_records: mapped.set_aside.len() as u64,
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

/// The job refuses its parameters, or the input's columns.
fn refused(error: Box<dyn std::error::Error + Send + Sync>) -> RunError {
    RunError::Bind(error.to_string())
}

/// Refuses an output that is or holds what is read: it would be replaced.
fn refuse_overlap(plan: &Plan, request: &RunRequest) -> Result<(), RunError> {
    match request.overlap(plan.files.iter().map(|planned| planned.file.path.as_path())) {
        Some(path) => {
            Err(RunError::Output(format!("output {} holds the input {}: it would be replaced", request.output.display(), path.display())))
        }
        None => Ok(()),
    }
}

/// What the parts look like; refused here if the job cannot write it.
fn sink_spec<J: MapReduce>(job: &J, plan: &Plan, options: &Options) -> Result<SinkSpec, RunError> {
    let fits = |format| <J::Output as OutputType<J>>::fits(job, format);
    let of_fixed = plan.files.iter().any(|file| matches!(file.file.format, Format::Fixed(_)));
    let default = if of_fixed && fits(OutputFormat::Bytes) {
        OutputFormat::Bytes
    } else if fits(OutputFormat::Csv) {
        OutputFormat::Csv
    } else {
        OutputFormat::Text
    };
    let format = options.request.output_format.unwrap_or(default);
    if !fits(format) {
        let possible: Vec<String> = OutputFormat::ALL.into_iter().filter(|format| fits(*format)).map(|format| format.to_string()).collect();
        return Err(RunError::Output(format!(
            "this job's output cannot be written as {format}; --output-format can be {}",
            possible.join(", ")
        )));
    }
    let schema = <J::Output as OutputType<J>>::schema(job).map_err(|error| RunError::Output(error.to_string()))?;
    let sink = SinkSpec { format, compression: options.request.output_compression, schema };
    sink.check().map_err(RunError::Sink)?;
    Ok(sink)
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

/// Writes the records that were set aside, one JSON object a line, in input order.
fn write_quarantine(path: &Path, records: &[BadRecord]) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        file: String,
        shard: u32,
        record: u64,
        offset: u64,
        cause: &'a str,
        /// The record as text, where it is UTF-8; else in hexadecimal.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hex: Option<String>,
    }
    let mut out = Vec::new();
    for bad in records {
        let text = std::str::from_utf8(&bad.bytes).ok();
        let hex = text.is_none().then(|| bad.bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let line = Line {
            file: bad.file.display().to_string(),
            shard: bad.shard,
            record: bad.record,
            offset: bad.offset,
            cause: &bad.cause,
            text,
            hex,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    fs::write(path, out)
}

/// The most memory that this process had at any time.
fn peak_memory_bytes() -> u64 {
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
