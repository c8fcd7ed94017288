//! The tasks of a job process: what each reads, does and leaves.
//!
//! ```text
//! task     reads                 leaves                                                   all files in postcard but weights and quarantine
//! draft                          draft       Draft
//! survey   draft                 surveys     Vec<SurveyResult>, one for each of the range
//! plan     draft, surveys …      plan        (Vec<ManifestInput>, JobPlan)
//!                                weights     bytes of each shard
//! map      plan                  map.run, unless there is room for it in memory, and map.index in the worker's directory;
//!                                quarantine, if records were set aside
//! reduce   plan, sources         part-…
//! ```
//! The inputs stand in front of the plan because the coordinator, which writes the manifest, reads them and nothing else of it. A
//! worker reads files and shards, with which the plan begins, to say where a record lies that has brought a process down.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use clap::Args;
use rayon::ThreadPool;
use shardmill_datasets::manifest::ManifestInput;
use shardmill_datasets::{Draft, Room, RunRequest, SurveyResult, index};
use shardmill_protocol::process::{Order, Setup};
use shardmill_protocol::slots::Slots;
use shardmill_protocol::task::{Outcome, Part, Tally, Task, encode_weights};
use shardmill_protocol::{Digest, VERSION};

use super::failure::TaskError;
use super::staged;
use crate::engine::{
    LeftOut, Place, Progress, SealedOutputs, Settings, Sources, Spares, Tight, map_shards, reduce_partitions, seal, thread_pool,
};
use crate::fault::Fault;
use crate::job::MapReduce;
use crate::local::peak_memory_bytes;
use crate::planning::{self, JobPlan, Readers};

/// A job process that is set up.
pub(super) struct JobProcess<J: MapReduce> {
    setup: Setup,
    request: RunRequest,
    tight: Option<Tight>,
    /// The threads of the last attempt: the next one most often has as many.
    pool: Option<Arc<ThreadPool>>,
    /// The job as the last plan has bound it, with that plan's digest.
    bound: Option<Arc<Bound<J>>>,
    /// What map attempts leave to the next one.
    spares: Spares,
}

struct Bound<J> {
    digest: Digest,
    job: J,
    plan: JobPlan,
}

/// What an attempt has to work with.
struct Means<'a> {
    order: &'a Order,
    threads: usize,
    pool: Arc<ThreadPool>,
    progress: Arc<Progress>,
    slots: Arc<Slots>,
    tight: Option<Tight>,
    max_bad_records: u64,
    spares: Spares,
}

impl Means<'_> {
    fn room(&self) -> Room {
        Room { memory_bytes: self.order.memory_bytes, threads: self.threads as u64 }
    }

    /// Settings to plan with. How much memory a thread needs is a part of the plan, and not every worker has as little as this one.
    fn settings_to_plan(&self, plan: &JobPlan) -> Result<Settings, TaskError> {
        let memory_bytes = self.order.memory_bytes.max(plan.least_share());
        self.settings_in(Room { memory_bytes, threads: 1 }, plan, &self.order.directory)
    }

    fn settings(&self, plan: &JobPlan, temp_directory: &Path) -> Result<Settings, TaskError> {
        self.settings_in(self.room(), plan, temp_directory)
    }

    fn settings_in(&self, room: Room, plan: &JobPlan, temp_directory: &Path) -> Result<Settings, TaskError> {
        let budget = plan.budget(room)?;
        Ok(Settings {
            max_bad_records: self.max_bad_records,
            durable: self.order.durable,
            progress: Arc::clone(&self.progress),
            spares: self.spares.clone(),
            ..Settings::new(&budget, self.tight, self.threads, temp_directory.to_owned(), Arc::clone(&self.slots))
        })
    }

    fn tally(&self) -> Tally {
        let progress = &self.progress;
        Tally {
            records: progress.input_records.load(Relaxed),
            bytes: progress.input_bytes.load(Relaxed),
            groups: progress.groups.load(Relaxed),
            spilled_bytes: progress.spilled_bytes.load(Relaxed),
            spilled_runs: progress.spilled_runs.load(Relaxed),
            merge_passes: progress.merge_passes.load(Relaxed),
            peak_memory_bytes: peak_memory_bytes(),
            counters: Default::default(),
        }
    }
}

/// The job with these parameters, parsed as `run` parses them.
fn parse<J: Args>(setup: &Setup) -> Result<J, TaskError> {
    let command = J::augment_args(clap::Command::new(setup.name.clone()).no_binary_name(true));
    let matches = command.try_get_matches_from(&setup.parameters);
    let job = matches.and_then(|matches| J::from_arg_matches(&matches));
    job.map_err(|error| TaskError::Parameters(error.render().to_string().trim_end().to_owned()))
}

