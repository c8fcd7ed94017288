//! Every knob of a worker: what it means, its unit, its default, and what makes no sense.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use shardmill_datasets::Room;
use shardmill_datasets::request::parse_bytes;
use shardmill_protocol::rpc::duration::parse_duration;

/// What the program is besides a worker.
const OTHER_SELVES: &str = "\
Bundled jobs:
  worker jobs                        list the jobs that are linked in, to be submitted by name
  worker job NAME run|describe …     be one of them, as its own executable is

SIGTERM or Ctrl-C lets it finish or hand back what it runs and leave; a second one ends it at once.

Exit codes: 0 it has left as it was asked to, 2 what it was started with makes no sense, 3 the coordinator cannot be reached,
4 it was refused, or another worker has its directory, 78 its directory or join file is damaged, 130 it was told twice to leave.";

/// A thread that has so much is not much faster with more, while an output that need not go to the disk is.
const AMPLE_SHARE: u64 = 256 << 20;

/// A worker of a shardmill cluster: takes tasks, runs them in job processes, serves what they make.
#[derive(Clone, Debug, Parser)]
#[command(name = "worker", version, after_help = OTHER_SELVES)]
pub struct Config {
    /// The coordinator's join file for workers, or its state directory [default: the local coordinator's].
    #[arg(long, visible_alias = "join", env = "SHARDMILL_COORDINATOR", value_name = "FILE")]
    pub coordinator: Option<PathBuf>,
    /// Where the worker keeps what it makes [default: worker in the user's data directory, or worker-2 … if that is in use].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Threads that job processes may use [default: all cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Memory to use, as 512MiB or 8GiB [default: half of what there is].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory: Option<u64>,
    /// How much of it may keep map outputs; the rest is for tasks [default: a quarter if that leaves each thread 256 MiB, else 0].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub output_memory: Option<u64>,
    /// Disk space that may be used under --dir [default: nine tenths of what is free at start].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub disk: Option<u64>,
    /// Where to wait for other workers that fetch map outputs [default: a free port, on loopback if the coordinator is there].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// What other workers reach this one as [default: the address that it reaches the coordinator from].
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// Say more; twice for every call.
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Fetch map outputs from other workers even if their disk is seen. For tests.
    #[arg(long, hide = true)]
    pub fetch_always: bool,
    /// How long a running attempt may show no progress.
    #[arg(long, hide = true, value_name = "TIME", default_value = "300s", value_parser = parse_duration)]
    pub stall_after: Duration,
    /// How long a process that was asked to end may take before it is killed.
    #[arg(long, hide = true, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub kill_after: Duration,
    /// After how long a process that was killed and is still there is given up.
    #[arg(long, hide = true, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub unkillable_after: Duration,
    /// How long job processes go on without hearing from the coordinator.
    #[arg(long, hide = true, value_name = "TIME", default_value = "600s", value_parser = parse_duration)]
    pub orphan_after: Duration,
    /// How long running attempts may go on after SIGTERM. To hand the rest back takes up to eight seconds more, and 30 s are all there are.
    #[arg(long, hide = true, value_name = "TIME", default_value = "22s", value_parser = parse_duration)]
    pub drain_within: Duration,
    /// The longest pause between two tries to reach the coordinator.
    #[arg(long, hide = true, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub reconnect_within: Duration,
}

/// Why a configuration makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Too little memory.
    #[error("--memory {given} is too little: a job process needs 64 MiB at least")]
    Memory {
        /// What was given.
        given: u64,
    },
    /// Too little for so many threads.
    #[error(
        "{threads} threads need a memory budget of at least {least} MiB, not {given} MiB; give --memory {least}MiB, fewer --threads or less --output-memory"
    )]
    Share {
        /// The threads.
        threads: u32,
        /// What would do, in MiB.
        least: u64,
        /// What there is, in MiB.
        given: u64,
    },
    /// A duration of nothing.
    #[error("--{0} must be longer than nothing")]
    Duration(&'static str),
    /// No place for the worker's files.
    #[error("there is no home directory to keep files in: give --dir")]
    NoDirectory,
}

impl Config {
    /// Refuses what makes no sense, before anything is touched.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(given) = self.memory.filter(|memory| *memory < Room::LEAST_PROCESS) {
            return Err(ConfigError::Memory { given });
        }
        let (threads, given) = (self.thread_count(), self.memory_bytes() >> 20);
        let tasks = (u64::from(threads) * Room::LEAST_SHARE).max(Room::LEAST_PROCESS);
        let least = self.output_memory_bytes().saturating_add(tasks) >> 20;
        if given < least {
            return Err(ConfigError::Share { threads, least, given });
        }
        let durations =
            [("stall-after", self.stall_after), ("orphan-after", self.orphan_after), ("reconnect-within", self.reconnect_within)];
        match durations.into_iter().find(|(_, duration)| duration.is_zero()) {
            Some((name, _)) => Err(ConfigError::Duration(name)),
            None => Ok(()),
        }
    }

    /// The directory of the first worker on a machine, where none is given.
    pub fn default_directory(&self) -> Result<PathBuf, ConfigError> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
        Ok(data.ok_or(ConfigError::NoDirectory)?.join("shardmill/worker"))
    }

    /// Threads for job processes.
    pub fn thread_count(&self) -> u32 {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32))
    }

    /// All memory there is to use.
    fn memory_bytes(&self) -> u64 {
        self.memory.unwrap_or_else(|| (shardmill::system_memory() as u64 / 2).max(Room::LEAST_PROCESS))
    }

    /// Memory to keep map outputs in.
    pub fn output_memory_bytes(&self) -> u64 {
        let quarter = self.memory_bytes() / 4;
        let is_much = 3 * quarter >= AMPLE_SHARE * u64::from(self.thread_count());
        self.output_memory.unwrap_or(if is_much { quarter } else { 0 })
    }

    /// Memory for job processes.
    pub fn task_memory_bytes(&self) -> u64 {
        self.memory_bytes().saturating_sub(self.output_memory_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Config {
        Config::try_parse_from([&["worker"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Config::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_flag_named() {
        assert!(parse(&[]).validate().is_ok());
        let refused = |arguments: &[&str]| parse(arguments).validate().unwrap_err().to_string();
        assert!(refused(&["--memory", "1MiB"]).contains("--memory"));
        assert!(refused(&["--stall-after", "0s"]).contains("--stall-after"));
        assert!(
            refused(&["--threads", "9", "--memory", "1GiB", "--output-memory", "1GiB"])
                .contains("give --memory 1132MiB, fewer --threads or less --output-memory")
        );
    }

    #[test]
    fn map_outputs_are_kept_in_memory_where_tasks_do_not_miss_it() {
        let split = |arguments: &[&str]| {
            let config = parse(&[&["--memory", "1GiB"], arguments].concat());
            (config.task_memory_bytes() >> 20, config.output_memory_bytes() >> 20)
        };
        assert_eq!(split(&["--threads", "3"]), (768, 256));
        assert_eq!(split(&["--threads", "4"]), (1024, 0));
        assert_eq!(split(&["--threads", "4", "--output-memory", "100MiB"]), (924, 100));
        assert_eq!(split(&["--threads", "1", "--output-memory", "0"]), (1024, 0));
    }

    #[test]
    fn a_join_file_is_given_under_either_name() {
        for flag in ["--coordinator", "--join"] {
            assert_eq!(parse(&[flag, "some/worker.join"]).coordinator, Some(PathBuf::from("some/worker.join")));
        }
    }
}
