//! A coordinator and two workers of one thread each, on loopback, for the rows that are measured on a cluster.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::data::{Data, remove};

const WORKERS: usize = 2;
/// So that both have together what a local run has by itself, on a machine as large as the rows ask for.
const MEMORY: &str = "5GiB";

/// The processes; killed when dropped.
pub struct Cluster {
    directory: PathBuf,
    processes: Vec<Child>,
}

impl Cluster {
    /// Where the coordinator of a cluster on `data` keeps its state, and is found.
    pub fn state(data: &Data) -> PathBuf {
        data.directory().join("cluster/state")
    }

    /// Starts it, and waits until both workers are there.
    pub fn start(data: &Data) -> Result<Self, Box<dyn Error>> {
        let state = Self::state(data);
        let directory = data.directory().join("cluster");
        let mut cluster = Self { directory, processes: Vec::new() };
        remove(&cluster.directory)?;
        fs::create_dir(&cluster.directory)?;

        let mut coordinator = program("coordinator")?;
        coordinator.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(&state).stdout(Stdio::piped());
        let mut coordinator = coordinator.spawn()?;
        let told = coordinator.stdout.take();
        cluster.processes.push(coordinator);
        // It says one line, when it is ready.
        BufReader::new(told.ok_or("stdout is piped")?).read_line(&mut String::new())?;
        for number in 0..WORKERS {
            let mut worker = program("worker")?;
            worker.arg("--coordinator").arg(state.join("worker.join"));
            worker.arg("--dir").arg(cluster.directory.join(format!("worker-{number}"))).args(["--threads", "1", "--memory", MEMORY]);
            cluster.processes.push(worker.stdout(Stdio::null()).spawn()?);
        }
        while Self::live_workers(&state)? < WORKERS {
            for process in &mut cluster.processes {
                if let Some(status) = process.try_wait()? {
                    return Err(format!("a process of the cluster ended with {status}").into());
                }
            }
        }
        Ok(cluster)
    }

    fn live_workers(state: &PathBuf) -> io::Result<usize> {
        let told =
            program("coordinator")?.args(["workers", "--format", "json", "--coordinator"]).arg(state).stdout(Stdio::piped()).output()?;
        Ok(String::from_utf8_lossy(&told.stdout).matches("\"live\"").count())
    }
}

fn program(name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name(name));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = remove(&self.directory);
    }
}