impl<J: MapReduce + Args> JobProcess<J> {
    /// Sets up a process for a job.
    pub(super) fn new(setup: Setup, tight: Option<Tight>) -> Result<Self, TaskError> {
        if setup.version.0 != VERSION.0 {
            return Err(TaskError::Version);
        }
        let request = staged::decode(&setup.request)?;
        parse::<J>(&setup)?;
        Ok(Self { setup, request, tight, pool: None, bound: None, spares: Spares::default() })
    }

    /// Forgets what an attempt that has panicked may have left in a bad state.
    pub(super) fn forget(&mut self) {
        (self.pool, self.bound, self.spares) = (None, None, Spares::default());
    }

    /// Does what is ordered.
    pub(super) fn perform(&mut self, order: &Order, progress: Arc<Progress>, slots: Arc<Slots>) -> Result<Outcome, TaskError> {
        let threads = order.threads.max(1) as usize;
        let pool = match self.pool.take() {
            Some(pool) if pool.current_num_threads() == threads => pool,
            _ => Arc::new(thread_pool(threads)?),
        };
        self.pool = Some(Arc::clone(&pool));
        if !matches!(order.task, Task::Map(_)) {
            self.spares = Spares::default();
        }
        let (max_bad_records, spares) = (self.request.max_bad_records, self.spares.clone());
        let means = Means { order, threads, pool, progress, slots, tight: self.tight, max_bad_records, spares };
        match &order.task {
            Task::Draft => self.draft(&means),
            Task::Survey(range) => self.survey(range.clone(), &means),
            Task::Plan => self.plan(&means),
            Task::Map(shards) => self.map(shards.clone(), &means),
            Task::Reduce(partitions) => self.reduce(partitions.clone(), &means),
        }
    }

    fn draft(&self, means: &Means<'_>) -> Result<Outcome, TaskError> {
        let draft = planning::draft(&parse::<J>(&self.setup)?, &self.request, Readers::Anywhere, means.room())?;
        let surveys = draft.surveys().len() as u32;
        Ok(Outcome::Drafted { draft: staged::write(means.order, "draft", &staged::encode(&draft)?)?, surveys })
    }

    fn survey(&self, range: Range<u32>, means: &Means<'_>) -> Result<Outcome, TaskError> {
        let draft: Draft = staged::decode(&staged::read(means.order, &self.setup.staging, 0)?.0)?;
        let range = within(&range, draft.surveys().len())?;
        let results = planning::surveys(&draft, range, means.room(), &means.pool, &means.progress)?;
        Ok(Outcome::Surveyed { surveys: staged::write(means.order, "surveys", &staged::encode(&results)?)? })
    }

    fn plan(&mut self, means: &Means<'_>) -> Result<Outcome, TaskError> {
        let read = |number| staged::read(means.order, &self.setup.staging, number);
        let draft: Draft = staged::decode(&read(0)?.0)?;
        let mut results: Vec<SurveyResult> = Vec::new();
        for number in 1..means.order.inputs.len() {
            results.append(&mut staged::decode(&read(number)?.0)?);
        }
        let mut job = parse::<J>(&self.setup)?;
        let mut plan = planning::finish(&mut job, &self.request, draft, results)?;
        plan.measure()?;
        let settings = means.settings_to_plan(&plan)?;
        plan.cut(&job, &settings, &means.pool)?;
        let weights = encode_weights(plan.input.shards.iter().map(|shard| shard.bytes));
        let weights = staged::write(means.order, "weights", &weights)?;
        let digest = staged::write(means.order, "plan", &staged::encode(&(plan.manifest_inputs(), &plan))?)?;
        let facts = plan.facts();
        self.bound = Some(Arc::new(Bound { digest, job, plan }));
        Ok(Outcome::Planned { plan: digest, weights, facts })
    }

    /// The job, bound to the plan that the order names.
    fn bound(&mut self, order: &Order) -> Result<Arc<Bound<J>>, TaskError> {
        if let Some(bound) = &self.bound
            && order.inputs.first().is_some_and(|input| input.digest == bound.digest)
        {
            return Ok(Arc::clone(bound));
        }
        let (bytes, digest) = staged::read(order, &self.setup.staging, 0)?;
        let (_, plan): (Vec<ManifestInput>, JobPlan) = staged::decode(&bytes)?;
        let mut job = parse::<J>(&self.setup)?;
        plan.bind(&mut job)?;
        Ok(Arc::clone(self.bound.insert(Arc::new(Bound { digest, job, plan }))))
    }

