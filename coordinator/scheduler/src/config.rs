//! Every duration and limit of the scheduler. Tests run with leases of half a second; nothing here is known anywhere else.

use std::time::Duration;

/// The knobs of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How often a worker sends a heartbeat; stragglers are looked for as often.
    pub heartbeat: Duration,
    /// After this long in silence nothing is granted to a worker.
    pub suspect: Duration,
    /// How long a session lives unheard, and how long a restarted coordinator waits for the workers that it knows.
    pub lease: Duration,
    /// A grant that a worker has not listed for this long has never reached it.
    pub unlisted: Duration,
    /// How long sweeping waits for workers to have killed what they run of an ended job.
    pub kill: Duration,
    /// The first backoff after a failure; doubled each time.
    pub backoff: Duration,
    /// The longest backoff.
    pub longest_backoff: Duration,
    /// Attempts beyond the first that every job may have, besides a tenth of those accepted.
    pub spare_attempts: u64,
    /// Charges that end a job when they fall on one shard or partition; so do as many damaged outputs of one range.
    pub unit_charges: u32,
    /// Charges after which a worker is left out of a job.
    pub worker_charges: u32,
    /// Workers that may be lost with a shard or partition before its job is ended.
    pub lost_workers: u32,
    /// A straggler is at least this old.
    pub backup_age: Duration,
    /// New sessions of one worker within a minute from which on it is asked to wait.
    pub sessions_per_minute: usize,
    /// The shortest wait of such a worker; doubled each time.
    pub readmission: Duration,
    /// The longest.
    pub longest_readmission: Duration,
    /// How much of its even part of what is pending a task has, in thousandths: less means more and smaller tasks, of which none makes the
    /// others wait long in the end.
    pub portion: u64,
    /// What a task should take at least, while there is enough for all: a table to begin with and sealing what it holds in the end cost as
    /// much as mapping for a fifth of a second.
    pub least_task: Duration,
    /// Ended jobs that are remembered.
    pub history: usize,
    /// Ended attempts that a job remembers, of those that failed and of the others each.
    pub remembered_attempts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            suspect: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            unlisted: Duration::from_secs(5),
            kill: Duration::from_secs(10),
            backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(30),
            spare_attempts: 20,
            unit_charges: 4,
            worker_charges: 3,
            lost_workers: 3,
            backup_age: Duration::from_secs(30),
            sessions_per_minute: 5,
            readmission: Duration::from_secs(1),
            longest_readmission: Duration::from_secs(60),
            portion: 667,
            least_task: Duration::from_secs(2),
            history: 1000,
            remembered_attempts: 256,
        }
    }
}

impl Config {
    /// The same behaviour with another lease: what hangs on it is scaled with it.
    pub fn with_lease(lease: Duration) -> Self {
        let heartbeat = lease / 15;
        Self { heartbeat, suspect: lease / 3, lease, unlisted: lease / 3, ..Self::default() }
    }
}
