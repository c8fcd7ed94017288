//! Who may call what: one table, in which every call must stand.
//!
//! A call without a row does not compile, so nothing is allowed by having been forgotten.

use std::str::FromStr;

use super::api::{ApiError, ControlRequest, ControlResponse, Role};

/// Makes the table into the two matches that need it; both are total.
macro_rules! table {
    ($($call:ident: $role:ident,)*) => {
        /// The least role that may make this call.
        pub fn needed(request: &ControlRequest) -> Role {
            match request {
                $(ControlRequest::$call { .. } => Role::$role,)*
            }
        }

        /// The answer to a call that is not served.
        pub fn refusal(request: &ControlRequest, error: ApiError) -> ControlResponse {
            match request {
                $(ControlRequest::$call { .. } => ControlResponse::$call(Err(error)),)*
            }
        }
    };
}

table! {
    HeldOutputs: Worker,
    Register: Worker,
    Heartbeat: Worker,
    NextTask: Worker,
    Report: Worker,
    FetchTrouble: Worker,
    Sources: Worker,
    JobSetup: Worker,
    ArtifactChunk: Worker,
    LogChunk: Worker,
    Ended: Worker,
    Leave: Worker,

    ArtifactSize: Submit,
    Upload: Submit,
    Submit: Submit,
    Cancel: Submit,

    FindJob: Read,
    Watch: Read,
    Jobs: Read,
    Job: Read,
    Logs: Read,
    Workers: Read,

    Drain: Admin,
}

/// Checks that a role allows a call.
pub fn check(given: Role, request: &ControlRequest) -> Result<(), ApiError> {
    let needed = needed(request);
    if includes(given, needed) { Ok(()) } else { Err(ApiError::Forbidden { needed, given }) }
}

/// Whether a role includes another: read < submit < admin, and a worker is itself alone.
fn includes(given: Role, needed: Role) -> bool {
    match (given, needed) {
        (Role::Worker, _) | (_, Role::Worker) => given == needed,
        (Role::Read | Role::Submit | Role::Admin, Role::Read | Role::Submit | Role::Admin) => given >= needed,
    }
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Admin, Self::Worker];
}

/// Text that is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the roles are read, submit, admin and worker")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        Self::ALL.into_iter().find(|role| role.to_string() == text).ok_or(NoRole)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::ids::{AttemptId, Digest, Epoch, Fence, JobId, SessionId, WorkerId};
    use crate::rpc::api::{DiskProof, JobSpec, Program, WorkerHello};

    /// One request of each call, with the roles that may make it: written out, not computed.
    pub(crate) fn requests() -> Vec<(ControlRequest, &'static [Role])> {
        use ControlRequest::{
            ArtifactChunk, ArtifactSize, Cancel, Drain, Ended, FetchTrouble, FindJob, Heartbeat, HeldOutputs, Job, JobSetup, Jobs, Leave,
            LogChunk, Logs, NextTask, Register, Report, Sources, Submit, Upload, Watch, Workers,
        };
        const WORKER: &[Role] = &[Role::Worker];
        const SUBMIT: &[Role] = &[Role::Submit, Role::Admin];
        const READ: &[Role] = &[Role::Read, Role::Submit, Role::Admin];
        const ADMIN: &[Role] = &[Role::Admin];
        let (session, job, worker, digest) = (SessionId(1), JobId(2), WorkerId(3), Digest::of(b""));
        let attempt = AttemptId { job, epoch: Epoch(1), number: 4 };
        let fence = Fence { epoch: Epoch(1), session, grant: 5 };
        vec![
            (HeldOutputs { worker, first: true, outputs: vec![] }, WORKER),
            (Register { hello: hello(worker) }, WORKER),
            (Heartbeat { session, attempts: vec![] }, WORKER),
            (NextTask { session, number: 0, ahead: false }, WORKER),
            (Report { session, attempt, fence, result: Err(Fault::Drained.into()) }, WORKER),
            (FetchTrouble { session, output: attempt, damaged: false }, WORKER),
            (Sources { session, attempt, page: 0 }, WORKER),
            (JobSetup { job }, WORKER),
            (ArtifactChunk { digest, offset: 0 }, WORKER),
            (LogChunk { session, attempt, bytes: vec![].into() }, WORKER),
            (Ended { jobs: vec![] }, WORKER),
            (Leave { session }, WORKER),
            (ArtifactSize { digest }, SUBMIT),
            (Upload { digest, offset: 0, chunk: vec![].into(), last: true }, SUBMIT),
            (Submit { spec: spec() }, SUBMIT),
            (Cancel { job }, SUBMIT),
            (FindJob { prefix: String::new() }, READ),
            (Watch { job, seen: 0 }, READ),
            (Jobs { page: 0 }, READ),
            (Job { job }, READ),
            (Logs { job, attempt: None, offset: 0 }, READ),
            (Workers {}, READ),
            (Drain { prefix: String::new() }, ADMIN),
        ]
    }

    pub(crate) fn hello(worker: WorkerId) -> WorkerHello {
        WorkerHello {
            worker,
            threads: 1,
            memory_bytes: 1 << 30,
            shuffle_address: "127.0.0.1:1".to_owned(),
            fingerprint: Digest::default(),
            disk: DiskProof { directory: "/w".into(), nonce: [0; 16] },
            resumes: None,
            platform: "x86_64-unknown-linux-gnu".to_owned(),
            place: "host, process 7".to_owned(),
            attempts: vec![],
        }
    }

    pub(crate) fn spec() -> JobSpec {
        JobSpec {
            key: "key".to_owned(),
            name: "word-count".to_owned(),
            version: "1".to_owned(),
            program: Program::Bundled("word-count".to_owned()),
            parameters: vec![],
            request: vec![],
            output: "/out".into(),
            max_bad_records: 0,
            overwrite: false,
            durable: true,
        }
    }

    #[test]
    fn every_cell_of_call_and_role_is_as_written() {
        let requests = requests();
        assert_eq!(requests.len(), 23, "a call was added: give it a line above");
        for (request, allowed) in &requests {
            for role in Role::ALL {
                let is_allowed = check(role, request).is_ok();
                assert_eq!(is_allowed, allowed.contains(&role), "{role} calls {}", tarpc::RequestName::name(request));
            }
        }
    }

    #[test]
    fn a_refusal_answers_the_call_that_was_made() {
        for (request, _) in requests() {
            let call = format!("{request:?}");
            let answer = format!("{:?}", refusal(&request, ApiError::NoSession));
            let name = call.split([' ', '{']).next().unwrap();
            assert_eq!(answer, format!("{name}(Err(NoSession))"));
        }
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!("Admin".parse::<Role>(), Err(NoRole));
    }
}