    fn map(&mut self, shards: Range<u32>, means: &Means<'_>) -> Result<Outcome, TaskError> {
        let Means { order, pool, threads, .. } = means;
        let bound = self.bound(order)?;
        let Bound { job, plan, .. } = &*bound;
        within(&shards, plan.input.shards.len())?;
        let runs = order.directory.join("runs");
        fs::create_dir(&runs).map_err(|source| Fault::disk(&runs, source))?;
        let settings = means.settings(plan, &runs)?;
        let left_out: LeftOut = order.set_aside.iter().map(|one| (one.shard, one.record)).collect();
        let partitioner = plan.partitioner();
        let mapped = map_shards(job, &plan.input, shards, &left_out, &partitioner, &settings, pool)?;
        let (sources, spare_bytes) = Sources::new(mapped.collectors, &partitioner, &settings, pool)?;
        // Half of what is left stays with the allocator's rounding and what reading takes.
        let held_bytes = spare_bytes / threads / 2;
        // Sealed it is hardly ever more: headers of blocks come to it, and what memory holds has more about it.
        let most_bytes = means.progress.collected_bytes.load(Relaxed);
        let memory = order.memory.as_ref().filter(|memory| most_bytes <= memory.bytes).map(|memory| memory.path.as_path());
        let place = Place { path: &order.directory.join("map.run"), memory, held_bytes };
        let sealed = seal(job, &sources, partitioner.partitions(), &place, &settings, pool)?;
        sources.retire(&settings);
        let set_aside = match mapped.set_aside.records() {
            0 => None,
            records => {
                let path = order.staged.join("quarantine");
                mapped.set_aside.write(&path, order.durable)?;
                Some((records, staged::digest(order, &path)?))
            }
        };
        fs::remove_dir_all(&runs).map_err(|source| Fault::disk(&runs, source))?;
        let index_path = order.directory.join("map.index");
        fs::write(&index_path, index::encode(sealed.segments())).map_err(|source| Fault::disk(&index_path, source))?;
        Ok(Outcome::Mapped {
            index: Digest(index::digest(sealed.segments())),
            partition_bytes: sealed.segments().iter().map(|segment| segment.content_bytes).collect(),
            tally: Tally { counters: mapped.counters, ..means.tally() },
            set_aside,
        })
    }

    fn reduce(&mut self, range: Range<u32>, means: &Means<'_>) -> Result<Outcome, TaskError> {
        let Means { order, pool, .. } = means;
        let bound = self.bound(order)?;
        let Bound { job, plan, .. } = &*bound;
        let partitions = plan.input.partitions;
        within(&range, partitions as usize)?;
        let settings = means.settings(plan, &order.directory)?;
        let path = order.sources.as_deref().ok_or_else(|| TaskError::Unexpected("a reduce task without sources".to_owned()))?;
        let outputs = SealedOutputs::read(path, range.clone(), Arc::clone(&means.progress.reduced_bytes))?;
        let sources = if outputs.is_empty() && plan.input.shards.is_empty() {
            // No map task has seeded the job, since there was none.
            let partitioner = plan.partitioner();
            let seeds = map_shards(job, &plan.input, 0..0, &LeftOut::new(), &partitioner, &settings, pool)?;
            Sources::new(seeds.collectors, &partitioner, &settings, pool)?.0
        } else {
            Sources::Sealed(outputs)
        };
        let path_of = |partition| order.staged.join(plan.sink.part_name(partition));
        let parts = reduce_partitions(job, &sources, range.clone(), partitions, &plan.sink, path_of, &settings, pool)?;
        if let Some(skew) = means.progress.skew::<J>() {
            // For the log of the attempt.
            let _ = writeln!(std::io::stderr(), "warning: of partitions {}..{}: {skew}", range.start, range.end);
        }
        staged::settle(order)?;
        let parts = range.zip(parts).map(|(partition, part)| Part {
            name: plan.sink.part_name(partition),
            records: part.records,
            bytes: part.bytes,
            digest: Digest(part.digest),
        });
        // Which list of outputs stands behind the file of sources is known to the worker, who made it.
        Ok(Outcome::Reduced { list: Digest::default(), parts: parts.collect(), tally: means.tally() })
    }
}

/// The range in numbers of a slice, if it lies within so many units.
fn within(range: &Range<u32>, units: usize) -> Result<Range<usize>, TaskError> {
    let range = range.start as usize..range.end as usize;
    if range.start > range.end || range.end > units {
        return Err(TaskError::Unexpected(format!("there are {units} units, none or not all of {}..{}", range.start, range.end)));
    }
    Ok(range)
}
