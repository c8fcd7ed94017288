//! `submit`: from a crate, an executable or a bundled job's name to a job that runs, and on to its end.
//!
//! What can be wrong is found out in the order of what it costs: inputs and output, the coordinator, the build, the job's own
//! opinion of its parameters, the upload. Then one call submits, with a key under which it may be repeated without a second job.

use std::path::PathBuf;

use clap::Args;
use shardmill_datasets::RunRequest;
use shardmill_datasets::stdout::{print, print_json};
use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::{JobSpec, Program as Runs, Role};
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::rpc::secret::Secret;

use super::connect::{CALL, Coordinator, Find};
use super::error::ClientError;
use super::follow::{Interrupts, OnInterrupt, follow};
use super::preflight;
use super::program::{Program, digest_of};
use super::progress::Say;
use super::upload::upload;
use super::{Format, Shown};

/// The command.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    find: Find,
    #[command(flatten)]
    submission: Submission,
    /// Do not follow the job; print its id and leave it to itself.
    #[arg(long, short, help_heading = "Display")]
    detach: bool,
    /// Cancel the job if this command is interrupted, instead of leaving it to itself.
    #[arg(long, conflicts_with = "detach", help_heading = "Display")]
    cancel_on_exit: bool,
}

/// What is submitted, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Submission {
    /// A job crate's directory, a job's executable, or the name of a bundled job.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    #[command(flatten)]
    pub(crate) request: RunRequest,
    /// Which of a crate's executables.
    #[arg(long, value_name = "NAME", help_heading = "Job")]
    pub(crate) bin: Option<String>,
    /// A name for this submission: with the same one, the same job is found instead of a second one being started.
    #[arg(long, value_name = "KEY", help_heading = "Job")]
    pub(crate) key: Option<String>,
    /// Sync the parts to disk before they count; done unless --no-durable says otherwise.
    #[arg(long, overrides_with = "no_durable", help_heading = "Output")]
    durable: bool,
    /// Do not sync the parts to disk; a crash of a machine may damage the output.
    #[arg(long, overrides_with = "durable", help_heading = "Output")]
    no_durable: bool,
    #[command(flatten)]
    pub(crate) shown: Shown,
    /// Say nothing but errors.
    #[arg(long, short, conflicts_with = "verbose", help_heading = "Display")]
    pub(crate) quiet: bool,
    /// Say more.
    #[arg(long, short, help_heading = "Display")]
    pub(crate) verbose: bool,
    /// The job's own parameters.
    #[arg(last = true, value_name = "PARAMETERS")]
    pub(crate) parameters: Vec<String>,
}

impl Submit {
    pub(crate) async fn run(self) -> Result<u8, ClientError> {
        let Self { find, submission, detach, cancel_on_exit } = self;
        let shown = submission.shown;
        if !detach {
            let on_interrupt = if cancel_on_exit { OnInterrupt::Cancel } else { OnInterrupt::Detach };
            return submit(&find, submission, on_interrupt).await;
        }
        let say = Say::new(submission.quiet, submission.verbose);
        let Some((_, job)) = start(&find, submission, &say).await? else { return Ok(0) };
        match shown.format {
            Format::Text => print(format!("{job}\n")),
            Format::Json => print_json(&serde_json::json!({ "job": job })),
        }
        Ok(0)
    }
}

/// Submits a job and follows it to its end; the answer is the exit code.
pub(crate) async fn submit(find: &Find, submission: Submission, on_interrupt: OnInterrupt) -> Result<u8, ClientError> {
    let (say, shown) = (Say::new(submission.quiet, submission.verbose), submission.shown);
    let Some((coordinator, job)) = start(find, submission, &say).await? else { return Ok(0) };
    say.line(&format!("job     {job}"));
    // An interrupt from here on means the job; one that came before has ended this process.
    let interrupts = Interrupts::new()?;
    follow(coordinator, find, job, interrupts, on_interrupt, &say, shown).await
}

/// Submits a job; not if its parameters only ask what parameters it has, and that was answered.
async fn start(find: &Find, submission: Submission, say: &Say) -> Result<Option<(Coordinator, JobId)>, ClientError> {
    let Submission { job, request, bin, key, no_durable, quiet, parameters, .. } = submission;
    let request = preflight::check(request, key.is_some())?;
    let mut coordinator = Coordinator::reach(find, Role::Submit, say).await?;
    let program = Program::of(&job, bin.as_deref(), quiet)?;
    let description = program.describe().await?;
    if let Some(answer) = program.check(&description.name, &request.inputs[0], &request.output, &parameters).await? {
        print(answer);
        return Ok(None);
    }
    let program = match program {
        Program::Bundled(name) => Runs::Bundled(name),
        Program::Executable(path) => {
            let (digest, bytes) = digest_of(&path)?;
            upload(&mut coordinator, &path, digest, bytes, say).await?;
            Runs::Artifact { digest, bytes }
        }
    };
    let key = match key {
        Some(key) => key,
        None => Secret::random()?.expose_hex(),
    };
    let spec = JobSpec {
        key,
        name: description.name,
        version: description.version,
        program,
        parameters,
        output: request.output.clone(),
        max_bad_records: request.max_bad_records,
        overwrite: request.overwrite,
        durable: !no_durable,
        request: postcard::to_stdvec(&request).expect("a request is plain data, and its paths are text"),
    };
    let job = coordinator.patiently(async |client| client.submit(within(CALL), spec.clone()).await).await?;
    Ok(Some((coordinator, job)))
}
