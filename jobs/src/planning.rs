//! Planning: from a request to all that map and reduce tasks need to know, in three steps.
//!
//! ```text
//! request ─▶ draft ─▶ surveys ─▶ finish ─▶ JobPlan [─▶ cut]        the same anywhere; a process that maps or reduces binds its job to it
//! ```
//! A local run takes the steps in a row. In a cluster each is a task of its own, and what lies between them is a file. Nothing here depends on
//! threads, memory or machines: so the plan does not, and neither does the output.

use std::fmt::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use arrow::datatypes::SchemaRef;
use indicatif::HumanBytes;
use rayon::ThreadPool;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use shardmill_datasets::manifest::{Digest, ManifestInput};
use shardmill_datasets::sink::{OutputFormat, SinkSpec};
use shardmill_datasets::{
    Compression, Draft, Format, ListError, Plan, PlanError, PlanOptions, Projection, ReadError, Room, RunRequest, SchemaRequest,
    Shape as Kind, Survey, SurveyResult, WriteError, list,
};
use shardmill_protocol::task::PlanFacts;

use crate::engine::{Budget, BudgetTooSmall, Partitioner, Progress, Reading, Settings, range_cuts, reading};
use crate::fault::Fault;
use crate::job::{ColumnTypes, Columns, MapReduce, Partitioning};
use crate::output::OutputType;
use crate::shape::Shape;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanningError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot look at the input")]
    Survey(#[from] ReadError),
    /// The job refuses its parameters or the input's columns.
    #[error("{0}")]
    Bind(String),
    #[error("{} has columns and {} has none: they cannot be read together", with.display(), without.display())]
    Mixed { with: PathBuf, without: PathBuf },
    #[error("output {} holds the input {}: it would be replaced", output.display(), input.display())]
    Overlap { output: PathBuf, input: PathBuf },
    /// The job's rows cannot be written as asked for.
    #[error("{0}")]
    Output(String),
    #[error(transparent)]
    Sink(WriteError),
    #[error(transparent)]
    Budget(#[from] BudgetTooSmall),
    /// The run was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The job refuses its parameters, or the input's columns.
fn refused(error: Box<dyn std::error::Error + Send + Sync>) -> PlanningError {
    PlanningError::Bind(error.to_string())
}

/// Who will read the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// This machine: a file is known by its inode too.
    Here,
    /// Any machine that sees the files.
    Anywhere,
}

/// Lists the input and finds out what must be surveyed.
///
/// Refuses records as long as are asked for if there is no `room` for them.
pub(crate) fn draft<J: MapReduce>(job: &J, request: &RunRequest, readers: Readers, room: Room) -> Result<Draft, PlanningError> {
    let mut files = match list(&request.inputs, request.input_format) {
        Err(ListError::Nothing { .. }) if request.allow_empty => Vec::new(),
        listed => listed?,
    };
    for file in &mut files {
        file.drift = request.input_drift;
        if readers == Readers::Anywhere {
            file.fingerprint = file.fingerprint.portable();
        }
    }
    BudgetTooSmall::check_records(request, &files, room)?;
    let options = PlanOptions {
        shape: J::Input::KIND,
        shard_bytes: request.shard_bytes,
        partitions: request.partitions,
        csv: request.csv,
        limits: request.limits(),
        columns: match (J::Input::columns(), job.columns().map_err(refused)?) {
            (_, Columns::Named(names)) | (Columns::Named(names), Columns::All) => Projection::Names(names),
            (Columns::All, Columns::All) => Projection::All,
        },
        schema: match job.column_types().map_err(refused)? {
            ColumnTypes::Inferred => SchemaRequest::Infer,
            ColumnTypes::Given(schema) => SchemaRequest::Given(schema),
        },
        sampled: job.partitioning() == Partitioning::Range,
    };
    Ok(Draft::new(files, options)?)
}

/// Runs some of a draft's surveys.
pub(crate) fn surveys(
    draft: &Draft,
    range: Range<usize>,
    room: Room,
    pool: &ThreadPool,
    progress: &Progress,
) -> Result<Vec<SurveyResult>, PlanningError> {
    let surveys = draft.surveys()[range].par_iter();
    let go_on = || if progress.is_interrupted() { Err(PlanningError::Interrupted) } else { Ok(()) };
    let run = |survey: &Survey| {
        go_on()?;
        progress.steps.fetch_add(1, Relaxed);
        Ok(survey.run(room)?)
    };
    let results = pool.install(|| surveys.map(run).collect());
    // Even if there was nothing to look at.
    go_on()?;
    results
}

/// Makes the plan of what all surveys have found, and checks everything that can be checked before work begins. The job is bound then.
pub(crate) fn finish<J: MapReduce>(
    job: &mut J,
    request: &RunRequest,
    draft: Draft,
    surveys: Vec<SurveyResult>,
) -> Result<JobPlan, PlanningError> {
    let mut input = draft.finish(surveys)?;
    let bound_to = Schema(input.schema.clone());
    input.schema = bind(job, &input, bound_to.0.clone())?;
    if let Some(overlap) = request.overlap(input.files.iter().map(|planned| planned.file.path.as_path())) {
        return Err(PlanningError::Overlap { output: request.output.clone(), input: overlap.to_owned() });
    }
    let sink = sink_spec(job, &input, request)?;
    Ok(JobPlan { input, bound_to, sink, cuts: None, reading: None })
}

/// Binds a job to the input's columns, and returns the columns that are read.
fn bind<J: MapReduce>(job: &mut J, input: &Plan, schema: Option<SchemaRef>) -> Result<Option<SchemaRef>, PlanningError> {
    job.bind(schema.as_ref()).map_err(refused)?;
    let tabular = |tabular: bool| input.files.iter().find(move |planned| Kind::Any.is_tabular(planned.file.format) == tabular);
    if let (Kind::Any, Some(with), Some(without)) = (J::Input::KIND, tabular(true), tabular(false)) {
        return Err(PlanningError::Mixed { with: with.file.path.clone(), without: without.file.path.clone() });
    }
    let is_delimited = input.files.iter().all(|file| file.file.format.delimiter().is_some());
    Ok(if is_delimited { schema.map(|schema| job.columns_read(&schema)) } else { schema })
}

/// What the parts look like; refused here if the job cannot write it.
fn sink_spec<J: MapReduce>(job: &J, input: &Plan, request: &RunRequest) -> Result<SinkSpec, PlanningError> {
    let fits = |format| <J::Output as OutputType<J>>::fits(job, format);
    let of_fixed = input.files.iter().any(|file| matches!(file.file.format, Format::Fixed(_)));
    let default = if of_fixed && fits(OutputFormat::Bytes) {
        OutputFormat::Bytes
    } else if fits(OutputFormat::Csv) {
        OutputFormat::Csv
    } else {
        OutputFormat::Text
    };
    let format = request.output_format.unwrap_or(default);
    if !fits(format) {
        let possible: Vec<String> = OutputFormat::ALL.into_iter().filter(|format| fits(*format)).map(|format| format.to_string()).collect();
        return Err(PlanningError::Output(format!(
            "this job's output cannot be written as {format}; --output-format can be {}",
            possible.join(", ")
        )));
    }
    let schema = <J::Output as OutputType<J>>::schema(job).map_err(|error| PlanningError::Output(error.to_string()))?;
    let sink = SinkSpec { format, compression: request.output_compression, schema };
    sink.check().map_err(PlanningError::Sink)?;
    Ok(sink)
}

/// All that map and reduce tasks need to know.
#[derive(Serialize, Deserialize)]
pub(crate) struct JobPlan {
    /// Files, shards, partitions, columns. The first of all: a worker reads it without the rest.
    pub(crate) input: Plan,
    /// What the parts look like.
    pub(crate) sink: SinkSpec,
    /// The columns that the job is bound to; `input` has those that it reads.
    bound_to: Schema,
    /// Where keys are cut into ranges, for jobs that want that.
    cuts: Option<Vec<Vec<u8>>>,
    /// What reading takes on one thread, where that was measured for others.
    reading: Option<Reading>,
}

/// The columns of an input, if it has some.
#[derive(Serialize, Deserialize)]
struct Schema(#[serde(with = "shardmill_datasets::survey::schema_bytes::optional")] Option<SchemaRef>);

impl JobPlan {
    /// Binds another process's job to this plan.
    pub(crate) fn bind<J: MapReduce>(&self, job: &mut J) -> Result<(), PlanningError> {
        bind(job, &self.input, self.bound_to.0.clone()).map(|_| ())
    }

    /// Chooses where keys are cut into ranges, if the job wants that: by a sample of the input.
    pub(crate) fn cut<J: MapReduce>(&mut self, job: &J, settings: &Settings, pool: &ThreadPool) -> Result<(), Fault> {
        if job.partitioning() == Partitioning::Range {
            self.cuts = Some(range_cuts(job, &self.input, settings, pool)?);
        }
        Ok(())
    }

    /// How keys are spread over partitions. To be asked once keys are cut.
    pub(crate) fn partitioner(&self) -> Partitioner {
        match &self.cuts {
            None => Partitioner::Hash { partitions: self.input.partitions },
            Some(cuts) => Partitioner::by_ranges(self.input.partitions, cuts.clone()),
        }
    }

    /// Measures what reading takes, so that nobody else needs to look at the files for that.
    pub(crate) fn measure(&mut self) -> Result<(), PlanningError> {
        // As if there were the least memory that anybody works in: what is measured does not depend on how much there is here.
        let room = Room { memory_bytes: Budget::least_share(&Reading::default(), 0) as u64, threads: 1 };
        self.reading = Some(reading(&self.input, room)?);
        Ok(())
    }

    /// The least memory for a thread. To be asked once it was measured.
    pub(crate) fn least_share(&self) -> u64 {
        Budget::least_share(&self.reading.clone().unwrap_or_default(), self.sink.memory_bytes()) as u64
    }

    /// Shares memory out among threads.
    pub(crate) fn budget(&self, room: Room) -> Result<Budget, PlanningError> {
        let measured = self.reading.clone().map_or_else(|| reading(&self.input, room), Ok)?;
        let of = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Budget::new(of(room.memory_bytes), of(room.threads), &measured, self.sink.memory_bytes())?)
    }

    /// The input files, as the manifest names them.
    pub(crate) fn manifest_inputs(&self) -> Vec<ManifestInput> {
        let of = |planned: &shardmill_datasets::PlannedFile| ManifestInput {
            path: planned.file.path.display().to_string(),
            bytes: planned.file.bytes,
            modified_ns: planned.file.fingerprint.modified_ns,
            head: Digest(planned.file.fingerprint.head),
        };
        self.input.files.iter().map(of).collect()
    }

    /// What others than the job want to know. To be asked once it was measured.
    pub(crate) fn facts(&self) -> PlanFacts {
        let thread_memory_bytes = self.least_share();
        let mut text = self.to_string();
        let _ = writeln!(text, "  memory      {} for each thread at least", HumanBytes(thread_memory_bytes));
        PlanFacts {
            files: self.input.files.len() as u64,
            input_bytes: self.input.input_bytes,
            shards: self.input.shards.len() as u32,
            partitions: self.input.partitions,
            thread_memory_bytes,
            text,
        }
    }
}

/// Files and columns beyond these are not told by name.
const TOLD_FILES: usize = 20;
const TOLD_SCHEMA_CHARACTERS: usize = 4096;

/// The plan in words, as `--explain` prints it.
impl std::fmt::Display for JobPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let input = &self.input;
        writeln!(f, "plan")?;
        let files = input.files.len();
        writeln!(f, "  input       {} in {files} file{}", HumanBytes(input.input_bytes), if files == 1 { "" } else { "s" })?;
        for file in input.files.iter().take(TOLD_FILES) {
            let (format, bytes) = (file.file.format, HumanBytes(file.file.bytes));
            let compression = match file.file.compression {
                Compression::None => String::new(),
                compression => format!("{compression}, "),
            };
            writeln!(f, "              {} ({format}, {compression}{bytes})", file.file.path.display())?;
        }
        if files > TOLD_FILES {
            writeln!(f, "              and {} more", files - TOLD_FILES)?;
        }
        if let Some(schema) = &input.schema {
            writeln!(f, "  columns     {}", told(schema))?;
        }
        writeln!(f, "  shards      {}", input.shards.len())?;
        writeln!(f, "  partitions  {}, each a part: {} …", input.partitions, self.sink.part_name(0))?;
        match &self.sink.schema {
            Some(schema) => writeln!(f, "  output      {}", told(schema)),
            None => Ok(()),
        }
    }
}

fn told(schema: &SchemaRef) -> String {
    let mut text = shardmill_datasets::table::schema_text(schema);
    if let Some((end, _)) = text.char_indices().nth(TOLD_SCHEMA_CHARACTERS) {
        text.truncate(end);
        text.push_str(" …");
    }
    text
}
