//! The knobs of a coordinator: what each means, its unit, its default, and which values make sense.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shardmill_datasets::request::parse_bytes;
use shardmill_protocol::rpc::duration::parse_duration;
use shardmill_protocol::rpc::join::default_state_directory;

use crate::fault_point::FaultPoint;

/// Where a coordinator listens if nothing else is said: on this machine alone.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:4870";

/// `coordinator serve`
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Where to keep what must survive a restart [default: $XDG_STATE_HOME/shardmill, or ~/.local/state/shardmill].
    #[arg(long, value_name = "DIR", env = "SHARDMILL_STATE")]
    state: Option<PathBuf>,
    /// Where to listen; port 0 means any that is free.
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_LISTEN)]
    listen: String,
    /// What the join files say of where to find this coordinator [default: where it listens].
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// How long a worker lives unheard [default: 15s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    lease: Option<Duration>,
    /// How many ended jobs are remembered, with their logs.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    history: usize,
    /// The longest executable that can be uploaded.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "1GiB")]
    max_executable: u64,
    /// How log lines are written to stderr.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// How often workers send a heartbeat [default: a fifteenth of the lease].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    heartbeat: Option<Duration>,
    /// After how long in silence a worker gets no more tasks [default: a third of the lease].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    suspect: Option<Duration>,
    /// After how long a grant that no worker lists is taken back [default: a third of the lease].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    unlisted: Option<Duration>,
    /// How long sweeping waits for workers to have killed what they run [default: 10s].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    kill: Option<Duration>,
    /// The first wait after a failure [default: 500ms].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    backoff: Option<Duration>,
    /// How old an attempt is at least when it gets a backup [default: 30s].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    backup_after: Option<Duration>,
    /// What a task takes at least, while there is enough for all threads [default: 1s].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    least_task: Option<Duration>,
    /// How long a long poll is held [default: 20s].
    #[arg(long, hide = true, value_name = "TIME", value_parser = parse_duration)]
    poll: Option<Duration>,
    /// For tests: the process is killed when it reaches this place for the nth time.
    #[arg(long, hide = true, value_name = "PLACE:N", default_value = "")]
    die_at: FaultPointFlag,
    /// For tests: whoever reaches this place for the nth time stands there until the FIFO was opened and closed.
    #[arg(long, hide = true, value_name = "PLACE:N:FIFO", value_parser = FaultPoint::standing, conflicts_with = "die_at")]
    stand_at: Option<FaultPoint>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A fault point in a flag; nothing stands for none.
#[derive(Clone, Debug, Default)]
struct FaultPointFlag(FaultPoint);

impl std::str::FromStr for FaultPointFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self::default()) } else { text.parse().map(Self) }
    }
}

/// A coordinator's configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The state directory.
    pub(crate) state: PathBuf,
    /// Where to listen: the first that can be bound is taken.
    pub(crate) listen: Vec<SocketAddr>,
    /// What was asked for, for messages.
    pub(crate) listen_text: String,
    /// The host, and maybe the port, that join files name.
    pub(crate) advertise: Option<String>,
    /// Durations and limits of the scheduler.
    pub(crate) scheduler: shardmill_scheduler::Config,
    /// How long a long poll is held.
    pub(crate) poll: Duration,
    /// The longest executable, in bytes.
    pub(crate) max_executable_bytes: u64,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Where tests have the process killed.
    pub(crate) fault_point: FaultPoint,
}

/// A configuration that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// There is no place for the state.
    #[error("there is no home directory to keep the state in: say where with --state DIR")]
    NoState,
    /// The address is none.
    #[error("cannot listen on {text}: it is no HOST:PORT that is known here")]
    Listen { text: String, source: std::io::Error },
    /// Durations that do not go together.
    #[error("{what} of {is:?} must be {relation} {other_what} of {other:?}")]
    Durations { what: &'static str, is: Duration, relation: &'static str, other_what: &'static str, other: Duration },
    /// A number that makes no sense.
    #[error("--history must be at least 1")]
    NoHistory,
}

impl ServeArgs {
    /// Puts arguments and defaults together, and checks them.
    pub(crate) fn config(self) -> Result<Config, ConfigError> {
        let mut scheduler = match self.lease {
            Some(lease) => shardmill_scheduler::Config::with_lease(lease),
            None => shardmill_scheduler::Config::default(),
        };
        let set = |knob: &mut Duration, asked: Option<Duration>| *knob = asked.unwrap_or(*knob);
        set(&mut scheduler.heartbeat, self.heartbeat);
        set(&mut scheduler.suspect, self.suspect);
        set(&mut scheduler.unlisted, self.unlisted);
        set(&mut scheduler.kill, self.kill);
        set(&mut scheduler.backoff, self.backoff);
        set(&mut scheduler.backup_age, self.backup_after);
        set(&mut scheduler.least_task, self.least_task);
        scheduler.history = self.history;
        let listen = self.listen.to_socket_addrs().map(Iterator::collect);
        let config = Config {
            state: self.state.or_else(default_state_directory).ok_or(ConfigError::NoState)?,
            listen: listen.map_err(|source| ConfigError::Listen { text: self.listen.clone(), source })?,
            listen_text: self.listen,
            advertise: self.advertise,
            scheduler,
            poll: self.poll.unwrap_or(shardmill_protocol::rpc::api::POLL),
            max_executable_bytes: self.max_executable,
            log_format: self.log_format,
            fault_point: self.stand_at.unwrap_or(self.die_at.0),
        };
        config.validate()?;
        Ok(config)
    }
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        let scheduler = &self.scheduler;
        let below = |what, is: Duration, other_what, other: Duration| {
            if is < other { Ok(()) } else { Err(ConfigError::Durations { what, is, relation: "below", other_what, other }) }
        };
        below("a pause between heartbeats", scheduler.heartbeat, "the time until a worker is suspect", scheduler.suspect)?;
        below("the time until a worker is suspect", scheduler.suspect, "the lease", scheduler.lease)?;
        below("no time", Duration::ZERO, "a heartbeat", scheduler.heartbeat)?;
        if scheduler.history == 0 { Err(ConfigError::NoHistory) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn config(flags: &str) -> Result<Config, ConfigError> {
        let arguments = ["coordinator", "--state", "/s"].into_iter().chain(flags.split_whitespace());
        Command::try_parse_from(arguments).unwrap().serve.config()
    }

    #[test]
    fn what_hangs_on_the_lease_is_scaled_with_it_unless_it_is_set() {
        let scaled = config("--lease 3s").unwrap().scheduler;
        assert_eq!((scaled.heartbeat, scaled.suspect), (Duration::from_millis(200), Duration::from_secs(1)));
        let set = config("--lease 3s --heartbeat 500ms --backup-after 1s").unwrap().scheduler;
        assert_eq!((set.heartbeat, set.backup_age), (Duration::from_millis(500), Duration::from_secs(1)));
        assert_eq!(config("").unwrap().scheduler.lease, Duration::from_secs(15));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        let wrong = |flags| config(flags).unwrap_err().to_string();
        assert_eq!(
            wrong("--lease 3s --heartbeat 2s"),
            "a pause between heartbeats of 2s must be below the time until a worker is suspect of 1s"
        );
        assert!(wrong("--suspect 20s").contains("below the lease"));
        assert!(wrong("--heartbeat 0s").contains("below a heartbeat"));
        assert!(wrong("--listen nowhere").starts_with("cannot listen on nowhere"));
        assert!(wrong("--history 0").contains("at least 1"));
    }
}
