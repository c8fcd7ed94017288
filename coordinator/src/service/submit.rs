//! Submissions: the one call that does something outside of the scheduler, as it claims the output.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::{ApiError, JobSpec, Program};
use shardmill_scheduler::{Answer, Event, Submission};

use super::{Service, blocking, unexpected};
use crate::publish::chain;

/// Lets one submission with a key wait for another one with the same.
#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Keys {
    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = keys.get(key).and_then(Weak::upgrade) {
            return gate;
        }
        keys.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::default();
        keys.insert(key.to_owned(), Arc::downgrade(&gate));
        gate
    }
}

fn refused(message: impl Into<String>) -> ApiError {
    ApiError::Refused { message: message.into() }
}

impl Service {
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    pub(super) fn refuse_if_full(&self) -> Result<(), ApiError> {
        match self.is_full() {
            true => Err(ApiError::Unavailable { message: "the disk with its state directory is full".to_owned() }),
            false => Ok(()),
        }
    }

    /// Takes a job on, or finds the one that was submitted with the same key.
    pub(super) async fn submit(&self, spec: JobSpec) -> Result<JobId, ApiError> {
        let gate = self.keys.of(&spec.key);
        let _turn = gate.lock().await;
        let key = spec.key.clone();
        let known = self.driver.read(move |driver| driver.job_of_key(&key).map(|job| (job, driver.target(job)))).await?;
        if let Some((job, target)) = known {
            // Of a job that is history the submission is not kept.
            return match target.is_none_or(|target| target.spec == spec) {
                true => Ok(job),
                false => Err(refused(format!("key {:?} is that of job {job}, which was submitted as something else", spec.key))),
            };
        }
        self.refuse_if_full()?;
        self.check(&spec).await?;
        let job = new_job().map_err(|cause| ApiError::Unavailable { message: format!("no new id can be made: {cause}") })?;
        let (publisher, claimed) = (self.publisher.clone(), spec.clone());
        let claim = blocking(move || publisher.claim(job, &claimed)).await?;
        let output = claim.map_err(|error| refused(chain(&error)))?;
        let answer = match output.to_str() {
            Some(text) => self.hand_over(job, &spec, text.to_owned()).await,
            None => Err(refused(format!("output {} is not UTF-8", output.display()))),
        };
        if answer != Ok(job) && !matches!(answer, Err(ApiError::Unavailable { .. })) {
            self.release(job, output).await?;
        }
        answer
    }

    /// Gives a job to the scheduler. If the driver stops before it answers, nobody knows whether the job is journaled; the next
    /// start gives the claim up if it is not.
    async fn hand_over(&self, job: JobId, spec: &JobSpec, output: String) -> Result<JobId, ApiError> {
        let submission = Submission {
            job,
            key: spec.key.clone(),
            output: output.clone(),
            max_bad_records: spec.max_bad_records,
            spec: postcard::to_stdvec(spec).expect("a spec is plain data"),
        };
        match self.driver.ask(move |reply| Event::Submit { reply, submission }).await? {
            Answer::Submitted { job, .. } => Ok(job),
            Answer::OutputClaimed { by } => Err(refused(format!("output {output} is being written by coordinator job {by}"))),
            other => Err(unexpected(&other)),
        }
    }

    /// Checks what can be checked before the output is claimed.
    async fn check(&self, spec: &JobSpec) -> Result<(), ApiError> {
        if !spec.output.is_absolute() {
            return Err(refused(format!("output {} is no absolute path", spec.output.display())));
        }
        let Program::Artifact { digest, bytes } = spec.program else { return Ok(()) };
        let artifacts = self.artifacts.clone();
        match blocking(move || artifacts.has(digest, bytes)).await? {
            true => Ok(()),
            false => Err(refused(format!("executable {digest} of {bytes} bytes is not here: upload it first"))),
        }
    }

    /// Releases a claim for which there is no job.
    async fn release(&self, job: JobId, output: PathBuf) -> Result<(), ApiError> {
        let publisher = self.publisher.clone();
        if let Err(error) = blocking(move || publisher.release(job, &output, false)).await? {
            tracing::warn!(%job, error = chain(&error), "claim cannot be given up; the next start tries again");
        }
        Ok(())
    }
}

/// A ULID: 48 bits of milliseconds since 1970, which order jobs for those who look at them, and 80 random ones.
fn new_job() -> Result<JobId, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random[..10])?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = since_1970.as_millis() & ((1 << 48) - 1);
    Ok(JobId(milliseconds << 80 | u128::from_le_bytes(random)))
}
