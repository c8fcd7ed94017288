//! How large what a peer sends may be, beyond the length of its frame.
//!
//! A frame of 1 MiB can hold a million empty strings, or one where a name should be. What is checked here comes before any
//! handler sees a request; the match is total, so a new call must say what its limits are.

use super::api::{ApiError, CHUNK_BYTES, ControlRequest, JobSpec, PAGE_ENTRIES, WorkerHello};
use crate::fault::Failure;
use crate::task::{MAX_RANGE, Outcome, Tally};

/// Bytes of a name: of a job, a part, a counter, a host.
const NAME_BYTES: usize = 256;
/// Bytes of a path.
const PATH_BYTES: usize = 4096;
/// Attempts that a worker can hold.
const HELD_ATTEMPTS: usize = 4096;
/// Counters of a job.
const COUNTERS: usize = 1024;
/// Bytes of the plan in words: a few dozen paths, and two schemas.
const PLAN_TEXT_BYTES: usize = 256 << 10;
/// Bytes of a failure, with all that is said in it.
const FAILURE_BYTES: usize = 64 << 10;
/// Bytes of all of a job's parameters, and of its request.
const SPEC_BYTES: usize = 512 << 10;
/// Partitions of a job.
const PARTITIONS: usize = 10_000;

/// Checks a request, and says which limit it breaks.
pub fn check(request: &ControlRequest) -> Result<(), ApiError> {
    use ControlRequest as Call;
    match request {
        Call::HeldOutputs { outputs, .. } => at_most("outputs", outputs.len(), PAGE_ENTRIES),
        Call::Register { hello } => worker(hello),
        Call::Heartbeat { attempts, .. } => at_most("attempts", attempts.len(), HELD_ATTEMPTS),
        Call::Report { result: Ok(done), .. } => outcome(done),
        Call::Report { result: Err(failed), .. } => failure(failed),
        Call::LogChunk { bytes, .. } => at_most("bytes of a chunk", bytes.len(), CHUNK_BYTES),
        Call::Ended { jobs } => at_most("jobs", jobs.len(), PAGE_ENTRIES),
        Call::Upload { chunk, .. } => at_most("bytes of a chunk", chunk.len(), CHUNK_BYTES),
        Call::Submit { spec } => submission(spec),
        Call::FindJob { prefix } | Call::Drain { prefix } => at_most("bytes of an id", prefix.len(), NAME_BYTES),
        Call::NextTask { .. }
        | Call::FetchTrouble { .. }
        | Call::Sources { .. }
        | Call::JobSetup { .. }
        | Call::ArtifactChunk { .. }
        | Call::Leave { .. }
        | Call::ArtifactSize { .. }
        | Call::Cancel { .. }
        | Call::Watch { .. }
        | Call::Jobs { .. }
        | Call::Job { .. }
        | Call::Logs { .. }
        | Call::Workers {} => Ok(()),
    }
}

fn at_most(what: &str, is: usize, limit: usize) -> Result<(), ApiError> {
    if is <= limit { Ok(()) } else { Err(ApiError::Refused { message: format!("{is} {what} in one message; {limit} are allowed") }) }
}

fn worker(hello: &WorkerHello) -> Result<(), ApiError> {
    at_most("attempts", hello.attempts.len(), HELD_ATTEMPTS)?;
    at_most("bytes of an address", hello.shuffle_address.len(), NAME_BYTES)?;
    at_most("bytes of a platform's name", hello.platform.len(), NAME_BYTES)?;
    at_most("bytes of a place's name", hello.place.len(), NAME_BYTES)?;
    at_most("bytes of a path", hello.disk.directory.as_os_str().len(), PATH_BYTES)
}

fn outcome(outcome: &Outcome) -> Result<(), ApiError> {
    match outcome {
        Outcome::Drafted { .. } | Outcome::Surveyed { .. } => Ok(()),
        Outcome::Planned { facts, .. } => at_most("bytes of a plan in words", facts.text.len(), PLAN_TEXT_BYTES),
        Outcome::Mapped { partition_bytes, tally, .. } => {
            at_most("partitions", partition_bytes.len(), PARTITIONS)?;
            counters(tally)
        }
        Outcome::Reduced { parts, tally, .. } => {
            at_most("parts", parts.len(), MAX_RANGE as usize)?;
            parts.iter().try_for_each(|part| at_most("bytes of a part's name", part.name.len(), NAME_BYTES))?;
            counters(tally)
        }
    }
}

fn counters(tally: &Tally) -> Result<(), ApiError> {
    at_most("counters", tally.counters.len(), COUNTERS)?;
    tally.counters.keys().try_for_each(|name| at_most("bytes of a counter's name", name.len(), NAME_BYTES))
}

fn failure(failure: &Failure) -> Result<(), ApiError> {
    // Failures are rare and small; their length as a whole bounds every text and list in them.
    at_most("bytes of a failure", postcard::to_stdvec(failure).map_or(usize::MAX, |bytes| bytes.len()), FAILURE_BYTES)
}

fn submission(spec: &JobSpec) -> Result<(), ApiError> {
    at_most("bytes of a key", spec.key.len(), NAME_BYTES)?;
    at_most("bytes of a job's name", spec.name.len(), NAME_BYTES)?;
    at_most("bytes of a job's version", spec.version.len(), NAME_BYTES)?;
    at_most("bytes of a path", spec.output.as_os_str().len(), PATH_BYTES)?;
    // An empty parameter has a length, too, or there could be a million of them.
    let parameters: usize = spec.parameters.iter().map(|parameter| parameter.len() + size_of::<String>()).sum();
    at_most("bytes of parameters", parameters, SPEC_BYTES)?;
    at_most("bytes of a request", spec.request.len(), SPEC_BYTES)
}

#[cfg(test)]
mod tests {
    use super::super::roles::tests::{hello, requests, spec};
    use super::*;
    use crate::fault::Fault;
    use crate::ids::{AttemptId, Digest, Epoch, Fence, JobId, SessionId, WorkerId};
    use crate::process::Progress;
    use crate::task::{Part, PlanFacts};

    fn report(result: Result<Outcome, Failure>) -> ControlRequest {
        let (session, epoch) = (SessionId(1), Epoch(1));
        let attempt = AttemptId { job: JobId(1), epoch, number: 1 };
        ControlRequest::Report { session, attempt, fence: Fence { epoch, session, grant: 1 }, result }
    }

    fn mapped(partitions: usize, counters: impl IntoIterator<Item = String>) -> ControlRequest {
        let tally = Tally { counters: counters.into_iter().map(|name| (name, 1)).collect(), ..Tally::default() };
        report(Ok(Outcome::Mapped { index: Digest::default(), partition_bytes: vec![0; partitions], tally, set_aside: None }))
    }

    #[test]
    fn what_is_sent_in_earnest_is_let_through() {
        requests().iter().for_each(|(request, _)| assert_eq!(check(request), Ok(())));
        assert_eq!(check(&mapped(PARTITIONS, ["lines".to_owned()])), Ok(()));
    }

    #[test]
    fn what_is_too_large_is_refused_and_says_by_how_much() {
        let long = |bytes: usize| "x".repeat(bytes);
        let attempt = AttemptId { job: JobId(1), epoch: Epoch(1), number: 1 };
        let part = |name| Part { name, records: 0, bytes: 0, digest: Digest::default() };
        let reduced = |parts| report(Ok(Outcome::Reduced { list: Digest::default(), parts, tally: Tally::default() }));
        let facts = PlanFacts { text: long(PLAN_TEXT_BYTES + 1), ..PlanFacts::default() };
        let requests = [
            ControlRequest::Heartbeat { session: SessionId(1), attempts: vec![(attempt, Progress::default()); HELD_ATTEMPTS + 1] },
            ControlRequest::Register { hello: WorkerHello { place: long(257), ..hello(WorkerId(1)) } },
            ControlRequest::Register { hello: WorkerHello { platform: long(257), ..hello(WorkerId(1)) } },
            ControlRequest::Register { hello: WorkerHello { shuffle_address: long(257), ..hello(WorkerId(1)) } },
            ControlRequest::Ended { jobs: vec![JobId(1); PAGE_ENTRIES + 1] },
            ControlRequest::Upload { digest: Digest::default(), offset: 0, chunk: vec![0; CHUNK_BYTES + 1].into(), last: false },
            ControlRequest::LogChunk { session: SessionId(1), attempt, bytes: vec![0; CHUNK_BYTES + 1].into() },
            ControlRequest::Submit { spec: JobSpec { name: long(257), ..spec() } },
            ControlRequest::Submit { spec: JobSpec { key: long(257), ..spec() } },
            ControlRequest::Submit { spec: JobSpec { parameters: vec![String::new(); 500_000], ..spec() } },
            ControlRequest::Submit { spec: JobSpec { request: vec![0; SPEC_BYTES + 1], ..spec() } },
            ControlRequest::FindJob { prefix: long(257) },
            ControlRequest::Drain { prefix: long(257) },
            mapped(PARTITIONS + 1, []),
            mapped(1, [long(257)]),
            mapped(1, (0..=COUNTERS).map(|number| number.to_string())),
            reduced(vec![part(String::new()); MAX_RANGE as usize + 1]),
            reduced(vec![part(long(257))]),
            report(Ok(Outcome::Planned { plan: Digest::default(), weights: Digest::default(), facts })),
            report(Err(Fault::Refused { message: long(FAILURE_BYTES) }.into())),
        ];
        for request in requests {
            let name = tarpc::RequestName::name(&request).to_owned();
            let Err(ApiError::Refused { message }) = check(&request) else { panic!("{name} is let through") };
            assert!(message.ends_with("are allowed"), "{message}");
        }
    }
}
